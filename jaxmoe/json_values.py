"""Types of JSON whose keys its writer decides: rows of data files, chat messages, metrics, summaries.

A program that reads such an object looks up keys by name and uses what it finds; a value of the wrong kind
is an error where it is used, or is refused where it is checked (`jaxmoe.json_files.parse`).
"""

from collections.abc import Mapping
from typing import Any, TypeGuard

JsonObject = dict[str, Any]  # a union of all JSON types would need a cast at each use
JsonMapping = Mapping[str, Any]  # the same, read-only


def shown(value: object, most: int = 80) -> str:
    """A value from a foreign file, as shown in an error message: Python's repr, cut if it is long.

    Args:
      value: of any kind and size.
      most: characters before the cut.
    Returns: the text, with two dots where something is left out.
    """
    return cut(repr(value), most)


def cut(text: str, most: int = 80) -> str:
    """Text from a foreign file, such as a key, for an error message.

    Args:
      text: of any length.
      most: characters before the cut.
    Returns: the text, with two dots where something is left out.
    """
    return text if len(text) <= most else f"{text[:most]} .."


def is_object(value: object) -> TypeGuard[dict[str, object]]:
    """Whether a value that was read from JSON is an object: its keys are then text."""
    return isinstance(value, dict)
