"""No code of a model's folder is ever run: every call that could says so."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [
    p for folder in ("jaxmoe", "rl", "evals", "training", "benchmarks") for p in (ROOT / folder).rglob("*.py")
]
# calls of transformers and datasets that can run code from a folder or the hub
CAN_RUN_CODE = {"from_pretrained", "load_dataset"}


def calls(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            if name in CAN_RUN_CODE:
                yield node


@pytest.mark.parametrize("path", sorted(FILES), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_call_refuses_remote_code(path):
    for call in calls(ast.parse(path.read_text(encoding="utf-8"))):
        given = {k.arg: k.value for k in call.keywords}
        value = given.get("trust_remote_code")
        assert isinstance(value, ast.Constant), (
            f"{path.name}:{call.lineno} does not say trust_remote_code=False"
        )
        assert value.value is False


def test_the_test_sees_calls():
    found = list(calls(ast.parse("A.from_pretrained(x, trust_remote_code=True)\nload_dataset(y)")))
    assert len(found) == 2
