"""Plots of a PPO run: what it learned, what it was rewarded for, how far its curriculum got."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxmoe.json_values import JsonObject
from rl.feedback.rewards import VERDICTS
from training.plots.figures import series, smoothed
from training.plots.rows import COLORS

Records = Sequence[JsonObject]


def learning_figure(metrics: Records, title: str) -> Figure:
    """Held-out pass@1, reward and pass rate, KL and entropy, losses over rounds.

    Args:
      metrics: lines of metrics.jsonl.
      title: title of the whole figure.
    Returns: six panels; curves are smoothed over a twentieth of the rounds.
    """
    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(2, 3)
    figure.suptitle(title)
    _held_out(axes[0, 0], metrics)
    panels = {
        (0, 1): (("reward", "pass_rate"), "reward and share of programs that pass"),
        (0, 2): (("kl", "entropy"), "KL per response, entropy per token (nats)"),
        (1, 0): (("value_loss", "explained_variance"), "critic"),
        (1, 1): (("clip_fraction", "masked_share", "truncated"), "shares of tokens, of responses"),
        (1, 2): (("sample_s", "grade_s", "learn_s"), "seconds per round"),
    }
    for place, (keys, label) in panels.items():
        for color, key in zip(COLORS, keys, strict=False):
            steps, values = series(metrics, key)
            if len(values):
                line = smoothed(values, max(1, len(values) // 20))
                axes[place].plot(
                    steps, line, "-" if len(steps) > 1 else "o", color=color, label=key.replace("_", " ")
                )
        axes[place].set(xlabel="round", title=label)
        if axes[place].lines:
            axes[place].legend(fontsize="small")
    return figure


def _held_out(axis: Axes, metrics: Records) -> None:
    names = {k for record in metrics for k in record if k.startswith("held_out_pass_at_1")}
    for color, name in zip(COLORS, sorted(names), strict=False):
        steps, values = series(metrics, name)
        _, errors = series(metrics, name.replace("pass_at_1", "standard_error"))
        label = name.removeprefix("held_out_pass_at_1").removeprefix("_").replace("_", " ") or "all"
        axis.errorbar(steps, values, yerr=1.96 * errors, color=color, marker="o", markersize=3, label=label)
    axis.set(xlabel="round", title="held-out pass@1 (95 %)", ylim=(0, 1))
    if names:
        axis.legend(fontsize="small")


def verdict_figure(metrics: Records, title: str) -> Figure:
    """Shares of the verdicts over rounds, next to the number of problems at each stage.

    Args:
      metrics: lines of metrics.jsonl.
      title: title of the whole figure.
    Returns: two panels; one for a run without a curriculum.
    """
    stages = sorted({k for r in metrics for k in r if k.startswith("stage_")}, key=lambda k: int(k[6:]))
    figure = Figure(figsize=(7 + 6 * bool(stages), 3.8), layout="constrained")
    axes = figure.subplots(1, 1 + bool(stages), squeeze=False)[0]
    figure.suptitle(title)
    rounds = [record for record in metrics if "reward" in record]
    _stack(axes[0], rounds, [f"share_{name}" for name in VERDICTS], "verdicts")
    if stages:
        _stack(axes[1], rounds, stages, "problems at each stage (0: the whole task)")
    return figure


def _stack(axis: Axes, rounds: Records, keys: list[str], title: str) -> None:
    steps = np.asarray([record["step"] for record in rounds])
    shares = np.asarray([[record.get(key) or 0.0 for record in rounds] for key in keys])
    labels = [key.removeprefix("share_").replace("_", " ") for key in keys]
    axis.stackplot(steps, shares, labels=labels, colors=COLORS[: len(keys)], alpha=0.8)
    axis.set(xlabel="round", title=title)
    # outside the areas, which fill the whole panel; in stacking order
    axis.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1), reverse=True)
    axis.margins(x=0, y=0)
