"""One YAML file per run -> typed dataclasses, with dotted overrides on the command line.

A schema is a frozen dataclass whose fields are plain values, tuples or other such dataclasses. Each section
is declared next to the code that reads it; this module knows none of them.
"""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from jaxmoe.given_paths import given
from jaxmoe.json_values import JsonMapping, JsonObject
from training.runtime import shipped, yaml_values
from training.runtime.atomic import write_whole

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Schema = TypeVar("Schema")

# For the root dataclass of a schema, as `__pydantic_config__`; the sections below it inherit it.
STRICT = ConfigDict(extra="forbid", coerce_numbers_to_str=True)


def load(schema: type[Schema], path: str | Path | None, overrides: Sequence[str] = ()) -> Schema:
    """Reads a config file, applies overrides and checks everything.

    Args:
      schema: the dataclass to fill.
      path: YAML file, run folder or name of a shipped config (sft/tiny); None starts from the defaults.
      overrides: `key=value` with dots for sections (`optimizer.lr=1e-4`); values are YAML.
    Returns: the checked config, an instance of the schema.
    Raises: ValueError, in one line, for an unreadable file, an unknown key (with the nearest one), a value of
      the wrong type or one that a section refuses.
    """
    values = {} if path is None else _read(path)
    for override in overrides:
        _override(values, override)
    return parse(schema, values, "the config" if path is None else str(path))


def load_given(schema: type[Schema], key: str, name: str, overrides: Sequence[str] = ()) -> Schema:
    """`load` for a config that another one names, with the key there in its errors.

    Args:
      schema: the dataclass to fill.
      key: of the config that names it, such as `ppo`.
      name: as it was given there.
      overrides: as for `load`.
    Returns: the checked config, an instance of the schema.
    Raises: ValueError, in one line with key, name, reason and remedy.
    """
    with given(key, name):
        shipped.find(name)
    try:
        return load(schema, name, overrides)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def read(path: str | Path) -> JsonObject:
    """A YAML file, by path or short name, as a dictionary; an empty file is an empty one."""
    return _as_wanted(None, _read(path))


def _read(path: str | Path) -> JsonObject:
    """The same, with numbers that tell how they were written."""
    path = shipped.find(path)
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ValueError(f"cannot read the config {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not valid YAML: it is not UTF-8 text") from None
    try:
        values = yaml_values.parse(text)
    except ValueError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold `key: value` lines; got a {type(values).__name__}")
    return values


def check_file(path: str | Path | None, overrides: Sequence[str] = ()) -> None:
    """Checks the file that the option --config names.

    Args:
      path: as for `load`.
      overrides: as for `load`; without any, the file must hold a key.
    Raises: ValueError, in one line that names the option, for a file that is missing, unreadable or empty.
    """
    if path is not None:
        with given("--config", path):
            if not read(path) and not overrides:
                raise ValueError(f"{path} holds no key")


def _override(values: JsonObject, override: str) -> None:
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ValueError(f"an override reads key=value, as in optimizer.lr=1e-4; got {override!r:.80}")
    if re.search(r"(^|\s)#", text) and not re.search("['\"|>]", text):
        raise ValueError(
            f"in YAML # begins a comment; quote the value, as in {names[-1]}='\"a #1\"'; got {override!r:.80}"
        )
    try:
        value = yaml_values.parse(text)
    except ValueError as error:
        raise ValueError(f"the value of the override {override!r:.80} is not valid YAML: {error}") from None
    place: Any = values  # a section or a list, as deep as the key goes
    for depth, name in enumerate(names[:-1]):
        place = _enter(place, name, ".".join(names[: depth + 1]))
    if isinstance(place, list):
        place[_index(place, names[-1], key)] = value
    else:
        place[names[-1]] = value


def _enter(place: Any, name: str, so_far: str) -> Any:  # likewise
    if isinstance(place, list):
        return place[_index(place, name, so_far)]
    if place.get(name) is None:
        place[name] = {}
    if not isinstance(place[name], dict | list):
        raise ValueError(f"{so_far} is a value, not a section; got an override of a key below it")
    return place[name]


def _index(place: list, name: str, so_far: str) -> int:
    if not name.isdigit() or int(name) >= len(place):
        raise ValueError(f"{so_far} must name one of the {len(place)} items by number, from 0")
    return int(name)


def parse(schema: type[Schema], values: JsonMapping, where: str = "the config") -> Schema:
    """Plain values -> the schema; lists become tuples, numbers are converted where nothing is lost.

    Args:
      schema: the dataclass to fill.
      values: nested dictionaries, as from YAML.
      where: the origin of the values, named at the start of an error.
    Returns: an instance of the schema.
    Raises: ValueError, in one line, for an unknown key, a value of the wrong type or one that a section
      refuses; TypeError if the schema itself is at fault.
    """
    try:
        _refuse_switches(schema, dict(values), [])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    try:
        return TypeAdapter(schema).validate_python(_completed(schema, _as_wanted(schema, dict(values))))
    except ValidationError as error:
        raise ValueError(f"{where}: {_explain(schema, error)}") from error
    except PydanticUserError as error:  # a schema that cannot be checked is our mistake
        raise TypeError(f"{schema.__name__} is no valid schema: {error}") from error


