"""Rows of a JSON list or of JSON lines, each with its place in the file.

Only a line feed ends a line of JSON: U+2028, U+0085 and form feeds may stand within its strings, where
`str.splitlines` would cut.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

Value = TypeVar("Value")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Placed(NamedTuple, Generic[Value]):
    """A row as it stands in a file.

    Attributes:
      place: the number of its line, or in a list "row N"; from 1.
      value: any JSON value.
    """

    place: str
    value: Value


def read_json_rows(path: Path) -> list[Placed[object]]:
    """All rows of a file in its order; blank lines are none.

    Args:
      path: UTF-8 text, with a byte order mark or without.
    Raises: ValueError, in one line with file and line, for a missing file, bytes that are not UTF-8, and what
      is not JSON, or nested too deeply to be read.
    """
    text = read_text(path)
    if text.lstrip().startswith("["):
        values = _parsed(text, path, None)
        assert isinstance(values, list)  # whatever begins with a bracket
        return [Placed(f"row {n}", value) for n, value in enumerate(values, 1)]
    return [Placed(str(n), _parsed(line, path, n)) for n, line in lines(text)]


def read_text(path: Path) -> str:
    """The text of a UTF-8 file without its byte order mark, line ends as they are.

    Raises: ValueError, with file and line, if it is missing or not UTF-8.
    """
    try:
        whole = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such data file") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        return whole.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}:{whole[: error.start].count(10) + 1}: not UTF-8 text") from None


def dump_json(value: object, *, indent: int | None = None) -> str:
    """A value as JSON that UTF-8 can hold: characters as they are, lone surrogates as their escapes.

    Args:
      value: of the types that JSON has.
      indent: blanks for each level; None writes one line.
    Returns: the text, without a line feed at its end.

    >>> print(dump_json({"said": "né\\ud800"}))
    {"said": "né\\ud800"}
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def without_nulls(value: object) -> object:
    """A value without the keys whose value is null, at any depth: tables write so what a row does not have.

    >>> without_nulls({"text": "a", "messages": None, "turns": [{"role": "user", "weight": None}]})
    {'text': 'a', 'turns': [{'role': 'user'}]}
    """
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, without their ends, and their numbers from 1; only a line feed ends one.

    >>> list(lines("one\\u2028still one\\r\\n\\ntwo\\n"))
    [(1, 'one\\u2028still one'), (3, 'two')]
    """
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.removesuffix("\r")


def _parsed(text: str, path: Path, line: int | None) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        what = "malformed JSON" if line is None else "malformed JSON line"
        raise ValueError(f"{path}:{line or error.lineno}: {what} ({error.msg})") from None
    except RecursionError:
        raise ValueError(f"{path}:{line or 1}: JSON that is nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f"{path}:{line or 1}: {error}") from None
