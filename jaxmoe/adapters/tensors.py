"""What the formats of adapter folders share: a JSON config and a flat dictionary of tensors.

A `Layout` says how a format names its tensors. Missing, unexpected and wrongly shaped tensors are errors that
list them; so are settings that are not understood.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxmoe.adapters.record import Adapter, ModuleExperts, ModuleSpec
from jaxmoe.json_values import shown
from jaxmoe.model.config import ATTENTION_PROJECTIONS, EXPERT_BLOCK, PROJECTIONS, ExpertConfig, ModelConfig
from jaxmoe.weights.weight_files import StoredTensor, compare_names, compare_shapes, some

CONFIG_FILE = "adapter_config.json"
# Keys that say where an adapter comes from, not what it computes.
ORIGIN_KEYS = frozenset({"base_model_name_or_path", "inference_mode", "peft_type", "revision", "task_type"})


class AdapterFolder(NamedTuple):
    """An adapter as stored on disk.

    Attributes:
      path: of the folder, for error messages.
      config: adapter_config.json.
      tensors: by name, of adapter_model.safetensors or .bin.
    """

    path: Path
    config: dict[str, object]
    tensors: dict[str, StoredTensor]

    @property
    def config_path(self) -> Path:
        """Path of adapter_config.json, for error messages."""
        return self.path / CONFIG_FILE


# What a format writes: adapter_config.json, and the tensors by name.
Files = tuple[dict[str, object], dict[str, np.ndarray]]


class FileFormat(NamedTuple):
    """A format of adapter folders; registered in `jaxmoe.adapters.files`.

    Attributes:
      name: what `jaxmoe.save` calls it.
      recognizes: whether an adapter_config.json is of this format.
      read: the adapter in a folder; raises ValueError for what is not understood or does not fit.
      write: adapter_config.json and the tensors, given the adapter, its model and the base's name; raises
        ValueError for an adapter that the format cannot hold.
      needs_bin: the programs that own the format read adapter_model.bin only, so it is written too.
    """

    name: str
    recognizes: Callable[[Mapping[str, object]], bool]
    read: Callable[[AdapterFolder, ModelConfig], Adapter]
    write: Callable[[Adapter, ModelConfig, str], Files]
    needs_bin: bool = False


class Layout(NamedTuple):
    """Names of a module's tensors; {} stands for the expert.

    Attributes:
      prefix: before the module's name.
      a, b: of an expert's pair.
      router: of the router, in formats that have one.
      magnitude: of DoRA's magnitudes, in formats that have them.
    """

    prefix: str
    a: str
    b: str
    router: str | None = None
    magnitude: str | None = None


def check_settings(folder: AdapterFolder, understood: Iterable[str], fixed: Mapping[str, object]) -> None:
    """Makes sure that nothing in adapter_config.json asks for what this code does not do.

    A key that is neither understood nor fixed is allowed if its value means no (null, false, "", [] or {}),
    because programs write out their options even when they are off.

    Args:
      understood: keys that the caller reads, or that change nothing.
      fixed: keys for which only this value is supported; null, false, [] and {} count as the same.
    Raises: ValueError, in one line, naming the first such key and its value.
    """
    known = {*understood, *ORIGIN_KEYS}
    for key, value in folder.config.items():
        if key in fixed:
            same = value == fixed[key] or not (value or fixed[key])
            if not same:
                raise ValueError(f"{key} must be {fixed[key]!r}; got {shown(value)} in {folder.config_path}")
        elif key not in known and not (value is None or value is False or value in ("", [], {})):
            raise ValueError(
                f"{key[:80]}={shown(value)} in {folder.config_path} is not understood here, and may change "
                "what the adapter computes: merge the adapter into its base with the program that made it"
            )


def check_count(folder: AdapterFolder, experts: Iterable[int]) -> None:
    """Raises ValueError if there are fewer tensors than experts: no file of this size means that many.

    Args:
      folder: the adapter that is about to be read.
      experts: numbers of experts that its config asks for, one for each module or layer.
    """
    asked, there = max(experts, default=0), len(folder.tensors)
    if asked > there:
        raise ValueError(f"{folder.config_path} asks for {asked} experts, but there are only {there} tensors")


def read_modules(
    layout: Layout,
    folder: AdapterFolder,
    specs: Mapping[str, ModuleSpec],
    config: ExpertConfig,
) -> dict[str, ModuleExperts]:
    """Every module's experts from tensors that must be exactly those that `specs` call for.

    Args:
      layout: how the format names its tensors.
      folder: with the tensors.
      specs: sizes of the experts by module name.
      config: says whether A is shared, experts are routed, and DoRA is used.
    Returns: the experts by module name, as float32.
    Raises: ValueError, listing names, for tensors that are missing, unexpected or of another shape.
    """
    check_count(folder, (spec.experts for spec in specs.values()))
    expected: dict[str, tuple[int, ...]] = {}
    for name, spec in specs.items():
        expected |= module_tensors(layout, name, spec, config)
    compare_names(folder.tensors, expected, folder.path)
    compare_shapes({n: t.shape for n, t in folder.tensors.items()}, expected, folder.path)

    def array(key: str) -> np.ndarray:
        return folder.tensors[key].all().astype(np.float32)

    modules: dict[str, ModuleExperts] = {}
    for name, spec in specs.items():
        start = f"{layout.prefix}{name}."
        kinds = 1 if config.shared_a else spec.experts
        modules[name] = ModuleExperts(
            np.stack([array(start + layout.a.format(i)) for i in range(kinds)]),
            np.stack([array(start + layout.b.format(i)) for i in range(spec.experts)]),
            array(f"{start}{layout.router}") if layout.router and config.routing != "none" else None,
            array(f"{start}{layout.magnitude}") if layout.magnitude and config.dora else None,
        )
    return modules


def module_tensors(
    layout: Layout, name: str, spec: ModuleSpec, config: ExpertConfig
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one module's tensors, in the original's order: router, A0, B0, A1, ...

    Args:
      layout: how the format names its tensors.
      name: of the module, such as "layers.0.mlp.up_proj".
      spec: the sizes of its experts.
      config: says whether A is shared, experts are routed, and DoRA is used.
    Returns: shapes by full name: router [E, in], A [R, in], B [out, R], magnitude [out].
    """
    start = f"{layout.prefix}{name}."
    shapes: dict[str, tuple[int, ...]] = {}
    if layout.router is not None and config.routing != "none":
        shapes[f"{start}{layout.router}"] = (spec.experts, spec.in_features)
    for i in range(spec.experts):
        if i == 0 or not config.shared_a:
            shapes[start + layout.a.format(i)] = (spec.rank, spec.in_features)
        shapes[start + layout.b.format(i)] = (spec.out_features, spec.rank)
    if layout.magnitude is not None and config.dora:
        shapes[f"{start}{layout.magnitude}"] = (spec.out_features,)
    return shapes


