"""MoE-PEFT's adapter folder: its LORAMOE, a softmax over experts beside the feed-forward's projections."""

import dataclasses
from collections.abc import Mapping

from jaxmoe.adapters.record import Adapter, module_specs
from jaxmoe.adapters.tensors import (
    AdapterFolder,
    FileFormat,
    Files,
    Layout,
    check_count,
    check_settings,
    in_order,
    modules_to_tensors,
    number,
    read_modules,
    refuse_base_changes,
    uniform,
)
from jaxmoe.json_files import parse
from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.config import MLP_PROJECTIONS, PROJECTIONS, ExpertConfig, ModelConfig

LAYOUT = Layout("loramoe.", "experts.{}.lora_A.weight", "experts.{}.lora_B.weight", "moe_gate.weight")
# MoE-PEFT asserts lora_dropout > 0, so this value means none; at this rate nothing is dropped.
NO_DROPOUT = 1e-9


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Settings:
    """What adapter_config.json says about the experts."""

    num_experts: int
    r: int
    lora_alpha: float
    target_modules: dict[str, bool] | tuple[str, ...]
    lora_dropout: float = 0.0
    use_rslora: bool = False


# Keys that say how the new weights were initialized, and whose they are.
_NO_EFFECT = ("lora_init", "router_init_range", "name", "task_name")
_FIXED: dict[str, object] = {"bias": "none", "use_dora": False, "routing_strategy": "loramoe"}


def _read(folder: AdapterFolder, model: ModelConfig) -> Adapter:
    check_settings(folder, [*(f.name for f in dataclasses.fields(_Settings)), *_NO_EFFECT], _FIXED)
    read = parse(_Settings, folder.config, folder.config_path)
    targets = read.target_modules
    if isinstance(targets, dict):
        targets = tuple(name for name, wanted in targets.items() if wanted)
    check_count(folder, [read.num_experts])
    experts = ExpertConfig(
        num_experts=read.num_experts,
        rank=read.r,
        alpha=read.lora_alpha,
        scaling="sqrt_rank" if read.use_rslora else "rank",
        targets=in_order(targets),
        dropout=0.0 if read.lora_dropout == NO_DROPOUT else read.lora_dropout,
        dropout_mask="per_expert",
    )
    modules = read_modules(LAYOUT, folder, module_specs(experts, model), experts)
    return Adapter(experts, BalanceConfig(weight=0.0), modules)


def _write(adapter: Adapter, model: ModelConfig, base: str) -> Files:
    """MoE-PEFT's LORAMOE; raises ValueError for all but dense routing, one E and r, and MLP targets."""
    refuse_base_changes(adapter, "moe-peft")
    experts = adapter.config
    size = uniform(experts, model)
    problems = {
        "dense routing": experts.routing != "dense",
        "an A for each expert": experts.shared_a,
        "one num_experts and rank for all layers": size is None,
        "only MLP projections, in all layers": not set(experts.targets) <= set(MLP_PROJECTIONS),
        "a whole number for alpha": not float(experts.alpha).is_integer(),
    }
    lacking = [need for need, fails in problems.items() if fails]
    if lacking or size is None:
        raise ValueError(
            f"the moe-peft format needs {', '.join(lacking)}; formats 'loramoe' and 'hf' hold everything"
        )
    config: dict[str, object] = {
        "base_model_name_or_path": base,
        "bias": "none",
        "peft_type": "LORAMOE",
        "routing_strategy": "loramoe",
        "num_experts": size[0],
        "r": size[1],
        "lora_alpha": number(experts.alpha),
        "lora_dropout": float(experts.dropout) or NO_DROPOUT,
        "target_modules": [name for name in PROJECTIONS if name in experts.targets],
        "task_type": "CAUSAL_LM",
    }
    if experts.scaling == "sqrt_rank":
        config["use_rslora"] = True
    return config, modules_to_tensors(LAYOUT, adapter)


def _recognizes(config: Mapping[str, object]) -> bool:
    return config.get("peft_type") == "LORAMOE"


FORMAT = FileFormat("moe-peft", _recognizes, _read, _write, needs_bin=True)
