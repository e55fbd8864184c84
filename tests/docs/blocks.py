"""The code blocks of a Markdown page, with the marks that say how to test them.

A mark is an HTML comment on the line before a block:

    <!-- not run: REASON -->      parsed only
    <!-- file: NAME -->           written to NAME in the page's folder
    <!-- config: COMMAND -->      YAML, a part of that command's config
    <!-- run -->                  shell commands that are run in the page's folder, not only parsed
    <!-- needs: CONFIG ... -->    anywhere on the page: short runs of these configs are there
"""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
MARK = re.compile(r"<!-- (not run|file|config|run)(?:: (.+?))? -->\s*$")
NEEDS = re.compile(r"<!-- needs: (.+?) -->")
FENCE = re.compile(r"(\s*)(`{3,}|:{3,}|~{3,})(.*)$")


class Block(NamedTuple):
    """A fenced block: language as written behind the fence, text, first line, mark and the mark's value."""

    language: str
    text: str
    line: int
    mark: str
    value: str


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page in order; directives (`{name}`) keep their braces as language."""
    found: list[Block] = []
    lines = page.splitlines()
    at = 0
    while at < len(lines):
        opened = FENCE.match(lines[at])
        if not opened:
            at += 1
            continue
        indent, fence, language = opened.groups()
        body: list[str] = []
        start = at + 1
        at += 1
        while at < len(lines) and lines[at].strip() != fence:
            body.append(lines[at].removeprefix(indent))
            at += 1
        if at == len(lines):
            raise ValueError(f"the block that begins on line {start} has no end")
        at += 1
        mark = MARK.search(lines[start - 2]) if start >= 2 else None
        kind, value = (mark[1], mark[2] or "") if mark else ("", "")
        found.append(Block(language.strip(), "\n".join(body) + "\n", start, kind, value))
    return found


def inline_commands(page: str) -> list[str]:
    """Command lines of ours within a sentence or a table, but for bare names, PLACEHOLDERS and a|b."""
    outside = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`((?:jaxmoe|python -m (?:training|evals|rl)[^\s`]*) [^` ]+ [^`]+)`", outside)
    return [span for span in spans if not re.search(r"\b[A-Z]{2,}\b|\||\.\.\.|…", span)]


def needs(page: str) -> list[str]:
    """Configs whose runs a page takes for granted."""
    return [name for found in NEEDS.finditer(page) for name in found[1].split()]


def pages() -> list[Path]:
    """README, contributing and every page of the docs that stands under version control."""
    generated = {"_build", "faces", "rooms", "commands"}
    written = [p for p in sorted((ROOT / "docs").rglob("*.md")) if not generated & set(p.parts)]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *written]