def modules_to_tensors(layout: Layout, adapter: Adapter) -> dict[str, np.ndarray]:
    """The inverse of `read_modules`; within a layer gate, down, up, as the original writes them.

    Args:
      layout: how the format names its tensors.
      adapter: with experts that the format can hold.
    Returns: the arrays by full name, in the order of the file; they are the adapter's own, not copies.
    """
    order = {
        name: i
        for i, name in enumerate((*ATTENTION_PROJECTIONS, "gate_proj", "down_proj", "up_proj", EXPERT_BLOCK))
    }
    names = sorted(adapter.modules, key=lambda n: (int(n.split(".")[1]), order[n.rsplit(".", 1)[1]]))
    tensors: dict[str, np.ndarray] = {}
    for name in names:
        module = adapter.modules[name]
        start = f"{layout.prefix}{name}."
        if module.router_EI is not None:
            tensors[f"{start}{layout.router}"] = module.router_EI
        for i in range(len(module.b_EOR)):
            if i < len(module.a_ERI):
                tensors[start + layout.a.format(i)] = module.a_ERI[i]
            tensors[start + layout.b.format(i)] = module.b_EOR[i]
        if module.magnitude_O is not None:
            tensors[f"{start}{layout.magnitude}"] = module.magnitude_O
    return tensors


def in_order(targets: Iterable[str]) -> tuple[str, ...]:
    """Projections by name in their order in a block, then any other targets."""
    given = tuple(targets)
    return tuple(p for p in PROJECTIONS if p in given) + tuple(t for t in given if t not in PROJECTIONS)


def refuse_base_changes(adapter: Adapter, format: str) -> None:
    """Raises ValueError for an adapter that changes weights of the base, which the format cannot hold.

    Args:
      adapter: about to be written.
      format: its name, for the message.
    """
    if names := list(adapter.base.names):
        raise ValueError(
            f"the {format} format holds experts only, and here {some(names, most=3)} differ from the base: "
            "use format 'hf', 'peft' or 'loramoe'"
        )


def join(module: ModuleExperts) -> ModuleExperts:
    """Experts that all count in full as one pair of their joint rank: Σᵢ Bᵢ Aᵢ = [B_0 | ..] [A_0; ..]."""
    experts = len(module.b_EOR)
    a = np.broadcast_to(module.a_ERI, (experts, *module.a_ERI.shape[1:]))
    joint_a = a.reshape(1, -1, a.shape[-1])
    joint_b = module.b_EOR.transpose(1, 0, 2).reshape(1, module.b_EOR.shape[1], -1)
    return module._replace(a_ERI=joint_a, b_EOR=joint_b)


def uniform(experts: ExpertConfig, model: ModelConfig) -> tuple[int, int] | None:
    """(experts, rank) if they are the same in all layers.

    Args:
      experts: counts and ranks, given once or by layer.
      model: for its number of layers.
    Returns: the pair, or None where layers differ.
    Raises: ValueError for per-layer settings of another length.
    """
    sizes = set(
        zip(experts.layer_counts(model.num_layers), experts.layer_ranks(model.num_layers), strict=True)
    )
    return sizes.pop() if len(sizes) == 1 else None


def number(value: float) -> int | float:
    """Whole numbers as integers, as these programs write and expect them."""
    return int(value) if float(value).is_integer() else float(value)
