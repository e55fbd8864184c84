"""Joint results of the LoRAMoE study's cells: means over runs, paired differences, routing.

A run is one row on one base with one seed. Intervals are Student's t over runs; differences are taken between
runs of the same base and seed. Runs on the same base are more alike than runs on different bases, so an
interval is about other seeds on these bases rather than about other bases.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from jaxmoe.json_values import JsonMapping, JsonObject
from training.studies.intervals import interval

MEASURES = ("completed", "asked", "tasks")
# rows of the comparison, as named in the claims
FULL, LORA, SAME_RATE = "full", "lora", "lora_same_rate"
FREE, CONSTRAINED, MATCHED = "loramoe", "loramoe_lbc", "loramoe_matched"
EVERYWHERE, LORA_EVERYWHERE = "attention", "lora_attention"
PAIRS = (
    (FULL, CONSTRAINED),
    (FULL, LORA),
    (LORA, CONSTRAINED),
    (LORA, FREE),
    (SAME_RATE, CONSTRAINED),
    (SAME_RATE, FREE),
    (FREE, CONSTRAINED),
    (FREE, MATCHED),
    (CONSTRAINED, EVERYWHERE),
    (FULL, EVERYWHERE),
    (LORA_EVERYWHERE, EVERYWHERE),
)
# names of task types in the telemetry (training.supervised.telemetry.TASKS)
KNOWLEDGE, OTHER = "knowledge", "other"
# downstream accuracies at which knowledge is compared are multiples of this
STEP = 0.05


class TunedRun(NamedTuple):
    """One fine-tuning: `result` is its cell's."""

    row: str
    base: int
    seed: int
    rate: float
    result: JsonObject

    def last(self, measure: str) -> float:
        """A measure at the largest volume."""
        return float(self.result["snapshots"][-1][measure])


@dataclass
class TunedRuns:
    """All results: test scores of the bases, runs with the chosen learning rates, runs with other rates."""

    bases: dict[int, JsonObject] = field(default_factory=dict)
    final: list[TunedRun] = field(default_factory=list)
    tried: list[TunedRun] = field(default_factory=list)

    def of(self, row: str) -> list[TunedRun]:
        """A row's runs with its chosen learning rate."""
        return [run for run in self.final if run.row == row]


def summarize(runs: TunedRuns, main: Sequence[str], volumes: Sequence[int]) -> JsonObject:
    """Everything that the page shows, as plain JSON.

    Args:
      runs: all runs with their bases.
      main: names of the rows that are compared.
      volumes: numbers of samples, in ascending order.
    Returns: plain JSON.
    """
    level = common_level(runs, [run for row in main for run in runs.of(row)])
    names = list(dict.fromkeys(run.row for run in runs.final))
    return {
        "volumes": list(volumes),
        "bases": {str(number): scores for number, scores in sorted(runs.bases.items())},
        "learning_rates": _learning_rates(runs, level),
        "level": level,
        "rows": {name: _row(runs, name, level) for name in main if name in names},
        "sweep": {name: _row(runs, name, level) for name in names if name not in main},
        "differences": differences(runs, [(CONSTRAINED, name) for name in names if name not in main]),
        "routing": {name: found for name in names if (found := routing(runs.of(name)))},
    }


def trajectory(runs: TunedRuns, run: TunedRun) -> list[dict[str, float]]:
    """The measures of a run, starting from its base (volume 0).

    Args:
      runs: all runs with their bases.
      run: one of them.
    Returns: one point per volume.
    """
    base = runs.bases[run.base]
    points = [{"volume": 0, **{measure: base[measure] for measure in MEASURES}}]
    return points + [{k: point[k] for k in ("volume", *MEASURES)} for point in run.result["snapshots"]]


def knowledge_at(points: Sequence[Mapping[str, float]], level: float, measure: str) -> float:
    """A measure of knowledge where downstream accuracy first reaches a level, by linear interpolation between
    snapshots; NaN if it never does.

    Args:
      points: what `trajectory` returned.
      level: downstream accuracy, in [0, 1].
      measure: the measure of knowledge.
    Returns: value in the measure's units.
    """
    for before, after in pairwise(points):
        if before["tasks"] < level <= after["tasks"]:
            share = (level - before["tasks"]) / (after["tasks"] - before["tasks"])
            return before[measure] + share * (after[measure] - before[measure])
    return math.nan


def common_level(runs: TunedRuns, compared: Sequence[TunedRun]) -> float | None:
    """The highest multiple of STEP that the downstream accuracy of each of these runs reaches.

    Args:
      runs: all runs with their bases.
      compared: the runs in question.
    Returns: level in [0, 1]; None if some run reaches no multiple.
    """
    tops = [max(point["tasks"] for point in trajectory(runs, run)) for run in compared]
    steps = math.floor(min(tops, default=0.0) / STEP + 1e-9)
    return round(steps * STEP, 10) if steps > 0 else None


