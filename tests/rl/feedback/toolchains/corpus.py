"""What honest and hostile programs of every language have in common: one problem, one pool, one check."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rl.feedback.language import CompilerFeedback
from rl.feedback.pool import Limits, Pool
from rl.feedback.problems import Problem

DOUBLE = Problem("double", "", inputs=["3\n", "21\n"], outputs=["6\n", "42\n"])
CANARY = "canary-7f3a"


@contextmanager
def open_pool(*, memory_bytes: int = 256 << 20) -> Iterator[Pool]:
    """A pool of one worker with short limits."""
    limits = Limits(time_s=2.0, output_bytes=1 << 16, timeouts=1, memory_bytes=memory_bytes)
    with Pool(workers=1, limits=limits, trace=True) as pool:
        yield pool


def grade(pool: Pool, program: str, language: str, folder: Path) -> CompilerFeedback:
    """The verdict on a program that may look for {CANARY}, a file with a secret."""
    secret = folder / "secret.txt"
    secret.write_text(CANARY)
    secret.chmod(0o644)
    problem = Problem("double", "", inputs=DOUBLE.inputs, outputs=DOUBLE.outputs, language=language)
    feedback = pool.grade(problem, program.replace("{CANARY}", str(secret)))
    assert CANARY not in feedback.message
    return feedback


def check(
    pool: Pool, programs: Mapping[str, tuple[str, str]], name: str, language: str, folder: Path
) -> None:
    """A program gets the verdict that stands beside it, and the worker grades the next one."""
    verdict, program = programs[name]
    feedback = grade(pool, program, language, folder)
    assert feedback.verdict == verdict, feedback.message


def not_run(program: str, feedback: CompilerFeedback) -> list[str]:
    """The parts of a program that no test ran."""
    assert feedback.executed is not None
    starts = [start for start, _ in feedback.executed.spans] + [len(program)]
    ends = [0] + [end for _, end in feedback.executed.spans]
    return [program[end:start] for end, start in zip(ends, starts, strict=True) if end < start]
