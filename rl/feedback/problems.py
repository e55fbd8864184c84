"""Code problems: one record for all data sets, faults in problems, splits and fingerprints.

Files are read by rl.feedback.readers; `python -m rl.feedback.verify PATH` runs every canonical solution in
the sandbox and lists those that do not pass.
"""

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from rl.sandbox import values
from rl.sandbox.comparison import Compare
from rl.sandbox.execution_trace import parse

ProblemKind = Literal["call", "stdin", "assert"]
_ENTRY = re.compile(r"\s*def\s+(\w+)\s*\(\s*\)\s*(->[^:]*)?:")
# fields that change neither what is asked nor how it is graded; time limits are measured, and saved with a
# run
_NOT_IN_FINGERPRINT = ("difficulty", "source", "license", "time_s")
_UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
_TEXTS = (
    "id",
    "prompt",
    "starter_code",
    "canonical_solution",
    "difficulty",
    "setup",
    "language",
    "source",
    "license",
    "checker",
    "preamble",
)
_LONG_NUMBER = "integer string conversion"


@dataclass(frozen=True)
class Problem:
    """One programming problem with its tests.

    A test is inputs[i] -> outputs[i]: an argument list and the returned value if there is an `fn_name`, else
    the text on standard input and the printed text. Assert-style problems (HumanEval, MBPP) have `asserts`
    instead: code that uses `fn_name` (or calls it `candidate`), run after `setup`.

    Attributes:
      prompt: the statement.
      starter_code: what a completion continues.
      canonical_solution: a whole program that passes.
      fn_name: the function that the tests call; None if the program reads and prints.
      class_name: the class whose method it is; `Solution` is found without it.
      asserts: each an assert statement, or other statements that raise if the program is wrong.
      time_s: limit of each test, in seconds (see rl.feedback.pool.reference_time_limits); the pool's caps it.
      language: a key of rl.feedback.languages.LANGUAGES.
      compare: strict, python or numeric (rl.sandbox.comparison); readers set what the data set's own grader
        does.
      tolerance: largest relative or absolute error of a number; None for the pool's.
      checker: Python source of `check(given, answer, expected) -> bool`, for problems with several right
        answers: the input, what was returned or printed, and the output of the file. It runs apart from the
        program, in the sandbox.
      preamble: import statements that the problem's site puts before each program; names from it that a
        program uses without importing them are imported for it.
    """

    id: str
    prompt: str
    starter_code: str = ""
    canonical_solution: str = ""
    fn_name: str | None = None
    inputs: Sequence[Any] = ()
    outputs: Sequence[Any] = ()
    difficulty: str = "unknown"
    class_name: str | None = None
    asserts: tuple[str, ...] = ()
    setup: str = ""
    time_s: float | None = None
    language: str = "python"
    source: str = ""
    license: str = field(default="", repr=False)
    compare: Compare = "numeric"
    tolerance: float | None = None
    checker: str = ""
    preamble: str = ""

    @property
    def kind(self) -> ProblemKind:
        """How a test reaches the program."""
        if self.asserts:
            return "assert"
        return "stdin" if self.fn_name is None else "call"

    @property
    def entry(self) -> str | None:
        """The function without arguments that a stdin solution defines and the grader calls (APPS+)."""
        match = _ENTRY.match(self.starter_code) if self.kind == "stdin" else None
        return match[1] if match else None

    @property
    def test_count(self) -> int:
        """How many tests there are."""
        return len(self.asserts) or len(self.inputs)


def fault_of(problem: Problem) -> str | None:
    """What is wrong with a problem, in words; None if nothing is.

    >>> fault_of(Problem("p", "Double.", fn_name="f", inputs=[3], outputs=[6]))
    'is call-based, but an input is not a list of arguments'
    """
    if wrong := _wrong_type(problem):
        return wrong
    if problem.test_count == 0:
        return "has no tests"
    if len(problem.inputs) != len(problem.outputs):
        return f"has {len(problem.inputs)} inputs but {len(problem.outputs)} outputs"
    if problem.kind == "call" and not all(isinstance(arguments, list) for arguments in problem.inputs):
        return "is call-based, but an input is not a list of arguments"
    if problem.compare not in get_args(Compare):
        return f"is compared {problem.compare!r}; must be one of {', '.join(get_args(Compare))}"
    if problem.tolerance is not None and not 0.0 <= problem.tolerance < 1.0:
        return f"has the tolerance {problem.tolerance}; must lie in [0, 1)"
    if problem.time_s is not None and not problem.time_s > 0:
        return f"has the time limit {problem.time_s}; must be positive, in seconds"
    return _unreadable_code(problem)


