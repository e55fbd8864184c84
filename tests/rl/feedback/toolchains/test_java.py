"""Java: verdicts, isolation, and the lines that JaCoCo tells."""
# ruff: noqa: E501 (the programs read best on one line)

import shutil

import pytest

from rl.feedback.toolchains.java import JacocoCoverage, source_names
from tests.rl.feedback.toolchains.corpus import check, grade, not_run, open_pool

needs_java = pytest.mark.skipif(shutil.which("javac") is None, reason="needs a JDK")
READS = "int n = new java.util.Scanner(System.in).nextInt();"


def _main(body: str, before: str = "") -> str:
    return f"{before}class Main {{\n  public static void main(String[] a) throws Exception {{\n{body}\n  }}\n}}\n"


PROGRAMS = {
    "right": ("pass", _main(f"{READS} System.out.println(n * 2);")),
    "a public class of another name in a package": (
        "pass",
        f"package a.b;\npublic class Sol {{ public static void main(String[] a) {{ {READS} System.out.println(n * 2); }} }}",
    ),
    "records": (
        "pass",
        f"public class Main {{ record P(int a) {{}} public static void main(String[] x) {{ {READS} System.out.println(new P(2 * n).a()); }} }}",
    ),
    "threads": (
        "pass",
        _main(f"{READS} Thread t = new Thread(() -> System.out.println(2 * n)); t.start(); t.join();"),
    ),
    "wrong": ("fail", _main("System.out.println(6);")),
    "does not compile": ("compile_error", "class Main { void }"),
    "has no main": ("runtime_error", "class Main {}"),
    "throws": ("runtime_error", _main(f"{READS} System.out.println(n * 2); throw new RuntimeException();")),
    "exit code": ("runtime_error", _main("System.exit(3);")),
    "leaves early": ("fail", _main("Runtime.getRuntime().halt(0);")),
    "loops": ("timeout", _main("for (;;);")),
    "floods": ("output_limit", _main('for (;;) System.out.println("xxxxxxxxxxxxxxxx");')),
    "eats memory": (
        "runtime_error",
        _main("java.util.List<long[]> l = new java.util.ArrayList<>(); for (;;) l.add(new long[1 << 20]);"),
    ),
    "reads a secret": (
        "runtime_error",
        _main('System.out.println(java.nio.file.Files.readString(java.nio.file.Path.of("{CANARY}")));'),
    ),
    "starts a process": ("runtime_error", _main('new ProcessBuilder("/bin/sh").start().waitFor();')),
    "connects": ("runtime_error", _main('new java.net.Socket("127.0.0.1", 80);')),
}


@pytest.fixture(scope="module")
def pool():
    with open_pool() as pool:
        yield pool


@needs_java
@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_gets_its_verdict_and_no_more(pool, tmp_path, name):
    check(pool, PROGRAMS, name, "java", tmp_path)


@needs_java
@pytest.mark.slow
@pytest.mark.skipif(bool(JacocoCoverage().missing()), reason="needs JaCoCo")
def test_lines_that_no_test_reached_are_told(pool, tmp_path):
    program = _main(
        f'{READS}\nif (n > 1000) {{\nSystem.out.println("never");\n}}\nSystem.out.println(n * 2);'
    )
    left_out = "".join(not_run(program, grade(pool, program, "java", tmp_path)))
    assert "never" in left_out
    assert "n * 2" not in left_out
    thrown = grade(pool, PROGRAMS["throws"][1], "java", tmp_path)
    assert thrown.executed is None  # JaCoCo does not know how far it came


@pytest.mark.parametrize(
    ("program", "names"),
    [
        ("", ("Main.java", "Main")),
        ("class A {} class B { public static void main(String[] a) {} }", ("B.java", "B")),
        ('class A { String s = "class B { static void main("; }', ("A.java", "A")),
        (
            "/* public class X {} */ public final class Y { static final void main (String[] a) {} }",
            ("Y.java", "Y"),
        ),
        ("class O { static class I { } public static void main(String[] a) {} }", ("O.java", "O")),
        (
            "// class Z\npackage p.q ;\nenum E { A; public static void main(String... a) {} }",
            ("E.java", "p.q.E"),
        ),
        ("class A { char c = '{'; } interface B { static void main(String[] a) {} }", ("B.java", "B")),
    ],
)
def test_the_file_and_the_class_to_run_follow_from_the_text(program, names):
    assert source_names(program) == names
