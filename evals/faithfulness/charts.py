"""Plots of a report as SVG: dots with intervals, bars, heat maps, lines.

Every plot is a figure with a caption, and a description for those who do not see it; its numbers are also in
a table. Colors are CSS classes, so one drawing serves light and dark; whatever color shows, shape, dashes or
words show too. Not covered: the colors themselves, and drawings as files (chart_style).
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple

ROW, LABEL, WIDTH = 26, 186, 520
# of line plots: the left edge, and the height
LEFT, LINE_HEIGHT = 56, 280
# between the dots of several series on one row
BESIDE = 15


class Dot(NamedTuple):
    """A value with its interval on a row; consecutive dots with the same label share the row.

    kind: "" filled; "open" and "null" are hollow. series: which color and shape.
    """

    label: str
    value: float
    low: float = math.nan
    high: float = math.nan
    kind: str = ""
    series: int = 0


class Chart(NamedTuple):
    """A drawing: its title, its size, what it says in words, and its elements.

    Attributes:
      width, height: in pixels, at which letters have their nominal size.
      elements: SVG, colored by classes.
    """

    title: str
    width: int
    height: int
    description: str
    elements: str

    def figure(self) -> str:
        """An HTML figure, colored by the page."""
        wide = ' class="wide"' if self.width > WIDTH else ""
        name = escape(self.title)
        return (
            f"<figure{wide}><figcaption>{name}</figcaption>"
            f'<div class="drawing" tabindex="0" role="group" aria-label="{name}">'
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" class="chart" '
            f'style="max-width:{self.width}px">{self.inside()}</svg></div></figure>'
        )

    def inside(self) -> str:
        """The elements after name and description."""
        return f"<title>{escape(self.title)}</title><desc>{escape(self.description)}</desc>{self.elements}"


def _svg(width: int, height: int, title: str, description: str, body: Sequence[str]) -> Chart:
    return Chart(title, width, height, description, "".join(body))


def _text(x: float, y: float, text: str, anchor: str = "start", css: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{css}">{escape(text)}</text>'


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers inside a range: multiples of a step of 1, 2 or 5 times a power of ten.

    Args:
      low, high: ends of the range, low below high.
      count: the range is cut into at most this many steps.
    Returns: the multiples, ascending; ends of the range are included only if they are round.
    """
    span = (high - low) or 1.0
    raw = span / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 10) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _mark(x: float, y: float, series: int, kind: str = "") -> str:
    """A circle, square, triangle or diamond centered on a point."""
    css = f'class="dot m{series % 4} {kind}"'
    shape = series % 4
    if shape == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" {css}/>'
    if shape == 1:
        return f'<rect x="{x - 4.2:.1f}" y="{y - 4.2:.1f}" width="8.4" height="8.4" {css}/>'
    corners = ((0, -5.4), (5.2, 4), (-5.2, 4)) if shape == 2 else ((0, -5.6), (5.6, 0), (0, 5.6), (-5.6, 0))
    places = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{places}" {css}/>'


def _legend(
    names: Sequence[str], mark: Callable[[float, float, int], str], first: int = 0, y: float = 10
) -> list[str]:
    """Names of series on one line, each after its mark; `first` is the number of the first one."""
    body, x = [], 12.0
    for number, name in enumerate(names, first):
        body += [mark(x, y, number), _text(x + 10, y + 4, name)]
        x += 7.2 * len(name) + 34
    return body


def dots(
    rows: Sequence[Dot],
    title: str,
    axis: str,
    *,
    bounds: tuple[float, float] | None = None,
    references: Sequence[float] = (),
    names: Sequence[str] = (),
) -> Chart:
    """One row per label: a dot for each value, a line for its interval, dashed lines for references.

    Undefined values are marked as such.

    Args:
      rows: from top to bottom.
      axis: what the values are, written below them.
      bounds: ends of the axis; what lies beyond is drawn at the end. If left out, all values, interval ends
        and references fit.
      references: values of the dashed lines.
      names: of the series, by `Dot.series`; a legend shows them where there are several.
    Returns: the drawing.
    """
    known = [v for row in rows for v in (row.value, row.low, row.high) if math.isfinite(v)] + list(references)
    low, high = bounds or ((min(known), max(known)) if known else (0.0, 1.0))
    pad = 0.04 * ((high - low) or 1.0)
    low, high = low - pad, high + pad

    def x(value: float) -> float:
        return LABEL + (min(max(value, low), high) - low) / (high - low) * (WIDTH - LABEL - 24)

    top, body, marks = (24 if len(names) > 1 else 0), [], []
    y, before = top - 8.0, None
    for row in rows:
        y += BESIDE if row.label == before else ROW
        if row.label != before:
            marks.append(_text(LABEL - 8, y + 4, row.label, "end"))
        before = row.label
        if not math.isfinite(row.value):
            marks.append(_text(LABEL + 6, y + 4, "undefined", "start", "tick"))
            continue
        if math.isfinite(row.low):
            ends = f'x1="{x(row.low):.1f}" x2="{x(row.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"'
            marks.append(f'<line {ends} class="interval m{row.series % 4} {row.kind}"/>')
        marks.append(_mark(x(row.value), y, row.series, row.kind))
    foot = y + 16
    for tick in ticks(low, high):
        place = f'x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top + 4}" y2="{foot:.1f}"'
        body += [f'<line {place} class="grid"/>', _text(x(tick), foot + 14, f"{tick:g}", "middle", "tick")]
    for value in references:
        place = f'x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{top + 4}" y2="{foot:.1f}"'
        body.append(f'<line {place} class="reference"/>')
    # as close to the middle of the scale as the name's length allows
    middle = min((LABEL + WIDTH - 24) / 2, WIDTH - 3.7 * len(axis))
    body += [*marks, _text(middle, foot + 32, axis, "middle", "axis")]
    if len(names) > 1:
        body += _legend(names, _mark)
    said = "; ".join(
        f"{row.label}{f' ({names[row.series]})' if len(names) > 1 else ''} {row.value:.2f}"
        for row in rows
        if math.isfinite(row.value)
    )
    return _svg(WIDTH, math.ceil(foot) + 36, title, said, body)


