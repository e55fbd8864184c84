"""The losses of PPO, token by token, and how they are summed into one number.

Every loss is a pure function of arrays of one shape and returns that shape; `token_weights` says what each
token counts, so that Σ weight · loss is the loss of a batch, however it is cut into micro-batches. Whatever
stands in a masked position, even NaN or infinity, changes neither a loss nor a gradient.
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp

from jaxmoe.model.shapes import Array, Float

Aggregation = Literal["token_mean", "sequence_mean", "constant"]
KLEstimator = Literal["k1", "k2", "k3"]
Tokens = Float[Array, "..."]


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
) -> Surrogate:
    """−min(ρ A, clip(ρ, 1 − ε_low, 1 + ε_high) A) with ρ = exp(log π − log π_old).

    Args:
      mask: 1 where the policy learns; elsewhere the loss is 0 and the ratio 1.
    Reference: Schulman et al. 2017, arXiv:1707.06347, eq. 7; two-sided ε: arXiv:2503.14476.
    """
    ratio = jnp.exp(_difference(logprob, old_logprob, mask))
    advantage = jnp.where(mask > 0, advantage, 0.0)
    plain = ratio * advantage
    bounded = jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high) * advantage
    return Surrogate(
        -jnp.minimum(plain, bounded), ratio, ((bounded < plain) & (mask > 0)).astype(jnp.float32)
    )


def clipped_value_loss(
    value: Tokens, old_value: Tokens, target: Tokens, mask: Tokens, *, clip: float | None = 0.2
) -> Surrogate:
    """½ max((v − R)², (v_old + clip(v − v_old, ±ε) − R)²); without `clip` ½ (v − R)².

    The larger of the two: a value that ran away from its old one still feels the pull back.
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

    Reference: Schulman 2020, http://joschu.net/blog/kl-approx.html.
    """
    difference = _difference(logprob, reference, mask)
    match estimator:
        case "k1":
            return difference
        case "k2":
            return 0.5 * jnp.square(difference)
        case "k3":
            return jnp.expm1(-difference) + difference


def _difference(logprob: Tokens, other: Tokens, mask: Tokens) -> Tokens:
    # chosen before subtracting: a where() after it would let NaN into the gradient
    here = mask > 0
    return jnp.where(here, logprob, 0.0) - jnp.where(here, other, 0.0)


def token_weights(
    mask_BW: Float[Array, "B W"], aggregation: Aggregation, *, constant: float | None = None
) -> Float[Array, "B W"]:
    """What each token counts in a loss; rows without any token count nothing, and divide nothing.

        token_mean     mask / (all tokens)                      long responses count more
        sequence_mean  mask / (tokens of the row) / (rows)      every response counts the same
        constant       mask / (rows · constant)                 a token counts the same in every batch

    `rows` are those with at least one token. An executed-token mask changes the denominators of the first
    two: a program with few executed tokens weighs less by token_mean, its tokens more by sequence_mean.

    Args:
      constant: tokens; None takes W, the slots of a response.
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
    """
    slots = mask_BW.shape[1]
    last_B = slots - 1 - jnp.argmax(mask_BW[:, ::-1] > 0, axis=1)
    at_end_BW = (jnp.arange(slots)[None] == last_B[:, None]) & (mask_BW > 0)
    penalty_BW = coefficient * kl_BW * mask_BW
    return jnp.where(at_end_BW, rewards_B[:, None], 0.0) - penalty_BW


def next_coefficient(
    coefficient: float, kl: float, *, target: float, responses: int, horizon: float = 10_000.0
) -> float:
    """β after a batch: β (1 + clip(KL / target − 1, ±0.2) · responses / horizon).

    Args:
      kl: mean over responses of the KL summed over tokens, in nats.
      responses: in the batch.
      horizon: responses over which β may change by a fifth.
    Raises: ValueError unless target and horizon are positive.
    Reference: Ziegler et al. 2019, arXiv:1909.08593, section 2.2.
    """
    if target <= 0 or horizon <= 0:
        raise ValueError(f"ppo.kl.target and ppo.kl.horizon must be positive; got {target} and {horizon}")
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return coefficient * (1.0 + error * responses / horizon)


def masked_mean(x: Tokens, mask: Tokens) -> Float[Array, ""]:
    """Mean of the entries whose mask is 1; 0 if there are none."""
    return jnp.where(mask > 0, x, 0.0).sum() / jnp.maximum(mask.sum(), 1.0)


def explained_variance(value: Tokens, target: Tokens, mask: Tokens) -> Float[Array, ""]:
    """1 − Var(target − value) / Var(target) over the entries that count; 0 where the targets do not vary."""
    error = target - value
    spread = masked_mean(jnp.square(target - masked_mean(target, mask)), mask)
    missed = masked_mean(jnp.square(error - masked_mean(error, mask)), mask)
    return jnp.where(spread > 1e-12, 1.0 - missed / jnp.maximum(spread, 1e-12), 0.0)
