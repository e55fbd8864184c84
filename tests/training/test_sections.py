"""A whole config stays in its command: `main` takes it apart, and rooms below get their section alone."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "training").rglob("*.py"))
TREES = {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}


def command_configs() -> set[str]:
    """Classes that a YAML file is read into (they hold pydantic's settings), and what inherits from them."""
    classes = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    found = {one.name for one in classes if "__pydantic_config__" in ast.unparse(one)}
    more = True
    while more:
        more = {one.name for one in classes if {ast.unparse(base) for base in one.bases} & found} - found
        found |= more
    return found


CONFIGS = command_configs()


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
    study = path.startswith("training/studies/")
    # a study is one command's whole work: it takes its config where it is made, as `main` does
    made = {m for c in tree.body if isinstance(c, ast.ClassDef) and c.name.endswith("Study") for m in c.body}
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        if function in tree.body and function.name == "main":
            continue
        if study and (
            (function in tree.body and function.name == "make")
            or (function in made and function.name == "__init__")
        ):
            continue
        for annotation in annotations(function):
            text = ast.unparse(annotation)
            if annotation is function.returns and study:
                continue  # a study makes the configs of its runs, and hands them to `main` alone
            if "type[" in text:  # which config it is, not a config
                continue
            words = set(re.findall(r"\w+", text))
            found += [f"{path}: {function.name} has a {name}" for name in sorted(CONFIGS & words)]
    return found


@pytest.mark.parametrize("path", TREES)
def test_only_main_has_a_whole_config(path: str):
    assert whole_configs(TREES[path], path) == []


def test_the_config_of_every_command_is_known():
    known = {"RunConfig", "PretrainConfig", "SftConfig", "PPORunConfig", "DemoConfig", "EvalConfig"}
    known |= {"ExportConfig", "GenerateConfig", "ServeConfig", "LoramoeConfig", "StepcoderConfig"}
    assert {*known, "RealbehaviorConfig"} == CONFIGS


def test_a_whole_config_below_main_is_found():
    tree = ast.parse("def main(c: SftConfig): ...\ndef train(c: 'RunConfig | None') -> int: ...")
    assert whole_configs(tree, "training/x.py") == ["training/x.py: train has a RunConfig"]


def test_a_study_makes_run_configs_and_takes_none():
    tree = ast.parse(
        "def made(seed: int) -> PPORunConfig: ...\ndef run(config: ppo.PPORunConfig) -> int: ..."
    )
    found = whole_configs(tree, "training/studies/x.py")
    assert found == ["training/studies/x.py: run has a PPORunConfig"]


def test_a_study_takes_its_config_where_it_is_made():
    source = (
        "class XStudy:\n def __init__(self, c: LoramoeConfig): ...\n def cell(self, c: LoramoeConfig): ..."
    )
    found = whole_configs(ast.parse(source), "training/studies/x.py")
    assert found == ["training/studies/x.py: cell has a LoramoeConfig"]
