"""`jaxmoe.load`: a base model from its checkpoint, with an adapter, new experts or neither."""

from collections.abc import Mapping
from pathlib import Path
from types import EllipsisType
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxmoe.adapters.base_changes import apply_changes, resized, vocabulary_names
from jaxmoe.adapters.exported import EXPORT_KEY, base_config, read_exported
from jaxmoe.adapters.files import open_adapter, read_adapter
from jaxmoe.adapters.record import Adapter, module_specs, pack, tree_path
from jaxmoe.adapters.stack import stack_adapters
from jaxmoe.base_folder import hub_folder, is_hub_id, local_folder
from jaxmoe.families import config_from_hf, family_of
from jaxmoe.json_files import read_json
from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params
from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.config import ExpertConfig, ModelConfig
from jaxmoe.model.layers import BaseParam
from jaxmoe.model.lora_experts import ExpertConstant, column_norms
from jaxmoe.model.quantized import QUANTIZED, QuantizedDtype
from jaxmoe.model.transformer import attach_experts
from jaxmoe.weights import convert
from jaxmoe.weights.fused import split_fused
from jaxmoe.weights.gguf_folder import noted_gguf
from jaxmoe.weights.mxfp4 import dequantized
from jaxmoe.weights.placement import place
from jaxmoe.weights.text_part import text_tensors
from jaxmoe.weights.weight_files import StoredTensor, open_weights

DTYPES = ("float32", "bfloat16", "float16")


