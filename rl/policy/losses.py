"""The losses of PPO, token by token, and how they are summed into one number.

Every loss is a pure function of arrays of one shape and returns that shape; `token_weights` gives the weight
of each token, so that Σ weight · loss is the loss of a batch, however it is cut into micro-batches. Whatever
is in a masked position, even NaN or infinity, changes neither a loss nor a gradient.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmoe.model.shapes import Array, Float
from rl.policy.config import Aggregation, KLEstimator, RLConfig, own

Tokens = Float[Array, "..."]

# Bounds in nats, as in verl: exp stays finite in float32, and one token cannot outweigh a batch.
LOG_RATIO_BOUND = 20.0
K3_BOUND = SEQUENCE_BOUND = 10.0
# Where the adaptive KL coefficient starts to grow from 0: it is multiplied, and 0 would stay 0.
SMALLEST_STEP_OF = 0.01


class Surrogate(NamedTuple):
    """The policy's loss, the probability ratio, and 1 where clipping holds back the gradient."""

    loss: Tokens
    ratio: Tokens
    clipped: Tokens


def clipped_surrogate(
    logprob: Tokens,
    old_logprob: Tokens,
    advantage: Tokens,
    mask: Tokens,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> Surrogate:
    """−min(ρ A, clip(ρ, 1 − ε_low, 1 + ε_high) A) with ρ = exp(log π − log π_old).

    The log-ratio is clamped to ±20 nats first. With `dual_clip` c, where A < 0, the loss is at most −c A.

    Args:
      logprob, old_logprob: in nats, of one shape with `advantage` and `mask`.
      mask: 1 where the policy learns; elsewhere the loss is 0 and the ratio 1.
    Returns: Surrogate of that shape; `clipped` is 1 where clipping makes the gradient 0.
    Reference: Schulman et al. 2017, arXiv:1707.06347, eq. 7; two-sided ε: arXiv:2503.14476; dual clip:
      Ye et al. 2020, arXiv:1912.09729, eq. 5. Clamp and dual clip as verl's compute_policy_loss.

    >>> import jax.numpy as jnp
    >>> one = jnp.ones(1)
    >>> round(float(clipped_surrogate(jnp.log(1.5 * one), 0 * one, 2 * one, one).loss[0]), 4)
    -2.4
    """
    ratio = jnp.exp(_log_ratio(logprob, old_logprob, mask))
    return _bounded(ratio, advantage, mask, clip_low, clip_high, dual_clip)


def _bounded(
    ratio: Tokens, advantage: Tokens, mask: Tokens, low: float, high: float, dual_clip: float | None = None
) -> Surrogate:
    advantage = jnp.where(mask > 0, advantage, 0.0)
    plain = -ratio * advantage
    bounded = -jnp.clip(ratio, 1.0 - low, 1.0 + high) * advantage
    loss, clipped = jnp.maximum(plain, bounded), bounded > plain
    if dual_clip is not None:
        most = -dual_clip * advantage
        beyond = (advantage < 0) & (loss > most)
        loss, clipped = jnp.where(beyond, most, loss), clipped | beyond
    return Surrogate(loss, ratio, (clipped & (mask > 0)).astype(jnp.float32))


def ppo_loss(
    logprob: Tokens, old_logprob: Tokens, advantage: Tokens, mask: Tokens, config: RLConfig
) -> Surrogate:
    """`clipped_surrogate` with the bounds from the settings; the policy loss of all but gspo and cispo.

    Args:
      config: gives clip_low, clip_high and dual_clip.
    Returns: Surrogate, of the shape of `logprob`.
    """
    return clipped_surrogate(
        logprob,
        old_logprob,
        advantage,
        mask,
        clip_low=own(config.clip_low, "clip_low"),
        clip_high=own(config.clip_high, "clip_high"),
        dual_clip=config.dual_clip,
    )


def gspo_loss(
    logprob_BW: Float[Array, "B W"],
    old_BW: Float[Array, "B W"],
    advantage_BW: Float[Array, "B W"],
    mask_BW: Float[Array, "B W"],
    config: RLConfig,
) -> Surrogate:
    """`clipped_surrogate` with the ratio of the whole response, the loss of gspo.

        sᵢ = exp( Σₜ mask · (log π − log π_old) / Σₜ mask );   at token t: sg[sᵢ] · π / sg[π]

    The value is that of sᵢ at every token, the gradient that of the token's own log-probability: with equal
    advantages in a response and aggregation=sequence_mean, the gradient of −min(sᵢ A, clip(sᵢ) A). With an
    executed-token mask, sᵢ is the ratio of the executed tokens.

    Args:
      logprob_BW, old_BW: in nats.
      mask_BW: 1 where the policy learns; elsewhere the loss is 0 and the ratio 1.
      config: gives clip_low and clip_high.
    Returns: Surrogate [B, W].
    Reference: Zheng et al. 2025, arXiv:2507.18071, eqs. 5, 6 and 13; the bound of 10 nats as in verl.
    """
    difference_BW = _difference(logprob_BW, old_BW, mask_BW)
    tokens_B1 = jnp.maximum(mask_BW.sum(axis=-1, keepdims=True), 1.0)
    mean_B1 = jax.lax.stop_gradient(difference_BW.sum(axis=-1, keepdims=True) / tokens_B1)
    # 0, with the gradient of the token's log-probability
    own_BW = difference_BW - jax.lax.stop_gradient(difference_BW)
    ratio = jnp.exp(jnp.minimum(jnp.where(mask_BW > 0, own_BW + mean_B1, 0.0), SEQUENCE_BOUND))
    low, high = own(config.clip_low, "clip_low"), own(config.clip_high, "clip_high")
    return _bounded(ratio, advantage_BW, mask_BW, low, high)


def cispo_loss(
    logprob: Tokens, old_logprob: Tokens, advantage: Tokens, mask: Tokens, config: RLConfig
) -> Surrogate:
    """−sg[clip(ρ, 1 − ε_low, 1 + ε_high)] A log π, the loss of cispo: clipped tokens keep a gradient.

    Args:
      logprob, old_logprob: in nats, of one shape with `advantage` and `mask`.
      mask: 1 where the policy learns; elsewhere the loss is 0 and the ratio 1.
      config: gives clip_low and clip_high.
    Returns: Surrogate of that shape; `clipped` is 1 where the weight is not the ratio.
    Reference: MiniMax 2025, arXiv:2506.13585, eqs. 4 and 5.
    """
    ratio = jnp.exp(_log_ratio(logprob, old_logprob, mask))
    low, high = own(config.clip_low, "clip_low"), own(config.clip_high, "clip_high")
    weight = jax.lax.stop_gradient(jnp.clip(ratio, 1.0 - low, 1.0 + high))
    here = mask > 0
    loss = -weight * jnp.where(here, advantage, 0.0) * jnp.where(here, logprob, 0.0)
    return Surrogate(loss, ratio, ((weight != ratio) & here).astype(jnp.float32))


def clipped_value_loss(
    value: Tokens, old_value: Tokens, target: Tokens, mask: Tokens, *, clip: float | None = 0.2
) -> Surrogate:
    """½ max((v − R)², (v_old + clip(v − v_old, ±ε) − R)²); without `clip` ½ (v − R)².

    The larger of the two: a value that has moved far from its old one is still pulled back.

    Args:
      value, old_value, target: in reward units, of one shape with `mask`.
      mask: 1 where a value is learned; elsewhere the loss is 0.
      clip: ε, in reward units.
    Returns: Surrogate(loss, v − v_old, 1 where the clipped error is the larger).
    Reference: the PPO of openai/baselines, described in arXiv:2005.12729, section 3.
    """
    here = mask > 0
    error = jnp.where(here, value - target, 0.0)
    step = jnp.where(here, value - old_value, 0.0)
    loss = 0.5 * jnp.square(error)
    if clip is None:
        return Surrogate(loss, step, jnp.zeros_like(loss))
    bounded_error = jnp.where(here, old_value + jnp.clip(step, -clip, clip) - target, 0.0)
    bounded = 0.5 * jnp.square(bounded_error)
    return Surrogate(jnp.maximum(loss, bounded), step, (bounded > loss).astype(jnp.float32))


def kl_estimate(logprob: Tokens, reference: Tokens, mask: Tokens, estimator: KLEstimator = "k1") -> Tokens:
    """KL(π ‖ π_ref) at tokens that π sampled, with l = log π − log π_ref.

        k1 = l (unbiased, may be negative)    k2 = l² / 2 (biased, its gradient is not)
        k3 = e^−l − 1 + l (unbiased, never negative)

    As a term of a loss only k2 has the gradient of KL(π ‖ π_ref) in expectation; k3 has that of
    KL(π_ref ‖ π), and k1 none: E[∇ log π] = 0. For k3, l is clamped to ±20 and the result to 10, as in verl.

    Args:
      logprob, reference: in nats, of one shape with `mask`.
      mask: 1 for sampled tokens; 0 elsewhere gives 0.
    Returns: nats, of the same shape.
    Reference: Schulman 2020, http://joschu.net/blog/kl-approx.html; gradients, arXiv:2506.09477.

    >>> import jax.numpy as jnp
    >>> float(kl_estimate(jnp.zeros(1), jnp.full(1, 30.0), jnp.ones(1), "k3")[0])
    10.0
    """
    difference = _difference(logprob, reference, mask)
    match estimator:
        case "k1":
            return difference
        case "k2":
            return 0.5 * jnp.square(difference)
        case "k3":
            bounded = jnp.clip(difference, -LOG_RATIO_BOUND, LOG_RATIO_BOUND)
            return jnp.clip(jnp.expm1(-bounded) + bounded, -K3_BOUND, K3_BOUND)


def _difference(logprob: Tokens, other: Tokens, mask: Tokens) -> Tokens:
    # selected before subtracting: a where() after it would let NaN into the gradient
    here = mask > 0
    return jnp.where(here, logprob, 0.0) - jnp.where(here, other, 0.0)


def _log_ratio(logprob: Tokens, other: Tokens, mask: Tokens) -> Tokens:
    return jnp.clip(_difference(logprob, other, mask), -LOG_RATIO_BOUND, LOG_RATIO_BOUND)


def token_weights(
    mask_BW: Float[Array, "B W"], aggregation: Aggregation, *, constant: float | None = None
) -> Float[Array, "B W"]:
    """The weight of each token in a loss; rows without any token count nowhere, not even in a denominator.

        token_mean     mask / (all tokens)                      long responses count more
        sequence_mean  mask / (tokens of the row) / (rows)      every response counts the same
        constant       mask / (rows · constant)                 a token counts the same in every batch

    `rows` are those with at least one token. An executed-token mask changes the denominators of the first
    two: a program with few executed tokens weighs less by token_mean, its tokens more by sequence_mean.

    Args:
      mask_BW: 1 for tokens that count.
      constant: tokens; None takes W, the slots of a response.
    Returns: weights [B, W]; their sum is 1 for the first two, if any token counts.
    Reference: token_mean arXiv:2503.14476, constant arXiv:2503.20783.
    """
    tokens_B1 = mask_BW.sum(axis=1, keepdims=True)
    rows = jnp.maximum((tokens_B1 > 0).sum().astype(jnp.float32), 1.0)
    match aggregation:
        case "token_mean":
            return mask_BW / jnp.maximum(tokens_B1.sum(), 1.0)
        case "sequence_mean":
            return mask_BW / jnp.maximum(tokens_B1, 1.0) / rows
        case "constant":
            return mask_BW / (rows * (mask_BW.shape[1] if constant is None else constant))


def token_rewards(
    rewards_B: Float[Array, " B"],
    mask_BW: Float[Array, "B W"],
    kl_BW: Float[Array, "B W"],
    coefficient: Array | float,
) -> Float[Array, "B W"]:
    """−β KL at every sampled token, and the program's reward at the last of them.

    A row without tokens has no place for its reward and gets none.

    Args:
      rewards_B: in reward units.
      mask_BW: 1 for sampled tokens.
      kl_BW: in nats.
      coefficient: β, reward units a nat.
    Returns: reward after each token, [B, W].
    Reference: Ziegler et al. 2019, arXiv:1909.08593, eq. 2.
    """
    slots = mask_BW.shape[1]
    last_B = slots - 1 - jnp.argmax(mask_BW[:, ::-1] > 0, axis=1)
    at_end_BW = (jnp.arange(slots)[None] == last_B[:, None]) & (mask_BW > 0)
    penalty_BW = coefficient * kl_BW * mask_BW
    return jnp.where(at_end_BW, rewards_B[:, None], 0.0) - penalty_BW


def overlong_penalty(
    lengths_B: Float[Array, " B"], limits_B: Float[Array, " B"], *, buffer: float, penalty: float = 1.0
) -> Float[Array, " B"]:
    """min(0, (1 − b) L − |y|) / (b L) · penalty, L the limit: 0 up to the last share b of it, −penalty at it.

    Args:
      lengths_B: tokens of each response.
      limits_B: the most tokens that each may have.
      buffer: b, in (0, 1].
      penalty: reward units that are lost at the limit.
    Returns: what is added to the reward [B], in reward units.
    Reference: Yu et al. 2025 (DAPO), arXiv:2503.14476, eq. 13; there b L is 4,096 tokens of 20,480.

    >>> import jax.numpy as jnp
    >>> lengths, limits = jnp.array([70.0, 90.0, 100.0]), jnp.full(3, 100.0)
    >>> [round(x, 4) for x in overlong_penalty(lengths, limits, buffer=0.2).tolist()]
    [0.0, -0.5, -1.0]
    """
    over_B = (1.0 - buffer) * limits_B - lengths_B
    return jnp.minimum(over_B, 0.0) / (buffer * limits_B) * penalty


def next_coefficient(
    coefficient: float, kl: float, *, target: float, responses: int, horizon: float = 10_000.0
) -> float:
    """β after a batch: β + max(β, 0.01) · clip(KL / target − 1, ±0.2) · responses / horizon, at least 0.

    From 0.01 on this is Ziegler et al.'s β (1 + …); below, the steps are those at 0.01, so that a β of 0 can
    grow, and one that is not needed can return to 0.

    Args:
      coefficient: β, reward units a nat.
      kl: mean over responses of the KL summed over tokens, in nats.
      target: of that KL, in nats.
      responses: in the batch.
      horizon: responses over which β may change by a fifth.
    Returns: the next β.
    Raises: ValueError unless target and horizon are positive.
    Reference: Ziegler et al. 2019, arXiv:1909.08593, section 2.2.

    >>> round(next_coefficient(0.1, 5.0, target=1.0, responses=10, horizon=100.0), 6)
    0.102
    >>> round(next_coefficient(0.0, 5.0, target=1.0, responses=100, horizon=100.0), 6)
    0.002
    """
    if target <= 0 or horizon <= 0:
        raise ValueError(f"ppo.kl.target and ppo.kl.horizon must be positive; got {target} and {horizon}")
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return max(coefficient + max(coefficient, SMALLEST_STEP_OF) * error * responses / horizon, 0.0)


def masked_mean(x: Tokens, mask: Tokens) -> Float[Array, ""]:
    """Mean of the entries whose mask is 1; 0 if there are none.

    Args:
      x: of one shape with `mask`; its values where the mask is 0 do not matter.
    Returns: a number.
    """
    return jnp.where(mask > 0, x, 0.0).sum() / jnp.maximum(mask.sum(), 1.0)


def explained_variance(value: Tokens, target: Tokens, mask: Tokens) -> Float[Array, ""]:
    """1 − Var(target − value) / Var(target) over the entries that count; 0 where the targets do not vary.

    Args:
      value, target: in reward units, of one shape with `mask`.
    Returns: a number of at most 1.
    """
    error = target - value
    spread = masked_mean(jnp.square(target - masked_mean(target, mask)), mask)
    missed = masked_mean(jnp.square(error - masked_mean(error, mask)), mask)
    return jnp.where(spread > 1e-12, 1.0 - missed / jnp.maximum(spread, 1e-12), 0.0)
