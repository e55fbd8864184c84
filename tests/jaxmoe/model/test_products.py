"""Products with quantized kernels: as with the values that they stand for, of which no copy is kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmoe.model import params
from jaxmoe.model.attention import AttentionMask
from jaxmoe.model.config import ExpertConfig, ModelConfig
from jaxmoe.model.products import grouped_product, kernel_product
from jaxmoe.model.quantized import quantize
from tests.tolerances import assert_same, double_precision

DTYPES = ("int8", "nf4")


def normal(*shape: int, seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("dtype", DTYPES)
@double_precision()
def test_a_product_and_its_input_gradient_are_those_of_the_dequantized_kernel(dtype):
    kernel = quantize(normal(32, 7, seed=0), dtype)
    x, weight = normal(2, 5, 32, seed=1), normal(2, 5, 7, seed=2)

    def both(kernel):
        return jax.value_and_grad(lambda x: (kernel_product(x, kernel) * weight).sum())(x)

    assert_same(both(kernel), both(kernel.dequantize()))


@pytest.mark.parametrize("dtype", DTYPES)
@double_precision()
def test_a_grouped_product_and_its_input_gradient_are_those_of_the_dequantized_kernels(dtype):
    kernel = quantize(normal(3, 32, 7, seed=0), dtype)
    x, weight, sizes = normal(9, 32, seed=1), normal(9, 7, seed=2), jnp.array([4, 0, 5], jnp.int32)

    def both(kernel):
        return jax.value_and_grad(lambda x: (grouped_product(x, kernel, sizes) * weight).sum())(x)

    assert_same(both(kernel), both(kernel.dequantize()))


def test_a_product_is_in_the_dtype_of_its_input():
    kernel, x = quantize(normal(32, 7, seed=0), "nf4"), jnp.ones((1, 2, 32), jnp.bfloat16)
    out, back = jax.vjp(lambda x: kernel_product(x, kernel), x)
    assert (out.dtype, back(out)[0].dtype) == (jnp.bfloat16, jnp.bfloat16)


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_backward_pass_keeps_no_float_copy_of_the_kernels(dtype, remat):
    """The gradient of a scanned model needs no more temporary memory than that with float kernels."""
    model = ModelConfig(97, 128, 512, 6, 2, 2, 64)

    def temporaries(quantized) -> int:
        parts = params.split(params.abstract(model, ExpertConfig(num_experts=2, rank=2), quantized))

        def loss(trainable, frozen, tokens):
            decoder = params.merge(parts._replace(trainable=trainable, frozen=frozen))
            positions = jnp.arange(4, dtype=jnp.int32)[None]
            mask = AttentionMask(jnp.ones_like(tokens), jnp.ones_like(tokens))
            return (decoder(tokens, positions, mask, remat=remat).hidden_BTD ** 2).sum()

        tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
        compiled = jax.jit(jax.grad(loss)).lower(parts.trainable, parts.frozen, tokens).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    kernel_bytes = 4 * 6 * (4 * 128 * 128 + 3 * 128 * 512)
    assert temporaries(dtype) < temporaries(None) + kernel_bytes / 6 / 4  # a fourth of a layer
