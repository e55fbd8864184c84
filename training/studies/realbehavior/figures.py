"""The figures of the RealBehavior study, drawn from its summary."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from evals.faithfulness.verdicts import CRITERIA
from training.plots.rows import EMPTY, GREEN, REFERENCE, RULE, VERMILION, RowStyle, row_styles
from training.studies.page import Picture
from training.studies.realbehavior.answers import JsonRecord
from training.studies.realbehavior.summary import REINFORCED, VERDICTS, BehaviorSummary

FILLS = dict(zip(VERDICTS, (GREEN, EMPTY, VERMILION), strict=True))


def verdicts(summary: BehaviorSummary, labels: Mapping[str, str]) -> Picture:
    """Respondents x criteria x constructs, filled by the share of runs or seeds with each verdict.

    Args: labels: of the models, and of the simulated respondents below them, in order.
      summary: what `summarize` returned.
    Returns: the figure with its caption.
    """
    found = {**summary["respondents"], **summary["nulls"]}
    names = [name for name in labels if name in found]
    constructs = _constructs(summary)
    width, gap = len(constructs), 0.6
    figure = Figure(figsize=(12.6, 0.34 * len(names) + 1.9), layout="constrained")
    axis = figure.subplots()
    for line, name in enumerate(names):
        counts = next(iter(found[name]["verdicts"].values()))
        for group, criterion in enumerate(CRITERIA):
            for place, construct in enumerate(constructs):
                _fill(axis, group * (width + gap) + place, line, counts.get(criterion, {}).get(construct, {}))
    for group, criterion in enumerate(CRITERIA):
        middle = group * (width + gap) + width / 2
        axis.text(middle, -0.35, criterion, ha="center", va="bottom", fontsize=9.5, weight="bold")
    ticks = [g * (width + gap) + n + 0.5 for g in range(len(CRITERIA)) for n in range(width)]
    axis.set_xticks(ticks, [c[:5] + "." for c in constructs] * len(CRITERIA), rotation=90, fontsize=8)
    axis.set_yticks(np.arange(len(names)) + 0.5, [labels[name] for name in names])
    models = sum(name in summary["respondents"] for name in names)
    if 0 < models < len(names):
        axis.axhline(models, color=RULE, linewidth=1.2)
    axis.set(xlim=(-0.1, len(CRITERIA) * (width + gap)), ylim=(len(names), -0.9))
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    handles = [Patch(color=color, label=verdict) for verdict, color in FILLS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return Picture(
        "realbehavior_verdicts",
        "Verdicts by respondent, criterion and construct, in the first questionnaire: models above the line "
        "(after their training), simulated respondents below it. Where runs or seeds disagree, a field is "
        "divided in proportion.",
        figure,
    )


def _constructs(summary: BehaviorSummary) -> list[str]:
    found = next(iter({**summary["respondents"], **summary["nulls"]}.values()))
    return list(next(iter(next(iter(found["verdicts"].values())).values())))


def _fill(axis: Axes, x: float, y: float, counts: Mapping[str, int]) -> None:
    total, left = sum(counts.values()), x + 0.03
    for verdict, color in FILLS.items():
        share = counts.get(verdict, 0) / total if total else 0.0
        axis.add_patch(Rectangle((left, y + 0.05), 0.94 * share, 0.9, color=color, linewidth=0))
        left += 0.94 * share


def drift(summary: BehaviorSummary) -> Picture:
    """Mean shift of the scores over training."""
    apart = summary["between_bases"]
    figure = _along(summary, "drift", "mean |Δ|, SD of the base", None if apart is None else apart["drift"])
    for axis in figure.axes:
        axis.axhline(summary["settings"]["drift"], color=REFERENCE, linestyle=":", linewidth=1.2)
        axis.set_ylim(bottom=0)
    return Picture(
        "realbehavior_drift",
        "How far scores lie from the base's, along training; bands are 95 % intervals over runs. Dotted: "
        "what counts as moved; dashed: how far bases of other seeds lie apart.",
        figure,
    )


def dispersion(summary: BehaviorSummary) -> Picture:
    """How well described people are told apart over training, relative to the base."""
    figure = _along(summary, "dispersion", "SD over people, ratio to the base", None)
    for axis in figure.axes:
        axis.axhline(1.0, color=REFERENCE, linewidth=1.2)
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
        axis.tick_params(axis="y", which="both", labelsize=8)
    return Picture(
        "realbehavior_dispersion",
        "How differently one model answers as different people, relative to its base, along training; bands "
        "are 95 % intervals over runs. Below 1, characteristics are restricted.",
        figure,
    )


def _along(summary: BehaviorSummary, what: str, label: str, dashed: float | None) -> Figure:
    """A panel for fine-tuning, and one for reinforcement learning if there is any; steps are evenly spaced,
    whatever lies between them."""
    rows, styles = summary["rows"], row_styles(summary["labels"])
    groups = [[n for n in rows if n != REINFORCED], [n for n in rows if n == REINFORCED]]
    titles = ("fine-tuning on instructions", "reinforcement learning from tests")
    units = ("instruction samples", "rounds")
    panels = [part for part in zip(groups, titles, units, strict=True) if part[0]]
    figure = Figure(figsize=(9.6, 3.7), layout="constrained")
    for axis, (names, title, unit) in zip(
        figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels, strict=True
    ):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
        for name in names:
            _line(axis, rows[name], what, summary["labels"][name], styles[name])
        steps = rows[names[0]]["steps"]
        axis.set_xticks(range(len(steps)), ["base", *(f"{step:,}" for step in steps[1:])])
        if dashed is not None and REINFORCED not in names:
            axis.axhline(dashed, color=REFERENCE, linestyle="--", linewidth=1, label="another base")
        axis.set(title=title, xlabel=unit)
        axis.legend(frameon=False, fontsize=9)
    figure.axes[0].set_ylabel(label)
    return figure


def _line(axis: Axes, row: JsonRecord, what: str, label: str, style: RowStyle) -> None:
    color, marker = style
    for path in row["paths"][what] if row["runs"] > 1 else ():
        axis.plot(range(len(path)), _numbers(path), color=color, alpha=0.3, linewidth=0.8)
    mean, low, high = (_numbers([s[end] for s in row[what]]) for end in ("mean", "low", "high"))
    axis.plot(range(len(mean)), mean, color=color, marker=marker, markersize=5, label=label)
    axis.fill_between(range(len(mean)), low, high, color=color, alpha=0.12, linewidth=0)


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.asarray([np.nan if value is None else value for value in values])


def profile(summary: BehaviorSummary) -> Picture:
    """Shift of every scale at the end of training."""
    rows, styles = summary["rows"], row_styles(summary["labels"])
    scales = list(next(iter(rows.values()))["deltas"])
    figure = Figure(figsize=(7.6, 0.36 * len(scales) + 1.4), layout="constrained")
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.3)
    axis.axvline(0, color=REFERENCE, linewidth=1.2)
    for number, (name, row) in enumerate(rows.items()):
        y = np.arange(len(scales)) + 0.22 * (number - (len(rows) - 1) / 2)
        mean, low, high = (
            _numbers([row["deltas"][s][end] for s in scales]) for end in ("mean", "low", "high")
        )
        color, marker = styles[name]
        axis.hlines(y, low, high, color=color, linewidth=1.6)
        axis.plot(mean, y, marker, color=color, markersize=5.5, label=summary["labels"][name])
    names = [f"{s.partition('/')[2]}, {s.partition('/')[0].replace('_', '-')}" for s in scales]
    axis.set_yticks(range(len(scales)), names)
    axis.invert_yaxis()
    axis.set_xlabel("Δ at the end of training, SD of the base")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return Picture(
        "realbehavior_profile",
        "Shift of each scale from base to the end of training; lines are 95 % intervals over runs, where "
        "there are several.",
        figure,
    )