def _wrong_type(problem: Problem) -> str | None:
    for name in _TEXTS:
        if not isinstance(getattr(problem, name), str):
            return f"has a {name} that is no text but a {type(getattr(problem, name)).__name__}"
    for name in ("fn_name", "class_name"):
        value = getattr(problem, name)
        if value is not None and not (isinstance(value, str) and value.isidentifier()):
            return f"has the {name} {value!r:.80}, which is no name"
    for name in ("inputs", "outputs", "asserts"):
        if not isinstance(getattr(problem, name), (list, tuple)):
            return f"has {name} that are no list but a {type(getattr(problem, name)).__name__}"
    for name in ("tolerance", "time_s"):
        if not isinstance(getattr(problem, name), (int, float, type(None))):
            return f"has a {name} that is no number: {getattr(problem, name)!r:.80}"
    texts_of_tests = [*problem.asserts, *(problem.inputs if problem.kind == "stdin" else ())]
    texts_of_tests += problem.outputs if problem.kind == "stdin" else ()
    if not all(isinstance(text, str) for text in texts_of_tests):
        return "has a test that is no text"
    return None


def _unreadable_code(problem: Problem) -> str | None:
    """What of a problem's code is not Python. A literal too long for this process is not a fault of it."""
    sources = {"preamble": problem.preamble, "setup": problem.setup, "checker": problem.checker}
    sources |= {f"test {i}": source for i, source in enumerate(problem.asserts)}
    if problem.language == "python":
        sources["canonical solution"] = problem.canonical_solution
    for name, source in sources.items():
        try:
            tree = parse(source.removeprefix("\ufeff"))
        except _UNREADABLE as error:
            if _LONG_NUMBER not in str(error):
                return f"has a {name} that does not parse ({error})"
            continue
        if name == "checker" and source and "check" not in _functions(tree):
            return "has a checker that defines no function check(given, answer, expected)"
    return None


def _functions(tree: ast.Module) -> set[str]:
    return {statement.name for statement in tree.body if isinstance(statement, ast.FunctionDef)}


def split_problems(
    problems: Sequence[Problem], held_out: float, *, salt: str = ""
) -> tuple[list[Problem], list[Problem]]:
    """(training, held-out) problems; which side one falls on depends only on its id and the salt.

    Args:
      held_out: share of the problems that is held out, in [0, 1].
      problems: to be split.
      salt: another salt gives another split.
    Returns: (training, held out), each in the given order.
    Raises: ValueError if the share lies outside [0, 1].

    >>> training, held_out = split_problems([Problem(str(i), "") for i in range(100)], 0.2)
    >>> len(training), len(held_out)
    (79, 21)
    """
    if not 0.0 <= held_out <= 1.0:
        raise ValueError(f"the held-out share must lie in [0, 1]; got {held_out}")

    def position(problem: Problem) -> float:
        digest = hashlib.sha256(f"{salt}\0{problem.id}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    sides: tuple[list[Problem], list[Problem]] = ([], [])
    for problem in problems:
        sides[position(problem) < held_out].append(problem)
    return sides


def fingerprint(problems: Iterable[Problem]) -> str:
    """A hash of what is asked and how it is graded: statements, solutions, tests, names, comparison.

    It leaves out difficulty, source and license, and time limits, which are measured on each machine.

    Args:
      problems: their order matters.
    Returns: SHA-256 in hexadecimal.
    Raises: TypeError for a problem that holds what no file can.

    >>> from dataclasses import replace
    >>> one = Problem("p", "Double.", fn_name="f", asserts=("assert f(1) == 2",))
    >>> fingerprint([one]) == fingerprint([replace(one, asserts=("assert f(1) == 3",))])
    False
    """
    digest = hashlib.sha256()
    for problem in problems:
        told = {k: v for k, v in vars(problem).items() if k not in _NOT_IN_FINGERPRINT}
        told |= {name: [*told[name]] for name in ("inputs", "outputs", "asserts")}
        digest.update(json.dumps(values.encode(told), sort_keys=True).encode())
    return digest.hexdigest()
