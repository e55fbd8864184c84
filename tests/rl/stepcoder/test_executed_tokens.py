"""Executed-token masks: the rules on small programs, and properties over real solutions."""
# ruff: noqa: E501 (tables of cases read best one a line)

import ast
import contextlib
import io
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rl.feedback.language import Executed
from rl.feedback.pool import Limits, Pool
from rl.feedback.problems import Problem
from rl.feedback.readers import load_problems
from rl.sandbox.compile_service import compile_program
from rl.sandbox.execution_trace import (
    SourceOffsets,
    executed_regions,
    overlaps,
    parse,
    regions,
    statements,
    suites,
    were_forged,
)
from rl.sandbox.program import with_flags
from rl.stepcoder.executed_tokens import mask, token_offsets

SAMPLE = 24  # of the 448 reference problems, which all pass too


def run(source: str, **names: object) -> tuple[tuple[int, int], ...]:
    """Runs a program in this process and returns the spans that ran."""
    made = compile_program(source, trace="statements", entry=None, place="the flags")
    flags = bytearray(made.flags)
    with contextlib.suppress(Exception):
        exec(with_flags(made.code, "the flags", flags), {**names})
    assert not were_forged(made.regions, bytes(flags))
    return executed_regions(made.regions, bytes(flags))


def kept(source: str, **names: object) -> str:
    """The program with everything that did not run replaced by dots."""
    spans = run(source, **names)
    return "".join(c if c == "\n" or overlaps(spans, i, i + 1) else "." for i, c in enumerate(source))


def test_else_belongs_to_its_suite_and_comments_to_their_statements():
    source = """\
# about a
if a:  # why
    x = 1  # one
    # about y
    y = 2
else:  # otherwise
    # about z
    z = 3
# the end
w = 4
"""
    then = "    x = 1  # one\n    # about y\n    y = 2\n"
    otherwise = "else:  # otherwise\n    # about z\n    z = 3\n"
    assert kept(source, a=True) == source.replace(otherwise, re.sub(".", ".", otherwise))
    assert kept(source, a=False) == source.replace(then, re.sub(".", ".", then))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("if a: x = 1; y = 2\n", "if a:.............\n"),
        ("if not a: x = 1; y = 2\n", "if not a: x = 1; y = 2\n"),
        ("x = 1; y = 1 / 0; z = 3\n", "x = 1; y = 1 / 0;......\n"),
        ("def f(n):\n    return n\nx = 1\n", "def f(n):\n............\nx = 1\n"),
        ("def f(n): return n\n", "def f(n):.........\n"),
        ("@str\ndef f(): 'doc'\n", "@str\ndef f():......\n"),
        ("def f():\n    'doc'\n    return 1\nf()\n", "def f():\n    'doc'\n    return 1\nf()\n"),
        (
            "'doc'\nfrom __future__ import annotations\nx = 1\n",
            "'doc'\nfrom __future__ import annotations\nx = 1\n",
        ),
        ("class A:\n    __x = 1\n    def f(self): pass\n", "class A:\n    __x = 1\n    def f(self):.....\n"),
        (
            "try:\n    1 / 0\nexcept KeyError: x = 1\nexcept ZeroDivisionError: x = 2\n",
            "try:\n    1 / 0\n......................\nexcept ZeroDivisionError: x = 2\n",
        ),
        ("for i in []:\n    x = 1\nelse:\n    y = 1\n", "for i in []:\n.........\nelse:\n    y = 1\n"),
        ("while a:\n    if a: break\nelse: x = 1\n", "while a:\n...............\nelse: x = 1\n"),
        (
            "match a:\n    case 1: x = 1\n    case _: x = 2\n",
            "match a:\n.................\n    case _: x = 2\n",
        ),
        ("é = 'ü→'; b = é\nif a: c = 'ü'\n", "é = 'ü→'; b = é\nif a:........\n"),
        ("with a as b: x = 1\n", "with a as b:......\n"),
        ("if (a  # not: this\n    ): x = 1\n", "if (a  # not: this\n    ):......\n"),
        (
            "def f(a: int = 1, *b: str, **c) -> 'x: y': return 1\n",
            "def f(a: int = 1, *b: str, **c) -> 'x: y':.........\n",
        ),
        ("x = 1\r\nif a:\r\n    y = 2\r\nz = 3", "x = 1\r\nif a:\r\n..........\nz = 3"),
        (
            "if a:\n\tx = 1\n\telse_ = 2\nelif not a:\n\ty = 1\n",
            "if a:\n......\n..........\nelif not a:\n\ty = 1\n",
        ),
        ("# nothing", "# nothing"),
    ],
)
def test_what_is_kept(source: str, expected: str):
    shown = kept(source, a=0)
    if source == "# nothing":
        assert run(source) == ()
    else:
        assert shown == expected


