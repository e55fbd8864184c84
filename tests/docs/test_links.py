"""Links of the pages, as they are read on a code host: with words to click, and a target that is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PAGES = [path for path in PAGES if "_build" not in path.parts and "reference" not in path.parts]
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]*)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_have_words_and_a_target(page: Path):
    text = re.sub(r"```.*?```|`[^`]*`", "code", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for words, target in LINK.findall(text):
        assert words.strip(), f"({target}) has no words"
        if target and "://" not in target:
            assert (page.parent / target).exists(), target
