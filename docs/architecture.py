"""Writes the generated parts of docs/architecture.md from the code: python docs/architecture.py

The tree comes from the first paragraph of every module's docstring, the picture (architecture.svg) from the
imports. A test compares both with the code.
"""

import ast
import re
import textwrap
from collections.abc import Iterator
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("training", "evals", "rl", "jaxmoe")
PAGE, PICTURE = ROOT / "docs" / "architecture.md", ROOT / "docs" / "architecture.svg"
PLACE = re.compile(r"(<!-- tree -->\n).*?(<!-- end -->)", re.DOTALL)
WIDTH, COLUMN = 108, 34


def modules() -> list[Path]:
    """Every module of the project."""
    return sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))


def summary(path: Path) -> str:
    """The first paragraph of a module's docstring, as one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


# the tree


def tree() -> str:
    """All packages, folder by folder, each file with its summary."""
    lines = [line for package in reversed(PACKAGES) for line in _folder(ROOT / package, 0)]
    return "\n".join(lines)


def _folder(folder: Path, depth: int) -> Iterator[str]:
    yield from _entry(f"{folder.name}/", summary(folder / "__init__.py"), depth)
    for path in sorted(folder.glob("*.py")):
        if path.name != "__init__.py":
            yield from _entry(path.name, summary(path), depth + 1)
    for inner in sorted(p for p in folder.iterdir() if (p / "__init__.py").exists()):
        yield from _folder(inner, depth + 1)


def _entry(name: str, text: str, depth: int) -> Iterator[str]:
    head = "  " * depth + name
    first, *rest = textwrap.wrap(text, WIDTH - COLUMN) or [""]
    yield f"{head:<{COLUMN - 1}} {first}".rstrip()
    yield from (" " * COLUMN + line for line in rest)


# the picture


def room_of(module: str) -> str:
    """The room that a module belongs to: its subpackage, or the module itself at the top of a package."""
    parts = module.split(".")
    return ".".join(parts[:2])


def imports() -> dict[str, set[str]]:
    """Which rooms each room imports, deferred imports and those for type checkers included."""
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in modules()}
    found: dict[str, set[str]] = {}
    for path in modules():
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        room = room_of(name)
        # package faces import what they export, and a room's own command imports rooms above it
        if room in PACKAGES or name == "evals.psychometrics.__main__":
            continue
        targets = found.setdefault(room, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for imported in _imported(node):
                target = imported if imported in names else imported.rpartition(".")[0]
                if target in names and room_of(target) not in (room, *PACKAGES):
                    targets.add(room_of(target))
    return found


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def depths(graph: dict[str, set[str]]) -> dict[str, int]:
    """Length of the longest import path below each room, within its own package."""
    known: dict[str, int] = {}

    def depth(room: str) -> int:
        if room not in known:
            known[room] = 0
            package = room.split(".")[0]
            below = [depth(r) for r in graph.get(room, ()) if r.split(".")[0] == package]
            known[room] = 1 + max(below) if below else 0
        return known[room]

    return {room: depth(room) for room in graph}


def within(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The imports that stay within a package."""
    return {
        room: {t for t in targets if t.split(".")[0] == room.split(".")[0]} for room, targets in graph.items()
    }


def reduced(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The imports within packages that no longer path implies."""

    def reach(room: str, seen: set[str]) -> set[str]:
        for target in graph.get(room, ()):
            if target not in seen:
                seen.add(target)
                reach(target, seen)
        return seen

    edges = []
    for room, targets in sorted(within(graph).items()):
        for target in sorted(targets):
            others = set().union(*(reach(t, set()) for t in targets - {target}), set())
            if target not in others:
                edges.append((room, target))
    return edges


BOX, HIGH, GAP, MARGIN, HEAD = 126, 30, 20, 16, 118
COLORS = {"training": "#0072b2", "evals": "#009e73", "rl": "#d55e00", "jaxmoe": "#7a5195"}


def layout(
    graph: dict[str, set[str]],
) -> tuple[dict[str, tuple[float, float]], dict[str, tuple[float, float]]]:
    """The center of each box, and the top and height of each package's band."""
    depth = depths(graph)
    places: dict[str, tuple[float, float]] = {}
    bands: dict[str, tuple[float, float]] = {}
    levels_of = [(room.split(".")[0], level) for room, level in depth.items()]
    widest = max(levels_of.count(one) for one in levels_of)
    top = float(MARGIN)
    for package in PACKAGES:
        rooms = [room for room in graph if room.split(".")[0] == package]
        levels = sorted({depth[room] for room in rooms}, reverse=True)
        for row, level in enumerate(levels):
            here = sorted(room for room in rooms if depth[room] == level)
            for column, room in enumerate(here):
                x = HEAD + (widest - len(here)) * (BOX + GAP) / 2 + column * (BOX + GAP) + BOX / 2
                places[room] = (x, top + GAP / 2 + row * (HIGH + GAP) + HIGH / 2)
        height = len(levels) * (HIGH + GAP)
        bands[package] = (top, height)
        top += height + MARGIN
    return places, bands


def picture() -> str:
    """The rooms as an SVG: within a package, arrows not implied by others; other packages by name."""
    graph = imports()
    places, bands = layout(graph)
    width = max(x for x, _ in places.values()) + BOX / 2 + MARGIN
    height = max(top + high for top, high in bands.values()) + MARGIN
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        'font-family="sans-serif" font-size="12">',
        "<title>The packages and their rooms; arrows run from a room to what it imports</title>",
        f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>',
        '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#777777"/></marker>',
    ]
    for package, (top, high) in bands.items():
        color = COLORS[package]
        out.append(
            f'<rect x="{MARGIN / 2:g}" y="{top:g}" width="{width - MARGIN:g}" height="{high:g}" rx="6" '
            f'fill="{color}" fill-opacity="0.08"/>'
        )
        out.append(
            f'<text x="{MARGIN + 4}" y="{top + 22:g}" fill="{color}" font-weight="bold" font-size="15">'
            f"{package}</text>"
        )
        others = {t.split(".")[0] for r in graph if r.split(".")[0] == package for t in graph[r]} - {package}
        for line, other in enumerate(p for p in PACKAGES if p in others):
            out.append(f'<text x="{MARGIN + 4}" y="{top + 44 + 16 * line:g}" fill="#555555">→ {other}</text>')
    for room, target in reduced(graph):
        (x, y), (u, v) = places[room], places[target]
        y, v = y + HIGH / 2, v - HIGH / 2
        bend = max(12.0, (v - y) / 2)
        out.append(
            f'<path d="M{x:g} {y:g} C{x:g} {y + bend:g} {u:g} {v - bend:g} {u:g} {v:g}" fill="none" '
            'stroke="#777777" stroke-width="1" marker-end="url(#tip)"/>'
        )
    for room, (x, y) in sorted(places.items()):
        package, name = room.split(".")
        out.append(
            f'<rect x="{x - BOX / 2:g}" y="{y - HIGH / 2:g}" width="{BOX}" height="{HIGH}" rx="4" '
            f'fill="#ffffff" stroke="{COLORS[package]}"/>'
        )
        out.append(f'<text x="{x:g}" y="{y + 4:g}" text-anchor="middle" fill="#222222">{escape(name)}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def rendered(text: str) -> str:
    """The page with the tree written again."""
    block = f"```text\n{tree()}\n```\n"
    return PLACE.sub(lambda place: place[1] + block + place[2], text)


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
    PICTURE.write_text(picture())
