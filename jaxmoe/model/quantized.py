"""Frozen kernels held in fewer bits than a float, and dequantized where they are used.

    int8   w ≈ s · q, q an integer, |q| ≤ 127; one scale s for each output      8 bits
    nf4    w ≈ s · c[q], c the 16 values of NormalFloat4; one s for 64 inputs   4 + 32 / 64 bits

s is the largest |w| among those that share it (for int8, that / 127), in float32; q is the nearest. Two
values of nf4 share a byte: the first half of a block of B inputs is in the low four bits, the second in the
high ones, so that a kernel can be split between blocks.
Reference: Dettmers et al. 2023, arXiv:2305.14314, section 3 and appendix E.
"""

import dataclasses
import math
from functools import partial
from typing import Literal, TypeGuard, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxmoe.model.shapes import Array, Float, Weight

QuantizedDtype = Literal["int8", "nf4"]
QUANTIZED: tuple[QuantizedDtype, ...] = get_args(QuantizedDtype)
# number of inputs that share a scale in nf4
BLOCK = 64
# with shorter blocks the scales would take more room than the values
SHORTEST_BLOCK = 8
# quantiles of the normal distribution, scaled to [-1, 1], with an exact 0 (appendix E)
NORMAL_FLOAT_4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


@partial(jax.tree_util.register_dataclass, data_fields=["values", "scales"], meta_fields=["quantized_dtype"])
@dataclasses.dataclass(frozen=True)
class QuantizedKernel:
    """A kernel [.., I, O] as values and scales: two leaves of the tree, sharded and sliced like any others.

    Attributes:
      values: int8 [.., I, O]; for nf4 uint8 [.., I / 2, O].
      scales: float32, [.., 1, O]; for nf4 [.., I / B, O].
      quantized_dtype: int8 or nf4.
    """

    values: Array
    scales: Array
    quantized_dtype: QuantizedDtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the kernel that it represents."""
        *lead, inputs, outputs = self.values.shape
        return (*lead, inputs * (2 if self.quantized_dtype == "nf4" else 1), outputs)

    def __getitem__(self, place: object) -> "QuantizedKernel":
        """The kernel at an index of the leading axes; `...` is the whole."""
        return jax.tree.map(lambda leaf: leaf[place], self)

    def dequantize(self) -> Float[Array, "... I O"]:
        """The values that it represents, in float32."""
        if self.quantized_dtype == "int8":
            return self.values.astype(jnp.float32) * self.scales
        *lead, blocks, outputs = self.scales.shape
        halves = self.values.reshape(*lead, blocks, -1, outputs)
        code = jnp.concatenate([halves & 15, halves >> 4], axis=-2)
        found = jnp.asarray(NORMAL_FLOAT_4, jnp.float32)[code.astype(jnp.int32)]
        return (found * self.scales[..., None, :]).reshape(self.shape)


def is_quantized(weight: Weight) -> TypeGuard[QuantizedKernel]:
    """Whether a weight of the parameter tree is a quantized kernel: one weight, but two arrays."""
    return isinstance(weight, QuantizedKernel)


def quantize(kernel: Float[Array, "... I O"], dtype: QuantizedDtype) -> QuantizedKernel:
    """The nearest quantized kernel.

    Args:
      kernel: any leading axes.
      dtype: int8 or nf4.
    Returns: values and scales.
    Raises: ValueError for nf4, if no block fits the inputs.

    >>> quantize(jnp.array([[127.0, 0.0], [-64.2, 5.0]]), "int8").values.tolist()
    [[127, 0], [-64, 127]]
    """
    wide = kernel.astype(jnp.float32)
    if dtype == "int8":
        scales = jnp.abs(wide).max(-2, keepdims=True) / 127
        return QuantizedKernel(jnp.round(_divided(wide, scales)).astype(jnp.int8), scales, dtype)
    *lead, inputs, outputs = kernel.shape
    block = block_of(inputs)
    blocks = wide.reshape(*lead, inputs // block, block, outputs)
    scales = jnp.abs(blocks).max(-2)
    code = _nearest_code(_divided(blocks, scales[..., None, :]))
    low, high = code[..., : block // 2, :], code[..., block // 2 :, :]
    return QuantizedKernel((low | (high << 4)).reshape(*lead, inputs // 2, outputs), scales, dtype)


def _divided(kernel: Array, scales: Array) -> Array:
    """0 where all weights that share a scale are 0."""
    return kernel / jnp.where(scales == 0, 1.0, scales)


def _nearest_code(share: Array) -> Array:
    """Index of the nearest NormalFloat4 value: how many midpoints between neighbors lie below."""
    values = np.asarray(NORMAL_FLOAT_4)
    code = jnp.zeros(share.shape, jnp.uint8)
    for midpoint in ((values[1:] + values[:-1]) / 2).astype(np.float32):
        code += (share > midpoint).astype(jnp.uint8)
    return code


def block_of(inputs: int) -> int:
    """How many inputs share a scale in nf4: 64, or the largest smaller power of two that divides them.

    Args:
      inputs: of the kernel.
    Raises: ValueError if that is less than 8.

    >>> block_of(576), block_of(48)
    (64, 16)
    """
    block = math.gcd(inputs, BLOCK)
    if block < SHORTEST_BLOCK:
        raise ValueError(
            f"nf4 needs kernels whose inputs are a multiple of {SHORTEST_BLOCK}; got {inputs}: take int8"
        )
    return block


def as_array(kernel: Weight, dtype: DTypeLike) -> Array:
    """A kernel in compute dtype; a quantized one is dequantized in float32.

    Args:
      kernel: an array or a quantized kernel.
      dtype: of the result.
    Returns: the kernel's values.
    """
    return (kernel.dequantize() if is_quantized(kernel) else kernel).astype(dtype)
