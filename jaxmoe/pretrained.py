"""`jaxmoe.load`: a base model from its checkpoint, with an adapter, new experts or neither."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxmoe.adapters.files import read_adapter
from jaxmoe.adapters.loramoe import read_embedded
from jaxmoe.adapters.record import Adapter, module_specs, pack
from jaxmoe.adapters.tensors import EXPORT_KEY, read_json
from jaxmoe.base_folder import local_folder
from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params
from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.config import ExpertConfig, ModelConfig
from jaxmoe.model.layers import BaseParam
from jaxmoe.model.lora_experts import ExpertConstant
from jaxmoe.model.transformer import attach_experts
from jaxmoe.weights import convert
from jaxmoe.weights.gguf_folder import noted_gguf
from jaxmoe.weights.weight_files import StoredTensor, open_weights

DTYPES = ("float32", "bfloat16", "float16")


def load(
    base_dir: str | Path,
    adapter: str | Path | None = None,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    *,
    experts: ExpertConfig | None = None,
    train: params.Train = "experts",
    seed: int = 0,
) -> LanguageModel:
    """Loads a checkpoint straight into shards on the mesh, with an adapter, new experts or neither.

    Args:
      base_dir: folder or hub id of a Llama, DeepSeek-Coder, Mistral, Qwen2/2.5 or Qwen3 checkpoint, a GGUF
        file of one, a named model (`jaxmoe.named_models`), or a folder of a LoRAMoE model exported with
        `save(..., format="hf")`.
      adapter: folder of a LoRAMoE, MoE-PEFT or PEFT LoRA adapter.
      dtype: float32, bfloat16 or float16, of the frozen weights and of the computation; what is trained is
        float32.
      mesh: where the weights go; one device if not given.
      experts: new experts to attach instead of an adapter.
      train: which part of the weights becomes `weights.trainable`.
      seed: of the new experts.
    Raises: ValueError for a missing or foreign checkpoint, and for damaged, missing, unexpected or wrongly
      shaped tensors, listing them.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
    if adapter is not None and experts is not None:
        raise ValueError("give an adapter to load or experts to draw anew, not both")
    folder = local_folder(base_dir)
    json_config = read_json(folder / "config.json")
    config = ModelConfig.from_hf(base_config(json_config))
    noted = noted_gguf(folder)
    stored = noted.tensors if noted else open_weights(folder, "model", "pytorch_model")
    given: Adapter | None = None
    if EXPORT_KEY in json_config:
        if adapter is not None or experts is not None:
            raise ValueError(f"{folder} holds experts of its own; give its base model to attach others")
        given, stored = read_embedded(json_config, stored, config, folder)
    elif adapter is not None:
        given = read_adapter(adapter, config)
    mesh = params.single_device_mesh() if mesh is None else mesh
    experts = given.config if given else experts
    weights = assemble(config, experts, stored, given, mesh, dtype, train, seed, folder)
    return LanguageModel(
        config=config,
        weights=weights,
        mesh=mesh,
        experts=experts,
        balance=given.balance if given else BalanceConfig(),
        dtype=np.dtype(dtype),
        source=folder,
    )


def base_config(json_config: Mapping[str, Any]) -> dict[str, Any]:
    """The base model's config.json, where it is that of an exported LoRAMoE model; others as they are."""
    if EXPORT_KEY not in json_config:
        return dict(json_config)
    ours = (EXPORT_KEY, "auto_map", "architectures")
    base = {key: value for key, value in json_config.items() if key not in ours}
    return base | {"model_type": json_config["model_type"].removeprefix(f"{EXPORT_KEY}_")}


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
) -> params.ModelParams:
    """Base from files, experts from an adapter or newly drawn, everything on the mesh."""
    if experts is not None:
        module_specs(experts, config)  # a wrong target or length is an error before anything is traced
    model = params.abstract(config, experts)
    parts = params.split(model, train)
    trainable, frozen = (convert.flatten(part) for part in params.shardings(model, mesh, train))
    shardings = trainable | frozen
    shapes = {
        path: leaf.shape
        for part in (parts.trainable, parts.frozen)
        for path, leaf in convert.flatten(part).items()
    }
    convert.check_checkpoint(stored, shapes, config, where)
    dtypes = {path: np.dtype("float32") if path in trainable else np.dtype(dtype) for path in shapes}
    flat = convert.load_base(stored, shapes, shardings, dtypes)
    if experts is not None:
        flat |= draw_experts(config, experts, shardings, seed, ExpertConstant if adapter else ...)
    if adapter is not None:
        for path, array in pack(adapter, config).items():
            flat[path] = convert.place(array.shape, shardings[path], array.__getitem__)
    return params.ModelParams(
        parts.definition,
        convert.unflatten({path: flat[path] for path in trainable}),
        convert.unflatten({path: flat[path] for path in frozen}),
    )


def draw_experts(
    config: ModelConfig,
    experts: ExpertConfig,
    shardings: Mapping[str, jax.sharding.Sharding],
    seed: int,
    kinds: Any = ...,
) -> dict[str, jax.Array]:
    """New experts by path, the same as `params.build` draws; the base is not drawn with them.

    Args:
      kinds: an nnx filter for the variables wanted, such as ExpertConstant where an adapter brings the rest.
    """

    def draw() -> params.Params:
        model = params.abstract(config)
        attach_experts(model, experts, rngs=nnx.Rngs(seed + 1))
        _, _, wanted, _ = nnx.split(model, BaseParam, kinds, ...)
        return convert.flatten(nnx.to_pure_dict(wanted))

    shapes = jax.eval_shape(draw)
    return jax.jit(draw, out_shardings={path: shardings[path] for path in shapes})()
