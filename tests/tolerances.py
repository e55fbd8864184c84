"""How far two floating-point results may lie apart, on any processor.

Compilers add in other orders on other processors, so no absolute tolerance found on one machine holds on
all. Invariances and identities are therefore tested in double precision, where rounding and mistakes lie ten
orders of magnitude apart; where float32 itself is tested, the bound follows from its rounding.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import pytest

# Rounding in double precision is 1e-15 of the values, a few layers' worth 1e-13; mistakes are above 1e-4.
DOUBLE = 1e-10


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Inside, the same code computes in float64, which stands in float32's place; also a decorator of tests.

    A dtype argument whose default is float32 must be given: `dtype=jnp.float32` names float64 inside.
    """
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("standard"),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(jnp, "float32", jnp.float64)
        yield


def doubled(tree: Any) -> Any:
    """The float32 arrays of a pytree as float64, inside `double_precision`."""
    return jax.tree.map(lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, tree)


@contextlib.contextmanager
def torch_double_precision() -> Iterator[None]:
    """Inside, torch modules made `.double()` stay so where their code asks for float32 (norms, rotations)."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        for name in ("float32", "float"):
            patch.setattr(torch, name, torch.float64)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        yield


def assert_same(actual: Any, expected: Any, *, tolerance: float = DOUBLE) -> None:
    """Two pytrees agree to `tolerance` of each array's largest value (of 1 where that is less).

    Raises: AssertionError, also for arrays that are not float64: such a test was not in double precision.
    """
    ours, theirs = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (actual, expected))
    assert ours.keys() == theirs.keys()
    for path, value in theirs.items():
        name, found, value = jax.tree_util.keystr(path), np.asarray(ours[path]), np.asarray(value)
        assert found.dtype == np.float64, f"{name} is {found.dtype}: it was not computed in double precision"
        largest = max(float(np.abs(value).max(initial=0)), 1.0)
        np.testing.assert_allclose(found, value, rtol=0, atol=tolerance * largest, err_msg=name)


def rounding_bound(terms: int, magnitude: float, dtype: npt.DTypeLike = np.float32) -> float:
    """How far two ways of adding the same numbers may lie apart: 2 γₙ · magnitude, γₙ = n u / (1 − n u).

    u is half of the dtype's spacing at 1. Each way lies at most γₙ Σ|xᵢ| from the exact sum.

    Args:
      terms: n, the roundings on the longest way from an input to the result: the length of a sum of products
        and 1; of one after another, the total.
      magnitude: Σ|xᵢ|, the sum of the terms' absolute values, or a bound for it.
    Reference: Higham 2002, Accuracy and Stability of Numerical Algorithms, chapter 3.
    """
    n_u = terms * float(jnp.finfo(dtype).eps) / 2
    if n_u >= 1:
        raise ValueError(f"{terms} roundings leave nothing of {jnp.dtype(dtype)}")
    return 2 * n_u / (1 - n_u) * magnitude
