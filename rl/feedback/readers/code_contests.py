"""CodeContests (Li et al. 2022, arXiv:2203.07814): public, private and generated tests of programs that read
and print. Compared as APPS is; its own grader compares words, and numbers within 1e-5.

The canonical solution is the first one in Python 3, else in C++, else in Java, which is then the problem's
language.
"""

from typing import Any

from rl.feedback.problems import Problem
from rl.feedback.readers.row_format import Row, RowFormat, tests_of

_KINDS = ("public_tests", "private_tests", "generated_tests")
# as the data set numbers them; only those that can be run here
_LANGUAGES = {3: "python", 2: "cpp", 4: "java"}


def _read(row: Row, name: str) -> Problem:
    if row.get("input_file") or row.get("output_file"):
        raise ValueError("its programs read or write a file of their own; only standard input and output are")
    tests = [row.get(kind) or {"input": [], "output": []} for kind in _KINDS]
    language, solution = _first_solution(row.get("solutions") or {})
    return Problem(
        id=f"CodeContests/{row.get('name', name)}",
        prompt=row["description"],
        canonical_solution=solution,
        difficulty=str(row.get("difficulty") or "unknown"),
        language=language,
        source="CodeContests",
        time_s=_seconds(row.get("time_limit")),
        tolerance=1e-5,
        **tests_of(
            {
                "inputs": [text for part in tests for text in part["input"]],
                "outputs": [text for part in tests for text in part["output"]],
            }
        ),
    )


def _first_solution(solutions: dict[str, Any]) -> tuple[str, str]:
    pairs = list(zip(solutions.get("language") or (), solutions.get("solution") or (), strict=True))
    for number, language in _LANGUAGES.items():
        for given, solution in pairs:
            if given == number:
                return language, solution
    return "python", ""


def _seconds(limit: object) -> float | None:
    """{"seconds", "nanos"}; None if the file names no limit."""
    if not isinstance(limit, dict):
        return None
    return float(limit.get("seconds") or 0) + float(limit.get("nanos") or 0) / 1e9 or None


FORMAT = RowFormat("CodeContests", frozenset(("description", "public_tests", "private_tests")), _read)
