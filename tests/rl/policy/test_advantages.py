"""Advantages: closed forms, reductions to known cases, masks in the middle, exact zeros."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.policy.advantages import (
    RoundSignals,
    gae,
    gae_of_round,
    group_advantage,
    grpo_of_round,
    rloo_of_round,
    whiten,
)
from rl.policy.algorithms import settled
from rl.policy.config import RLConfig
from tests.tolerances import DOUBLE, rounding_bound

pytestmark = pytest.mark.usefixtures("in_double_precision")
JITTED = jax.jit(
    lambda rewards, values, mask, discount, lam: gae(
        rewards, values, mask, discount=discount, gae_lambda=lam
    ),
    static_argnums=(3, 4),
)


def arrays(*rows):
    return tuple(jnp.asarray(row, jnp.float32) for row in rows)


def test_three_steps_by_hand():
    # δ₂ = 1 − 3 = −2; δ₁ = 0 + .5·3 − 2 = −.5; δ₀ = 0 + .5·2 − 1 = 0, with γ = .5, λ = .8, γλ = .4
    # A₂ = −2; A₁ = −.5 + .4·(−2) = −1.3; A₀ = 0 + .4·(−1.3) = −.52
    rewards, values, mask = arrays([0, 0, 1], [1, 2, 3], [1, 1, 1])
    out = gae(rewards, values, mask, discount=0.5, gae_lambda=0.8)
    np.testing.assert_allclose(out.advantage_T, [-0.52, -1.3, -2.0], rtol=DOUBLE)
    np.testing.assert_allclose(out.target_T, [0.48, 0.7, 1.0], rtol=DOUBLE)


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.99, 1.0])
def test_lambda_1_is_the_discounted_return_minus_the_value(discount):
    rng = np.random.default_rng(3)
    rewards, values, mask = arrays(rng.normal(size=9), rng.normal(size=9), np.ones(9))
    out = gae(rewards, values, mask, discount=discount, gae_lambda=1.0)
    returns = [sum(discount ** (k - t) * float(rewards[k]) for k in range(t, 9)) for t in range(9)]
    np.testing.assert_allclose(out.target_T, returns, atol=DOUBLE)
    np.testing.assert_allclose(out.advantage_T, np.asarray(returns) - np.asarray(values), atol=DOUBLE)


def test_lambda_0_is_the_one_step_error():
    rewards, values, mask = arrays([1, 2, 3], [4, 5, 6], [1, 1, 1])
    out = gae(rewards, values, mask, discount=0.9, gae_lambda=0.0)
    np.testing.assert_allclose(out.advantage_T, [1 + 4.5 - 4, 2 + 5.4 - 5, 3 - 6], rtol=DOUBLE)


def by_recursion(rewards, values, discount, gae_lambda):
    """The definition, for a sequence without any mask."""
    advantages, following, next_value = [], 0.0, 0.0
    for reward, value in zip(rewards[::-1], values[::-1], strict=True):
        following = reward + discount * next_value - value + discount * gae_lambda * following
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
    np.testing.assert_allclose(np.asarray(out.advantage_T)[mask > 0], expected, atol=DOUBLE)
    np.testing.assert_allclose(np.asarray(out.target_T)[mask > 0], expected + values[mask > 0], atol=DOUBLE)
    assert not np.asarray(out.advantage_T)[mask == 0].any()
    assert not np.asarray(out.target_T)[mask == 0].any()


def test_nothing_masked_in_gets_into_the_result():
    rewards, values, mask = arrays([0, np.nan, 1, np.inf], [1, np.nan, 3, np.nan], [1, 0, 1, 0])
    out = gae(rewards, values, mask, discount=1.0, gae_lambda=1.0)
    np.testing.assert_allclose(out.advantage_T, [0.0, 0, -2.0, 0])


def test_a_fully_masked_trajectory_is_zero():
    out = gae(*arrays([1, 1], [1, 1], [0, 0]))
    assert not np.asarray(out.advantage_T).any()
    assert not np.asarray(out.target_T).any()


def test_final_value_is_what_the_last_token_looks_forward_to():
    out = gae(*arrays([0, 1], [0, 0], [1, 1]), discount=0.5, gae_lambda=1.0, final_value=4.0)
    np.testing.assert_allclose(out.target_T, [0.5 * 3.0, 1 + 0.5 * 4.0])


@pytest.mark.parametrize(
    ("discount", "gae_lambda", "named"), [(1.1, 0.9, "discount"), (1.0, -0.1, "gae_lambda")]
)
def test_settings_out_of_range_are_named(discount, gae_lambda, named):
    with pytest.raises(ValueError, match=f"{named} must lie in"):
        gae(*arrays([1], [1], [1]), discount=discount, gae_lambda=gae_lambda)


def test_whitened_entries_have_mean_0_and_variance_1_and_the_rest_is_0():
    x = jnp.asarray([[1.0, 2.0, jnp.nan], [3.0, 6.0, jnp.inf]])
    mask = jnp.asarray([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    out = np.asarray(whiten(x, mask))
    assert not out[:, 2].any()
    np.testing.assert_allclose(out[:, :2].mean(), 0.0, atol=DOUBLE)
    # of a variance of 14/3, to which 1e-8 is added
    np.testing.assert_allclose(out[:, :2].var(ddof=1), 1 / (1 + 1e-8 * 3 / 14), rtol=DOUBLE)
    kept = np.asarray(whiten(x, mask, shift=False))
    np.testing.assert_allclose(kept[:, :2].mean(), 3.0, rtol=DOUBLE)


@pytest.mark.parametrize("mask", [[0, 0, 0], [1, 0, 0], [1, 1, 1]])
def test_whitening_what_does_not_vary_gives_0(mask):
    out = whiten(jnp.full((3,), 0.7), jnp.asarray(mask, jnp.float32))
    # what rounding leaves of 0.7 − 0.7, over the root of the 1e-8 that is added to the variance
    np.testing.assert_allclose(out, 0.0, atol=rounding_bound(4, 0.7, np.float64) / 1e-8**0.5)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("baseline", ["grpo", "rloo"])
@pytest.mark.parametrize("samples", [2, 7, 16])
def test_identical_rewards_teach_exactly_nothing(baseline, samples):
    rewards = jnp.tile(jnp.linspace(-1, 1, 101)[:, None], (1, samples))
    assert not np.asarray(group_advantage(rewards, baseline)).any()


def test_group_baselines_by_hand():
    rewards = jnp.asarray([[1.0, 0.0, 0.0, -1.0]])
    # mean 0, unbiased σ = √(2/3), to which 1e-6 is added; the mean of the others is −r/3
    scaled = 1 / ((2 / 3) ** 0.5 + 1e-6)
    np.testing.assert_allclose(
        group_advantage(rewards, "grpo"), [[scaled, 0, 0, -scaled]], rtol=DOUBLE, atol=DOUBLE
    )
    np.testing.assert_allclose(group_advantage(rewards, "grpo", normalize=False), rewards, atol=DOUBLE)
    np.testing.assert_allclose(group_advantage(rewards, "rloo"), rewards * (4 / 3), rtol=DOUBLE)


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
            batched.advantage_T[i], gae(rewards[i], values[i], mask[i]).advantage_T, atol=DOUBLE
        )


def test_samples_that_are_left_out_count_in_no_baseline():
    """Of four samples the third is left out: the rest are a group of three, and it gets 0."""
    rewards = jnp.asarray([[1.0, 0.0, 50.0, -1.0], [2.0, 9.0, 9.0, 9.0]])
    counts = jnp.asarray([[1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    for baseline in ("grpo", "rloo"):
        out = np.asarray(group_advantage(rewards, baseline, counts_PG=counts))
        alone = np.asarray(group_advantage(rewards[:1, jnp.asarray([0, 1, 3])], baseline))[0]
        np.testing.assert_allclose(out[0], [alone[0], alone[1], 0.0, alone[2]], rtol=DOUBLE)
        assert not out[1].any()  # alone: nothing to be compared with


# verl's estimators on one case, written out from their definitions: scores of two prompts with three samples
SCORES = np.asarray([1.0, -0.3, -0.6, -1.0, -1.0, 1.0])
LENGTHS = np.asarray([2, 4, 1, 3, 3, 4])


def signals(penalty=0.0, counted=None):
    mask = (np.arange(4) < LENGTHS[:, None]).astype(np.float32)
    mask = mask if counted is None else mask * np.asarray(counted, np.float32)[:, None]
    zeros = np.zeros((6, 4))
    return RoundSignals(*arrays(SCORES, penalty + zeros, zeros + 0.25, np.zeros(6), mask), samples=3)  # type: ignore[arg-type]


def test_grpo_and_rloo_of_a_round_are_verls_numbers():
    """(s − mean) / (std + 1e-6) with the unbiased std, and s n / (n − 1) − sum / (n − 1)."""
    groups = SCORES.reshape(2, 3)
    grpo = (groups - groups.mean(1, keepdims=True)) / (groups.std(1, ddof=1, keepdims=True) + 1e-6)
    rloo = groups * 3 / 2 - groups.mean(1, keepdims=True) * 3 / 2
    made = signals()
    for function, expected in ((grpo_of_round, grpo), (rloo_of_round, rloo)):
        out = function(made, settled("grpo", RLConfig()))
        np.testing.assert_allclose(
            out.advantage_BW, expected.reshape(6, 1) * np.asarray(made.mask_BW), rtol=DOUBLE, atol=DOUBLE
        )
        assert not np.asarray(out.target_BW).any()


def test_a_penalty_counts_at_every_sampled_token():
    """.1 a token: rewards of the group fall by a tenth of their lengths; GAE at λ = 1 by what is to come."""
    expected = grpo_of_round(
        signals()._replace(rewards_B=jnp.asarray(SCORES - 0.1 * LENGTHS, jnp.float32)),
        settled("grpo", RLConfig()),
    )
    np.testing.assert_allclose(
        grpo_of_round(signals(0.1), settled("grpo", RLConfig())).advantage_BW,
        expected.advantage_BW,
        rtol=DOUBLE,
        atol=DOUBLE,
    )
    out = gae_of_round(signals(0.1), RLConfig(gae_lambda=1.0))
    np.testing.assert_allclose(out.target_BW[0], [1 - 0.2, 1 - 0.1, 0, 0], rtol=DOUBLE)


def test_gae_of_a_round_ends_in_the_final_value():
    made = signals()._replace(final_B=jnp.full(6, 0.5), rewards_B=jnp.zeros(6))
    out = gae_of_round(made, RLConfig(gae_lambda=1.0, discount=0.5))
    # three tokens and then .5: .5 · .5³ at the first
    np.testing.assert_allclose(out.target_BW[3], [0.0625, 0.125, 0.25, 0], rtol=DOUBLE)
