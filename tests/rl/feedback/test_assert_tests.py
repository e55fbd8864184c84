"""Assert-style tests, split between the sandbox and the grader."""

import pytest

from rl.feedback import assert_tests
from rl.sandbox.values import Opaque


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("assert f(3) == 6", ("f(3)",)),
        ("assert abs(f(3) - 2.5) < 1e-6", ("f(3)",)),
        ("assert set(f([1, 2])) == set([2, 1])", ("f([1, 2])",)),
        ("assert f(1) == f(2)", ("f(1)", "f(2)")),
        ("assert not f('x'), 'message'", ("f('x')",)),
        ("assert math.isclose(f(1), 2.0, rel_tol=0.001)", ("f(1)",)),
        ("assert tuple(f(1)) == (1, 2)", ("f(1)",)),
        ("assert f([0] * 3) is None", ("f([0] * 3)",)),
        ("assert f(1) ** 2 == 4", ("f(1) ** 2",)),
        ("assert f(*x) == {**y}", ("f(*x)", "{**y}")),
        ("assert True", ()),
    ],
)
def test_only_what_the_program_must_compute_goes_to_it(source: str, parts: tuple[str, ...]):
    assert assert_tests.parse(source).parts == parts


def test_a_built_in_that_the_program_redefines_is_the_programs():
    assert assert_tests.parse("assert sum(10, 15) == 6", frozenset(("sum",))).parts == ("sum(10, 15)",)


@pytest.mark.parametrize(
    ("source", "answers", "right"),
    [
        ("assert f(3) == 6", [6], True),
        ("assert f(3) == 6", [7], False),
        ("assert f(3) == 6", [6.0], True),  # Python's own ==, as the benchmarks have it
        ("assert f(3) == (1, 2)", [[1, 2]], False),
        ("assert abs(f(3) - 2.5) < 1e-6", [2.5000001], True),
        ("assert abs(f(3) - 2.5) < 1e-6", [None], False),
        ("assert set(f(1)) == {1, 2}", [[2, 1, 2]], True),
        ("assert 1 < f(1) <= 3", [3], True),
        ("assert 1 < f(1) <= 3", [4], False),
        ("assert f(1) in [1, 2] and not f(2)", [2, 0], True),
        ("assert f(1) in [1, 2] and not f(2)", [2, 1], False),
        ("assert f(1) != 3", [Opaque("A")], False),
        ("assert f(1) != 3", [[1, {2: Opaque("A")}]], False),
        ("assert f(1) == {'a': [1]}", [{"a": [1]}], True),
        ("assert f(1) is True", [1], False),
        ("assert f(1) * 10**9 == 0", ["x" * 1000], False),
        ("assert f(3) == 6", [], False),
    ],
)
def test_holds(source: str, answers: list, right: bool):
    assert assert_tests.holds(assert_tests.parse(source), answers) is right


def test_a_test_that_is_no_assert_is_refused():
    with pytest.raises(ValueError, match="one assert statement"):
        assert_tests.parse("f(3)")


def test_split_check_keeps_what_it_cannot_split():
    test = "def check(candidate):\n    for i in range(3):\n        assert candidate(i) == i\n"
    setup, asserts = assert_tests.split_check(test, "f")
    assert setup == test
    assert assert_tests.parse(asserts[0]).weak
    setup, asserts = assert_tests.split_check(
        "X = 3\ndef check(candidate):\n    assert candidate(X) == 1, 'no'\n", "f"
    )
    assert (setup, asserts) == ("X = 3", ("assert candidate(X) == 1",))
    assert assert_tests.parse(asserts[0]).parts == ("candidate(X)",)
