"""Base weights between Hugging Face checkpoints and the parameter tree: one table, read in both directions.

A checkpoint has a tensor for each layer and stores kernels [out, in]; the tree stacks the layers and stores
kernels [L, in, out]. A device's shard is put together from just the slices that it holds, so that no host
ever holds a whole model.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.typing import DTypeLike

from jaxmoe.families import family_of
from jaxmoe.model.config import MLP_PROJECTIONS, PROJECTIONS, ModelConfig, part_of
from jaxmoe.model.quantized import QuantizedDtype, as_array, is_quantized
from jaxmoe.model.shapes import Weight
from jaxmoe.weights import placement
from jaxmoe.weights.placement import Index
from jaxmoe.weights.weight_files import StoredTensor, compare_names, compare_shapes, same_values

Path = tuple[str, ...]


class WeightName(NamedTuple):
    """The name that a parameter of the tree has in a checkpoint.

    Attributes:
      path: in the parameter tree, joined by dots.
      name: in the checkpoint; {} stands for the layer, and a second one for the expert.
      transposed: whether the checkpoint stores it [out, in].
    """

    path: str
    name: str
    transposed: bool = False

    @property
    def stacked(self) -> int:
        """Leading axes (layer, expert) that the tree stacks and the checkpoint has as separate tensors."""
        return self.name.count("{}")

    def checkpoint_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A tensor's shape in the checkpoint, from that in the tree."""
        inner = shape[self.stacked :]
        return inner[::-1] if self.transposed else inner


def _projection_names() -> Iterator[WeightName]:
    for projection in PROJECTIONS:
        part = part_of(projection)
        path, name = f"blocks.{part}.{projection}", f"model.layers.{{}}.{part}.{projection}"
        yield WeightName(f"{path}.kernel", f"{name}.weight", transposed=True)
        yield WeightName(f"{path}.bias", f"{name}.bias")


# Llama's names; a family says where its own differ
LLAMA_NAMES = (
    WeightName("embedding", "model.embed_tokens.weight"),
    WeightName("blocks.input_norm.weight", "model.layers.{}.input_layernorm.weight"),
    WeightName("blocks.self_attn.q_norm.weight", "model.layers.{}.self_attn.q_norm.weight"),
    WeightName("blocks.self_attn.k_norm.weight", "model.layers.{}.self_attn.k_norm.weight"),
    *_projection_names(),
    WeightName("blocks.self_attn.sinks", "model.layers.{}.self_attn.sinks"),
    WeightName("blocks.mlp.router", "model.layers.{}.mlp.gate.weight", transposed=True),
    WeightName("blocks.mlp.router_bias", "model.layers.{}.mlp.gate.bias"),
    *(
        WeightName(
            f"blocks.mlp.group.{n}", f"model.layers.{{}}.mlp.experts.{{}}.{n}_proj.weight", transposed=True
        )
        for n in ("gate", "up", "down")
    ),
    *(
        WeightName(f"blocks.mlp.group.{n}_bias", f"model.layers.{{}}.mlp.experts.{{}}.{n}_proj.bias")
        for n in ("gate", "up", "down")
    ),
    *(
        WeightName(
            f"blocks.mlp.shared.{n}.kernel",
            f"model.layers.{{}}.mlp.shared_expert.{n}.weight",
            transposed=True,
        )
        for n in MLP_PROJECTIONS
    ),
    WeightName("blocks.mlp.shared_gate", "model.layers.{}.mlp.shared_expert_gate.weight", transposed=True),
    WeightName("blocks.attention_norm.weight", "model.layers.{}.post_attention_layernorm.weight"),
    WeightName("blocks.mlp_norm.weight", "model.layers.{}.post_feedforward_layernorm.weight"),
    WeightName("blocks.post_norm.weight", "model.layers.{}.post_attention_layernorm.weight"),
    WeightName("norm.weight", "model.norm.weight"),
    WeightName("head", "lm_head.weight", transposed=True),
)
WeightTable = Mapping[str, WeightName]


