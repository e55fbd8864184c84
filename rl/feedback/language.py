"""Compile, run, test, trace: from a program to CompilerFeedback, for any language.

A language is one class with `run_tests`: rl/feedback/python.py, rl/feedback/cpp.py, and the toolchains of
rl/feedback/toolchains/ through rl/feedback/tool_language.py. What a program prints or returns is compared
with the expected values here, in the trusted process, or in the judge's, never where the program runs.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from rl.feedback.problems import Problem
from rl.feedback.rewards import Scheme, Verdict, verdict_reward
from rl.sandbox.comparison import Compare, CompareRule


@dataclass(frozen=True)
class Limits:
    """What each test of a program may use.

    time_s: seconds, both wall-clock and CPU. memory_bytes: beyond the bare interpreter's.
    output_bytes: printed or returned. threads: besides the first; programs cannot fork at all.
    timeouts: after this many tests out of time a program is given up, and its other tests count as timeouts.
    compile_s: seconds to parse and compile.
    """

    time_s: float = 2.0
    memory_bytes: int = 512 << 20
    output_bytes: int = 1 << 20
    threads: int = 64
    timeouts: int = 2
    compile_s: float = 10.0

    def __post_init__(self):
        for name in ("time_s", "memory_bytes", "output_bytes", "timeouts", "compile_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"the limit {name} must be positive; got {getattr(self, name)}")


Trace = bool | Literal["portable"]


class TestResult(NamedTuple):
    """How one test went. wall_s: seconds by the clock; 0 if the test was not run by itself."""

    __test__ = False  # not a test class, whatever pytest makes of its name

    verdict: Verdict
    message: str = ""
    wall_s: float = 0.0


class Executed(NamedTuple):
    """Which characters of a program ran in any of its tests: sorted, disjoint [start, end).

    Fewer tests than there are may have run (early stop, a program given up): text outside the spans is then
    not necessarily dead. `rl.stepcoder.executed_tokens.mask` has a setting for that.
    """

    spans: tuple[tuple[int, int], ...]
    tests_run: int
    tests_total: int


class Runs(NamedTuple):
    """What a language reports about a program: `error` is the compiler's message, None if it compiled."""

    error: str | None
    tests: tuple[TestResult, ...] = ()
    executed: Executed | None = None
    cpu_s: float = 0.0
    weak: bool = False


class Settings(NamedTuple):
    """How to run the tests of a program.

    Attributes:
      trace: record what runs; "portable": as on Python 3.11.
      compare: how answers are compared (rl.sandbox.comparison); None as each problem says.
      tolerance: largest relative error of a number, and a thousand times the largest absolute one, unless a
        problem says otherwise.
    """

    limits: Limits
    trace: Trace = True
    stop_at_first_failure: bool = False
    compare: Compare | None = None
    tolerance: float = 1e-6

    def rule_for(self, problem: Problem) -> CompareRule:
        """How the answers to a problem are compared."""
        relative = self.tolerance if problem.tolerance is None else problem.tolerance
        absolute = self.tolerance / 1000 if problem.tolerance is None else problem.tolerance
        return CompareRule(self.compare or problem.compare, relative, absolute)


class Language(Protocol):
    """What a language has to provide. It owns the fork servers that it needs; one thread uses it."""

    def run_tests(self, problem: Problem, program: str, settings: Settings) -> Runs:
        """Compiles the program and runs it on the problem's tests, in order; never raises for its faults.

        Args:
          problem: with the tests, of a kind that the language can run.
          program: the source.
          settings: limits, tracing and comparison.
        Returns: the results in order; fewer than there are tests if `stop_at_first_failure` is set; an error
          and no results for a program that does not compile.
        Raises: WorkerDiedError if a server ended meanwhile: the program may be run again after close().
        """
        ...

    def close(self) -> None:
        """Ends the servers; they start again when the next program comes."""
        ...


@dataclass(frozen=True)
class CompilerFeedback:
    """The verdict on a program, with what led to it.

    verdict: pass; else the first of compile_error, (runtime_error, timeout or output_limit in any test),
    fail. executed: None if nothing compiled or nothing was traced. weak: a test compares the program's
    answers with each other, so that wrong ones can pass.
    """

    verdict: Verdict
    reward: float
    tests: tuple[TestResult, ...] = ()
    executed: Executed | None = None
    message: str = ""
    cpu_s: float = 0.0
    weak: bool = False

    @property
    def passed(self) -> int:
        """How many tests passed."""
        return sum(test.verdict == "pass" for test in self.tests)


def overall(tests: tuple[TestResult, ...]) -> TestResult:
    """The test that decides: the first that ended abnormally, else the first that failed, else a pass."""
    worst = [t for t in tests if t.verdict not in ("pass", "fail")] or [
        t for t in tests if t.verdict == "fail"
    ]
    return worst[0] if worst else TestResult("pass")


def grade(
    language: Language, problem: Problem, program: str, settings: Settings, scheme: Scheme
) -> CompilerFeedback:
    """Runs a program on a problem's tests and condenses the results.

    Args:
      language: runs the program.
      problem: with at least one test.
      program: the source.
      settings: limits, tracing and comparison.
      scheme: how the verdict becomes a reward (`rl.feedback.rewards`).
    Returns: the verdict of the decisive test, with the reward, all results and what ran.
    Raises: ValueError if the problem has no tests.
    """
    total = problem.test_count
    if total == 0:
        raise ValueError(f"problem {problem.id} has no tests; a program cannot be graded on it")
    runs = language.run_tests(problem, program, settings)
    if runs.error is not None:
        reward = verdict_reward("compile_error", 0, total, scheme)
        return CompilerFeedback("compile_error", reward, message=runs.error, cpu_s=runs.cpu_s)
    decisive = overall(runs.tests)
    passed = sum(test.verdict == "pass" for test in runs.tests)
    return CompilerFeedback(
        decisive.verdict,
        verdict_reward(decisive.verdict, passed, total, scheme),
        runs.tests,
        runs.executed,
        decisive.message,
        runs.cpu_s,
        runs.weak,
    )
