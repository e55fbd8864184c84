"""Rows look alike everywhere: one table of names, colors and markers, and nothing drawn beside it."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from training.demo.scratch import ROWS
from training.plots.rows import COLORS, ROW_STYLES, row_styles

ROOT = Path(__file__).parents[3]
OUTSIDE = [p for p in sorted((ROOT / "training").rglob("*.py")) if p.parent.name != "plots"]
STUDIES = sorted((ROOT / "configs" / "reproduce").glob("*.yaml"))


def test_no_two_rows_look_alike():
    assert len(set(ROW_STYLES.values())) == len(ROW_STYLES)
    assert {style.color for style in ROW_STYLES.values()} <= set(COLORS)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_rows_of_a_study_are_of_the_table_and_differ_in_color(path: Path):
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    rows = {key: row["label"] for key, row in config.get("rows", config.get("tuned", {})).items()}
    assert set(rows.values()) <= set(ROW_STYLES)
    assert len({style.color for style in row_styles(rows).values()}) == len(rows)


def test_the_demos_rows_are_of_the_table():
    assert {row.title for row in ROWS.values()} <= set(ROW_STYLES)


def test_rows_of_others_get_what_is_left():
    styles = row_styles({"full": "full SFT", **{f"mine{n}": f"mine {n}" for n in range(9)}})
    assert styles["full"] == ROW_STYLES["full SFT"]
    assert len({style.color for style in styles.values()}) == len(COLORS)
    assert styles["mine0"] == styles["mine7"] != styles["full"]


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: str(path.relative_to(ROOT)))
def test_colors_and_markers_come_from_the_table(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    assert [text for text in texts if re.fullmatch(r"#[0-9A-Fa-f]{3,8}", text)] == []
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    assert "MARKERS" not in names
