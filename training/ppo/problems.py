"""The problems that a policy practices on and is measured on, and the sandbox that grades it.

Time limits are measured once, when a run begins, and saved with it: measured again after a kill they would
differ, and so would verdicts close to a limit.
"""

import hashlib
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxmoe.datasets.formats.fields import Row
from jaxmoe.given_paths import check_given, given
from rl.feedback.grader import Grader
from rl.feedback.language import Limits, Settings
from rl.feedback.pool import reference_time_limits
from rl.feedback.problems import Problem, fingerprint, split_problems
from rl.feedback.readers import load_problems
from rl.feedback.rewards import Scheme
from rl.hosts.open_grader import open_grader
from rl.sandbox.comparison import Compare
from rl.stepcoder.curriculum import DEFAULT_KINDS, Curriculum
from rl.stepcoder.prompts import make_prompt
from rl.stepcoder.rollouts import RolloutConfig, RolloutTask
from training.runtime.atomic import write_whole

log = logging.getLogger(__name__)

# In a run's folder.
LIMITS = "time_limits.json"

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class SandboxConfig:
    """The sandbox that runs the programs.

    Attributes:
      hosts: where programs run: [] on this machine, [ray] on the nodes of the Ray cluster, or the addresses
        of servers (python -m rl.sandbox serve).
      workers: programs run at once by each process, or on each node of Ray; about one per core.
      reward: four_way (+1 all tests pass, −0.3 one fails, −0.6 run-time error, −1 does not compile),
        pass_ratio or binary.
      time_s: longest time of a test; a problem's own limit is ten times what its solution takes.
      memory_mb: memory of a program, beyond the interpreter's.
      timeouts: timed-out tests after which a program is given up.
      stop_at_first_failure: skip the tests after the first that fails.
      packages: installed packages that programs may import besides the standard library, each with its own
        imports.
      compare: how answers are compared: strict, python or numeric (rl.sandbox.comparison); null does as each
        problem says.
      tolerance: largest relative error of a number, and a thousand times its largest absolute error, unless a
        problem says otherwise.
    """

    hosts: tuple[str, ...] = ()
    workers: int = 2
    reward: Scheme = "four_way"
    time_s: float = 2.0
    memory_mb: int = 512
    timeouts: int = 1
    stop_at_first_failure: bool = False
    packages: tuple[str, ...] = ("numpy",)
    compare: Compare | None = None
    tolerance: float = 1e-6

    def grader(self, *, trace: bool) -> Grader:
        """Starts the workers. Raises: rl.feedback.pool.SandboxError where a layer of isolation is missing."""
        limits = Limits(time_s=self.time_s, memory_bytes=self.memory_mb << 20, timeouts=self.timeouts)
        settings = Settings(limits, trace, self.stop_at_first_failure, self.compare, self.tolerance)
        return open_grader(self.hosts, self.workers, settings, reward=self.reward, packages=self.packages)


@dataclass(frozen=True)
class EmbeddedConfig:
    """The embedded problems: which, how many, with how many tests, from which seed.

    Attributes:
      name: rules are pipelines with words that only tests explain (jaxmoe.datasets.programs); branches are
        single rules of two to four cases with such words, of which one test leaves much unexecuted; functions
        are easy tasks in plain English for a model that has read code (jaxmoe.datasets.small_functions, up to
        240 of them).
      count: number of problems.
      tests: tests per problem.
      seed: another seed makes other problems.
    """

    name: Literal["rules", "branches", "functions"] = "rules"
    count: int = 480
    tests: int = 8
    seed: int = 0


@dataclass(frozen=True)
class ProblemsConfig:
    """What to practice on.

    Attributes:
      path: APPS folders, or a JSON, JSON lines or Parquet file of a format in rl.feedback.readers; null
        takes the embedded problems.
      held_out: share of the problems used only for measuring, chosen by their ids.
      held_out_path: problems to measure on instead.
      difficulties: which to practice on; empty takes all.
      practice_tests: most tests of each problem in practice, drawn at random; null takes all. Held-out
        problems keep all of theirs.
      practice_seed: of that draw.
      bad: what to do about problems that cannot be used, or whose canonical solution fails: skip or error.
      embedded: the embedded problems, if path is null.
    """

    path: str | None = None
    held_out: float = 0.25
    held_out_path: str | None = None
    difficulties: tuple[str, ...] = ()
    practice_tests: int | None = None
    practice_seed: int = 0
    bad: Literal["skip", "error"] = "skip"
    embedded: EmbeddedConfig = field(default_factory=EmbeddedConfig)

    def __post_init__(self) -> None:
        if self.practice_tests is not None and self.practice_tests < 1:
            raise ValueError(
                f"problems.practice_tests must be at least 1, or null; got {self.practice_tests}"
            )


