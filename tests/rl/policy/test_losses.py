"""PPO's losses: closed forms, reductions, gradients of masked tokens, batches cut to pieces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmoe.generation.sampling import Sampling, sampled_log_probability
from rl.policy import losses
from rl.policy.algorithms import settled
from rl.policy.config import KLConfig, RLConfig
from rl.policy.critic import new_critic, new_head
from rl.policy.importance import importance_weights
from tests.tolerances import DOUBLE, double_precision, rounding_bound

ONES = np.ones((1,))


def surrogate(ratio, advantage, **clip):
    return losses.clipped_surrogate(
        jnp.log(jnp.asarray([ratio])), jnp.zeros(1), jnp.asarray([advantage]), ONES, **clip
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, False),
        (1.5, 2.0, -2.4, True),  # no more than 1.2 · 2 to be gained
        (1.5, -2.0, 3.0, False),  # but all of the harm is felt
        (0.5, 2.0, -1.0, False),
        (0.5, -2.0, 1.6, True),  # −min(.5·−2, .8·−2)
    ],
)
@double_precision()
def test_clipped_surrogate_in_its_four_corners(ratio, advantage, loss, clipped):
    out = surrogate(ratio, advantage)
    np.testing.assert_allclose(out.loss, [loss], rtol=DOUBLE)
    assert bool(out.clipped[0]) is clipped


@double_precision()
def test_clipping_is_two_sided():
    np.testing.assert_allclose(surrogate(2.0, 1.0, clip_high=0.5).loss, [-1.5], rtol=DOUBLE)
    np.testing.assert_allclose(surrogate(0.1, -1.0, clip_low=0.4).loss, [0.6], rtol=DOUBLE)


@double_precision()
def test_at_ratio_1_the_gradient_is_the_policy_gradient():
    logprob, advantage = jnp.asarray([-1.0, -2.0]), jnp.asarray([0.5, -3.0])
    grad = jax.grad(lambda lp: losses.clipped_surrogate(lp, logprob, advantage, jnp.ones(2)).loss.sum())(
        logprob
    )
    np.testing.assert_allclose(grad, -advantage, rtol=DOUBLE)


def test_without_clipping_the_value_loss_is_half_the_squared_error():
    value, target = jnp.asarray([1.0, 3.0]), jnp.asarray([2.0, 0.0])
    out = losses.clipped_value_loss(value, jnp.zeros(2), target, jnp.ones(2), clip=None)
    np.testing.assert_allclose(out.loss, [0.5, 4.5])


@double_precision()
def test_the_value_loss_takes_the_larger_error():
    # v = 1 reached the target but ran 1 from v_old = 0: clipped to .2, error .8, ½·.64
    out = losses.clipped_value_loss(ONES, jnp.zeros(1), ONES, ONES, clip=0.2)
    np.testing.assert_allclose(out.loss, [0.32], rtol=DOUBLE)
    # within the clip range both are the same
    near = losses.clipped_value_loss(0.1 * ONES, jnp.zeros(1), ONES, ONES, clip=0.2)
    np.testing.assert_allclose(near.loss, [0.405], rtol=DOUBLE)


@double_precision()
def test_kl_estimators_by_hand_and_at_equality():
    # log π − log π_ref = ln 2
    logprob, reference = jnp.log(jnp.asarray([0.5])), jnp.log(jnp.asarray([0.25]))
    expected = {"k1": np.log(2), "k2": np.log(2) ** 2 / 2, "k3": 0.5 - 1 + np.log(2)}
    for name, value in expected.items():
        np.testing.assert_allclose(losses.kl_estimate(logprob, reference, ONES, name), [value], rtol=DOUBLE)
        assert losses.kl_estimate(logprob, logprob, ONES, name)[0] == 0.0


@double_precision()
def test_kl_estimators_agree_with_the_kl_in_expectation():
    p, q = jnp.asarray([0.2, 0.5, 0.3]), jnp.asarray([0.4, 0.4, 0.2])
    exact = float((p * jnp.log(p / q)).sum())
    for name in ("k1", "k3"):
        mean = float((p * losses.kl_estimate(jnp.log(p), jnp.log(q), jnp.ones(3), name)).sum())
        np.testing.assert_allclose(mean, exact, rtol=DOUBLE)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_masked_tokens_have_gradient_0_whatever_stands_there(poison):
    mask = jnp.asarray([1.0, 0.0, 1.0])
    good = jnp.asarray([-0.1, -0.2, -0.3])
    bad = good.at[1].set(poison)

    def total(x):
        policy = losses.clipped_surrogate(x, bad - 0.01, bad, mask).loss
        value = losses.clipped_value_loss(x, bad, bad + 1, mask).loss
        kl = sum(losses.kl_estimate(x, bad * 2, mask, k) for k in ("k1", "k2", "k3"))
        return (policy + value + kl).sum()

    value, grad = jax.jit(jax.value_and_grad(total))(bad)
    assert np.isfinite(value)
    assert np.isfinite(grad).all()
    assert grad[1] == 0.0
    assert (np.asarray(grad)[[0, 2]] != 0).all()


def gradient_of_kl(estimator):
    """The expected gradient of the estimator at 5 tokens, and those of KL(π ‖ ref) and KL(ref ‖ π)."""
    logits = jnp.asarray([1.0, 0.2, -0.5, 0.3, 0.0])
    reference = jax.nn.log_softmax(jnp.asarray([0.0, 1.0, 0.5, -1.0, 0.2]))

    def one(w, token):
        return losses.kl_estimate(jax.nn.log_softmax(w)[token], reference[token], jnp.ones(()), estimator)

    each = jax.vmap(jax.grad(one), (None, 0))(logits, jnp.arange(5))
    mean = (jax.nn.softmax(logits)[:, None] * each).sum(0)
    ours = jax.grad(lambda w: (jax.nn.softmax(w) * (jax.nn.log_softmax(w) - reference)).sum())(logits)
    theirs = jax.grad(lambda w: -(jnp.exp(reference) * jax.nn.log_softmax(w)).sum())(logits)
    return mean, ours, theirs


@double_precision()
def test_in_a_loss_k2_has_the_gradient_of_the_kl_k3_of_its_reverse_and_k1_none():
    mean, ours, _ = gradient_of_kl("k2")
    np.testing.assert_allclose(mean, ours, atol=DOUBLE)
    mean, _, theirs = gradient_of_kl("k3")
    np.testing.assert_allclose(mean, theirs, atol=DOUBLE)
    mean, ours, _ = gradient_of_kl("k1")
    np.testing.assert_allclose(mean, 0.0, atol=DOUBLE)
    assert np.abs(ours).max() > 0.1


def test_k1_is_refused_in_the_loss_and_each_place_has_its_own_estimator():
    with pytest.raises(ValueError, match=r"must be k2 or k3 with ppo\.kl\.place=loss; got k1"):
        KLConfig(place="loss", estimator="k1")
    assert KLConfig(place="loss").estimator == "k2"
    assert KLConfig().estimator == "k1"
    assert KLConfig(place="loss", estimator="k3").estimator == "k3"


# log π − log π_old, advantages: small and large ratios of both signs, and beyond every clamp
LOG_RATIOS = np.asarray([0.0, 0.1, -0.3, 0.5, 1.5, -1.5, 19.0, 45.0, -45.0, 45.0])
ADVANTAGES = np.asarray([1.0, -1.0, 2.0, -2.0, -1.0, 1.0, 1.0, 2.0, -2.0, -2.0])


def verls_policy_loss(log_ratio, advantage, low, high, dual):
    """verl's compute_policy_loss of a token, in float64: clamp to ±20, two-sided clip, dual clip."""
    ratio = np.exp(np.clip(log_ratio, -20.0, 20.0))
    first = np.maximum(-advantage * ratio, -advantage * np.clip(ratio, 1 - low, 1 + high))
    return np.where(advantage < 0, np.minimum(-advantage * dual, first), first)


