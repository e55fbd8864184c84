"""Base weights between Hugging Face checkpoints and the parameter tree: one table, read in both directions.

A checkpoint has a tensor for each layer and stores kernels [out, in]; the tree stacks the layers and stores
kernels [L, in, out]. A device's shard is put together from just the slices that it holds, so that no host
ever holds a whole model.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxmoe.model.config import MLP_PROJECTIONS, PROJECTIONS, ModelConfig
from jaxmoe.weights.weight_files import StoredTensor, compare_names, compare_shapes

Path = tuple[str, ...]
Index = tuple[slice, ...]


class Entry(NamedTuple):
    """One parameter.

    Attributes:
      path: in the parameter tree, joined by dots.
      name: in the checkpoint; {} stands for the layer.
      transposed: the checkpoint stores it [out, in].
    """

    path: str
    name: str
    transposed: bool = False

    @property
    def stacked(self) -> bool:
        """The tree has a leading layer axis where the checkpoint has a tensor for each layer."""
        return "{}" in self.name


def _projection_entries() -> Iterator[Entry]:
    for projection in PROJECTIONS:
        part = "mlp" if projection in MLP_PROJECTIONS else "self_attn"
        path, name = f"blocks.{part}.{projection}", f"model.layers.{{}}.{part}.{projection}"
        yield Entry(f"{path}.kernel", f"{name}.weight", transposed=True)
        yield Entry(f"{path}.bias", f"{name}.bias")


TABLE = (
    Entry("embedding", "model.embed_tokens.weight"),
    Entry("blocks.input_norm.weight", "model.layers.{}.input_layernorm.weight"),
    Entry("blocks.self_attn.q_norm.weight", "model.layers.{}.self_attn.q_norm.weight"),
    Entry("blocks.self_attn.k_norm.weight", "model.layers.{}.self_attn.k_norm.weight"),
    *_projection_entries(),
    Entry("blocks.post_norm.weight", "model.layers.{}.post_attention_layernorm.weight"),
    Entry("norm.weight", "model.norm.weight"),
    Entry("head", "lm_head.weight", transposed=True),
)
ENTRIES: dict[str, Entry] = {entry.path: entry for entry in TABLE}


def is_leaf(value: Any) -> bool:
    """A quantised weight (qwix QArray) is one leaf of the tree, not two."""
    return hasattr(value, "qvalue")


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """{"a": {"b": x}} -> {"a.b": x}."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    return {".".join(str(key.key) for key in path): leaf for path, leaf in leaves}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": x} -> {"a": {"b": x}}."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split(".")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def checkpoint_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Names and shapes that a checkpoint needs for the tree's base parameters.

    Args:
      shapes: by path; paths outside the table (experts) are left out.
    """
    expected = {}
    for path, shape in shapes.items():
        if (entry := ENTRIES.get(path)) is None:
            continue
        layers = shape[0] if entry.stacked else 1
        inner = shape[1:] if entry.stacked else shape
        for layer in range(layers):
            expected[entry.name.format(layer)] = inner[::-1] if entry.transposed else inner
    return expected


def check_checkpoint(
    stored: Mapping[str, StoredTensor], shapes: Mapping[str, tuple[int, ...]], config: ModelConfig, where: Any
) -> None:
    """Raises ValueError, listing them, for missing, unexpected or wrongly shaped tensors.

    What old checkpoints carry beside their weights is let pass: rotary frequencies, and the head of a model
    whose head is tied, if it equals the embedding.
    """
    expected = checkpoint_shapes(shapes)
    found = {n: t.shape for n, t in stored.items() if not n.endswith("rotary_emb.inv_freq")}
    if config.tie_embeddings and found.pop("lm_head.weight", None):
        head, embedding = stored["lm_head.weight"], stored.get("model.embed_tokens.weight")
        if embedding and not _equal(head, embedding):
            raise ValueError(
                f"the weights in {where} have a head of their own, but config.json says tie_word_embeddings; "
                "set that to false"
            )
    compare_names(found, expected, where)
    compare_shapes(found, expected, where)


def _equal(first: StoredTensor, second: StoredTensor, rows: int = 4096) -> bool:
    if first.shape != second.shape:
        return False
    total = first.shape[0]
    parts = [(slice(r, min(r + rows, total)), slice(None)) for r in range(0, total, rows)]
    return all(np.array_equal(first.read(part), second.read(part)) for part in parts)


def shard_reader(
    entry: Entry, stored: Mapping[str, StoredTensor], shape: tuple[int, ...], dtype: Any
) -> Callable[[Index], np.ndarray]:
    """A function that reads any part [L, in, out] of a parameter from the checkpoint, slice by slice."""

    def read(index: Index) -> np.ndarray:
        index = tuple(slice(*part.indices(size)) for part, size in zip(index, shape, strict=True))
        if not entry.stacked:
            return _read_one(entry, stored[entry.name], index, dtype)
        layers = range(shape[0])[index[0]]
        out = np.empty((len(layers), *(part.stop - part.start for part in index[1:])), dtype)
        for i, layer in enumerate(layers):
            out[i] = _read_one(entry, stored[entry.name.format(layer)], index[1:], dtype)
        return out

    return read


def _read_one(entry: Entry, tensor: StoredTensor, index: Index, dtype: Any) -> np.ndarray:
    part = tensor.read(index[::-1] if entry.transposed else index)
    return np.asarray(part.T if entry.transposed else part).astype(dtype)


def place(
    shape: tuple[int, ...], sharding: jax.sharding.Sharding, read: Callable[[Index], np.ndarray]
) -> jax.Array:
    """A sharded array from a function of the index; devices that hold the same part share one reading."""
    parts: dict[Any, np.ndarray] = {}

    def part(index: Index | None) -> np.ndarray:
        assert index is not None
        key = tuple((s.start, s.stop) for s in index)
        if key not in parts:
            parts[key] = read(index)
        return parts[key]

    return jax.make_array_from_callback(shape, sharding, part)


def load_base(
    stored: Mapping[str, StoredTensor],
    shapes: Mapping[str, tuple[int, ...]],
    shardings: Mapping[str, jax.sharding.Sharding],
    dtypes: Mapping[str, Any],
) -> dict[str, jax.Array]:
    """The base parameters by path, on their devices.

    Args:
      shapes, shardings, dtypes: by path; paths outside the table (experts) are left out.
    """
    return {
        path: place(shape, shardings[path], shard_reader(ENTRIES[path], stored, shape, dtypes[path]))
        for path, shape in shapes.items()
        if path in ENTRIES
    }


def to_host(array: Any) -> np.ndarray:
    """An array's values on this host; on several hosts all must call it, since they exchange their shards."""
    if is_leaf(array):
        from qwix import dequantize

        array = dequantize(array)
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


