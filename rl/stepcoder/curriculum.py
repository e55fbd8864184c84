"""CCCS: a curriculum of code completion. How much of the canonical solution a rollout is given.

A solution with E conditionals has ⌈√E⌉ stages. At stage c > 0 the policy continues the solution from
its conditional number s·c (from 0, in the order of the text), s = ⌈E / ⌈√E⌉⌉; at stage 0 it writes the
whole program. A problem starts at its last, easiest stage, and moves one down whenever its moving pass
rate ρ exceeds the threshold:

    ρ ← (1 − α) ρ + α · (share of this round's samples that passed);   ρ > threshold:  ρ ← 0, c ← c − 1

The paper leaves α, the threshold and what counts as a conditional open; they are settings here.
Reference: Dou et al. 2024, arXiv:2402.01391, section 3.1.
"""

import ast
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rl.feedback.problems import Problem
from rl.sandbox.execution_trace import Offsets, parse, statements

_KINDS: dict[str, tuple[type[ast.AST], ...]] = {
    "if": (ast.If,),
    "for": (ast.For, ast.AsyncFor),
    "while": (ast.While,),
    "try": (ast.Try, *([ast.TryStar] if hasattr(ast, "TryStar") else [])),
    "match": (ast.Match,),
    "ternary": (ast.IfExp,),
}
DEFAULT_KINDS = ("if", "for", "while")


def _own_expressions(statement: ast.stmt) -> Iterator[ast.AST]:
    """The nodes of a statement that are not inside a statement below it."""
    pending = [statement]
    while pending:
        node = pending.pop()
        yield node
        pending += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt)]  # pyright: ignore[reportAttributeAccessIssue, reportOperatorIssue]


def conditionals(solution: str, kinds: Sequence[str] = DEFAULT_KINDS) -> list[int]:
    """Where a completion may start: the character offset of each statement that is, or holds, a conditional.

    A ternary counts as the statement that it stands in, once. Raises: ValueError for an unknown kind or a
    solution that does not parse.
    """
    unknown = set(kinds) - _KINDS.keys()
    if unknown:
        raise ValueError(
            f"conditionals are of the kinds {', '.join(_KINDS)}; got {', '.join(sorted(unknown))}"
        )
    wanted = tuple(kind for name in kinds for kind in _KINDS[name])
    try:
        tree = parse(solution)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(
            f"the canonical solution does not parse ({error}); it can have no curriculum"
        ) from error
    offsets = Offsets(solution)
    starts = {
        offsets.start_of(statement)
        for statement in statements(tree)
        if any(isinstance(node, wanted) for node in _own_expressions(statement))
    }
    return sorted(starts)


def prefixes(canonical_solution: str, kinds: Sequence[str] = DEFAULT_KINDS) -> list[str]:
    """The part of the solution that is given at each stage, hardest (empty) first.

    A prefix ends before the conditional's indentation, at the end of a line, so that the completion's
    first token is one the tokenizer makes in running text too. Raises: ValueError (see conditionals).
    """
    starts = conditionals(canonical_solution, kinds)
    if not starts:
        return [""]
    stages = math.ceil(math.sqrt(len(starts)))
    stride = math.ceil(len(starts) / stages)
    return ["", *(canonical_solution[: starts[stride * c]].rstrip(" \t") for c in range(1, stages))]


@dataclass
class _Progress:
    stage: int
    pass_rate: float = 0.0


class Curriculum:
    """The stage of every problem. Its state is plain JSON: save it with the run.

    Args:
      problems: those with a canonical solution that parses get stages; the others are whole tasks.
      smoothing: α, the weight of a round in the moving pass rate.
      threshold: the pass rate above which a problem moves on.
      leap: a pass rate of one round above which a problem moves on by two stages; None: never.
      kinds: what counts as a conditional: if, for, while, try, match, ternary.
    Raises: ValueError for settings outside (0, 1] or [0, 1).
    """

    def __init__(
        self,
        problems: Iterable[Problem],
        *,
        smoothing: float = 0.2,
        threshold: float = 0.3,
        leap: float | None = None,
        kinds: Sequence[str] = DEFAULT_KINDS,
    ):
        if not 0.0 < smoothing <= 1.0:
            raise ValueError(f"the curriculum's smoothing must lie in (0, 1]; got {smoothing}")
        if not 0.0 <= threshold < 1.0:
            raise ValueError(f"the curriculum's threshold must lie in [0, 1); got {threshold}")
        self._smoothing, self._threshold, self._leap = smoothing, threshold, leap
        self._prefixes: dict[str, list[str]] = {}
        for problem in problems:
            usable = problem.language == "python" and problem.canonical_solution
            self._prefixes[problem.id] = prefixes(problem.canonical_solution, kinds) if usable else [""]
        self._progress = {name: _Progress(len(stages) - 1) for name, stages in self._prefixes.items()}

    def stage(self, problem_id: str) -> int:
        """The stage a problem is at; 0 is the whole task."""
        return self._progress[problem_id].stage

    def pass_rate(self, problem_id: str) -> float:
        """The moving pass rate ρ of a problem at its stage."""
        return self._progress[problem_id].pass_rate

    def prefix(self, problem_id: str) -> str:
        """The part of the canonical solution that is given at the problem's stage."""
        return self._prefixes[problem_id][self.stage(problem_id)]

    def update(self, problem_id: str, passed: Sequence[bool]) -> int:
        """Takes in which samples of a round passed; returns the stage from now on.

        Raises: ValueError for a round without samples.
        """
        if len(passed) == 0:
            raise ValueError(f"a curriculum update needs at least 1 sample; got none for {problem_id}")
        progress, rate = self._progress[problem_id], sum(map(bool, passed)) / len(passed)
        progress.pass_rate += self._smoothing * (rate - progress.pass_rate)
        leaps = self._leap is not None and rate > self._leap
        if progress.stage > 0 and (leaps or progress.pass_rate > self._threshold):
            progress.stage = max(0, progress.stage - (2 if leaps else 1))
            progress.pass_rate = 0.0
        return progress.stage

    def histogram(self) -> dict[int, int]:
        """How many problems are at each stage."""
        return dict(sorted(Counter(progress.stage for progress in self._progress.values()).items()))

    def state_dict(self) -> dict[str, Any]:
        """The stage table as plain JSON: {"stages": {id: int}, "pass_rates": {id: float}}."""
        return {
            "stages": {name: progress.stage for name, progress in self._progress.items()},
            "pass_rates": {name: progress.pass_rate for name, progress in self._progress.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a stage table. Raises: ValueError if it belongs to other problems or settings."""
        stages, rates = state["stages"], state["pass_rates"]
        strangers = sorted(stages.keys() ^ self._progress.keys())
        if strangers:
            raise ValueError(
                f"the saved curriculum and the problems differ in {len(strangers)}: {strangers[:5]}"
            )
        for name, stage in stages.items():
            if not 0 <= stage < len(self._prefixes[name]):
                most = len(self._prefixes[name]) - 1
                raise ValueError(f"problem {name} has stages 0 to {most}; the saved curriculum says {stage}")
        self._progress = {name: _Progress(int(stage), float(rates[name])) for name, stage in stages.items()}