@dataclass(frozen=True)
class CurriculumConfig:
    """When a problem moves on to its next, harder stage.

    Attributes:
      smoothing: weight of a round in the moving pass rate.
      threshold: pass rate above which a problem moves on.
      leap: pass rate of one round above which it moves on by two stages; null never.
      unfinished_weight: how often a problem that has not reached its whole task comes up, for each time that
        one there does.
      kinds: which statements count as conditionals: if, for, while, try, match, ternary.
    """

    smoothing: float = 0.2
    threshold: float = 0.3
    leap: float | None = None
    unfinished_weight: float = 2.0
    kinds: tuple[str, ...] = DEFAULT_KINDS

    def of(self, problems: Sequence[Problem]) -> Curriculum:
        """The curriculum of some problems, each at its first stage.

        Raises: ValueError for settings out of range.
        """
        return Curriculum(
            problems,
            smoothing=self.smoothing,
            threshold=self.threshold,
            leap=self.leap,
            unfinished_weight=self.unfinished_weight,
            kinds=self.kinds,
        )


class TimeLimits(NamedTuple):
    """How long a test of each problem may take, as measured on its canonical solution when the run began.

    Attributes:
      fingerprint: of the problems they were measured on.
      time_s: by id; None where the solution failed its own tests.
    """

    fingerprint: str
    time_s: dict[str, float | None]

    @property
    def digest(self) -> str:
        """Identifies these limits."""
        return hashlib.sha256(json.dumps(self.time_s, sort_keys=True).encode()).hexdigest()


class ProblemSet(NamedTuple):
    """Problems that can be used; `curriculum` is None where every rollout is a whole task."""

    train: list[Problem]
    held_out: list[Problem]
    curriculum: Curriculum | None
    fingerprint: str
    limits: TimeLimits

    @property
    def summary(self) -> str:
        """How many there are."""
        kinds = Counter(problem.difficulty for problem in self.train)
        shown = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        return f"{len(self.train)} problems ({shown}), {len(self.held_out)} held out"


def open_problems(
    config: ProblemsConfig,
    grader: Grader,
    curriculum: CurriculumConfig | None,
    rollout: RolloutConfig,
    tokenizer: "PreTrainedTokenizerBase",
    known: TimeLimits | None = None,
) -> ProblemSet:
    """Reads, splits and checks the problems; every canonical solution is run once.

    Args:
      curriculum: None asks for whole tasks.
      rollout: gives the longest prompt and response, and the form of prompts.
      known: limits from an earlier part of the run; solutions are not run again.
    Returns: problems with their time limits set.
    Raises: ValueError if none is left, or with bad=error for the first ones that cannot be used.
    """
    everything = _load(config)
    if config.held_out_path is not None:
        with given("problems.held_out_path", config.held_out_path):
            practice, held_out = everything, load_problems(config.held_out_path, bad=config.bad)
    else:
        practice, held_out = split_problems(everything, config.held_out)
    if config.difficulties:
        practice = [p for p in practice if p.difficulty in config.difficulties]
    if config.practice_tests is not None:
        practice = [fewer_tests(p, config.practice_tests, config.practice_seed) for p in practice]
    found = fingerprint(practice)
    limits = known if known is not None and known.fingerprint == found else _measured(practice, grader, found)
    practice = _solved(practice, limits, config.bad)
    staged = curriculum is not None
    fitting = [p for p in practice if _fits(p, rollout, tokenizer, staged=staged)]
    if len(fitting) < len(practice):
        log.warning("%d problems are too long and left out", len(practice) - len(fitting))
    if not fitting:
        raise ValueError(
            "no problem is left to practice on; look at problems.difficulties, problems.held_out, "
            "rollout.prompt_tokens and rollout.response_tokens"
        )
    held_out = [p for p in held_out if _fits(p, rollout, tokenizer, staged=False)]
    stages = None if curriculum is None else curriculum.of(fitting)
    return ProblemSet(fitting, held_out, stages, fingerprint([*fitting, *held_out]), limits)


def check_places(config: ProblemsConfig) -> None:
    """Checks that the files and folders of problems are there, before any of them is read.

    Args:
      config: of the problems.
    Raises: ValueError, in one line that names the key, for the first that is not.
    """
    for key, path in (("problems.path", config.path), ("problems.held_out_path", config.held_out_path)):
        if path is not None:
            check_given(key, path, "file or folder")


