"""JSON files that others wrote: read within bounds, and checked against a dataclass."""

import dataclasses
import functools
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from jaxmoe.json_values import cut, is_object, shown

Schema = TypeVar("Schema")
# The largest real ones are weight indexes of some 10 MB.
MAX_JSON_BYTES = 1 << 25


def read_json(path: Path) -> dict[str, object]:
    """Reads a JSON object.

    Args:
      path: of a file of at most `MAX_JSON_BYTES`.
    Returns: the object as a dictionary.
    Raises: ValueError, in one line that names the file, if it is missing, too large, malformed, nested too
      deeply, or holds anything but an object.
    """
    try:
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise ValueError(f"{path} has {size:,} bytes; a JSON file here has at most {MAX_JSON_BYTES:,}")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ValueError(f"{path.parent} has no {path.name}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    try:
        value: object = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {_one_line(error)}") from error
    except ValueError as error:  # valid JSON that Python takes too long to convert
        limit = sys.get_int_max_str_digits()
        raise ValueError(
            f"{path} is not valid JSON here: an integer has more than {limit:,} digits"
        ) from error
    if not is_object(value):
        raise ValueError(f"{path} must hold a JSON object; got a {type(value).__name__}")
    return value


def parse(
    schema: type[Schema],
    values: Mapping[str, object],
    where: object,
    *,
    extra: Literal["ignore", "forbid"] = "ignore",
) -> Schema:
    """Builds a dataclass from the values of a JSON object.

    Args:
      schema: dataclass whose fields are converted as pydantic does: lists to tuples, 8.0 to 8 and "8" to 8.
      values: the object, by key; fields with a default may be missing.
      where: the source of the values, for the error message.
      extra: whether keys that the schema lacks are ignored or are errors.
    Returns: an instance of `schema`.
    Raises: ValueError, in one line, for a missing key, a value of the wrong type, or one that the dataclass
      refuses.
    """
    fields = {field.name for field in dataclasses.fields(schema)}  # pyright: ignore[reportArgumentType]
    if extra == "forbid" and (unknown := sorted(set(values) - fields)):
        raise ValueError(f"{where}: the key {shown(unknown[0])} is not understood here")
    try:
        return _adapter(schema).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "missing":
            raise ValueError(f"{where} lacks {shown('.'.join(map(str, first['loc'])))}") from error
        key = cut(".".join(str(part) for part in first["loc"]))
        got = shown(first["input"])
        message = _one_line(first["msg"].removeprefix("Value error, "))
        described = f"{key} is wrong: {message}; got {got}" if key else message
        raise ValueError(f"{where}: {described}") from error


@functools.cache
def _adapter(schema: type[Schema]) -> TypeAdapter[Schema]:
    return TypeAdapter(schema)  # takes milliseconds to create


def _one_line(message: object) -> str:
    return " ".join(str(message).split())
