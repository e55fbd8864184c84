"""pass@1 on the held-out problems, asked as whole tasks."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from jaxmoe.generation.sampling import Sampling
from rl.feedback.problems import Problem
from rl.stepcoder.grading import Grading, ProgramGrader
from rl.stepcoder.rollouts import RolloutConfig, RolloutTask, Sampled
from training.ppo.config import EvaluationConfig
from training.ppo.problems import make_task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class SampleTasks(Protocol):
    """Draws `samples` programs for each task; `first` is the number of the first of these tasks."""

    def __call__(self, tasks: list[RolloutTask], samples: int, sampling: Sampling, first: int) -> Sampled: ...


class HeldOut:
    """The problems that a policy is measured on, ready to be put.

    Args:
      problems: all held-out ones; the settings' limit takes the first of them.
      rollout: gives lengths, the form of prompts, and how many rows go together.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        config: EvaluationConfig,
        rollout: RolloutConfig,
        tokenizer: "PreTrainedTokenizerBase",
        grader: ProgramGrader,
    ):
        # the room of a rollout follows the canonical solution's length, which an exam must not tell
        whole = replace(rollout, room=None)
        self._tasks = [make_task(p, None, whole, tokenizer) for p in problems[: config.limit]]
        self._config, self._grader = config, grader
        self._at_once = max(rollout.prompts * rollout.samples // config.samples, 1)

    def __len__(self) -> int:
        return len(self._tasks)

    def measure(self, sample: SampleTasks) -> dict[str, float]:
        """pass@1 over all problems and by difficulty, with standard errors over problems.

        Args:
          sample: draws with the policy that is measured.
        Returns: pass_at_1, standard_error, and both by difficulty as pass_at_1_DIFFICULTY.
        """
        config, passed = self._config, []
        for first in range(0, len(self._tasks), self._at_once):
            part = self._tasks[first : first + self._at_once]
            sampled = sample(part, config.samples, config.sampling, first)
            graded = Grading(self._grader, sampled).result("response")
            passed.append(graded.passed.reshape(len(part), -1).mean(1))
        rate = np.concatenate(passed)
        kinds = np.asarray([task.problem.difficulty for task in self._tasks])
        told: dict[str, float] = {}
        for name in ("", *dict.fromkeys(kinds)):
            chosen = rate if not name else rate[kinds == name]
            ending = f"_{name}" if name else ""
            told[f"pass_at_1{ending}"] = float(chosen.mean())
            error = float(chosen.std(ddof=1) / np.sqrt(len(chosen))) if len(chosen) > 1 else 0.0
            told[f"standard_error{ending}"] = error
        return told
