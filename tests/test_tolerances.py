"""Double precision is double, and the bound on rounding holds without being empty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tolerances import assert_same, double_precision, doubled, rounding_bound


def third(x):
    return (x / 3).astype(jnp.float32) * 3


def test_inside_float64_stands_in_the_place_of_float32():
    run = jax.jit(third)
    assert run(jnp.ones(2)).dtype == np.float32
    with double_precision():
        assert run(jnp.ones(2)).dtype == np.float64
        assert doubled({"a": np.ones(2, np.float32), "b": np.ones(2, np.int32)})["a"].dtype == np.float64
    assert run(jnp.ones(2)).dtype == np.float32
    assert jnp.float32 == np.float32


def test_single_precision_does_not_pass_for_double():
    with pytest.raises(AssertionError, match=r"'a'.* is float32: it was not computed in double precision"):
        assert_same({"a": jnp.ones(2)}, {"a": jnp.ones(2)})


@double_precision()
def test_a_small_mistake_is_found():
    assert_same({"a": jnp.ones(3) + 1e-13}, {"a": jnp.ones(3)})
    with pytest.raises(AssertionError, match="'b'"):
        assert_same({"a": jnp.ones(3), "b": jnp.ones(2) + 1e-8}, {"a": jnp.ones(3), "b": jnp.ones(2)})


def test_sums_in_any_order_lie_within_the_bound_and_not_far_within():
    rng = np.random.default_rng(0)
    largest = 0.0
    for _ in range(20):
        x = rng.normal(size=1000).astype(np.float32)
        bound = rounding_bound(len(x), float(np.abs(x).sum()))
        # one after the other, forwards and sorted: the orders with the largest errors
        sums = [
            np.cumsum(order, dtype=np.float32)[-1]
            for order in (x, np.sort(x), x[np.argsort(np.abs(x))[::-1]])
        ]
        assert np.ptp(sums) <= bound
        largest = max(largest, float(np.ptp(sums)) / bound)
    assert largest > 1e-4
    with pytest.raises(ValueError, match="roundings leave nothing"):
        rounding_bound(1 << 24, 1.0)
