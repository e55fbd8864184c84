"""Places weights on devices: each device's part is read separately, and quantized as it is read."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import numpy as np

from jaxmoe.model.quantized import QuantizedDtype, QuantizedKernel, quantize
from jaxmoe.model.shapes import Weight

Index = tuple[slice, ...]
_quantize = jax.jit(quantize, static_argnames="dtype")


def place(
    shape: tuple[int, ...], sharding: jax.sharding.Sharding, read: Callable[[Index], np.ndarray]
) -> jax.Array:
    """A sharded array from a function of the index; devices that hold the same part share one read.

    Args:
      shape: of the whole array.
      sharding: which device holds which part.
      read: the part at an index of slices.
    Returns: the array; on several hosts each reads only what its own devices hold.
    """
    parts: dict[tuple[tuple[int, int], ...], np.ndarray] = {}

    def part(index: Index | None) -> np.ndarray:
        assert index is not None
        key = tuple((s.start or 0, -1 if s.stop is None else s.stop) for s in index)
        if key not in parts:
            parts[key] = read(index)
        return parts[key]

    return jax.make_array_from_callback(shape, sharding, part)


def place_quantized(
    shape: tuple[int, ...],
    sharding: Weight,
    read: Callable[[Index], np.ndarray],
    dtype: QuantizedDtype,
) -> QuantizedKernel:
    """A sharded quantized kernel; during reading, only one matrix at a time is held as floats.

    Args:
      shape: of the whole kernel, [.., I, O].
      sharding: a QuantizedKernel with those of its values and its scales.
      read: the float32 part at an index of slices; it is asked for whole columns, whose inputs share scales.
      dtype: int8 or nf4.
    Returns: the kernel; on several hosts each reads only columns that its own devices hold a part of.
    Raises: ValueError for values that are not finite, which no scale fits.
    """
    like = _like(shape, dtype)
    found: dict[tuple[tuple[int, int], ...], QuantizedKernel] = {}

    def part(leaf: Literal["values", "scales"], index: Index) -> np.ndarray:
        sizes = getattr(like, leaf).shape
        *lead, inputs, outputs = (slice(*i.indices(size)) for i, size in zip(index, sizes, strict=True))
        key = tuple((i.start, i.stop) for i in (*lead, outputs))
        if key not in found:  # values and scales are cut out of one read
            found[key] = _read_columns(lead, slice(0, shape[-2]), outputs, read, dtype)
        return getattr(found[key], leaf)[..., inputs, :]

    return QuantizedKernel(
        place(like.values.shape, sharding.values, partial(part, "values")),
        place(like.scales.shape, sharding.scales, partial(part, "scales")),
        dtype,
    )


def _like(shape: tuple[int, ...], dtype: QuantizedDtype) -> QuantizedKernel:
    """Shapes and dtypes of a quantized kernel's values and scales."""
    return jax.eval_shape(partial(quantize, dtype=dtype), jax.ShapeDtypeStruct(shape, np.float32))


def _read_columns(
    lead: list[slice],
    inputs: slice,
    outputs: slice,
    read: Callable[[Index], np.ndarray],
    dtype: QuantizedDtype,
) -> QuantizedKernel:
    """Whole columns of some matrices, quantized, on this host."""
    shape = tuple(part.stop - part.start for part in (*lead, inputs, outputs))
    whole = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), _like(shape, dtype))
    for place in np.ndindex(*shape[:-2]):
        starts = [part.start + i for part, i in zip(lead, place, strict=True)]
        matrix = read((*(slice(start, start + 1) for start in starts), inputs, outputs))
        quantized = jax.device_get(_quantize(matrix, dtype=dtype))
        if not np.isfinite(quantized.scales).all():
            raise ValueError(f"{dtype} holds finite weights only; got NaN or infinity")
        for leaf, values in zip(jax.tree.leaves(whole), jax.tree.leaves(quantized), strict=True):
            leaf[place] = values[(0,) * len(place)]
    return whole
