"""Proximal policy optimization: from scored rollouts to new weights, in epochs of minibatches.

    rollout, scores, outcomes --prepare--> Experience --update, epochs x minibatches--> state, metrics

Policy and critic have separate optimizers. Everything is jitted over the mesh; the frozen weights are an
argument that is never copied, differentiated or donated. A line in rl.policy.algorithms selects the
advantages and the loss; everything else is shared.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmoe.model import params
from jaxmoe.model.shapes import Array, Bool, Float, Int, PyTree
from rl.policy import losses
from rl.policy.agent import Agent, Weights, split_rows
from rl.policy.algorithms import Algorithm, algorithm_named, settled
from rl.policy.config import Aggregation, RLConfig, own
from rl.policy.critic import CriticParams
from rl.policy.experience import RoundMetrics, prepare
from rl.policy.trajectory import Experience, Outcomes, PolicyScores, Rollout, finer, take

LARGEST = ("ratio_error", "rescoring_error")  # for these a step reports the largest, not the mean


class AgentState(NamedTuple):
    """Everything on the device that learning changes.

    Attributes:
      policy: its trainable weights.
      policy_optimizer: the optimizer's state.
      critic, critic_optimizer: None without a critic.
      failed: int32 []; 1 once something was not finite: from then on no step changes anything.
    """

    policy: params.Params
    policy_optimizer: optax.OptState
    critic: CriticParams | None
    critic_optimizer: optax.OptState | None
    failed: PyTree


class _Counts(NamedTuple):
    """The weight of each token of a minibatch: in the policy's loss, in the KL penalty, in the value loss,
    and in means over the policy's tokens."""

    policy_BW: Array
    kl_BW: Array
    value_BW: Array
    mean_BW: Array


def _policy_loss(
    agent: Agent,
    algorithm: Algorithm,
    config: RLConfig,
    policy: params.Params,
    weights: Weights,
    part: Experience,
    counts: _Counts,
    beta: Array,
    fresh: Array | bool,
) -> tuple[Array, RoundMetrics]:
    rollout, mask = part.rollout, part.policy_mask_BW
    states = agent.states(policy, weights.frozen, rollout)
    scores = agent.token_scores(policy, weights.frozen, states, rollout)
    # the policy that sampled is still the one that learns: these are its old log-probabilities
    old_BW = jnp.where(fresh, jax.lax.stop_gradient(scores.logprob_BT), part.scores.logprobs_BW)
    surrogate = algorithm.loss(scores.logprob_BT, old_BW, part.advantages_BW, mask, config)
    loss = (counts.policy_BW * part.importance_BW * surrogate.loss).sum()
    total = loss - config.entropy * (counts.policy_BW * scores.entropy_BT).sum()
    metrics: RoundMetrics = {}
    if config.kl.place == "loss" and config.needs_reference:
        kl_BW = losses.kl_estimate(
            scores.logprob_BT, part.scores.reference_BW, rollout.response_mask_BW, config.kl.chosen
        )
        penalty = (counts.kl_BW * part.importance_BW * kl_BW).sum()
        total = total + beta * penalty
        metrics["kl_loss"] = penalty
    drift = losses.kl_estimate(part.scores.logprobs_BW, scores.logprob_BT, mask, "k1")
    return total, metrics | {
        "policy_loss": loss,
        "entropy": (counts.mean_BW * scores.entropy_BT).sum(),
        "clip_fraction": (counts.mean_BW * surrogate.clipped).sum(),
        "ratio": (counts.mean_BW * surrogate.ratio).sum(),
        "old_kl": (counts.mean_BW * drift).sum(),
        "ratio_error": jnp.abs(surrogate.ratio - 1.0).max(),
        "rescoring_error": jnp.abs(drift).max(),
    }


def _value_loss(
    agent: Agent, config: RLConfig, critic: CriticParams, weights: Weights, part: Experience, counts: _Counts
) -> tuple[Array, RoundMetrics]:
    values = agent.values(critic, weights, part.rollout, part.scores.features_BWD)
    error = losses.clipped_value_loss(
        values,
        part.scores.values_BW,
        part.targets_BW,
        part.rollout.response_mask_BW,
        clip=config.value_clip,
    )
    loss = (counts.value_BW * error.loss).sum()
    clipped = (counts.value_BW * error.clipped).sum()
    return loss, {"value_loss": loss, "value_clip_fraction": clipped}


def update(
    agent: Agent,
    algorithm: str,
    config: RLConfig,
    optimizers: tuple[optax.GradientTransformation, optax.GradientTransformation],
    state: AgentState,
    weights: Weights,
    batch: Experience,
    beta: Float[Array, ""],
    fresh: Bool[Array, ""] | bool,
) -> tuple[AgentState, RoundMetrics]:
    """One optimizer step of policy and critic on a minibatch; pure.

        loss = Σ w_policy · importance · surrogate − entropy · Σ w_policy · H + β Σ w_kl · importance · KL

    with the last term only if the penalty is placed in the loss. w_kl are the weights of `aggregation` too,
    over all sampled tokens. Token weights are those of the whole minibatch, so that micro-batches add up to
    the same gradient.

    Args:
      algorithm: a name in rl.policy.algorithms.
      optimizers: of policy and critic.
      batch: a minibatch, see rl.policy.trajectory.take.
      beta: KL coefficient.
      fresh: whether this is a round's first step. The policy is then the one that sampled, and its old
        log-probabilities are taken from this same forward pass: the ratio is exactly 1.
    Returns: the new state, and metrics of the step.
    """
    chosen, config = algorithm_named(algorithm), settled(algorithm, config)
    response = batch.rollout.response_mask_BW
    aggregation: Aggregation = own(config.aggregation, "aggregation")
    counts = _Counts(
        losses.token_weights(batch.policy_mask_BW, aggregation, constant=config.constant),
        losses.token_weights(response, aggregation, constant=config.constant),
        losses.token_weights(response, "token_mean"),
        losses.token_weights(batch.policy_mask_BW, "token_mean"),
    )

    def gradients(part: Experience, part_counts: _Counts):
        def policy_loss(policy):
            return _policy_loss(agent, chosen, config, policy, weights, part, part_counts, beta, fresh)

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


