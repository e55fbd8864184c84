"""Advantages: generalized estimates and group baselines; whitening is a separate step.

Letters of this file: P prompts, G samples per prompt (B = P·G rows), W slots of a response.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxmoe.model.shapes import Array, Float
from rl.policy.config import RLConfig, check_unit_interval, own
from rl.policy.losses import token_rewards

Baseline = Literal["grpo", "rloo"]


class Advantages(NamedTuple):
    """Advantage of each action and the value function's target; both 0 where the mask is 0."""

    advantage_T: Float[Array, " T"]
    target_T: Float[Array, " T"]


class RoundAdvantages(NamedTuple):
    """Advantages and value targets of a round's tokens, not normalized; 0 where the mask is 0."""

    advantage_BW: Float[Array, "B W"]
    target_BW: Float[Array, "B W"]


class RoundSignals(NamedTuple):
    """What the advantages of a round are computed from.

    Attributes:
      rewards_B: of the whole program, in reward units.
      penalty_BW: what is subtracted from the reward at each sampled token: β KL, if it is placed there, minus
        the rewards of an episode's earlier programs.
      values_BW: the critic's value of the state before each token; zeros without a critic.
      final_B: value of the state after the last token; 0 where the episode ends there.
      mask_BW: 1 for sampled tokens that count; a row of zeros is left out.
      samples: G, the rows of a prompt, which are adjacent.
    """

    rewards_B: Float[Array, " B"]
    penalty_BW: Float[Array, "B W"]
    values_BW: Float[Array, "B W"]
    final_B: Float[Array, " B"]
    mask_BW: Float[Array, "B W"]
    samples: int


def gae(
    rewards_T: Float[Array, " T"],
    values_T: Float[Array, " T"],
    mask_T: Float[Array, " T"],
    *,
    discount: float = 1.0,
    gae_lambda: float = 0.95,
    final_value: Array | float = 0.0,
) -> Advantages:
    """Generalized advantage estimates for one trajectory; batch with jax.vmap.

        δₜ = rₜ + γ vₜ₊₁ − vₜ;   Aₜ = δₜ + γλ Aₜ₊₁;   targetₜ = Aₜ + vₜ

    t + 1 is the next position whose mask is 1: masked positions are skipped, whether at the end or in
    between. Nothing is normalized.

    Args:
      rewards_T: reward after token t, in reward units; rewards of masked positions do not count.
      values_T: the critic's value of the state before token t.
      mask_T: 1 where the token was sampled by the policy.
      discount: γ.
      gae_lambda: λ; 1 gives the discounted return minus the value, 0 the one-step error.
      final_value: value after the last token; 0 where the episode ends there.
    Returns: Advantages(advantage, target), float32.
    Raises: ValueError if γ or λ lies outside [0, 1].
    Reference: Schulman et al. 2016, arXiv:1506.02438, eq. 16.

    >>> import jax.numpy as jnp
    >>> made = gae(jnp.array([0.0, 1.0]), jnp.array([0.5, 0.5]), jnp.ones(2), gae_lambda=1.0)
    >>> made.advantage_T.tolist(), made.target_T.tolist()
    ([0.5, 0.5], [1.0, 1.0])
    """
    check_unit_interval(discount=discount, gae_lambda=gae_lambda)

    def step(carry: tuple[Array, Array], inputs: tuple[Array, Array, Array]):
        next_value, next_advantage = carry
        reward, value, counts = inputs
        delta = reward + discount * next_value - value
        advantage = delta + discount * gae_lambda * next_advantage
        here = counts > 0
        carry = (jnp.where(here, value, next_value), jnp.where(here, advantage, next_advantage))
        return carry, jnp.where(here, advantage, 0.0)

    values_T = values_T.astype(jnp.float32)
    start = (jnp.asarray(final_value, jnp.float32), jnp.zeros((), jnp.float32))
    inputs = (rewards_T.astype(jnp.float32), values_T, mask_T)
    _, advantage_T = jax.lax.scan(step, start, inputs, reverse=True)
    return Advantages(advantage_T, jnp.where(mask_T > 0, advantage_T + values_T, 0.0))


def whiten(
    x: Float[Array, "..."], mask: Float[Array, "..."], *, shift: bool = True, eps: float = 1e-8
) -> Float[Array, "..."]:
    """(x − μ) / √(σ² + ε), mean and unbiased variance over the entries whose mask is 1; 0 elsewhere.

    Under jit the statistics are those of the whole array, over all devices. Fewer than two entries, or equal
    ones, give 0.

    Args:
      shift: False keeps the mean, so that only the scale changes.
    Returns: an array of the same shape.
    Reference: implementation detail 7 of Engstrom et al. 2020, arXiv:2005.12729 (there by batch).
    """
    count = mask.sum()
    x = jnp.where(mask > 0, x, 0.0)
    mean = x.sum() / jnp.maximum(count, 1.0)
    variance = (jnp.square(x - mean) * mask).sum() / jnp.maximum(count - 1.0, 1.0)
    scaled = (x - mean) * jax.lax.rsqrt(variance + eps)
    return jnp.where(mask > 0, scaled if shift else scaled + mean, 0.0)


