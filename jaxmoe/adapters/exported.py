"""Experts inside an exported model: a section of its config.json, and tensors alongside the base's.

    model.layers.{l}.{module}.base_layer.weight      [out, in]   the projection itself
    model.layers.{l}.{module}.mixture.lora_a.weight  [E·R, in]   every expert's A; [R, in] if they share one
    model.layers.{l}.{module}.mixture.lora_b.weight  [out, E·R]  every expert's B
    model.layers.{l}.{module}.mixture.router.weight  [E, in]     absent if every expert always counts in full

Each is the weight of a linear layer, so programs that can shard, quantize or replace linear layers do the
same with experts. `jaxmoe/weights/hf/modeling_loramoe.py` reads them in transformers.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from jaxmoe.adapters.record import Adapter, ModuleExperts, module_specs
from jaxmoe.json_files import parse
from jaxmoe.json_values import is_object, shown
from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.config import ExpertConfig, ModelConfig
from jaxmoe.weights.weight_files import StoredTensor, compare_names, compare_shapes

# Section of config.json, and prefix of model_type, of a base model exported together with its experts.
EXPORT_KEY = "loramoe"
BASE_LAYER, MIXTURE = "base_layer", "mixture"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Section:
    experts: dict[str, object]
    balance: dict[str, object]


def base_config(json_config: Mapping[str, object]) -> dict[str, object]:
    """The base model's config.json, given that of an exported LoRAMoE model; other configs unchanged."""
    if EXPORT_KEY not in json_config:
        return dict(json_config)
    ours = (EXPORT_KEY, "auto_map", "architectures")
    base = {key: value for key, value in json_config.items() if key not in ours}
    return base | {"model_type": str(json_config.get("model_type")).removeprefix(f"{EXPORT_KEY}_")}


def read_exported(
    json_config: Mapping[str, object],
    stored: Mapping[str, StoredTensor],
    model: ModelConfig,
    where: object,
) -> tuple[Adapter, dict[str, StoredTensor]]:
    """The experts in an exported LoRAMoE model, and the tensors of its base by their usual names.

    Args:
      json_config: config.json, with the section of the experts.
      stored: all tensors of the folder by name, base and experts together.
      model: the base's shape.
      where: the folder, for error messages.
    Returns: the experts as an adapter, and the base's tensors, which are not read yet.
    Raises: ValueError for a malformed section, and for tensors that are missing or have another shape.
    """
    values = json_config[EXPORT_KEY]
    if not is_object(values):
        raise ValueError(f"{EXPORT_KEY} in config.json of {where} must be an object; got {shown(values)}")
    section = parse(_Section, values, f"{where}: {EXPORT_KEY}")
    experts = parse(ExpertConfig, section.experts, f"{where}: {EXPORT_KEY}.experts", extra="forbid")
    balance = parse(BalanceConfig, section.balance, f"{where}: {EXPORT_KEY}.balance", extra="forbid")
    specs = module_specs(experts, model)
    expected: dict[str, tuple[int, ...]] = {}
    for name, spec in specs.items():
        kinds = 1 if experts.shared_a else spec.experts
        expected[_tensor(name, "lora_a")] = (kinds * spec.rank, spec.in_features)
        expected[_tensor(name, "lora_b")] = (spec.out_features, spec.experts * spec.rank)
        if experts.routing != "none":
            expected[_tensor(name, "router")] = (spec.experts, spec.in_features)
    own = {n: t for n, t in stored.items() if f".{MIXTURE}." in n}
    compare_names(own, expected, where)
    compare_shapes({n: t.shape for n, t in own.items()}, expected, where)

    def array(name: str, part: str) -> np.ndarray:
        return own[_tensor(name, part)].all().astype(np.float32)

    modules: dict[str, ModuleExperts] = {}
    for name, spec in specs.items():
        a = array(name, "lora_a").reshape(-1, spec.rank, spec.in_features)
        b = array(name, "lora_b").reshape(spec.out_features, spec.experts, spec.rank).transpose(1, 0, 2)
        modules[name] = ModuleExperts(a, b, array(name, "router") if experts.routing != "none" else None)
    base = {n.replace(f".{BASE_LAYER}.", "."): t for n, t in stored.items() if n not in own}
    return Adapter(experts, balance, modules), base


def exported_section(adapter: Adapter, model: ModelConfig) -> dict[str, object]:
    """The section of config.json on the experts: by module for transformers, as configured for `jaxmoe.load`.

    Args:
      adapter: the experts that are exported.
      model: the base's shape; it settles counts and ranks that vary by layer.
    Returns: the value of `EXPORT_KEY` in config.json; `modules` has number, rank and scale of the
      experts by module.
    Raises: ValueError for a target that matches nothing, or per-layer settings of another length.
    """
    experts = adapter.config
    specs = module_specs(experts, model).items()
    return {
        "routing": experts.routing,
        "top_k": experts.top_k,
        "top_p": experts.top_p,
        "shared_a": experts.shared_a,
        "modules": {n: {"experts": s.experts, "rank": s.rank, "scale": s.scale} for n, s in specs},
        "experts": dataclasses.asdict(experts),
        "balance": dataclasses.asdict(adapter.balance),
    }


def exported_tensors(adapter: Adapter) -> Iterator[tuple[str, np.ndarray]]:
    """The experts' tensors by name."""
    for name, module in adapter.modules.items():
        a, b = module.a_ERI, module.b_EOR
        yield _tensor(name, "lora_a"), a.reshape(-1, a.shape[-1])
        yield _tensor(name, "lora_b"), np.ascontiguousarray(b.transpose(1, 0, 2)).reshape(b.shape[1], -1)
        if module.router_EI is not None:
            yield _tensor(name, "router"), module.router_EI


def exported_names(names: Iterable[str], adapter: Adapter) -> list[str]:
    """The names that the base's tensors have in the exported model.

    Projections that have experts in some layer lie one level deeper, in all layers: plans for tensor
    parallelism cannot name single layers.

    Args:
      names: of the base's tensors in its own checkpoint.
      adapter: its modules say which projections have experts.
    Returns: the new names, in the order of `names`.
    """
    routed = {module.rsplit(".", 1)[1] for module in adapter.modules}
    parts = [name.rpartition(".") for name in names]
    return [
        f"{module}.{BASE_LAYER}.{part}" if module.rpartition(".")[2] in routed else f"{module}.{part}"
        for module, _, part in parts
    ]


def _tensor(module: str, part: str) -> str:
    return f"model.{module}.{MIXTURE}.{part}.weight"
