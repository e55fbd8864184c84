"""From a scored rollout to what is learned from it: advantages, value targets, importance weights, masks."""

import jax.numpy as jnp

from jaxmoe.json_values import JsonObject
from jaxmoe.model.shapes import Array, Float
from rl.policy import losses
from rl.policy.advantages import RoundSignals, whiten
from rl.policy.algorithms import algorithm_named, settled
from rl.policy.config import RLConfig
from rl.policy.importance import importance_weights
from rl.policy.losses import masked_mean
from rl.policy.trajectory import Experience, Outcomes, PolicyScores, Rollout

RoundMetrics = JsonObject


def prepare(
    algorithm: str,
    config: RLConfig,
    rollout: Rollout,
    outcomes: Outcomes,
    scores: PolicyScores,
    beta: Array | float,
) -> tuple[Experience, RoundMetrics]:
    """Advantages and value targets of a round; pure, to be jitted over the whole round.

    Args:
      algorithm: a name in rl.policy.algorithms.
      rollout: with all samples of a prompt adjacent, because the group baselines compare them.
      beta: KL coefficient, in reward units per nat.
    Returns: the experience, and metrics: means over the round; `kl` and `sampler_gap` are sums over a
      response, in nats.
    Raises: ValueError for settings that do not fit the algorithm, see rl.policy.algorithms.settled.
    """
    chosen, config = algorithm_named(algorithm), settled(algorithm, config)
    sampled_BW = rollout.response_mask_BW
    kl_BW = losses.kl_estimate(scores.logprobs_BW, scores.reference_BW, sampled_BW, config.kl.chosen)
    rewards_B = outcomes.rewards_B
    if config.reward_clip is not None:
        rewards_B = jnp.clip(rewards_B, -config.reward_clip, config.reward_clip)
    overlong_B = _overlong(config, outcomes, sampled_BW)
    rewards_B = rewards_B + overlong_B
    mask_BW, final_B = sampled_BW, jnp.zeros_like(rewards_B)
    if outcomes.truncated_B is not None and config.truncated == "drop":
        mask_BW = sampled_BW * (1.0 - outcomes.truncated_B)[:, None]
    if outcomes.truncated_B is not None and config.truncated == "bootstrap":
        rewards_B = jnp.where(outcomes.truncated_B > 0, 0.0, rewards_B)
        final_B = outcomes.truncated_B * value_after(scores.values_BW, sampled_BW)
    penalty_BW = beta * kl_BW if config.kl.place == "reward" else jnp.zeros_like(kl_BW)
    earlier_BW = jnp.zeros_like(sampled_BW) if outcomes.earlier_BW is None else outcomes.earlier_BW
    if config.reward_clip is not None:
        earlier_BW = jnp.clip(earlier_BW, -config.reward_clip, config.reward_clip)
    penalty_BW = penalty_BW - earlier_BW  # what is subtracted from the reward at a token
    signals = RoundSignals(rewards_B, penalty_BW, scores.values_BW, final_B, mask_BW, rollout.samples)
    made = chosen.advantages(signals, config)
    normalizes = chosen.normalizes and config.normalize_advantages
    advantages_BW = whiten(made.advantage_BW, mask_BW) if normalizes else made.advantage_BW
    importance_BW, gap = _sampler_gap(config, rollout, scores)
    policy_mask_BW = outcomes.policy_mask_BW * mask_BW
    rollout = rollout._replace(response_mask_BW=mask_BW)
    experience = Experience(rollout, scores, policy_mask_BW, importance_BW, advantages_BW, made.target_BW)
    metrics = {
        "reward": outcomes.rewards_B.mean() + earlier_BW.sum(1).mean(),
        "kl": kl_BW.sum(1).mean(),
        "response_tokens": sampled_BW.sum(1).mean(),
        "masked_share": 1.0 - policy_mask_BW.sum() / jnp.maximum(sampled_BW.sum(), 1.0),
        "advantage_std": jnp.sqrt(masked_mean(jnp.square(made.advantage_BW), mask_BW)),
    }
    if config.overlong_buffer:
        metrics["overlong_penalty"] = overlong_B.mean()
    if chosen.critic:
        metrics["explained_variance"] = losses.explained_variance(scores.values_BW, made.target_BW, mask_BW)
    return experience, metrics | gap


def value_after(values_BW: Float[Array, "B W"], mask_BW: Float[Array, "B W"]) -> Float[Array, " B"]:
    """The value of the state after each row's last token, found in the slot after it.

    Args:
      values_BW: of the states before each slot.
      mask_BW: 1 for sampled tokens. A row that fills all W slots has no slot after it: the value before its
        last token is used instead (Learner.learn refuses such rows).
    Returns: [B], in reward units.
    """
    slots = mask_BW.shape[1]
    after_B = slots - jnp.argmax(mask_BW[:, ::-1] > 0, axis=1)
    behind_B = jnp.where(mask_BW.any(axis=1), jnp.minimum(after_B, slots - 1), 0)
    return jnp.take_along_axis(values_BW, behind_B[:, None], axis=1)[:, 0]


def _overlong(config: RLConfig, outcomes: Outcomes, sampled_BW: Array) -> Array:
    """How much reward long responses lose; 0 without a buffer."""
    if not config.overlong_buffer:
        return jnp.zeros_like(sampled_BW[:, 0])
    if outcomes.limits_B is None:
        raise ValueError(
            "ppo.overlong_buffer is a share of each response's limit: Outcomes.limits_B is missing"
        )
    return losses.overlong_penalty(
        sampled_BW.sum(1), outcomes.limits_B, buffer=config.overlong_buffer, penalty=config.overlong_penalty
    )


def _sampler_gap(config: RLConfig, rollout: Rollout, scores: PolicyScores) -> tuple[Array, RoundMetrics]:
    """Importance weights of the sampled tokens, and how far apart sampler and learner are."""
    mask_BW = rollout.response_mask_BW
    if rollout.sampler_logprobs_BW is None:
        return jnp.ones_like(mask_BW), {}
    drawn_BW = rollout.sampler_logprobs_BW
    made = importance_weights(
        scores.logprobs_BW,
        drawn_BW,
        mask_BW,
        mode=config.importance,
        cap=config.importance_cap,
        floor=config.importance_floor,
    )
    gap_BW = losses.kl_estimate(scores.logprobs_BW, drawn_BW, mask_BW, "k1")
    metrics = {
        "sampler_gap": gap_BW.sum(1).mean(),
        "sampler_gap_largest": jnp.abs(gap_BW).max(),
        "importance_mean": masked_mean(made.weight_BW, mask_BW),
    }
    if config.importance_cap is not None:
        metrics["importance_bounded"] = masked_mean(made.bounded_BW, mask_BW)
    return made.weight_BW, metrics
