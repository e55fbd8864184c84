"""MoE-PEFT's adapter folder."""

from pathlib import Path

from jaxmoe.adapters.record import Adapter, module_specs
from jaxmoe.adapters.tensors import (
    MOE_PEFT,
    Files,
    in_order,
    modules_to_tensors,
    number,
    read_modules,
    refuse,
    uniform,
)
from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.config import MLP_PROJECTIONS, PROJECTIONS, ExpertConfig, ModelConfig


def read_moe_peft(config, stored, model: ModelConfig, folder: Path) -> Adapter:
    refuse(config, folder, bias="none", use_dora=False, routing_strategy="loramoe")
    targets = config["target_modules"]
    if isinstance(targets, dict):
        targets = [name for name, wanted in targets.items() if wanted]
    experts = ExpertConfig(
        num_experts=config["num_experts"],
        rank=config["r"],
        alpha=float(config["lora_alpha"]),
        scaling="sqrt_rank" if config.get("use_rslora") else "rank",
        targets=in_order(targets),
        dropout=float(config.get("lora_dropout", 0.0)),
        dropout_mask="per_expert",
    )
    modules = read_modules(MOE_PEFT, stored, module_specs(experts, model), experts, folder)
    return Adapter(experts, BalanceConfig(weight=0.0), modules)


def moe_peft_files(adapter: Adapter, model: ModelConfig, base: str) -> Files:
    """MoE-PEFT's LORAMOE; raises ValueError for all but dense routing, one E and r, and MLP targets."""
    experts = adapter.config
    size = uniform(experts, model)
    problems = {
        "dense routing": experts.routing != "dense",
        "an A for each expert": experts.shared_a,
        "one num_experts and rank for all layers": size is None,
        "only MLP projections, in all layers": not set(experts.targets) <= set(MLP_PROJECTIONS),
        "a whole number for alpha": not float(experts.alpha).is_integer(),
    }
    if lacking := [need for need, fails in problems.items() if fails]:
        raise ValueError(
            f"the moe-peft format needs {', '.join(lacking)}; formats 'loramoe' and 'hf' hold everything"
        )
    assert size is not None
    config = {
        "base_model_name_or_path": base,
        "bias": "none",
        "peft_type": "LORAMOE",
        "routing_strategy": "loramoe",
        "num_experts": size[0],
        "r": size[1],
        "lora_alpha": number(experts.alpha),
        "lora_dropout": experts.dropout,
        "target_modules": [name for name in PROJECTIONS if name in experts.targets],
        "task_type": "CAUSAL_LM",
    }
    if experts.scaling == "sqrt_rank":
        config["use_rslora"] = True
    return config, modules_to_tensors(MOE_PEFT, adapter)
