"""The README is short, and says what the files under docs/results say."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def test_results_are_those_of_the_files():
    text = README.read_text()
    render = runpy.run_path(str(ROOT / "docs" / "results" / "render.py"))
    assert "<!-- results: " in text
    assert render["rendered"](text) == text, "run: python docs/results/render.py"


def test_it_stays_short():
    assert len(README.read_text().splitlines()) <= 200
