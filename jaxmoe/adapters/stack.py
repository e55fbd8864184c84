"""Several adapters of one base combined into one, so that every row of a batch may use its own.

Their experts are side by side; each adapter is a run of them. A row restricted to one run
(`ExpertCall.experts_BE`) gets a softmax over that run: what the adapter alone would give. Plain LoRA is a run
of one expert, whose weight is then 1.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxmoe.adapters.record import Adapter, ModuleExperts, module_specs
from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.config import ExpertConfig, ModelConfig


class StackedAdapters(NamedTuple):
    """Adapters side by side.

    Attributes:
      adapter: all of them as one.
      runs: by name, the first of an adapter's experts and the one after its last.
    """

    adapter: Adapter
    runs: dict[str, tuple[int, int]]


def stack_adapters(adapters: Mapping[str, Adapter], model: ModelConfig) -> StackedAdapters:
    """Puts adapters of one base side by side.

    Args:
      adapters: by name; they may differ in experts, rank, scale and targets.
      model: the base's shape.
    Returns: one adapter with the experts of all; scales are folded into B.
    Raises: ValueError, naming it, for an adapter that changes the base itself, has DoRA, chooses experts by
      top-k or top-p, or has different numbers of experts in different layers.
    """
    runs: dict[str, tuple[int, int]] = {}
    parts: dict[str, dict[str, ModuleExperts]] = {}
    first = 0
    for name, adapter in adapters.items():
        parts[name] = _dense_modules(name, adapter, model)
        count = max(len(module.b_EOR) for module in parts[name].values())
        runs[name] = (first, first + count)
        first += count
    targets = tuple(
        p for p in model.projections if any(f".{p}" in key for own in parts.values() for key in own)
    )
    rank = max(module.b_EOR.shape[2] for own in parts.values() for module in own.values())
    # alpha / rank = 1
    config = ExpertConfig(num_experts=first, rank=rank, alpha=float(rank), targets=targets)
    modules: dict[str, ModuleExperts] = {}
    for key, spec in module_specs(config, model).items():
        a = np.zeros((first, rank, spec.in_features), np.float32)
        b = np.zeros((first, spec.out_features, rank), np.float32)
        router = np.zeros((first, spec.in_features), np.float32)
        for name, own in parts.items():
            if key not in own:
                continue
            start, stop = runs[name]
            of = own[key].b_EOR.shape[2]
            a[start:stop, :of] = own[key].a_ERI
            b[start:stop, :, :of] = own[key].b_EOR
            if own[key].router_EI is not None:
                router[start:stop] = own[key].router_EI
        modules[key] = ModuleExperts(a, b, router)
    return StackedAdapters(Adapter(config, BalanceConfig(weight=0.0), modules), runs)


def _dense_modules(name: str, adapter: Adapter, model: ModelConfig) -> dict[str, ModuleExperts]:
    """An adapter's modules with their scale in B and an A for each expert; plain LoRA as a single expert."""
    experts = adapter.config
    problems = {
        "changes weights of the base itself": bool(adapter.base.names),
        "has DoRA": experts.dora,
        f"chooses experts by {experts.routing}": experts.routing not in ("dense", "none"),
    }
    if wrong := [problem for problem, holds in problems.items() if holds]:
        raise ValueError(f"adapter {name} {wrong[0]}: it cannot be served beside others, only alone")
    modules: dict[str, ModuleExperts] = {}
    for key, spec in module_specs(experts, model).items():
        module = adapter.modules[key]
        count = len(module.b_EOR)
        a = np.broadcast_to(module.a_ERI, (count, *module.a_ERI.shape[1:]))
        b = module.b_EOR * np.float32(spec.scale)
        if experts.routing == "none":  # Σᵢ Bᵢ Aᵢ = [B₀ | B₁ | ..] [A₀; A₁; ..]
            a = a.reshape(1, -1, a.shape[-1])
            b = b.transpose(1, 0, 2).reshape(1, b.shape[1], -1)
        modules[key] = ModuleExperts(np.asarray(a), b, module.router_EI)
    if len({len(module.b_EOR) for module in modules.values()}) > 1:
        raise ValueError(f"adapter {name} has other numbers of experts in other layers; serve it alone")
    return modules
