"""DeepCoder's training data (agentica-org/DeepCoder-Preview-Dataset): TACO, PrimeIntellect and LiveCodeBench
problems under one roof, with tests in the form of each. Compared, and given imports, as APPS is.
"""

from rl.feedback.problems import Problem
from rl.feedback.readers.apps import PREAMBLE
from rl.feedback.readers.listed_tests import loaded, tests_of_list
from rl.feedback.readers.row_format import Row, RowFormat, tests_of


def _read(row: Row, name: str) -> Problem:
    tests = loaded(row["tests"])
    metadata = loaded(row.get("metadata")) or {}
    solutions = row.get("solutions") or [""]
    solution = solutions[0] if isinstance(solutions, list) else solutions
    return Problem(
        id=str(row.get("id", name)),
        prompt=row["problem"],
        starter_code=row.get("starter_code") or "",
        canonical_solution=_program_in(solution),
        difficulty=row.get("difficulty") or "unknown",
        source="DeepCoder",
        preamble=PREAMBLE,
        **(tests_of(tests) if isinstance(tests, dict) else tests_of_list(tests, metadata.get("func_name"))),
    )


def _program_in(solution: str) -> str:
    """A solution without the fence that PrimeIntellect's solutions have around them."""
    lines = solution.strip().split("\n")
    if lines[0].startswith("```") and lines[-1].strip() == "```":
        return "\n".join(lines[1:-1]) + "\n"
    return solution


FORMAT = RowFormat("DeepCoder", frozenset(("problem", "tests")), _read)
