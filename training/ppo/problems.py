"""The problems that a policy practises on and is measured on, and the sandbox that grades it."""

import hashlib
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rl.feedback import problems as problem_files
from rl.feedback.pool import Limits, Pool, reference_time_limits
from rl.feedback.problems import Problem
from rl.feedback.rewards import Scheme
from rl.stepcoder.curriculum import DEFAULT_KINDS, Curriculum
from rl.stepcoder.prompts import make_prompt
from rl.stepcoder.rollouts import RolloutConfig, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SandboxConfig:
    """What runs the programs.

    Attributes:
      workers: programs run at once, by each process; about one a core.
      reward: four_way (+1 all tests pass, −0.3 one fails, −0.6 run-time error, −1 does not compile),
        pass_ratio or binary.
      time_s: longest time of a test; a problem's own limit is ten times what its solution takes.
      memory_mb: of a program, beyond the interpreter's.
      timeouts: tests out of time after which a program is given up.
      stop_at_first_failure: leave out the tests after the first that fails.
    """

    workers: int = 2
    reward: Scheme = "four_way"
    time_s: float = 2.0
    memory_mb: int = 512
    timeouts: int = 1
    stop_at_first_failure: bool = False

    def pool(self, *, trace: bool) -> Pool:
        """Starts the workers. Raises: rl.feedback.pool.SandboxError where a layer of isolation is missing."""
        limits = Limits(time_s=self.time_s, memory_bytes=self.memory_mb << 20, timeouts=self.timeouts)
        return Pool(
            self.workers,
            limits,
            reward=self.reward,
            trace=trace,
            stop_at_first_failure=self.stop_at_first_failure,
        )


@dataclass(frozen=True)
class EmbeddedConfig:
    """The embedded problems (jaxmoe.datasets.programs): how many, with how many tests, from which seed."""

    count: int = 480
    tests: int = 8
    seed: int = 0


@dataclass(frozen=True)
class ProblemsConfig:
    """What to practise on.

    Attributes:
      path: APPS folders, or a JSON or JSON lines file in APPS+, HumanEval or MBPP format; null takes the
        embedded problems.
      held_out: share of the problems that is only measured on, chosen by their ids.
      held_out_path: problems to measure on instead.
      difficulties: which to practise on; empty takes all.
      bad: what to do about problems that cannot be used, or whose canonical solution fails: skip or error.
      embedded: for path null.
    """

    path: str | None = None
    held_out: float = 0.25
    held_out_path: str | None = None
    difficulties: tuple[str, ...] = ()
    bad: Literal["skip", "error"] = "skip"
    embedded: EmbeddedConfig = field(default_factory=EmbeddedConfig)


@dataclass(frozen=True)
class CurriculumConfig:
    """When a problem moves on to its next, harder stage.

    Attributes:
      smoothing: weight of a round in the moving pass rate.
      threshold: pass rate above which a problem moves on.
      leap: pass rate of one round above which it moves on by two stages; null never.
      kinds: what counts as a conditional: if, for, while, try, match, ternary.
    """

    smoothing: float = 0.2
    threshold: float = 0.3
    leap: float | None = None
    kinds: tuple[str, ...] = DEFAULT_KINDS


class ProblemSet(NamedTuple):
    """Problems that can be used; `curriculum` is None where every rollout is a whole task."""

    train: list[Problem]
    held_out: list[Problem]
    curriculum: Curriculum | None
    fingerprint: str

    @property
    def summary(self) -> str:
        """How many there are."""
        kinds = Counter(problem.difficulty for problem in self.train)
        shown = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        return f"{len(self.train)} problems ({shown}), {len(self.held_out)} held out"