def _learning_rates(runs: TunedRuns, level: float | None) -> dict[str, list[JsonObject]]:
    """By row, for base 0 and seed 0: every rate that was tried, its dev accuracy, its path on the test, and
    the facts completed where the path reaches the common level."""
    found: dict[str, list[JsonObject]] = {}
    for run in sorted([*runs.final, *runs.tried], key=lambda run: (run.row, run.rate)):
        if run.base == run.seed == 0:
            path = trajectory(runs, run)
            known = math.nan if level is None else knowledge_at(path, level, "completed")
            entry = {"rate": run.rate, "dev": run.result["dev_tasks"], "path": path}
            entry["at_level"] = known if math.isfinite(known) else None
            found.setdefault(run.row, []).append(entry)
    return found


def _row(runs: TunedRuns, name: str, level: float | None) -> JsonObject:
    mine = runs.of(name)
    snapshots = range(len(mine[0].result["snapshots"]))
    curves = {
        measure: [interval([float(run.result["snapshots"][n][measure]) for run in mine]) for n in snapshots]
        for measure in MEASURES
    }
    families = sorted(mine[0].result["snapshots"][-1]["families"])
    at = (
        {}
        if level is None
        else {
            measure: interval([knowledge_at(trajectory(runs, run), level, measure) for run in mine])
            for measure in ("completed", "asked")
        }
    )
    return {
        "runs": len(mine),
        "bases": sorted({run.base for run in mine}),
        "seeds": sorted({run.seed for run in mine}),
        "rate": mine[0].rate,
        "trained_weights": mine[0].result["trained_weights"],
        "curves": curves,
        "at_level": at,
        "families": {
            family: interval([run.result["snapshots"][-1]["families"][family] for run in mine])
            for family in families
        },
        "paths": [trajectory(runs, run) for run in mine],
    }


def differences(runs: TunedRuns, sweep: Sequence[tuple[str, str]] = ()) -> list[JsonObject]:
    """Differences paired by base and seed: b − a at the largest volume, and for knowledge also at equal
    downstream accuracy: the highest level that all runs of a and b reach.

    The first are against the runs' own bases; the last are those of the sweep.

    Args:
      runs: all runs with their bases.
      sweep: pairs of rows (a, b).
    Returns: one entry per pair and measure, with its interval.
    """
    out = []
    for name in (FULL, CONSTRAINED):
        for measure in ("completed", "asked"):
            change = [run.last(measure) - runs.bases[run.base][measure] for run in runs.of(name)]
            out.append({"a": "base", "b": name, "what": measure, **interval(change)})
    for a, b in (*PAIRS, *sweep):
        other = {(run.base, run.seed): run for run in runs.of(a)}
        pairs = [(other[run.base, run.seed], run) for run in runs.of(b) if (run.base, run.seed) in other]
        for measure in MEASURES:
            change = [second.last(measure) - first.last(measure) for first, second in pairs]
            out.append({"a": a, "b": b, "what": measure, **interval(change)})
        level = common_level(runs, [run for pair in pairs for run in pair])
        if level is None:
            continue
        for measure in ("completed", "asked"):
            known = [[knowledge_at(trajectory(runs, run), level, measure) for run in pair] for pair in pairs]
            change = [after - before for before, after in known]
            what = f"{measure} at level"
            out.append({"a": a, "b": b, "what": what, "level": level, **interval(change)})
    return out


def routing(runs: Sequence[TunedRun]) -> JsonObject:
    """Where the routing weight went in the last stretch of training: by layer and task type, the share of the
    first half of the experts (mean over projections and runs) and the CV of the experts' shares.

    Empty without routers.
    """
    rows = [row | {"run": n} for n, run in enumerate(runs) for row in run.result.get("routing", [])]
    if not rows:
        return {}

    def first_half(row: JsonMapping) -> float:
        return float(sum(row["share"][: len(row["share"]) // 2]))

    layers = sorted({row["layer"] for row in rows})

    def share(task: str, layer: int | None = None) -> dict[int, float]:
        """By run, the first half's share of a task type's weight, in one layer or in all of them."""
        chosen = [r for r in rows if r["task"] == task and layer in (None, r["layer"])]
        return _by_run([(r["run"], first_half(r)) for r in chosen])

    def mean(measure: str) -> JsonObject:
        return interval([*_by_run([(row["run"], row[measure]) for row in rows]).values()])

    knowledge, other = share(KNOWLEDGE), share(OTHER)
    return {
        "first_half": {
            task: [interval([*share(task, layer).values()]) for layer in layers]
            for task in (KNOWLEDGE, OTHER)
        },
        "gap": interval([knowledge[run] - other[run] for run in knowledge if run in other]),
        "cv": mean("cv"),
        "largest_cv": max(row["cv"] for row in rows),
        "entropy": mean("entropy"),
        "dead": max(row["dead"] for row in rows),
    }


def _by_run(values: Sequence[tuple[int, float]]) -> dict[int, float]:
    """Mean of each run's values."""
    runs: dict[int, list[float]] = {}
    for run, value in values:
        runs.setdefault(run, []).append(value)
    return {run: float(np.mean(found)) for run, found in runs.items()}
