"""Plain Python values as JSON that keeps their exact types, from the untrusted side to the trusted one.

None, bool, int, float, str and list stand for themselves; everything else is {"t": tag, "v": ...}.
An instance of any other class, and of a subclass of these, becomes {"t": "other"}: it has no value here,
so no `__eq__` of the program's ever runs in the process that compares. Standard library only.
"""

import collections
import json
import math
import sys
from typing import Any

_NATIVE = frozenset((type(None), bool, int, float, str))
_SEQUENCES = {tuple: "tuple", set: "set", frozenset: "frozenset", collections.deque: "deque"}
_MAPPINGS = {
    dict: "dict",
    collections.OrderedDict: "OrderedDict",
    collections.defaultdict: "defaultdict",
    collections.Counter: "Counter",
}
REL_TOL, ABS_TOL = 1e-6, 1e-9


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


def encode(value: Any) -> Any:
    """The JSON-able form of a value. Raises RecursionError for values that contain themselves."""
    kind = type(value)
    if kind in _NATIVE:
        return value
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
    numpy = sys.modules.get("numpy")
    if numpy is not None and kind.__module__ == "numpy" and isinstance(value, numpy.generic):
        return encode(value.item())
    return {"t": "other", "v": f"{kind.__module__}.{kind.__qualname__}"[:100]}


_DECODERS = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": collections.deque,
    "dict": dict,
    "OrderedDict": collections.OrderedDict,
    "defaultdict": dict,
    "Counter": collections.Counter,
}


def decode(form: Any) -> Any:
    """The value of an encoded form.

    Raises: KeyError, ValueError, TypeError, AttributeError or RecursionError for a forged one.
    """
    if type(form) is list:
        return [decode(item) for item in form]
    if type(form) is not dict:
        return form
    tag, content = form["t"], form["v"]
    if tag in ("bytes", "bytearray"):
        return (bytes if tag == "bytes" else bytearray).fromhex(content)
    if tag == "complex":
        return complex(*content)
    if tag == "other":
        return Opaque(str(content))
    if tag not in _DECODERS:
        raise ValueError(f"unknown tag {tag!r}")
    if tag in _MAPPINGS.values():
        return _DECODERS[tag]({decode(key): decode(value) for key, value in content})
    return _DECODERS[tag]([decode(item) for item in content])


def same(expected: Any, actual: Any) -> bool:
    """Whether an answer is the expected value, type for type.

    bool, int, float and str never stand for one another; floats may differ by a relative 1e-6 or an
    absolute 1e-9, NaN equals NaN; a tuple is a list (JSON files cannot tell); a set is no list; the
    dict classes are one; keys compare exactly, after JSON's habit of spelling them as strings.
    """
    if isinstance(expected, (list, tuple)):
        return (
            isinstance(actual, (list, tuple))
            and len(expected) == len(actual)
            and all(same(e, a) for e, a in zip(expected, actual, strict=True))
        )
    if isinstance(expected, dict):
        return isinstance(actual, dict) and _same_mappings(expected, actual)
    if type(expected) is not type(actual):
        return False
    if isinstance(expected, float):
        if math.isnan(expected):
            return math.isnan(actual)
        return math.isclose(expected, actual, rel_tol=REL_TOL, abs_tol=ABS_TOL)
    return bool(expected == actual)


def _same_mappings(expected: dict, actual: dict) -> bool:
    if len(expected) != len(actual):
        return False
    if not all(type(key) is str for key in expected):
        typed = {(type(key), key): value for key, value in actual.items()}
        return all(
            (type(key), key) in typed and same(value, typed[type(key), key])
            for key, value in expected.items()
        )
    spelled = {
        key if type(key) is str else json.dumps(key) if type(key) in _NATIVE else key: value
        for key, value in actual.items()
    }
    return all(key in spelled and same(value, spelled[key]) for key, value in expected.items())


def same_output(expected: str, actual: str) -> bool:
    """Whether printed text is the expected text.

    Trailing blanks of a line and trailing empty lines do not count. Otherwise lines must agree word for
    word, except that a word expected with a decimal point or exponent may differ as floats may (`same`).
    """
    expected_lines, actual_lines = _lines(expected), _lines(actual)
    if expected_lines == actual_lines:
        return True
    if len(expected_lines) != len(actual_lines):
        return False
    return all(_same_line(e, a) for e, a in zip(expected_lines, actual_lines, strict=True))


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _same_line(expected: str, actual: str) -> bool:
    words, others = expected.split(), actual.split()
    return len(words) == len(others) and all(
        w == o or _same_float(w, o) for w, o in zip(words, others, strict=True)
    )


def _same_float(expected: str, actual: str) -> bool:
    if not ("." in expected or "e" in expected.lower()):
        return False
    try:
        return "." in actual + "." and same(float(expected), float(actual))
    except ValueError:
        return False
