"""A whole config stays in its command: `main` takes it apart, and rooms below get their section alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# configs of runs, and the file of each: there its methods may name it
CONFIGS = {
    "RunConfig": "training/supervised/config.py",
    "PretrainConfig": "training/supervised/config.py",
    "SftConfig": "training/supervised/config.py",
}
SOURCES = sorted((ROOT / "training").rglob("*.py"))


def annotations(function: ast.FunctionDef) -> Iterator[ast.expr]:
    """Of a function's parameters, and of what it returns."""
    told = function.args
    for argument in (*told.posonlyargs, *told.args, *told.kwonlyargs, told.vararg, told.kwarg):
        if argument is not None and argument.annotation is not None:
            yield argument.annotation
    if function.returns is not None:
        yield function.returns


def whole_configs(tree: ast.Module, path: str) -> list[str]:
    """Functions that take or give a whole config though they are no command's `main`."""
    found = []
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        top = function in tree.body
        if top and function.name == "main":
            continue
        for annotation in annotations(function):
            text = ast.unparse(annotation)
            if "type[" in text:  # which config it is, not a config
                continue
            words = set(text.replace("'", "").replace('"', "").replace("|", " ").split())
            found += [
                f"{path}: {function.name} has a {name}"
                for name, home in CONFIGS.items()
                if name in words and path != home
            ]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_main_has_a_whole_config(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert whole_configs(tree, str(path.relative_to(ROOT))) == []


def test_a_whole_config_below_main_is_found():
    tree = ast.parse("def main(c: SftConfig): ...\ndef train(c: 'RunConfig | None') -> int: ...")
    assert whole_configs(tree, "training/x.py") == ["training/x.py: train has a RunConfig"]
