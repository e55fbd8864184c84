"""When an answer is the expected one, under each of the three rules."""

import math
from decimal import Decimal
from fractions import Fraction

import pytest

from rl.sandbox.comparison import Compare, CompareRule, is_expected, same, same_output
from rl.sandbox.values import Opaque, Yielded

HUGE = 10**6000


# expected, actual, and whether it is right: strict, python, numeric
VALUES = [
    (1, 1, True, True, True),
    (1, True, False, True, True),
    (1, 1.0, False, True, True),
    (1.0, 1, False, True, True),
    ("1", 1, False, False, False),
    (1, "1", False, False, False),
    (None, 0, False, False, False),
    (None, None, True, True, True),
    ([1, 2], (1, 2), True, True, True),
    ([1, 2], [1, 2, 3], False, False, False),
    ([1, 2], {1, 2}, False, False, False),
    ([1, 2], Yielded([1, 2]), False, True, True),
    ([[1]], [(1,)], True, True, True),
    (0.3, 0.1 + 0.2, True, False, True),
    (1e6, 1e6 + 0.5, True, False, True),
    (1e6, 1e6 + 5, False, False, False),
    (0.0, 1e-10, True, False, True),
    (0.0, 1e-8, False, False, False),
    (2, 2.0000001, False, False, True),
    (10**15, 10**15 + 1, False, False, False),
    (HUGE, HUGE, True, True, True),
    (HUGE, HUGE + 1, False, False, False),
    (HUGE, 1.5, False, False, False),
    (math.nan, math.nan, True, True, True),
    (math.inf, 1e308, False, False, False),
    (2, Decimal(2), False, True, True),
    (0.5, Fraction(1, 2), False, True, True),
    (0.3, Decimal("0.30000001"), False, False, True),
    (2, Decimal("sNaN"), False, False, False),
    (1j, 1j, True, True, True),
    (1j, 1.0000001j, True, False, True),
    ({"1": 2}, {1: 2}, True, True, True),
    ({"1": 2}, {"1": 2}, True, True, True),
    ({"a": 2}, {"a": 2.0}, False, True, True),
    ({1: 2}, {True: 2}, False, True, True),
    ({1: 2}, {1: 2}, True, True, True),
    ({"a": 1}, {"a": 1, "b": 2}, False, False, False),
    ({"null": 1}, {None: 1}, True, True, True),
    (1, Opaque("A"), False, False, False),
    ([1], [Opaque("A")], False, False, False),
]


@pytest.mark.parametrize("case", VALUES, ids=range(len(VALUES)))
def test_same(case: tuple):
    expected, actual, *right = case
    for compare, wanted in zip(("strict", "python", "numeric"), right, strict=True):
        assert same(expected, actual, CompareRule(compare)) is wanted, compare


# expected, printed, and whether it is right: strict, python, numeric
OUTPUTS = [
    ("6\n", "6", True, True, True),
    ("6", "6 \n\n", True, True, True),
    ("6", "6\r\n", True, True, True),
    ("1\r\n2\r\n", "1\n2\n", True, True, True),
    ("6", "\n6", False, True, True),
    ("6", " 6", True, True, True),
    ("1\n\n2", "1\n2", False, True, True),
    ("6", "6.0", False, False, True),
    ("6.0", "6", True, False, True),
    ("6", "06", False, False, True),
    ("-0", "0", False, False, True),
    ("6", "6.1", False, False, False),
    ("0.3333333333", "0.33333333333333", True, False, True),
    ("0.33", "0.34", False, False, False),
    ("1.10", "1.1", True, False, True),
    ("a b", "a  b", True, True, True),
    ("a b", "ab", False, False, False),
    ("a\nb", "a b", False, False, False),
    ("", "", True, True, True),
    ("x", "", False, False, False),
    ("1e5", "100000.0", True, False, True),
    ("1.5", "x", False, False, False),
    ("Yes", "YES", False, False, False),
    ("1e5", "nan", False, False, False),
    ("nan", "nan", True, True, True),
    ("a.b", "a.b", True, True, True),
    ("123456789012345678901", "123456789012345678902", False, False, False),
    ("123456789012345678901.0", "123456789012345678901.5", True, False, True),
    (str(1) + "0" * 5000, str(1) + "0" * 4999 + "1", False, False, False),
    ("1.0", "1_0", False, False, False),
    ("1.0", "infinity", False, False, False),
    ("[1, 2]", "[1, 2]", True, True, True),
]


@pytest.mark.parametrize("case", OUTPUTS, ids=range(len(OUTPUTS)))
def test_same_output(case: tuple):
    expected, actual, *right = case
    for compare, wanted in zip(("strict", "python", "numeric"), right, strict=True):
        got = same_output(expected, actual, CompareRule(compare))
        assert got is wanted, compare


@pytest.mark.parametrize(("error", "right"), [(1e-5, False), (1e-3, True)])
def test_the_tolerance_is_relative_or_absolute(error: float, right: bool):
    rule = CompareRule("numeric", error, error)
    assert same(1000.0, 1000.5, rule) is right
    assert same(0.0, 0.0005, rule) is right
    assert same_output("1000.0 0", "1000.5 0.0005", rule) is right


@pytest.mark.parametrize("compare", ["strict", "python", "numeric"])
def test_a_value_wrapped_in_a_list_is_right_too(compare: Compare):
    assert is_expected([6], 6, CompareRule(compare))
    assert is_expected([[1, 2]], [1, 2], CompareRule(compare))
    assert not is_expected(6, [6], CompareRule(compare))
    assert not is_expected([6, 7], 6, CompareRule(compare))
