"""The balancing losses in closed form."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmoe.model import balance
from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.router import RouterStatistics
from tests.tolerances import assert_same, double_precision


def make_statistics(weight_LBZE, z_square=0.0) -> RouterStatistics:
    weight = jnp.asarray(weight_LBZE, jnp.float32)
    scalar = jnp.full(weight.shape[:-1], z_square, jnp.float32)
    return RouterStatistics(weight, weight, weight, scalar, jnp.zeros_like(scalar))


@double_precision()
def test_importance_of_groups():
    types = jnp.asarray([1, 0, -1])
    got = balance.importance(types, 4, 0.1)
    assert_same(got, np.array([[1.1, 1.1, 0.9, 0.9], [0.9, 0.9, 1.1, 1.1], [0.9] * 4]))
    swapped = balance.importance(types, 4, 0.1, matched_gets_more=True)
    assert_same(swapped, 2 - got)


@pytest.mark.parametrize(("matched_gets_more", "share"), [(False, 0.45), (True, 0.55)])
@double_precision()
def test_minimum_of_the_constraint_lies_at_the_documented_share(matched_gets_more, share):
    """I∘Q is even where the matching half holds (1∓δ)/2 of the weight: (1+δ) s = (1−δ)(1−s) → s = (1−δ)/2."""
    config = BalanceConfig(weight=1.0, delta=0.1, matched_gets_more=matched_gets_more)
    q = 100 * np.array([[share / 2] * 2 + [(1 - share) / 2] * 2, [(1 - share) / 2] * 2 + [share / 2] * 2])
    statistics = {"p": make_statistics(q[None, :, None])}
    types = jnp.asarray([[1], [0]])
    loss = balance.balance_loss(statistics, types, jnp.full((2, 1), 100.0), {"p": (4,)}, config)
    assert_same(loss.total, 0.0)


@double_precision()
def test_code_and_paper_forms():
    """Q = (1, 3), δ = 0: mean 2, unbiased variance 2."""
    statistics = {"p": make_statistics([[[[1.0, 3.0]]]])}
    for form, expected in [("code", 2 / 4), ("paper", 2 / 2)]:
        config = BalanceConfig(weight=1.0, delta=0.0, form=form)
        loss = balance.balance_loss(
            statistics, jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1)), {"p": (2,)}, config
        )
        assert_same(loss.localized, expected)


@double_precision()
def test_groups_absent_experts_and_empty_samples():
    """Two layers, the second without its third expert; one sample empty; groups of one row."""
    q = np.array([[[1.0, 3.0, 5.0], [0, 0, 0]], [[2.0, 2.0, 2.0], [4.0, 4.0, 4.0]]])
    statistics = {"p": make_statistics(np.stack([q, q]))}
    types, tokens = jnp.full((2, 2), -1), jnp.asarray([[9.0, 0.0], [6.0, 12.0]])
    config = BalanceConfig(weight=1.0, delta=0.0, group_size=2)
    loss = balance.balance_loss(statistics, types, tokens, {"p": (3, 2)}, config)
    first = np.array([1.0, 3.0, 5.0])
    second = np.array([2.0, 2, 2, 4, 4, 4])
    layer_0 = (first.var(ddof=1) / 9 + second.var(ddof=1) / 9) / 2
    a, b = np.array([1.0, 3.0]), np.array([2.0, 2, 4, 4])
    layer_1 = (a.var(ddof=1) / 4 + b.var(ddof=1) / 9) / 2
    assert_same(loss.localized, layer_0 + layer_1)


def test_one_expert_and_one_sample_cost_nothing():
    statistics = {"p": make_statistics([[[[7.0]]]])}
    loss = balance.balance_loss(
        statistics,
        jnp.zeros((1, 1), jnp.int32),
        jnp.full((1, 1), 7.0),
        {"p": (1,)},
        BalanceConfig(weight=1.0),
    )
    assert loss.total == 0.0


@double_precision()
def test_switch_loss_is_one_when_even_and_e_when_collapsed():
    config = BalanceConfig(weight=0.0, switch_weight=1.0)
    for weight, expected in [([5.0, 5.0, 5.0, 5.0], 1.0), ([20.0, 0.0, 0.0, 0.0], 4.0)]:
        statistics = {"p": make_statistics([[[weight]]])}
        loss = balance.balance_loss(
            statistics, jnp.zeros((1, 1), jnp.int32), jnp.full((1, 1), 20.0), {"p": (4,)}, config
        )
        assert_same(loss.switch, expected)


@double_precision()
def test_z_loss_is_the_mean_square_over_tokens_and_routers():
    config = BalanceConfig(weight=0.0, z_weight=0.5)
    statistics = {n: make_statistics(np.ones((3, 2, 1, 4)), z_square=8.0) for n in ("p", "q")}
    loss = balance.balance_loss(
        statistics,
        jnp.zeros((2, 1), jnp.int32),
        jnp.full((2, 1), 4.0),
        {"p": (4,) * 3, "q": (4,) * 3},
        config,
    )
    assert_same(loss.z, 0.5 * (2 * 8.0) / 8.0)  # 2 rows of 8.0 over 8 tokens


def test_group_size_that_does_not_divide_is_an_error():
    statistics = {"p": make_statistics(np.ones((1, 3, 1, 2)))}
    with pytest.raises(ValueError, match="group_size must divide the batch's 3 samples; got 2"):
        balance.balance_loss(
            statistics,
            jnp.zeros((3, 1), jnp.int32),
            jnp.ones((3, 1)),
            {"p": (2,)},
            BalanceConfig(group_size=2),
        )
