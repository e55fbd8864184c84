"""The figures of a study on a pretrained base, drawn from its summary."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxmoe.json_values import JsonMapping
from training.plots.rows import EMPTY, REFERENCE, RowStyle, many_styles, row_styles
from training.studies.cells import StudySummary
from training.studies.page import Picture

AXES = {
    "tasks": "held-out tasks right, %",
    "kl": "KL(base ‖ tuned) of own answers, nats a token",
    "kl_plain": "KL(base ‖ tuned) of plain statements, nats a token",
    "volume": "instruction samples",
}


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(4.3 * panels + 0.4, 4.6), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    return figure, list(axes)


def _styles(summary: StudySummary, names: Sequence[str]) -> dict[str, RowStyle]:
    return row_styles({name: summary["labels"][name] for name in names})


def _legend(figure: Figure, summary: StudySummary, styles: dict[str, RowStyle]) -> None:
    lines = [
        Line2D([], [], color=style.color, marker=style.marker, markersize=4.5, label=summary["labels"][name])
        for name, style in styles.items()
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=3, frameon=False)


def _along(path: Sequence[JsonMapping], measure: str) -> list[float]:
    return [point[measure] * (100 if measure in ("tasks", "completed") else 1) for point in path]


def _draw(axis: Axes, path: Sequence[JsonMapping], x: str, y: str, style: RowStyle, faint: bool) -> None:
    [line] = axis.plot(_along(path, x), _along(path, y), color=style.color, marker=style.marker)
    line.set(linewidth=0.8, alpha=0.35, markersize=2.5) if faint else line.set(linewidth=1.5, markersize=4.5)


def _main(summary: StudySummary) -> list[str]:
    """Names of the rows that are compared."""
    return list(dict.fromkeys(row["row"] for row in summary["rows"].values() if row["main"]))


def _paths(summary: StudySummary, name: str) -> list[Sequence[JsonMapping]]:
    """Paths of a row at every learning rate that all seeds ran with."""
    return [path for row in summary["rows"].values() if row["row"] == name for path in row["paths"]]


def main(summary: StudySummary) -> Picture:
    """Known facts kept against task accuracy and against KL: every rate of the main rows."""
    names = _main(summary)
    paths = [path for name in names for path in _paths(summary, name)]
    plain = all("kl_plain" in point for path in paths for point in path)
    figure, axes = _figure(3 if plain else 2)
    styles = _styles(summary, names)
    measures = ["tasks", "kl", "kl_plain"] if plain else ["tasks", "kl"]
    for axis, x in zip(axes, measures, strict=True):
        for name in names:
            for tried in summary["tried"][name]:
                if not tried["final"]:
                    _draw(axis, tried["path"], x, "completed", styles[name], faint=True)
            for path in _paths(summary, name):
                _draw(axis, path, x, "completed", styles[name], faint=False)
        axis.axhline(100, color=REFERENCE, linestyle="--", linewidth=1)
        axis.set_xlabel(AXES[x])
    axes[0].set_ylabel("known facts kept, %")
    _legend(figure, summary, styles)
    where = "on its own answers (middle) and on statements of facts (right)" if plain else "(right)"
    return Picture(
        "loramoe_kept",
        f"Known facts kept against task accuracy (left) and against the divergence from the base {where}. "
        "Each line is a run that starts at the base, each marker a snapshot; faint lines are learning rates "
        "that were run with only one seed. At the same horizontal position, higher is better.",
        figure,
    )


def volume(summary: StudySummary) -> Picture:
    """Known facts kept and tasks learned against the number of samples, with the rates of all seeds."""
    names = _main(summary)
    figure, axes = _figure(2)
    styles = _styles(summary, names)
    for axis, y in zip(axes, ("completed", "tasks"), strict=True):
        for name in names:
            for path in _paths(summary, name):
                _draw(axis, path, "volume", y, styles[name], faint=False)
        axis.set_xlabel(AXES["volume"])
    axes[0].set_ylabel("known facts kept, %")
    axes[1].set_ylabel("held-out tasks right, %")
    _legend(figure, summary, styles)
    return Picture(
        "loramoe_kept_volume",
        "Known facts kept (left) and tasks (right) against the volume of instructions; each line is a run.",
        figure,
    )


def rivals(summary: StudySummary) -> Picture:
    """Rows that vary one thing, with the main rows in gray."""
    names = [key for key, row in summary["rows"].items() if not row["main"]]
    figure, axes = _figure(2)
    styles = many_styles(names)
    plain = RowStyle(EMPTY, ".")
    for axis, x in zip(axes, ("tasks", "kl"), strict=True):
        for row in summary["rows"].values():
            if row["main"]:
                for path in row["paths"]:
                    _draw(axis, path, x, "completed", plain, faint=False)
        for name in names:
            for path in summary["rows"][name]["paths"]:
                _draw(axis, path, x, "completed", styles[name], faint=False)
        axis.set_xlabel(AXES[x])
    axes[0].set_ylabel("known facts kept, %")
    _legend(figure, summary, styles)
    return Picture(
        "loramoe_rivals",
        "The rows that vary one thing, over the main rows in gray. For an average with the base, markers are "
        "shares of one run's update; for other rows, snapshots.",
        figure,
    )