def bars(rows: Mapping[str, Sequence[float]], names: Sequence[str], title: str) -> Chart:
    """Shares of a whole, one bar per row, its parts in the order of their names, with their percentages.

    Args:
      rows: shares (0 to 1, summing to 1) by the label of the row, one for each name.
      names: of the parts, shown in the legend.
    Returns: the drawing.
    Raises: ValueError for a row with more or fewer shares than names.
    """

    def swatch(x: float, y: float, number: int) -> str:
        return f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10" class="part p{number % 6}"/>'

    # two lines of names: six names on one line are wider than the page
    half = math.ceil(len(names) / 2)
    body = _legend(names[:half], swatch) + _legend(names[half:], swatch, half, 28)
    span = WIDTH - LABEL - 24
    for number, (label, shares) in enumerate(rows.items()):
        y, x = ROW * number + 46, float(LABEL)
        body.append(_text(LABEL - 8, y + 13, label, "end"))
        for part, share in enumerate(shares):
            width = share * span
            place = f'x="{x:.1f}" y="{y}" width="{max(width - 1, 0):.1f}" height="18"'
            body.append(f'<rect {place} class="part p{part % 6}"/>')
            if share >= 0.07:
                body.append(_text(x + width / 2, y + 13, f"{share:.0%}", "middle", "inside"))
            x += width
    said = "; ".join(
        f"{label}: " + ", ".join(f"{name} {share:.0%}" for name, share in zip(names, shares, strict=True))
        for label, shares in rows.items()
    )
    return _svg(WIDTH, ROW * len(rows) + 52, title, said, body)


def heat_map(labels: Sequence[str], values: Sequence[Sequence[float]], title: str) -> Chart:
    """A correlation matrix: blue negative, orange positive, each cell with its number.

    Args:
      labels: of both rows and columns; columns show the number of the row.
      values: [labels, labels], symmetric: only the lower triangle is drawn. NaN is shown as a dash.
    Returns: the drawing.
    """
    cell, top = 34, 24
    left = 34 + round(6.6 * max(map(len, labels), default=0))
    size = len(labels)
    body = []
    for i in range(size):
        body.append(_text(left - 8, top + cell * i + cell / 2 + 4, f"{i + 1}  {labels[i]}", "end"))
        body.append(_text(left + cell * i + cell / 2, top - 8, str(i + 1), "middle", "tick"))
        for j in range(i + 1):
            r = values[i][j]
            shade = 0.0 if not math.isfinite(r) else min(1.0, abs(r))
            css = "positive" if r >= 0 else "negative"
            place = f'x="{left + cell * j}" y="{top + cell * i}" width="{cell - 1}" height="{cell - 1}"'
            body.append(f'<rect {place} class="{css}" style="fill-opacity:{0.08 + 0.72 * shade:.2f}"/>')
            number = f"{r:.2f}".replace("0.", ".") if math.isfinite(r) else "–"
            body.append(
                _text(left + cell * j + cell / 2, top + cell * i + cell / 2 + 4, number, "middle", "cell")
            )
    said = "; ".join(
        f"{labels[i]} with {labels[j]} {values[i][j]:.2f}" for i in range(size) for j in range(i)
    )
    return _svg(left + cell * size + 8, top + cell * size + 8, title, said, body)


class Point(NamedTuple):
    """A value at a step, with its interval."""

    step: float
    value: float
    low: float = math.nan
    high: float = math.nan


