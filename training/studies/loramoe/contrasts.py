"""Which of two ways to fine-tune keeps more once both have learned equally much, or moved equally far from
their base: paired by seed and by fact.

A run's path is read fact by fact where the measure held equal first reaches a level, by linear interpolation
between the snapshots. A way's learning rates count only if every seed reaches the level with them, provided
there are any such rates: otherwise a lower rate would represent the lucky seeds and a higher one the others.
For each seed, the run that keeps most counts, so ways are compared at their best over equally many rates. The
difference between two ways has two sources of error, which seeds were run and which facts are known:

    SE² = s² / S + C / (C − 1) Σ_c (Σ_{i ∈ c} (d_i − d̄))² / N²

where s is the standard deviation of the S seeds' differences and d_i the mean difference of fact i over
seeds, for N facts in C relations (facts of one relation are kept or lost together). With one seed, only the
second part is known. Intervals are Student's t with Satterthwaite's degrees of freedom.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy import stats

from jaxmoe.json_values import JsonMapping, JsonObject
from training.studies.loramoe.frontier_runs import FrontierRun

LEVELS = (0.5, 0.55, 0.6, 0.65)
# nats per token, on the base's own answers
KL_LEVELS = (0.5, 1.0, 1.5)
# task families that hardly distinguish ways: nearly all test samples of sentiment have the same answer, a
# small model translates almost nothing correctly, and it is at chance on the two with few possible answers
DULL = ("sentiment", "translation", "coreference", "natural_language_inference")
DULL_LEVELS = (0.5, 0.6, 0.7)
# rows a and b by name, as b − a
PAIRS = (
    ("lora", "loramoe_lbc"),
    ("lora_attention", "attention"),
    ("full", "lora"),
    ("full", "loramoe_lbc"),
    ("full", "attention"),
    ("loramoe", "loramoe_lbc"),
)


# the quantity that is held equal, for a snapshot or the base
Measure = Callable[[JsonMapping], float]


class Facts(NamedTuple):
    """The facts that the base knows.

    Attributes:
      relations: the relation of each fact.
      counted: 1 for facts that count; 0 where an instruction teaches the same answer.
    """

    relations: np.ndarray
    counted: np.ndarray


def accuracy(found: JsonMapping, without: Sequence[str] = ()) -> float:
    """Task accuracy of a snapshot or the base.

    Args:
      found: has `tasks`, and `families` with equally many samples each.
      without: families to leave out.
    Returns: a share.
    """
    if not without:
        return float(found["tasks"])
    return float(np.mean([share for name, share in found["families"].items() if name not in without]))


def divergence(found: JsonMapping) -> float:
    """KL(base ‖ model) on the base's own answers, in nats per token; 0 for the base, which has no value.

    Args:
      found: a snapshot or the base.
    Returns: nats.
    """
    return float(found["kl"]["own"]["forward"]) if "kl" in found else 0.0


def kept_at(
    base: JsonMapping, run: FrontierRun, level: float, measure: Measure = accuracy
) -> np.ndarray | None:
    """How much of each fact a run keeps where a measure first reaches a level.

    Args:
      base: `test` of the base's cell.
      run: a run with `kept` in its snapshots.
      level: value of the measure.
      measure: what is held equal.
    Returns: [facts], between 0 and 1; None if the run never reaches the level.
    """
    snapshots = run.result["snapshots"]
    marks = [np.array([int(mark) for mark in one["kept"]], np.float64) for one in snapshots]
    points = [(measure(base), np.ones_like(marks[0]))]
    points += [(measure(one), kept) for one, kept in zip(snapshots, marks, strict=True)]
    for (before, kept_before), (after, kept_after) in pairwise(points):
        if before < level <= after:
            share = (level - before) / (after - before)
            return kept_before + share * (kept_after - kept_before)
    return None


class Best(NamedTuple):
    """How much of each counted fact a run keeps, between 0 and 1, and its learning rate."""

    kept: np.ndarray
    rate: float


def best_at(
    base: JsonMapping, runs: Sequence[FrontierRun], level: float, facts: Facts, measure: Measure = accuracy
) -> dict[int, Best]:
    """By seed, what the best of a way's runs keeps of the counted facts, for the seeds that reach the level.
    Learning rates with which some seed does not reach it are left out as long as there are others.

    Args:
      base: `test` of the base's cell.
      runs: runs of one way; several per seed if it ran at several learning rates.
      level: value of the measure.
      facts: the facts that the base knows.
      measure: what is held equal.
    Returns: by seed.
    """
    found: dict[int, Best] = {}
    sure = _sure(base, runs, level, measure)
    for run in [run for run in runs if run.rate in sure] or runs:
        kept = kept_at(base, run, level, measure)
        if kept is None:
            continue
        counted = kept[facts.counted > 0]
        if run.seed not in found or counted.mean() > found[run.seed].kept.mean():
            found[run.seed] = Best(counted, run.rate)
    return found


def contrast(
    before: Mapping[int, Best], after: Mapping[int, Best], relations: np.ndarray
) -> JsonObject | None:
    """The difference between two ways with its interval; see the module.

    Args:
      before, after: what `best_at` returned.
      relations: relations of the counted facts.
    Returns: mean, low, high and the number of seeds n; None if no seed reached the level with both.
    """
    seeds = sorted(before.keys() & after.keys())
    if not seeds:
        return None
    each = np.array([after[seed].kept - before[seed].kept for seed in seeds])
    mean = float(each.mean())
    apart = each.mean(axis=0) - mean
    groups = [apart[relations == relation].sum() for relation in np.unique(relations)]
    count = len(groups)
    of_facts = (
        count / (count - 1) * float(np.square(groups).sum()) / each.shape[1] ** 2 if count > 1 else math.nan
    )
    parts = [(of_facts, count - 1)]
    if len(seeds) > 1:
        parts.append((float(each.mean(axis=1).var(ddof=1)) / len(seeds), len(seeds) - 1))
    entry: JsonObject = {"mean": mean, "low": None, "high": None, "n": len(seeds)}
    if sum(part for part, _ in parts) > 0:  # false for NaN
        half = half_width(parts)
        entry |= {"low": mean - half, "high": mean + half}
    return entry


def half_width(parts: Sequence[tuple[float, int]]) -> float:
    """Half-width of a 95 % interval for an estimate whose error has several sources: Student's t with
    Satterthwaite's degrees of freedom.

    Args:
      parts: variances that add up, each with its degrees of freedom.
    Returns: half-width, in the units of their roots.
    """
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return 0.0
    freedom = variance**2 / sum(part**2 / df for part, df in parts)
    return float(stats.t.ppf(0.975, freedom)) * math.sqrt(variance)


def contrasts(
    base: JsonMapping,
    runs: Sequence[FrontierRun],
    facts: Facts,
    pairs: Sequence[tuple[str, str]] = PAIRS,
    levels: Sequence[float] = LEVELS,
    measure: Measure = accuracy,
) -> JsonObject:
    """Every pair that was run, and what each row keeps at each level.

    Args:
      base: `test` of the base's cell.
      runs: the runs at the rates that all seeds ran with.
      facts: the facts that the base knows.
      pairs: rows a and b by name, as b − a.
      levels: values of the measure.
      measure: what is held equal.
    Returns: plain JSON: `levels`; `pairs` with an entry or null per level; `kept` by row, with per level the
      mean, the number of seeds, the learning `rates` that represent it, and how many runs have their first
      snapshot beyond the level (`early`: read between the base and that snapshot); `rates` by row; `facts`
      and how many of them are `left out`.
    """
    rows = {name: [run for run in runs if run.row == name] for name in dict.fromkeys(run.row for run in runs)}
    relations = facts.relations[facts.counted > 0]

    def between(a: str, b: str, level: float) -> JsonObject | None:
        alike = _alike(base, rows[a], rows[b], level, measure)
        before, after = (best_at(base, mine, level, facts, measure) for mine in alike)
        return contrast(before, after, relations)

    def kept(mine: Sequence[FrontierRun], level: float) -> JsonObject:
        at = best_at(base, mine, level, facts, measure)
        return {
            "mean": float(np.mean([best.kept.mean() for best in at.values()])) if at else None,
            "n": len(at),
            "rates": sorted({best.rate for best in at.values()}),
            "early": sum(measure(run.result["snapshots"][0]) >= level for run in mine),
        }

    return {
        "levels": list(levels),
        "rates": {name: sorted({run.rate for run in mine}) for name, mine in rows.items()},
        "facts": len(facts.counted),
        "left out": int((facts.counted == 0).sum()),
        "kept": {name: [kept(mine, level) for level in levels] for name, mine in rows.items()},
        "pairs": [
            {"a": a, "b": b, "at": [between(a, b, level) for level in levels]}
            for a, b in pairs
            if a in rows and b in rows
        ],
    }


def _sure(base: JsonMapping, runs: Sequence[FrontierRun], level: float, measure: Measure) -> set[float]:
    """Learning rates with which every run reaches a level."""
    short = {run.rate for run in runs if kept_at(base, run, level, measure) is None}
    return {run.rate for run in runs} - short


def _alike(
    base: JsonMapping,
    one: Sequence[FrontierRun],
    other: Sequence[FrontierRun],
    level: float,
    measure: Measure,
) -> tuple[Sequence[FrontierRun], Sequence[FrontierRun]]:
    """Runs at the learning rates that both ways have, so that neither has more to choose from, and with which
    both reach the level, if there are any; all runs of both if their grids have no rate in common."""
    shared = {run.rate for run in one} & {run.rate for run in other}
    if not shared:
        return one, other
    both = [run for run in (*one, *other) if run.rate in shared]
    rates = _sure(base, both, level, measure) or shared
    return [run for run in one if run.rate in rates], [run for run in other if run.rate in rates]
