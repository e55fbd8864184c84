"""From a scored rollout to what is learned from it: advantages, value targets, importance weights, masks."""

import jax.numpy as jnp

from jaxmoe.json_values import JsonObject
from jaxmoe.model.shapes import Array, Float
from rl.policy import losses
from rl.policy.advantages import RoundSignals, whiten
from rl.policy.algorithms import Algorithm, algorithm_named
from rl.policy.config import RLConfig
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
      rollout: with all samples of a prompt together, which the group baselines compare.
      beta: KL coefficient, reward units a nat.
    Returns: the experience, and metrics: means over the round; `kl` and `sampler_gap` are sums over a
      response, in nats.
    Raises: ValueError if truncated=bootstrap meets an algorithm without a critic.
    """
    chosen = algorithm_named(algorithm)
    check_truncation(config, chosen, algorithm)
    sampled_BW = rollout.response_mask_BW
    kl_BW = losses.kl_estimate(scores.logprobs_BW, scores.reference_BW, sampled_BW, config.kl.chosen)
    rewards_B = outcomes.rewards_B
    if config.reward_clip is not None:
        rewards_B = jnp.clip(rewards_B, -config.reward_clip, config.reward_clip)
    mask_BW, final_B = sampled_BW, jnp.zeros_like(rewards_B)
    if outcomes.truncated_B is not None and config.truncated == "drop":
        mask_BW = sampled_BW * (1.0 - outcomes.truncated_B)[:, None]
    if outcomes.truncated_B is not None and config.truncated == "bootstrap":
        rewards_B = jnp.where(outcomes.truncated_B > 0, 0.0, rewards_B)
        final_B = outcomes.truncated_B * value_after(scores.values_BW, sampled_BW)
    penalty_BW = beta * kl_BW if config.kl.place == "reward" else jnp.zeros_like(kl_BW)
    signals = RoundSignals(rewards_B, penalty_BW, scores.values_BW, final_B, mask_BW, rollout.samples)
    made = chosen.advantages(signals, config)
    normalizes = chosen.normalizes and config.normalize_advantages
    advantages_BW = whiten(made.advantage_BW, mask_BW) if normalizes else made.advantage_BW
    importance_BW, gap = _sampler_gap(config, rollout, scores)
    policy_mask_BW = outcomes.policy_mask_BW * mask_BW
    rollout = rollout._replace(response_mask_BW=mask_BW)
    experience = Experience(rollout, scores, policy_mask_BW, importance_BW, advantages_BW, made.target_BW)
    metrics = {
        "reward": outcomes.rewards_B.mean(),
        "kl": kl_BW.sum(1).mean(),
        "response_tokens": sampled_BW.sum(1).mean(),
        "masked_share": 1.0 - policy_mask_BW.sum() / jnp.maximum(sampled_BW.sum(), 1.0),
        "advantage_std": jnp.sqrt(masked_mean(jnp.square(made.advantage_BW), mask_BW)),
    }
    if chosen.critic:
        metrics["explained_variance"] = losses.explained_variance(scores.values_BW, made.target_BW, mask_BW)
    return experience, metrics | gap


def check_truncation(config: RLConfig, algorithm: Algorithm, name: str) -> None:
    """Checks that truncated responses can be treated as the settings say.

    Args:
      name: of the algorithm, for the message.
    Raises: ValueError if the return is to be bootstrapped and there is no critic.
    """
    if config.truncated == "bootstrap" and not algorithm.critic:
        raise ValueError(
            f"ppo.truncated=bootstrap needs a critic, which algorithm={name} does not train; "
            "set ppo.truncated=grade or drop, or algorithm=ppo"
        )


def value_after(values_BW: Float[Array, "B W"], mask_BW: Float[Array, "B W"]) -> Float[Array, " B"]:
    """The value of the state after each row's last token, which stands in the slot behind it.

    Args:
      values_BW: of the states before each slot.
      mask_BW: 1 for sampled tokens, from slot 0 on. A row that fills all W slots has no slot behind: the
        value before its last token stands in (Learner.learn refuses such rows).
    Returns: [B], in reward units.
    """
    behind_B = jnp.minimum(mask_BW.sum(1).astype(jnp.int32), mask_BW.shape[1] - 1)
    return jnp.take_along_axis(values_BW, behind_B[:, None], axis=1)[:, 0]


def _sampler_gap(config: RLConfig, rollout: Rollout, scores: PolicyScores) -> tuple[Array, RoundMetrics]:
    """Importance weights of the sampled tokens, and how far sampler and learner are apart."""
    mask_BW = rollout.response_mask_BW
    if rollout.sampler_logprobs_BW is None:
        return jnp.ones_like(mask_BW), {}
    drawn_BW = rollout.sampler_logprobs_BW
    weights_BW = losses.importance_weights(scores.logprobs_BW, drawn_BW, mask_BW, config.importance_cap)
    gap_BW = losses.kl_estimate(scores.logprobs_BW, drawn_BW, mask_BW, "k1")
    metrics = {
        "sampler_gap": gap_BW.sum(1).mean(),
        "sampler_gap_largest": jnp.abs(gap_BW).max(),
        "importance_mean": masked_mean(weights_BW, mask_BW),
    }
    if config.importance_cap is not None:
        capped_BW = (weights_BW >= config.importance_cap).astype(jnp.float32)
        metrics["importance_capped"] = masked_mean(capped_BW, mask_BW)
    return weights_BW, metrics
