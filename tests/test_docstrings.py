"""What a public function's docstring tells: the rule of docs/contributing.md."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("jaxmoe", "rl", "evals", "training")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_functions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Functions, and methods of public classes; not what a decorator makes an attribute or a declaration."""
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name[0] != "_":
            yield from public_functions(node.body, f"{node.name}.")
        elif isinstance(node, Function) and node.name[0] != "_":
            decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
            if not decorators & {"overload", "property", "cached_property"}:
                yield prefix + node.name, node


def lacks(function: Function) -> list[str]:
    """The parts that the rule wants of this function and its docstring has not."""
    told = ast.get_docstring(function)
    if told is None:
        return ["a docstring"]
    named = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    arguments = [one.arg for one in named if one.arg not in ("self", "cls")]
    if len(arguments) < 2:
        return []  # one sentence says what is made of one argument
    gives = function.returns is not None and ast.unparse(function.returns) != "None"
    return ["Args"] * ("Args:" not in told) + ["Returns"] * (gives and "Returns:" not in told)


def found() -> list[str]:
    """The public functions that do not hold to the rule, and where they are."""
    return [
        f"{path.relative_to(ROOT)}:{function.lineno} {name} lacks {' and '.join(parts)}"
        for path in SOURCES
        for name, function in public_functions(ast.parse(path.read_text(encoding="utf-8")).body)
        if (parts := lacks(function))
    ]


def test_docstrings_tell_arguments_and_results():
    assert found() == []


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("def f(x: int) -> int:\n  '''Twice x.'''", []),
        ("def f(x: int) -> int: ...", ["a docstring"]),
        ("def f(x: int, y: int) -> int:\n  '''x + y.'''", ["Args", "Returns"]),
        ("def f(x: int, y: int) -> None:\n  '''Adds.\n\n  Args:\n    x: one.\n  '''", []),
    ],
)
def test_the_rule(source: str, parts: list[str]):
    [(_, function)] = public_functions(ast.parse(source).body)
    assert lacks(function) == parts
