"""Tests written as code, taken apart: what the program computes, what is computed apart from it."""
# ruff: noqa: E501 (tables of cases read best one a line)

import pytest

from rl.feedback.assert_tests import called_function, names_bound, parse, split_check

# source: the program's parts, and the condition on them
PARTS = {
    "assert f(3) == 6": (("f(3)",), "_0 == 6"),
    "assert abs(f(3) - 2.5) < 1e-6": (("f(3)",), "abs(_0 - 2.5) < 1e-06"),
    "assert set(f([1, 2])) == set([2, 1])": (("f([1, 2])",), "set(_0) == set([2, 1])"),
    "assert f(1) == f(2)": (("f(1)", "f(2)"), "_0 == _1"),
    "assert not f('x'), 'message'": (("f('x')",), "not _0"),
    "assert math.isclose(f(1), 2.0, rel_tol=0.001)": (("f(1)",), "math.isclose(_0, 2.0, rel_tol=0.001)"),
    "assert f(3) == math.factorial(5)": (("f(3)",), "_0 == math.factorial(5)"),
    "assert f(3).startswith('ab')": (("f(3)",), "_0.startswith('ab')"),
    "assert f(3)[0].strip() == 'a'": (("f(3)",), "_0[0].strip() == 'a'"),
    "assert f(3) == [i * 2 for i in range(3)]": (("f(3)",), "_0 == [i * 2 for i in range(3)]"),
    "assert all(x in f(3) for x in [1, 2])": (("f(3)",), "all((x in _0 for x in [1, 2]))"),
    "assert (lambda r: r == 5)(f(1))": (("f(1)",), "(lambda r: r == 5)(_0)"),
    "assert f(f(3)) == f(9)": (("f(f(3))", "f(9)"), "_0 == _1"),
    "assert f(2) == 10 ** 5000": (("f(2)",), "_0 == 10 ** 5000"),
    "assert f(Node(1), X) is None": (("f(Node(1), X)",), "_0 is None"),
    "assert Solution().solve(3).size == 4": (("Solution().solve(3).size",), "_0 == 4"),
    "assert f(1) == Counter('ab')": (("f(1)",), "_0 == Counter('ab')"),
    "assert candidate(*x) == {**y}": (("candidate(*x)", "y"), "_0 == {**_1}"),
    "assert f(1) and g(2) != 3": (("f(1)", "g(2)"), "_0 and _1 != 3"),
    "assert True": ((), "True"),
}


@pytest.mark.parametrize("source", PARTS)
def test_only_what_the_program_must_compute_goes_to_it(source: str):
    test = parse(source, "f")
    assert (test.parts, test.condition) == PARTS[source]


def test_a_built_in_that_the_program_redefines_is_the_programs():
    assert parse("assert sum(10, 15) == 6", "sum").parts == ("sum(10, 15)",)
    assert parse("assert len(f(1)) == 6", "f").parts == ("f(1)",)


def test_names_of_the_setup_are_not_the_programs():
    setup = "import cmath as c\nX = 3\ndef close(a, b): return abs(a - b) < 1"
    assert names_bound(setup) == {"c", "X", "close"}
    assert parse("assert close(f(X), c.pi)", "f", setup).parts == ("f(X)",)
    assert parse("assert close(f(X), c.pi)", "f").parts == ("close(f(X), c.pi)",)


@pytest.mark.parametrize(
    "source",
    [
        "assert [f(i) for i in range(3)] == [0, 1, 2]",
        "assert all(f(i) for i in range(3))",
        "assert (lambda x: f(x))(3) == 6",
        "for i in range(3):\n    assert f(i) == i",
        "assert f(1) == 2\nassert f(2) == 3",
        "x = 3",
        "assert f(1) == 1" + "0" * 5000,
    ],
)
def test_what_cannot_be_taken_apart_runs_apart(source: str):
    assert parse(source, "f").parts is None


@pytest.mark.parametrize(
    ("source", "equals"),
    [
        ("assert f(3) == 6", (6,)),
        ("assert f(3) == [(1, -2.5), {'a': None}]", ([(1, -2.5), {"a": None}],)),
        ("assert f(3) == None", (None,)),
        ("assert 6 == f(3)", None),
        ("assert f(3) != 6", None),
        ("assert f(3) == 2 ** 70", None),
        ("assert f(3) == x", None),
        ("assert 1 < f(3) == 6", None),
    ],
)
def test_equality_with_a_literal_is_known_as_such(source: str, equals: object):
    assert parse(source, "f").equals == equals


@pytest.mark.parametrize(
    ("source", "weak"),
    [
        ("assert f(1) == f(2)", True),
        ("assert f(f(1)) == 1", False),
        ("assert f(1) == 3 and f(2) == 4", False),
        ("assert f(1)", False),
        ("assert f(1) in [f(2), 3]", True),
        ("assert len(f(1)) == len(f(2)) == 3", False),
    ],
)
def test_answers_compared_with_each_other_are_weak(source: str, weak: bool):
    assert parse(source, "f").weak is weak


def test_split_check_keeps_what_it_cannot_split():
    test = "def check(candidate):\n    for i in range(3):\n        assert candidate(i) == i"
    assert split_check(f"METADATA = {{}}\n{test}\n", "f") == (test, ("check(candidate)",))
    assert parse("check(candidate)", "f", test).parts is None
    own = "X = 3\ndef check(candidate):\n    'doc'\n    assert candidate(X) == 1, 'no'\n    assert True\n    pass\n"
    assert split_check(own, "f") == ("X = 3", ("assert candidate(X) == 1",))
    with pytest.raises(ValueError, match="no function `check`"):
        split_check("x = 3", "f")


def test_the_function_that_tests_call():
    tests = ("assert set(g(f(1))) == {2}",)
    assert called_function(tests, "def f(x): ...\ndef g(x): ...") == "g"
    assert called_function(tests, "def f(x): ...") == "f"
    assert called_function(tests, "x = 1") is None
    assert called_function(tests, "def (") == "g"
