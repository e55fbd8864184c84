"""Products of activations with frozen weights, which may be quantized.

By default, differentiation would keep every dequantized kernel for the backward pass: a float copy of the
model. So a quantized product keeps the quantized kernel, and its backward pass dequantizes it again.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxmoe.model.quantized import QuantizedKernel, as_array, is_quantized
from jaxmoe.model.shapes import Array, Float, Int, Weight
from jaxmoe.model.transposed import TransposedKernel, transposed_product


def product(
    x_BTI: Float[Array, "B T I"], kernel_IO: Float[Array, "I O"], dtype: DTypeLike | None = None
) -> Array:
    """x @ kernel over flattened rows: XLA's CPU backend differentiates a 2-D product up to twice as fast.

    Args:
      x_BTI: activations.
      kernel_IO: weight.
      dtype: of the sums and the result; x's unless given.
    Returns: [B, T, O].
    """
    batch, length, width = x_BTI.shape
    out = jnp.dot(x_BTI.reshape(batch * length, width), kernel_IO, preferred_element_type=dtype)
    return out.reshape(batch, length, -1)


def kernel_product(x_BTI: Float[Array, "B T I"], kernel_IO: Weight) -> Array:
    """x @ kernel, in x's dtype.

    Args:
      x_BTI: activations.
      kernel_IO: an array, a transposed one, or a quantized kernel, to which no gradient flows.
    Returns: [B, T, O].
    """
    if isinstance(kernel_IO, TransposedKernel):
        batch, length, width = x_BTI.shape
        out = transposed_product(x_BTI.reshape(-1, width), kernel_IO.kernel_OI.astype(x_BTI.dtype))
        return out.reshape(batch, length, -1)
    if is_quantized(kernel_IO):
        return _quantized_product(x_BTI, kernel_IO)
    return product(x_BTI, as_array(kernel_IO, x_BTI.dtype))


def grouped_product(x_XI: Float[Array, "X I"], kernel_GIO: Weight, sizes_G: Int[Array, " G"]) -> Array:
    """Rows sorted by group, each times its group's kernel, in x's dtype.

    Args:
      x_XI: the rows of group 0, then those of group 1, ..
      kernel_GIO: an array, or a quantized kernel, to which no gradient flows.
      sizes_G: rows of each group.
    Returns: [X, O].
    """
    if is_quantized(kernel_GIO):
        return _quantized_grouped_product(x_XI, kernel_GIO, sizes_G)
    return jax.lax.ragged_dot(x_XI, as_array(kernel_GIO, x_XI.dtype), sizes_G)


@jax.custom_vjp
def _quantized_product(x_BTI: Array, kernel_IO: QuantizedKernel) -> Array:
    return product(x_BTI, as_array(kernel_IO, x_BTI.dtype))


def _product_forward(x_BTI: Array, kernel_IO: QuantizedKernel) -> tuple[Array, QuantizedKernel]:
    return _quantized_product(x_BTI, kernel_IO), kernel_IO


def _product_backward(kernel_IO: QuantizedKernel, gradient_BTO: Array) -> tuple[Array, None]:
    return product(gradient_BTO, as_array(kernel_IO, gradient_BTO.dtype).T), None


_quantized_product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def _quantized_grouped_product(x_XI: Array, kernel_GIO: QuantizedKernel, sizes_G: Array) -> Array:
    return jax.lax.ragged_dot(x_XI, as_array(kernel_GIO, x_XI.dtype), sizes_G)


def _grouped_forward(
    x_XI: Array, kernel_GIO: QuantizedKernel, sizes_G: Array
) -> tuple[Array, tuple[QuantizedKernel, Array]]:
    return _quantized_grouped_product(x_XI, kernel_GIO, sizes_G), (kernel_GIO, sizes_G)


def _grouped_backward(kept: tuple[QuantizedKernel, Array], gradient_XO: Array) -> tuple[Array, None, None]:
    kernel_GIO, sizes_G = kept
    kernel_GOI = as_array(kernel_GIO, gradient_XO.dtype).swapaxes(1, 2)
    return jax.lax.ragged_dot(gradient_XO, kernel_GOI, sizes_G), None, None


_quantized_grouped_product.defvjp(_grouped_forward, _grouped_backward)
