"""LoRA experts as a record between files and the parameter tree.

`Adapter` holds each projection's experts as the files do: a [E, R, in] (one if shared), b [E, out, R] and a
router [E, in], without padding. The tree stacks them over the layers, transposed, padded to the largest count
of experts and rank (`jaxmoe.model.lora_experts`). File formats are in `jaxmoe.adapters.tensors`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxmoe.adapters.base_changes import BaseChanges
from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.config import EXPERT_BLOCK, ExpertConfig, ModelConfig, part_of
from jaxmoe.model.shapes import Weight
from jaxmoe.weights.convert import to_host
from jaxmoe.weights.weight_files import some


class ModuleExperts(NamedTuple):
    """The experts beside one projection of one layer; with a shared A, `a` has one entry.

    Attributes:
      router_EI: None where experts are not routed.
      magnitude_O: length of each row of the weight with its update (DoRA); None without DoRA.
    """

    a_ERI: np.ndarray
    b_EOR: np.ndarray
    router_EI: np.ndarray | None = None
    magnitude_O: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Adapter:
    """Experts, with what is needed to use them and to continue training them.

    Attributes:
      modules: by name, such as "layers.0.mlp.up_proj".
      base: what the adapter changes in the base model's own weights.
    """

    config: ExpertConfig
    balance: BalanceConfig
    modules: dict[str, ModuleExperts]
    base: BaseChanges = dataclasses.field(default_factory=BaseChanges)


class ModuleSpec(NamedTuple):
    """How large the experts beside one projection are."""

    experts: int
    rank: int
    scale: float
    in_features: int
    out_features: int


def module_name(layer: int, projection: str) -> str:
    """The projection's name below the decoder: layers.{layer}.mlp.up_proj and the like.

    Args:
      layer: counted from 0.
      projection: such as "up_proj".
    Returns: the name, a key of `Adapter.modules`.
    """
    return f"layers.{layer}.{part_of(projection)}.{projection}"


def tree_path(projection: str) -> str:
    """Where the parameter tree keeps the projection's experts."""
    if projection == EXPERT_BLOCK:
        return "blocks.mlp.group.experts"
    return f"blocks.{part_of(projection)}.{projection}.experts"


