"""Plain Python values as JSON that keeps their types, from the untrusted side to the side that judges.

None, bool, int, float, str and list represent themselves; everything else is {"t": tag, "v": ...}. A value of
a subclass (IntEnum, namedtuple, numpy.float64) counts as the plain value that it holds, numpy scalars and
arrays as numbers and lists, iterators as what they yield. Any other class becomes {"t": "other"}: it has no
value here, so that no `__eq__` of the program ever runs where answers are compared. Standard library only.
"""

import collections
import itertools
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_LONG_INT_BITS = 4096  # beyond, decimal digits would cost quadratic time
_MOST_ITEMS = 1_000_000  # of an iterator
_MOST_EXPONENT = 10_000  # of a Decimal: int() of it must be a number that fits in memory
_NATIVE = frozenset((type(None), bool, float, str))
_SEQUENCES: dict[type, str] = {
    tuple: "tuple",
    set: "set",
    frozenset: "frozenset",
    collections.deque: "deque",
}
_MAPPINGS: dict[type, str] = {
    dict: "dict",
    collections.OrderedDict: "OrderedDict",
    collections.defaultdict: "defaultdict",
    collections.Counter: "Counter",
}
_ITERATORS = (
    range,
    map,
    filter,
    zip,
    enumerate,
    reversed,
    types.GeneratorType,
    type({}.keys()),
    type({}.values()),
    type({}.items()),
    type(iter([])),
    type(iter(())),
    type(iter({})),
    type(iter(set())),
    type(reversed([])),
)
# how to get the plain value out of a subclass, whatever methods of its own it has
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, int.__int__),
    (float, float.__float__),
    (str, str.__str__),
    (tuple, lambda value: tuple(tuple.__iter__(value))),
    (list, lambda value: list(list.__iter__(value))),
    (dict, lambda value: dict(dict.items(value))),
    (set, lambda value: set(set.__iter__(value))),
    (frozenset, lambda value: frozenset(frozenset.__iter__(value))),
    (collections.deque, lambda value: collections.deque(collections.deque.__iter__(value))),
)


class Opaque:
    """A value of a class that cannot be carried over; equal to nothing, itself included."""

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __init__(self, name: str):
        self.name = name

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<{self.name}>"


class Yielded:
    """What an iterator or a view yielded: can be iterated, but equals no list, as it was not one."""

    def __init__(self, items: Iterable[Any]):
        self.items = tuple(items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return f"<iterable of {list(self.items)!r}>"


def encode(value: Any) -> object:  # any value of a program
    """The JSON-able form of a value.

    Raises: RecursionError for a value that contains itself; BufferError for an endless iterator; whatever an
      iterator raises.
    """
    kind = type(value)
    if kind in _NATIVE:
        return value
    if kind is int:
        return value if value.bit_length() <= _LONG_INT_BITS else {"t": "int", "v": hex(value)}
    if kind is list:
        return [encode(item) for item in value]
    if kind in _SEQUENCES:
        return {"t": _SEQUENCES[kind], "v": [encode(item) for item in value]}
    if kind in _MAPPINGS:
        return {"t": _MAPPINGS[kind], "v": [[encode(k), encode(v)] for k, v in value.items()]}
    if kind is bytes or kind is bytearray:
        return {"t": kind.__name__, "v": value.hex()}
    if kind is complex:
        return {"t": "complex", "v": [value.real, value.imag]}
    return _encode_rare(kind, value)


# any value of a program
def _encode_rare(kind: type, value: Any) -> object:
    if kind in _ITERATORS:
        items = list(itertools.islice(value, _MOST_ITEMS + 1))
        if len(items) > _MOST_ITEMS:
            raise BufferError
        return {"t": "yielded", "v": [encode(item) for item in items]}
    # classes of modules that the program has imported; otherwise there is no such value
    numpy, decimal, fractions = (sys.modules.get(name) for name in ("numpy", "decimal", "fractions"))
    if numpy is not None and issubclass(kind, numpy.generic):
        item = value.item()
        # numpy.longdouble has no plain value: its item is itself
        return {"t": "other", "v": kind.__name__} if type(item) is kind else encode(item)
    if numpy is not None and issubclass(kind, numpy.ndarray):
        return encode(value.tolist())
    if decimal is not None and issubclass(kind, decimal.Decimal):
        return {"t": "Decimal", "v": decimal.Decimal.__str__(value)}
    if fractions is not None and issubclass(kind, fractions.Fraction):
        return {"t": "Fraction", "v": [hex(value.numerator), hex(value.denominator)]}
    for base, plain in _BASES:
        if issubclass(kind, base):
            return encode(plain(value))
    return {"t": "other", "v": f"{kind.__module__}.{kind.__qualname__}"[:100]}


def _decode_decimal(text: str) -> object:
    import decimal  # not at the top: this module is loaded into the fork server, which must stay small

    value = decimal.Decimal(text)
    if value.is_finite() and abs(value.adjusted()) > _MOST_EXPONENT:
        return Opaque("a Decimal out of range")
    return value


def _decode_fraction(parts: list[str]) -> object:
    import fractions

    numerator, denominator = parts
    return fractions.Fraction(int(numerator, 16), int(denominator, 16))


_SCALARS: dict[str, Callable[[Any], Any]] = {
    "int": lambda text: int(text, 16),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "complex": lambda parts: complex(*parts),
    "Decimal": _decode_decimal,
    "Fraction": _decode_fraction,
    "other": lambda name: Opaque(str(name)),
}
_DECODERS: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": collections.deque,
    "yielded": Yielded,
    "dict": dict,
    "OrderedDict": collections.OrderedDict,
    "defaultdict": dict,
    "Counter": collections.Counter,
}


def decode(form: object) -> Any:  # likewise
    """The value of an encoded form.

    Raises: KeyError, ValueError, TypeError, AttributeError, ArithmeticError or RecursionError for a forged
      one.
    """
    if type(form) is list:
        return [decode(item) for item in form]
    if type(form) is not dict:
        return form
    tag, content = form["t"], form["v"]
    if tag in _SCALARS:
        return _SCALARS[tag](content)
    if tag in _MAPPINGS.values():
        return _DECODERS[tag]({decode(key): decode(value) for key, value in content})
    return _DECODERS[tag]([decode(item) for item in content])


def has_opaque(value: object) -> bool:
    """Whether a decoded value holds an Opaque."""
    if isinstance(value, dict):
        return any(has_opaque(k) or has_opaque(v) for k, v in value.items())
    if isinstance(value, (list, tuple, set, frozenset, collections.deque, Yielded)):
        return any(has_opaque(item) for item in value)
    return isinstance(value, Opaque)
