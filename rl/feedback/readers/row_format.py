"""What the readers of published formats share: a format's record, texts and numbers out of JSON."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from rl.feedback.problems import Problem

Row = dict[str, Any]
_MOST_DIGITS = 100_000
_CHUNK = 4_000  # digits that this Python reads at once


class RowFormat(NamedTuple):
    """A published format of problems.

    Attributes:
      name: of the data set.
      fields: a row that has all of them is read as this format.
      read: the problem of a row, given a name for rows without an id. Raises: KeyError, ValueError,
        TypeError, AttributeError, ArithmeticError, SyntaxError, RecursionError or MemoryError for a row that
        is not one.
    """

    name: str
    fields: frozenset[str]
    read: Callable[[Row, str], Problem]


def read_json(text: str) -> Any:  # JSON, checked by the reader of its format
    """json.loads for text with numbers of up to 100,000 digits.

    Raises: ValueError; RecursionError for one nested too deep.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # a number with more digits than int() takes
        return json.loads(text, parse_int=long_int)


def long_int(digits: str) -> int:
    """int() of any number of digits up to 100,000. Raises: ValueError for more."""
    sign, digits = (-1, digits[1:]) if digits[:1] == "-" else (1, digits)
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"numbers may have {_MOST_DIGITS:,} digits; got one of {len(digits):,}")
    value = 0
    for start in range(0, len(digits), _CHUNK):
        chunk = digits[start : start + _CHUNK]
        value = value * 10 ** len(chunk) + int(chunk)
    return sign * value


def text_of(value: object) -> str:
    """Text for standard input or output: some files have it whole, some as a list of lines."""
    return "\n".join(map(text_of, value)) if isinstance(value, list) else str(value)


def tests_of(data: Row) -> dict[str, Any]:
    """Fields of a Problem from {"inputs", "outputs"[, "fn_name"]}.

    If a first argument, or a returned value, is a dict whose keys are all integers spelled as strings, they
    are converted to numbers, as in APPS's own grader.
    """
    inputs, outputs = data["inputs"], data["outputs"]
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise TypeError("inputs and outputs must be lists")
    if data.get("fn_name") is None:
        return {"inputs": [text_of(i) for i in inputs], "outputs": [text_of(o) for o in outputs]}
    inputs = [
        [_with_int_keys(arguments[0]), *arguments[1:]]
        if isinstance(arguments, list) and arguments
        else arguments
        for arguments in inputs
    ]
    return {"inputs": inputs, "outputs": outputs, "fn_name": data["fn_name"]}


def _with_int_keys(value: object) -> object:
    if not isinstance(value, dict):
        return value
    try:
        return {int(key): item for key, item in value.items()}
    except ValueError:
        return value
