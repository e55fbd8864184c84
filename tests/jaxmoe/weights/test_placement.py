"""Kernels quantized while they are read: the same on every mesh, and never all of them there as floats."""

import gc
import weakref

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from jaxmoe.model import params
from jaxmoe.model.quantized import QuantizedKernel, quantize
from jaxmoe.weights.placement import place_quantized

SHAPE = (3, 2, 64, 10)  # [L, E, I, O]
WHOLE = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
DTYPES = ("int8", "nf4")


def sharding(mesh, dtype) -> QuantizedKernel:
    like = jax.eval_shape(lambda x: quantize(x, dtype), WHOLE)
    axes = ("layer", "expert", "embed", "mlp")
    return jax.tree.map(lambda x: NamedSharding(mesh, params.partition_spec(axes, x.shape, mesh)), like)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2), (1, 1, 8)])
def test_a_mesh_holds_what_one_device_would(dtype, sizes):
    placed = place_quantized(SHAPE, sharding(params.make_mesh(*sizes), dtype), WHOLE.__getitem__, dtype)
    expected = quantize(WHOLE, dtype)
    jax.tree.map(np.testing.assert_array_equal, placed, expected)
    split = placed.values.sharding.shard_shape(placed.values.shape)
    assert np.prod(split) * sizes[1] * (sizes[2] if 10 % sizes[2] == 0 else 1) == placed.values.size


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_matrix_is_read_once_and_gone_before_the_next(dtype):
    alive: list[weakref.ref] = []
    most = 0

    def read(index) -> np.ndarray:
        nonlocal most
        gc.collect()
        floats = [x for x in jax.live_arrays() if x.dtype == np.float32 and x.size == 640]
        most = max(most, sum(matrix() is not None for matrix in alive), len(floats))
        part = WHOLE[index].copy()
        alive.append(weakref.ref(part))
        return part

    gc.freeze()  # what other tests left behind, at which each collection would look for a second
    try:
        place_quantized(SHAPE, sharding(params.single_device_mesh(), dtype), read, dtype)
    finally:
        gc.unfreeze()
    assert len(alive) == SHAPE[0] * SHAPE[1]
    assert most <= 1


def test_a_share_of_the_outputs_is_read_for_itself():
    asked = []

    def read(index) -> np.ndarray:
        asked.append((index[0].start, index[1].start, index[3].start, index[3].stop))
        return WHOLE[index]

    place_quantized(SHAPE, sharding(params.make_mesh(2, 2, 2), "int8"), read, "int8")
    halves = [(layer, expert, o, o + 5) for layer in range(3) for expert in range(2) for o in (0, 5)]
    assert sorted(asked) == halves  # once, though 8 devices hold parts of them


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_no_scale_fits_are_refused(bad):
    def read(index) -> np.ndarray:
        part = WHOLE[index].copy()
        part[..., 3, 2] = bad
        return part

    with pytest.raises(ValueError, match="nf4 holds finite weights only; got NaN or infinity"):
        place_quantized(SHAPE, sharding(params.single_device_mesh(), "nf4"), read, "nf4")
