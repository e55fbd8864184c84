"""Checks that the formats of training rows share; each error names the key and what stands there."""

import json
from typing import Any

Row = dict[str, Any]  # JSON as it was read; the functions here check what they hand out
TASK_TYPES = (-1, 0, 1)
# keys under which rows for models that see or hear hold what they see or hear
MEDIA = ("image", "images", "video", "videos", "audio", "audios")


def string(row: Row, key: str) -> str:
    """The string under a key.

    Args:
      row: an object of the file.
      key: to look up; the error names it.
    Returns: the string as it stands there.
    Raises: ValueError if it is missing or no string.
    """
    if not isinstance(row.get(key), str):
        raise ValueError(
            f"{key} must be a string; got {brief(row[key])}" if key in row else f"{key} is missing"
        )
    return row[key]


def optional_string(row: Row, key: str) -> str:
    """The string under a key, "" where it is missing or null.

    Args:
      row: an object of the file.
      key: to look up; the error names it.
    Returns: the string, or "".
    Raises: ValueError for a value that is neither a string nor null.
    """
    return string(row, key) if row.get(key) is not None else ""


def task_type(row: Row) -> int:
    """1 for closed-book questions, 0 for other tasks, -1 (also where absent) for none.

    Raises: ValueError for anything else.
    """
    found = row.get("task_type", -1)
    if isinstance(found, bool) or found not in TASK_TYPES:
        raise ValueError(f"task_type must be 1 (knowledge), 0 (other) or -1 (none); got {brief(found)}")
    return int(found)


def refuse_media(row: Row) -> None:
    """Refuses a row that has more than text: an answer about a picture is not learned without it.

    Raises: ValueError, naming the key, where something stands under one of `MEDIA`.
    """
    for key in MEDIA:
        if row.get(key):
            raise ValueError(f"only text is read; the row has {key}: {brief(row[key])}")


def from_json(value: object, key: str) -> object:
    """The value of a JSON text, which some data sets hold in the place of a list or an object.

    Args:
      value: any value; only strings are parsed.
      key: under which it stands, for the error message.
    Returns: the parsed value, or `value` itself if it is no string.
    Raises: ValueError if a string is not JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError(f"{key} must be JSON; got {brief(value)}") from None


def brief(value: object) -> str:
    """A value as a message shows it: in one line, and not longer than that takes."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]} .. ({len(text)} characters)"