def checkpoint_tensors(flat: Mapping[str, Any]) -> Iterator[CheckpointTensor]:
    """Every tensor of the checkpoint, layer by layer; nothing is read yet.

    Args:
      flat: parameters by path; paths outside the table (experts) are left out.
    """
    present = [(entry, flat[entry.path]) for entry in TABLE if entry.path in flat]
    stacked = [(entry, value) for entry, value in present if entry.stacked]
    single = [(entry, value) for entry, value in present if not entry.stacked]
    yield from (_tensor(e, v) for e, v in single if e.path == "embedding")
    for layer in range(stacked[0][1].shape[0]):
        yield from (_tensor(e, v, layer) for e, v in stacked)
    yield from (_tensor(e, v) for e, v in single if e.path != "embedding")


def _tensor(entry: Entry, value: Any, layer: int | None = None) -> CheckpointTensor:
    def read() -> np.ndarray:
        part = value if layer is None else jax.tree.map(lambda leaf: leaf[layer], value)
        array = to_host(part)
        return np.ascontiguousarray(array.T if entry.transposed else array)

    name = entry.name if layer is None else entry.name.format(layer)
    shape = value.shape if layer is None else value.shape[1:]
    return CheckpointTensor(name, shape[::-1] if entry.transposed else shape, np.dtype(value.dtype), read)