def group_advantage(
    rewards_PG: Float[Array, "P G"],
    baseline: Baseline,
    *,
    counts_PG: Float[Array, "P G"] | None = None,
    normalize: bool = True,
    eps: float = 1e-6,
) -> Float[Array, "P G"]:
    """Advantage of each sample over the others of its prompt; exactly 0 if all rewards are equal.

        grpo: (rᵢ − mean r) / (σ + ε), σ the unbiased standard deviation; without `normalize` rᵢ − mean r
        rloo: rᵢ − the mean of the others

    Args:
      rewards_PG: in reward units.
      counts_PG: 1 for samples that count, 0 for those that are left out; these get 0, and so does a sample
        that is the only one left. None counts all.
      normalize: for grpo.
    Returns: [P, G].
    Raises: ValueError for groups of one sample, which have no baseline.
    Reference: Shao et al. 2024, arXiv:2402.03300, section 4.1; without the division, Liu et al. 2025,
      arXiv:2503.20783; rloo, Ahmadian et al. 2024, arXiv:2402.14740, eq. 10.

    >>> import jax.numpy as jnp
    >>> group_advantage(jnp.array([[1.0, 0.0, 0.0, 0.0]]), "grpo", normalize=False).tolist()
    [[0.75, -0.25, -0.25, -0.25]]
    """
    samples = rewards_PG.shape[1]
    if samples < 2:
        raise ValueError(f"{baseline} compares the samples of a prompt and needs at least 2; got {samples}")
    counts_PG = jnp.ones_like(rewards_PG) if counts_PG is None else counts_PG
    present_P1 = counts_PG.sum(axis=1, keepdims=True)
    others_P1 = jnp.maximum(present_P1 - 1.0, 1.0)
    # pairwise, so that equal rewards cancel exactly
    both_PGG = counts_PG[:, :, None] * counts_PG[:, None, :]
    difference_PG = ((rewards_PG[:, :, None] - rewards_PG[:, None, :]) * both_PGG).sum(axis=2)
    if baseline == "rloo":
        return difference_PG / others_P1
    centered_PG = difference_PG / jnp.maximum(present_P1, 1.0)
    if not normalize:
        return centered_PG
    spread_P1 = jnp.sqrt(jnp.square(centered_PG).sum(axis=1, keepdims=True) / others_P1)
    return centered_PG / (spread_P1 + eps)


def gae_of_round(signals: RoundSignals, config: RLConfig) -> RoundAdvantages:
    """`gae` of every response: the program's reward at its last token, the KL penalty at each.

    Args:
      config: gives γ and λ.
    Returns: the advantages and targets of every token [B, W], not normalized.
    Reference: Schulman et al. 2016, arXiv:1506.02438; the penalty, Ziegler et al. 2019, arXiv:1909.08593.
    """
    rewards_BW = token_rewards(signals.rewards_B, signals.mask_BW, signals.penalty_BW, 1.0)

    def one(rewards_W: Array, values_W: Array, mask_W: Array, final: Array) -> Advantages:
        return gae(
            rewards_W,
            values_W,
            mask_W,
            discount=config.discount,
            gae_lambda=config.gae_lambda,
            final_value=final,
        )

    made = jax.vmap(one)(rewards_BW, signals.values_BW, signals.mask_BW, signals.final_B)
    return RoundAdvantages(made.advantage_T, made.target_T)


def reinforce_of_round(signals: RoundSignals, config: RLConfig) -> RoundAdvantages:
    """Discounted returns, the advantages of REINFORCE++: Aₜ = Σₛ≥ₜ γˢ⁻ᵗ rₛ; targets are 0.

    They are whitened over the round (`normalize_advantages`), which is their baseline.

    Args:
      config: gives γ.
    Returns: the advantages and targets of every token [B, W], not normalized.
    Reference: Hu et al. 2025, arXiv:2501.03262.
    """
    bare = signals._replace(
        values_BW=jnp.zeros_like(signals.values_BW), final_B=jnp.zeros_like(signals.final_B)
    )
    made = gae_of_round(bare, dataclasses.replace(config, gae_lambda=1.0))
    return RoundAdvantages(made.advantage_BW, jnp.zeros_like(made.advantage_BW))


def centered_of_round(signals: RoundSignals, config: RLConfig) -> RoundAdvantages:
    """rᵢ − the group's mean, the same at every token: Dr. GRPO, and REINFORCE++ with a baseline.

    The latter whitens them over the round (`normalize_advantages`); targets are 0.

    Args:
      config: not used.
    Returns: the advantages and targets of every token [B, W], not normalized.
    Reference: Liu et al. 2025 (Dr. GRPO), arXiv:2503.20783; Hu et al. 2025, arXiv:2501.03262.
    """
    del config
    return _group_of_round(signals, "grpo", normalize=False)


def grpo_of_round(signals: RoundSignals, config: RLConfig) -> RoundAdvantages:
    """`group_advantage` for GRPO, DAPO, GSPO and CISPO, the same at every token; targets are 0.

    Args:
      config: `normalize_groups` divides by the group's standard deviation.
    Returns: the advantages and targets of every token [B, W], not normalized.
    """
    return _group_of_round(signals, "grpo", normalize=own(config.normalize_groups, "normalize_groups"))


def rloo_of_round(signals: RoundSignals, config: RLConfig) -> RoundAdvantages:
    """`group_advantage` for RLOO, the same at every token of a response; targets are 0.

    Args:
      config: not used: RLOO has no settings of its own.
    Returns: the advantages and targets of every token [B, W], not normalized.
    """
    del config
    return _group_of_round(signals, "rloo", normalize=False)


def _group_of_round(signals: RoundSignals, baseline: Baseline, *, normalize: bool) -> RoundAdvantages:
    counts_B = (signals.mask_BW.sum(1) > 0).astype(jnp.float32)
    totals_B = signals.rewards_B - (signals.penalty_BW * signals.mask_BW).sum(1)
    totals_PG, counts_PG = (x.reshape(-1, signals.samples) for x in (totals_B, counts_B))
    group_PG = group_advantage(totals_PG, baseline, counts_PG=counts_PG, normalize=normalize)
    return RoundAdvantages(group_PG.reshape(-1, 1) * signals.mask_BW, jnp.zeros_like(signals.mask_BW))
