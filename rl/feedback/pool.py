"""Runs untrusted programs: a pool of isolated workers, safe against programs that attack the grader.

    with Pool(workers=2, limits=Limits(time_s=2)) as pool:
        feedback = pool.grade(problem, program)
        feedback.verdict, feedback.reward, feedback.executed

No privileges are needed, and those of root are dropped. `python -m rl.sandbox --check` lists the layers that
this machine has; if a required one is missing, Pool() raises SandboxError. Linux only.
"""

import queue
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import get_args

from rl.feedback.grader import Grader
from rl.feedback.language import CompilerFeedback, Language, Limits, Settings, Trace, grade
from rl.feedback.languages import LANGUAGES
from rl.feedback.problems import Problem
from rl.feedback.python import PythonLanguage
from rl.feedback.rewards import Scheme
from rl.sandbox.comparison import Compare
from rl.sandbox.jobs import WorkerDiedError
from rl.sandbox.worker import SandboxError, ToolsError

__all__ = ["CompilerFeedback", "Limits", "Pool", "SandboxError", "reference_time_limits"]

_ATTEMPTS = 6


class Pool(Grader):
    """Workers on this machine that grade programs side by side.

    Args:
      workers: number of fork servers, each with one program at a time; about one per core.
      limits: what each test may use.
      reward: four_way (the paper's), pass_ratio or binary.
      trace: record which code ran (feedback.executed): by instruction on Python 3.12 and later, by statement
        before; "portable": by statement everywhere.
      stop_at_first_failure: skip the tests after the first that does not pass.
      packages: installed packages that programs may import besides the standard library, each by its import
        name, together with what it imports itself.
      compare: strict, python or numeric (rl.sandbox.comparison) for all problems; None as each problem says.
      tolerance: largest relative error of a number, and a thousand times the largest absolute one, unless a
        problem says otherwise.
    `layers` says which layers of isolation are in force.

    Raises: SandboxError if a required layer is missing here; ValueError for impossible arguments.
    """

    def __init__(
        self,
        workers: int = 2,
        limits: Limits | None = None,
        *,
        reward: Scheme = "four_way",
        trace: Trace = True,
        stop_at_first_failure: bool = False,
        packages: tuple[str, ...] = ("numpy",),
        compare: Compare | None = None,
        tolerance: float = 1e-6,
    ):
        if workers < 1:
            raise ValueError(f"a pool needs at least 1 worker; got {workers}")
        if compare is not None and compare not in get_args(Compare):
            raise ValueError(f"compare must be one of {', '.join(get_args(Compare))}; got {compare!r}")
        if not 0.0 <= tolerance < 1.0:
            raise ValueError(f"the tolerance must lie in [0, 1); got {tolerance}")
        self._settings = Settings(limits or Limits(), trace, stop_at_first_failure, compare, tolerance)
        self._reward: Scheme = reward
        self._packages = tuple(packages)
        self._slots: list[dict[str, Language]] = [{} for _ in range(workers)]
        self._idle: queue.SimpleQueue[dict[str, Language]] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")
        try:
            for slot in self._slots:
                slot["python"] = python = PythonLanguage(self._packages)
                self._idle.put(slot)
            self.layers = dict(python.worker.layers)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends all workers and what runs in them; programs not yet graded are dropped."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for slot in self._slots:
            for language in slot.values():
                language.close()

    def submit(
        self,
        problem: Problem,
        program: str,
        *,
        settings: Settings | None = None,
        reward: Scheme | None = None,
    ) -> "Future[CompilerFeedback]":
        """See `Grader.submit`.

        Args:
          problem: with at least one test.
          program: the source, in the problem's language.
          settings: for this program, instead of the pool's.
          reward: likewise.
        Returns: a future, whose `result()` returns or raises what `grade` does.
        """
        chosen = self._settings if settings is None else settings
        return self._threads.submit(self._grade, problem, program, chosen, reward or self._reward)

    def _grade(self, problem: Problem, program: str, settings: Settings, reward: Scheme) -> CompilerFeedback:
        if problem.language not in LANGUAGES:
            known = ", ".join(LANGUAGES)
            raise ValueError(f"problem {problem.id} is in {problem.language!r}; this pool knows {known}")
        slot, cause = self._idle.get(), None
        try:
            for _ in range(_ATTEMPTS):
                try:
                    if problem.language not in slot:
                        slot[problem.language] = LANGUAGES[problem.language].make(self._packages)
                    return grade(slot[problem.language], problem, program, settings, reward)
                except ToolsError:
                    raise
                except (WorkerDiedError, SandboxError) as error:
                    if problem.language in slot:
                        slot[problem.language].close()
                    cause = error
            why = cause or type(cause).__name__
            raise SandboxError(f"the sandbox failed {_ATTEMPTS} times on {problem.id}: {why}") from cause
        finally:
            self._idle.put(slot)


def reference_time_limits(
    pool: Grader, problems: Sequence[Problem], *, factor: float = 10.0, least_s: float = 0.5
) -> list[Problem]:
    """The problems with `time_s` set from their canonical solutions: factor × the slowest test.

    Problems without a solution, or whose solution does not pass, keep the limit they had. The pool's
    own limit still caps every limit.

    Args:
      pool: runs the solutions.
      problems: with canonical solutions.
      factor: how much longer than the slowest test of its solution a program may take.
      least_s: the shortest limit, in seconds.
    Returns: the problems, in order.
    Raises: what `Grader.grade` raises.

    >>> solution = "def f(n): return n"
    >>> problem = Problem("p", "", canonical_solution=solution, fn_name="f", inputs=[[1]], outputs=[1])
    >>> with Pool(1) as pool:
    ...     [timed] = reference_time_limits(pool, [problem])
    >>> timed.time_s is not None and timed.time_s >= 0.5
    True
    """
    feedbacks = pool.grade_many([(p, p.canonical_solution) for p in problems])
    timed = []
    for problem, feedback in zip(problems, feedbacks, strict=True):
        if feedback.verdict == "pass":
            slowest = max(test.wall_s for test in feedback.tests)
            problem = replace(problem, time_s=max(least_s, factor * slowest))
        timed.append(problem)
    return timed
