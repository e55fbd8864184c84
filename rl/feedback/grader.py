"""The interface for grading programs, wherever they run: in a pool on this machine, or in pools on others."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Self

from rl.feedback.language import CompilerFeedback
from rl.feedback.problems import Problem


class Grader(ABC):
    """Grades programs side by side. Use as a context manager, or call close()."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    @abstractmethod
    def submit(self, problem: Problem, program: str) -> "Future[CompilerFeedback]":
        """Like grade, but returns a future at once: the caller continues while the program is graded.

        Args:
          problem: with at least one test.
          program: the source, in the problem's language.
        Returns: a future, whose `result()` returns or raises what `grade` does.
        """

    @abstractmethod
    def close(self) -> None:
        """Ends the processes that run programs; programs not yet graded are dropped."""

    def grade(self, problem: Problem, program: str) -> CompilerFeedback:
        """Runs a program on the tests of a problem and waits for the verdict.

        Args:
          problem: with at least one test.
          program: the source, in the problem's language.
        Returns: verdict, reward, results of the tests and what ran.
        Raises: ValueError for a problem without tests or in an unknown language; SandboxError if the sandbox
          itself fails repeatedly. A program's faults are verdicts, never exceptions.
        """
        return self.submit(problem, program).result()

    def grade_many(self, pairs: Iterable[tuple[Problem, str]]) -> list[CompilerFeedback]:
        """Grades (problem, program) pairs side by side; feedback in the order of the pairs."""
        futures = [self.submit(problem, program) for problem, program in pairs]
        return [future.result() for future in futures]
