"""Joint results of the cells of a study on a pretrained base: knowledge kept at equal task accuracy and at
equal divergence from the base, and whether the way of fine-tuning matters where both are equal.

A run is one row with one seed and one learning rate; its path goes from the base through its snapshots. On
the path, one measure is read at a level of another by linear interpolation. Intervals are Student's t over
runs with the chosen learning rate. A single run has none, except for shares of facts and tasks at its end,
which get Wilson intervals.

The test. Over all snapshots of all runs, with every learning rate,

    kept = c + c1 KL + c2 KL² + c3 tasks + seed + row + error

(KL on own answers, base ‖ tuned, in nats per token). The errors within a run are dependent, so whole runs are
permuted (Freedman and Lane 1983): the residuals of the model without rows are redistributed among runs of the
same seed, run by run, and F of the row effects is compared with that of the permutations. This is done for
the given facts, so p says nothing about others. A row's effect is its distance from the mean of all rows; its
interval accounts for both which runs there are and which facts are known, by leaving out one run at a time,
then one relation of facts at a time (jackknife), and adding the variances. Rows that ran with one learning
rate where others have several are left out: the rate alone makes a difference at equal KL and tasks.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from evals.psychometrics.uncertainty import mean_score
from jaxmoe.json_values import JsonMapping, JsonObject
from training.studies.intervals import interval
from training.studies.loramoe.contrasts import (
    DULL,
    DULL_LEVELS,
    KL_LEVELS,
    LEVELS,
    PAIRS,
    Facts,
    accuracy,
    contrasts,
    divergence,
    half_width,
)
from training.studies.loramoe.frontier_runs import FrontierRun, FrontierRuns

STEP = 0.05  # levels of task accuracy are multiples of it
PERMUTATIONS = 2000
SPARE = 10  # snapshots in excess of coefficients, below which a fit says nothing
# the divergences at which rows are held equal: on which texts, and its direction; the first is the main one
OWN = ("own", "forward")
OTHERS = (("own", "backward"), ("answers", "forward"), ("prompts", "forward"), ("plain", "forward"))
# the measures read at a level
READ = ("completed", "kl", "tasks")


def path(base: JsonMapping, run: FrontierRun, kl: tuple[str, str] = OWN) -> list[dict[str, float]]:
    """From the base on: volume, share of known facts kept, task accuracy, divergence from the base.

    `kl_plain` is the divergence on statements in plain text, where it was measured.

    Args:
      base: `test` of the base's cell.
      run: a run from this base.
      kl: which divergence to use.
    Returns: a point for each snapshot, or share of an average, in order of distance from the base.
    """
    snapshots = run.result["snapshots"]
    plain = all("plain" in found["kl"] for found in snapshots)
    start = {"volume": 0.0, "completed": 1.0, "tasks": float(base["tasks"]), "kl": 0.0}
    points = [start | ({"kl_plain": 0.0} if plain else {})]
    for found in snapshots:
        seen = {"volume": float(found["volume"]), "completed": found["completed"], "tasks": found["tasks"]}
        seen |= {"kl_plain": found["kl"]["plain"]["forward"]} if plain else {}
        points.append(seen | {"kl": found["kl"][kl[0]][kl[1]]})
    return points


def read_off(points: Sequence[Mapping[str, float]], at: str, level: float, measure: str) -> float:
    """The value of one measure where another first reaches a level; NaN if it never does.

    Args:
      points: what `path` returned.
      at: the other measure.
      level: the level that it reaches.
      measure: the measure to read.
    Returns: value in the measure's units, on a straight line between two points.
    """
    for before, after in pairwise(points):
        if before[at] < level <= after[at]:
            share = (level - before[at]) / (after[at] - before[at])
            return before[measure] + share * (after[measure] - before[measure])
    return math.nan


def summarize(runs: FrontierRuns, main: Sequence[str], tasks: int, facts: Facts | None = None) -> JsonObject:
    """Everything that the page shows, as plain JSON.

    Args:
      runs: all runs so far.
      main: names of the rows that are compared; the others vary one thing each.
      tasks: number of held-out tasks that accuracy rests on.
      facts: the facts that the base knows, for the comparison of pairs; None skips it.
    Returns: plain JSON.
    """
    if runs.base is None:
        return {"base": None, "rows": {}, "tried": {}, "level": None, "kl_level": None, "test": None}
    test, groups = runs.base["test"], runs.groups()
    compared = [path(test, run) for mine in groups.values() if mine[0].row in main for run in mine]
    level = _floor(min((max(p["tasks"] for p in points) for points in compared), default=0.0))
    kl_level = min((max(p["kl"] for p in points) for points in compared), default=None)
    base = {k: v for k, v in runs.base.items() if k not in ("answers", "known")}
    mains = [run for run in runs.runs if run.row in main]
    final, tested = [run for run in mains if run.final], _with_as_many_rates(mains)
    return {
        "base": base | {"known": _counts(runs.base["known"])},
        "level": level,
        "kl_level": kl_level,
        "rows": {
            key: {
                "row": mine[0].row,
                "main": mine[0].row in main,
                **_row(runs.base, mine, tasks, level, kl_level),
            }
            for key, mine in groups.items()
        },
        "tried": {name: _tried(test, [run for run in runs.runs if run.row == name]) for name in main},
        # rows that vary one thing ran once, and shares of an update are not volumes
        "test": row_test(tested, test, facts),
        "other_tests": {
            f"{texts} {way}": row_test(tested, test, facts, kl=(texts, way))
            for texts, way in OTHERS
            if all(texts in found["kl"] for run in tested for found in run.result["snapshots"])
        },
        "contrasts": None if facts is None else contrasts(test, final, facts, levels=_levels(level)),
        "contrasts_without_dull": None
        if facts is None or set(DULL) - test.get("families", {}).keys()
        else contrasts(test, final, facts, PAIRS, DULL_LEVELS, partial(accuracy, without=DULL)),
        "at_kl": None if facts is None else contrasts(test, final, facts, PAIRS, KL_LEVELS, divergence),
    }


def _with_as_many_rates(runs: Sequence[FrontierRun]) -> list[FrontierRun]:
    """Leaves out rows that ran with one learning rate where others have several."""
    rates = {row: len({run.rate for run in runs if run.row == row}) for row in {run.row for run in runs}}
    return [run for run in runs if rates[run.row] > 1 or max(rates.values()) == 1]


def _tried(base: JsonMapping, runs: Sequence[FrontierRun]) -> list[JsonObject]:
    """Every learning rate of a row at seed 0; final if all seeds ran with it."""
    return [
        {
            "rate": run.rate,
            "final": run.final,
            "dev": run.result["dev_tasks"],
            "path": path(base, run),
        }
        for run in sorted(runs, key=lambda run: run.rate)
        if run.seed == 0
    ]


def _counts(known: JsonMapping) -> JsonObject:
    counts = {name: len(found) for name, found in known.items() if name != "files"}
    return counts | {"files": {name: len(found) for name, found in known["files"].items()}}


def shares(values: Sequence[float], items: int) -> JsonObject:
    """Mean with its interval: Student's t over runs, or, for a single run, Wilson's over its items.

    Args:
      values: one share per run.
      items: number of items that each share rests on.
    Returns: as from `training.studies.intervals.interval`.
    """
    if len(values) != 1:
        return interval(values)
    right = round(values[0] * items)
    score = mean_score([1.0] * right + [0.0] * (items - right))
    return {"mean": round(values[0], 4), "low": round(score.low, 4), "high": round(score.high, 4), "n": 1}


def _levels(shared: float | None) -> tuple[float, ...]:
    """Levels of accuracy at which rows are compared: the usual ones, and one above that all rows reach; where
    some row does not reach the usual ones, as many below."""
    if shared is None or LEVELS[0] <= shared <= LEVELS[-1]:
        return LEVELS
    if shared > LEVELS[-1]:
        return (*LEVELS, shared)
    below = (shared - STEP * back for back in reversed(range(len(LEVELS))))
    return tuple(round(level, 10) for level in below if level > STEP / 2)


def _floor(accuracy: float) -> float | None:
    steps = math.floor(accuracy / STEP + 1e-9)
    return round(steps * STEP, 10) if steps > 0 else None


def _row(
    base: JsonMapping, mine: Sequence[FrontierRun], tasks: int, level: float | None, kl_level: float | None
) -> JsonObject:
    test = base["test"]
    last = [run.result["snapshots"][-1] for run in mine]
    at_level = {} if level is None else _read(test, mine, "tasks", level)
    at_kl = {} if kl_level is None else _read(test, mine, "kl", kl_level)
    known = _counts(base["known"])
    larger = {
        what: shares([s[what] for s in last if s.get(what) is not None], known[what])
        for what in ("choices", "few_shot")
    }
    files = {
        file: shares([s["files"][file] for s in last if s["files"].get(file) is not None], count)
        for file, count in known["files"].items()
        if all("files" in s for s in last)
    }
    ends = {
        "completed": shares([s["completed"] for s in last], known["facts"]),
        "tasks": shares([s["tasks"] for s in last], tasks),
        "tasks_said": shares([s["tasks_said"] for s in last if "tasks_said" in s], tasks),
    }
    kl = {
        f"{where} {way}": interval([s["kl"][where][way] for s in last])
        for where in last[0]["kl"]
        for way in ("forward", "backward")
    }
    return {
        "rate": mine[0].rate,
        "final": any(run.final for run in mine),
        "seeds": sorted(run.seed for run in mine),
        "trained_weights": mine[0].result["trained_weights"],
        "last": ends | larger,
        "files": files,
        "kl": kl,
        "at_level": at_level,
        "at_kl": at_kl,
        "paths": [path(test, run) for run in mine],
        "alphas": [s["alpha"] for s in mine[0].result["snapshots"] if "alpha" in s],
    }


def _read(test: JsonMapping, runs: Sequence[FrontierRun], at: str, level: float) -> JsonObject:
    paths = [path(test, run) for run in runs]
    return {
        what: interval([read_off(points, at, level, what) for points in paths]) for what in READ if what != at
    }


# the test


class _Design(NamedTuple):
    """Stacked snapshots: what is explained, by what, and to which run (0, 1, ..) each belongs.

    `without` is what is explained when one relation's facts are left out, one column per relation.
    """

    kept: np.ndarray
    shared: np.ndarray
    rows: np.ndarray
    run: np.ndarray
    without: np.ndarray


def row_test(
    runs: Sequence[FrontierRun],
    base: JsonMapping,
    facts: Facts | None = None,
    *,
    kl: tuple[str, str] = OWN,
    seed: int = 0,
) -> JsonObject | None:
    """Whether rows keep different amounts at equal KL and equal task accuracy; see the module.

    Args:
      runs: runs with all learning rates, each with as many snapshots.
      base: `test` of the base's cell.
      facts: only its counted facts are used; None takes the share of all facts, and intervals then account
        for runs alone.
      kl: which divergence is held equal.
      seed: seed of the permutations.
    Returns: p, the explained shares of the variance, and each row's effect; None if there is only one row,
      fewer than two runs per row, or hardly more snapshots than coefficients.
    """
    sizes = {len(run.result["snapshots"]) for run in runs}
    names = sorted({run.row for run in runs})
    if len(names) < 2 or len(sizes) != 1 or len(runs) < 2 * len(names):
        return None
    design = _design(runs, names, base, facts, kl)
    everything = np.hstack([design.shared, design.rows])
    if len(everything) < np.linalg.matrix_rank(everything) + SPARE:
        return None
    effects = _effects(design.kept, everything, len(names))
    return {
        "runs": len(runs),
        "snapshots": len(design.kept),
        "p": _permuted(design, [run.seed for run in runs], seed),
        "explained": {
            "KL": _explained(design.kept, design.shared[:, :3]),
            "tasks": _explained(design.kept, design.shared[:, [0, 3]]),
            "KL and tasks": _explained(design.kept, design.shared),
            "KL, tasks and row": _explained(design.kept, everything),
        },
        "effects": _jackknife(design, everything, names, effects),
    }


def _design(
    runs: Sequence[FrontierRun],
    names: Sequence[str],
    base: JsonMapping,
    facts: Facts | None,
    kl: tuple[str, str],
) -> _Design:
    kept, shared, rows, owner, without = [], [], [], [], []
    seeds = sorted({run.seed for run in runs})
    for number, run in enumerate(runs):
        for found, point in zip(run.result["snapshots"], path(base, run, kl)[1:], strict=True):
            share, less = (point["completed"], []) if facts is None else _kept(found["kept"], facts)
            kept.append(share)
            without.append(less)
            of_seed = [float(run.seed == seed) for seed in seeds[1:]]
            shared.append([1.0, point["kl"], point["kl"] ** 2, point["tasks"], *of_seed])
            # effects sum to zero: the last row is minus all others
            code = np.eye(len(names))[names.index(run.row)]
            rows.append(code[:-1] - code[-1])
            owner.append(number)
    return _Design(*(np.array(one) for one in (kept, shared, rows, owner, without)))


def _kept(marks: str, facts: Facts) -> tuple[float, list[float]]:
    """The share kept of the counted facts, and the same without one relation at a time."""
    right = np.array([int(mark) for mark in marks])[facts.counted > 0]
    relations = facts.relations[facts.counted > 0]
    names = np.unique(relations) if len(np.unique(relations)) > 1 else []
    return float(right.mean()), [float(right[relations != name].mean()) for name in names]


def _fitted(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return x @ np.linalg.lstsq(x, y, rcond=None)[0]


def _explained(y: np.ndarray, x: np.ndarray) -> float:
    """R²; 0 if nothing varies."""
    total = ((y - y.mean()) ** 2).sum()
    return float(1 - ((y - _fitted(y, x)) ** 2).sum() / total) if total > 0 else 0.0


def _f(y: np.ndarray, less: np.ndarray, more: np.ndarray) -> float:
    """(RSS of less − RSS of more) / RSS of more: F up to a constant."""
    before, after = (((y - _fitted(y, x)) ** 2).sum() for x in (less, more))
    return float((before - after) / max(after, 1e-12))


def _permuted(design: _Design, seeds: Sequence[int], seed: int) -> float:
    """Share of permutations whose F is at least that of the data, which count as one of them."""
    more = np.hstack([design.shared, design.rows])
    found = _f(design.kept, design.shared, more)
    fitted = _fitted(design.kept, design.shared)
    left = design.kept - fitted
    by_run = [left[design.run == run] for run in range(len(seeds))]
    rng, reached = np.random.default_rng(seed), 0
    for _ in range(PERMUTATIONS):
        order = np.arange(len(seeds))
        for one in set(seeds):
            places = np.flatnonzero(np.array(seeds) == one)
            order[places] = rng.permutation(places)
        dealt = fitted + np.concatenate([by_run[run] for run in order])
        reached += _f(dealt, design.shared, more) >= found - 1e-12
    return (reached + 1) / (PERMUTATIONS + 1)


def _effects(y: np.ndarray, x: np.ndarray, rows: int) -> np.ndarray:
    """Each row's effect; they sum to zero."""
    coefficients = np.linalg.lstsq(x, y, rcond=None)[0][-(rows - 1) :]
    return np.append(coefficients, -coefficients.sum())