def _step(
    optimizers: tuple[optax.GradientTransformation, optax.GradientTransformation],
    state: AgentState,
    grads: tuple[PyTree, PyTree],
    metrics: RoundMetrics,
) -> tuple[AgentState, RoundMetrics]:
    policy_grad, critic_grad = grads
    metrics["policy_grad_norm"] = optax.tree.norm(policy_grad)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes integer counters with floats
        changes, policy_optimizer = optimizers[0].update(policy_grad, state.policy_optimizer, state.policy)
    policy: PyTree = optax.apply_updates(state.policy, changes)
    critic, critic_optimizer = state.critic, state.critic_optimizer
    if critic is not None:
        assert critic_optimizer is not None
        metrics["critic_grad_norm"] = optax.tree.norm(critic_grad)
        with jax.numpy_dtype_promotion("standard"):
            changes, critic_optimizer = optimizers[1].update(critic_grad, critic_optimizer, critic)
        critic: PyTree = optax.apply_updates(critic, changes)
    finite = jnp.isfinite(jnp.stack([metrics[k].astype(jnp.float32) for k in sorted(metrics)])).all()
    failed = jnp.where(finite, state.failed, 1)
    new = (policy, policy_optimizer, critic, critic_optimizer)
    kept = jax.tree.map(lambda n, o: jnp.where(failed > 0, o, n), new, tuple(state[:4]))
    return AgentState(kept[0], kept[1], kept[2], kept[3], failed), metrics


class Learner:
    """The jitted functions of one agent: build it once, call it every round.

    Args:
      algorithm: a name in rl.policy.algorithms.
      optimizers: of policy and critic.
      samples: of a prompt computed together (rl.policy.agent.samples_together).
      shardings: of the AgentState.
    """

    def __init__(
        self,
        agent: Agent,
        algorithm: str,
        config: RLConfig,
        optimizers: tuple[optax.GradientTransformation, optax.GradientTransformation],
        samples: int,
        shardings: AgentState,
    ):
        everywhere = params.replicated(agent.mesh)
        config = settled(algorithm, config)

        def step(state, weights, experience: Experience, prompts_X: Int[Array, " X"], beta, fresh):
            batch = take(experience, prompts_X)
            spread = jax.lax.with_sharding_constraint(batch, params.batch_sharding(agent.mesh))
            return update(agent, algorithm, config, optimizers, state, weights, spread, beta, fresh)

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
        scores: PolicyScores,
        *,
        beta: float,
        rng: np.random.Generator,
    ) -> tuple[AgentState, RoundMetrics]:
        """A round's epochs x minibatches; the state is donated.

        Args:
          beta: KL coefficient, in reward units per nat.
          rng: orders the prompts of each epoch.
        Returns: the new state, and metrics on the device: means over the steps; `first_ratio_error` is the
          largest |ratio − 1| of the first step, `first_rescoring_error` the largest difference between its
          log-probabilities and the ones scored during grading: rounding, unless something is wrong.
        Raises: ValueError if a return is to be bootstrapped from a slot that does not exist.
        """
        if self.config.truncated == "bootstrap" and outcomes.truncated_B is not None:
            full_B = np.asarray(rollout.response_mask_BW)[:, -1] * np.asarray(outcomes.truncated_B)
            if full_B.any():
                raise ValueError(
                    "bootstrapping reads the value behind a truncated response, so the rollout needs one "
                    f"slot more than tokens; got {int(full_B.sum())} rows without one"
                )
        coefficient = np.float32(beta)
        experience, metrics = self._prepare(rollout, outcomes, scores, coefficient)
        count = rollout.responses_BW.shape[0] // self._samples
        steps: list[RoundMetrics] = []
        for _ in range(self.config.epochs):
            order = rng.permutation(count).astype(np.int32)
            for prompts_X in np.split(order, self.config.minibatches):
                fresh = np.bool_(not steps)
                state, told = self._step(state, weights, experience, prompts_X, coefficient, fresh)
                steps.append(told)
        mean = {k: sum(s[k] for s in steps) / len(steps) for k in steps[0] if k not in LARGEST}
        first = {f"first_{k}": steps[0][k] for k in LARGEST}
        return state, metrics | mean | first


def next_beta(config: RLConfig, beta: float, kl: float, responses: int) -> float:
    """The KL coefficient of the next round; the same one without a target.

    Args:
      beta: that of this round.
      kl: of a response, summed over its tokens, mean over the round, in nats.
      responses: of this round.
    Returns: β, see rl.policy.losses.next_coefficient.
    """
    if config.kl.target is None or not math.isfinite(kl):
        return beta
    return losses.next_coefficient(
        beta, kl, target=config.kl.target, responses=responses, horizon=config.kl.horizon
    )
