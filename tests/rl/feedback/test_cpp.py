"""C++ programs: verdicts, isolation of compiler and program, executed lines."""
# ruff: noqa: E501 (the programs read best on one line)

import re
import shutil
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rl.feedback.pool import Limits, Pool
from rl.feedback.problems import Problem

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None or shutil.which("gcov") is None, reason="needs g++ and gcov"
)

DOUBLE = Problem("double", "", inputs=["3\n", "21\n"], outputs=["6\n", "42\n"], language="cpp")


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(workers=1, limits=Limits(time_s=1.0, output_bytes=1 << 16, timeouts=1)) as pool:
        yield pool


PROGRAMS = {
    "right": (
        "pass",
        "#include <iostream>\nint main() { int n; std::cin >> n; std::cout << n * 2 << '\\n'; }",
    ),
    "wrong": ("fail", '#include <cstdio>\nint main() { puts("6"); }'),
    "silent": ("fail", "int main() {}"),
    "does not compile": ("compile_error", "int main() { return x; }"),
    "does not link": ("compile_error", "void f(); int main() { f(); }"),
    "aborts": ("runtime_error", "#include <cstdlib>\nint main() { abort(); }"),
    "exit code": ("runtime_error", "int main() { return 3; }"),
    "null": ("runtime_error", "int main() { *(volatile int *)0 = 1; }"),
    "loops": ("timeout", "int main() { for (volatile int i = 0;; i++); }"),
    "floods": ("output_limit", '#include <cstdio>\nint main() { for (;;) puts("xxxxxxxxxxxxxxxxxxxx"); }'),
    "eats memory": (
        "runtime_error",
        "#include <vector>\nint main() { std::vector<char> v(4ull << 30, 1); return v[77] - 1; }",
    ),
    "includes a secret": ("compile_error", '#include "@CANARY@"\nint main() {}'),
    "embeds a secret": ("compile_error", '__asm__(".incbin \\"@CANARY@\\"");\nint main() {}'),
    "reads a file": (
        "runtime_error",
        '#include <cstdio>\nint main() { return fopen("/etc/passwd", "r") || fopen("/proc/self/maps", "r") ? 0 : 1; }',
    ),
    "forks and executes": (
        "runtime_error",
        '#include <unistd.h>\nint main() { return fork() >= 0 || execl("/bin/sh", "sh", nullptr) == 0 ? 0 : 1; }',
    ),
    "opens a socket": (
        "runtime_error",
        "#include <sys/socket.h>\nint main() { return socket(AF_INET, SOCK_STREAM, 0) >= 0 ? 0 : 1; }",
    ),
}

PROGRAMS["keeps a note in its own executable"] = (
    "pass",
    """
#include <cstdio>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>
volatile const char note[] = "NOTE0NOTE";
int main() {
    int n;
    if (scanf("%d", &n) != 1) return 1;
    long size = lseek(4, 0, SEEK_END);
    char *m = (char *)mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, 4, 0);
    bool seen = false;
    if (m != MAP_FAILED)
        for (long i = 0; i + 9 < size; i++)
            if (!memcmp(m + i, "NOTE", 4) && !memcmp(m + i + 5, "NOTE", 4)) {
                seen |= m[i + 4] == '1';
                m[i + 4] = '1';
            }
    printf("%d", seen ? -1 : 2 * n + (note[0] == 1));
}
""",
)
PROGRAMS["prints another number in another form"] = (
    "pass",
    '#include <cstdio>\nint main() { int n; return scanf("%d", &n) != 1 || printf(" %.1f\\n\\n", n * 2.0) < 0; }',
)
CHECKER = "def check(given, answer, expected):\n    return abs(float(answer) - float(expected)) < 1"


@pytest.mark.parametrize("name", PROGRAMS)
def test_verdicts(name: str, pool: Pool, tmp_path: Path):
    (tmp_path / "canary").write_text("int s3cret;")
    expected, program = PROGRAMS[name]
    feedback = pool.grade(DOUBLE, program.replace("@CANARY@", str(tmp_path / "canary")))
    assert feedback.verdict == expected, feedback
    assert "s3cret" not in repr(feedback)


