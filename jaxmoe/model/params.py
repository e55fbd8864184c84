"""Weights as plain pytrees: the frozen/trainable split, mesh placement, the quantized base."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmoe.model.config import ExpertConfig, ModelConfig
from jaxmoe.model.layers import KernelParam
from jaxmoe.model.lora_experts import ExpertParam
from jaxmoe.model.mesh import MESH_AXES, batch_axes, devices_along
from jaxmoe.model.quantized import QuantizedDtype, is_quantized, quantize
from jaxmoe.model.shapes import PyTree, Weight
from jaxmoe.model.transformer import Decoder, attach_experts

Params = dict[str, Weight]
Train = Literal["experts", "all", "none"]

RULES: dict[str | None, str | None] = {
    "layer": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "expert": None,
    "base_expert": "expert",
    "rank": None,
    None: None,
}


class ModelParams(NamedTuple):
    """A model taken apart: `nnx.merge(definition, trainable, frozen)` puts it together inside a trace."""

    definition: nnx.GraphDef
    trainable: Params
    frozen: Params


def split(model: nnx.Module, train: Train = "experts") -> ModelParams:
    """Takes a model apart by Variable type, never by name.

    "experts" trains every ExpertParam, "all" every Param (without experts: full fine-tuning), "none" nothing.

    Args:
      model: with or without experts.
      train: what is trained.
    Returns: definition, trainable part and frozen part, the last two as plain dictionaries.
    """
    kinds: dict[str, nnx.filterlib.Filter] = {"experts": ExpertParam, "all": nnx.Param, "none": nnx.Nothing()}
    definition, trainable, frozen = nnx.split(model, kinds[train], ...)
    return ModelParams(definition, nnx.to_pure_dict(trainable), nnx.to_pure_dict(frozen))


def merge(params: ModelParams) -> Decoder:
    """Puts the model together again; inside a jitted function this costs nothing at run time."""
    return nnx.merge(params.definition, params.trainable, params.frozen)


def make_mesh(
    data: int = 1,
    fsdp: int = 1,
    tensor: int = 1,
    expert: int = 1,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh of data x fsdp x expert x tensor devices, with automatic axes; one may be -1 for what is left.

    Args:
      data: copies of the model that each see a part of the batch.
      fsdp: parts into which weights and the batch are split.
      tensor: parts into which the columns of weights are split.
      expert: parts into which the experts of a mixture-of-experts base are split, and the batch.
      devices: all of this process's backend if not given.
    Returns: the mesh, its axes named data, fsdp, expert and tensor.

    Raises: ValueError if the axes do not multiply to the number of devices.
    """
    chosen = np.asarray(jax.devices() if devices is None else devices)
    sizes = [data, fsdp, expert, tensor]
    if sizes.count(-1) == 1:
        known = -int(np.prod(sizes))
        sizes[sizes.index(-1)] = max(chosen.size // known, 1)
    if min(sizes) < 1 or int(np.prod(sizes)) != chosen.size:
        raise ValueError(
            f"mesh axes data x fsdp x expert x tensor must multiply to the {chosen.size} devices; got "
            f"{data} x {fsdp} x {expert} x {tensor} (mesh in the config; -1 takes what is left)"
        )
    return Mesh(chosen.reshape(sizes), MESH_AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(MESH_AXES))


def single_device_mesh() -> Mesh:
    """One device as a mesh."""
    return make_mesh(devices=jax.devices()[:1])


def partition_spec(axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Logical axis names -> mesh axes; an axis that its mesh axis does not divide stays whole.

    Args:
      axes: logical name of each axis; None for one that is never split.
      shape: of the array.
      mesh: whose axes divide it.
    Returns: one entry per axis.
    """
    chosen: list[str | None] = []
    for name, size in zip(axes, shape, strict=True):
        axis = RULES[name]
        taken = axis is None or axis in chosen or axis not in mesh.shape
        chosen.append(None if taken or size % mesh.shape[axis] else axis)
    return PartitionSpec(*chosen)


def check_expert_axis(config: ModelConfig, mesh: Mesh) -> None:
    """Raises ValueError if the mesh's axis expert is longer than 1 and does not divide the base's experts.

    Args:
      config: of the base.
      mesh: on which it is to be placed.
    """
    check_expert_ways(config, devices_along(mesh, "expert"))


def check_expert_ways(config: ModelConfig, ways: int) -> None:
    """Raises ValueError if this many devices cannot share the base's experts.

    Args:
      config: of the base.
      ways: length of the mesh's axis expert.
    """
    count = 0 if config.moe is None else config.moe.num_experts
    if ways > 1 and (count == 0 or count % ways):
        has = f"{count} in each layer" if count else "no experts (a dense feed-forward)"
        raise ValueError(f"mesh.expert must divide the experts of the base; got {ways}, and it has {has}")


def shardings(model: nnx.Module, mesh: Mesh, train: Train = "experts") -> tuple[Params, Params]:
    """NamedShardings of the trainable and the frozen part, shaped like `split(model)`.

    Args:
      model: an abstract one is enough.
      mesh: to split over.
      train: as for `split`.
    Returns: trainable and frozen part.
    """

    def one(variable: nnx.Variable) -> Weight:
        axes = variable.get_metadata("axes")
        return jax.tree.map(  # of a quantized kernel values and scales
            lambda leaf: NamedSharding(mesh, partition_spec(axes, leaf.shape, mesh)), variable.get_raw_value()
        )

    state = nnx.state(model)
    marked = jax.tree.map(lambda v: v.replace(one(v)), state, is_leaf=lambda x: isinstance(x, nnx.Variable))
    target = nnx.clone(model)
    nnx.update(target, marked)
    parts = split(target, train)
    return parts.trainable, parts.frozen


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Batches are split along their first axis."""
    return NamedSharding(mesh, PartitionSpec(batch_axes(mesh)))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def build(
    config: ModelConfig, experts: ExpertConfig | None = None, *, seed: int = 0, std: float = 0.02
) -> Decoder:
    """A new model with random weights; under `nnx.eval_shape` an abstract one.

    Args:
      config: the model's shape.
      experts: beside its projections; None for none.
      seed: of all weights.
      std: of the normal distribution from which weights are drawn.
    Returns: the model, float32.
    """
    model = Decoder(config, rngs=nnx.Rngs(seed), std=std)
    if experts is not None:
        attach_experts(model, experts, rngs=nnx.Rngs(seed + 1))
    return model


def abstract(
    config: ModelConfig, experts: ExpertConfig | None = None, quantized: QuantizedDtype | None = None
) -> Decoder:
    """The model with ShapeDtypeStructs for weights: shapes and axes without memory.

    Args:
      config: the model's shape.
      experts: beside its projections; None for none.
      quantized: how the projections' kernels are quantized; None holds them as floats.
    Returns: the model without values.
    Raises: ValueError for kernels whose shape cannot be quantized that way.
    """

    def make() -> Decoder:
        model = build(config, experts)
        if quantized is not None:
            quantize_kernels(model, quantized)
        return model

    return nnx.eval_shape(make)


def quantize_kernels(model: nnx.Module, dtype: QuantizedDtype) -> None:
    """Quantizes the kernels of all projections, in place; embedding, head, norms and biases stay as they are.

    Args:
      model: changed by the call.
      dtype: int8 or nf4.
    Raises: ValueError for kernels whose shape cannot be quantized that way.
    """
    for _, variable in nnx.iter_graph(model):
        if isinstance(variable, KernelParam):
            variable.set_raw_value(quantize(variable.get_raw_value(), dtype))


def count(params: PyTree) -> int:
    """Number of weights in a pytree; the scales of quantized ones do not count."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params, is_leaf=is_quantized))


def storage_bytes(params: PyTree) -> int:
    """Memory that the arrays of a pytree take, each counted once, however many devices hold it.

    Args:
      params: arrays, or their shapes and dtypes.
    Returns: bytes; for a quantized kernel those of its values and its scales.
    """
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
