"""The figures of the StepCoder study, drawn from its summary."""

import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from training.plots.rows import COLORS, row_styles
from training.studies.cells import StudySummary
from training.studies.page import Picture


def _panels(rows: int, columns: int, *, height: float = 2.9) -> tuple[Figure, list[list[Axes]]]:
    figure = Figure(figsize=(3.2 * columns + 0.4, height * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))  # rounds
    return figure, axes.tolist()


def _legend(figure: Figure) -> None:
    """Every row once, also where a panel does not show it."""
    named = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    widest = 0.6 + 0.09 * max(map(len, named), default=0)  # inches; what is wider than the figure is cut off
    columns = min(4, max(1, int(figure.get_figwidth() / widest)))
    figure.legend(named.values(), named, loc="outside lower center", ncols=columns, frameon=False)


def _title(axis: Axes, title: str) -> None:
    """In lines that a panel has room for; a longer one would run into its neighbor's."""
    axis.set_title(textwrap.fill(title, 36), fontsize="medium")


def curves(summary: StudySummary) -> Picture:
    """Held-out pass@1 over rounds: for each regime, one panel per difficulty, up to four to a line."""
    regimes, kinds = summary["regimes"], summary["difficulties"]
    columns = min(4, len(kinds))
    lines = -(-len(kinds) // columns)
    figure, axes = _panels(len(regimes) * lines, columns)
    styles = row_styles(summary["labels"])
    for number, (name, regime) in enumerate(regimes.items()):
        panels = [axis for line in axes[number * lines : (number + 1) * lines] for axis in line]
        for axis in panels[len(kinds) :]:
            axis.set_visible(False)
        for axis in panels[::columns]:
            axis.set_ylabel("held-out pass@1, %")
        for axis, kind in zip(panels, kinds, strict=False):
            for row, found in regime["rows"].items():
                scores = found["curves"][kind]
                mean = np.asarray([100 * s["mean"] for s in scores])
                ends = [[s["mean"] if s[end] is None else s[end] for s in scores] for end in ("low", "high")]
                low, high = np.clip(100 * np.asarray(ends), 0, 100)
                color, marker = styles[row]
                label = summary["labels"][row]
                axis.plot(found["measured"], mean, color=color, marker=marker, markersize=4.5, label=label)
                axis.fill_between(found["measured"], low, high, color=color, alpha=0.1, linewidth=0)
            axis.set(xlabel="round", ylim=(-3, 103))
            _title(axis, f"{summary['regime_labels'][name]}: {kind}")
    _legend(figure)
    return Picture(
        "stepcoder_curves",
        "Held-out pass@1 over the rounds of practice, by difficulty: means over seeds, with bands for their "
        "95 % intervals. Rows of reinforcement learning differ only in the curriculum and the mask, unless a "
        "label says otherwise.",
        figure,
    )


def stages(summary: StudySummary) -> Picture | None:
    """How far the curriculum got: shares of the problems at each stage over rounds."""
    found = [
        (regime, row, entry["stages"])
        for regime, rows in summary["regimes"].items()
        for row, entry in rows["rows"].items()
        if entry["stages"]
    ]
    if not found:
        return None
    figure, axes = _panels(1, len(found), height=3.2)
    names = sorted({name for _, _, shares in found for name in shares}, key=int)
    for axis, (regime, row, shares) in zip(axes[0], found, strict=True):
        rounds = np.arange(1, len(next(iter(shares.values()))) + 1)
        stack = [100 * np.asarray(shares.get(name, [0.0] * len(rounds))) for name in names]
        labels = [f"stage {name}" + (" (whole task)" if name == "0" else "") for name in names]
        axis.stackplot(rounds, *stack, labels=labels, colors=COLORS[: len(names)], alpha=0.8)
        axis.set(xlabel="round", ylim=(0, 100))
        _title(axis, f"{summary['labels'][row]}, {summary['regime_labels'][regime]}")
    axes[0][0].set_ylabel("share of the problems, %")
    _legend(figure)
    return Picture(
        "stepcoder_stages",
        "Stages of the curriculum after every round, mean over seeds. At stage 0 a problem is asked as a "
        "whole; at higher stages more of its solution is given.",
        figure,
    )


def practice(summary: StudySummary) -> Picture:
    """Pass rate of the practice programs, and the share of response tokens that the mask leaves out."""
    regimes = summary["regimes"]
    titles = {"pass_rate": "practice programs that pass, %", "masked_share": "tokens left out, %"}
    figure, axes = _panels(len(titles), len(regimes))
    styles = row_styles(summary["labels"])
    for line, (key, title) in zip(axes, titles.items(), strict=True):
        for axis, (name, regime) in zip(line, regimes.items(), strict=True):
            for row, found in regime["rows"].items():
                values = [np.nan if v is None else 100 * v for v in found["rounds"].get(key, ())]
                if not values:  # fine-tuned, without rounds
                    continue
                rounds = np.arange(1, len(values) + 1)
                label = summary["labels"][row]
                axis.plot(rounds, values, color=styles[row].color, label=label, marker=".", markersize=3)
            axis.set_xlabel("round")
            _title(axis, summary["regime_labels"][name])
            axis.set_ylim(bottom=0)
        line[0].set_ylabel(title)
    _legend(figure)
    return Picture(
        "stepcoder_practice",
        "Top: programs of a round that pass all tests (with a curriculum, helped by the part of the solution "
        "that is given). Bottom: response tokens that no test executed and that the policy does not learn "
        "from; 0 without the mask. Means over seeds.",
        figure,
    )


def forgotten(summary: StudySummary, regime: str) -> Picture:
    """What each run keeps as it trains, against how far it moves and what it learns.

    Args:
      summary: the study's summary.
      regime: name of the regime.
    Returns: two panels, one line per run.
    """
    figure, axes = _panels(1, 2, height=3.6)
    rows = summary["forgetting"][regime]["rows"]
    styles = row_styles({row["row"]: summary["labels"][row["row"]] for row in rows})
    for axis, across, label in zip(
        axes[0], ("tasks", "kl"), ("held-out pass@1, %", "KL(base ‖ practiced), nats a token"), strict=True
    ):
        for row in rows:
            color, marker = styles[row["row"]]
            for number, way in enumerate(row["paths"]):
                at = np.asarray([point[across] for point in way]) * (100 if across == "tasks" else 1)
                kept = [100 * point["completed"] for point in way]
                named = None if number else summary["labels"][row["row"]]
                axis.plot(at, kept, f"-{marker}", color=color, label=named, markersize=4)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=6))
        axis.set_xlabel(label)
    axes[0][0].set_ylabel("known facts kept, %")
    _legend(figure)
    return Picture(
        f"stepcoder_forgotten_{regime}",
        "Known facts kept against what was learned (left) and against how far the model is from the base "
        "(right). Each line is a run that starts at the base, each marker a measurement. At the same "
        "horizontal position, higher is better.",
        figure,
    )
