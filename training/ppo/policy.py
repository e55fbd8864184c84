"""What learns: policy, reference and critic over one model, their optimizers, and where each part lies."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmoe.model import params
from jaxmoe.model.mesh import batch_ways
from jaxmoe.model.shapes import PyTree
from rl.policy.agent import Agent, ForwardConfig, Weights, make_score, samples_together
from rl.policy.config import RLConfig
from rl.policy.critic import Body, CriticParams, new_critic
from rl.policy.ppo import AgentState, Learner
from rl.policy.trajectory import PolicyScores
from rl.stepcoder.rollouts import RolloutConfig
from training.runtime.model import TrainableModel
from training.runtime.optimizer import OptimizerConfig, decayed, make_optimizer, optimizer_shardings

Optimizers = tuple[optax.GradientTransformation, optax.GradientTransformation]


def make_agent(
    model: TrainableModel,
    *,
    body: Body | None,
    use_reference: bool,
    renewed: bool = False,
    forward: ForwardConfig,
    temperature: float = 1.0,
) -> tuple[Agent, Weights, CriticParams | None]:
    """Policy, reference and critic over the model's weights; only what is trained is ever copied.

    Args:
      body: of the critic; None for no critic.
      use_reference: whether anything compares the policy with what it was before training.
      renewed: whether the reference is renewed, and so has its own weights from the start.
      temperature: of the policy that is trained.
    Returns: the agent, the weights that training never changes, and the critic's.
    """
    weights, mesh = model.lm.weights, model.lm.mesh
    head, critic = None, None
    if body is not None:
        head, critic = new_critic(model.lm.config.hidden_size, body, weights.trainable)
        critic = critic._replace(head=jax.device_put(critic.head, params.replicated(mesh)))
    # where every weight is trained, the policy before training is gone after the first step
    needs_copy = renewed or (model.train == "all" and (use_reference or body == "frozen"))
    reference = jax.tree.map(jnp.copy, weights.trainable) if needs_copy else None
    agent = Agent(weights.definition, mesh, head, body or "frozen", use_reference, forward, temperature)
    return agent, Weights(weights.frozen, reference), critic


def make_state(
    model: TrainableModel,
    critic: CriticParams | None,
    *,
    optimizer: OptimizerConfig,
    critic_optimizer: OptimizerConfig,
    steps: int,
) -> tuple[Optimizers, AgentState, AgentState]:
    """Optimizers of policy and critic, the state before the first round, and the shardings of its parts.

    Args:
      critic: None without one.
      optimizer, critic_optimizer: their settings.
      steps: optimizer steps of the whole run, for the learning rate.
    Returns: (policy's, critic's) optimizers, the state, and its shardings in the state's own structure.
    """
    mesh, policy = model.lm.mesh, model.lm.weights.trainable
    everywhere = params.replicated(mesh)
    for_policy = make_optimizer(optimizer, steps, decayed(model.abstract, optimizer, model.train))
    for_critic = make_optimizer(critic_optimizer, steps)
    policy_shardings, _ = params.shardings(model.abstract, mesh, model.train)
    shardings: PyTree = AgentState(
        policy_shardings,
        optimizer_shardings(for_policy, policy, policy_shardings, everywhere),
        None,
        None,
        everywhere,
    )
    if critic is not None:
        head = jax.tree.map(lambda _: everywhere, critic.head)
        critic_shardings = CriticParams(head, None if critic.body is None else policy_shardings)
        shardings = shardings._replace(
            critic=critic_shardings,
            critic_optimizer=optimizer_shardings(for_critic, critic, critic_shardings, everywhere),
        )
    state = AgentState(
        policy,
        _initialized(for_policy, policy, shardings.policy_optimizer),
        critic,
        None if critic is None else _initialized(for_critic, critic, shardings.critic_optimizer),
        jax.device_put(np.int32(0), everywhere),
    )
    return (for_policy, for_critic), state, shardings


def _initialized(optimizer: optax.GradientTransformation, trained: PyTree, shardings: PyTree) -> PyTree:
    return jax.jit(optimizer.init, out_shardings=shardings)(trained)


class Learning(NamedTuple):
    """Everything on the device, and what is done with it.

    Attributes:
      state: before the first round.
      shardings: of the state's parts.
      score: (policy, critic, weights, rollout) -> PolicyScores.
    """

    agent: Agent
    weights: Weights
    state: AgentState
    shardings: AgentState
    score: Callable[..., PolicyScores]
    learner: Learner


def learner_temperature(rl: RLConfig, rollout: RolloutConfig) -> float:
    """The temperature of the policy that is trained.

    Args:
      rl: its temperature, if it has one, takes precedence.
      rollout: gives the sampler's.
    Returns: the divisor of the logits in the policy's loss.
    """
    return rollout.temperature if rl.temperature is None else rl.temperature


def make_learning(
    model: TrainableModel,
    algorithm: str,
    rl: RLConfig,
    rollout: RolloutConfig,
    *,
    body: Body | None,
    forward: ForwardConfig,
    optimizer: OptimizerConfig,
    critic_optimizer: OptimizerConfig,
    rounds: int,
) -> Learning:
    """Agent, state and jitted functions of a run.

    Args:
      algorithm: a name in rl.policy.algorithms.
      rollout: gives how many rows a round has, and the sampler's temperature.
      body: of the critic; None without one.
      rounds: of the whole run, for learning-rate schedules.
    Returns: what the rounds are made with.
    Raises: ValueError if a round's rows cannot be cut into equal pieces.
    """
    agent, weights, critic = make_agent(
        model,
        body=body,
        use_reference=rl.needs_reference,
        renewed=rl.kl.sync_every > 0,
        forward=forward,
        temperature=learner_temperature(rl, rollout),
    )
    optimizers, state, shardings = make_state(
        model,
        critic,
        optimizer=optimizer,
        critic_optimizer=critic_optimizer,
        steps=rounds * rl.epochs * rl.minibatches,
    )
    together = rollout.samples if forward.share_prompts else 1
    mesh, rows = model.lm.mesh, rollout.prompts * rollout.samples
    ways = batch_ways(mesh)
    samples = samples_together(rows // together, together, rl.pieces, ways)
    learner = Learner(agent, algorithm, rl, optimizers, samples, shardings)
    return Learning(agent, weights, state, shardings, make_score(agent, rl.pieces, samples), learner)
