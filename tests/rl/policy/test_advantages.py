"""Advantages: closed forms, reductions to known cases, masks in the middle, exact zeros."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.policy.advantages import gae, group_advantage, whiten

TOLERANCE = 1e-5
JITTED = jax.jit(
    lambda rewards, values, mask, discount, decay: gae(rewards, values, mask, discount=discount, decay=decay),
    static_argnums=(3, 4),
)


def arrays(*rows):
    return tuple(jnp.asarray(row, jnp.float32) for row in rows)


def test_three_steps_by_hand():
    # δ₂ = 1 − 3 = −2; δ₁ = 0 + .5·3 − 2 = −.5; δ₀ = 0 + .5·2 − 1 = 0, with γ = .5, λ = .8, γλ = .4
    # A₂ = −2; A₁ = −.5 + .4·(−2) = −1.3; A₀ = 0 + .4·(−1.3) = −.52
    rewards, values, mask = arrays([0, 0, 1], [1, 2, 3], [1, 1, 1])
    out = gae(rewards, values, mask, discount=0.5, decay=0.8)
    np.testing.assert_allclose(out.advantage_T, [-0.52, -1.3, -2.0], rtol=TOLERANCE)
    np.testing.assert_allclose(out.target_T, [0.48, 0.7, 1.0], rtol=TOLERANCE)


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.99, 1.0])
def test_decay_1_is_the_discounted_return_minus_the_value(discount):
    rng = np.random.default_rng(3)
    rewards, values, mask = arrays(rng.normal(size=9), rng.normal(size=9), np.ones(9))
    out = gae(rewards, values, mask, discount=discount, decay=1.0)
    returns = [sum(discount ** (k - t) * float(rewards[k]) for k in range(t, 9)) for t in range(9)]
    np.testing.assert_allclose(out.target_T, returns, atol=1e-4)
    np.testing.assert_allclose(out.advantage_T, np.asarray(returns) - np.asarray(values), atol=1e-4)


def test_decay_0_is_the_one_step_error():
    rewards, values, mask = arrays([1, 2, 3], [4, 5, 6], [1, 1, 1])
    out = gae(rewards, values, mask, discount=0.9, decay=0.0)
    np.testing.assert_allclose(out.advantage_T, [1 + 4.5 - 4, 2 + 5.4 - 5, 3 - 6], rtol=TOLERANCE)


def by_recursion(rewards, values, discount, decay):
    """The definition, for a sequence without any mask."""
    advantages, following, next_value = [], 0.0, 0.0
    for reward, value in zip(rewards[::-1], values[::-1], strict=True):
        following = reward + discount * next_value - value + discount * decay * following
        next_value = value
        advantages.append(following)
    return np.asarray(advantages[::-1])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31))
def test_masked_positions_are_stepped_over(seed):
    """With a mask in the middle and at the end the result is that of the sequence without those positions."""
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 2, 12)
    rewards, values = rng.normal(size=12), rng.normal(size=12)
    out = JITTED(*arrays(rewards, values, mask), 0.9, 0.7)
    expected = by_recursion(rewards[mask > 0], values[mask > 0], 0.9, 0.7)
    np.testing.assert_allclose(np.asarray(out.advantage_T)[mask > 0], expected, atol=TOLERANCE)
    np.testing.assert_allclose(
        np.asarray(out.target_T)[mask > 0], expected + values[mask > 0], atol=TOLERANCE
    )
    assert not np.asarray(out.advantage_T)[mask == 0].any()
    assert not np.asarray(out.target_T)[mask == 0].any()


def test_nothing_masked_in_gets_into_the_result():
    rewards, values, mask = arrays([0, np.nan, 1, np.inf], [1, np.nan, 3, np.nan], [1, 0, 1, 0])
    out = gae(rewards, values, mask, discount=1.0, decay=1.0)
    np.testing.assert_allclose(out.advantage_T, [0.0, 0, -2.0, 0])


def test_a_fully_masked_trajectory_is_zero():
    out = gae(*arrays([1, 1], [1, 1], [0, 0]))
    assert not np.asarray(out.advantage_T).any()
    assert not np.asarray(out.target_T).any()


def test_final_value_is_what_the_last_token_looks_forward_to():
    out = gae(*arrays([0, 1], [0, 0], [1, 1]), discount=0.5, decay=1.0, final_value=4.0)
    np.testing.assert_allclose(out.target_T, [0.5 * 3.0, 1 + 0.5 * 4.0])


@pytest.mark.parametrize(("discount", "decay", "named"), [(1.1, 0.9, "discount"), (1.0, -0.1, "decay")])
def test_settings_out_of_range_are_named(discount, decay, named):
    with pytest.raises(ValueError, match=f"{named} must lie in"):
        gae(*arrays([1], [1], [1]), discount=discount, decay=decay)


def test_whitened_entries_have_mean_0_and_variance_1_and_the_rest_is_0():
    x = jnp.asarray([[1.0, 2.0, jnp.nan], [3.0, 6.0, jnp.inf]])
    mask = jnp.asarray([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    out = np.asarray(whiten(x, mask))
    assert not out[:, 2].any()
    np.testing.assert_allclose(out[:, :2].mean(), 0.0, atol=TOLERANCE)
    np.testing.assert_allclose(out[:, :2].var(ddof=1), 1.0, rtol=TOLERANCE)
    kept = np.asarray(whiten(x, mask, shift=False))
    np.testing.assert_allclose(kept[:, :2].mean(), 3.0, rtol=TOLERANCE)


@pytest.mark.parametrize("mask", [[0, 0, 0], [1, 0, 0], [1, 1, 1]])
def test_whitening_what_does_not_vary_gives_0(mask):
    out = whiten(jnp.full((3,), 0.7), jnp.asarray(mask, jnp.float32))
    np.testing.assert_allclose(out, 0.0, atol=1e-3)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("baseline", ["grpo", "rloo"])
@pytest.mark.parametrize("samples", [2, 7, 16])
def test_identical_rewards_teach_exactly_nothing(baseline, samples):
    rewards = jnp.tile(jnp.linspace(-1, 1, 101)[:, None], (1, samples))
    assert not np.asarray(group_advantage(rewards, baseline)).any()


def test_group_baselines_by_hand():
    rewards = jnp.asarray([[1.0, 0.0, 0.0, -1.0]])
    # mean 0, unbiased σ = √(2/3); the mean of the others is −r/3
    np.testing.assert_allclose(
        group_advantage(rewards, "grpo"), [[1.5**0.5, 0, 0, -(1.5**0.5)]], rtol=1e-4, atol=TOLERANCE
    )
    np.testing.assert_allclose(group_advantage(rewards, "grpo", normalise=False), rewards, atol=TOLERANCE)
    np.testing.assert_allclose(group_advantage(rewards, "rloo"), rewards * (4 / 3), rtol=TOLERANCE)


def test_a_group_needs_two_samples():
    with pytest.raises(ValueError, match="at least 2; got 1"):
        group_advantage(jnp.ones((4, 1)), "rloo")


def test_batched_and_jitted_equals_one_by_one():
    rng = np.random.default_rng(0)
    rewards, values, mask = arrays(
        rng.normal(size=(4, 7)), rng.normal(size=(4, 7)), rng.integers(0, 2, (4, 7))
    )
    batched = jax.jit(jax.vmap(gae))(rewards, values, mask)
    for i in range(4):
        np.testing.assert_allclose(
            batched.advantage_T[i], gae(rewards[i], values[i], mask[i]).advantage_T, atol=TOLERANCE
        )
