"""Means over runs with their intervals, as JSON, as a verdict and in words; shared by all studies."""

import math
from collections.abc import Sequence

from evals.psychometrics.uncertainty import Score, mean_score
from jaxmoe.json_values import JsonMapping, JsonObject
from training.studies.page import ClaimOutcome


def interval(values: Sequence[float]) -> JsonObject:
    """Mean with its 95 % t interval over runs as JSON; null where there is none, as with one run."""
    kept = [value for value in values if math.isfinite(value)]
    score: Score = mean_score(kept, interval="t")
    numbers = {"mean": score.value, "low": score.low, "high": score.high}
    return {k: round(v, 4) if math.isfinite(v) else None for k, v in numbers.items()} | {"n": len(kept)}


def judged(difference: JsonMapping | None) -> ClaimOutcome:
    """Shown if the whole interval lies above 0, refuted if it lies below, else not shown."""
    if difference is None or difference["low"] is None:
        return "not shown"
    if difference["low"] > 0:
        return "shown"
    return "refuted at this scale" if difference["high"] < 0 else "not shown"


def points(score: JsonMapping, *, signed: bool = False) -> str:
    """A score in percent with its interval, if there is one. A share's interval is cut at 0 and 100; a
    difference has a sign and one decimal.

    Args:
      score: mean with its interval, in [0, 1].
      signed: whether it is a difference.
    Returns: for example "91 [88, 93]".
    """
    if score["mean"] is None:
        return "–"
    if score["low"] is None:
        return whole(score["mean"], signed)
    ends = [score[end] if signed else min(max(score[end], 0.0), 1.0) for end in ("low", "high")]
    return f"{whole(score['mean'], signed)} [{', '.join(whole(end, signed) for end in ends)}]"


def pairs(difference: JsonMapping) -> str:
    """How many pairs a difference rests on.

    Args:
      difference: a difference with their number, n.
    Returns: for example "3 pairs".
    """
    return f"{difference['n']} pair{'s' * (difference['n'] != 1)}"


def whole(share: float, signed: bool) -> str:
    """A share in percent, or a difference with its sign and one decimal.

    Args:
      share: a share in [0, 1].
      signed: whether it is a difference.
    Returns: for example "91" or "+1.2".
    """
    return f"{100 * share:+.1f}".replace("-", "−") if signed else f"{round(100 * share)}"


def nats(score: JsonMapping) -> str:
    """A divergence with its interval, if there is one, cut at 0.

    Args:
      score: mean with its interval, in nats.
    Returns: for example "1.528 [1.301, 1.755]".
    """
    if score["mean"] is None:
        return "–"
    ends = "" if score["low"] is None else f" [{max(score['low'], 0):.3f}, {score['high']:.3f}]"
    return f"{score['mean']:.3f}{ends}"
