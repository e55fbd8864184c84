"""int8 and NormalFloat4: values and scales against QLoRA's construction, qwix, and bounds of rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix
from scipy.stats import norm

from jaxmoe.model import params
from jaxmoe.model.quantized import BLOCK, NORMAL_FLOAT_4, QuantizedKernel, as_array, block_of, quantize

# what rounding to float32 adds, of the largest weight
ROUNDING = 4 * float(np.finfo(np.float32).eps)


def kernel_of(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, shape).astype(np.float32)


def test_the_sixteen_values_are_quantiles_of_the_normal_distribution():
    """QLoRA's construction, as in its authors' code: 8 quantiles below 0, 7 above, and 0 itself."""
    offset = 0.9677083  # (1 - 1 / 32 + 1 - 1 / 30) / 2, rounded as there
    below, above = (norm.ppf(np.linspace(offset, 0.5, n)[:-1]) for n in (8, 9))
    values = np.sort([*-below, 0.0, *above])
    # the offset has seven digits
    np.testing.assert_allclose(NORMAL_FLOAT_4, values / values.max(), rtol=0, atol=2e-7)


def test_int8_is_the_nearest_of_255_multiples_of_each_outputs_scale():
    kernel = kernel_of(3, 40, 6)
    found = quantize(jnp.asarray(kernel), "int8")
    assert (found.values.dtype, found.values.shape) == (np.int8, (3, 40, 6))
    largest = np.abs(kernel).max(1, keepdims=True)
    np.testing.assert_allclose(found.scales, largest / 127, rtol=ROUNDING)
    error = np.abs(np.asarray(found.dequantize()) - kernel)
    assert (error <= largest / 127 / 2 + ROUNDING * largest).all()
    assert (np.abs(np.asarray(found.values)).max(1) == 127).all()


@pytest.mark.parametrize(("inputs", "block"), [(128, 64), (48, 16), (8, 8)])
def test_nf4_is_the_nearest_of_16_values_in_each_block(inputs: int, block: int):
    kernel = kernel_of(2, inputs, 5)
    found = quantize(jnp.asarray(kernel), "nf4")
    assert (found.values.dtype, found.values.shape) == (np.uint8, (2, inputs // 2, 5))
    assert found.scales.shape == (2, inputs // block, 5)
    blocks = kernel.reshape(2, inputs // block, block, 5)
    largest = np.abs(blocks).max(2, keepdims=True)
    np.testing.assert_array_equal(found.scales, largest[:, :, 0])
    grid = np.asarray(NORMAL_FLOAT_4, np.float32) * largest[..., None]  # [.., block, O, 16]
    nearest = np.abs(grid - blocks[..., None]).min(-1)
    error = np.abs(np.asarray(found.dequantize()).reshape(blocks.shape) - blocks)
    assert (error <= nearest + ROUNDING * largest).all()


def test_nf4_is_what_qwix_makes_of_it():
    kernel = jnp.asarray(kernel_of(2, 192, 7))
    theirs = qwix.quantize(kernel, "nf4", channelwise_axes=(0, 2), tiled_axes={1: BLOCK})
    ours = quantize(kernel, "nf4")
    np.testing.assert_array_equal(ours.scales, theirs.scale)
    np.testing.assert_array_equal(ours.dequantize(), qwix.dequantize(theirs))


@pytest.mark.parametrize("dtype", ["int8", "nf4"])
def test_quantized_values_are_kept(dtype):
    """What a kernel stands for is quantized to the same values again; zeros stay zeros."""
    kernel = np.array(quantize(jnp.asarray(kernel_of(64, 9)), dtype).dequantize())
    kernel[:, 4] = 0
    again = quantize(jnp.asarray(kernel), dtype)
    np.testing.assert_allclose(again.dequantize(), kernel, rtol=ROUNDING)
    assert (np.asarray(again.dequantize())[:, 4] == 0).all()


@pytest.mark.parametrize("dtype", ["int8", "nf4"])
def test_a_layer_of_a_stack_is_its_slice(dtype):
    stack = quantize(jnp.asarray(kernel_of(3, 2, 32, 5)), dtype)
    assert stack.shape == (3, 2, 32, 5)
    assert stack[...].shape == stack.shape
    assert stack[1].shape == (2, 32, 5)
    np.testing.assert_array_equal(stack[2, 1].dequantize(), stack.dequantize()[2, 1])
    scanned = jax.lax.scan(lambda _, layer: (None, layer.dequantize()), None, stack)[1]
    np.testing.assert_array_equal(scanned, stack.dequantize())


def test_memory_is_a_byte_or_four_and_a_half_bits_a_weight():
    kernel = jnp.asarray(kernel_of(128, 96))
    eight, four = (quantize(kernel, dtype) for dtype in ("int8", "nf4"))
    assert params.storage_bytes(eight) == 128 * 96 + 96 * 4
    assert params.storage_bytes(four) * 8 == 128 * 96 * (4 + 32 / 64)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(four)) == params.storage_bytes(four)
    assert params.count({"a": four, "b": kernel}) == 2 * kernel.size


def test_the_compute_dtype_is_rounded_to_once():
    found = quantize(jnp.asarray(kernel_of(16, 3)), "nf4")
    half = as_array(found, jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, found.dequantize().astype(jnp.bfloat16))
    assert isinstance(found, QuantizedKernel)


@pytest.mark.parametrize("inputs", [4, 12, 63])
def test_nf4_refuses_inputs_without_a_block(inputs: int):
    with pytest.raises(ValueError, match=rf"multiple of 8; got {inputs}: take int8"):
        quantize(jnp.ones((inputs, 3)), "nf4")
    assert quantize(jnp.ones((inputs, 3)), "int8").shape == (inputs, 3)
    assert block_of(4096) == BLOCK
