"""CCCS: a curriculum of code completion, which decides how much of the canonical solution a rollout is given.

A solution with E conditionals has ⌈√E⌉ stages. At stage c > 0 the policy continues the solution from its
conditional number s·c (from 0, in the order of the text), s = ⌈E / ⌈√E⌉⌉; at stage 0 it writes the whole
program. A problem starts at its last, easiest stage, and moves down by one whenever its moving pass rate
exceeds the threshold. After n rounds at a stage, with xₙ the share of samples that passed,

    ρₙ = (1 − α) ρₙ₋₁ + α xₙ,   ρ₀ = 0;   pass rate = ρₙ / (1 − (1 − α)ⁿ)

a weighted mean of x₁ .. xₙ, corrected like Adam's moments (arXiv:1412.6980, section 3): ρₙ itself would stay
below the threshold for several rounds however many samples pass, and a problem of a large data set comes up
only a few times. For the same reason problems that are not yet at the whole task come up more often.

The paper leaves α, the threshold and what counts as a conditional open; they are settings here.
Reference: Dou et al. 2024, arXiv:2402.01391, section 3.1.
"""

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxmoe.json_values import JsonObject
from rl.feedback.problems import Problem
from rl.stepcoder.conditionals import DEFAULT_KINDS, prefixes


@dataclass
class _Progress:
    """A problem's stage, its moving average and rounds there, and when it is due again."""

    stage: int
    average: float = 0.0
    rounds: int = 0
    due: float = 0.0


