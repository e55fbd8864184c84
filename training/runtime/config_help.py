"""The keys of a config, read from the source of its dataclasses without importing them.

The dataclasses live next to code that imports JAX and Grain, which takes seconds; --help should answer at
once. Types, defaults and docs are as written there: a field's doc is its entry under `Attributes:`, or the
comment after it.
"""

import ast
import inspect
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


# By name of a key: its default, and the module in which that is written.
Given = dict[str, tuple[str, ast.expr | None]]


class ConfigKey(NamedTuple):
    """One key of a config; a section has keys of its own below it."""

    name: str
    type: str
    default: str | None  # None: it must be given
    doc: str
    is_section: bool


@cache
def _module(name: str) -> tuple[str, ast.Module] | None:
    path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
    if not path.exists():
        return None
    text = path.read_text(encoding="utf-8")
    return text, ast.parse(text)


def _find(module: str, name: str) -> tuple[str, ast.ClassDef | ast.FunctionDef | ast.expr] | None:
    """The class, function or type alias that a name means in one of our modules, followed through imports."""
    loaded = _module(module)
    if loaded is None:
        return None
    for node in loaded[1].body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return module, node
        assigned = _assigned(node).get(name)
        if assigned is not None:
            return module, assigned
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _find(node.module, alias.name)
    return None


def _assigned(node: ast.stmt) -> dict[str, ast.expr]:
    """Names that a statement assigns, with their values; `A, B = 1, 2` too."""
    if isinstance(node, ast.AnnAssign):
        targets, value = [node.target], node.value
    elif isinstance(node, ast.Assign):
        targets, value = node.targets, node.value
    else:
        return {}
    found: dict[str, ast.expr] = {}
    for target in targets:
        if isinstance(target, ast.Name) and value is not None:
            found[target.id] = value
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            found |= {
                t.id: v for t, v in zip(target.elts, value.elts, strict=True) if isinstance(t, ast.Name)
            }
    return found


def config_of(module: str, function: str = "main") -> tuple[str, str] | None:
    """The config that a function takes as its first argument, found in the source alone.

    Args:
      module: dotted name of a module of this project.
    Returns: module and name of the config's class; None if the module has no such function, or it takes no
      config.
    """
    found = _find(module, function)
    if found is None or not isinstance(found[1], ast.FunctionDef) or not found[1].args.args:
        return None
    annotation = found[1].args.args[0].annotation
    schema = _find(found[0], annotation.id) if isinstance(annotation, ast.Name) else None
    if schema is None or not isinstance(schema[1], ast.ClassDef):
        return None
    return schema[0], schema[1].name


def summary(module: str) -> str:
    """The first paragraph of a module's docstring, on one line."""
    loaded = _module(module)
    docstring = (ast.get_docstring(loaded[1]) if loaded else None) or ""
    return " ".join(docstring.partition("\n\n")[0].split())


def keys(module: str, schema: str, prefix: str = "", own: Given | None = None) -> Iterator[ConfigKey]:
    """Every key of a schema, sections followed by their keys, those of its base class first.

    Args:
      module: dotted name of the module that declares or imports the schema.
      schema: name of the dataclass.
      prefix: put before each key, with its dot.
      own: defaults of this section where it stands, if they are not its class's.
    Returns: the keys with types, defaults and docs; in their names 0 stands for an item of a list, NAME for a
      name that users choose.
    """
    found = _find(module, schema)
    assert found is not None, f"{module} has no {schema}"
    module, node = found
    assert isinstance(node, ast.ClassDef), f"{schema} is no class"
    for base in node.bases:
        if isinstance(base, ast.Name) and _find(module, base.id):
            yield from keys(module, base.id, prefix, own)
    docs = _documented(node)
    comments = _module(module)
    lines = comments[0].splitlines() if comments else []
    for field in node.body:
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        name = field.target.id
        doc = docs.get(name) or _comment(lines[(field.end_lineno or field.lineno) - 1])
        section = _section(module, field.annotation)
        home, value = (own or {}).get(name, (module, field.value))
        default = None if section or value is None else _yaml(home, value)
        if section:
            summary = docs.get(name) or _summary(*section)
            yield ConfigKey(prefix + name, ast.unparse(field.annotation), default, summary, True)
            yield from keys(*section, f"{prefix}{name}.{_item(field.annotation)}", _keywords(home, value))
        else:
            yield ConfigKey(prefix + name, _type_text(module, field.annotation), default, doc, False)


def _keywords(module: str, value: ast.expr | None) -> Given:
    """What a section's default gives to its class, in `Section(key=...)` or a constant or factory of that."""
    home, value = _value(module, value) if value is not None else (module, value)
    if not isinstance(value, ast.Call):
        return {}
    if ast.unparse(value.func) == "field":
        factories = (k.value for k in value.keywords if k.arg == "default_factory")
        factory = next(factories, None)
        return _keywords(home, factory.body) if isinstance(factory, ast.Lambda) else {}
    return {keyword.arg: (home, keyword.value) for keyword in value.keywords if keyword.arg}


