"""Experts in MXFP4, the format in which GPT-OSS is released: dequantized as they are read, one at a time.

    NAME_blocks [E, O, I / 32, 16]   two numbers a byte, low bits first: sign, exponent (2), mantissa (1)
    NAME_scales [E, O, I / 32]       s + 127; w = 2^s · number

Reference: OCP Microscaling Formats (MX) Specification 1.0, section 5.3.3.
"""

import logging
from collections.abc import Mapping

import ml_dtypes
import numpy as np

from jaxmoe.weights.weight_files import MXFP4_PARTS, StoredTensor

log = logging.getLogger(__name__)

POSITIVE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
NUMBERS = np.array([*POSITIVE, *(-number for number in POSITIVE)], np.float32)
BIAS = 127


def dequantized(stored: Mapping[str, StoredTensor], where: object) -> dict[str, StoredTensor]:
    """A checkpoint's tensors, with those in MXFP4 as the matrices [E, I, O] that they encode, in bfloat16.

    Args:
      stored: the tensors by name; nothing is read.
      where: the folder, for the log, which reports what is dequantized.
    Returns: a new dictionary. Pairs whose shapes do not fit stay as they are, to be refused by name.
    """
    found = dict(stored)
    blocks_end, scales_end = MXFP4_PARTS
    for name in [name for name in stored if name.endswith(blocks_end)]:
        whole = name.removesuffix(blocks_end)
        blocks, scales = stored[name], stored.get(whole + scales_end)
        if scales is None or len(blocks.shape) != 4 or blocks.shape != (*scales.shape, 16):
            continue
        del found[name], found[whole + scales_end]
        found[whole] = _matrices(blocks, scales)
    if pairs := len(stored) - len(found):
        log.warning(
            "%s: %d tensors in MXFP4 are dequantized: in bfloat16 they take four times the memory",
            where,
            pairs,
        )
    return found


def _matrices(blocks: StoredTensor, scales: StoredTensor) -> StoredTensor:
    experts, outputs, runs, _ = blocks.shape
    every = slice(None)

    def read(index: tuple[slice, ...]) -> np.ndarray:
        expert, inputs, output = index
        values_EORB = blocks.read((expert, output, every, every))
        exponent_EOR = scales.read((expert, output, every)).astype(np.int32) - BIAS
        codes = np.stack([values_EORB & 15, values_EORB >> 4], axis=-1)
        numbers = NUMBERS[codes.reshape(*exponent_EOR.shape, 32)]
        matrix = np.ldexp(numbers, exponent_EOR[..., None]).reshape(*exponent_EOR.shape[:2], runs * 32)
        return matrix.swapaxes(1, 2)[:, inputs].astype(ml_dtypes.bfloat16)

    return StoredTensor((experts, runs * 32, outputs), np.dtype(ml_dtypes.bfloat16), read)