def weight_table(model: ModelConfig) -> dict[str, WeightName]:
    """Every base parameter that a model of this family may have, by path, in the order of a checkpoint."""
    own = family_of(model.family).WEIGHT_NAMES
    return {n.path: n._replace(name=own.get(n.path, n.name)) for n in LLAMA_NAMES}


def flatten(tree: Mapping[str, Weight]) -> dict[str, Weight]:
    """{"a": {"b": x}} -> {"a.b": x}; a quantized kernel is one x."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_quantized)
    return {".".join(str(key.key) for key in path): leaf for path, leaf in leaves}


def unflatten(flat: Mapping[str, Weight]) -> dict[str, Weight]:
    """{"a.b": x} -> {"a": {"b": x}}."""
    tree: dict[str, Weight] = {}
    for path, leaf in flat.items():
        *parents, last = path.split(".")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def checkpoint_shapes(
    table: WeightTable, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Names and shapes that a checkpoint needs for the tree's base parameters.

    Args:
      table: the family's names by path (`weight_table`).
      shapes: by path; paths outside the table (experts) are left out.
    Returns: shapes by name in the checkpoint, one for each layer where the tree stacks them; a kernel's is
      [out, in].
    """
    expected = {}
    for path, shape in shapes.items():
        if (weight := table.get(path)) is None:
            continue
        for place in np.ndindex(shape[: weight.stacked]):
            expected[weight.name.format(*place)] = weight.checkpoint_shape(shape)
    return expected


def without_tied_head(
    stored: Mapping[str, StoredTensor], model: ModelConfig, where: object
) -> dict[str, StoredTensor]:
    """A checkpoint's tensors without the head, if that is tied to the embedding but stored all the same.

    Args:
      stored: the tensors by name.
      model: says whether the head is tied.
      where: the folder, for error messages.
    Returns: a new dictionary; its tensors are read only to compare the two.
    Raises: ValueError if the stored head is not the embedding.
    """
    table = weight_table(model)
    head, embedding = (stored.get(table[path].name) for path in ("head", "embedding"))
    if not model.tie_embeddings or head is None:
        return dict(stored)
    if embedding is not None and not same_values(head, embedding):
        raise ValueError(
            f"the weights in {where} have a head of their own, but config.json says tie_word_embeddings; "
            "set that to false"
        )
    return {name: tensor for name, tensor in stored.items() if name != table["head"].name}


def check_checkpoint(
    stored: Mapping[str, StoredTensor],
    shapes: Mapping[str, tuple[int, ...]],
    config: ModelConfig,
    where: object,
) -> None:
    """Raises ValueError, listing them, for missing, unexpected or wrongly shaped tensors.

    Rotary frequencies, which old checkpoints store with their weights, are ignored.

    Args:
      stored: the tensors by name.
      shapes: by path in the tree; paths outside the family's table (experts) are left out.
      config: the model, for its family.
      where: the folder, for error messages.
    """
    expected = checkpoint_shapes(weight_table(config), shapes)
    found = {n: t.shape for n, t in stored.items() if not n.endswith("rotary_emb.inv_freq")}
    compare_names(found, expected, where)
    compare_shapes(found, expected, where)


def shard_reader(
    weight: WeightName, stored: Mapping[str, StoredTensor], shape: tuple[int, ...], dtype: np.dtype
) -> Callable[[Index], np.ndarray]:
    """A function that reads any part [L, in, out] of a parameter from the checkpoint, slice by slice.

    Args:
      weight: the parameter's name in the checkpoint, and whether it is transposed there.
      stored: the tensors by name.
      shape: of the whole parameter in the tree, with the layer axis if it is stacked.
      dtype: of the result.
    Returns: the function, from an index of slices, one for each axis, to the array at it.
    """

    def read(index: Index) -> np.ndarray:
        index = tuple(slice(*part.indices(size)) for part, size in zip(index, shape, strict=True))
        lead = [range(size)[part] for size, part in zip(shape, index[: weight.stacked], strict=False)]
        inner = index[weight.stacked :]
        if not lead:
            return _read_one(weight, stored[weight.name], inner, dtype)
        out = np.empty((*map(len, lead), *(part.stop - part.start for part in inner)), dtype)
        for place in np.ndindex(*map(len, lead)):
            name = weight.name.format(*(numbers[i] for numbers, i in zip(lead, place, strict=True)))
            out[place] = _read_one(weight, stored[name], inner, dtype)
        return out

    return read


