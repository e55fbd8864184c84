"""pass@1 on the held-out problems, posed as whole tasks."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from jaxmoe.generation.sampling import Sampling
from rl.feedback.grader import Grader
from rl.feedback.problems import Problem
from rl.stepcoder.rollouts import OnRow, RolloutConfig, RolloutTask, Sampled
from rl.stepcoder.turns import passed_by_turn, play
from training.ppo.config import EvaluationConfig
from training.ppo.problems import make_task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class SampleTasks(Protocol):
    """Draws `samples` programs for each task.

    `first` is the number of the first of these tasks in the exam, `turn` that of the turn.
    """

    def __call__(
        self,
        tasks: list[RolloutTask],
        samples: int,
        sampling: Sampling,
        first: int,
        turn: int = 0,
        on_row: OnRow | None = None,
    ) -> Sampled: ...


class HeldOut:
    """The problems that a policy is measured on, ready to be posed.

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
        grader: Grader,
    ):
        # the room of a rollout follows the canonical solution's length, which an exam must not reveal
        whole = replace(rollout, room=None)
        self._tasks = [make_task(p, None, whole, tokenizer) for p in problems[: config.limit]]
        self._config, self._grader = config, grader
        self._tokenizer, self._rollout = tokenizer, whole
        self._at_once = max(rollout.prompts * rollout.samples // config.samples, 1)

    def __len__(self) -> int:
        return len(self._tasks)

    def measure(self, sample: SampleTasks) -> dict[str, float]:
        """pass@1 over all problems and by difficulty, with standard errors over problems.

        Args:
          sample: draws with the policy that is measured.
        Returns: pass_at_1, standard_error, and both by difficulty as pass_at_1_DIFFICULTY; if episodes have
          several turns, pass_at_1 after the last one, and pass_at_1_turn_T for each.
        """
        passed: list[np.ndarray] = []
        for first in range(0, len(self._tasks), self._at_once):
            part = self._tasks[first : first + self._at_once]

            def draw(
                tasks: list[RolloutTask], samples: int, turn: int, on_row: OnRow, at: int = first
            ) -> Sampled:
                return sample(tasks, samples, self._config.sampling, at, turn, on_row)

            batch = play(
                draw, part, self._config.samples, self._grader, self._tokenizer, self._rollout, "response"
            )
            if batch.sampled.turns is None:
                found = batch.graded.passed[None]
            else:
                found = passed_by_turn(batch.sampled, self._rollout.turns)
            passed.append(found.reshape(len(found), len(part), -1).mean(2))
        by_turn = np.concatenate(passed, axis=1)
        rate = by_turn[-1]
        kinds = np.asarray([task.problem.difficulty for task in self._tasks])
        told: dict[str, float] = {}
        if len(by_turn) > 1:
            for number, one in enumerate(by_turn, start=1):
                told |= _mean(one, f"_turn_{number}")
        for name in ("", *dict.fromkeys(kinds)):
            told |= _mean(rate if not name else rate[kinds == name], f"_{name}" if name else "")
        return told


def _mean(rates: np.ndarray, ending: str) -> dict[str, float]:
    """The mean over problems with its standard error, under their names."""
    error = float(rates.std(ddof=1) / np.sqrt(len(rates))) if len(rates) > 1 else 0.0
    return {f"pass_at_1{ending}": float(rates.mean()), f"standard_error{ending}": error}
