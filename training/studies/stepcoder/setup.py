"""A policy and what it is asked: the settings of a PPO run that do not say how it learns."""

from typing import NamedTuple

from rl.stepcoder.rollouts import RolloutConfig
from training.ppo.config import EvaluationConfig
from training.ppo.problems import ProblemsConfig, SandboxConfig
from training.runtime.distributed import MeshConfig
from training.runtime.model import ModelSource


class PolicySetup(NamedTuple):
    """What every row of the study shares.

    Attributes:
      source: where the policy comes from.
      base: its checkpoint, which also holds the tokenizer.
      rollout: its form may still be auto.
      seed: seed of samples and orders.
    """

    source: ModelSource
    base: str
    mesh: MeshConfig
    problems: ProblemsConfig
    rollout: RolloutConfig
    sandbox: SandboxConfig
    evaluation: EvaluationConfig
    seed: int