def lines(
    series: Mapping[str, Sequence[Point]],
    title: str,
    axes: tuple[str, str],
    *,
    references: Sequence[float] = (),
) -> Chart | None:
    """Lines over steps, each named at its end; told apart by color, dashes, and an offset from the step.

    Lines that would overlap are drawn side by side: at each step every series has its own offset, so that all
    marks and intervals are visible.

    Args:
      series: points by the name of the line, in the order drawn; NaN values are ignored.
      axes: what the steps are, written below them, and what the values are, written into the caption.
      references: values of dashed lines.
    Returns: the drawing; None where no value is finite.
    """
    known = {name: [p for p in line if math.isfinite(p.value)] for name, line in series.items()}
    points = [p for line in known.values() for p in line]
    if not points:
        return None
    ends = [v for p in points for v in (p.value, p.low, p.high) if math.isfinite(v)] + list(references)
    steps = sorted({p.step for p in points})
    frame = _Frame(steps, min(ends), max(ends), LINE_HEIGHT, 20 + 8 * max(map(len, series)))
    body = frame.grid(axes[0], references)
    last: list[tuple[float, float, str, int]] = []
    for number, (name, line) in enumerate(known.items()):
        beside = frame.beside(number, len(known))
        color = number % 6
        places = [(frame.x(p.step) + beside, frame.y(p.value)) for p in line]
        body += [
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{frame.y(p.low):.1f}" y2="{frame.y(p.high):.1f}" '
            f'class="interval i{color}"/>'
            for p, (x, _) in zip(line, places, strict=True)
            if math.isfinite(p.low) and math.isfinite(p.high)
        ]
        if places:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            body.append(f'<polyline points="{path}" class="line s{color}"/>')
            body += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" class="f{color}"/>' for x, y in places]
            last.append((places[-1][1], places[-1][0], name, color))
    lowest = -math.inf
    for y, _, name, color in sorted(last):  # names in the order of the line ends, without overlap
        lowest = max(y, lowest + 13)
        body.append(_text(WIDTH - frame.right + 14, lowest + 4, name, "start", f"t{color}"))
    said = "; ".join(f"{name}: " + ", ".join(_said(p) for p in line) for name, line in known.items() if line)
    height = max(LINE_HEIGHT, math.ceil(lowest) + 12)
    return _svg(WIDTH, height, f"{title} ({axes[1]})", said, body)


def _said(point: Point) -> str:
    between = f" [{point.low:.2f}, {point.high:.2f}]" if math.isfinite(point.low) else ""
    return f"{point.step:g}: {point.value:.2f}{between}"


class _Frame(NamedTuple):
    """Where steps and values lie in a plot of lines."""

    steps: list[float]
    low: float
    high: float
    height: int
    right: int

    @property
    def _pad(self) -> float:
        return 0.06 * ((self.high - self.low) or 1.0)

    def x(self, step: float) -> float:
        """Steps that double (1, 2, 4, 8) are spaced equally; others in proportion."""
        first, last = self.steps[0], self.steps[-1]
        doubling = first > 0 and len(self.steps) > 2 and last / first >= 4
        measure = math.log if doubling else float
        share = (measure(step) - measure(first)) / ((measure(last) - measure(first)) or 1.0)
        left, end = LEFT + 26, WIDTH - self.right - 12
        return left + share * (end - left)

    def y(self, value: float) -> float:
        span = self.high - self.low + 2 * self._pad
        return 10 + (self.high + self._pad - value) / span * (self.height - 56)

    def beside(self, number: int, count: int) -> float:
        """How far from its step a series is drawn."""
        places = [self.x(step) for step in self.steps]
        least = min((b - a for a, b in itertools.pairwise(places)), default=60.0)
        gap = min(7.0, 0.6 * least / max(count, 1))
        return gap * (number - (count - 1) / 2)

    def grid(self, axis: str, references: Sequence[float]) -> list[str]:
        end, foot = WIDTH - self.right, self.height - 46
        body = []
        for tick in ticks(self.low - self._pad, self.high + self._pad):
            y = self.y(tick)
            body.append(f'<line x1="{LEFT}" x2="{end}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
            body.append(_text(LEFT - 6, y + 4, f"{tick:g}", "end", "tick"))
        shown = -math.inf
        for step in self.steps:
            x = self.x(step)
            body.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{foot}" y2="{foot + 5}" class="grid"/>')
            if x - shown >= 8 * len(f"{step:g}"):  # labels must not touch
                body.append(_text(x, self.height - 28, f"{step:g}", "middle", "tick"))
                shown = x
        for value in references:
            y = self.y(value)
            body.append(f'<line x1="{LEFT}" x2="{end}" y1="{y:.1f}" y2="{y:.1f}" class="reference"/>')
        return [*body, _text((LEFT + end) / 2, self.height - 8, axis, "middle", "axis")]
