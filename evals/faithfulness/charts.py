"""Plots of a report as SVG in the page's own colors: dots with intervals, bars, heat maps, lines.

Every plot is a figure with a caption, and a description for those who do not see it; its numbers stand in a
table beside it. Colors are CSS classes, so one drawing serves light and dark; what color tells, shape,
dashes or words tell too.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple

ROW, LABEL, WIDTH = 26, 186, 520
# between the dots of several series on one row
BESIDE = 15


class Dot(NamedTuple):
    """A value with its interval on a row; dots of the same label that follow each other share the row.

    kind: "" filled; "open" and "null" are hollow. series: which color and shape.
    """

    label: str
    value: float
    low: float = math.nan
    high: float = math.nan
    kind: str = ""
    series: int = 0


def _svg(width: int, height: int, title: str, description: str, body: Sequence[str]) -> str:
    wide = ' class="wide"' if width > WIDTH else ""
    name = escape(title)
    return (
        f'<figure tabindex="0"{wide}><figcaption>{name}</figcaption>'
        f'<svg viewBox="0 0 {width} {height}" role="img" class="chart" style="max-width:{width}px">'
        f"<title>{name}</title><desc>{escape(description)}</desc>{''.join(body)}</svg></figure>"
    )


def _text(x: float, y: float, text: str, anchor: str = "start", css: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{css}">{escape(text)}</text>'


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers inside a range: multiples of a step of 1, 2 or 5 times a power of ten.

    Args:
      low, high: ends of the range, low below high.
      count: the range is cut into at most so many steps.
    Returns: the multiples, ascending; ends of the range that are not round are not among them.
    """
    span = (high - low) or 1.0
    raw = span / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 10) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _mark(x: float, y: float, series: int, kind: str = "") -> str:
    """A circle, square, triangle or diamond around a place."""
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
    """Names of series on one line, each after its mark; `first` is the number of the first of them."""
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
) -> str:
    """A row a label: a dot a value, a line for its interval, dashed lines for references.

    Undefined values say so.

    Args:
      rows: from top to bottom.
      axis: what values are, written below them.
      bounds: ends of the axis; what lies beyond is drawn at the end. If left out, all values, interval ends
        and references fit.
      references: values of the dashed lines.
      names: of the series, by `Dot.series`; a legend shows them where there are several.
    Returns: an HTML figure with the drawing as SVG.
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
    # as near to the middle of the scale as the name's length allows
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


def bars(rows: Mapping[str, Sequence[float]], names: Sequence[str], title: str) -> str:
    """Shares of a whole, a bar a row, its parts in the order of their names, with their percentages.

    Args:
      rows: shares (0 to 1, together 1) by the label of the row, one for each name.
      names: of the parts, shown in the legend.
    Returns: an HTML figure with the drawing as SVG.
    Raises: ValueError for a row with more or fewer shares than names.
    """

    def swatch(x: float, y: float, number: int) -> str:
        return f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10" class="part p{number % 6}"/>'

    # two lines of names: six of them are wider than the page
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


def heat_map(labels: Sequence[str], values: Sequence[Sequence[float]], title: str) -> str:
    """A correlation matrix: blue negative, orange positive, each cell with its number.

    Args:
      labels: of rows and columns alike; columns carry the number of the row.
      values: [labels, labels], symmetric: only the lower triangle is drawn. NaN is shown as a dash.
    Returns: an HTML figure with the drawing as SVG.
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


def lines(series: Mapping[str, Sequence[tuple[float, float]]], title: str, axes: tuple[str, str]) -> str:
    """Lines over steps, each named at its end; told apart by color and by dashes.

    Args:
      series: points (step, value) by the name of the line, in the order drawn; NaN values are ignored.
      axes: what steps are, written below them, and what values are, written into the caption.
    Returns: an HTML figure with the drawing as SVG; empty where no value is finite.
    """
    points = [p for line in series.values() for p in line if math.isfinite(p[1])]
    if not points:
        return ""
    left, top, height = 56, 10, 260
    right = 20 + 8 * max(map(len, series))
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    pad = 0.06 * ((max(ys) - min(ys)) or 1.0)
    bounds = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, min(ys) - pad, max(ys) + pad

    def at(point: tuple[float, float]) -> tuple[float, float]:
        across = left + (point[0] - bounds[0]) / (bounds[1] - bounds[0]) * (WIDTH - left - right)
        return across, top + (bounds[3] - point[1]) / (bounds[3] - bounds[2]) * (height - top - 46)

    body = []
    for tick in ticks(bounds[2], bounds[3]):
        y = at((bounds[0], tick))[1]
        body.append(f'<line x1="{left}" x2="{WIDTH - right}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        body.append(_text(left - 6, y + 4, f"{tick:g}", "end", "tick"))
    for tick in ticks(bounds[0], bounds[1]):
        body.append(_text(at((tick, bounds[2]))[0], height - 28, f"{tick:g}", "middle", "tick"))
    ends: list[tuple[float, float, str, int]] = []
    for number, (name, line) in enumerate(series.items()):
        known = [at(p) for p in line if math.isfinite(p[1])]
        if known:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in known)
            body.append(f'<polyline points="{path}" class="line s{number % 6}"/>')
            ends.append((known[-1][1], known[-1][0], name, number % 6))
    lowest = -math.inf
    for y, x, name, color in sorted(ends):  # names in the order of the ends, none over another
        lowest = max(y, lowest + 13)
        body.append(_text(x + 6, lowest + 4, name, "start", f"t{color}"))
    body.append(_text((left + WIDTH - right) / 2, height - 8, axes[0], "middle", "axis"))
    said = "; ".join(
        f"{name}: {line[0][1]:.2f} to {line[-1][1]:.2f}" for name, line in series.items() if line
    )
    return _svg(WIDTH, height, f"{title} ({axes[1]})", said, body)