def _jackknife(design: _Design, x: np.ndarray, names: Sequence[str], effects: np.ndarray) -> JsonObject:
    """Effects with 95 % intervals; none for a row with one run, which has no effect without that run."""
    count = design.run.max() + 1
    owners = [design.rows[design.run == run][0] for run in range(count)]
    single = {tuple(o) for o in owners if sum((o == other).all() for other in owners) == 1}
    left_out = [
        _effects(design.kept[design.run != run], x[design.run != run], len(names))
        for run in range(count)
        if tuple(owners[run]) not in single
    ]
    of_facts = [_effects(design.without[:, n], x, len(names)) for n in range(design.without.shape[1])]
    parts = [(_spread(left_out), count - x.shape[1])]
    if of_facts:
        parts.append((_spread(of_facts), len(of_facts) - 1))
    found = {}
    for number, name in enumerate(names):
        entry: JsonObject = {"mean": float(effects[number]), "low": None, "high": None}
        code = np.eye(len(names))[number]
        alone = tuple(code[:-1] - code[-1]) in single
        variances = [(float(variance[number]), freedom) for variance, freedom in parts]
        if not alone and min(freedom for _, freedom in parts) > 0 and len(left_out) > 1:
            half = half_width(variances)
            entry |= {"low": entry["mean"] - half, "high": entry["mean"] + half}
        found[name] = entry
    return found


def _spread(left_out: Sequence[np.ndarray]) -> np.ndarray:
    """The jackknife's variance of each effect."""
    values = np.array(left_out)
    return (len(values) - 1) / len(values) * ((values - values.mean(0)) ** 2).sum(0)
