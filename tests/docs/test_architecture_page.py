"""The page and the picture of the architecture are those of the code."""

import re
import runpy

import pytest

from tests.docs.blocks import ROOT

MADE = runpy.run_path(str(ROOT / "docs" / "architecture.py"))
PAGE = ROOT / "docs" / "architecture.md"


def test_tree_is_that_of_the_docstrings():
    assert MADE["rendered"](PAGE.read_text()) == PAGE.read_text(), "run: python docs/architecture.py"


def test_picture_is_that_of_the_imports():
    picture = ROOT / "docs" / "architecture.svg"
    assert picture.read_text() == MADE["picture"](), "run: python docs/architecture.py"


def test_every_module_says_what_it_is():
    assert [str(path) for path in MADE["modules"]() if not MADE["summary"](path)] == []


def test_arrows_leave_out_what_others_imply():
    graph = {"p.a": {"p.b", "p.c", "q.d"}, "p.b": {"p.c"}, "p.c": set(), "q.d": set()}
    assert MADE["reduced"](graph) == [("p.a", "p.b"), ("p.b", "p.c")]
    assert MADE["depths"](graph) == {"p.a": 2, "p.b": 1, "p.c": 0, "q.d": 0}


@pytest.mark.parametrize("page", ["docs/architecture.md", "docs/contributing.md"])
def test_files_that_are_named_exist(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    named = re.findall(r"`((?:jaxmoe|rl|evals|training|tests|docs|launch)/[\w./]+)`", text)
    assert named
    assert [name for name in named if not (ROOT / name).exists() and not re.search("[A-Z]{4}", name)] == []