def test_a_long_chain_of_elifs_is_no_deep_recursion():
    source = "x = 400\nif x == 0: y = 0\n" + "".join(f"elif x == {i}: y = {i}\n" for i in range(1, 450))
    assert kept(source).count("y = ") == 1


def test_mask_keeps_what_is_outside_the_program_and_any_overlap():
    executed = Executed(((0, 4), (8, 10)), 1, 1)
    offsets = [(0, 3), (3, 5), (4, 8), (5, 7), (7, 9), (10, 12), (12, 15), (0, 0)]
    assert mask("x" * 12, executed, offsets) == [1, 1, 0, 0, 1, 0, 1, 1]
    # the same tokens as part of a response in which the program starts at 20
    shifted = [(a + 20, b + 20) for a, b in offsets[:6]]
    assert mask("x" * 12, executed, [(0, 20), *shifted], shift=-20) == [1, 1, 1, 0, 0, 1, 0]
    # the completion of a prefix of 5 characters
    assert mask("x" * 12, executed, [(0, 2), (2, 4), (5, 7)], shift=5) == [0, 1, 0]


def test_mask_without_a_trace_and_with_tests_left_out():
    assert mask("x", None, [(0, 1)]) == [1]
    partial = Executed((), 1, 3)
    assert mask("x", partial, [(0, 1)]) == [0]
    assert mask("x", partial, [(0, 1)], keep_if_incomplete=True) == [1]
    assert mask("x", Executed((), 3, 3), [(0, 1)], keep_if_incomplete=True) == [0]


def test_a_tokenizer_without_offsets_is_named():
    class SlowTokenizer:
        def __call__(self, *_, **__):
            raise NotImplementedError

    with pytest.raises(ValueError, match=r"SlowTokenizer has none .*fast version"):
        token_offsets(SlowTokenizer(), "x")


def test_flags_survive_a_kill_and_join_over_tests():
    source = "def f(n):\n    if n == 1:\n        while True: x = 1\n    if n == 2:\n        y = 2\n    z = 3\n    return n\n"
    problem = Problem("p", "", fn_name="f", inputs=[[1], [2]], outputs=[1, 2])
    with Pool(1, Limits(time_s=0.3)) as pool:
        feedback = pool.grade(problem, source)
        assert [test.verdict for test in feedback.tests] == ["timeout", "pass"]
        assert feedback.executed == Executed(((0, len(source)),), 2, 2)
        only_loop = pool.grade(Problem("p", "", fn_name="f", inputs=[[1]], outputs=[1]), source)
    assert only_loop.executed is not None
    assert only_loop.executed.spans == ((0, source.index("    if n == 2")),)


def reference_problems(shared: Path) -> list[Problem]:
    every = load_problems(shared / "data/code/apps_plus_format.json")
    return random.Random(0).sample(every, SAMPLE)


