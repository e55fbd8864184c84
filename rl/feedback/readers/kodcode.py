"""KodCode (Xu et al. 2025, arXiv:2503.02951): tests are a file for pytest that imports `solution`.

Each test function becomes one test, without its name; everything else in the file is the set-up. Python's own
comparison, as the tests write it.
"""

import ast

from rl.feedback.problems import Problem
from rl.feedback.readers.row_format import Row, RowFormat
from rl.sandbox.execution_trace import parse


def _read(row: Row, name: str) -> Problem:
    setup, tests, imported = _parts(parse(row["test"]))
    info = row.get("test_info") or [{}]
    named = info[0].get("function_name") if isinstance(info, list) and info else None
    function = named or (imported[0] if imported else None)
    if function is None:
        raise ValueError("its tests import nothing of `solution`")
    return Problem(
        id=f"KodCode/{row.get('question_id', name)}",
        prompt=row["question"],
        canonical_solution=row["solution"],
        fn_name=function,
        asserts=tests,
        setup=setup,
        difficulty=row.get("gpt_difficulty") or "unknown",
        source="KodCode",
        compare="python",
    )


def _parts(module: ast.Module) -> tuple[str, tuple[str, ...], list[str]]:
    """(set-up, tests, names imported from `solution`)."""
    setup: list[ast.stmt] = []
    tests: list[str] = []
    imported: list[str] = []
    for statement in module.body:
        if isinstance(statement, ast.ImportFrom) and statement.module == "solution":
            imported += [_plain(alias) for alias in statement.names]
        elif isinstance(statement, ast.FunctionDef) and statement.name.startswith("test"):
            if statement.args.args or statement.decorator_list:
                raise ValueError(f"{statement.name} takes fixtures or parameters of pytest, which is not run")
            tests.append("\n".join(map(ast.unparse, statement.body)))
        else:
            setup.append(statement)
    for node in ast.walk(module):
        if isinstance(node, (ast.Import, ast.ImportFrom)) and "pytest" in ast.unparse(node):
            raise ValueError("its tests use pytest, which the sandbox has not")
    return ast.unparse(ast.Module(setup, [])), tuple(tests), imported


def _plain(alias: ast.alias) -> str:
    if alias.asname or alias.name == "*":
        raise ValueError(f"its tests import `{ast.unparse(alias)}` of `solution`; only plain names can be")
    return alias.name


FORMAT = RowFormat("KodCode", frozenset(("question", "solution", "test")), _read)
