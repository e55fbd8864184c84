"""Types of JSON whose keys its writer decides: rows of data files, chat messages, metrics, summaries.

A program that reads such an object looks up keys by name and uses what it finds; a value of the wrong kind
is an error where it is used, or is refused where it is checked (`jaxmoe.json_files.parse`).
"""

from collections.abc import Mapping
from typing import Any, TypeGuard

JsonObject = dict[str, Any]  # a union of all that JSON may hold would need a cast at each use
JsonMapping = Mapping[str, Any]  # the same, only read


def is_object(value: object) -> TypeGuard[dict[str, object]]:
    """Whether a value that was read from JSON is an object: its keys are text then."""
    return isinstance(value, dict)
