"""YAML as plain values: nothing is read in two ways, and a small file stays small.

PyYAML reads YAML 1.1, which takes 010 as 8, 1:30 as 90, `off` as false, 2001-01-01 as a date and 1e-4 as
text. Here numbers, true, false and null are those of YAML 1.2 and everything else is text. A number with a
leading zero, which the two versions read differently, is refused. An alias gives a copy, not one object in
two places.
"""

import contextlib
import re
from collections.abc import Hashable
from typing import Any

import yaml

from jaxmoe.json_values import JsonObject

MOST_CHARACTERS = 1_000_000
MOST_BRACKETS = 200
MOST_VALUES = 100_000  # of a file whose aliases are written out

_INTEGER = re.compile(r"[-+]?(?:[0-9][0-9_]*|0x[0-9a-fA-F_]+)")
_FLOAT = re.compile(
    r"[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)"
)
_RESOLVERS = {
    "bool": (re.compile("true|True|TRUE|false|False|FALSE"), "tTfF"),
    "int": (_INTEGER, "-+0123456789"),
    "float": (_FLOAT, "-+0123456789."),
    "null": (re.compile("~|null|Null|NULL|"), ["~", "n", "N", ""]),
    "merge": (re.compile("<<"), "<"),
}


class WrittenInt(int):
    """A whole number that tells how it was written, such as 1_000 or +7.

    Attributes:
      written: how it was.
    """

    written: str


class WrittenFloat(float):
    """The same for other numbers, such as 1e3 or 3.10."""

    written: str


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars, no number with a leading zero, no key twice."""

    yaml_implicit_resolvers: JsonObject = {}  # noqa: RUF012 - as PyYAML declares it; filled below

    def close(self) -> None:
        """PyYAML's name for it is dispose."""
        self.dispose()


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would read as something other than text, besides what YAML 1.1 would."""


for _name, (_pattern, _first) in _RESOLVERS.items():
    for _class in (_Loader, _Dumper):
        _whole = re.compile(f"(?:{_pattern.pattern})\\Z")
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _whole, list(_first))


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = node.value.replace("_", "").lstrip("-+")
    if len(text) > 1 and text[0] == "0" and text[1] != "x":
        plain = text.lstrip("0") or "0"
        problem = (
            f"{node.value} is octal to some readers and decimal to others: write {plain}, or quote a text"
        )
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    if len(text) > 300:
        raise yaml.MarkedYAMLError(problem="a number of over 300 digits", problem_mark=node.start_mark)
    number = WrittenInt(loader.construct_yaml_int(node))
    number.written = node.value
    return number


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    number = WrittenFloat(loader.construct_yaml_float(node))
    number.written = node.value
    return number


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, object]:
    seen: set[Hashable] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float) or isinstance(key, bool):
            raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=key_node.start_mark)
        if key in seen:
            problem = f"the key {key!r} stands there twice"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)
_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def parse(text: str) -> Any:  # whatever a YAML text may hold; readers check it
    """The values of a YAML text: dictionaries with text for keys, lists, text, numbers, true, false, None.

    Numbers also tell how they were written, for readers that want a text there.

    Raises: ValueError, in one line and with the number of the line where there is one, for what is not valid,
      may be read in two ways, or is larger than any config.

    >>> parse("steps: 1e3\\nname: off")
    {'steps': 1000.0, 'name': 'off'}
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"more than {MOST_CHARACTERS:,} characters")
    if _open_brackets(text) > MOST_BRACKETS:
        raise ValueError("nested too deeply")
    try:
        with contextlib.closing(_Loader(text.removeprefix("\ufeff"))) as loader:
            node = loader.get_single_node()
            if node is None:
                return None
            _size(node, {})
            return _copied(loader.construct_document(node))
    except yaml.YAMLError as error:
        raise ValueError(_problem(error)) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (TypeError, ValueError, AttributeError, LookupError, OverflowError) as error:  # PyYAML's own
        raise ValueError(" ".join(str(error).split())[:300] or type(error).__name__) from None


def _open_brackets(text: str) -> int:
    """The most brackets that are open at a time, including those within texts; PyYAML is slow to fail on
    them."""
    depth = most = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth = depth + 1 if bracket in "[{" else max(depth - 1, 0)
        most = max(most, depth)
    return most


def dump(values: object) -> str:
    """Plain values as YAML that `parse` reads as the same."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for, its aliases written out."""
    if id(node) in known:
        if not known[id(node)]:
            raise ValueError("an alias stands for something that it is a part of")
        return known[id(node)]
    known[id(node)] = 0  # until it is known: a node that meets itself inside contains itself
    inside: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        inside = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        inside = node.value
    total = 1 + sum(_size(part, known) for part in inside)
    if total > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES:,} values, its aliases written out")
    known[id(node)] = total
    return total


def _copied(value: object) -> Any:  # likewise
    if isinstance(value, dict):
        return {str(key): _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(
        f"a value must be text, a number, true, false, null, a list or a section; got {value!r:.80}"
    )


def _problem(error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:
        return " ".join(str(error).split())[:300]
    return f"line {mark.line + 1}: {' '.join(str(problem).split())[:300]}"
