"""Joint results of the StepCoder study's runs: means over seeds, and differences paired by seed.

A run is one row in one regime with one seed. Intervals are Student's t over seeds. If every seed has its own
base, an interval is about other bases, other problem orders and other samples alike.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxmoe.json_values import JsonMapping, JsonObject
from training.studies.intervals import interval
from training.studies.loramoe.contrasts import Facts, contrasts, divergence
from training.studies.loramoe.frontier import path, row_test
from training.studies.loramoe.frontier_runs import FrontierRun

# rows as named in the claims
START, SFT, PPO, CCCS, FGO, STEPCODER = "start", "sft", "ppo", "cccs", "fgo", "stepcoder"
PAIRS = (
    (START, SFT),
    (START, PPO),
    (SFT, PPO),
    (SFT, STEPCODER),
    (PPO, CCCS),
    (PPO, FGO),
    (PPO, STEPCODER),
    (FGO, STEPCODER),
    (CCCS, STEPCODER),
)
# Levels of held-out pass@1, and of nats from the base, at which what rows keep is compared; and which rows.
# One pair at one level was named before anything was run.
PASS_LEVELS = (0.35, 0.4, 0.45, 0.5, 0.6, 0.7)
KL_LEVELS = (0.1, 0.2, 0.3, 0.5)
NAMED = ("sft_full", PPO, 0.4)
FORGETTING_PAIRS = (
    ("sft_full", PPO),
    ("sft_full", "ppo_full"),
    ("sft_lora", PPO),
    (SFT, PPO),
    ("sft_full", "sft_lora"),
    ("sft_full", SFT),
    ("sft_lora", SFT),
    (PPO, STEPCODER),
)
# held-out pass@1 over the rounds after the first measurement, all difficulties: how fast a row learns
PACE = "pace"


class StepcoderRun(NamedTuple):
    """One run: `result` is its cell's result, `rate` its learning rate."""

    row: str
    regime: str
    seed: int
    result: JsonObject
    rate: float = 0.0

    def scores(self, what: str) -> list[float]:
        """Held-out pass@1 for a difficulty, or for all, at every measurement."""
        return [float(point[what]) for point in self.result["held_out"]]

    def value(self, what: str) -> float:
        """The last of the scores, or with PACE their mean over rounds between the first and the last."""
        if what != PACE:
            return self.scores(what)[-1]
        at = [point["round"] for point in self.result["held_out"]]
        return float(np.trapezoid(self.scores("all"), at) / (at[-1] - at[0]))


def summarize(runs: Sequence[StepcoderRun], rows: Sequence[str], regimes: Sequence[str]) -> JsonObject:
    """Everything that the page shows, as plain JSON.

    Args:
      runs: runs of all rows and regimes.
      rows: row names, in the order of the tables.
      regimes: regime names, in the order of the tables.
    Returns: plain JSON.
    """
    by_regime: JsonObject = {}
    for regime in regimes:
        here = {row: [r for r in runs if (r.row, r.regime) == (row, regime)] for row in rows}
        here = {row: found for row, found in here.items() if found}
        if here:
            by_regime[regime] = {
                "start": _start(here),
                "rows": {row: _row(found) for row, found in here.items()},
                "differences": differences(here),
            }
    kinds = [kind for kind in runs[0].result["held_out"][0] if kind != "round"] if runs else []
    order = ("all", "easy", "medium", "hard")
    # problems may be grouped by something other than difficulty
    place = {kind: order.index(kind) if kind in order else len(order) for kind in kinds}
    return {"difficulties": sorted(kinds, key=place.__getitem__), "regimes": by_regime}


def _start(rows: Mapping[str, Sequence[StepcoderRun]]) -> JsonObject:
    """The bases before the first round."""
    runs = [run for found in rows.values() for run in found]
    kinds = [kind for kind in runs[0].result["held_out"][0] if kind != "round"]
    return {kind: interval(list(_starts(runs, kind).values())) for kind in kinds}


def _starts(runs: Sequence[StepcoderRun], what: str) -> dict[int, float]:
    """Held-out pass@1 of a seed's base: every row of a seed starts from the same base and samples anew to
    measure it, so the mean is more precise than any single value."""
    return {
        seed: float(np.mean([run.scores(what)[0] for run in runs if run.seed == seed]))
        for seed in sorted({run.seed for run in runs})
    }


def _row(runs: Sequence[StepcoderRun]) -> JsonObject:
    points = runs[0].result["held_out"]
    kinds = [kind for kind in points[0] if kind != "round"]
    return {
        "seeds": sorted(run.seed for run in runs),
        "final": {kind: interval([run.value(kind) for run in runs]) for kind in [*kinds, PACE]},
        "measured": [point["round"] for point in points],
        "curves": {
            kind: [interval([run.scores(kind)[n] for run in runs]) for n in range(len(points))]
            for kind in kinds
        },
        "rounds": {key: per_round(runs, key) for key in runs[0].result["rounds"]},
        "stages": _stages(runs),
        "tokens": interval([run.result["tokens"] for run in runs]),
    }


