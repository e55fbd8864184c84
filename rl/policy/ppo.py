"""Proximal policy optimisation: from scored rollouts to new weights, in epochs of minibatches.

    rollout, scores, outcomes --prepare--> Experience --update, epochs x minibatches--> state, metrics

Policy and critic have optimizers of their own. Everything is jitted over the mesh; the frozen weights are an
argument that is never copied, differentiated or donated. `algorithm=grpo|rloo` replaces critic and returns by
a baseline over the samples of a prompt, and shares all the rest.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmoe.model import params
from jaxmoe.model.shapes import Array, Bool, Float, Int
from rl.policy import losses
from rl.policy.advantages import Advantages, check_discounts, gae, group_advantage, whiten
from rl.policy.agent import Agent, Weights, split_rows
from rl.policy.critic import CriticParams
from rl.policy.losses import Aggregation, KLEstimator, masked_mean
from rl.policy.trajectory import Experience, Outcomes, Rollout, Scores, finer, take

Algorithm = Literal["ppo", "grpo", "rloo"]
Metrics = dict[str, Any]
LARGEST = ("ratio_error", "rescoring_error")  # of which a step reports the largest, not the mean


@dataclass(frozen=True)
class KLConfig:
    """The penalty that keeps the policy near its reference.

    Attributes:
      coefficient: β at the start; 0 without a target leaves the reference out.
      estimator: k1 = log π − log π_ref, k2 its half square, k3 never negative and unbiased.
      place: reward takes β KL off each token's reward, loss adds it to the policy's loss.
      target: KL of a response, summed over its tokens, that β is adapted to; null keeps β.
      horizon: responses over which β may change by a fifth.
    """

    coefficient: float = 0.02
    estimator: KLEstimator = "k1"
    place: Literal["reward", "loss"] = "reward"
    target: float | None = None
    horizon: float = 10_000.0

    def __post_init__(self) -> None:
        if self.coefficient < 0:
            raise ValueError(f"ppo.kl.coefficient must not be negative; got {self.coefficient}")
        if self.target is not None:
            losses.next_coefficient(0.0, 0.0, target=self.target, responses=1, horizon=self.horizon)


@dataclass(frozen=True)
class PPOConfig:
    """What is learned from a round of rollouts, and how.

    Attributes:
      epochs: passes over each round.
      minibatches: optimizer steps an epoch.
      accumulate: micro-batches a step.
      discount, decay: γ and λ of the advantages.
      whiten: advantages to mean 0 and variance 1 over the round (ppo).
      normalise_groups: divide by the standard deviation of a prompt's rewards (grpo).
      clip_low, clip_high: the ratio stays within 1 − low and 1 + high.
      value_clip: how far a value may move from its old one; null does not clip.
      reward_clip: rewards are cut to ± this; null does not.
      aggregation: how tokens are weighed, see rl.policy.losses.token_weights.
      constant: tokens, for aggregation=constant; null takes the room for a response.
      entropy: weight of the entropy bonus.
    """

    epochs: int = 1
    minibatches: int = 1
    accumulate: int = 1
    discount: float = 1.0
    decay: float = 0.95
    whiten: bool = True
    normalise_groups: bool = True
    clip_low: float = 0.2
    clip_high: float = 0.2
    value_clip: float | None = 0.2
    reward_clip: float | None = None
    aggregation: Aggregation = "token_mean"
    constant: float | None = None
    entropy: float = 0.0
    kl: KLConfig = field(default_factory=KLConfig)

    def __post_init__(self) -> None:
        check_discounts(self.discount, self.decay)
        for name in ("epochs", "minibatches", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"ppo.{name} must be at least 1; got {getattr(self, name)}")
        for name in ("clip_low", "clip_high", "value_clip", "reward_clip", "constant"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"ppo.{name} must be positive; got {value}")
        if self.clip_low > 1:
            raise ValueError(f"ppo.clip_low must be at most 1; got {self.clip_low}")

    @property
    def needs_reference(self) -> bool:
        """Whether anything is held against the reference."""
        return self.kl.coefficient > 0 or self.kl.target is not None

    @property
    def pieces(self) -> int:
        """Into how many equal parts a round is cut."""
        return self.minibatches * self.accumulate


class AgentState(NamedTuple):
    """All on the device that learning changes; critic and its optimizer are None without one."""

    policy: params.Params
    policy_optimizer: Any
    critic: CriticParams | None
    critic_optimizer: Any
    failed: Any  # int32 []; 1 once something was not finite: from then on no step changes anything


def prepare(
    algorithm: Algorithm,
    config: PPOConfig,
    rollout: Rollout,
    outcomes: Outcomes,
    scores: Scores,
    beta: Float[Array, ""],
) -> tuple[Experience, Metrics]:
    """Advantages and value targets of a round; pure, to be jitted over the whole round.

    Args:
      algorithm: ppo takes the critic's values, grpo and rloo compare the samples of a prompt.
      rollout: with all samples of a prompt together, which the group baselines compare.
    """
    mask_BW = rollout.response_mask_BW
    kl_BW = losses.kl_estimate(scores.logprobs_BW, scores.reference_BW, mask_BW, config.kl.estimator)
    rewards_B = outcomes.rewards_B
    if config.reward_clip is not None:
        rewards_B = jnp.clip(rewards_B, -config.reward_clip, config.reward_clip)
    penalty = beta if config.kl.place == "reward" else jnp.zeros(())
    if algorithm == "ppo":
        rewards_BW = losses.token_rewards(rewards_B, mask_BW, kl_BW, penalty)
        made = jax.vmap(lambda r, v, m: gae(r, v, m, discount=config.discount, decay=config.decay))(
            rewards_BW, scores.values_BW, mask_BW
        )
        advantages_BW = whiten(made.advantage_T, mask_BW) if config.whiten else made.advantage_T
    else:
        totals_B = rewards_B - penalty * kl_BW.sum(1)
        totals_PG = totals_B.reshape(-1, rollout.samples)
        group_PG = group_advantage(totals_PG, algorithm, normalise=config.normalise_groups)
        advantages_BW = group_PG.reshape(-1, 1) * mask_BW
        made = Advantages(advantages_BW, jnp.zeros_like(mask_BW))
    policy_mask_BW = outcomes.policy_mask_BW * mask_BW
    experience = Experience(rollout, scores, policy_mask_BW, advantages_BW, made.target_T)
    metrics = {
        "reward": outcomes.rewards_B.mean(),
        "kl": kl_BW.sum(1).mean(),
        "response_tokens": mask_BW.sum(1).mean(),
        "masked_share": 1.0 - policy_mask_BW.sum() / jnp.maximum(mask_BW.sum(), 1.0),
        "advantage_std": jnp.sqrt(masked_mean(jnp.square(made.advantage_T), mask_BW)),
    }
    if algorithm == "ppo":
        metrics["explained_variance"] = losses.explained_variance(scores.values_BW, made.target_T, mask_BW)
    return experience, metrics


class _Counts(NamedTuple):
    """What each token of a minibatch counts: in the policy's loss, in the value loss, in means over the
    policy's tokens."""

    policy_BW: Array
    response_BW: Array
    mean_BW: Array