def dead_code_removed(source: str, spans: tuple[tuple[int, int], ...]) -> str:
    """The program in which every statement outside the spans raises; suites keep their shape."""
    tree = parse(source)
    own = {id(s): region for s, region in zip(statements(tree), regions(source, tree), strict=True)}
    trap = ast.parse("raise SystemError('this code was said not to run')").body[0]
    for owner in [tree, *statements(tree)]:
        for suite in suites(owner):
            suite[:] = [s if overlaps(spans, *own[id(s)]) else trap for s in suite]
    return ast.unparse(ast.fix_missing_locations(tree))


def test_kept_code_alone_gives_the_same_outputs(shared: Path):
    problems = reference_problems(shared)
    with Pool(2, Limits(time_s=20)) as pool:
        feedbacks = pool.grade_many([(p, p.canonical_solution) for p in problems])
        trimmed = [
            dead_code_removed(p.canonical_solution, f.executed.spans)
            for p, f in zip(problems, feedbacks, strict=True)
            if f.executed is not None
        ]
        again = pool.grade_many(list(zip(problems, trimmed, strict=True)))
    assert [f.verdict for f in feedbacks] == ["pass"] * len(problems)
    assert [f.verdict for f in again] == ["pass"] * len(problems)
    assert any(t.count("SystemError") for t in trimmed), "no sampled solution has dead code: sample others"


def traced_lines(source: str, problem: Problem) -> set[int]:
    """The lines that run in the problem's tests, as the interpreter's own line tracer sees them."""
    lines: set[int] = set()

    def tracer(frame, event, _):
        if frame.f_code.co_filename != "<traced>":
            return None
        if event == "line":
            lines.add(frame.f_lineno)
        return tracer

    code = compile(parse(source), "<traced>", "exec")
    for given in problem.inputs:
        names: dict = {"__name__": "solution"}
        with replaced_streams(given if problem.kind == "stdin" else ""):
            previous = sys.gettrace()
            sys.settrace(tracer)
            try:
                exec(code, names)
                if problem.kind == "call":
                    names[problem.fn_name](*given)
                elif problem.entry:
                    names[problem.entry]()
            finally:
                sys.settrace(previous)
    return lines


@contextlib.contextmanager
def replaced_streams(text: str) -> Iterator[None]:
    previous = sys.stdin
    sys.stdin = io.StringIO(text)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        sys.stdin = previous


def test_every_kept_statement_ran_and_every_line_that_ran_is_kept(shared: Path):
    problems = [p for p in reference_problems(shared) if p.class_name is None]
    with Pool(2, Limits(time_s=20)) as pool:
        feedbacks = pool.grade_many([(p, p.canonical_solution) for p in problems])
    statements_seen = 0
    for problem, feedback in zip(problems, feedbacks, strict=True):
        if feedback.cpu_s > 0.2:
            continue  # the line tracer would take minutes
        source, lines = problem.canonical_solution, traced_lines(problem.canonical_solution, problem)
        assert feedback.executed is not None
        tree, offsets = parse(source), SourceOffsets(source)
        for statement, region in zip(statements(tree), regions(source, tree), strict=True):
            first, last = statement.lineno, line_of(offsets, source, region[1])
            ran = bool(lines & set(range(first, last + 1)))
            before = source[: offsets.start_of(statement)].rpartition("\n")[2]
            if leaves_no_line(statement) or before.strip():
                continue  # by lines, `if x: return 1` cannot be told apart; by columns it is
            statements_seen += 1
            assert overlaps(feedback.executed.spans, *region) == ran, (problem.id, ast.unparse(statement))
    assert statements_seen > 200


def line_of(offsets: SourceOffsets, source: str, end: int) -> int:
    """The line of the last character before `end` that is not blank."""
    return len(re.findall(r"\r\n|\r|\n", source[: len(source[:end].rstrip())])) + 1


def leaves_no_line(statement: ast.stmt) -> bool:
    """Statements for which the compiler makes no code, or none with a line of its own."""
    constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return constant or isinstance(
        statement, (ast.Global, ast.Nonlocal, ast.Try, ast.Pass, ast.Break, ast.Continue)
    )
