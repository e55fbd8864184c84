"""The README's table: findings on the papers' claims, for a real pretrained model and for small ones.

Rows of LoRAMoE are compared where they have learned the tasks equally well; see the studies' pages.
"""

import json
import math
import runpy
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))
PROVENANCE = runpy.run_path(str(HERE / "provenance.py"))
# task accuracy at which rows are compared on the real model: the highest that every row reaches at the
# smaller of its learning rates
LEVEL = 0.55
NOT_RUN = "not run yet"
HEAD = ("", "claim", "SmolLM2-135M-Instruct", "models with 0.3 to 0.9 million weights, trained on the spot")


def claims() -> str:
    """The table and, below it, an explanation of its figures."""
    real, small = _read("reproduce/loramoe_smollm2/loramoe.json"), _read("reproduce/loramoe/loramoe.json")
    pairs = {
        "keeps more than full fine-tuning": ("full", "loramoe_lbc"),
        "keeps more than LoRA with as many weights": ("lora", "loramoe_lbc"),
        "the same, with both on attention too": ("lora_attention", "attention"),
        "keeps more with its constraint than without": ("loramoe", "loramoe_lbc"),
    }
    rows = [
        ("LoRAMoE", "full fine-tuning forgets", _forgets(real), _small(small, "base", "full", "completed")),
    ]
    rows += [
        ("", claim, _real(real, a, b), _small(small, a, b, "completed at level"))
        for claim, (a, b) in pairs.items()
    ]
    practiced = "with practice on tests, the model solves more held-out problems"
    rows += [
        ("StepCoder", practiced, _practiced(), _regimes("start", "ppo")),
        (
            "",
            "with its curriculum and mask, it solves more than with plain PPO",
            _curriculum(),
            _regimes("ppo", "stepcoder"),
        ),
        (
            "",
            "its mask helps where tests leave a third of the tokens unexecuted",
            "not asked",
            _regimes("ppo", "fgo", "stepcoder_branches"),
        ),
        ("", "practice on tests keeps more than fine-tuning on solutions", _spared(), "not asked"),
        ("RealBehavior", "questionnaire scores can be believed", _believed(), _small_believed()),
    ]
    # the place in the README names only the studies, whose notes it shows
    whole = _studied() and _regimes("ppo", "stepcoder", "stepcoder_smollm2") != NOT_RUN
    stale = "" if whole else PROVENANCE["note"]("ppo_smollm2.json")
    lines = [f"| {' | '.join(HEAD)} |", "|---|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join([*lines, "", _said(real), *(["", stale] if stale else [])])


def _said(real: Any) -> str:
    from training.studies.loramoe.frontier_page import SMALL

    seeds = max(len(row["seeds"]) for row in real["rows"].values() if row["main"])
    known = real["base"]["known"]["facts"]
    return (
        "Differences are in points, with 95 % intervals. LoRAMoE: known facts kept, in the first row at the "
        f"end of a run, in the others where both have learned {100 * LEVEL:.0f} % of the tasks (small "
        f"models: the level that all reach); on SmolLM2, {known} known facts and at most {seeds} seeds. "
        "StepCoder: held-out pass@1 after practice on hard problems only and on a mixture; what is kept is "
        "compared at equal pass@1. RealBehavior: five constructs each. No difference: the whole interval "
        f"lies within {100 * SMALL:.0f} points of 0; not shown: it contains 0 and reaches further."
    )


def _found(folder: str) -> Any:
    """The StepCoder study of a folder; None where it has not been run."""
    name = f"reproduce/{folder}/stepcoder.json"
    return _read(name) if (HERE / name).exists() else None


def _read(name: str) -> Any:
    return json.loads((HERE / name).read_text(encoding="utf-8"))


def _judged(entry: Any) -> str:
    """The verdict on a difference that is above 0 if the claim is true."""
    from training.studies.intervals import points
    from training.studies.loramoe.frontier_page import SMALL

    if entry is None or entry["mean"] is None:
        return NOT_RUN
    low, high = entry["low"], entry["high"]
    if low is None:
        return f"{points(entry, signed=True)}, no interval"
    if low > 0 or high < 0:
        word = "yes" if low > 0 else "no, the opposite"
    else:
        word = "no difference" if low > -SMALL and high < SMALL else "not shown"
    if entry.get("n") == 1:
        return f"{points(entry, signed=True)} (one seed)"
    return f"{word}: {points(entry, signed=True)}"


def _forgets(real: Any) -> str:
    """Facts lost at both learning rates that all seeds ran with, and by LoRAMoE at its larger one."""
    from training.studies.intervals import points

    def lost(name: str) -> list[Any]:
        ends = [row["last"]["completed"] for row in real["rows"].values() if row["row"] == name]
        return [{**kept, **{k: kept[k] - 1 for k in ("mean", "low", "high")}} for kept in ends]

    smaller, larger = lost("full")
    adapters = points(lost("loramoe_lbc")[-1], signed=True)
    return f"{_forgot(larger)}; at half the rate {points(smaller, signed=True)}; LoRAMoE {adapters}"


def _forgot(entry: Any) -> str:
    """The verdict on a difference that is below 0 if the claim is true."""
    return _judged(entry).replace("no, the opposite", "yes")


def _real(real: Any, a: str, b: str) -> str:
    """The verdict at the highest level up to `LEVEL` that both rows reach."""
    return _up_to(real["contrasts"], a, b, LEVEL)


def _up_to(contrasts: Any, a: str, b: str, wanted: float) -> str:
    levels = [level for level in contrasts["levels"] if level <= wanted]
    for pair in contrasts["pairs"]:
        reached = [(level, at) for level, at in zip(levels, pair["at"], strict=False) if at]
        if (pair["a"], pair["b"]) == (a, b) and reached:
            level, at = reached[-1]
            return _judged(at) + ("" if level == wanted else f" at {100 * level:.0f} %")
    return NOT_RUN


def _small(small: Any, a: str, b: str, what: str) -> str:
    (found,) = (d for d in small["differences"] if (d["a"], d["b"], d["what"]) == (a, b, what))
    return _forgot(found) if a == "base" else _judged(found)


def _spared() -> str:
    """The comparison that was named before the study was run, and the one with the same adapter."""
    from training.studies.stepcoder.summary import NAMED

    found = _found("stepcoder_smollm2")
    if found is None or "all" not in found["forgetting"]:
        return NOT_RUN
    *pair, level = NAMED
    contrasts = found["forgetting"]["all"]["contrasts"]
    labels = found["labels"]
    told = [
        f"{labels[a]}, {_up_to(contrasts, a, b, level)}" for a, b in (pair, ("sft", "ppo")) if a in labels
    ]
    return "; ".join(told)


def _curriculum() -> str:
    """From the study once it has been run that far, else from the runs before it."""
    study = _regimes("ppo", "stepcoder", "stepcoder_smollm2")
    if study != NOT_RUN:
        return study
    ends = {run["name"]: run["held_out"][-1] for run in _read("ppo_smollm2.json")["runs"]}
    told = []
    for name, plain in ends.items():
        if (both := ends.get(f"{name}, StepCoder")) is not None:
            mean = both["pass_at_1"] - plain["pass_at_1"]
            half = 1.96 * math.hypot(both["standard_error"], plain["standard_error"])
            told.append(f"{name}, {_judged({'mean': mean, 'low': mean - half, 'high': mean + half})}")
    return "; ".join(told)


def _practiced() -> str:
    """From the study once it has two seeds, else from the runs before it."""
    if _studied():
        return _regimes("start", "ppo", "stepcoder_smollm2")
    runs = [run for run in _read("ppo_smollm2.json")["runs"] if "StepCoder" not in run["name"]]
    return "; ".join(f"{run['name']}, {_judged(run['difference'])}" for run in runs)


def _studied() -> bool:
    study = _found("stepcoder_smollm2")
    return study is not None and len(study["seeds"]) > 1


def _regimes(a: str, b: str, folder: str = "stepcoder") -> str:
    """The verdict in each regime of a study."""
    study = _found(folder)
    told = [
        f"{study['regime_labels'][name]}, {_judged(found)}"
        for name, regime in (study["regimes"] if study else {}).items()
        for found in regime["differences"]
        if (found["a"], found["b"], found["what"]) == (a, b, "all")
    ]
    return "; ".join(told) or NOT_RUN


def _believed() -> str:
    from training.studies.realbehavior.answers import conclusions

    cells = _read("reproduce/realbehavior_smollm2/realbehavior_pretrained.json")["cells"]
    scored = list(conclusions(cells["base-scored"]["verdicts"]).values())
    return f"{scored.count('faithful')} of {len(scored)} constructs faithful"


def _small_believed() -> str:
    from training.studies.realbehavior import page

    return page.page("", _read("reproduce/realbehavior/realbehavior.json")).sections[0].verdicts[0].evidence
