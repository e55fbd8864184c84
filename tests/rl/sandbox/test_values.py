"""Exact types across the sandbox's wall, and when an answer is the expected one."""

import collections
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.sandbox import values

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
)
HASHABLE = st.recursive(SCALARS, lambda s: st.tuples(s, s) | st.frozensets(s, max_size=3), max_leaves=5)
PLAIN = st.recursive(
    SCALARS,
    lambda s: (
        st.lists(s)
        | st.tuples(s, s)
        | st.sets(HASHABLE, max_size=3)
        | st.dictionaries(HASHABLE, s, max_size=3)
    ),
    max_leaves=10,
)


def through(value: object) -> object:
    return values.decode(json.loads(json.dumps(values.encode(value))))


def typed(value: object) -> object:
    """A value with its types spelled out, since 1 == 1.0 == True."""
    if isinstance(value, (set, frozenset)):
        return type(value), frozenset(map(typed, value))
    if isinstance(value, dict):
        return type(value), tuple((typed(k), typed(v)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return type(value), tuple(map(typed, value))
    return type(value), value


@given(PLAIN)
def test_plain_values_come_through_with_their_types(value: object):
    assert typed(through(value)) == typed(value)


@pytest.mark.parametrize(
    "value", [collections.OrderedDict(a=1), collections.Counter("aab"), collections.deque([1])]
)
def test_collections_come_through(value: object):
    assert typed(through(value)) == typed(value)


class Impostor(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


@pytest.mark.parametrize("value", [Impostor(6), [Impostor(6)], object(), range(3), (x for x in ())])
def test_other_classes_equal_nothing(value: object):
    got = through(value)
    assert not values.same(6, got)
    assert not values.same([6], got)
    assert got != value


@pytest.mark.parametrize(
    ("expected", "actual", "right"),
    [
        (1, 1, True),
        (1, True, False),
        (1, 1.0, False),
        (1.0, 1, False),
        ("1", 1, False),
        (None, 0, False),
        ([1, 2], (1, 2), True),
        ([1, 2], [1, 2, 3], False),
        ([1, 2], {1, 2}, False),
        ([[1]], [(1,)], True),
        (0.3, 0.1 + 0.2, True),
        (1e6, 1e6 + 0.5, True),
        (1e6, 1e6 + 5, False),
        (0.0, 1e-10, True),
        (0.0, 1e-8, False),
        (math.nan, math.nan, True),
        (math.inf, 1e308, False),
        ({"1": 2}, {1: 2}, True),
        ({"1": 2}, {"1": 2}, True),
        ({"a": 2}, {"a": 2.0}, False),
        ({1: 2}, {True: 2}, False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"null": 1}, {None: 1}, True),
    ],
)
def test_same(expected: object, actual: object, right: bool):
    assert values.same(expected, actual) is right


@pytest.mark.parametrize(
    ("expected", "actual", "right"),
    [
        ("6\n", "6", True),
        ("6", "6 \n\n", True),
        ("6", "\n6", False),
        ("6", "6.0", False),
        ("6.0", "6", True),
        ("0.3333333333", "0.33333333333333", True),
        ("0.33", "0.34", False),
        ("a b", "a  b", True),
        ("a b", "ab", False),
        ("a\nb", "a b", False),
        ("", "", True),
        ("x", "", False),
        ("1e5", "100000.0", True),
        ("1.5", "x", False),
        ("Yes", "YES", False),
        ("1e5", "nan", False),
        ("a.b", "a.b", True),
    ],
)
def test_same_output(expected: str, actual: str, right: bool):
    assert values.same_output(expected, actual) is right


@pytest.mark.parametrize(
    "form",
    [
        {"t": "set", "v": [[1]]},
        {"t": "x", "v": 1},
        {},
        {"t": "bytes", "v": 3},
        {"t": ["set"], "v": []},
        {"t": "dict", "v": [1]},
    ],
)
def test_forged_forms_are_errors(form: object):
    with pytest.raises((KeyError, ValueError, TypeError)):
        values.decode(form)
