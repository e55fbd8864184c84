"""Lines of C++ programs: from counts to spans, and counts that cannot be."""

import json

import pytest

from rl.feedback.cpp_coverage import line_counts, marks_itself, with_decoys
from rl.feedback.executed_lines import line_spans


def test_lines_without_code_go_with_the_next_that_has_some():
    program = "a\nb\nc\nd\ne\n"
    assert line_spans(program, {2: 1, 4: 0}) == ((0, 4),)
    assert line_spans(program, {2: 0, 4: 1}) == ((4, 10),)
    assert line_spans(program, {2: 1, 4: 1}) == ((0, 10),)


def test_lines_are_those_that_a_compiler_counts():
    program = 'a("\u2028");\x0c\nb;\nc;'
    assert line_spans(program, {1: 0, 2: 1, 3: 0}) == ((program.index("b"), program.index("c")),)
    assert line_spans(program, {}) == ()


def report(lines: list[dict], functions: list[dict], decoys: tuple[int, ...] = (0,) * 6) -> bytes:
    own = {"file": "p.cpp", "lines": lines, "functions": functions}
    others = [{"name": str(i), "execution_count": n, "blocks_executed": n} for i, n in enumerate(decoys)]
    return json.dumps({"files": [own, {"file": "d.cpp", "lines": [], "functions": others}]}).encode()


def line(count: int, function: str = "f") -> dict:
    return {"line_number": 3, "count": count, "function_name": function}


def function(count: int, blocks: int) -> dict:
    return {"name": "f", "execution_count": count, "blocks_executed": blocks}


def test_counts_that_make_sense_are_taken():
    assert line_counts(report([line(7)], [function(1, 2)]), "p.cpp", "d") == {3: 7}
    assert line_counts(report([line(0)], [function(0, 0)]), "p.cpp", "d") == {3: 0}


@pytest.mark.parametrize(
    "wrong",
    [
        report([line(-1)], [function(1, 2)]),
        report([line(1)], [function(-1, 2)]),
        report([line(5)], [function(0, 0)]),
        report([line(0)], [function(0, 1)]),
        report([line(1)], [function(1, 1)], (0, 0, 0, 1, 0, 0)),
        report([line(1)], [function(1, 1)], (0,) * 5),
        b"",
        b'{"files": 3}',
    ],
)
def test_counts_that_cannot_be_are_no_counts(wrong: bytes):
    assert line_counts(wrong, "p.cpp", "d") is None


@pytest.mark.parametrize(
    ("program", "marks"),
    [
        ("int main() {}", False),
        ("#define line 5\n#include <x>\n", False),
        ('puts("# 5");\nchar c = \'"\';\n// #line 7\n', False),
        ('auto s = R"x(\n#line 5\n)x";', False),
        ("int n = 1'000'000;\n#line 5\n", True),
        ("#line 5", True),
        ("  # \t5", True),
        ("%:line 3", True),
        ("#li\\\nne 3", True),
        ("/* a */ # /* b */ line 5", True),
        ("int asmodeus, reasm;", False),
        ("asm(1);", True),
        ("__asm__ volatile(1);", True),
        ('puts("asm");', False),
        ("__gcov_reset();", True),
        ('int x __attribute__((section("a")));', True),
        ("int section(3);", False),
    ],
)
def test_what_lets_a_program_mark_its_own_lines(program: str, marks: bool):
    preprocessed = f'# 1 "p.cpp"\n{program}\n# 1 "/usr/include/x.h" 1\nasm(gcov)\n'
    assert marks_itself(program, preprocessed, "p.cpp") is marks


def test_decoys_stand_before_and_behind():
    text = with_decoys("int main() {}", "d")
    assert text.startswith('# 1 "d.cpp"\n')
    assert text.index("d_2(") < text.index("main") < text.index("d_3(")
