"""Assert-style tests (HumanEval, MBPP) split into what the sandbox computes and what the grader checks.

    assert abs(f(3) - 2.5) < 1e-6     sandbox: f(3)     grader: abs(_0 - 2.5) < 1e-6, _0 a plain value

The sandboxed side never sees the expected values, and no code of the program's runs where the
comparison is made. The grader evaluates a small language: literals, operators, comparisons with
Python's own meaning, and a few built-in functions. A test that does not fit runs whole in the sandbox
and counts as weak: a hostile program could forge its completion.
"""

import ast
import functools
import math
import operator
from typing import Any, NamedTuple

from rl.sandbox.execution_trace import parse as parse_source
from rl.sandbox.values import Opaque

WEAK = "#whole-test"

_FUNCTIONS = {
    f.__name__: f
    for f in (
        abs,
        all,
        any,
        bool,
        dict,
        float,
        frozenset,
        int,
        len,
        list,
        max,
        min,
        round,
        set,
        sorted,
        str,
        sum,
        tuple,
    )
}
_MATH = {"isclose": math.isclose, "isnan": math.isnan, "floor": math.floor, "ceil": math.ceil}


def _multiply(left: Any, right: Any) -> Any:
    """left * right, unless that would repeat a sequence beyond all measure."""
    for sequence, times in ((left, right), (right, left)):
        if isinstance(times, int) and hasattr(sequence, "__len__") and len(sequence) * times > _MOST_ITEMS:
            raise OverflowError("a sequence of more than a million items")
    return operator.mul(left, right)


_MOST_ITEMS = 1_000_000
_BINARY = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: _multiply,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
}
_UNARY = {ast.Not: operator.not_, ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Invert: operator.invert}
_COMPARE = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}


class AssertTest(NamedTuple):
    """`parts`: expressions for the sandbox. `check`: the condition, with `_0`, `_1`, ... for their values."""

    parts: tuple[str, ...]
    check: ast.expr
    weak: bool = False


