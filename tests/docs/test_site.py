"""What the site makes of the code, short of building it: `make docs` does that."""

import inspect
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, pages

sphinx = pytest.importorskip("sphinx", reason="the docs extra is not installed")
sys.path.insert(0, str(ROOT / "docs" / "extensions"))

from api_pages import FACES, commands, face_page, rooms  # noqa: E402
from docutils.core import publish_doctree  # noqa: E402
from google_docstrings import converted, inline  # noqa: E402

from training.commands import COMMANDS  # noqa: E402


def warnings_of(text: str) -> list[str]:
    settings = {"report_level": 2, "halt_level": 5, "warning_stream": False}
    tree = publish_doctree(text, settings_overrides=settings)
    return [message.astext() for message in tree.findall(lambda node: node.tagname == "system_message")]


def is_ours(value: object, module: str) -> bool:
    described = inspect.isclass(value) or inspect.isfunction(value)
    return described and getattr(value, "__module__", "") == module


@pytest.mark.parametrize("room", rooms())
def test_docstrings_of_a_room_become_valid_text(room):
    wrong = {}
    for module in rooms()[room]:
        loaded = import_module(module)
        described = [loaded, *(v for v in vars(loaded).values() if is_ours(v, module))]
        for value in described:
            text = inspect.getdoc(value) or ""
            if found := warnings_of("\n".join(converted(text.splitlines()))):
                wrong[f"{module}.{getattr(value, '__name__', '')}"] = found
    assert wrong == {}


@pytest.mark.parametrize("face", FACES)
def test_a_face_shows_all_of_its_names(face):
    page = face_page(face)
    names = import_module(face).__all__
    assert names
    assert all(f"{face}.{name}\n" in page for name in names)


def test_every_command_has_a_page_with_its_keys():
    found = commands()
    assert found.keys() == COMMANDS.keys()
    assert "SftConfig\n```" in found["sft"]
    assert "Usage: jaxmoe plan" in found["plan"]


DOCSTRING = """Mean of |x|, in `units` of x_i.

    m = 1/n Σ |x_i|

Args:
  x, y: values, * allowed;
    also longer ones.
Returns: the mean.
Raises: ValueError for `n` < 1.

Example:
  >>> 1 + 1
  2
"""


def test_a_docstring_is_converted():
    found = "\n".join(converted(DOCSTRING.splitlines()))
    assert warnings_of(found) == []
    tree = publish_doctree(found).astext()
    assert "|x|" in tree
    assert "x_i" in tree
    assert "m = 1/n Σ |x_i|" in tree
    assert "- **x**, **y**: values, \\* allowed;" in found
    assert ":Returns:\n    the mean." in found
    assert ">>> 1 + 1\n2" in found


def test_code_marks_become_literals_and_odd_ones_stay():
    assert inline("`a_b` and c_d") == "\\ ``a_b``\\  and c\\_d"
    assert warnings_of(inline("an odd ` mark*")) == []


def test_every_page_is_in_a_table_of_contents():
    listed = {"index", "README", "CONTRIBUTING"}
    for page in pages():
        text = page.read_text()
        for part in text.split("```{toctree}")[1:]:
            for entry in part.split("```")[0].split("\n"):
                if entry and not entry.startswith(":"):
                    listed.add(str((page.parent / entry).relative_to(ROOT / "docs")))
    docs = {
        str(p.relative_to(ROOT / "docs").with_suffix(""))
        for p in pages()
        if Path("docs") in p.relative_to(ROOT).parents
    }
    assert docs - listed == set()
