"""Importance weights: the weight of a token's loss if it was not sampled by the learner's distribution."""

from typing import NamedTuple

import jax.numpy as jnp

from jaxmoe.model.shapes import Array, Float
from rl.policy.config import ImportanceMode
from rl.policy.losses import LOG_RATIO_BOUND

Rows = Float[Array, "B W"]


class ImportanceWeights(NamedTuple):
    """Weights, and 1 where a bound changed them."""

    weight_BW: Rows
    bounded_BW: Rows


def importance_weights(
    logprob_BW: Rows,
    sampler_BW: Rows,
    mask_BW: Rows,
    *,
    mode: ImportanceMode = "token_truncate",
    cap: float | None = 2.0,
    floor: float | None = None,
) -> ImportanceWeights:
    """Importance weights of sampled tokens, truncated or masked at their bounds.

        token     wₜ = π(t) / π_sampler(t)               sequence  w = Πₜ π(t) / π_sampler(t), at every token
        truncate  w is cut to [floor, C]                 mask      w is 0 outside [floor, C]

    E over the sampler of weight · f is E over π of f, if π_sampler covers π and no weight is bounded; the
    bounds limit the variance. Token weights leave out what led to the token: biased, but with low variance.
    Tokens outside a sampler's nucleus never come up: no weight brings them back. A masked token still counts
    in the denominators of the loss. Log-ratios are clamped to ±20 nats.

    Args:
      logprob_BW: log π of the policy before the update, in nats.
      sampler_BW: log-probability with which each token was drawn.
      mask_BW: 1 for sampled tokens; elsewhere the weight is 1.
      mode: token or sequence, truncate or mask.
      cap: C; None gives weights of 1.
      floor: None for no lower bound.
    Returns: ImportanceWeights [B, W].
    Reference: Ionides 2008, Truncated importance sampling; for the mismatch of sampler and learner, Yao et
      al. 2025, https://fengyao.notion.site/off-policy-rl; masked and by sequence, as TRL and verl have them.

    >>> import jax.numpy as jnp
    >>> learner, sampler = jnp.log(jnp.array([[0.5, 0.9]])), jnp.log(jnp.array([[1.0, 0.1]]))
    >>> importance_weights(learner, sampler, jnp.ones((1, 2))).weight_BW.tolist()
    [[0.5, 2.0]]
    >>> importance_weights(learner, sampler, jnp.ones((1, 2)), mode="token_mask").weight_BW.tolist()
    [[0.5, 0.0]]
    """
    if cap is None:
        return ImportanceWeights(jnp.ones_like(logprob_BW), jnp.zeros_like(logprob_BW))
    here = mask_BW > 0
    # selected before subtracting, so that nothing in a masked position spreads
    difference_BW = jnp.where(here, logprob_BW, 0.0) - jnp.where(here, sampler_BW, 0.0)
    if mode.startswith("sequence"):
        difference_BW = jnp.broadcast_to(difference_BW.sum(axis=1, keepdims=True), difference_BW.shape)
    ratio_BW = jnp.exp(jnp.clip(difference_BW, -LOG_RATIO_BOUND, LOG_RATIO_BOUND))
    low = 0.0 if floor is None else floor
    outside = ((ratio_BW > cap) | (ratio_BW < low)) & here
    bounded_BW = jnp.zeros_like(ratio_BW) if mode.endswith("mask") else jnp.clip(ratio_BW, low, cap)
    weight_BW = jnp.where(outside, bounded_BW, jnp.where(here, ratio_BW, 1.0))
    return ImportanceWeights(weight_BW, outside.astype(ratio_BW.dtype))
