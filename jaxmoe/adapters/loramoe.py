"""The original LoRAMoE's adapter folder, and the same experts inside an exported model."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxmoe.adapters.record import (
    Adapter,
    ModuleExperts,
    module_specs,
)
from jaxmoe.adapters.tensors import (
    EXPORT_KEY,
    EXTENDED,
    LORAMOE,
    Files,
    in_order,
    modules_to_tensors,
    number,
    read_modules,
    refuse,
    uniform,
)
from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.config import MLP_PROJECTIONS, ExpertConfig, ModelConfig
from jaxmoe.weights.weight_files import StoredTensor, compare_names, compare_shapes


def expert_config(fields: Mapping[str, Any]) -> ExpertConfig:
    """An ExpertConfig from JSON, where tuples are lists."""
    converted: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return ExpertConfig(**converted)


def read_embedded(
    json_config: Mapping[str, Any], stored: Mapping[str, StoredTensor], model: ModelConfig, where: Any
) -> tuple[Adapter, dict[str, StoredTensor]]:
    """The experts in an exported LoRAMoE model, and the tensors that are left for its base."""
    section = json_config[EXPORT_KEY]
    experts, balance = expert_config(section["experts"]), BalanceConfig(**section["balance"])
    expected: dict[str, tuple[int, ...]] = {}
    specs = module_specs(experts, model)
    for name, spec in specs.items():
        kinds = 1 if experts.shared_a else spec.experts
        expected[f"model.{name}.lora_a"] = (kinds, spec.rank, spec.in_features)
        expected[f"model.{name}.lora_b"] = (spec.experts, spec.out_features, spec.rank)
        if experts.routing != "none":
            expected[f"model.{name}.router"] = (spec.experts, spec.in_features)
    own = {n: t for n, t in stored.items() if n.endswith((".lora_a", ".lora_b", ".router"))}
    compare_names(own, expected, where)
    compare_shapes({n: t.shape for n, t in own.items()}, expected, where)

    def array(name: str) -> np.ndarray | None:
        return own[name].all().astype(np.float32) if name in own else None

    modules = {
        n: ModuleExperts(*(array(f"model.{n}.{part}") for part in ("lora_a", "lora_b", "router")))  # pyright: ignore
        for n in specs
    }
    return Adapter(experts, balance, modules), {n: t for n, t in stored.items() if n not in own}


def read_loramoe(config, stored, model: ModelConfig, folder: Path) -> Adapter:
    if "jaxmoe" in config:
        experts = expert_config(config["jaxmoe"]["experts"])
        balance = BalanceConfig(**config["jaxmoe"]["balance"])
    else:
        refuse(config, folder, bias="none", fan_in_fan_out=False, enable_lora=None, modules_to_save=None)
        experts = ExpertConfig(
            num_experts=config["lora_nums"],
            rank=config["r"],
            alpha=float(config["lora_alpha"]),
            targets=in_order(config["target_modules"]),
            dropout=float(config.get("lora_dropout", 0.0)),
            dropout_mask="per_expert",
        )
        balance = BalanceConfig(
            weight=float(config.get("blc_weight", 0.0)), delta=float(config.get("blc_alpha", 0.0))
        )
    modules = read_modules(LORAMOE, stored, module_specs(experts, model), experts, folder)
    return Adapter(experts, balance, modules)


def loramoe_files(adapter: Adapter, model: ModelConfig, base: str) -> Files:
    """The original's config and tensors; where the original lacks a setting, under a peft_type it refuses."""
    experts = adapter.config
    plain = (
        experts.routing == "dense"
        and experts.scaling == "rank"
        and not experts.shared_a
        and set(experts.targets) == set(MLP_PROJECTIONS)
        and uniform(experts, model) is not None
    )
    config = {
        "base_model_name_or_path": base,
        "bias": "none",
        "blc_alpha": adapter.balance.delta,
        "blc_weight": adapter.balance.weight,
        "enable_lora": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": number(experts.alpha),
        "lora_dropout": experts.dropout,
        "lora_nums": max(experts.layer_counts(model.num_layers)),
        "merge_weights": False,
        "modules_to_save": None,
        "peft_type": "LORA" if plain else EXTENDED,
        "r": max(experts.layer_ranks(model.num_layers)),
        "target_modules": ["gate_proj", "down_proj", "up_proj"] if plain else list(experts.targets),
        "task_type": "CAUSAL_LM",
        "jaxmoe": {"experts": dataclasses.asdict(experts), "balance": dataclasses.asdict(adapter.balance)},
    }
    return config, modules_to_tensors(LORAMOE, adapter)