@pytest.mark.parametrize(("low", "high", "dual"), [(0.2, 0.2, 3.0), (0.2, 0.28, 10.0), (0.1, 0.3, 1e12)])
@double_precision()
def test_the_surrogate_is_verls(low, high, dual):
    """A dual clip of 1e12 is none: exp(20) is 5e8."""
    logprob, old = jnp.asarray(LOG_RATIOS, jnp.float32) - 50.0, jnp.full(10, -50.0)
    clip = {"clip_low": low, "clip_high": high, "dual_clip": None if dual > 1e9 else dual}
    out = losses.clipped_surrogate(logprob, old, jnp.asarray(ADVANTAGES, jnp.float32), jnp.ones(10), **clip)
    np.testing.assert_allclose(
        out.loss, verls_policy_loss(LOG_RATIOS, ADVANTAGES, low, high, dual), rtol=DOUBLE
    )
    config = settled("ppo", RLConfig(**clip))
    again = losses.ppo_loss(logprob, old, jnp.asarray(ADVANTAGES, jnp.float32), jnp.ones(10), config)
    np.testing.assert_array_equal(out.loss, again.loss)


@double_precision()
def test_a_dual_clip_ends_the_gradient_of_large_ratios_with_negative_advantage():
    def loss(logprob, dual):
        return losses.clipped_surrogate(logprob, jnp.zeros(2), -jnp.ones(2), jnp.ones(2), dual_clip=dual)

    logprob = jnp.log(jnp.asarray([2.0, 4.0]))
    np.testing.assert_allclose(loss(logprob, 3.0).loss, [2.0, 3.0], rtol=DOUBLE)
    np.testing.assert_array_equal(loss(logprob, 3.0).clipped, [0.0, 1.0])
    grad = jax.grad(lambda x: loss(x, 3.0).loss.sum())(logprob)
    np.testing.assert_allclose(grad, [2.0, 0.0], rtol=DOUBLE)
    np.testing.assert_allclose(loss(logprob, None).loss, [2.0, 4.0], rtol=DOUBLE)


