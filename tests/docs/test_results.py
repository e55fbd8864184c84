"""The pages of docs/results say what the files beside them say."""

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RENDER = runpy.run_path(str(ROOT / "docs" / "results" / "render.py"))
PAGES = RENDER["pages"]()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_results_are_those_of_the_files(page):
    text = page.read_text()
    assert RENDER["rendered"](text) == text, "run: python docs/results/render.py"


def test_every_table_has_a_place():
    places = {place[2] for page in PAGES for place in RENDER["PLACE"].finditer(page.read_text())}
    assert places == RENDER["TABLES"].keys()


def test_a_changed_number_is_seen(tmp_path, monkeypatch):
    speed = json.loads((ROOT / "docs/results/speed.json").read_text())
    speed["rows"][0]["measured"] = "another number"
    monkeypatch.setitem(RENDER["TABLES"], "docs/results/speed.json", lambda: speed["rows"][0]["measured"])
    text = (ROOT / "docs/results/speed.md").read_text()
    assert "another number" in RENDER["rendered"](text)
    assert "another number" not in text
