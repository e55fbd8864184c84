"""Tests written as code (HumanEval, MBPP): which part the program computes, and which is computed apart.

    assert abs(f(3) - 2.5) < 1e-6     the program: f(3)     apart: abs(_0 - 2.5) < 1e-6, _0 plain data

The program never sees what is expected, and none of its own code runs where the comparison is made. Only the
program can compute its own calls, with their arguments; everything else (methods and comprehensions, library
calls and constants) is computed apart (rl.sandbox.judge_service). If a call cannot be taken out, because it
depends on a variable of the test, the whole test runs apart and its calls are forwarded one by one.
"""

import ast
import builtins
import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

from rl.sandbox.execution_trace import parse as parse_source
from rl.sandbox.judge_service import USUAL

_SCOPES = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Lambda)
_UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)


class AssertTest(NamedTuple):
    """A test, taken apart.

    Attributes:
      parts: expressions for the program; None if the test runs apart and makes its calls itself.
      condition: over the values `_0`, `_1`, ... of the parts; whether it holds, as `assert` would test it,
        decides.
      equals: if the condition is `_0 == literal`, the literal in a tuple; else None.
      weak: some comparison has the program's answers on both sides, so that it can hold for a wrong one.
    """

    parts: tuple[str, ...] | None
    condition: str = ""
    equals: tuple[Any] | None = None
    weak: bool = False


class _Lift(ast.NodeTransformer):
    """Replaces what only the program can compute by placeholders."""

    def __init__(self, function: str | None, known: frozenset[str]):
        self._function, self._known = function, known
        self.parts: list[str] = []
        self.stuck = False  # something of the program could not be taken out
        self._bound: list[set[str]] = []

    def visit(self, node: ast.AST) -> ast.AST:
        root = _root(node)
        if root is not None and self._is_the_programs(root):
            chain = self._call_of_function(node) if root == self._function else node
            if chain is node:
                return self._placeholder(node)
        if isinstance(node, _SCOPES):
            self._bound.append(_bound_in(node))
            node = self.generic_visit(node)
            self._bound.pop()
            return node
        return self.generic_visit(node)

    def _is_the_programs(self, name: str) -> bool:
        return name in (self._function, "candidate") or not (
            name in self._known or any(name in bound for bound in self._bound)
        )

    def _call_of_function(self, node: ast.AST) -> ast.AST:
        """In a chain such as f(3).strip(), the part f(3): what the tested function returns is plain data."""
        while not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            inner = node.func if isinstance(node, ast.Call) else getattr(node, "value", None)
            if inner is None:
                return node
            node = inner
        return node

    def _placeholder(self, node: ast.AST) -> ast.AST:
        inside = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        if any(inside & bound for bound in self._bound):
            self.stuck = True
        self.parts.append(ast.unparse(node))
        return ast.Name(f"_{len(self.parts) - 1}", ast.Load())


def _root(node: ast.AST) -> str | None:
    """The name at the beginning of a chain of calls, attributes and subscripts."""
    while True:
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Call):
            node = node.func
        elif isinstance(node, (ast.Attribute, ast.Subscript)):
            node = node.value
        else:
            return None


