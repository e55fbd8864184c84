"""The figures of the LoRAMoE study, drawn from its summary."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxmoe.json_values import JsonMapping, JsonObject
from training.plots.rows import COLORS, PLAIN, REFERENCE, row_styles
from training.studies.cells import StudySummary
from training.studies.loramoe.summary import CONSTRAINED, KNOWLEDGE, OTHER
from training.studies.page import Picture

TITLES = {"completed": "facts completed", "asked": "facts asked", "tasks": "downstream tasks"}
PANELS = 4  # side by side


def _figure(panels: int, *, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(3.6 * panels + 0.4, height), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    return figure, list(axes)


def _styles(summary: StudySummary) -> dict[str, JsonObject]:
    styles = row_styles({name: summary["labels"][name] for name in summary["rows"]})
    return {name: {**style._asdict(), "markersize": 4.5} for name, style in styles.items()}


def _legend(figure: Figure, axis: Axes, columns: int) -> None:
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False)


def _percent(scores: Sequence[JsonMapping], key: str) -> list[float]:
    return [100 * (score["mean"] if score[key] is None else score[key]) for score in scores]


def _base(summary: StudySummary, measure: str) -> float | None:
    scores = [base[measure] for base in summary["bases"].values()]
    return 100 * sum(scores) / len(scores) if scores else None


def volumes(summary: StudySummary) -> Picture:
    """Knowledge and tasks against the number of instruction samples."""
    figure, axes = _figure(3)
    styles = _styles(summary)
    for axis, (measure, title) in zip(axes, TITLES.items(), strict=True):
        for name, row in summary["rows"].items():
            curve, style = row["curves"][measure], styles[name]
            axis.plot(summary["volumes"], _percent(curve, "mean"), label=summary["labels"][name], **style)
            low, high = (np.clip(_percent(curve, end), 0, 100) for end in ("low", "high"))
            axis.fill_between(summary["volumes"], low, high, color=style["color"], alpha=0.12, linewidth=0)
        before = _base(summary, measure)
        if before is not None:
            axis.axhline(before, color=REFERENCE, linestyle="--", linewidth=1, label="base")
        axis.set(xscale="log", xlabel="instruction samples", title=title, ylim=(-3, 103))
    axes[0].set_ylabel("right, %")
    _legend(figure, axes[0], 4)
    return Picture(
        "loramoe_volume",
        "Knowledge and downstream accuracy against the volume of instructions: means over runs, with bands "
        "for their 95 % intervals; dashed lines are the bases.",
        figure,
    )


def frontier(summary: StudySummary) -> Picture:
    """Knowledge against downstream accuracy: the fair comparison."""
    figure, axes = _figure(2, height=4.4)
    figure.set_size_inches(10.4, 4.4)
    styles = _styles(summary)
    for axis, measure in zip(axes, ("completed", "asked"), strict=True):
        for name, row in summary["rows"].items():
            style = styles[name]
            for path in row["paths"]:
                xs, ys = _along(path, measure)
                axis.plot(xs, ys, color=style["color"], alpha=0.25, linewidth=0.8)
            tasks, known = (_percent(row["curves"][m], "mean") for m in ("tasks", measure))
            axis.plot(tasks, known, label=summary["labels"][name], **style)
        axis.set(xlabel="downstream tasks right, %", title=TITLES[measure], ylim=(-3, 103))
    axes[0].set_ylabel("held-out facts right, %")
    _legend(figure, axes[0], 4)
    return Picture(
        "loramoe_frontier",
        "Knowledge against downstream accuracy at the same moment: each marker is a volume, means over "
        "runs; thin lines are single runs, starting at their base. At the same horizontal position, higher "
        "is better.",
        figure,
    )


def _along(path: Sequence[Mapping[str, float]], measure: str) -> tuple[list[float], list[float]]:
    return [100 * p["tasks"] for p in path], [100 * p[measure] for p in path]


def rates(summary: StudySummary) -> Picture:
    """The path of every learning rate that was tried, one panel per row."""
    tried = summary["learning_rates"]
    names = [name for name in summary["rows"] if len(tried.get(name, ())) > 1] or list(summary["rows"])[:1]
    lines = -(-len(names) // PANELS)
    figure = Figure(figsize=(2.9 * PANELS, 2.5 * lines + 0.2), layout="constrained")
    axes = figure.subplots(lines, PANELS, squeeze=False, sharex=True, sharey=True)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names, strict=False):
        style = _styles(summary)[name]
        for entry in tried.get(name, ()):
            chosen = entry["rate"] == summary["rows"][name]["rate"]
            xs, ys = _along(entry["path"], "completed")
            line = {"linewidth": 1.8 if chosen else 0.9, "linestyle": "-" if chosen else ":"}
            axis.plot(xs, ys, **(style | {"markersize": 4 if chosen else 2}), **line)
            axis.annotate(
                f"{entry['rate']:g}",
                (xs[-1], ys[-1]),
                fontsize=7,
                color=style["color"],
                xytext=(3, -3),
                textcoords="offset points",
            )
        axis.set_title(summary["labels"][name], fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
        axis.margins(x=0.18)
    figure.supxlabel("downstream tasks right, %", fontsize=9)
    figure.supylabel("held-out facts completed, %", fontsize=9)
    return Picture(
        "loramoe_rates",
        "Base 0, seed 0: the path of every learning rate from the base; solid for the chosen one, dotted for "
        "the others.",
        figure,
    )


def routing(summary: StudySummary) -> Picture:
    """Share of the routing weight on the first half of the experts, by layer and task type."""
    names = [name for name in summary["routing"] if name in summary["rows"]] or list(summary["routing"])
    figure, axes = _figure(len(names), height=3.2)
    for axis, name in zip(axes, names, strict=True):
        for number, (task, label) in enumerate(((KNOWLEDGE, "closed-book questions"), (OTHER, "tasks"))):
            scores = summary["routing"][name]["first_half"][task]
            means = _percent(scores, "mean")
            below = [m - v for m, v in zip(means, _percent(scores, "low"), strict=True)]
            above = [v - m for m, v in zip(means, _percent(scores, "high"), strict=True)]
            axis.errorbar(
                range(len(means)),
                means,
                yerr=[below, above],
                label=label,
                capsize=3,
                color=COLORS[number],
                marker="os"[number],
                markersize=4.5,
            )
        axis.axhline(50, color=REFERENCE, linestyle="--", linewidth=1)
        axis.set(title=summary["labels"][name], xlabel="layer", xticks=range(len(means)), ylim=(25, 75))
    axes[0].set_ylabel("first half's share, %")
    _legend(figure, axes[0], 2)
    return Picture(
        "loramoe_routing",
        "Share of the routing weight that goes to the first half of the experts, by layer and task type; "
        "bars are 95 % intervals over runs.",
        figure,
    )


def sweep(summary: StudySummary) -> Picture:
    """Every row of the sweep next to the row that it varies."""
    names = [CONSTRAINED] * (CONSTRAINED in summary["rows"]) + list(summary["sweep"])
    rows = {**summary["rows"], **summary["sweep"]}
    seeds = max(row["runs"] for row in summary["sweep"].values())
    figure, axes = _figure(3, height=0.28 * len(names) + 1.1)
    for axis, (measure, title) in zip(axes, TITLES.items(), strict=True):
        for place, name in enumerate(names):
            values = [100 * path[-1][measure] for path in rows[name]["paths"][:seeds]]
            mean, color = (
                sum(values) / len(values),
                row_styles(summary["labels"])[name].color if name == CONSTRAINED else PLAIN,
            )
            axis.plot(values, [place] * len(values), ".", color=color, alpha=0.45, markersize=5)
            axis.plot(mean, place, "D", color=color, markersize=5)
            if name == CONSTRAINED:
                axis.axvline(mean, color=color, linestyle="--", linewidth=1)
        axis.set(title=title, xlabel="%", yticks=range(len(names)), ylim=(len(names) - 0.5, -0.5))
        axis.set_yticklabels([summary["labels"][name] for name in names] if axis is axes[0] else [])
    return Picture(
        "loramoe_sweep",
        "Base 0, largest volume: one thing changed at a time. Diamonds are means over seeds, dots single "
        "runs, the dashed line the row that is varied.",
        figure,
    )