def per_round(runs: Sequence[StepcoderRun], key: str) -> list[float | None]:
    """Mean over seeds of a per-round number; null where no seed has it.

    Args:
      runs: runs of one row.
      key: key of the number.
    Returns: one entry per round.
    """
    table = [[np.nan if v is None else v for v in run.result["rounds"][key]] for run in runs]
    kept = np.asarray(table, np.float64)
    counts = np.isfinite(kept).sum(0)
    sums = np.nansum(kept, axis=0)
    return [round(float(s / n), 5) if n else None for s, n in zip(sums, counts, strict=True)]


def _stages(runs: Sequence[StepcoderRun]) -> dict[str, list[float]]:
    """For each stage (0 is the whole task), its share of the problems after every round, mean over seeds."""
    if not all(run.result["stages"] for run in runs):
        return {}
    names = sorted({name for run in runs for found in run.result["stages"] for name in found}, key=int)
    shares = {
        name: np.mean(
            [[f.get(name, 0) / sum(f.values()) for f in run.result["stages"]] for run in runs], axis=0
        )
        for name in names
    }
    return {name: [round(float(share), 5) for share in found] for name, found in shares.items()}


def differences(rows: Mapping[str, Sequence[StepcoderRun]]) -> list[JsonObject]:
    """Differences paired by seed: b − a at the end, by difficulty, and for the pace."""
    out, everything = [], [run for found in rows.values() for run in found]
    for a, b in PAIRS:
        if b not in rows or (a != START and a not in rows):
            continue
        other = {run.seed: run for run in rows[b if a == START else a]}
        pairs = [(other[run.seed], run) for run in rows[b] if run.seed in other]
        kinds = [kind for kind in pairs[0][0].result["held_out"][0] if kind != "round"] if pairs else []
        for what in [*kinds, *([] if a == START else [PACE])]:
            starts = _starts(everything, what) if a == START else {}
            before = [starts[p.seed] if a == START else p.value(what) for p, _ in pairs]
            change = [run.value(what) - was for (_, run), was in zip(pairs, before, strict=True)]
            out.append({"a": a, "b": b, "what": what, **interval(change)})
    return out


def gradients(measured: Sequence[JsonMapping]) -> dict[str, JsonObject]:
    """By number of tests (0 is all): means over the batches of a base, with intervals over bases.

    `gain` is the cosine with the mask minus the cosine without it, for the same batch.
    """
    out: dict[str, JsonObject] = {}
    for tests in measured[0]["batches"] if measured else ():
        bases = [
            [
                {key: np.nan if v is None else v for key, v in batch.items()}
                for batch in base["batches"][tests]
            ]
            for base in measured
        ]
        for base in bases:
            for batch in base:
                batch["gain"] = batch["masked"] - batch["plain"]
        out[tests] = {key: interval([_mean(base, key) for base in bases]) for key in bases[0][0]}
    return out


def _mean(batches: Sequence[Mapping[str, float]], key: str) -> float:
    kept = [batch[key] for batch in batches if np.isfinite(batch[key])]
    return float(np.mean(kept)) if kept else np.nan


def forgotten(runs: Sequence[StepcoderRun], relations: Sequence[str]) -> JsonObject:
    """By regime, what each row keeps of its base's knowledge as it trains, and at what distance from it;
    which rows keep more at equal pass@1 and at equal distance (`contrasts`), and whether rows differ where
    both are equal (`frontier.row_test`).

    Args:
      runs: runs of all rows and regimes; those that were not asked are left out.
      relations: relations of the facts that the base knew.
    Returns: plain JSON; empty if none was asked.
    """
    found: JsonObject = {}
    asked = [run for run in runs if run.result.get("forgetting")]
    facts = Facts(np.array(relations), np.ones(len(relations), np.int32))
    for regime in dict.fromkeys(run.regime for run in asked):
        here = [run for run in asked if run.regime == regime]
        # one base, measured before every run: the mean is more precise than any single value
        start, paths = {"tasks": float(np.mean([run.scores("all")[0] for run in here]))}, _paths(here)
        found[regime] = {
            "rows": [
                _left([run for run in here if run.row == row], start["tasks"])
                for row in dict.fromkeys(run.row for run in here)
            ],
            "test": row_test(paths, start, facts),
            "contrasts": contrasts(start, paths, facts, FORGETTING_PAIRS, PASS_LEVELS),
            "at_kl": contrasts(start, paths, facts, FORGETTING_PAIRS, KL_LEVELS, divergence),
        }
    return found


def _left(runs: Sequence[StepcoderRun], start: float) -> JsonObject:
    last = [run.result["forgetting"][-1] for run in runs]
    distance = {way: [one["kl"]["own"][way] for one in last] for way in ("forward", "backward")}
    kept, passed = [one["completed"] for one in last], [run.value("all") for run in runs]
    return {
        "row": runs[0].row,
        "rate": runs[0].rate,
        "seeds": sorted(run.seed for run in runs),
        "completed": interval(kept),
        "pass": interval(passed),
        **{way: interval(found) for way, found in distance.items()},
        "paths": [path({"tasks": start}, run) for run in _paths(runs)],
    }


def _paths(runs: Sequence[StepcoderRun]) -> list[FrontierRun]:
    found = []
    for run in runs:
        passed = {point["round"]: point["all"] for point in run.result["held_out"]}
        points = [
            {"volume": one["round"], "tasks": passed[one["round"]], **one} for one in run.result["forgetting"]
        ]
        found.append(FrontierRun(run.row, run.seed, run.rate, {"snapshots": points}, final=True))
    return found