def _completed(section: type, values: JsonMapping, own: object = None) -> JsonObject:
    """The values of a section, and what its own default has apart from its class's for keys not given.

    Without this, a section given in part would fall back to its class's defaults for all the rest: a policy's
    `optimizer.clip_norm` would bring the learning rate of fine-tuning.

    Args:
      section: dataclass of the section.
      values: given for it.
      own: the section's default where it stands, an instance; None takes those of the fields.
    """
    found = dict(values)
    usual = _made(section)  # with what the section settles by itself
    fields = {field.name: field for field in dataclasses.fields(section)}
    for name, annotation in typing.get_type_hints(section).items():
        if name not in fields:
            continue
        inner = _dataclass_in(annotation)
        default = _default(fields[name]) if own is None else getattr(own, name)
        if name not in found:
            if own is not None and default != getattr(usual, name, dataclasses.MISSING):
                found[name] = default
        elif inner is not None and typing.get_origin(annotation) is dict and isinstance(found[name], dict):
            found[name] = {
                key: _completed(inner, one) if isinstance(one, dict) else one
                for key, one in found[name].items()
            }
        elif inner is not None and isinstance(found[name], dict):
            found[name] = _completed(inner, found[name], default if isinstance(default, inner) else None)
        elif inner is not None and isinstance(found[name], list):
            found[name] = [_completed(inner, one) if isinstance(one, dict) else one for one in found[name]]
    return found


def _default(field: dataclasses.Field) -> object:
    """A field's default; MISSING if there is none, or none that is valid by itself."""
    return field.default if field.default_factory is dataclasses.MISSING else _made(field.default_factory)


def _made(make: Callable[[], object]) -> object:
    """What a class or factory makes by itself; MISSING if something must be given."""
    try:
        return make()
    except (TypeError, ValueError):
        return dataclasses.MISSING


def _refuse_switches(annotation: object, value: object, location: list[str]) -> None:
    """Refuses true and false where a number is wanted: pydantic would read them as 1 and 0.

    Raises: ValueError naming the key.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_switches(_annotation_inside(annotation, key), item, [*location, str(key)])
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_switches(_annotation_inside(annotation, index), item, [*location, str(index)])
    elif isinstance(value, bool):
        kinds = _leaves(annotation)
        if kinds & {int, float} and bool not in kinds:
            raise ValueError(f"{'.'.join(location)}: should be a number; got {str(value).lower()}")


def _as_wanted(annotation: object, values: JsonMapping) -> JsonObject:
    """Numbers as they were written where a text is wanted, so that a run called 2024_06 keeps its name."""
    return {key: _one_as_wanted(_annotation_inside(annotation, key), value) for key, value in values.items()}


def _one_as_wanted(annotation: object, value: object) -> object:
    if isinstance(value, dict):
        return _as_wanted(annotation, value)
    if isinstance(value, list):
        return [_one_as_wanted(_annotation_inside(annotation, n), item) for n, item in enumerate(value)]
    if not isinstance(value, yaml_values.WrittenInt | yaml_values.WrittenFloat):
        return value
    if str in (kinds := _leaves(annotation)) and not kinds & {int, float}:
        return value.written
    return int(value) if isinstance(value, int) else float(value)


def _annotation_inside(annotation: object, key: str | int) -> object:
    """The annotation of what stands at a key of a section or dictionary, or at a place in a list."""
    section = _dataclass_in(annotation)
    inside = [part for part in typing.get_args(annotation) if part is not Ellipsis]
    if isinstance(key, int):
        return section or (inside[0] if inside else None)
    if typing.get_origin(annotation) is dict:
        return inside[1]
    return typing.get_type_hints(section).get(key) if section else None


def _leaves(annotation: object) -> set[object]:
    """The types that an annotation allows, including those inside unions and tuples and those of literal
    values."""
    if typing.get_origin(annotation) is typing.Literal:
        return {type(choice) for choice in typing.get_args(annotation)}
    inside = typing.get_args(annotation)
    return set().union(*(_leaves(part) for part in inside)) if inside else {annotation}


def _explain(schema: type, error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    # pydantic adds the alternative of a union that it tried; those are not keys
    *above, last = first["loc"] or ("",)
    unknown = first["type"] == "unexpected_keyword_argument"  # such a key may have any name
    location = [str(part)[:80] for part in above if not _is_alternative(part)]
    location += [str(last)[:80]] if unknown or not _is_alternative(last) else []
    key = ".".join(location)
    match first["type"]:
        case "unexpected_keyword_argument":
            return f"unknown key {key}" + _suggestion(schema, location)
        case "missing":
            return f"{key} is missing; it has no default"
        case "value_error":
            return str(first.get("ctx", {}).get("error"))
        case "tuple_type":  # which YAML does not know
            return f"{key}: should be a list; got {first['input']!r:.80}"
        case "dataclass_type" | "dataclass_exact_type":
            return f"{key} is a section with keys of its own; got {first['input']!r:.80}"
    wanted = _wanted(error, location, first["msg"])
    return f"{key}: {wanted}; got {first['input']!r:.80}"


def _wanted(error: ValidationError, location: list[str], said: str) -> str:
    """What a key should be, with the values of all literals of a union, of which `said` names the first's."""
    choices: list[str] = []
    for other in error.errors(include_url=False):
        if [str(part) for part in other["loc"] if not _is_alternative(part)] != location:
            continue
        if other["type"] != "literal_error":
            choices = []
            break
        choices += re.findall(
            r"'[^']*'|[^\s',]+", str(other.get("ctx", {}).get("expected")).replace(" or ", ", ")
        )
    if len(choices) > 1:
        return f"should be {', '.join(choices[:-1])} or {choices[-1]}"
    wanted = said[0].lower() + said[1:].replace("Input should", "should")
    return wanted.replace("input should", "should")


