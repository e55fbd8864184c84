"""Exact types across the sandbox's wall, and when an answer is the expected one."""

import collections
import enum
import json
from decimal import Decimal
from fractions import Fraction

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.sandbox import values
from rl.sandbox.values import Opaque

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


class Endless(list):
    def __iter__(self):
        while True:
            yield 1


class Level(enum.IntEnum):
    HIGH = 6


Pair = collections.namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Impostor(7), 7),
        (Level.HIGH, 6),
        (Pair(1, Level.HIGH), (1, 6)),
        (Endless([1, 2]), [1, 2]),
        (type("T", (str,), {"__str__": lambda self: "other"})("x"), "x"),
        (type("F", (float,), {})(0.5), 0.5),
        (type("D", (dict,), {"items": lambda self: 1 / 0})(a=1), {"a": 1}),
        (Decimal("2.50"), Decimal("2.50")),
        (Fraction(1, 3), Fraction(1, 3)),
        (numpy.int64(3), 3),
        (numpy.float32(0.5), 0.5),
        (numpy.bool_(True), True),
        (numpy.str_("x"), "x"),
        (numpy.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        (numpy.array(3.5), 3.5),
        (numpy.array([1, None], dtype=object), [1, None]),
    ],
)
def test_values_of_subclasses_and_of_numpy_are_the_plain_ones_in_them(value: object, plain: object):
    assert typed(through(value)) == typed(plain)


def test_whole_numbers_of_any_length_come_through():
    for value in (10**6000, -(10**6000)):
        assert through([value]) == [value]


@pytest.mark.parametrize(
    "value", [range(3), (x for x in range(3)), map(int, "012"), {0: 1, 1: 1, 2: 1}.keys(), iter([0, 1, 2])]
)
def test_what_iterators_yield_comes_through_but_is_no_list(value: object):
    got = through(value)
    assert isinstance(got, values.Yielded)
    assert list(got) == [0, 1, 2]
    assert len(got) == 3
    assert got != [0, 1, 2]


def test_an_endless_iterator_is_too_large():
    with pytest.raises(BufferError):
        values.encode(1 for _ in iter(int, 1))


@pytest.mark.parametrize("value", [object(), len, Decimal("1e99999"), Opaque("x"), numpy.longdouble(1)])
def test_other_classes_equal_nothing(value: object):
    got = through(value)
    assert values.has_opaque([{1: (got,)}])
    assert not got == got  # noqa: SIM201 (equal to nothing)


@pytest.mark.parametrize(
    "form",
    [
        {"t": "set", "v": [[1]]},
        {"t": "x", "v": 1},
        {},
        {"t": "bytes", "v": 3},
        {"t": ["set"], "v": []},
        {"t": "dict", "v": [1]},
        {"t": "int", "v": 3},
        {"t": "int", "v": "x"},
        {"t": "Fraction", "v": ["1", "0"]},
        {"t": "Fraction", "v": []},
        {"t": "Decimal", "v": "x"},
        {"t": "Decimal", "v": {}},
    ],
)
def test_forged_forms_are_errors(form: object):
    with pytest.raises((KeyError, ValueError, TypeError, ArithmeticError)):
        values.decode(form)