class Curriculum:
    """The stage of every problem, and which come next. Its state is plain JSON: save it with the run.

    Args:
      problems: those whose canonical solution parses get stages; the others are whole tasks.
      smoothing: α, the weight of a round in the moving pass rate.
      threshold: the pass rate above which a problem moves on.
      leap: a pass rate of one round above which a problem moves on by two stages; None: never.
      unfinished_weight: how often a problem above the whole task comes up for each time that one at it does.
      kinds: what counts as a conditional: if, for, while, try, match, ternary.
    Raises: ValueError for settings outside (0, 1] or [0, 1), or a weight below 1.

    >>> solution = "".join(f"if x == {i}:\\n    x = 0\\n" for i in range(9))
    >>> curriculum = Curriculum([Problem("p", "", canonical_solution=solution)])
    >>> curriculum.stage("p"), curriculum.update("p", [True, False])
    (2, 1)
    """

    def __init__(
        self,
        problems: Iterable[Problem],
        *,
        smoothing: float = 0.2,
        threshold: float = 0.3,
        leap: float | None = None,
        unfinished_weight: float = 2.0,
        kinds: Sequence[str] = DEFAULT_KINDS,
    ):
        if not 0.0 < smoothing <= 1.0:
            raise ValueError(f"the curriculum's smoothing must lie in (0, 1]; got {smoothing}")
        if not 0.0 <= threshold < 1.0:
            raise ValueError(f"the curriculum's threshold must lie in [0, 1); got {threshold}")
        if unfinished_weight < 1.0:
            raise ValueError(
                f"the curriculum's unfinished_weight must be at least 1; got {unfinished_weight}"
            )
        self._smoothing, self._threshold, self._leap = smoothing, threshold, leap
        self._weight = unfinished_weight
        self._prefixes: dict[str, list[str]] = {}
        for problem in problems:
            self._prefixes[problem.id] = prefixes(problem.canonical_solution, kinds, problem.language)
        self._progress = {name: _Progress(len(stages) - 1) for name, stages in self._prefixes.items()}

    def among(self, problem_ids: Iterable[str]) -> "Curriculum":
        """The same curriculum for some of its problems, as it stands; changes to it leave this one alone."""
        part = copy.copy(self)
        chosen = list(problem_ids)
        part._prefixes = {name: self._prefixes[name] for name in chosen}
        part._progress = {name: copy.copy(self._progress[name]) for name in chosen}
        return part

    @property
    def stages(self) -> dict[str, int]:
        """How many stages each problem has, by its id; 1 for those that are whole tasks from the start."""
        return {name: len(parts) for name, parts in self._prefixes.items()}

    def stage(self, problem_id: str) -> int:
        """The stage that a problem is at; 0 is the whole task."""
        return self._progress[problem_id].stage

    def pass_rate(self, problem_id: str) -> float:
        """The moving pass rate of a problem at its stage; 0 before its first round there."""
        progress = self._progress[problem_id]
        return (
            progress.average / (1.0 - (1.0 - self._smoothing) ** progress.rounds) if progress.rounds else 0.0
        )

    def prefix(self, problem_id: str) -> str:
        """The part of the canonical solution that is given at the problem's stage."""
        return self._prefixes[problem_id][self.stage(problem_id)]

    def choose(self, size: int, *, round_number: int, seed: int) -> list[str]:
        """Which problems a round takes: those due first, in random order among equals.

        A problem is due again 1 after its last round, one above the whole task 1 / `unfinished_weight` after.
        So every problem comes once before any comes twice, and then the unfinished ones come more often. The
        choice depends only on the state, the round and the seed, so that a resumed run repeats an unbroken
        one.

        Args:
          size: problems per round; none comes twice unless there are fewer.
        Returns: ids.
        """
        names = list(self._progress)
        due = np.asarray([self._progress[name].due for name in names])
        waits = np.asarray([self._wait(self._progress[name]) for name in names])
        ties = np.random.default_rng([seed, round_number]).random(len(names))
        chosen: list[int] = []
        while len(chosen) < size:
            first = np.lexsort((ties, due))[: size - len(chosen)]
            due[first] += waits[first]
            chosen += first.tolist()
        return [names[i] for i in chosen]

    def _wait(self, progress: _Progress) -> float:
        return 1.0 / self._weight if progress.stage > 0 else 1.0

    def update(self, problem_id: str, passed: Sequence[bool]) -> int:
        """Records which samples of a round passed.

        Args:
          problem_id: of a problem that was part of the round.
          passed: one entry per sample.

        Returns: the stage from now on.
        Raises: ValueError for a round without samples.
        """
        if len(passed) == 0:
            raise ValueError(f"a curriculum update needs at least 1 sample; got none for {problem_id}")
        progress, rate = self._progress[problem_id], sum(map(bool, passed)) / len(passed)
        progress.due += self._wait(progress)
        progress.average += self._smoothing * (rate - progress.average)
        progress.rounds += 1
        leaps = self._leap is not None and rate > self._leap
        if progress.stage > 0 and (leaps or self.pass_rate(problem_id) > self._threshold):
            progress.stage = max(0, progress.stage - (2 if leaps else 1))
            progress.average, progress.rounds = 0.0, 0
        return progress.stage

    def histogram(self) -> dict[int, int]:
        """How many problems are at each stage."""
        return dict(sorted(Counter(progress.stage for progress in self._progress.values()).items()))

    def state_dict(self) -> JsonObject:
        """The stage table as plain JSON: {"stages": {id: int}, "averages": .., "rounds": .., "due": ..}."""
        return {
            plural: {name: getattr(progress, field) for name, progress in self._progress.items()}
            for plural, field in _SAVED.items()
        }

    def load_state_dict(self, state: JsonObject) -> None:
        """Restores a stage table.

        Raises: ValueError if it belongs to other problems or settings, or lacks a part.
        """
        if lacking := sorted(_SAVED.keys() - state.keys()):
            raise ValueError(
                f"the saved curriculum has no {lacking[0]}: it was written by an earlier version, "
                "and its run cannot be resumed"
            )
        stages = state["stages"]
        strangers = sorted(stages.keys() ^ self._progress.keys())
        if strangers:
            raise ValueError(
                f"the saved curriculum and the problems differ in {len(strangers)}: {strangers[:5]}"
            )
        for name, stage in stages.items():
            if not 0 <= stage < len(self._prefixes[name]):
                most = len(self._prefixes[name]) - 1
                raise ValueError(f"problem {name} has stages 0 to {most}; the saved curriculum says {stage}")
        # in the order of the problems, in which ties are broken
        self._progress = {
            name: _Progress(*(state[plural][name] for plural in _SAVED)) for name in self._progress
        }


_SAVED = {"stages": "stage", "averages": "average", "rounds": "rounds", "due": "due"}
