"""The original LoRAMoE's adapter folder, extended with settings that it lacks.

Such settings are in a section `jaxmoe` of adapter_config.json, under a peft_type that the original refuses.
Weights of the base that differ from its checkpoint are stored with the experts, under their own names.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxmoe.adapters.base_changes import BaseChanges
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
    uniform,
)
from jaxmoe.json_files import parse
from jaxmoe.json_values import is_object
from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.config import MLP_PROJECTIONS, ExpertConfig, ModelConfig

PREFIX = "base_model.model."
LAYOUT = Layout(
    f"{PREFIX}model.", "lora_A{}.weight", "lora_B{}.weight", "lora_route.weight", "lora_magnitude.weight"
)
# Marks settings that the original lacks: it stops at the unknown name instead of computing something else.
EXTENDED = "JAXMOE"
SECTION = "jaxmoe"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Settings:
    """What the original's adapter_config.json says about the experts."""

    lora_nums: int
    r: int
    lora_alpha: float
    target_modules: tuple[str, ...]
    lora_dropout: float = 0.0
    blc_weight: float = 0.0
    blc_alpha: float = 0.0


# Options of the original that its loader ignores or that stay off, and what they must be.
_FIXED: dict[str, object] = {
    "bias": "none",
    "fan_in_fan_out": False,
    "enable_lora": None,
    "modules_to_save": None,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Section:
    """Our own section: all settings of the experts, and which base weights are stored with them."""

    experts: dict[str, object]
    balance: dict[str, object]
    replaced: tuple[str, ...] = ()
    copied: tuple[str, ...] = ()


def _read(folder: AdapterFolder, model: ModelConfig) -> Adapter:
    where = folder.config_path
    check_settings(folder, [*_fields(_Settings), "merge_weights", SECTION], _FIXED)
    section = folder.config.get(SECTION)
    changes = BaseChanges()
    if is_object(section):
        own = parse(_Section, section, f"{where}: {SECTION}", extra="forbid")
        experts = parse(ExpertConfig, own.experts, f"{where}: {SECTION}.experts", extra="forbid")
        balance = parse(BalanceConfig, own.balance, f"{where}: {SECTION}.balance", extra="forbid")
        folder, changes = _take_base_weights(folder, own)
    elif folder.config.get("peft_type") == EXTENDED:
        raise ValueError(f"{where} has peft_type {EXTENDED} but no section {SECTION}")
    else:
        read = parse(_Settings, folder.config, where)
        check_count(folder, [read.lora_nums])
        experts = ExpertConfig(
            num_experts=read.lora_nums,
            rank=read.r,
            alpha=read.lora_alpha,
            targets=in_order(read.target_modules),
            dropout=read.lora_dropout,
            dropout_mask="per_expert",
        )
        balance = BalanceConfig(weight=read.blc_weight, delta=read.blc_alpha)
    modules = read_modules(LAYOUT, folder, module_specs(experts, model), experts)
    return Adapter(experts, balance, modules, changes)


def _take_base_weights(folder: AdapterFolder, own: _Section) -> tuple[AdapterFolder, BaseChanges]:
    """The folder without the base's weights, and those weights."""
    tensors = dict(folder.tensors)
    named = {*own.replaced, *own.copied}
    if lacking := sorted(name for name in named if f"{PREFIX}{name}" not in tensors):
        raise ValueError(f"{folder.path} says that it brings {lacking[0]}, but has no such tensor")
    taken = {name: tensors.pop(f"{PREFIX}{name}") for name in sorted(named)}
    changes = BaseChanges(
        replaced={name: taken[name] for name in own.replaced},
        copied={name: taken[name] for name in own.copied},
    )
    return folder._replace(tensors=tensors), changes


def _fields(schema: type) -> list[str]:
    return [field.name for field in dataclasses.fields(schema)]


def _write(adapter: Adapter, model: ModelConfig, base: str) -> Files:
    """The original's config and tensors; where the original lacks a setting, under a peft_type it refuses."""
    experts = adapter.config
    plain = (
        experts.routing == "dense"
        and experts.scaling == "rank"
        and not experts.shared_a
        and set(experts.targets) == set(MLP_PROJECTIONS)
        and uniform(experts, model) is not None
        and not adapter.base.names
    )
    section = {"experts": dataclasses.asdict(experts), "balance": dataclasses.asdict(adapter.balance)}
    kinds = {"replaced": adapter.base.replaced, "copied": adapter.base.copied}
    section |= {kind: sorted(tensors) for kind, tensors in kinds.items() if tensors}
    config: dict[str, object] = {
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
        SECTION: section,
    }
    brought: dict[str, np.ndarray] = {
        f"{PREFIX}{name}": tensor.all() for tensors in kinds.values() for name, tensor in tensors.items()
    }
    return config, modules_to_tensors(LAYOUT, adapter) | brought


def _recognizes(config: Mapping[str, object]) -> bool:
    kind = config.get("peft_type")
    return kind == EXTENDED or (kind == "LORA" and "lora_nums" in config)


FORMAT = FileFormat("loramoe", _recognizes, _read, _write, needs_bin=True)
