"""Adapter folders in and out: the original LoRAMoE, MoE-PEFT, and PEFT's plain LoRA.

All three are an adapter_config.json beside a flat dictionary of tensors; a `Layout` says how each names them.
Missing, unexpected and wrongly shaped tensors are errors that list them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxmoe.adapters.record import Adapter, ModuleExperts, ModuleSpec
from jaxmoe.model.config import PROJECTIONS, ExpertConfig, ModelConfig
from jaxmoe.weights.weight_files import StoredTensor, compare_names, compare_shapes

AdapterFormat = Literal["loramoe", "peft", "moe-peft"]
CONFIG_FILE = "adapter_config.json"
# Marks settings that the original lacks: it stops at the unknown name instead of computing something else.
EXTENDED = "JAXMOE"
# Section of config.json, and prefix of model_type, of a base model exported together with its experts.
EXPORT_KEY = "loramoe"


class Layout(NamedTuple):
    """Names of a module's tensors; {} stands for the expert."""

    prefix: str
    a: str
    b: str
    router: str | None = None


LORAMOE = Layout("base_model.model.model.", "lora_A{}.weight", "lora_B{}.weight", "lora_route.weight")
MOE_PEFT = Layout("loramoe.", "experts.{}.lora_A.weight", "experts.{}.lora_B.weight", "moe_gate.weight")
PEFT = Layout("base_model.model.model.", "lora_A.weight", "lora_B.weight")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises ValueError naming the file if it is missing or malformed."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path.parent} has no {path.name}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object; got a {type(value).__name__}")
    return value


def read_modules(
    layout: Layout,
    stored: Mapping[str, StoredTensor],
    specs: Mapping[str, ModuleSpec],
    config: ExpertConfig,
    where: Any,
) -> dict[str, ModuleExperts]:
    """Every module's experts from tensors that must be exactly those that `specs` call for."""
    expected: dict[str, tuple[int, ...]] = {}
    for name, spec in specs.items():
        for key, shape in module_tensors(layout, name, spec, config).items():
            expected[key] = shape
    compare_names(stored, expected, where)
    compare_shapes({n: t.shape for n, t in stored.items()}, expected, where)

    def array(key: str) -> np.ndarray:
        return stored[key].all().astype(np.float32)

    modules = {}
    for name, spec in specs.items():
        start = f"{layout.prefix}{name}."
        kinds = 1 if config.shared_a else spec.experts
        a = np.stack([array(start + layout.a.format(i)) for i in range(kinds)])
        b = np.stack([array(start + layout.b.format(i)) for i in range(spec.experts)])
        routed = layout.router is not None and config.routing != "none"
        modules[name] = ModuleExperts(a, b, array(f"{start}{layout.router}") if routed else None)
    return modules


def module_tensors(
    layout: Layout, name: str, spec: ModuleSpec, config: ExpertConfig
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one module's tensors, in the original's order: router, A0, B0, A1, ..."""
    start = f"{layout.prefix}{name}."
    shapes: dict[str, tuple[int, ...]] = {}
    if layout.router is not None and config.routing != "none":
        shapes[f"{start}{layout.router}"] = (spec.experts, spec.in_features)
    for i in range(spec.experts):
        if i == 0 or not config.shared_a:
            shapes[start + layout.a.format(i)] = (spec.rank, spec.in_features)
        shapes[start + layout.b.format(i)] = (spec.out_features, spec.rank)
    return shapes


def modules_to_tensors(layout: Layout, adapter: Adapter) -> dict[str, np.ndarray]:
    """The opposite of `read_modules`; within a layer gate, down, up, as the original writes them."""
    order = {name: i for i, name in enumerate((*PROJECTIONS[:4], "gate_proj", "down_proj", "up_proj"))}
    names = sorted(adapter.modules, key=lambda n: (int(n.split(".")[1]), order[n.rsplit(".", 1)[1]]))
    tensors: dict[str, np.ndarray] = {}
    for name in names:
        a, b, router = adapter.modules[name]
        start = f"{layout.prefix}{name}."
        if router is not None:
            tensors[f"{start}{layout.router}"] = router
        for i in range(len(b)):
            if i < len(a):
                tensors[start + layout.a.format(i)] = a[i]
            tensors[start + layout.b.format(i)] = b[i]
    return tensors


def in_order(targets: Any) -> tuple[str, ...]:
    return tuple(p for p in PROJECTIONS if p in targets) + tuple(t for t in targets if t not in PROJECTIONS)


def refuse(config: Mapping[str, Any], folder: Path, **known: Any) -> None:
    """Raises ValueError for a setting with another value than the one that this code knows."""
    for key, value in known.items():
        found = config.get(key, value)
        if found != value and (found or value):  # None, False and [] all say no
            raise ValueError(f"{key} must be {value!r}; got {found!r} in {folder / CONFIG_FILE}")


Files = tuple[dict[str, Any], dict[str, np.ndarray]]


def join(module: ModuleExperts) -> ModuleExperts:
    experts = len(module.b_EOR)
    a = np.broadcast_to(module.a_ERI, (experts, *module.a_ERI.shape[1:]))
    joint_a = a.reshape(1, -1, a.shape[-1])
    joint_b = module.b_EOR.transpose(1, 0, 2).reshape(1, module.b_EOR.shape[1], -1)
    return ModuleExperts(joint_a, joint_b, None)


def uniform(experts: ExpertConfig, model: ModelConfig) -> tuple[int, int] | None:
    """(experts, rank) if they are the same in all layers."""
    sizes = set(
        zip(experts.layer_counts(model.num_layers), experts.layer_ranks(model.num_layers), strict=True)
    )
    return sizes.pop() if len(sizes) == 1 else None


def number(value: float) -> int | float:
    """Whole numbers as integers, as these programs write and expect them."""
    return int(value) if float(value).is_integer() else float(value)
