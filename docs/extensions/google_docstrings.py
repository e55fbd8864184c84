"""Docstrings for autodoc: Google sections and Markdown's code marks to reStructuredText.

Our docstrings are plain text: `name` is code, an indented block is a formula, a section may begin on the line
of its header (`Raises: ValueError if ..`). Everything else is escaped, so that no docstring can break a page.
"""

import re
from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx

SECTION = re.compile(
    r"(Args|Attributes|Returns|Yields|Raises|References?|Formats|Shapes|Notes?|Examples?):(?:\s+(.*))?$"
)
ENTRY = re.compile(r"([\w*.]+(?:, [\w*.]+)*)(?: \([^)]*\))?: (.*)")
LISTS = ("Args", "Attributes")


def inline(text: str) -> str:
    """One line of prose: code marks become literals, all other markup is escaped."""
    parts = text.replace("``", "`").split("`")
    if len(parts) % 2 == 0:  # an odd mark is a character
        return re.sub(r"([\\*`|_])", r"\\\1", text)
    out = []
    for number, part in enumerate(parts):
        if number % 2 == 0:
            out.append(re.sub(r"([\\*|_])", r"\\\1", part))
        elif part.strip():
            out.append(f"\\ ``{part.strip()}``\\ ")
    return "".join(out)


def blocks(lines: list[str]) -> Iterator[list[str]]:
    """Paragraphs: runs of lines with no empty line between them, cut where indentation starts or ends."""
    block: list[str] = []
    for line in lines:
        changes = block and line.startswith("    ") != block[-1].startswith("    ")
        if block and (not line.strip() or changes):
            yield block
            block = []
        if line.strip():
            block.append(line)
    if block:
        yield block


def prose(lines: list[str]) -> list[str]:
    """Paragraphs, lists, examples and indented blocks as reStructuredText."""
    out: list[str] = []
    for block in blocks(lines):
        if any(line.lstrip().startswith(">>>") for line in block):
            out += [*_dedented(block), ""]
        elif block[0].startswith(("    ", "|")) or "    " in block[0].strip():
            out += ["::", "", *(f"    {line}" for line in _dedented(block)), ""]
        elif block[0].lstrip().startswith(("- ", "* ")):
            out += [*_bullets(block), ""]
        else:
            out += [*(inline(line.strip()) for line in block), ""]
    return out


def _dedented(block: list[str]) -> list[str]:
    least = min(len(line) - len(line.lstrip()) for line in block)
    return [line[least:] for line in block]


def _bullets(block: list[str]) -> list[str]:
    out = []
    for line in block:
        text = line.strip()
        starts = text.startswith(("- ", "* "))
        out.append(f"- {inline(text[2:])}" if starts else f"  {inline(text)}")
    return out


def entries(lines: list[str]) -> list[str]:
    """`name: text` lines with their continuations, as a list."""
    out: list[str] = []
    lines = _dedented([line for line in lines if line.strip()])
    for line in lines:
        found = None if line.startswith(" ") else ENTRY.match(line)
        if found:
            names = ", ".join(f"**{inline(name)}**" for name in found[1].split(", "))
            out.append(f"- {names}: {inline(found[2])}")
        elif out:
            out.append(f"  {inline(line.strip())}")
        else:
            out.append(f"- {inline(line.strip())}")
    return out


def converted(lines: list[str]) -> list[str]:
    """A whole docstring."""
    out: list[str] = []
    body: list[str] = []
    at = 0
    while at < len(lines):
        header = SECTION.match(lines[at])
        at += 1
        if not header:
            body.append(lines[at - 1])
            continue
        section: list[str] = []
        while at < len(lines) and (not lines[at].strip() or lines[at].startswith(" ")):
            section.append(lines[at])
            at += 1
        out += prose(body)
        body = []
        out += [*_section(header[1], header[2] or "", section), ""]
    return out + prose(body)


def _section(name: str, first: str, rest: list[str]) -> list[str]:
    indented = [line for line in rest if line.strip()]
    listed = name in LISTS or (not first and indented and ENTRY.match(indented[0].strip()))
    if name.startswith("Example"):
        return prose([first, "", *_dedented(indented)] if indented else [first])
    if listed and indented:
        shown = entries(rest)
    else:
        text = [first.strip(), *(line.strip() for line in rest)]
        shown = prose(text)
    return [f":{name}:", *(f"    {line}" for line in shown)]


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """autodoc-process-docstring: replaces the lines in place."""
    lines[:] = converted(list(lines))


def skip(app: Sphinx, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """autodoc-skip-member: a NamedTuple's fields are described under Attributes."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def shorten(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """autodoc-process-signature: types by their public names."""
    return tuple(text and re.sub(r"\bjaxlib\._jax\.", "", text) for text in (signature, returned))  # type: ignore[return-value]


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the hooks."""
    app.connect("autodoc-process-signature", shorten)
    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