def _known_function(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return _FUNCTIONS.get(node.id)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "math":
        return _MATH.get(node.attr)
    return None


class _Lift(ast.NodeTransformer):
    """Replaces what only the sandbox can evaluate by placeholders."""

    def __init__(self, defined: frozenset[str]):
        self.parts: list[str] = []
        self._defined = defined

    def visit(self, node: ast.AST) -> ast.AST:
        if not isinstance(node, ast.expr):
            return node
        keeps = isinstance(
            node, (ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.UnaryOp, ast.BoolOp)
        )
        keeps |= isinstance(node, ast.Compare)
        keeps |= isinstance(node, ast.BinOp) and type(node.op) in _BINARY
        if isinstance(node, ast.Call) and _known_function(node.func):
            overridden = isinstance(node.func, ast.Name) and node.func.id in self._defined
            starred = any(isinstance(a, ast.Starred) for a in node.args) or any(
                not k.arg for k in node.keywords
            )
            keeps = not overridden and not starred
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            keeps = isinstance(node.left, ast.Constant) and isinstance(node.right, ast.Constant)
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
            keeps = not any(isinstance(e, ast.Starred) for e in node.elts)
        if isinstance(node, ast.Dict):
            keeps = None not in node.keys
        if not keeps:
            self.parts.append(ast.unparse(node))
            return ast.Name(f"_{len(self.parts) - 1}", ast.Load())
        if isinstance(node, ast.Call):
            node.args = [self.visit(a) for a in node.args]  # pyright: ignore[reportAttributeAccessIssue]
            for keyword in node.keywords:
                keyword.value = self.visit(keyword.value)  # pyright: ignore[reportAttributeAccessIssue]
            return node
        return self.generic_visit(node)


@functools.lru_cache(maxsize=1 << 14)
def parse(source: str, defined: frozenset[str] = frozenset()) -> AssertTest:
    """Splits one assert statement. Names in `defined` are the program's, even those of built-ins.

    A source that starts with WEAK is a whole test for the sandbox. Raises: ValueError for anything else
    that is not one assert statement.
    """
    if source.startswith(WEAK):
        return AssertTest(
            ("check(candidate)",), ast.Compare(ast.Name("_0"), [ast.Is()], [ast.Constant(None)]), True
        )
    body = parse_source(source.strip()).body
    if len(body) != 1 or not isinstance(body[0], ast.Assert):
        raise ValueError(f"an assert-style test must be one assert statement; got {source[:80]!r}")
    lift = _Lift(defined)
    check = lift.visit(body[0].test)
    return AssertTest(tuple(lift.parts), check)  # pyright: ignore[reportArgumentType]


def holds(test: AssertTest, values: list[Any]) -> bool:
    """Whether the condition is true of the values that came back from the sandbox.

    Values are plain data (rl.sandbox.values.decode); one that holds an Opaque fails. A condition that cannot
    be evaluated on them (None < 3) fails too.
    """
    if len(values) != len(test.parts):
        return False
    try:
        return not any(map(_has_opaque, values)) and bool(_evaluate(test.check, values))
    except Exception:
        # TypeError, ValueError, ZeroDivisionError, OverflowError, ...: Python's assert fails on each
        return False


def _has_opaque(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_opaque(k) or _has_opaque(v) for k, v in value.items())
    if isinstance(value, (str, bytes, bytearray)) or not hasattr(value, "__iter__"):
        return isinstance(value, Opaque)
    return any(_has_opaque(item) for item in value)


def _evaluate(node: ast.expr, values: list[Any]) -> Any:
    def run(child: ast.expr) -> Any:
        return _evaluate(child, values)

    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return values[int(node.id[1:])]
        case ast.List() | ast.Tuple() | ast.Set():
            make = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
            return make(map(run, node.elts))
        case ast.Dict():
            return {run(k): run(v) for k, v in zip(node.keys, node.values, strict=True) if k is not None}
        case ast.UnaryOp():
            return _UNARY[type(node.op)](run(node.operand))
        case ast.BinOp():
            return _BINARY[type(node.op)](run(node.left), run(node.right))
        case ast.BoolOp():
            result = run(node.values[0])
            for operand in node.values[1:]:
                if bool(result) != isinstance(node.op, ast.And):
                    break
                result = run(operand)
            return result
        case ast.Compare():
            left = run(node.left)
            for op, comparator in zip(node.ops, node.comparators, strict=True):
                right = run(comparator)
                if not _COMPARE[type(op)](left, right):
                    return False
                left = right
            return True
        case ast.Call():
            return _known_function(node.func)(
                *map(run, node.args), **{k.arg: run(k.value) for k in node.keywords if k.arg}
            )
    raise TypeError(f"cannot evaluate {ast.dump(node)[:80]}")


def split_check(test: str, entry_point: str) -> tuple[str, tuple[str, ...]]:
    """HumanEval's test program as (setup, asserts).

    Where `check(candidate)` is a list of asserts, they are the tests, and the rest of the program is
    setup; else the whole program is the setup and there is one weak test, the call of `check`.
    """
    tree = parse_source(test)
    check = next(s for s in tree.body if isinstance(s, ast.FunctionDef) and s.name == "check")
    others = [s for s in tree.body if s is not check and not _is_metadata(s)]
    asserts = [s for s in check.body if isinstance(s, ast.Assert)]
    ignorable = all(
        isinstance(s, (ast.Assert, ast.Pass))
        or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
        for s in check.body
    )
    if not ignorable:
        return test, (f"{WEAK} {entry_point}",)
    sources = [ast.unparse(ast.Assert(s.test, None)) for s in asserts]
    real = tuple(dict.fromkeys(source for source in sources if parse(source).parts))
    return ast.unparse(ast.Module(others, [])), real


def _is_metadata(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "METADATA"


def called_function(tests: tuple[str, ...], code: str) -> str | None:
    """The function of the program's that the tests call; None if the program defines none of them."""
    called = [
        node.func.id
        for test in tests
        for node in ast.walk(parse_source(test))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    try:
        defined = {s.name for s in parse_source(code).body if isinstance(s, (ast.FunctionDef, ast.ClassDef))}
    except SyntaxError:
        defined = set(called)
    return next((name for name in called if name in defined), None)
