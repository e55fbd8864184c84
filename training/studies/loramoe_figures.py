"""The figures of the LoRAMoE study, drawn from its summary."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.plots import COLOURS
from training.studies.loramoe_summary import KNOWLEDGE, OTHER
from training.studies.page import Picture

Summary = Mapping[str, Any]
TITLES = {"completed": "facts completed", "asked": "facts asked", "tasks": "downstream tasks"}
MARKERS = "osD^vPX*"


def _figure(panels: int, *, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(3.6 * panels + 0.4, height), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    return figure, list(axes)


def _style(number: int) -> dict[str, Any]:
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 4.5,
    }


def _legend(figure: Figure, axis: Axes, columns: int) -> None:
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False)


def _percent(scores: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [100 * (score["mean"] if score[key] is None else score[key]) for score in scores]


def _base(summary: Summary, measure: str) -> float | None:
    scores = [base[measure] for base in summary["bases"].values()]
    return 100 * sum(scores) / len(scores) if scores else None


def volumes(summary: Summary) -> Picture:
    """Knowledge and tasks against the number of instruction samples."""
    figure, axes = _figure(3)
    for axis, (measure, title) in zip(axes, TITLES.items(), strict=True):
        for number, (name, row) in enumerate(summary["rows"].items()):
            curve, style = row["curves"][measure], _style(number)
            axis.plot(summary["volumes"], _percent(curve, "mean"), label=summary["labels"][name], **style)
            low, high = (np.clip(_percent(curve, end), 0, 100) for end in ("low", "high"))
            axis.fill_between(summary["volumes"], low, high, color=style["color"], alpha=0.12, linewidth=0)
        before = _base(summary, measure)
        if before is not None:
            axis.axhline(before, color="#555", linestyle="--", linewidth=1, label="base")
        axis.set(xscale="log", xlabel="instruction samples", title=title, ylim=(-3, 103))
    axes[0].set_ylabel("right, %")
    _legend(figure, axes[0], 4)
    return Picture(
        "loramoe_volume",
        "Knowledge and downstream accuracy against the volume of instructions: means over runs, bands "
        "their 95 % intervals, dashed the bases.",
        figure,
    )


def frontier(summary: Summary) -> Picture:
    """Knowledge against downstream accuracy: the fair comparison."""
    figure, axes = _figure(2, height=4.2)
    for axis, measure in zip(axes, ("completed", "asked"), strict=True):
        for number, (name, row) in enumerate(summary["rows"].items()):
            style = _style(number)
            for path in row["paths"]:
                xs, ys = _along(path, measure)
                axis.plot(xs, ys, color=style["color"], alpha=0.25, linewidth=0.8)
            tasks, known = (_percent(row["curves"][m], "mean") for m in ("tasks", measure))
            axis.plot(tasks, known, label=summary["labels"][name], **style)
        axis.set(xlabel="downstream tasks right, %", title=TITLES[measure], ylim=(-3, 103))
    axes[0].set_ylabel("held-out facts right, %")
    _legend(figure, axes[0], 3)
    return Picture(
        "loramoe_frontier",
        "Knowledge against downstream accuracy at the same moment: each marker is a volume, means over "
        "runs; thin lines are the single runs, from their base on. Further up at the same place to the "
        "right is better.",
        figure,
    )


def _along(path: Sequence[Mapping[str, float]], measure: str) -> tuple[list[float], list[float]]:
    return [100 * p["tasks"] for p in path], [100 * p[measure] for p in path]


def rates(summary: Summary) -> Picture:
    """The way of every learning rate that was tried."""
    names = [name for name in summary["rows"] if name in summary["learning_rates"]]
    figure, (axis,) = _figure(1, height=4.2)
    figure.set_size_inches(6.6, 4.4)
    for number, name in enumerate(names):
        style = _style(list(summary["rows"]).index(name))
        for entry in summary["learning_rates"][name]:
            chosen = entry["rate"] == summary["rows"][name]["rate"]
            xs, ys = _along(entry["path"], "completed")
            line = {"linewidth": 1.8 if chosen else 0.8, "linestyle": "-" if chosen else ":"}
            label = summary["labels"][name] if chosen else None
            axis.plot(xs, ys, label=label, **(style | {"markersize": 4 if chosen else 2}), **line)
            axis.annotate(f"{entry['rate']:g}", (xs[-1], ys[-1]), fontsize=7, color=style["color"],
                          xytext=(3, 3 - 7 * (number % 2)), textcoords="offset points")  # fmt: skip
    axis.set(xlabel="downstream tasks right, %", ylabel="held-out facts completed, %", ylim=(-3, 103))
    _legend(figure, axis, 3)
    return Picture(
        "loramoe_rates",
        "Base 0, seed 0: the way of every learning rate from the base on; solid the chosen one, dotted the "
        "others.",
        figure,
    )


def routing(summary: Summary) -> Picture:
    """The first half's share of the routing weight by layer and task type."""
    names = [name for name in summary["routing"] if name in summary["rows"]] or list(summary["routing"])
    figure, axes = _figure(len(names), height=3.2)
    for axis, name in zip(axes, names, strict=True):
        for number, (task, label) in enumerate(((KNOWLEDGE, "closed-book questions"), (OTHER, "tasks"))):
            scores = summary["routing"][name]["first_half"][task]
            means = _percent(scores, "mean")
            below = [m - v for m, v in zip(means, _percent(scores, "low"), strict=True)]
            above = [v - m for m, v in zip(means, _percent(scores, "high"), strict=True)]
            axis.errorbar(
                range(len(means)), means, yerr=[below, above], label=label, capsize=3, **_style(number)
            )
        axis.axhline(50, color="#555", linestyle="--", linewidth=1)
        axis.set(title=summary["labels"][name], xlabel="layer", xticks=range(len(means)), ylim=(25, 75))
    axes[0].set_ylabel("first half's share, %")
    _legend(figure, axes[0], 2)
    return Picture(
        "loramoe_routing",
        "Share of the routing weight that goes to the first half of the experts, by layer and task type; "
        "bars are 95 % intervals over runs.",
        figure,
    )


def sweep(summary: Summary) -> Picture:
    """Every row of the sweep as a point."""
    figure, (axis,) = _figure(1)
    figure.set_size_inches(6.6, 4.6)
    rows = {**summary["rows"], **summary["sweep"]}
    for number, (name, row) in enumerate(rows.items()):
        last = row["paths"][0][-1]
        at = 100 * last["tasks"], 100 * last["completed"]
        main = name in summary["rows"]
        axis.plot(*at, marker="o", markersize=6, color=COLOURS[number] if main else "#777", linestyle="")
        axis.annotate(summary["labels"][name], at, fontsize=7, xytext=(5, 3), textcoords="offset points")
    axis.set(xlabel="downstream tasks right, %", ylabel="held-out facts completed, %")
    axis.margins(x=0.2, y=0.1)
    return Picture(
        "loramoe_sweep",
        "Base 0, seed 0, largest volume: the study's rows in colour, the sweep's in grey.",
        figure,
    )