def known_limits(folder: Path) -> TimeLimits | None:
    """The time limits that a run has saved in its folder; None for a new run.

    Raises: ValueError if the file is damaged.
    """
    file = folder / LIMITS
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return TimeLimits(values["fingerprint"], dict(values["time_s"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged; delete it to measure time limits anew") from error


def save_limits(limits: TimeLimits, folder: Path) -> None:
    """Writes the time limits into a run's folder, whole or not at all.

    Args:
      limits: seconds of a test by problem, and the fingerprint of these problems.
      folder: of the run.
    """
    write_whole(folder / LIMITS, json.dumps(limits._asdict(), indent=1) + "\n")


def _load(config: ProblemsConfig) -> list[Problem]:
    if config.path is not None:
        with given("problems.path", config.path):
            return load_problems(config.path, bad=config.bad)
    from jaxmoe.datasets.programs import write_problems

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "embedded.json"
        write_problems(file, embedded_rows(config.embedded))
        return load_problems(file)


def fewer_tests(problem: Problem, tests: int, seed: int = 0) -> Problem:
    """The problem with this many of its tests, drawn at random; a larger number includes the tests of a
    smaller one.

    Args:
      problem: with all of its tests.
      tests: how many to keep; a number above all of them keeps all.
      seed: of the draw.
    Returns: a new problem.

    >>> problem = Problem("p", "Double.", fn_name="f", inputs=[[1], [2], [3]], outputs=[2, 4, 6])
    >>> fewer_tests(problem, 1).test_count
    1
    """
    kept = np.random.default_rng([seed, *problem.id.encode()]).permutation(problem.test_count)[:tests]
    if problem.kind == "assert":
        return replace(problem, asserts=tuple(problem.asserts[i] for i in kept))
    inputs, outputs = ([values[i] for i in kept] for values in (problem.inputs, problem.outputs))
    return replace(problem, inputs=inputs, outputs=outputs)


def embedded_rows(config: EmbeddedConfig) -> list[Row]:
    """The embedded problems that a config names.

    Args:
      config: which, how many, with how many tests, from which seed.
    Returns: APPS+ rows.
    Raises: ValueError if there are fewer.
    """
    from jaxmoe.datasets import programs, small_functions

    if config.name == "functions":
        return small_functions.problems(config.count, tests=config.tests, seed=config.seed)
    return programs.problems(config.count, tests=config.tests, seed=config.seed, kind=config.name)


def _measured(problems: Sequence[Problem], grader: Grader, of: str) -> TimeLimits:
    """Limits from the canonical solutions; every process takes those of the first."""
    with_solution = [p for p in problems if p.canonical_solution]
    timed = reference_time_limits(grader, [replace(p, time_s=None) for p in with_solution])
    limits = np.asarray([np.nan if p.time_s is None else p.time_s for p in timed], np.float64)
    if jax.process_count() > 1:
        # as bits: a float64 array would be rounded to float32 on its way
        limits = multihost_utils.broadcast_one_to_all(limits.view(np.int32)).view(np.float64)
    return TimeLimits(
        of, {p.id: float(x) if np.isfinite(x) else None for p, x in zip(timed, limits, strict=True)}
    )


def _solved(problems: Sequence[Problem], limits: TimeLimits, bad: Literal["skip", "error"]) -> list[Problem]:
    """Problems whose canonical solution passes, with time limits taken from it, and those without one."""
    failing = [p.id for p in problems if p.canonical_solution and limits.time_s[p.id] is None]
    if failing:
        shown = ", ".join(failing[:5]) + (", ..." if len(failing) > 5 else "")
        message = f"{len(failing)} of {len(problems)} canonical solutions fail their own tests: {shown}"
        if bad == "error":
            raise ValueError(f"{message} (problems.bad=skip leaves them out)")
        log.warning("%s; left out", message)
    kept = [p for p in problems if p.id not in {*failing}]
    return [replace(p, time_s=limits.time_s[p.id]) if p.canonical_solution else p for p in kept]


def _fits(
    problem: Problem, rollout: RolloutConfig, tokenizer: "PreTrainedTokenizerBase", *, staged: bool
) -> bool:
    prompt = make_prompt(tokenizer, problem, form=rollout.prompt_form)
    if len(prompt.ids) > rollout.prompt_tokens:
        return False
    # a stage's prompt ends in a part of the solution: short solutions keep it short
    return not staged or solution_tokens(problem, tokenizer) <= rollout.response_tokens


def solution_tokens(problem: Problem, tokenizer: "PreTrainedTokenizerBase", given: str = "") -> int:
    """Tokens of the canonical solution after what is given of it.

    Args:
      given: the beginning of the solution.
    Returns: a count, without an end token.
    """
    rest = problem.canonical_solution[len(given) :]
    return len(tokenizer(rest, add_special_tokens=False)["input_ids"])


def make_task(
    problem: Problem, stages: Curriculum | None, rollout: RolloutConfig, tokenizer: "PreTrainedTokenizerBase"
) -> RolloutTask:
    """The problem as it is posed now: at its stage of the curriculum, with room for the rest.

    Args:
      stages: None poses the whole task.
      rollout: with its form resolved.
    Returns: the prompt, and the most tokens of a response.
    """
    prefix = "" if stages is None else stages.prefix(problem.id)
    prompt = make_prompt(tokenizer, problem, prefix, rollout.prompt_form)
    limit = rollout.response_tokens
    if rollout.room is not None and problem.canonical_solution:
        left = solution_tokens(problem, tokenizer, prompt.given)
        limit = min(limit, round(rollout.room * left) + 16)
    return RolloutTask(problem, prompt, limit, 0 if stages is None else stages.stage(problem.id))
