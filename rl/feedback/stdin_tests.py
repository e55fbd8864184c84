"""The tests of a problem on standard input, one process each."""

import time
from collections.abc import Callable
from typing import Any

from rl.feedback.judging import bad_end, judge_printed
from rl.feedback.language import Settings, TestResult
from rl.feedback.problems import Problem
from rl.sandbox.jobs import Outcome
from rl.sandbox.worker import Worker


class OutputJudge:
    """The sandbox's judge for outputs that are not compared in this process; started when it is needed."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def close(self) -> None:
        """Ends its server."""
        if self._worker is not None:
            self._worker.close()
        self._worker = None

    def ask(self, question: dict[str, Any], output: bytes, settings: Settings) -> dict[str, Any]:
        """The judge's verdict on an output.

        Args:
          question: as in `rl.sandbox.judge_service`.
          output: what the program printed.
          settings: the limits of the judge's process.
        Returns: the reply, as in `rl.sandbox.judge_service`.
        """
        if self._worker is None:
            self._worker = Worker("program")
        limits = settings.limits
        reply, _ = self._worker.ask(
            "judge", question, output, memory_bytes=limits.memory_bytes, time_s=limits.time_s
        )
        return reply


def run_stdin_tests(
    problem: Problem, settings: Settings, run: Callable[[str], Outcome], judge: OutputJudge
) -> tuple[list[TestResult], int, float]:
    """Runs a program on each input in turn and compares what it prints.

    Args:
      problem: of the stdin kind.
      settings: limits and comparison.
      run: runs the program once on an input.
      judge: compares what is not compared here.
    Returns: the results in order, how many tests were run, and the CPU seconds of all of them.
    """
    results: list[TestResult] = []
    ran, cpu_s, rule = 0, 0.0, settings.rule_for(problem)
    for number, given in enumerate(problem.inputs):
        timeouts = sum(result.verdict == "timeout" for result in results)
        if timeouts >= settings.limits.timeouts:
            results.append(TestResult("timeout", f"not run: {timeouts} tests ran out of time"))
            continue
        began = time.monotonic()
        outcome = run(given)
        ran, cpu_s = ran + 1, cpu_s + outcome.cpu_s
        good = outcome.status == 0 and not (outcome.timed_out or outcome.output_exceeded)
        result = (
            judge_printed(problem, number, outcome.output, rule, lambda q, o: judge.ask(q, o, settings))
            if good
            else bad_end(outcome)
        )
        results.append(result._replace(wall_s=time.monotonic() - began))
        if settings.stop_at_first_failure and result.verdict != "pass":
            break
    return results, ran, cpu_s
