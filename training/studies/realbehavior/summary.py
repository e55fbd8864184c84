"""Joint results from the answers of the RealBehavior study: verdicts, drift, dispersion, wrong verdicts.

A run is one training with its answers, starting from the base. The respondents in its statistics are
described people x conditions (wording x option order), [P, C] for each scale; their SDs are those of a small
model, not of people. With several runs, intervals are Student's t over runs; a single run's results are
resampled over described people, and are no evidence about training.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from evals.psychometrics.comparisons import glass_delta
from evals.psychometrics.estimate import pearson, percentile_estimate
from evals.psychometrics.uncertainty import mean_score
from training.studies.cells import Result
from training.studies.intervals import interval
from training.studies.realbehavior.answers import STYLES, JsonRecord, ScoringKey, conclusions, tally

BASE, CODE_BASE, REINFORCED = "base", "code_base", "reinforced"
VERDICTS = ("faithful", "undetermined", "not faithful")
# smaller dispersion ratios count as this, so that their logarithms have a mean
LEAST_RATIO = 1e-3
# scores that differ by less than this count as equal, in points of the scale
ROUNDING = 1e-6
DRAWS = 2000
# what `summarize` returns; pages and figures are made from it
BehaviorSummary = JsonRecord
AnswerSnapshot = JsonRecord


class AnsweredRun(NamedTuple):
    """One training: its snapshots, starting with the base."""

    row: str
    base: int
    seed: int
    snapshots: Sequence[AnswerSnapshot]


def summarize(
    bases: Mapping[int, AnswerSnapshot],
    runs: Sequence[AnsweredRun],
    nulls: Mapping[str, JsonRecord],
    key: ScoringKey,
) -> Result:
    """Everything that the page shows, as plain JSON.

    Args:
      bases: answers of the bases, by number.
      runs: runs that start from these bases.
      nulls: results of simulated respondents, by name.
      key: which answers are desirable, and what the descriptions say.
    Returns: plain JSON.
    """
    names = list(dict.fromkeys(run.row for run in runs))
    by_row = {name: [run for run in runs if run.row == name] for name in names}
    asked = {BASE: list(bases.values())}
    asked |= {name: [run.snapshots[-1] for run in of] for name, of in by_row.items() if name != REINFORCED}
    if REINFORCED in by_row:
        asked[CODE_BASE] = [run.snapshots[0] for run in by_row[REINFORCED]]
        asked[REINFORCED] = [run.snapshots[-1] for run in by_row[REINFORCED]]
    return {
        "respondents": {name: _judged(found, key) for name, found in asked.items() if found},
        "rows": {name: _row(of, key) for name, of in by_row.items()},
        "between_bases": between(list(bases.values())),
        "nulls": {name: wrong(name, result) for name, result in nulls.items()},
    }


def scores(snapshot: AnswerSnapshot, kind: str = "expected") -> np.ndarray:
    """All scales of a snapshot [K, P, C].

    Args:
      snapshot: answers of one model.
      kind: "expected" for expected values over the options, "chosen" for the chosen option.
    Returns: the array.
    """
    return np.asarray(list(snapshot[kind].values()), np.float64)


def deltas(base: AnswerSnapshot, tuned: AnswerSnapshot, kind: str = "expected") -> np.ndarray:
    """Δ = (mean of tuned − mean of base) / SD of base, by scale [K]; means and SD (n − 1) are over all people
    and conditions. NaN if the base's scores do not vary.

    Args:
      base, tuned: answers of the same people.
      kind: as in `scores`.
    Returns: value in standard deviations of the base.
    """
    pairs = zip(scores(base, kind), scores(tuned, kind), strict=True)
    return np.asarray(
        [
            glass_delta(after, before).value if np.ptp(before) > ROUNDING else math.nan
            for before, after in pairs
        ]
    )


def drift(base: AnswerSnapshot, tuned: AnswerSnapshot, kind: str = "expected") -> float:
    """Mean |Δ| over scales. It has no noise: the same people answer, and an unchanged model repeats itself.

    Args:
      base, tuned: answers of the same people.
      kind: as in `scores`.
    Returns: value in standard deviations of the base.
    """
    return _mean(np.abs(deltas(base, tuned, kind)))


def dispersion(base: AnswerSnapshot, tuned: AnswerSnapshot, kind: str = "expected") -> float:
    """√(Σ var of tuned / Σ var of base) over scales; var (n − 1) is that of people's means over conditions.

    Below 1, described people are told apart less than by the base: characteristics are restricted. It is
    pooled, so that a scale on which the base hardly varies does not decide. NaN if the base does not vary.

    Args:
      base, tuned: answers of the same people.
      kind: as in `scores`.
    Returns: the ratio.
    """
    before, after = (scores(s, kind).mean(axis=2).var(axis=1, ddof=1).sum() for s in (base, tuned))
    return math.sqrt(after / before) if before > ROUNDING**2 else math.nan


def signal(snapshot: AnswerSnapshot, key: ScoringKey) -> float:
    """Mean r over scales of people's scores with what their descriptions say; r is 0 if scores do not vary.

    Args:
      snapshot: answers of one model.
      key: what the descriptions say.
    Returns: in [-1, 1].
    """
    found = []
    for name, matrix in snapshot["expected"].items():
        r = pearson(np.asarray(matrix).mean(axis=1), np.asarray(key.traits[name])).value
        found.append(0.0 if math.isnan(r) else r)
    return _mean(np.asarray(found))


def flattering(base: AnswerSnapshot, tuned: AnswerSnapshot, key: ScoringKey) -> float:
    """Mean Δ over the scales that can flatter; positive means towards what is desirable.

    Args:
      base, tuned: answers of the same people.
      key: which direction is desirable.
    Returns: value in standard deviations of the base.
    """
    towards = np.asarray([key.flattering[name] for name in base["expected"]], np.float64)
    return _mean((deltas(base, tuned) * towards)[towards != 0])


def _mean(values: np.ndarray) -> float:
    """Mean of the values that are defined."""
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if len(kept) else math.nan


def between(bases: Sequence[AnswerSnapshot]) -> dict[str, float | None] | None:
    """How far apart the answers of bases are that differ only in their seed: means over ordered pairs."""
    pairs = [(a, b) for a in bases for b in bases if a is not b]
    if not pairs:
        return None
    ratios = [max(r, 1 / r) for r in (dispersion(a, b) for a, b in pairs) if r > 0]
    return {
        "drift": _known(_mean(np.asarray([drift(a, b) for a, b in pairs]))),
        "dispersion": _known(math.exp(_mean(np.log(ratios))) if ratios else math.nan),
    }


def _known(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


def ratio_interval(ratios: Sequence[float]) -> Result:
    """Geometric mean of ratios with the t interval of their logarithms."""
    found = interval([math.log(max(r, LEAST_RATIO)) if math.isfinite(r) else math.nan for r in ratios])
    return found | {
        k: None if found[k] is None else _known(math.exp(found[k])) for k in ("mean", "low", "high")
    }


def _row(runs: Sequence[AnsweredRun], key: ScoringKey) -> Result:
    steps = [snapshot["at"] for snapshot in runs[0].snapshots]

    def over(
        what: Callable[[AnswerSnapshot, AnswerSnapshot], float],
        make: Callable[[Sequence[float]], Result] = interval,
    ) -> list[Result]:
        """A statistic of a snapshot and its base at every step, over runs."""
        return [make([what(r.snapshots[0], r.snapshots[n]) for r in runs]) for n in range(len(steps))]

    def style(name: str) -> Callable[[AnswerSnapshot, AnswerSnapshot], float]:
        return lambda _, tuned: math.nan if tuned["style"][name] is None else tuned["style"][name]

    names = list(runs[0].snapshots[0]["expected"])
    last = [(run.snapshots[0], run.snapshots[-1]) for run in runs]
    by_scale = np.asarray([deltas(before, after) for before, after in last])
    return {
        "runs": len(runs),
        "bases": sorted({run.base for run in runs}),
        "seeds": sorted({run.seed for run in runs}),
        "steps": steps,
        "drift": over(drift),
        "drift_chosen": over(lambda a, b: drift(a, b, "chosen")),
        "flattering": over(lambda a, b: flattering(a, b, key)),
        "dispersion": over(dispersion, ratio_interval),
        "dispersion_chosen": over(lambda a, b: dispersion(a, b, "chosen"), ratio_interval),
        "signal": over(lambda _, b: signal(b, key)),
        "spread": over(lambda _, b: float(np.sqrt(scores(b).mean(axis=2).var(axis=1, ddof=1).mean()))),
        "style": {name: over(style(name)) for name in STYLES},
        "deltas": {name: interval(by_scale[:, k].tolist()) for k, name in enumerate(names)},
        "paths": {
            what: [[_known(of(r.snapshots[0], s)) for s in r.snapshots] for r in runs]
            for what, of in (("drift", drift), ("dispersion", dispersion))
        },
        "within": within(*last[0]) if len(runs) == 1 else None,
    }


def within(base: AnswerSnapshot, tuned: AnswerSnapshot) -> Result:
    """Drift and dispersion of one run, with percentile intervals from a bootstrap over described people.

    Each draw uses the same people for base and tuned model. The intervals are about other people, not about
    other runs.

    Args:
      base, tuned: answers of the same people.
    Returns: plain JSON.
    """
    before, after = scores(base), scores(tuned)
    people = before.shape[1]
    picked = np.random.default_rng(0).integers(people, size=(DRAWS, people))
    drawn = [matrix[:, picked] for matrix in (before, after)]
    with np.errstate(divide="ignore", invalid="ignore"):
        old, new = (d.mean(axis=(2, 3)) for d in drawn)
        shift = np.abs(new - old) / drawn[0].std(axis=(2, 3), ddof=1)
        old, new = (d.mean(axis=3).var(axis=2, ddof=1).sum(axis=0) for d in drawn)
        ratio = np.sqrt(new / np.where(old > ROUNDING**2, old, np.nan))
    draws = {
        "drift": (drift(base, tuned), shift.mean(axis=0)),
        "dispersion": (dispersion(base, tuned), ratio),
    }
    found = {name: percentile_estimate(value, d, people) for name, (value, d) in draws.items()}
    return {
        name: {"mean": _known(e.value), "low": _known(e.low), "high": _known(e.high), "n": e.n}
        for name, e in found.items()
    }


def _judged(snapshots: Sequence[AnswerSnapshot], key: ScoringKey) -> Result:
    """Verdicts on one kind of model, counted over its runs."""
    found = [conclusions(snapshot["verdicts"]) for snapshot in snapshots]
    return {
        "runs": len(snapshots),
        "verdicts": tally([snapshot["verdicts"] for snapshot in snapshots]),
        "conclusions": [{v: list(one.values()).count(v) for v in VERDICTS} for one in found],
        "signal": interval([signal(snapshot, key) for snapshot in snapshots]),
        "style": {
            name: interval([math.nan if s["style"][name] is None else s["style"][name] for s in snapshots])
            for name in STYLES
        },
    }


def wrong(name: str, result: JsonRecord) -> Result:
    """How often the conclusion about a simulated respondent is wrong, with a Wilson interval over seeds.

    The constructs of one seed form one cluster. A respondent that gives the same answers with every seed has
    no sampling error: its rate is exact and has no interval.

    Args:
      name: name of the simulated respondent.
      result: its verdicts, counted over seeds.
    Returns: plain JSON.
    """
    right = "faithful" if name == "faithful" else "not faithful"
    marks, seeds = [], []
    for seed, counts in enumerate(result["conclusions"]):
        for verdict, count in counts.items():
            marks += [float(verdict != right)] * count
            seeds += [seed] * count
    score = mean_score(marks, seeds, interval="wilson")
    exact = result["distinct"] == 1
    return {
        "seeds": len(result["conclusions"]),
        "distinct": result["distinct"],
        "counts": {v: sum(c.get(v, 0) for c in result["conclusions"]) for v in VERDICTS},
        "right": right,
        "wrong": {
            "mean": _known(score.value),
            "low": None if exact else _known(score.low),
            "high": None if exact else _known(score.high),
        },
        "verdicts": result["verdicts"],
    }
