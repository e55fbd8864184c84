"""The linter sees a name that nothing defines, though shapes are written as strings."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RUFF = Path(sys.executable).with_name("ruff")
SHAPES = '''"""Shapes."""

from jaxmoe.model.shapes import Array, Float


def f(x: Float[Array, " B"], y: Float[Array, "B T 2*D"], z: Float[Array, ""]) -> Float[Array, "*B"]:
    """Names it."""
    return {}
'''


def found(code: str) -> str:
    command = [RUFF, "check", "--output-format=concise", "--stdin-filename=jaxmoe/model/shown.py", "-"]
    return subprocess.run(command, input=code, capture_output=True, text=True, cwd=ROOT).stdout


@pytest.mark.skipif(not RUFF.exists(), reason="ruff is not installed here")
def test_an_undefined_name_is_found_among_shapes():
    assert found(SHAPES.format("x")) == "All checks passed!\n"
    assert "F821 Undefined name `nowhere`" in found(SHAPES.format("nowhere"))
    assert "F821 Undefined name `Nowhere`" in found(SHAPES.format("x").replace("z: Float", "z: Nowhere"))