def open_problems(
    config: ProblemsConfig,
    pool: Pool,
    curriculum: Literal["cccs", "none"],
    cccs: CurriculumConfig,
    rollout: RolloutConfig,
    tokenizer: Any,
) -> ProblemSet:
    """Reads, splits and checks the problems; every canonical solution is run once.

    Raises: ValueError if none is left, or with bad=error for the first ones that cannot be used.
    """
    everything = _load(config)
    if config.held_out_path is not None:
        practice, held_out = everything, problem_files.load(config.held_out_path, bad=config.bad)
    else:
        practice, held_out = problem_files.split(everything, config.held_out)
    if config.difficulties:
        practice = [p for p in practice if p.difficulty in config.difficulties]
    practice = _solved(practice, pool, config.bad)
    fitting = [p for p in practice if _fits(p, rollout, tokenizer, curriculum)]
    if len(fitting) < len(practice):
        log.warning("%d problems are too long and left out", len(practice) - len(fitting))
    if not fitting:
        raise ValueError(
            "no problem is left to practise on; look at problems.difficulties, problems.held_out, "
            "rollout.prompt_tokens and rollout.response_tokens"
        )
    held_out = [p for p in held_out if _fits(p, rollout, tokenizer, "none")]
    stages = None
    if curriculum == "cccs":
        stages = Curriculum(
            fitting, smoothing=cccs.smoothing, threshold=cccs.threshold, leap=cccs.leap, kinds=cccs.kinds
        )
    return ProblemSet(fitting, held_out, stages, _fingerprint([*fitting, *held_out]))


def _load(config: ProblemsConfig) -> list[Problem]:
    if config.path is not None:
        return problem_files.load(config.path, bad=config.bad)
    from jaxmoe.datasets.programs import problems, write_problems

    made = config.embedded
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "embedded.json"
        write_problems(file, problems(made.count, tests=made.tests, seed=made.seed))
        return problem_files.load(file)


def _solved(problems: Sequence[Problem], pool: Pool, bad: Literal["skip", "error"]) -> list[Problem]:
    """Problems whose canonical solution passes, with time limits taken from it, and those without one."""
    with_solution = [p for p in problems if p.canonical_solution]
    timed = reference_time_limits(pool, with_solution)
    failing = [p.id for p in timed if p.time_s is None]
    if failing:
        shown = ", ".join(failing[:5]) + (", ..." if len(failing) > 5 else "")
        message = f"{len(failing)} of {len(problems)} canonical solutions fail their own tests: {shown}"
        if bad == "error":
            raise ValueError(f"{message} (problems.bad=skip leaves them out)")
        log.warning("%s; left out", message)
    good = {p.id: p for p in timed if p.time_s is not None}
    return [good.get(p.id, p) for p in problems if p.id in good or not p.canonical_solution]


def _fits(problem: Problem, rollout: RolloutConfig, tokenizer: Any, curriculum: str) -> bool:
    prompt = make_prompt(tokenizer, problem, form=rollout.form)
    if len(prompt.ids) > rollout.prompt_tokens:
        return False
    # a stage's prompt ends in a part of the solution: short solutions keep it short
    return curriculum == "none" or solution_tokens(problem, tokenizer) <= rollout.response_tokens


def solution_tokens(problem: Problem, tokenizer: Any, given: str = "") -> int:
    """Tokens of the canonical solution after what is given of it."""
    rest = problem.canonical_solution[len(given) :]
    return len(tokenizer(rest, add_special_tokens=False)["input_ids"])


def make_task(problem: Problem, stages: Curriculum | None, rollout: RolloutConfig, tokenizer: Any) -> Task:
    """The problem as it is put now: at its stage of the curriculum, with room for the rest."""
    prefix = "" if stages is None else stages.prefix(problem.id)
    prompt = make_prompt(tokenizer, problem, prefix, rollout.form)
    limit = rollout.response_tokens
    if rollout.room is not None and problem.canonical_solution:
        left = solution_tokens(problem, tokenizer, prompt.given)
        limit = min(limit, round(rollout.room * left) + 16)
    return Task(problem, prompt, limit, 0 if stages is None else stages.stage(problem.id))


def _fingerprint(problems: Sequence[Problem]) -> str:
    told = [(p.id, p.prompt, p.canonical_solution, list(p.inputs), list(p.outputs)) for p in problems]
    return hashlib.sha256(json.dumps(told, default=str).encode()).hexdigest()
