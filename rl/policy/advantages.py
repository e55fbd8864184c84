"""How much better than expected: generalised advantages, group baselines; whitening is a step of its own.

Letters of this file: P prompts, G samples a prompt.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxmoe.model.shapes import Array, Float

Baseline = Literal["grpo", "rloo"]


class Advantages(NamedTuple):
    """Advantage of each action and the value function's target; both 0 where the mask is 0."""

    advantage_T: Float[Array, " T"]
    target_T: Float[Array, " T"]


def gae(
    rewards_T: Float[Array, " T"],
    values_T: Float[Array, " T"],
    mask_T: Float[Array, " T"],
    *,
    discount: float = 1.0,
    decay: float = 0.95,
    final_value: Float[Array, ""] | float = 0.0,
) -> Advantages:
    """Generalised advantage estimates for one trajectory; batch with jax.vmap.

        δₜ = rₜ + γ vₜ₊₁ − vₜ;   Aₜ = δₜ + γλ Aₜ₊₁;   targetₜ = Aₜ + vₜ

    t + 1 is the next position whose mask is 1: masked ones are stepped over, whether they lie at the end or
    between. Nothing is normalised.

    Args:
      rewards_T: reward after token t, in reward units; those of masked positions do not count.
      values_T: the critic's value of the state before token t.
      mask_T: 1 where the token was sampled by the policy.
      discount: γ.
      decay: λ; 1 gives the discounted return minus the value, 0 the one-step error.
      final_value: value after the last token; 0 where the episode ends there.
    Raises: ValueError if γ or λ lies outside [0, 1].
    Reference: Schulman et al. 2016, arXiv:1506.02438, eq. 16.
    """
    check_discounts(discount, decay)

    def step(carry: tuple[Array, Array], inputs: tuple[Array, Array, Array]):
        next_value, next_advantage = carry
        reward, value, counts = inputs
        delta = reward + discount * next_value - value
        advantage = delta + discount * decay * next_advantage
        here = counts > 0
        carry = (jnp.where(here, value, next_value), jnp.where(here, advantage, next_advantage))
        return carry, jnp.where(here, advantage, 0.0)

    values_T = values_T.astype(jnp.float32)
    start = (jnp.asarray(final_value, jnp.float32), jnp.zeros((), jnp.float32))
    inputs = (rewards_T.astype(jnp.float32), values_T, mask_T)
    _, advantage_T = jax.lax.scan(step, start, inputs, reverse=True)
    return Advantages(advantage_T, jnp.where(mask_T > 0, advantage_T + values_T, 0.0))


def check_discounts(discount: float, decay: float) -> None:
    """Raises ValueError if γ or λ lies outside [0, 1]."""
    for name, value in (("discount", discount), ("decay", decay)):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} must lie in [0, 1]; got {value} (ppo.{name} in the config)")


def whiten(
    x: Float[Array, "..."], mask: Float[Array, "..."], *, shift: bool = True, eps: float = 1e-8
) -> Float[Array, "..."]:
    """(x − μ) / √(σ² + ε), mean and unbiased variance over the entries whose mask is 1; 0 elsewhere.

    Under jit the statistics are those of the whole array, over all devices. Fewer than two entries, or equal
    ones, come out as 0.

    Args:
      shift: False keeps the mean: only the scale changes.
    """
    count = mask.sum()
    x = jnp.where(mask > 0, x, 0.0)
    mean = x.sum() / jnp.maximum(count, 1.0)
    variance = (jnp.square(x - mean) * mask).sum() / jnp.maximum(count - 1.0, 1.0)
    scaled = (x - mean) * jax.lax.rsqrt(variance + eps)
    return jnp.where(mask > 0, scaled if shift else scaled + mean, 0.0)


def group_advantage(
    rewards_PG: Float[Array, "P G"], baseline: Baseline, *, normalise: bool = True, eps: float = 1e-6
) -> Float[Array, "P G"]:
    """Advantage of each sample over the others of its prompt; exactly 0 where all rewards are equal.

        grpo: (rᵢ − mean r) / (σ + ε), σ the unbiased standard deviation; without `normalise` rᵢ − mean r
        rloo: rᵢ − the mean of the G − 1 others

    Raises: ValueError for groups of one sample, which have no baseline.
    Reference: Shao et al. 2024, arXiv:2402.03300, section 4.1; without the division, Liu et al. 2025,
      arXiv:2503.20783; rloo, Ahmadian et al. 2024, arXiv:2402.14740, eq. 10.
    """
    samples = rewards_PG.shape[1]
    if samples < 2:
        raise ValueError(f"{baseline} compares the samples of a prompt and needs at least 2; got {samples}")
    # pairwise, so that equal rewards cancel exactly
    difference_PG = (rewards_PG[:, :, None] - rewards_PG[:, None, :]).sum(axis=2)
    if baseline == "rloo":
        return difference_PG / (samples - 1)
    centred_PG = difference_PG / samples
    if not normalise:
        return centred_PG
    spread_P1 = jnp.sqrt(jnp.square(centred_PG).sum(axis=1, keepdims=True) / (samples - 1))
    return centred_PG / (spread_P1 + eps)