def _policy_loss(
    agent: Agent, config: PPOConfig, policy, weights: Weights, part: Experience, counts: _Counts, beta, fresh
) -> tuple[Array, Metrics]:
    rollout, mask = part.rollout, part.policy_mask_BW
    states = agent.states(policy, weights.frozen, rollout)
    scores = agent.token_scores(policy, weights.frozen, states, rollout)
    # the policy that sampled is still the one that learns: its old log-probabilities are these very ones
    old_BW = jnp.where(fresh, jax.lax.stop_gradient(scores.logprob_BT), part.scores.logprobs_BW)
    surrogate = losses.clipped_surrogate(
        scores.logprob_BT,
        old_BW,
        part.advantages_BW,
        mask,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
    )
    loss = (counts.policy_BW * surrogate.loss).sum()
    total = loss - config.entropy * (counts.policy_BW * scores.entropy_BT).sum()
    if config.kl.place == "loss" and config.needs_reference:
        kl_BW = losses.kl_estimate(
            scores.logprob_BT, part.scores.reference_BW, rollout.response_mask_BW, config.kl.estimator
        )
        total = total + beta * (counts.response_BW * kl_BW).sum()
    drift = losses.kl_estimate(part.scores.logprobs_BW, scores.logprob_BT, mask, "k1")
    return total, {
        "policy_loss": loss,
        "entropy": (counts.mean_BW * scores.entropy_BT).sum(),
        "clip_fraction": (counts.mean_BW * surrogate.clipped).sum(),
        "ratio": (counts.mean_BW * surrogate.ratio).sum(),
        "old_kl": (counts.mean_BW * drift).sum(),
        "ratio_error": jnp.abs(surrogate.ratio - 1.0).max(),
        "rescoring_error": jnp.abs(drift).max(),
    }