def projection_sizes(model: ModelConfig) -> dict[str, tuple[int, int]]:
    """(in, out) features of every projection that can have experts."""
    hidden, inner = model.hidden_size, model.intermediate_size
    queries, keys = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    sizes = {
        "q_proj": (hidden, queries),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (queries, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
        EXPERT_BLOCK: (hidden, hidden),
    }
    return {name: sizes[name] for name in model.projections}


def module_specs(config: ExpertConfig, model: ModelConfig) -> dict[str, ModuleSpec]:
    """By module, layer by layer, the size of its experts.

    Args:
      config: targets, and counts and ranks of experts, which may differ by layer.
      model: the base's shape.
    Returns: the specs by module name; projections without experts are left out.
    Raises: ValueError for a target that matches nothing, or per-layer settings of another length.
    """
    config.check_targets(model)
    counts, ranks = config.layer_counts(model.num_layers), config.layer_ranks(model.num_layers)
    carriers = {name: config.layers_with(name, model.num_layers) for name in model.projections}
    sizes = projection_sizes(model)
    return {
        module_name(layer, name): ModuleSpec(
            counts[layer], ranks[layer], config.scale(ranks[layer]), *sizes[name]
        )
        for layer in range(model.num_layers)
        for name in model.projections
        if carriers[name][layer]
    }


def check_routed(adapter: Adapter) -> None:
    """Raises ValueError if routers or magnitudes and the settings disagree."""
    routed, dora = adapter.config.routing != "none", adapter.config.dora
    if wrong := [n for n, m in adapter.modules.items() if (m.router_EI is not None) != routed]:
        raise ValueError(f"routing is {adapter.config.routing!r}, yet {some(wrong)} say otherwise")
    if wrong := [n for n, m in adapter.modules.items() if (m.magnitude_O is not None) != dora]:
        raise ValueError(f"dora is {dora}, yet {some(wrong)} say otherwise")


def pack(adapter: Adapter, model: ModelConfig) -> dict[str, np.ndarray]:
    """Each projection's a, b and router as stacked, padded arrays, by path in the parameter tree.

    Args:
      adapter: experts of any count and rank by layer.
      model: the base's shape.
    Returns: float32 arrays by path, E and R the largest of any layer, the rest zeros: a [L, in, E, R] (E = 1
      if shared), b [L, E, R, out], router [L, in, E] where experts are routed, magnitude [L, out] with DoRA.
    Raises: ValueError if the adapter's routing and routers contradict each other, and as `module_specs` does.
    """
    check_routed(adapter)
    specs = module_specs(adapter.config, model)
    flat: dict[str, np.ndarray] = {}
    for projection, (in_features, out_features) in projection_sizes(model).items():
        names = [module_name(layer, projection) for layer in range(model.num_layers)]
        if not (own := [specs[n] for n in names if n in specs]):
            continue
        experts, rank = max(s.experts for s in own), max(s.rank for s in own)
        kinds = 1 if adapter.config.shared_a else experts
        a = np.zeros((len(names), in_features, kinds, rank), np.float32)
        b = np.zeros((len(names), experts, rank, out_features), np.float32)
        router = np.zeros((len(names), in_features, experts), np.float32)
        magnitude = np.zeros((len(names), out_features), np.float32)
        for layer, name in enumerate(names):
            if name not in specs:
                continue
            module = adapter.modules[name]
            a[layer, :, : module.a_ERI.shape[0], : module.a_ERI.shape[1]] = module.a_ERI.transpose(2, 0, 1)
            b[layer, : module.b_EOR.shape[0], : module.b_EOR.shape[2]] = module.b_EOR.transpose(0, 2, 1)
            if module.router_EI is not None:
                router[layer, :, : module.router_EI.shape[0]] = module.router_EI.T
            if module.magnitude_O is not None:
                magnitude[layer] = module.magnitude_O
        path = tree_path(projection)
        flat |= {f"{path}.a": a, f"{path}.b": b}
        if adapter.config.routing != "none":
            flat[f"{path}.router"] = router
        if adapter.config.dora:
            flat[f"{path}.magnitude"] = magnitude
    return flat


def unpack(
    flat: Mapping[str, Weight], config: ExpertConfig, balance: BalanceConfig, model: ModelConfig
) -> Adapter:
    """The inverse of `pack`; reads the experts' arrays to the host (on several hosts all must call it).

    Args:
      flat: parameters by path; those of the base are not read.
      config: of the experts, as they were packed.
      balance: settings of the balancing loss, which the adapter keeps for further training.
      model: the base's shape.
    Returns: the adapter, its arrays contiguous and without the padding.
    Raises: ValueError as `module_specs` does.
    """
    modules: dict[str, ModuleExperts] = {}
    specs = module_specs(config, model)
    arrays = {path: to_host(value) for path, value in flat.items() if ".experts." in path}
    for projection in model.projections:
        path = tree_path(projection)
        for layer in range(model.num_layers):
            if (spec := specs.get(name := module_name(layer, projection))) is None:
                continue
            kinds = 1 if config.shared_a else spec.experts
            a = arrays[f"{path}.a"][layer, :, :kinds, : spec.rank].transpose(1, 2, 0)
            b = arrays[f"{path}.b"][layer, : spec.experts, : spec.rank].transpose(0, 2, 1)
            router = arrays.get(f"{path}.router")
            if router is not None:
                router = np.ascontiguousarray(router[layer, :, : spec.experts].T)
            magnitude = arrays.get(f"{path}.magnitude")
            modules[name] = ModuleExperts(
                np.ascontiguousarray(a),
                np.ascontiguousarray(b),
                router,
                None if magnitude is None else np.ascontiguousarray(magnitude[layer]),
            )
    return Adapter(config, balance, {name: modules[name] for name in specs})


def start_experts_from(adapter: Adapter, given: Sequence[Adapter], model: ModelConfig) -> Adapter:
    """Experts initialized from given LoRA adapters: expert i from `given[i mod len(given)]`.

    An expert then adds what its adapter adds, weighted by the router: B is rescaled so that scale · B A is
    the adapter's. Where an adapter has a smaller rank, the other ranks keep their fresh A and B = 0; where it
    has no weights for a projection, the expert keeps its fresh start.

    Args:
      adapter: freshly drawn experts, with their router.
      given: plain LoRA adapters (routing "none", one expert).
      model: the shape of the base that all of them were made for.
    Returns: a new adapter with the router and config of `adapter`; neither it nor those given are changed.
    Raises: ValueError for an adapter that is routed, of a larger rank, or beside other projections, and for
      experts that share their A.
    """
    if adapter.config.shared_a:
        raise ValueError("experts with a shared A cannot start from LoRA adapters, each with an A of its own")
    if not given:
        raise ValueError("starting experts from adapters needs at least one adapter; got none")
    specs = module_specs(adapter.config, model)
    for number, lora in enumerate(given):
        if lora.config.routing != "none" or any(len(m.a_ERI) != 1 for m in lora.modules.values()):
            raise ValueError(f"experts start from plain LoRA adapters; number {number} is a mixture itself")
        if lora.config.dora or lora.base.names:
            raise ValueError(
                f"adapter {number} does more than add a low-rank product (DoRA, or weights of the base): "
                "merge it into the base instead"
            )
        if other := sorted(set(lora.modules) - set(specs)):
            raise ValueError(f"adapter {number} has weights where there are no experts: {some(other)}")
    modules = {}
    for name, fresh in adapter.modules.items():
        a, b = fresh.a_ERI.copy(), fresh.b_EOR.copy()
        for expert in range(len(b)):
            lora = given[expert % len(given)]
            if name not in lora.modules:
                continue
            start = lora.modules[name]
            rank = start.a_ERI.shape[1]
            if rank > specs[name].rank:
                raise ValueError(
                    f"rank must be at least {rank}, that of adapter {expert % len(given)} at {name}; "
                    f"got {specs[name].rank} (experts.rank)"
                )
            scale = module_specs(lora.config, model)[name].scale / specs[name].scale
            a[expert, :rank], b[expert] = start.a_ERI[0], 0.0
            b[expert, :, :rank] = start.b_EOR[0] * scale
        modules[name] = fresh._replace(a_ERI=a, b_EOR=b)
    return dataclasses.replace(adapter, modules=modules)
