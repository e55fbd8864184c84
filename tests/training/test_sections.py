"""A whole config stays in its command: `main` takes it apart, and rooms below get their section alone."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# configs of commands, and the file of each that has methods: there they may name it
CONFIGS = {
    "RunConfig": "training/supervised/config.py",
    "PretrainConfig": "training/supervised/config.py",
    "SftConfig": "training/supervised/config.py",
    "PPORunConfig": "training/ppo/config.py",
    "DemoConfig": "",
    "ServeConfig": "",
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
            if annotation is function.returns and path.startswith("training/studies/"):
                continue  # a study makes the configs of its runs, and hands them to `main` alone
            if "type[" in text:  # which config it is, not a config
                continue
            words = set(re.findall(r"\w+", text))
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


def test_a_study_makes_run_configs_and_takes_none():
    tree = ast.parse(
        "def made(seed: int) -> PPORunConfig: ...\ndef run(config: ppo.PPORunConfig) -> int: ..."
    )
    found = whole_configs(tree, "training/studies/x.py")
    assert found == ["training/studies/x.py: run has a PPORunConfig"]