def _value_loss(
    agent: Agent, config: PPOConfig, critic: CriticParams, weights: Weights, part: Experience, counts: _Counts
) -> tuple[Array, Metrics]:
    values = agent.values(critic, weights, part.rollout, part.scores.features_BWD)
    error = losses.clipped_value_loss(
        values,
        part.scores.values_BW,
        part.targets_BW,
        part.rollout.response_mask_BW,
        clip=config.value_clip,
    )
    loss = (counts.response_BW * error.loss).sum()
    clipped = (counts.response_BW * error.clipped).sum()
    return loss, {"value_loss": loss, "value_clip_fraction": clipped}


def update(
    agent: Agent,
    config: PPOConfig,
    optimizers: tuple[optax.GradientTransformation, optax.GradientTransformation],
    state: AgentState,
    weights: Weights,
    batch: Experience,
    beta: Float[Array, ""],
    fresh: Bool[Array, ""] | bool,
) -> tuple[AgentState, Metrics]:
    """One optimizer step of policy and critic on a minibatch; pure.

    Args:
      fresh: whether this is a round's first step. The policy is then the one that sampled, and its old
        log-probabilities are taken from this forward itself: the ratio is exactly 1.

    Token weights are those of the whole minibatch, so that micro-batches add up to the same gradient.
    """
    response = batch.rollout.response_mask_BW
    counts = _Counts(
        losses.token_weights(batch.policy_mask_BW, config.aggregation, constant=config.constant),
        losses.token_weights(response, "token_mean"),
        losses.token_weights(batch.policy_mask_BW, "token_mean"),
    )

    def gradients(part: Experience, part_counts: _Counts):
        def policy_loss(policy):
            return _policy_loss(agent, config, policy, weights, part, part_counts, beta, fresh)

        def value_loss(critic):
            return _value_loss(agent, config, critic, weights, part, part_counts)

        policy_grad, metrics = jax.grad(policy_loss, has_aux=True)(state.policy)
        if state.critic is None:
            return (policy_grad, None), metrics
        critic_grad, more = jax.grad(value_loss, has_aux=True)(state.critic)
        return (policy_grad, critic_grad), metrics | more

    if config.accumulate == 1:
        grads, metrics = gradients(batch, counts)
    else:
        prompts = batch.rollout.prompts_PS.shape[0]
        parts = split_rows((batch, counts), config.accumulate, prompts, agent.mesh)
        zeros = jax.tree.map(jnp.zeros_like, (state.policy, state.critic))

        def add(total, part):
            grads, metrics = gradients(*part)
            return jax.tree.map(jnp.add, total, grads), metrics

        grads, each = jax.lax.scan(add, zeros, parts)
        metrics = {k: v.max() if k in LARGEST else v.sum() for k, v in each.items()}
    return _step(optimizers, state, grads, metrics)


