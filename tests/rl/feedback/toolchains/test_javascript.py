"""JavaScript: verdicts, isolation, and what V8 says of blocks that ran."""
# ruff: noqa: E501 (the programs read best on one line)

import json
import shutil

import pytest

from rl.feedback.toolchains.javascript import V8Coverage, _painted
from tests.rl.feedback.toolchains.corpus import check, grade, not_run, open_pool

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")

READS = "const n = parseInt(require('fs').readFileSync(0, 'utf8'));\n"
PROGRAMS = {
    "right": ("pass", READS + "console.log(2 * n);"),
    "reads /dev/stdin": ("pass", "console.log(2 * require('fs').readFileSync('/dev/stdin', 'utf8'))"),
    "reads lines": (
        "pass",
        "require('readline').createInterface({ input: process.stdin }).on('line', (line) => console.log(line * 2));",
    ),
    "awaits": ("pass", READS + "(async () => { await null; setTimeout(() => console.log(n + n), 5); })();"),
    "wrong": ("fail", "console.log(6)"),
    "silent": ("fail", ""),
    "does not parse": ("compile_error", "console.log(;"),
    "throws": ("runtime_error", READS + "console.log(2 * n); throw new Error('x');"),
    "exit code": ("runtime_error", READS + "console.log(2 * n); process.exitCode = 3;"),
    "leaves early": ("fail", "process.exit(0); console.log(6);"),
    "recurses": ("runtime_error", "const f = () => f() + 1; f();"),
    "loops": ("timeout", "for (;;);"),
    "floods": ("output_limit", "for (;;) require('fs').writeSync(1, 'x'.repeat(4096));"),
    "eats memory": ("runtime_error", "const all = []; for (;;) all.push(new Array(1e6).fill(0.5));"),
    # unfilled: addresses are what is limited, and a slow machine takes seconds to touch two gigabytes
    "eats buffers": ("runtime_error", "const all = []; for (;;) all.push(Buffer.alloc(1 << 28));"),
    "reads a secret": ("runtime_error", "console.log(require('fs').readFileSync('{CANARY}', 'utf8'))"),
    "imports a secret": ("runtime_error", "require('{CANARY}')"),
    "writes a file": ("runtime_error", "require('fs').writeFileSync('x', '1')"),
    "forks": ("runtime_error", "if (require('child_process').spawnSync('/bin/sh').error) throw 1;"),
    "connects": ("runtime_error", "require('net').connect(80, '127.0.0.1')"),
    "listens": ("runtime_error", "require('net').createServer().listen(0)"),
    "kills its parent": ("runtime_error", "process.kill(process.ppid)"),
    "replaces what coverage uses": (
        "pass",
        READS + "JSON.stringify = () => '[[{}]]'; console.log(2 * n);",
    ),
}


@pytest.fixture(scope="module")
def pool():
    with open_pool() as pool:
        yield pool


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_gets_its_verdict_and_no_more(pool, tmp_path, name):
    check(pool, PROGRAMS, name, "javascript", tmp_path)


def test_blocks_that_no_test_entered_are_told_by_their_characters(pool, tmp_path):
    program = READS + (
        "const never = () => {\n  return '\N{GRINNING FACE}';\n};\n"
        "if (n > 100) {\n  console.log('é');\n} else {\n  console.log(2 * n);\n}\n"
    )
    left_out = "".join(not_run(program, grade(pool, program, "javascript", tmp_path)))
    assert "return" in left_out
    assert "'é'" in left_out
    assert "2 * n" not in left_out
    assert READS not in left_out


def test_what_ran_before_a_failure_is_known_and_a_killed_program_s_is_not(pool, tmp_path):
    thrown = grade(pool, "if (true) {\n  throw 1;\n}\nconsole.log(6);\n", "javascript", tmp_path)
    assert "console.log" in "".join(not_run("if (true) {\n  throw 1;\n}\nconsole.log(6);\n", thrown))
    assert grade(pool, "for (;;);", "javascript", tmp_path).executed is None


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"[[]]",
        b'[[{"ranges": 3}]]',
        b'[[{"ranges": [{"startOffset": 0, "endOffset": 99, "count": 1}]}]]',
        b'[[{"ranges": [{"startOffset": -1, "endOffset": 2, "count": 1}]}]]',
        b'[[{"ranges": [{"startOffset": 0, "endOffset": "x", "count": 1}]}]]',
    ],
)
def test_a_forged_record_counts_as_none(record):
    assert _painted(record, 10) is None
    assert V8Coverage().spans("0123456789", None, {record}, None) is None  # pyright: ignore[reportArgumentType]


def test_inner_blocks_lie_over_outer_ones_and_tests_add_up():
    def record(*blocks):
        ranges = [{"startOffset": a, "endOffset": b, "count": c} for a, b, c in blocks]
        return json.dumps([[{"ranges": ranges}]]).encode()

    first = record((0, 10, 1), (2, 6, 0), (3, 4, 2))
    assert V8Coverage().spans("0123456789", None, {first}, None) == ((0, 2), (3, 4), (6, 10))  # pyright: ignore[reportArgumentType]
    second = record((0, 10, 0), (4, 6, 1))
    spans = V8Coverage().spans("0123456789", None, {first, second}, None)  # pyright: ignore[reportArgumentType]
    assert spans == ((0, 2), (3, 10))
