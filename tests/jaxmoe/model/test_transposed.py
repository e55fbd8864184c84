"""Kernels stored as their transposes give the products of the kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmoe.generation import engine_programs
from jaxmoe.model import params
from jaxmoe.model.config import ExpertConfig, ModelConfig
from jaxmoe.model.products import kernel_product
from jaxmoe.model.quantized import as_array
from jaxmoe.model.transposed import TransposedKernel
from tests.tolerances import rounding_bound

CONFIG = ModelConfig(
    vocab_size=50, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8
)


def test_product_and_values_are_those_of_the_kernel():
    x, kernel = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(2, 3, 8), (8, 5)]))
    transposed = TransposedKernel(kernel.T)
    bound = rounding_bound(8, float(jnp.abs(x).max() * jnp.abs(kernel).max()) * 8)
    found = jax.jit(kernel_product)(x, transposed)
    np.testing.assert_allclose(found, kernel_product(x, kernel), rtol=0, atol=bound)
    np.testing.assert_array_equal(as_array(transposed[...], jnp.float32), kernel)


@pytest.mark.parametrize("quantized", [False, True])
def test_dense_kernels_of_all_layers_are_transposed(quantized):
    model = params.build(CONFIG, ExpertConfig(num_experts=2, rank=2, targets=("q_proj",)))
    if quantized:
        params.quantize_kernels(model, "int8")
    found = engine_programs.layers(params.split(model), unrolled=True, transposed=True)
    turned = jax.tree.leaves(found.states, is_leaf=lambda leaf: isinstance(leaf, TransposedKernel))
    count = sum(isinstance(leaf, TransposedKernel) for leaf in turned)
    assert count == (0 if quantized else 7 * CONFIG.num_layers)
