"""Go: verdicts, isolation, and the lines that its coverage tells. Its standard library is compiled first."""
# ruff: noqa: E501 (the programs read best on one line)

import shutil

import pytest

from rl.feedback.toolchains.go import GoCoverage, _parts
from tests.rl.feedback.toolchains.corpus import check, grade, not_run, open_pool

pytestmark = [
    pytest.mark.slow,  # compiling the standard library takes 20 to 60 s
    pytest.mark.skipif(shutil.which("go") is None, reason="needs Go"),
]


def _main(body: str, *imports: str) -> str:
    used = "".join(f'import "{name}"\n' for name in imports)
    return f"package main\n{used}func main() {{\n{body}\n}}\n"


READS = "var n int; fmt.Scan(&n)"
PROGRAMS = {
    "right": ("pass", _main(f"{READS}; fmt.Println(n * 2)", "fmt")),
    "goroutines": (
        "pass",
        _main(f"{READS}; c := make(chan int); go func() {{ c <- n * 2 }}(); fmt.Println(<-c)", "fmt"),
    ),
    "wrong": ("fail", _main("fmt.Println(6)", "fmt")),
    "does not compile": ("compile_error", _main("x")),
    "unused import": ("compile_error", _main("", "fmt")),
    "panics": ("runtime_error", _main(f"{READS}; fmt.Println(n * 2); panic(1)", "fmt")),
    "exit code": ("runtime_error", _main("os.Exit(3)", "os")),
    "leaves early": ("fail", _main("os.Exit(0)", "os")),
    "deadlocks": ("runtime_error", _main("<-make(chan int)")),
    "recurses": (
        "runtime_error",
        "package main\nfunc f(n int) int { return f(n + 1) + 1 }\nfunc main() { f(0) }\n",
    ),
    "loops": ("timeout", _main("for {}")),
    "floods": ("output_limit", _main('for { fmt.Println("xxxxxxxxxxxxxx") }', "fmt")),
    "eats memory": (
        "runtime_error",
        _main(
            "var all [][]int\nfor { b := make([]int, 1<<20); for i := range b { b[i] = i }; all = append(all, b) }"
        ),
    ),
    "reads a secret": (
        "runtime_error",
        _main('b, e := os.ReadFile("{CANARY}"); if e != nil { panic(e) }; os.Stdout.Write(b)', "os"),
    ),
    "embeds a secret": (
        "compile_error",
        'package main\nimport _ "embed"\n//go:embed {CANARY}\nvar s string\nfunc main() { println(s) }\n',
    ),
    "asks for C": ("compile_error", 'package main\n// #include "{CANARY}"\nimport "C"\nfunc main() {}\n'),
    "starts a process": (
        "runtime_error",
        _main('if e := exec.Command("/bin/sh", "-c", "true").Run(); e != nil { panic(e) }', "os/exec"),
    ),
    "connects": (
        "runtime_error",
        _main('if _, e := net.Dial("tcp", "127.0.0.1:80"); e != nil { panic(e) }', "net"),
    ),
}


@pytest.fixture(scope="module")
def pool():
    with open_pool() as pool:
        yield pool


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_gets_its_verdict_and_no_more(pool, tmp_path, name):
    check(pool, PROGRAMS, name, "go", tmp_path)


@pytest.mark.skipif(bool(GoCoverage().missing()), reason="needs Go 1.23")
def test_lines_that_no_test_reached_are_told(pool, tmp_path):
    never = 'if n > 1000 {\nfmt.Println("never")\n}'
    program = _main(f"{READS}\n{never}\nfmt.Println(n * 2)", "fmt")
    left_out = "".join(not_run(program, grade(pool, program, "go", tmp_path)))
    assert "never" in left_out
    assert "n * 2" not in left_out
    assert grade(pool, _main("for {}"), "go", tmp_path).executed is None


@pytest.mark.parametrize("record", [b"", b"short", b"\xff" * 8, b"\0" * 9])
def test_a_forged_record_counts_as_none(record):
    assert _parts(record) == (b"", b"")
