"""PEFT's plain LoRA folder."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxmoe.adapters.record import (
    Adapter,
    ModuleSpec,
    module_name,
    module_specs,
    projection_sizes,
)
from jaxmoe.adapters.tensors import (
    CONFIG_FILE,
    PEFT,
    Files,
    join,
    modules_to_tensors,
    number,
    read_modules,
    refuse,
)
from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.config import PROJECTIONS, ExpertConfig, ModelConfig


def read_peft(config, stored, model: ModelConfig, folder: Path) -> Adapter:
    """Modules may differ in rank and alpha: a layer takes its largest rank, B what its scale then lacks."""
    refuse(
        config,
        folder,
        bias="none",
        fan_in_fan_out=False,
        use_dora=False,
        lora_bias=False,
        modules_to_save=None,
        layer_replication=None,
        trainable_token_indices=None,
    )
    specs = _peft_specs(config, model)
    if not specs:
        raise ValueError(f"target_modules in {folder / CONFIG_FILE} match no projection of the model")
    by_layer: dict[int, list[ModuleSpec]] = {}
    for name, spec in specs.items():
        by_layer.setdefault(int(name.split(".")[1]), []).append(spec)
    layers = range(model.num_layers)
    ranks = [max((s.rank for s in by_layer.get(i, [])), default=1) for i in layers]
    counts = [int(i in by_layer) for i in layers]
    experts = ExpertConfig(
        num_experts=1 if all(counts) else tuple(counts),
        rank=ranks[0] if len(set(ranks)) == 1 else tuple(ranks),
        alpha=float(config["lora_alpha"]),
        scaling="sqrt_rank" if config.get("use_rslora") else "rank",
        targets=_targets_of(specs, model),
        routing="none",
        dropout=float(config.get("lora_dropout") or 0.0),
    )
    modules = read_modules(PEFT, stored, specs, experts, folder)
    wanted = module_specs(experts, model)
    for name, module in modules.items():
        missing_scale = np.float32(specs[name].scale / wanted[name].scale)
        modules[name] = module._replace(b_EOR=module.b_EOR * missing_scale)
    return Adapter(experts, BalanceConfig(weight=0.0), modules)


def _peft_specs(config: Mapping[str, Any], model: ModelConfig) -> dict[str, ModuleSpec]:
    """The modules that target_modules, exclude_modules and layers_to_transform name, with their ranks."""

    def matches(patterns: Any, name: str) -> bool:
        full = f"model.{name}"
        if isinstance(patterns, str):
            return patterns == "all-linear" or re.fullmatch(patterns, full) is not None
        return any(full == p or full.endswith(f".{p}") for p in patterns or ())

    def setting(name: str, pattern_key: str, default: Any) -> Any:
        for pattern, value in (config.get(pattern_key) or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", f"model.{name}"):
                return value
        return default

    chosen = config.get("layers_to_transform")
    chosen = [chosen] if isinstance(chosen, int) else chosen
    specs = {}
    for layer in range(model.num_layers):
        for projection, sizes in projection_sizes(model).items():
            name = module_name(layer, projection)
            if not matches(config["target_modules"], name) or matches(config.get("exclude_modules"), name):
                continue
            if chosen is not None and layer not in chosen:
                continue
            rank = setting(name, "rank_pattern", config["r"])
            alpha = setting(name, "alpha_pattern", config["lora_alpha"])
            scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
            specs[name] = ModuleSpec(1, rank, scale, *sizes)
    return specs


def _targets_of(names: Mapping[str, Any], model: ModelConfig) -> tuple[str, ...]:
    """Targets for exactly these modules: a projection's name if it is in every layer that has any."""
    layers = {int(name.split(".")[1]) for name in names}
    targets: list[str] = []
    for projection in PROJECTIONS:
        own = [n for i in range(model.num_layers) if (n := module_name(i, projection)) in names]
        targets += [projection] if len(own) == len(layers) else [re.escape(n) for n in own]
    return tuple(targets)


def peft_files(adapter: Adapter, model: ModelConfig, base: str) -> Files:
    """PEFT's plain LoRA; several experts without a router become one of their joint rank.

    Σᵢ Bᵢ Aᵢ = [B_0 | B_1 | ..] [A_0; A_1; ..], so nothing is lost.
    Raises: ValueError if there is a router: PEFT's LoRA has no routing.
    """
    experts = adapter.config
    if experts.routing != "none":
        raise ValueError(
            f"the peft format holds plain LoRA (routing none); these experts are routed ({experts.routing}): "
            "use format 'loramoe' or 'hf'"
        )
    joined, ranks, alphas = {}, {}, {}
    for name, spec in module_specs(experts, model).items():
        module = join(adapter.modules[name])
        rank = module.a_ERI.shape[1]
        joined[name], ranks[name] = module, rank
        alphas[name] = number(spec.scale * (rank**0.5 if experts.scaling == "sqrt_rank" else rank))
    first = next(iter(joined))
    names = [n for n in PROJECTIONS if n in experts.targets]
    whole = len(names) == len(experts.targets) and min(experts.layer_counts(model.num_layers)) > 0
    config = {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": alphas[first],
        "alpha_pattern": {n: a for n, a in alphas.items() if a != alphas[first]},
        "lora_dropout": experts.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": ranks[first],
        "rank_pattern": {n: r for n, r in ranks.items() if r != ranks[first]},
        "target_modules": names if whole else list(joined),
        "task_type": "CAUSAL_LM",
        "use_rslora": experts.scaling == "sqrt_rank",
    }
    return config, modules_to_tensors(PEFT, dataclasses.replace(adapter, modules=joined))