def _item(annotation: ast.expr) -> str:
    """What stands between a section's name and its keys where it holds several: a number or a name."""
    text = ast.unparse(annotation)
    return "0." if "tuple[" in text else "NAME." if text.startswith("dict[") else ""


def _section(module: str, annotation: ast.expr) -> tuple[str, str] | None:
    """Module and name of the dataclass within an annotation."""
    for node in ast.walk(annotation):
        if isinstance(node, ast.Name):
            found = _find(module, node.id)
            if found and isinstance(found[1], ast.ClassDef):
                return found[0], found[1].name
    return None


def _summary(module: str, name: str) -> str:
    found = _find(module, name)
    assert found is not None
    assert isinstance(found[1], ast.ClassDef)
    return (ast.get_docstring(found[1]) or "").split("\n")[0]


def _type_text(module: str, annotation: ast.expr) -> str:
    """The annotation with our aliases spelled out, choices as a|b."""
    text = ast.unparse(annotation)
    for node in ast.walk(annotation):
        if isinstance(node, ast.Name):
            found = _find(module, node.id)
            if found and isinstance(found[1], ast.expr):
                text = re.sub(rf"\b{node.id}\b", _type_text(found[0], found[1]), text)
    text = re.sub(
        r"Literal\[([^]]*)\]", lambda m: "|".join(str(ast.literal_eval(p)) for p in m[1].split(", ")), text
    )
    text = text.replace("| None", "or null").replace("tuple[", "list[").replace(", ...]", "]")
    return text.replace(" | ", "|")


def _yaml(module: str, default: ast.expr) -> str:
    """A default as a config would have it, constants by their values; else as the source has it."""
    if isinstance(default, ast.Constant):
        if isinstance(default.value, str):
            return default.value or '""'
        known = default.value is None or isinstance(default.value, bool)
        return json.dumps(default.value) if known else ast.unparse(default)
    if isinstance(default, ast.Tuple):
        return f"[{', '.join(_yaml(module, item) for item in default.elts)}]"
    if isinstance(default, ast.Call) and ast.unparse(default.func) == "tuple":
        home, value = _value(module, default.args[0])
        if isinstance(value, ast.Dict):
            return f"[{', '.join(_yaml(home, key) for key in value.keys if key is not None)}]"
        return _yaml(home, value)
    if isinstance(default, ast.Call) and ast.unparse(default.func).endswith("field"):
        made = next((ast.unparse(k.value) for k in default.keywords if k.arg == "default_factory"), "")
        if made.startswith("dict"):
            return "{}"
    home, value = _value(module, default)
    return ast.unparse(default) if value is default else _yaml(home, value)


def _value(module: str, node: ast.expr) -> tuple[str, ast.expr]:
    """What a name, or a name of an imported module, was assigned, and where; else the node itself."""
    name = node
    home = module
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        home, name = _imported(module, node.value.id), ast.Name(node.attr)
    found = _find(home, name.id) if isinstance(name, ast.Name) else None
    return (found[0], found[1]) if found and isinstance(found[1], ast.expr) else (module, node)


def _imported(module: str, name: str) -> str:
    """The module that `from package import name` means; empty if there is none."""
    loaded = _module(module)
    for node in loaded[1].body if loaded else []:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return f"{node.module}.{alias.name}"
    return ""


def _documented(node: ast.ClassDef) -> dict[str, str]:
    """`name: text` entries of the docstring's Attributes section."""
    text = inspect.cleandoc(ast.get_docstring(node) or "")
    _, _, listed = text.partition("Attributes:\n")
    docs: dict[str, str] = {}
    name = None
    for line in listed.splitlines():
        entry = re.match(r"  (\w[\w, ]*): (.*)", line)
        if entry:
            for name in entry[1].split(", "):
                docs[name] = entry[2]
        elif line.startswith("    ") and name:
            docs[name] += " " + line.strip()
        else:
            name = None
    return docs


def _comment(line: str) -> str:
    return line.partition("# ")[2] if "  # " in line else ""


def text(module: str, schema: str) -> str:
    """The keys of a config as --help shows them: plain keys first, then by section.

    Args:
      module: dotted name of the module that declares or imports the schema.
      schema: name of the dataclass.
    Returns: lines `key: type = default`, each with its doc below.
    """
    sections: dict[str, list[str]] = {"": []}
    for key in keys(module, schema):
        if key.is_section:
            several = f" (a list; {key.name}.0 is its first item)" if key.type.startswith("tuple[") else ""
            sections[key.name] = [f"\n{key.name}: {key.doc}{several}"]
            continue
        section = key.name.rpartition(".")[0].removesuffix(".0").removesuffix(".NAME")
        default = "" if key.default is None else f" = {key.default}"
        sections[section].append(f"  {key.name}: {key.type}{default}")
        sections[section] += [f"      {key.doc}"] if key.doc else []
    return "\n".join(line for lines in sections.values() for line in lines)