def test_executed_lines_are_joined_over_tests_and_survive_a_kill(pool: Pool):
    program = textwrap.dedent("""\
        #include <cstdio>
        int main() {
            int n;
            scanf("%d", &n);
            if (n == 3)
                puts("6");
            else if (n == 21)
                for (volatile int i = 0;; i++);
            else
                puts("never");
        }
        """)
    feedback = pool.grade(DOUBLE, program)
    assert [test.verdict for test in feedback.tests] == ["pass", "timeout"]
    assert feedback.executed is not None
    text = "".join(program[start:end] for start, end in feedback.executed.spans)
    assert 'puts("6")' in text
    assert "for (volatile" in text
    assert "never" not in text


def test_a_call_problem_is_refused(pool: Pool):
    problem = Problem("p", "", fn_name="f", inputs=[[1]], outputs=[1], language="cpp")
    with pytest.raises(ValueError, match="graded on standard input; p is of kind call"):
        pool.grade(problem, "int main() {}")


def test_a_problems_own_checker_decides(pool: Pool):
    near = (
        '#include <cstdio>\nint main() { int n; return scanf("%d", &n) != 1 || printf("%f", n * 2.01) < 0; }'
    )
    assert pool.grade(DOUBLE, near).verdict == "fail"
    assert pool.grade(replace(DOUBLE, checker=CHECKER), near).verdict == "pass"


FORGERIES = {
    "line directives": """
int never(int n) {
    return n * 3;
}
int main() { int n; scanf("%d", &n); if (n == 77) return never(n);
/* back to the lines above */ %: line 3
    printf("%d", 2 * n);
}
""",
    "a symbol by its name": """
extern long long forged[] asm("__gcov0._Z5neveri");
int never(int n) {
    return n * 3;
}
int main() { int n; scanf("%d", &n); if (n == 77) return never(n); forged[0] = 1; printf("%d", 2 * n); }
""",
    "assembler out of two halves": """
#define JOINED(a, b) a##b
int never(int n) {
    return n * 3;
}
int main() {
    int n; scanf("%d", &n); if (n == 77) return never(n);
    JOINED(as, m) volatile("movq $1, __gcov0._Z5neveri(%rip)");
    printf("%d", 2 * n);
}
""",
    "all that looks like a counter": """
static long long here[1];
extern "C" char _end;
int never(int n) {
    return n * 3;
}
int main() {
    int n; scanf("%d", &n); if (n == 77) return never(n);
    printf("%d", 2 * n); fflush(stdout); here[0] = 1;
    for (long long *p = here - 40; p < here + 40; p++) if (*p == 0) *p = 1;
}
""",
    "the memory that it shares with the grader": """
#include <sys/mman.h>
int never(int n) {
    return n * 3;
}
int main() {
    int n; scanf("%d", &n); if (n == 77) return never(n);
    if (mmap(nullptr, 4096, PROT_READ, MAP_SHARED, 5, 0) != MAP_FAILED) return never(n);
    printf("%d", 2 * n);
}
""",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_no_program_marks_its_own_lines_executed(name: str, pool: Pool):
    program = "#include <cstdio>\n" + FORGERIES[name].lstrip()
    feedback = pool.grade(DOUBLE, program)
    assert feedback.verdict == "pass"
    assert feedback.executed is not None
    assert "n * 3" not in "".join(program[start:end] for start, end in feedback.executed.spans)


def test_messages_name_the_program_by_its_usual_name(pool: Pool):
    message = pool.grade(DOUBLE, "int main() { return x; }").message
    assert "program.cpp:1" in message
    assert pool.grade(DOUBLE, '#include "none.h"\nint main() {}').message.startswith("program.cpp:1")


def test_macros_that_expand_without_end_cost_the_grader_little(pool: Pool):
    """2^22 words from 23 lines: read whole, they took half a minute of the grader's own time."""
    macros = "#define m0 1,1,1,1,1,1,1,1\n" + "".join(
        f"#define m{i} m{i - 1},m{i - 1}\n" for i in range(1, 22)
    )
    began = time.monotonic()
    feedback = pool.grade(DOUBLE, f"{macros}int xs[] = {{m21}};\nint main() {{}}\n")
    assert feedback.verdict == "compile_error"
    assert re.search(r"has [\d,]+ bytes; up to 16,777,216 are compiled", feedback.message)
    assert time.monotonic() - began < 20