def _is_alternative(part: int | str) -> bool:
    named = ("int", "float", "str", "bool", "tuple")
    return (isinstance(part, str) and not part.isidentifier()) or part in named


def _suggestion(schema: type, location: list[str]) -> str:
    keys = dotted_keys(schema)
    section = section_at(schema, location[:-1])
    names = [f.name for f in dataclasses.fields(section)] if section else []
    near = difflib.get_close_matches(location[-1], names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {'.'.join([*location[:-1], near[0]])}?"
    elsewhere = [k for k in keys if k.split(".")[-1] == location[-1]]
    if elsewhere:
        return f"; did you mean {elsewhere[0]}?"
    prefix = ".".join(location[:-1])
    return f"; {prefix or 'the top level'} has {', '.join(names)}"


def section_at(schema: type, location: Sequence[str]) -> type | None:
    """The dataclass that a dotted place of the config is read into.

    Args:
      schema: of the whole config.
      location: the place split at its dots, such as ("data", "sources", "0").
    Returns: the dataclass; None where the place holds a plain value or does not exist.
    """
    names = iter(location)
    for name in names:
        if name.isdigit():
            continue
        hints = typing.get_type_hints(schema)
        inner = _dataclass_in(hints[name]) if name in hints else None
        if inner is None:
            return None
        if typing.get_origin(hints[name]) is dict:
            next(names, None)  # a name that the user gave
        schema = inner
    return schema


def _dataclass_in(annotation: object) -> type | None:
    """The dataclass within `X`, `X | None`, `tuple[X, ...]` or `dict[str, X]`."""
    if dataclasses.is_dataclass(annotation):
        return annotation if isinstance(annotation, type) else None
    several = (typing.Union, tuple, dict)
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) in several:
        found = (_dataclass_in(part) for part in typing.get_args(annotation))
        return next((part for part in found if part is not None), None)
    return None


def dotted_keys(schema: type, prefix: str = "") -> list[str]:
    """Every dotted key of a schema, sections before the keys that they hold.

    Args:
      schema: a dataclass.
      prefix: put before each key, with its dot.
    Returns: keys such as `optimizer.lr`; NAME stands where users choose a name.
    """
    out = []
    for name, annotation in typing.get_type_hints(schema).items():
        if name not in {f.name for f in dataclasses.fields(schema)}:
            continue
        out.append(prefix + name)
        inner = _dataclass_in(annotation)
        if inner is not None:
            named = "NAME." if typing.get_origin(annotation) is dict else ""
            out += dotted_keys(inner, f"{prefix}{name}.{named}")
    return out


def to_dict(config: "DataclassInstance") -> JsonObject:
    """The resolved config as plain YAML and JSON values: dictionaries, lists, numbers, strings."""
    return _plain(dataclasses.asdict(config))


def _plain(value: Any) -> Any:  # of any nesting
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def save(settings: JsonMapping, path: Path) -> None:
    """Writes a resolved config (`to_dict`) whole or not at all; `load` reads the same config back.

    Args:
      settings: plain values.
      path: of the YAML file, which is replaced if it exists.
    """
    write_whole(path, yaml_values.dump(dict(settings)))


def differences(old: JsonMapping, new: JsonMapping, prefix: str = "") -> dict[str, tuple[object, object]]:
    """Compares two plain configs key by key, section by section.

    Args:
      old, new: as `to_dict` gives them.
      prefix: put before each key, with its dot.
    Returns: the old and the new value by dotted key, for keys that differ; None where a side lacks the key.
    """
    out: dict[str, tuple[object, object]] = {}
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            out |= differences(before, after, f"{prefix}{key}.")
        elif before != after:
            out[prefix + key] = (before, after)
    return out
