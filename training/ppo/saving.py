"""What a checkpoint of a PPO run holds, and how the run is resumed from it."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxmoe.json_values import JsonObject
from jaxmoe.model import params
from rl.policy.critic import CriticParams
from rl.policy.ppo import AgentState
from rl.stepcoder.curriculum import Curriculum
from training.runtime import checkpoint
from training.runtime.checkpoint import Checkpoints, Saved
from training.runtime.run_folder import RunFolder


class RoundState(NamedTuple):
    """Where a run stands, apart from the curriculum: finished rounds, the agent, the KL coefficient.

    Attributes:
      reference: the reference policy's weights if they are renewed (ppo.kl.sync_every); else None.
      sampler: the policy's weights with which this round is sampled, if rounds are sampled ahead
        (rollout.ahead); else None.
    """

    round: int
    agent: AgentState
    beta: float
    reference: params.Params | None = None
    sampler: params.Params | None = None


@dataclass
class RunCheckpoints:
    """The checkpoints of one run.

    Attributes:
      run: whose they are.
      shardings: of the agent's parts.
      meta: saved with each; its `identity` is what a run of the same folder must share, unless it was told to
        resume with changes.
    """

    run: RunFolder
    checkpoints: Checkpoints
    shardings: AgentState
    meta: JsonObject

    def save(self, at: RoundState, curriculum: Curriculum | None) -> None:
        """Begins to write everything that the next round depends on.

        Args:
          at: the state; the number of its round becomes the checkpoint's.
          curriculum: its table is saved too; None without one.
        """
        host = {
            "round": at.round,
            "beta": at.beta,
            "curriculum": None if curriculum is None else curriculum.state_dict(),
        }
        saved = Saved(
            at.agent.policy,
            _learned(at.agent, at.reference, at.sampler),
            host,
            self.meta | {"step": at.round},
        )
        self.checkpoints.save(at.round, saved)

    def restore(self, like: RoundState, curriculum: Curriculum | None) -> RoundState:
        """The latest checkpoint, placed as this run wants it; the curriculum is set to its table.

        Args:
          like: a state of the same structure; returned as it is if nothing has been saved yet.
          curriculum: changed in place; None without one.
        Returns: the state to resume from.
        Raises: ValueError if the checkpoint belongs to another run.
        """
        step = self.checkpoints.latest()
        if step is None:
            return like
        if not self.run.changed:
            saved_identity = self.checkpoints.meta(step)["identity"]
            changed = checkpoint.changed_content(saved_identity, self.meta["identity"])
            checkpoint.refuse_another_run(self.run.path, changed)
        saved = self.checkpoints.restore(
            step,
            checkpoint.structure(like.agent.policy, self.shardings.policy),
            checkpoint.structure(
                _learned(like.agent, like.reference, like.sampler),
                _learned(
                    self.shardings,
                    None if like.reference is None else self.shardings.policy,
                    None if like.sampler is None else self.shardings.policy,
                ),
            ),
        )
        if curriculum is not None and saved.data["curriculum"] is not None:
            curriculum.load_state_dict(saved.data["curriculum"])
        critic = None
        if like.agent.critic is not None:
            critic = CriticParams(saved.optimizer["critic_head"], saved.optimizer.get("critic_body"))
        agent = AgentState(
            saved.trainable,
            saved.optimizer["policy_optimizer"],
            critic,
            saved.optimizer.get("critic_optimizer"),
            like.agent.failed,
        )
        beta, other = saved.data["beta"], saved.optimizer
        return RoundState(saved.data["round"], agent, beta, other.get("reference"), other.get("sampler"))

    def save_before_failure(self, at: RoundState, curriculum: Curriculum | None) -> None:
        """Writes the state before a step that failed, which kept every weight, and waits until it is on disk.

        Args:
          at: the state, whose mark of failure is not saved.
          curriculum: its table is saved too; None without one.
        """
        agent = at.agent._replace(failed=np.int32(0))
        self.save(at._replace(agent=agent), curriculum)
        self.checkpoints.wait()


def _learned(agent: AgentState, reference: params.Params | None, sampler: params.Params | None) -> JsonObject:
    """All that changes besides the policy's weights, without what this agent does not have."""
    out = {"policy_optimizer": agent.policy_optimizer}
    if reference is not None:
        out["reference"] = reference
    if sampler is not None:
        out["sampler"] = sampler
    if agent.critic is not None:
        out |= {"critic_head": agent.critic.head, "critic_optimizer": agent.critic_optimizer}
        if agent.critic.body is not None:
            out["critic_body"] = agent.critic.body
    return out
