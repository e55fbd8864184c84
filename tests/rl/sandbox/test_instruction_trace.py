"""Tracing by instruction: run under a newer interpreter where this one is too old for it."""

import ast
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from rl.sandbox.execution_trace import parse
from rl.sandbox.instruction_trace import fine_regions

ROOT = Path(__file__).parents[3]
SOURCE = '''\
"""doc"""
def f(n):
    "doc"
    global g
    x = 1 if n < 3 else 2  # c
    y = n == 3 or print("never")
    z = [i for i in [] if i > 2] + [j for j in [1]]
    h = lambda a: a + 1
    assert n == 3, "msg"
    while True:
        break
    try:
        pass
    except ValueError:
        print(1)
    if n > 5: return 9
    return n * 2
'''
KEPT = '''\
"""doc"""
def f(n):
    "doc"
    global g
    x = . if n < 3 else 2  # c
    y = n == 3 or ..............
    z = [. for i in [] if .....] + [j for j in [1]]
    h = lambda a: .....
    assert n == 3, .....
    while True:
        break
    try:
        pass
......................
................
    if n > 5:.........
    return n * 2
'''
KEPT_BY_STATEMENT = "".join(
    kept if kept.startswith("....") or "if n > 5" in kept else line
    for line, kept in zip(SOURCE.splitlines(keepends=True), KEPT.splitlines(keepends=True), strict=True)
)
# Prints, for each (source, name, arguments), the spans of both forms.
SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from rl.feedback.problems import Problem
from rl.feedback.pool import Limits, Pool
programs = json.load(sys.stdin)
found = []
for trace in (True, "portable"):
    with Pool(2, Limits(time_s=20), trace=trace, packages=()) as pool:
        pairs = [
            (Problem("p", "", fn_name=name, inputs=given, outputs=expected, starter_code=starter), code)
            for code, name, starter, given, expected in programs
        ]
        found.append([(f.verdict, f.executed and f.executed.spans) for f in pool.grade_many(pairs)])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def newer_python() -> str:
    """An interpreter with sys.monitoring: this one, or one installed beside it."""
    if sys.version_info >= (3, 12):
        return sys.executable
    for path in sorted(Path(sys.base_prefix).parent.glob("*3.1[2-9]*/bin/python3")):
        check = [str(path), "-c", "import sys; sys.monitoring"]
        if subprocess.run(check, check=False, capture_output=True).returncode == 0:
            return str(path)
    pytest.skip("tracing by instruction needs Python 3.12 or later")


def both_forms(python: str, programs: list) -> list[list]:
    done = subprocess.run(
        [python, "-c", SCRIPT, str(ROOT)],
        input=json.dumps(programs),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return json.loads(done.stdout)


def shown(source: str, spans: list) -> str:
    kept = {i for start, end in spans for i in range(start, end)}
    return "".join(c if c == "\n" or i in kept else "." for i, c in enumerate(source))


def test_arms_count_by_themselves_and_silent_statements_go_with_their_neighbours(newer_python: str):
    [[verdict, spans]], [[_, portable]] = both_forms(newer_python, [[SOURCE, "f", "", [[3]], [6]]])
    assert verdict == "pass"
    assert shown(SOURCE, spans) == KEPT
    assert shown(SOURCE, portable) == KEPT_BY_STATEMENT


def test_both_forms_agree_on_whole_statements(newer_python: str, shared: Path):
    rows = json.loads((shared / "data/code/apps_plus_format.json").read_text())
    rows = [row for row in rows if row["class_name"] is None][::20]
    programs = [
        [r["canonical_solution"], r["fn_name"], r["starter_code"], r["inputs"], r["outputs"]] for r in rows
    ]
    by_instruction, by_statement = both_forms(newer_python, programs)
    compared = 0
    for (source, *_), (verdict, fine), (other, coarse) in zip(
        programs, by_instruction, by_statement, strict=True
    ):
        assert verdict == other == "pass"
        tree = parse(source)
        plain = {
            i
            for start, end, flag in fine_regions(source, tree)
            if flag < count(tree)
            for i in range(start, end)
        }
        fine_kept = {i for start, end in fine for i in range(start, end)}
        coarse_kept = {i for start, end in coarse for i in range(start, end)}
        assert fine_kept <= coarse_kept, source
        assert fine_kept & plain == coarse_kept & plain, source
        compared += len(plain)
    assert compared > 1000


def count(tree: ast.Module) -> int:
    return sum(isinstance(node, ast.stmt) for node in ast.walk(tree))


def test_fine_regions_cover_the_source_in_order():
    tree = ast.parse(SOURCE)
    pieces = fine_regions(SOURCE, tree)
    assert pieces[0][0] == 0
    assert pieces[-1][1] == len(SOURCE)
    assert all(a[1] == b[0] and a[2] != b[2] for a, b in itertools.pairwise(pieces))
    texts = {SOURCE[start:end] for start, end, flag in pieces if flag >= count(tree)}
    assert texts == {"1", "2", 'print("never")', "i", "i > 2", "j", "a + 1", '"msg"'}