def _read_one(weight: WeightName, tensor: StoredTensor, index: Index, dtype: np.dtype) -> np.ndarray:
    part = tensor.read(index[::-1] if weight.transposed else index)
    return np.asarray(part.T if weight.transposed else part).astype(dtype)


def load_base(
    table: WeightTable,
    stored: Mapping[str, StoredTensor],
    shapes: Mapping[str, tuple[int, ...]],
    shardings: Mapping[str, Weight],
    dtypes: Mapping[str, np.dtype],
    quantized: QuantizedDtype | None = None,
) -> dict[str, Weight]:
    """The base parameters by path, on their devices.

    Args:
      table: the family's names by path (`weight_table`).
      stored: the tensors by name, already checked (`check_checkpoint`).
      shapes, shardings, dtypes: by path; paths outside the table (experts) are left out. A kernel that is to
        be quantized has a QuantizedKernel of shardings.
      quantized: how; None if no kernel is.
    Returns: the arrays by path.
    Raises: ValueError for kernels that cannot be quantized.
    """
    flat: dict[str, Weight] = {}
    for path, shape in shapes.items():
        if path not in table:
            continue
        if quantized is not None and is_quantized(shardings[path]):
            read = shard_reader(table[path], stored, shape, np.dtype(np.float32))
            flat[path] = placement.place_quantized(shape, shardings[path], read, quantized)
        else:
            read = shard_reader(table[path], stored, shape, dtypes[path])
            flat[path] = placement.place(shape, shardings[path], read)
    return flat


def to_host(array: Weight, dtype: DTypeLike = np.float32) -> np.ndarray:
    """An array's values on this host; on several hosts all must call it, since they exchange their shards.

    Args:
      array: on devices or this host.
      dtype: in which a quantized kernel's values are given; other arrays keep theirs.
    Returns: a numpy array.
    """
    if is_quantized(array):
        array = as_array(array, dtype)
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)


class CheckpointTensor(NamedTuple):
    """A tensor to be written.

    Attributes:
      read: brings it to the host; on several hosts all must call all of them, in order.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


def checkpoint_tensors(
    table: WeightTable, flat: Mapping[str, Weight], dtype: DTypeLike = np.float32
) -> Iterator[CheckpointTensor]:
    """Every tensor of the checkpoint, layer by layer; nothing is read yet.

    Args:
      table: the family's names by path (`weight_table`).
      flat: parameters by path; paths outside the table (experts) are left out.
      dtype: of a quantized kernel, which is given dequantized; others keep theirs.
    Returns: the tensors in the order of a checkpoint: the embedding first, the last norm and the head at the
      end.
    """
    present = [(weight, flat[weight.path]) for weight in table.values() if weight.path in flat]
    stacked = [(weight, value) for weight, value in present if weight.stacked]
    single = [(weight, value) for weight, value in present if not weight.stacked]
    yield from (_tensor(e, v, dtype) for e, v in single if e.path == "embedding")
    for layer in range(stacked[0][1].shape[0]):
        for weight, value in stacked:
            for place in np.ndindex(value.shape[1 : weight.stacked]):
                yield _tensor(weight, value, dtype, (layer, *place))
    yield from (_tensor(e, v, dtype) for e, v in single if e.path != "embedding")


def _tensor(
    weight: WeightName, value: Weight, dtype: DTypeLike, place: tuple[int, ...] = ()
) -> CheckpointTensor:
    def read() -> np.ndarray:
        part = jax.tree.map(lambda leaf: leaf[place], value) if place else value
        array = to_host(part, dtype)
        return np.ascontiguousarray(array.T if weight.transposed else array)

    shape = weight.checkpoint_shape(value.shape)
    written = np.dtype(dtype if is_quantized(value) else value.dtype)
    return CheckpointTensor(weight.name.format(*place), shape, written, read)