def load(
    base_dir: str | Path,
    adapter: str | Path | Adapter | None = None,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    *,
    experts: ExpertConfig | None = None,
    train: params.Train = "experts",
    seed: int = 0,
    resize_vocab: int | None = None,
    revision: str | None = None,
    base_dtype: QuantizedDtype | None = None,
) -> LanguageModel:
    """Loads a checkpoint straight into shards on the mesh, with an adapter, new experts or neither.

    Args:
      base_dir: folder or hub id of a checkpoint of a known family (`jaxmoe.families.FAMILIES`), a GGUF file
        of one, a named model (`jaxmoe.named_models`), or a folder of a LoRAMoE model exported with
        `save(..., format="hf")`.
      adapter: folder or hub id of a LoRAMoE, MoE-PEFT or PEFT LoRA adapter.
      dtype: float32, bfloat16 or float16, of the frozen weights and of the computation; what is trained is
        float32.
      mesh: where the weights go; one device if not given.
      experts: new experts to attach instead of an adapter.
      train: which part of the weights becomes `weights.trainable`.
      seed: of the new experts.
      resize_vocab: number of tokens, at least the base's, for a tokenizer with more tokens than the base
        knows; new rows of the embedding and the head are the mean of the old ones.
      revision: commit, branch or tag of a base on the hub; `base_revision(lm)` tells which commit was taken.
      base_dtype: int8 or nf4 hold the kernels of attention and feed-forward quantized: they are quantized
        matrix by matrix as they are read, and dequantized in each product. Everything else is held in
        `dtype`; so are these kernels if it is None.
    Returns: the model, its weights on the mesh.
    Raises: ValueError for a missing or foreign checkpoint, and for damaged, missing, unexpected or wrongly
      shaped tensors, listing them.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
    if base_dtype is not None and base_dtype not in QUANTIZED:
        raise ValueError(f"base_dtype must be None or one of {', '.join(QUANTIZED)}; got {base_dtype!r}")
    if base_dtype is not None and train == "all":
        raise ValueError(f"base_dtype={base_dtype} holds weights that are frozen; train='all' trains them")
    if adapter is not None and experts is not None:
        raise ValueError("give an adapter to load or experts to draw anew, not both")
    folder = local_folder(base_dir, revision)
    json_config = read_json(folder / "config.json")
    config = read_model_config(folder)
    noted = noted_gguf(folder)
    stored = noted.tensors if noted else open_weights(folder, "model", "pytorch_model")
    given: Adapter | None = None
    if EXPORT_KEY in json_config:
        if adapter is not None or experts is not None:
            raise ValueError(f"{folder} holds experts of its own; give its base model to attach others")
        given, stored = read_exported(json_config, stored, config, folder)
    elif adapter is not None:
        given = adapter if isinstance(adapter, Adapter) else read_adapter(_adapter_folder(adapter), config)
    stored = convert.without_tied_head(text_tensors(stored, json_config, folder), config, folder)
    replaced: set[str] = set()
    if resize_vocab is not None and resize_vocab != config.vocab_size:
        stored, config = resized(stored, config, resize_vocab)
        replaced |= vocabulary_names(config)
    if given is not None and given.base.names:
        stored, config = apply_changes(given.base, stored, config, adapter)
        replaced |= set(given.base.names)
    mesh = params.single_device_mesh() if mesh is None else mesh
    experts = given.config if given else experts
    weights = assemble(config, experts, stored, given, mesh, dtype, train, seed, folder, base_dtype)
    return LanguageModel(
        config=config,
        weights=weights,
        mesh=mesh,
        experts=experts,
        balance=given.balance if given else BalanceConfig(),
        dtype=np.dtype(dtype),
        source=folder,
        replaced=tuple(sorted(replaced)),
    )


class SharedBase(NamedTuple):
    """A base with several adapters.

    Attributes:
      runs: which of the experts belong to each adapter, by name (`jaxmoe.adapters.stack`).
    """

    lm: LanguageModel
    runs: dict[str, tuple[int, int]]


def load_adapters(
    base_dir: str | Path,
    adapters: Mapping[str, str | Path],
    dtype: str = "float32",
    mesh: Mesh | None = None,
    base_dtype: QuantizedDtype | None = None,
) -> SharedBase:
    """Loads one base with several adapters; each request to an engine may use its own.

    Args:
      base_dir: folder or hub id of the base.
      adapters: folders or hub ids, by the names that requests use.
      dtype: of the frozen weights and of the computation, as for `load`.
      mesh: where the weights go; one device if not given.
      base_dtype: int8 or nf4, as for `load`.
    Returns: the model with all adapters' experts side by side, and which of them belong to which adapter.
    Raises: ValueError as `load` does, and for an adapter that cannot be combined with others.
    """
    config = read_model_config(local_folder(base_dir))
    read = {name: read_adapter(_adapter_folder(folder), config) for name, folder in adapters.items()}
    stacked = stack_adapters(read, config)
    return SharedBase(load(base_dir, stacked.adapter, dtype, mesh, base_dtype=base_dtype), stacked.runs)


def check_adapter(adapter: str | Path) -> None:
    """Checks that an adapter is there and of a known format; its tensors are not read.

    Args:
      adapter: folder or hub id; the latter is fetched.
    Raises: ValueError, in one line, if it is not.
    """
    open_adapter(_adapter_folder(adapter))


def _adapter_folder(adapter: str | Path) -> Path:
    return Path(adapter) if Path(adapter).is_dir() or not is_hub_id(adapter) else hub_folder(str(adapter))


def read_model_config(folder: Path) -> ModelConfig:
    """The shape of the checkpoint in a folder, or of the base of an exported LoRAMoE model.

    Args:
      folder: with a config.json.
    Raises: ValueError, in one line, for a file that is missing or malformed, or that describes an unknown
      model.
    """
    path = folder / "config.json"
    return config_from_hf(base_config(read_json(path)), path)


def base_revision(lm: LanguageModel) -> str | None:
    """The commit of a base from the hub, according to its snapshot folder; None for other bases."""
    if lm.source is None or lm.source.parent.name != "snapshots":
        return None
    return lm.source.name


def assemble(
    config: ModelConfig,
    experts: ExpertConfig | None,
    stored: Mapping[str, StoredTensor],
    adapter: Adapter | None,
    mesh: Mesh,
    dtype: str,
    train: params.Train,
    seed: int,
    where: Path,
    quantized: QuantizedDtype | None = None,
) -> params.ModelParams:
    """Base from files, experts from an adapter or newly drawn, everything on the mesh.

    Args:
      config: shape of the base.
      experts: what is attached to it; None for the base alone.
      stored: the base's tensors by their names in the checkpoint.
      adapter: brings the experts' values; None draws them anew.
      mesh: where the weights go.
      dtype: of frozen weights; trainable ones are float32.
      train: which part of the weights is trainable.
      seed: of new experts.
      where: the base's folder, for error messages.
      quantized: how kernels are quantized; None holds them as floats.
    Returns: the weights, split into trainable and frozen.
    Raises: ValueError for an expert target that matches nothing, for a mesh whose axis expert does not divide
      the base's experts, and for missing, unexpected or wrongly shaped tensors, listing them.
    """
    params.check_expert_axis(config, mesh)
    if experts is not None:
        module_specs(experts, config)  # a wrong target or length is an error before anything is traced
    model = params.abstract(config, experts, quantized)
    parts = params.split(model, train)
    trainable, frozen = (convert.flatten(part) for part in params.shardings(model, mesh, train))
    shardings = trainable | frozen
    shapes = {
        path: leaf.shape
        for part in (parts.trainable, parts.frozen)
        for path, leaf in convert.flatten(part).items()
    }
    expected = convert.checkpoint_shapes(convert.weight_table(config), shapes)
    whole = dequantized(stored, where)
    stored = split_fused(whole, family_of(config.family).FUSED, expected, config.num_layers)
    convert.check_checkpoint(stored, shapes, config, where)
    dtypes = {path: np.dtype("float32") if path in trainable else np.dtype(dtype) for path in shapes}
    flat = convert.load_base(convert.weight_table(config), stored, shapes, shardings, dtypes, quantized)
    if experts is not None:
        flat |= draw_experts(config, experts, shardings, seed, ExpertConstant if adapter else ...)
        if experts.dora and adapter is None:
            _start_magnitudes(flat, experts, config)
    if adapter is not None:
        for path, array in pack(adapter, config).items():
            flat[path] = place(array.shape, shardings[path], array.__getitem__)
    return params.ModelParams(
        parts.definition,
        convert.unflatten({path: flat[path] for path in trainable}),
        convert.unflatten({path: flat[path] for path in frozen}),
    )


def _start_magnitudes(flat: dict[str, jax.Array], experts: ExpertConfig, config: ModelConfig) -> None:
    """Sets new DoRA magnitudes to the lengths of the kernels' columns, so that at first nothing changes."""
    for projection in config.projections:
        path = tree_path(projection)
        if (magnitude := flat.get(f"{path}.magnitude")) is not None:
            norms = jax.jit(column_norms)(flat[f"{path.removesuffix('.experts')}.kernel"])
            has_any = np.asarray(experts.layers_with(projection, config.num_layers), np.float32)
            flat[f"{path}.magnitude"] = jax.device_put(norms * has_any[:, None], magnitude.sharding)


def draw_experts(
    config: ModelConfig,
    experts: ExpertConfig,
    shardings: Mapping[str, jax.sharding.Sharding],
    seed: int,
    kinds: type[nnx.Variable] | EllipsisType = ...,
) -> dict[str, jax.Array]:
    """New experts by path, the same as `params.build` draws, without drawing the base.

    Args:
      config: shape of the base.
      shardings: by path; those of the base are not used.
      seed: of the whole model, as `params.build` takes it.
      kinds: an nnx filter for the variables wanted, such as ExpertConstant where an adapter brings the rest.
    Returns: the arrays by path, placed by their shardings.
    """

    def draw() -> params.Params:
        model = params.abstract(config)
        attach_experts(model, experts, rngs=nnx.Rngs(seed + 1))
        _, _, wanted, _ = nnx.split(model, BaseParam, kinds, ...)
        return convert.flatten(nnx.to_pure_dict(wanted))

    shapes = jax.eval_shape(draw)
    return jax.jit(draw, out_shardings={path: shardings[path] for path in shapes})()
