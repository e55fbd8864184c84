"""HumanEval (Chen et al. 2021, arXiv:2107.03374), and HumanEval+ (Liu et al. 2023, arXiv:2305.01210), whose
rows bring more tests. Python's own comparison, as the tests write it.
"""

import ast
from typing import Any

from rl.feedback.assert_tests import split_check
from rl.feedback.problems import Problem
from rl.feedback.readers.plus_tests import compared_with_solution
from rl.feedback.readers.row_format import Row, RowFormat
from rl.sandbox.execution_trace import parse


def _given(solution: str, lines: int, entry_point: str) -> str:
    """What tests may use of a prompt of this many lines: imports, and functions before the one to write."""
    kept: list[ast.stmt] = [
        statement
        for statement in parse(solution).body
        if statement.lineno <= lines
        and (
            isinstance(statement, (ast.Import, ast.ImportFrom))
            or (isinstance(statement, ast.FunctionDef) and statement.name != entry_point)
        )
    ]
    return ast.unparse(ast.Module(kept, []))


def _read(row: Row, name: str) -> Problem:
    prompt, entry_point = row["prompt"], row["entry_point"]
    solution = prompt + row["canonical_solution"]
    setup, tests = split_check(row["test"], entry_point) if row.get("test") else ("", ())
    tests += compared_with_solution(row, solution, entry_point)
    given = _given(solution, prompt.count("\n"), entry_point)
    plus: dict[str, Any] = {"source": "HumanEval+" if "plus_input" in row else "HumanEval"}
    return Problem(
        id=str(row.get("task_id", name)),
        prompt=prompt,
        starter_code=prompt,
        canonical_solution=solution,
        fn_name=entry_point,
        asserts=tests,
        setup=f"{given}\n{setup}".strip(),
        compare="python",
        **plus,
    )


FORMAT = RowFormat("HumanEval", frozenset(("entry_point", "prompt", "canonical_solution")), _read)
