"""A user's text is shown as it is: rich would make emojis and colors of `:100:` and `[red]`."""

import ast
import io
from pathlib import Path

import pytest
from rich.console import Console

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    p for package in ("jaxmoe", "rl", "evals", "training") for p in (ROOT / package).rglob("*.py")
)


def calls_of(path: Path, name: str) -> list[ast.Call]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == name]


def is_off(call: ast.Call, option: str) -> bool:
    found = [word.value for word in call.keywords if word.arg == option]
    return bool(found) and isinstance(found[0], ast.Constant) and found[0].value is False


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_console_prints_text_as_it_is(path: Path):
    for call in calls_of(path, "Console"):
        assert is_off(call, "markup"), f"{path}:{call.lineno}: Console(markup=False, emoji=False, ...)"
        assert is_off(call, "emoji"), f"{path}:{call.lineno}: Console(markup=False, emoji=False, ...)"
    for call in calls_of(path, "TextColumn"):
        assert is_off(call, "markup"), f"{path}:{call.lineno}: TextColumn(..., markup=False)"


def test_such_a_console_leaves_places_in_files_alone():
    out = io.StringIO()
    Console(file=out, markup=False, emoji=False, width=200).print("error: data.jsonl:100: [red] :smile:")
    assert out.getvalue() == "error: data.jsonl:100: [red] :smile:\n"
