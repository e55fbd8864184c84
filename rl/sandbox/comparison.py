"""When an answer counts as the expected one: a returned value, or a printed text. Standard library only.

    strict    type for type: bool, int, float and str never equal one another; text line by line, apart from
              blanks at the ends of lines and empty lines at the end; only a word expected with a decimal
              point or exponent may differ, as floats may
    python    Python's own ==: 2.0 is 2, True is 1, Decimal(2) is 2, exactly; text as in strict, word for
              word, but blanks around lines and empty lines do not count
    numeric   as python, but numbers may differ by the tolerance, and so may words that are numbers (6.0 for
              6) unless both are whole

In all of them a tuple equals a list, since JSON files cannot tell them apart; a set does not. If the keys of
an expected dict are strings, they may be JSON's spelling of other keys. NaN equals NaN.
"""

import json
import math
from typing import Any, Literal, NamedTuple

from rl.sandbox.values import Opaque, Yielded

Compare = Literal["strict", "python", "numeric"]
_SPELLED = (type(None), bool, int, float)


class CompareRule(NamedTuple):
    """How answers are compared. relative, absolute: only one of the two errors has to be small."""

    compare: Compare = "numeric"
    relative: float = 1e-6
    absolute: float = 1e-9


def same(expected: object, actual: object, rule: CompareRule) -> bool:
    """Whether an answer is the expected value.

    Args:
      expected: from a problem's file.
      actual: plain data (rl.sandbox.values.decode).
      rule: strictness and tolerances.
    Returns: False for values that are not plain data (`Opaque`), whatever is expected.
    Raises: RecursionError for values nested too deep.

    >>> same([2, 0.3], (2.0, 0.1 + 0.2), CompareRule("numeric")), same(2, 2.0, CompareRule("strict"))
    (True, False)
    """
    if isinstance(expected, (list, tuple)):
        return _same_sequences(expected, actual, rule)
    if isinstance(expected, dict):
        return isinstance(actual, dict) and _same_mappings(expected, actual, rule)
    if rule.compare == "strict" and type(expected) is not type(actual):
        return False
    if isinstance(actual, Opaque):
        return False
    if _is_number(expected) and _is_number(actual):
        return _same_numbers(expected, actual, rule)
    return type(expected) is type(actual) and bool(expected == actual)


def is_expected(expected: object, actual: object, rule: CompareRule) -> bool:
    """Whether a function returned what is expected. APPS wraps some values as [value]: either form is right.

    Args:
      expected: from a problem's file.
      actual: plain data (rl.sandbox.values.decode).
      rule: strictness and tolerances.
    Returns: True if either form of the expected value is the same as `actual`.
    Raises: what `same` raises.
    """
    if same(expected, actual, rule):
        return True
    return isinstance(expected, list) and len(expected) == 1 and same(expected[0], actual, rule)


def _same_sequences(expected: list | tuple, actual: object, rule: CompareRule) -> bool:
    if isinstance(actual, Yielded) and rule.compare != "strict":
        actual = actual.items
    return (
        isinstance(actual, (list, tuple))
        and len(expected) == len(actual)
        and all(same(e, a, rule) for e, a in zip(expected, actual, strict=True))
    )


def _is_number(value: object) -> bool:
    # Decimal and Fraction by name, because their modules are not loaded for the many programs without them
    return isinstance(value, (int, float, complex)) or type(value).__name__ in ("Decimal", "Fraction")


# numbers of any kind, including classes of the program's own
def _same_numbers(expected: Any, actual: Any, rule: CompareRule) -> bool:
    try:
        if expected == actual:
            return True
        if rule.compare == "python":
            return expected != expected and actual != actual
        if isinstance(expected, int) and isinstance(actual, int):
            return False  # integers have no error
        if isinstance(expected, complex) or isinstance(actual, complex):
            return abs(expected - actual) <= max(rule.absolute, rule.relative * abs(expected))
        one, other = float(expected), float(actual)
    except (OverflowError, ValueError, TypeError, ArithmeticError):
        return False  # a number beyond the range of floats, a signalling NaN
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return math.isclose(one, other, rel_tol=rule.relative, abs_tol=rule.absolute)


def _same_mappings(expected: dict, actual: dict, rule: CompareRule) -> bool:
    if len(expected) != len(actual):
        return False
    if not all(type(key) is str for key in expected):
        if rule.compare != "strict":
            return all(key in actual and same(value, actual[key], rule) for key, value in expected.items())
        typed = {(type(key), key): value for key, value in actual.items()}
        return all(
            (type(key), key) in typed and same(value, typed[type(key), key], rule)
            for key, value in expected.items()
        )
    spelled = {json.dumps(key) if type(key) in _SPELLED else key: value for key, value in actual.items()}
    return all(key in spelled and same(value, spelled[key], rule) for key, value in expected.items())


def same_output(expected: str, actual: str, rule: CompareRule) -> bool:
    """Whether printed text is the expected text.

    Args:
      expected: from a problem's file.
      actual: what the program printed.
      rule: which blanks and line breaks count, and the tolerances of numbers.
    Returns: True if each line has the words expected of it.

    >>> same_output("6\\n0.5", "6.0\\n 0.50 ", CompareRule("numeric"))
    True
    >>> same_output("6", "6.0", CompareRule("python"))
    False
    """
    lines, others = _lines(expected, rule), _lines(actual, rule)
    if lines == others:
        return True
    return len(lines) == len(others) and all(
        _same_line(e, a, rule) for e, a in zip(lines, others, strict=True)
    )


def _lines(text: str, rule: CompareRule) -> list[str]:
    if rule.compare != "strict":
        return [line for line in map(str.strip, text.split("\n")) if line]
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _same_line(expected: str, actual: str, rule: CompareRule) -> bool:
    words, others = expected.split(), actual.split()
    return len(words) == len(others) and all(
        w == o or _same_word(w, o, rule) for w, o in zip(words, others, strict=True)
    )


def _same_word(expected: str, actual: str, rule: CompareRule) -> bool:
    if rule.compare == "python":
        return False
    whole, other_whole = _is_whole(expected), _is_whole(actual)
    if whole and other_whole:
        return rule.compare == "numeric" and _digits(expected) == _digits(actual)
    if rule.compare == "strict" and whole:
        return False
    # float() accepts words that no program means as numbers: "infinity", "1_000", digits of other scripts
    if not (_looks_numeric(expected) and _looks_numeric(actual)):
        return False
    return _same_numbers(float(expected), float(actual), rule)


def _is_whole(word: str) -> bool:
    return word.isascii() and word.lstrip("+-").isdigit() and len(word) - len(word.lstrip("+-")) <= 1


def _digits(word: str) -> tuple[bool, str]:
    """Sign and digits of a whole number of any length."""
    digits = word.lstrip("+-").lstrip("0")
    return word[0] == "-" and bool(digits), digits


def _looks_numeric(word: str) -> bool:
    if not word.isascii() or "_" in word or len(word) > 400:
        return False
    if word.lower() in ("nan", "inf", "-inf"):
        return True
    try:
        float(word)
    except ValueError:
        return False
    return any(character.isdigit() for character in word)