@double_precision()
def test_k3_is_verls():
    """clip(exp(k) − k − 1, ±10) with k = clip(log π_ref − log π, ±20); unclamped, exp(90) is no float32."""
    difference = np.asarray([0.0, 0.5, -0.5, 2.0, -2.0, -3.0, 12.0, -90.0, 90.0])
    bounded = np.clip(-difference, -20.0, 20.0)
    expected = np.clip(np.exp(bounded) - bounded - 1, -10.0, 10.0)
    x = jnp.asarray(difference, jnp.float32)
    np.testing.assert_allclose(losses.kl_estimate(x, jnp.zeros(9), jnp.ones(9), "k3"), expected, rtol=DOUBLE)
    grad = jax.grad(lambda x: losses.kl_estimate(x, jnp.zeros(9), jnp.ones(9), "k3").sum())(x)
    assert np.isfinite(grad).all()
    assert not np.asarray(grad)[-3:].any()


def test_importance_weights_correct_what_a_tempered_nucleus_changes():
    """E_q[w f] = Σ over the nucleus of π f, with q = softmax(z / .8) in its nucleus of .9; capped at 2."""
    logits = jnp.asarray([2.0, 1.0, 0.5, 0.0, -1.0, -2.0])
    policy = np.asarray(jax.nn.softmax(logits), np.float64)
    how = Sampling(0.8, top_p=0.9)
    rows = jnp.broadcast_to(logits, (6, 6))
    sampler = sampled_log_probability(rows, jnp.arange(6), how)
    kept = np.arange(6) < 3  # .64, .18 and .10 of softmax(z / .8) reach .9
    drawn = np.where(kept, np.exp(sampler), 0.0)
    np.testing.assert_allclose(drawn.sum(), 1.0, rtol=rounding_bound(20, 1.0))
    learner, drawn_from = jnp.log(jnp.asarray(policy))[None], sampler[None]
    weights = importance_weights(learner, drawn_from, jnp.ones((1, 6)), cap=2.0).weight_BW[0]
    f = np.arange(6.0)
    np.testing.assert_allclose(
        (drawn * np.asarray(weights) * f)[kept].sum(), (policy * f)[kept].sum(), rtol=rounding_bound(20, 1.0)
    )
    ratios = jnp.log(jnp.asarray([0.5, 1.0, 8.0, np.exp(30.0)]))
    zeros, here = jnp.zeros((1, 4)), jnp.asarray([[1.0, 1.0, 1.0, 0.0]])
    capped = importance_weights(ratios[None], zeros, here, cap=2.0)
    np.testing.assert_allclose(capped.weight_BW, [[0.5, 1.0, 2.0, 1.0]], rtol=rounding_bound(20, 1.0))
    np.testing.assert_array_equal(capped.bounded_BW, [[0, 0, 1, 0]])
    assert (np.asarray(importance_weights(ratios[None], zeros, here, cap=None).weight_BW) == 1).all()