def _bound_in(scope: ast.AST) -> set[str]:
    names = {n.id for n in ast.walk(scope) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    if isinstance(scope, ast.Lambda):
        names |= {argument.arg for argument in ast.walk(scope.args) if isinstance(argument, ast.arg)}
    return names


def names_bound(source: str) -> frozenset[str]:
    """The names that statements at the margin bind."""
    try:
        body = parse_source(source).body
    except _UNREADABLE:
        return frozenset()
    found: set[str] = set()
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(statement.name)
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            found |= {(alias.asname or alias.name).partition(".")[0] for alias in statement.names}
        else:
            found |= {
                n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
            }
    return frozenset(found)


_BUILTIN = frozenset(dir(builtins)) | frozenset(USUAL)


@functools.lru_cache(maxsize=1 << 14)
def parse(source: str, function: str | None = None, setup: str = "") -> AssertTest:
    """Takes a test apart.

    Args:
      source: one assert statement; any other statements run apart as a whole.
      function: the program's function under test, even if something else has its name.
      setup: what runs before the test.
    Returns: the program's calls and the condition over their values; no calls if the test must run apart as a
      whole, as one that cannot be read does.
    """
    try:
        body = parse_source(source.strip()).body
    except _UNREADABLE:  # such as a literal of 5,000 digits, which this process does not read
        return AssertTest(None)
    if len(body) != 1 or not isinstance(body[0], ast.Assert):
        return AssertTest(None)
    lift = _Lift(function, _BUILTIN | _own_names(setup))
    condition = lift.visit(body[0].test)
    weak = any(_is_weak(node) for node in ast.walk(condition) if isinstance(node, ast.Compare))
    if lift.stuck:
        return AssertTest(None, weak=weak)
    text = ast.unparse(condition)
    return AssertTest(tuple(lift.parts), text, _equals(condition), weak)


@functools.lru_cache(maxsize=1 << 10)
def _own_names(setup: str) -> frozenset[str]:
    return names_bound(setup)


def _is_placeholder(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id[:1] == "_" and node.id[1:].isdigit()


def _is_weak(comparison: ast.Compare) -> bool:
    sides = [comparison.left, *comparison.comparators]
    return all(any(_is_placeholder(node) for node in ast.walk(side)) for side in sides)


def _equals(condition: ast.AST) -> tuple[Any] | None:
    if not (isinstance(condition, ast.Compare) and len(condition.ops) == 1):
        return None
    if not (isinstance(condition.ops[0], ast.Eq) and _is_placeholder(condition.left)):
        return None
    try:
        return (ast.literal_eval(condition.comparators[0]),)
    except (ValueError, TypeError, RecursionError, MemoryError):
        return None


def split_check(test: str, entry_point: str) -> tuple[str, tuple[str, ...]]:
    """HumanEval's test program as (setup, tests).

    If `check(candidate)` is a list of asserts, they are the tests, and the rest of the program is setup;
    otherwise the whole program is the setup and there is one test, the call of `check`.

    Args:
      test: source that defines `check(candidate)`.
      entry_point: name of the function under test.
    Returns: the source of the setup, and the tests, without duplicates and tests that never call the program.
    Raises: SyntaxError, ValueError, RecursionError or MemoryError if the program cannot be read; ValueError
      if it has no function `check`.
    """
    body = parse_source(test).body
    check = next((s for s in body if isinstance(s, ast.FunctionDef) and s.name == "check"), None)
    if check is None:
        raise ValueError("the test defines no function `check`")
    others = [s for s in body if s is not check and not _is_metadata(s)]
    if not all(isinstance(s, (ast.Assert, ast.Pass)) or _is_constant(s) for s in check.body):
        return ast.unparse(ast.Module([*others, check], [])), ("check(candidate)",)
    sources = [ast.unparse(ast.Assert(s.test, None)) for s in check.body if isinstance(s, ast.Assert)]
    setup = ast.unparse(ast.Module(others, []))
    return setup, tuple(dict.fromkeys(s for s in sources if parse(s, entry_point, setup).parts != ()))


def _is_metadata(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "METADATA"


def _is_constant(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def called_function(tests: Iterable[str], code: str) -> str | None:
    """The function of the program that the tests call; None if the program defines none of them.

    Args:
      tests: sources of the tests.
      code: a program that fits the tests, such as the canonical solution; if it cannot be read, the first
        function called that is not built in is taken.
    Returns: its name.
    Raises: what `parse_source` raises for a test that cannot be read.
    """
    called = [
        node.func.id
        for test in tests
        for node in ast.walk(parse_source(test))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    try:
        body = parse_source(code).body
    except _UNREADABLE:
        return next((name for name in called if name not in _BUILTIN), None)
    defined = {s.name for s in body if isinstance(s, (ast.FunctionDef, ast.ClassDef))}
    return next((name for name in called if name in defined), None)