def _step(optimizers, state: AgentState, grads, metrics: Metrics) -> tuple[AgentState, Metrics]:
    policy_grad, critic_grad = grads
    metrics["policy_grad_norm"] = optax.tree.norm(policy_grad)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes integer counters with floats
        changes, policy_optimizer = optimizers[0].update(policy_grad, state.policy_optimizer, state.policy)
    policy: Any = optax.apply_updates(state.policy, changes)
    critic, critic_optimizer = state.critic, state.critic_optimizer
    if critic is not None:
        metrics["critic_grad_norm"] = optax.tree.norm(critic_grad)
        with jax.numpy_dtype_promotion("standard"):
            changes, critic_optimizer = optimizers[1].update(critic_grad, critic_optimizer, critic)
        critic: Any = optax.apply_updates(critic, changes)
    finite = jnp.isfinite(jnp.stack([metrics[k].astype(jnp.float32) for k in sorted(metrics)])).all()
    failed = jnp.where(finite, state.failed, 1)
    new = (policy, policy_optimizer, critic, critic_optimizer)
    kept = jax.tree.map(lambda n, o: jnp.where(failed > 0, o, n), new, tuple(state[:4]))
    return AgentState(kept[0], kept[1], kept[2], kept[3], failed), metrics


class Learner:
    """The jitted functions of one agent: build once, call every round.

    Args:
      samples: of a prompt computed together (rl.policy.agent.samples_together).
      shardings: of the AgentState.
    """

    def __init__(
        self,
        agent: Agent,
        algorithm: Algorithm,
        config: PPOConfig,
        optimizers: tuple[optax.GradientTransformation, optax.GradientTransformation],
        samples: int,
        shardings: AgentState,
    ):
        everywhere = params.replicated(agent.mesh)

        def step(state, weights, experience: Experience, prompts_X: Int[Array, " X"], beta, fresh):
            batch = take(experience, prompts_X)
            spread = jax.lax.with_sharding_constraint(batch, params.batch_sharding(agent.mesh))
            return update(agent, config, optimizers, state, weights, spread, beta, fresh)

        def ready(rollout, outcomes, scores, beta):
            experience, metrics = prepare(algorithm, config, rollout, outcomes, scores, beta)
            return experience._replace(rollout=finer(rollout, samples)), metrics

        self.config, self._samples = config, samples
        self._prepare = jax.jit(ready, out_shardings=(params.batch_sharding(agent.mesh), everywhere))
        self._step = jax.jit(step, donate_argnums=0, out_shardings=(shardings, everywhere))

    def learn(
        self,
        state: AgentState,
        weights: Weights,
        rollout: Rollout,
        outcomes: Outcomes,
        scores: Scores,
        *,
        beta: float,
        rng: np.random.Generator,
    ) -> tuple[AgentState, Metrics]:
        """A round's epochs x minibatches; the state is donated.

        Args:
          rng: orders the prompts of each epoch.
        Returns: the new state, and metrics on the device: means over the steps; `first_ratio_error` is the
          largest |ratio − 1| of the first step, `first_rescoring_error` the largest difference between its
          log-probabilities and the ones scored during grading: rounding, unless something is wrong.
        """
        coefficient = np.float32(beta)
        experience, metrics = self._prepare(rollout, outcomes, scores, coefficient)
        count = rollout.responses_BW.shape[0] // self._samples
        steps: list[Metrics] = []
        for _ in range(self.config.epochs):
            order = rng.permutation(count).astype(np.int32)
            for prompts_X in np.split(order, self.config.minibatches):
                fresh = np.bool_(not steps)
                state, said = self._step(state, weights, experience, prompts_X, coefficient, fresh)
                steps.append(said)
        mean = {k: sum(s[k] for s in steps) / len(steps) for k in steps[0] if k not in LARGEST}
        first = {f"first_{k}": steps[0][k] for k in LARGEST}
        return state, metrics | mean | first


def next_beta(config: PPOConfig, beta: float, kl: float, responses: int) -> float:
    """The KL coefficient of the next round; the same one without a target.

    Args:
      kl: of a response, summed over its tokens, mean over the round.
    """
    if config.kl.target is None or not math.isfinite(kl):
        return beta
    return losses.next_coefficient(
        beta, kl, target=config.kl.target, responses=responses, horizon=config.kl.horizon
    )