LOG_WEIGHTS = np.log([[0.25, 0.5, 1.0, 4.0], [2.0, 1.5, 1.0, 9.0]])
WEIGHT_MASK = np.asarray([[1, 1, 1, 1], [1, 1, 0, 0.0]])


def peers_weights(mode, low, high):
    """TRL's GRPOTrainer: exp of the masked difference, by token or summed; clamped, or 0 outside."""
    difference = LOG_WEIGHTS * WEIGHT_MASK
    if mode.startswith("sequence"):
        difference = np.broadcast_to(difference.sum(1, keepdims=True), difference.shape)
    ratio = np.exp(difference)
    if mode.endswith("truncate"):
        return np.clip(ratio, low, high)
    return np.where((ratio < low) | (ratio > high), 0.0, ratio)


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
@pytest.mark.parametrize("low", [None, 0.45])
@double_precision()
def test_importance_weights_are_trls_truncated_and_masked_by_token_and_sequence(mode, low):
    zeros = jnp.zeros_like(LOG_WEIGHTS)
    found = importance_weights(LOG_WEIGHTS, zeros, WEIGHT_MASK, mode=mode, cap=2.0, floor=low)
    expected = peers_weights(mode, -np.inf if low is None else low, 2.0)
    np.testing.assert_allclose((found.weight_BW * WEIGHT_MASK), expected * WEIGHT_MASK, rtol=DOUBLE)
    ratio = peers_weights(mode.replace("mask", "truncate"), -np.inf, np.inf)
    changed = (np.abs(expected - ratio) > DOUBLE) & (WEIGHT_MASK > 0)
    np.testing.assert_array_equal(found.bounded_BW, changed)


def test_what_stands_in_masked_places_reaches_no_importance_weight():
    poisoned = np.where(WEIGHT_MASK > 0, LOG_WEIGHTS, np.nan)
    for mode in ("token_truncate", "sequence_mask"):
        found = importance_weights(poisoned, jnp.zeros((2, 4)), jnp.asarray(WEIGHT_MASK), mode=mode).weight_BW
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(np.asarray(found)[WEIGHT_MASK == 0], 1.0)


MASK = np.asarray([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], np.float64)


@pytest.mark.parametrize(
    ("aggregation", "first", "second"),
    [("token_mean", 1 / 4, 1 / 4), ("sequence_mean", 1 / 6, 1 / 2), ("constant", 1 / 8, 1 / 8)],
)
@double_precision()
def test_token_weights_and_an_empty_row(aggregation, first, second):
    weights = losses.token_weights(MASK, aggregation)
    expected = np.asarray([[first] * 3 + [0], [second, 0, 0, 0], [0] * 4])
    np.testing.assert_allclose(weights, expected, rtol=DOUBLE)


def test_a_batch_without_any_token_has_loss_0():
    for aggregation in ("token_mean", "sequence_mean", "constant"):
        weights = losses.token_weights(jnp.zeros((2, 3)), aggregation)
        assert not np.asarray(weights).any()
        assert np.isfinite(weights).all()
    assert losses.masked_mean(jnp.full((2,), jnp.nan), jnp.zeros(2)) == 0.0


def test_the_constant_can_be_given():
    np.testing.assert_allclose(losses.token_weights(MASK, "constant", constant=100.0)[0, 0], 1 / 200)


@double_precision()
def test_reward_lies_on_the_last_real_token_and_the_penalty_on_all():
    kl = jnp.full((3, 4), 0.5)
    out = losses.token_rewards(jnp.asarray([1.0, -0.3, 7.0]), MASK, kl, 0.1)
    np.testing.assert_allclose(
        out, [[-0.05, -0.05, 0.95, 0], [-0.35, 0, 0, 0], [0, 0, 0, 0]], rtol=DOUBLE, atol=DOUBLE
    )


def test_the_last_real_token_may_come_before_a_gap_and_after_one():
    mask = jnp.asarray([[1, 0, 1, 0]], jnp.float32)
    out = losses.token_rewards(jnp.asarray([2.0]), mask, jnp.zeros((1, 4)), 0.0)
    np.testing.assert_array_equal(out, [[0, 0, 2, 0]])


