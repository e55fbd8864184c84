"""Where solutions in other languages than Python are cut."""
# ruff: noqa: E501 (the programs read best on one line)

import sys

import pytest

from rl.feedback.problems import Problem
from rl.stepcoder.conditionals import conditionals, prefixes
from rl.stepcoder.curriculum import Curriculum

EVERY = ("if", "for", "while", "try", "match", "ternary")
# « stands before each place where the solution may be cut, by the kinds that are asked for
CASES = {
    "java": (
        "class A { int f(int é) {\n  int k = 1;\n  «if (a) x();\n  «else if (b) { «while (c) «for (;;) y(); }\n"
        "  «switch (k) { case 1: «if (c) w(); default: «k = a ? 1 : 2; }\n  «for (int i = a ? 1 : 2; ; );\n"
        "  «do { } while (x);\n  «for (int v : w) ;\n  «try { } finally { }\n  «out: for (;;) { }\n  return k;\n} }\n"
    ),
    "cpp": (
        "#define rep(i, n) for (int i = 0; i < n; ++i)\nint f() {\n  «for (int x : y) «while (1) r();\n"
        "  «if (a) x();\n  «else if (b) y();\n  «else for (;;);\n  «switch (q) { case 1: «if (c) w(); }\n"
        "  «int k = a ? 1 : 2;\n  «try { } catch (...) { }\n  return k;\n}\n"
    ),
    "javascript": (
        "function f() {\n  «if (a) x(); «else if (b) y();\n  «for (const x of y) «while (1) r();\n"
        "  «switch (q) { case 1: «if (c) w(); default: «let k = a ? 1 : 2; }\n  «for (;;);\n"
        "  const g = () => { «if (a) b(); };\n  «try { } catch { }\n}\n"
    ),
    "go": (
        "package m\nfunc f() {\n\t«if a { x() } «else if b { «for { y() } } else { z() }\n"
        "\t«switch q {\n\tcase 1:\n\t\t«if c { w() }\n\t}\n\t«for i := 0; i < 3; i++ { }\n}\n"
    ),
    "rust": (
        'fn f() {\n    let s = "é";\n    «if a { x(); } «else if b { y(); }\n    «let k = if c { 1 } else { 2 };\n'
        "    «for i in 0..3 { «while let Some(x) = y { } }\n    «match q { 1 => { «loop { } } _ => { } }\n    k\n}\n"
    ),
}


def _unmarked(marked):
    parts = marked.split("«")
    text = "".join(parts)
    return text, [len("".join(parts[:i])) for i in range(1, len(parts))]


@pytest.mark.parametrize("language", CASES)
def test_solutions_are_cut_before_their_conditionals(language):
    solution, places = _unmarked(CASES[language])
    assert conditionals(solution, EVERY, language) == places


@pytest.mark.parametrize("language", CASES)
def test_kinds_that_are_not_asked_for_do_not_count(language):
    solution, places = _unmarked(CASES[language])
    assert conditionals(solution, ("if",), language) == [
        at for at in places if solution[at:].startswith(("if", "else if", "let k = if"))
    ]


def test_what_cannot_be_parsed_is_passed_over():
    solution = "int main() { if (a) b(); @@@ $$ if }\nint f() { while (1); }\n"
    assert solution.index("while") in conditionals(solution, language="cpp")
    assert conditionals("\ud800 \x00 (((((", language="go") == []


def test_a_curriculum_has_stages_in_each_language():
    solution, _ = _unmarked(CASES["rust"])
    problem = Problem("p", "", canonical_solution=solution, language="rust")
    curriculum = Curriculum([problem, Problem("q", "", language="java")])
    given = prefixes(solution, language="rust")
    assert curriculum.stages == {"p": len(given), "q": 1}
    assert all(solution.startswith(part) for part in given)
    assert [part[-1:] for part in given] == ["", "\n", "{"]


def test_a_parser_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tree_sitter_go", None)
    with pytest.raises(ValueError, match=r"needs tree-sitter-go: pip install 'jaxmoe\[languages\]'"):
        conditionals("package m\n", language="go")
