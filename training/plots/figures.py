"""The figures of a run, and what all plots of the project share."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxmoe.json_values import JsonObject
from training.plots.rows import BLUE, COLORS, SKY, VERMILION, row_styles


def save_figure(figure: Figure, path: Path) -> Path:
    """Saves a figure to a file at 120 dots per inch.

    Args:
      path: file to write; its suffix sets the format (.png).
    Returns: the path.
    """
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=120)
    return path


def series(records: Sequence[JsonObject], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the records that have the key; non-finite values are gaps.

    Args:
      records: lines of metrics.jsonl.
      key: for example loss.
    Returns: steps [N] and values [N], both float64, NaN where the record has null.
    """
    found = [(r["step"], np.nan if r[key] is None else r[key]) for r in records if key in r]
    steps, values = zip(*found, strict=True) if found else ((), ())
    return np.asarray(steps, np.float64), np.asarray(values, np.float64)


def smoothed(values: np.ndarray, width: int) -> np.ndarray:
    """Mean of the last `width` values (fewer at the start), ignoring gaps.

    Args:
      values: [N]; gaps are NaN.
      width: number of values, at least 1.
    Returns: means [N]; NaN where all the values are gaps.
    """
    present = np.isfinite(values)
    sums = np.cumsum(np.where(present, values, 0.0))
    counts = np.cumsum(present)
    sums[width:] = sums[width:] - sums[:-width]
    counts[width:] = counts[width:] - counts[:-width]
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def loss_figure(metrics: Sequence[JsonObject], title: str) -> Figure:
    """Loss (with held-out loss), balance loss, gradient norm and learning rate over steps.

    Args:
      metrics: lines of metrics.jsonl.
      title: title of the whole figure.
    Returns: four panels.
    """
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    axes = figure.subplots(2, 2)
    figure.suptitle(title)
    panels = (("loss", "loss per target token (nats)"), ("balance", "balance loss"))
    panels += (("grad_norm", "gradient norm"), ("lr", "learning rate"))
    for axis, (key, label) in zip(axes.flat, panels, strict=True):
        steps, values = series(metrics, key)
        axis.plot(steps, values, color=SKY, linewidth=0.8, alpha=0.7)
        if key != "lr":
            axis.plot(steps, smoothed(values, max(1, len(values) // 50)), color=BLUE, label="smoothed")
        if key == "loss":
            held_steps, held = series(metrics, "valid_loss")
            if len(held):
                axis.plot(held_steps, held, "o-", color=VERMILION, markersize=3, label="held out")
            axis.legend()
        axis.set(xlabel="step", ylabel=label)
    return figure


def share_figure(record: JsonObject, title: str) -> Figure:
    """Share of the routing weight by expert (columns) and layer (rows), for each projection and task type.

    Args:
      record: a line of routing.jsonl.
      title: title of the whole figure; the record's step is added.
    Returns: a panel for each projection (across) and task type (down), on one color scale from 0.
    """
    rows = record["rows"]
    projections = list(dict.fromkeys(row["projection"] for row in rows))
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    layers = 1 + max(row["layer"] for row in rows)
    experts = max(len(row["share"]) for row in rows)
    height = 1.6 + max(1.2, 0.28 * layers) * len(tasks)
    figure = Figure(figsize=(1.5 + 3.1 * len(projections), height), layout="constrained")
    axes = figure.subplots(len(tasks), len(projections), squeeze=False)
    figure.suptitle(f"{title}: share of the routing weight, step {record['step']}")
    top = max(max(row["share"]) for row in rows)
    image = None
    for line, task in enumerate(tasks):
        for column, projection in enumerate(projections):
            grid = np.full((layers, experts), np.nan)
            for row in rows:
                if row["task"] == task and row["projection"] == projection:
                    grid[row["layer"], : len(row["share"])] = row["share"]
            axis: Axes = axes[line, column]
            image = axis.imshow(grid, vmin=0.0, vmax=top, cmap="viridis", aspect="auto")
            axis.set(title=f"{projection}, {task}", xlabel="expert", ylabel="layer")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    assert image is not None
    figure.colorbar(image, ax=axes, label="share")
    return figure


def routing_figure(records: Sequence[JsonObject], title: str) -> Figure:
    """CV, entropy and dead experts over steps, by task type, averaged over layers and projections.

    Args:
      records: lines of routing.jsonl.
      title: title of the whole figure.
    Returns: three panels.
    """
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    figure.suptitle(title)
    tasks = list(dict.fromkeys(row["task"] for record in records for row in record["rows"]))
    labels = {"cv": "CV of the shares", "entropy": "entropy / ln E", "dead": "dead experts per router"}
    for axis, (key, label) in zip(axes, labels.items(), strict=True):
        for color, task in zip(COLORS, tasks, strict=False):
            points = [
                (record["step"], np.mean([row[key] for row in record["rows"] if row["task"] == task]))
                for record in records
                if any(row["task"] == task for row in record["rows"])
            ]
            axis.plot(*zip(*points, strict=True), "o-", markersize=3, color=color, label=task)
        axis.set(xlabel="step", ylabel=label)
        axis.legend()
    return figure


def comparison(results: JsonObject, labels: Mapping[str, str], path: Path) -> Path:
    """Bar chart of the demo's comparison: facts kept and tasks learned by each model, with 95 % intervals.

    Args:
      results: results of the demo.
      labels: the name of each row, by its key.
      path: path of the PNG file.
    Returns: the path.
    """
    rows = results["rows"]
    titles = [title for title in next(iter(rows.values())) if title != "by family"]
    figure = Figure(figsize=(8, 4), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(rows)
    styles = row_styles(labels)
    for number, (name, row) in enumerate(rows.items()):
        values = np.array([row[title]["value"] for title in titles], float)
        low, high = (np.array([row[title][end] for title in titles], float) for end in ("low", "high"))
        at = np.arange(len(titles)) + (number - (len(rows) - 1) / 2) * width
        errors = np.maximum([values - low, high - values], 0.0)
        axis.bar(at, values, width, yerr=errors, label=labels[name], color=styles[name].color, capsize=3)
    axis.set(ylabel="exact match", ylim=(0, 1.02), title="what was kept, what was learned")
    axis.set_xticks(np.arange(len(titles)), titles)
    figure.legend(loc="outside lower center", ncols=len(rows), frameon=False)
    return save_figure(figure, path)