def test_adaptive_coefficient_climbs_falls_and_is_bounded():
    settings = {"target": 6.0, "responses": 64, "horizon": 6400.0}
    assert losses.next_coefficient(0.2, 6.0, **settings) == 0.2
    np.testing.assert_allclose(losses.next_coefficient(0.2, 6.6, **settings), 0.2 * (1 + 0.1 * 0.01))
    np.testing.assert_allclose(losses.next_coefficient(0.2, 600.0, **settings), 0.2 * (1 + 0.2 * 0.01))
    np.testing.assert_allclose(losses.next_coefficient(0.2, -1.0, **settings), 0.2 * (1 - 0.2 * 0.01))
    with pytest.raises(ValueError, match="must be positive; got 0"):
        losses.next_coefficient(0.2, 1.0, target=0.0, responses=1)


def test_an_adaptive_coefficient_leaves_0_and_goes_back():
    """Below .01 the steps are those at .01: .01 · .2 · 50 / 100 = .001 a batch."""
    settings = {"target": 1.0, "responses": 50, "horizon": 100.0}
    betas = [0.0]
    for _ in range(12):
        betas.append(losses.next_coefficient(betas[-1], 9.0, **settings))
    np.testing.assert_allclose(betas[:11], np.arange(11) * 0.001)
    np.testing.assert_allclose(betas[12], betas[11] * 1.1)
    assert losses.next_coefficient(0.0005, 0.0, **settings) == 0.0
    assert losses.next_coefficient(0.0, 0.0, **settings) == 0.0


@double_precision()
def test_explained_variance_of_a_perfect_a_constant_and_no_target():
    target, mask = jnp.asarray([1.0, 2.0, 4.0]), jnp.ones(3)
    np.testing.assert_allclose(losses.explained_variance(target, target, mask), 1.0)
    np.testing.assert_allclose(losses.explained_variance(jnp.full((3,), 2.0), target, mask), 0.0, atol=DOUBLE)
    assert losses.explained_variance(target, jnp.ones(3), mask) == 0.0


@double_precision()
def test_a_new_value_head_says_0_and_learns():
    from flax import nnx

    definition, head = new_head(8)
    hidden = jax.random.normal(jax.random.key(0), (2, 3, 8), jnp.bfloat16)

    def mean(head):
        return nnx.merge(definition, head)(hidden).mean()

    value, grad = jax.value_and_grad(mean)(head)
    assert value == 0.0
    assert value.dtype == jnp.float32
    assert np.asarray(grad["weight"]).any()
    np.testing.assert_allclose(grad["bias"], 1.0, rtol=DOUBLE)


def test_a_critics_own_body_lies_in_its_own_buffers():
    trainable = {"a": jnp.ones(3)}
    _, critic = new_critic(4, "full", trainable)
    assert critic.body["a"].unsafe_buffer_pointer() != trainable["a"].unsafe_buffer_pointer()
    assert new_critic(4, "frozen", trainable)[1].body is None


@pytest.mark.parametrize("loss", [losses.gspo_loss, losses.cispo_loss])
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_losses_of_sequences_and_weights_ignore_what_is_masked(loss, poison):
    mask = jnp.asarray([[1.0, 0.0, 1.0]])
    good = jnp.asarray([[-0.1, -0.2, -0.3]])
    bad = good.at[0, 1].set(poison)
    config = settled("gspo", RLConfig())

    def total(x, other):
        return loss(x, other - 0.01, jnp.ones((1, 3)) * other / other, mask, config).loss.sum()

    value, grad = jax.jit(jax.value_and_grad(total))(bad, bad)
    expected, expected_grad = jax.value_and_grad(total)(good, good)
    np.testing.assert_allclose(value, expected, rtol=rounding_bound(10, 1.0))
    np.testing.assert_allclose(grad, expected_grad, rtol=rounding_bound(10, 1.0))
    assert grad[0, 1] == 0.0


@double_precision()
def test_the_overlong_penalty_falls_from_the_buffer_to_the_limit():
    """DAPO's eq. 13: L 20, buffer 4: 0 to 16 tokens, then (16 − |y|) / 4, −1 at the limit."""
    lengths, limits = jnp.asarray([3.0, 16.0, 17.0, 19.0, 20.0, 5.0]), jnp.asarray([20.0] * 5 + [5.0])
    found = losses.overlong_penalty(lengths, limits, buffer=0.2, penalty=2.0)
    np.testing.assert_allclose(found, [0, 0, -0.5, -1.5, -2, -2], rtol=DOUBLE, atol=DOUBLE)
