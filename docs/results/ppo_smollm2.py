"""Files what runs of configs/ppo/smollm2.yaml have found.

    python docs/results/ppo_smollm2.py --runs RUN [RUN ...] --greedy EVAL_OF_BASE EVAL_OF_RUN [...]

Writes ppo_smollm2.json and ppo_smollm2.svg beside this file, from each run's metrics.jsonl and samples.jsonl
and the results.json of evaluations at temperature 0, those of runs `against` that of the base.
"""

import argparse
import json
import math
from pathlib import Path

import yaml
from matplotlib.figure import Figure

HERE = Path(__file__).parent
KEPT = (
    "pass_rate",
    "entropy",
    "tokens",
    "truncated",
    "masked_share",
    "stage_0",
    "stage_1",
    "share_runtime_error",
    "share_compile_error",
)
SHOWN = 2  # programs of the first and of the last round


def read_run(folder: Path, last: int) -> dict:
    """What is filed of one run, up to its round `last`."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["step"] <= last]
    held_out = [
        {
            "round": line["step"],
            "pass_at_1": round(line["held_out_pass_at_1"], 4),
            "standard_error": round(line["held_out_standard_error"], 4),
        }
        for line in lines
        if "held_out_pass_at_1" in line
    ]
    rounds = [line for line in lines if "pass_rate" in line]
    shown = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    samples = [
        {key: one[key] for key in ("step", "problem", "statement", "response", "verdict", "reward")}
        for step in (1, rounds[-1]["step"])
        for one in [one for one in shown if one["step"] == step][:SHOWN]
    ]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    stepcoder = config["curriculum"] == "cccs" and config["mask"] == "fgo"
    return {
        "name": f"seed {config['seed']}{', StepCoder' if stepcoder else ''}",
        "held_out": held_out,
        "difference": difference(held_out[0], held_out[-1]),
        "rounds": {key: [round(line[key], 4) for line in rounds] for key in KEPT if key in rounds[0]},
        "samples": samples,
    }


def difference(before: dict, after: dict) -> dict:
    """After less before, with a 95 % interval that takes the two measurements for independent.

    They are of the same problems, which agree, so the interval is wider than it need be.
    """
    mean = after["pass_at_1"] - before["pass_at_1"]
    reach = 1.96 * math.hypot(after["standard_error"], before["standard_error"])
    return {"mean": round(mean, 4), "low": round(mean - reach, 4), "high": round(mean + reach, 4)}


def read_greedy(folder: Path, name: str) -> dict:
    """pass@1 of one evaluation, and its difference from the base's where it was compared with it."""
    found = json.loads((folder / "results.json").read_text())
    score = next(iter(found["sets"].values()))["scores"]["pass@1"]
    row = {"name": name, "mean": score["value"], "low": score["low"], "high": score["high"], "against": None}
    if found["against"] is not None:
        other = next(iter(found["against"]["sets"].values()))["passed"]
        change = other["difference"]
        row["against"] = {
            "mean": change["value"],
            "low": change["low"],
            "high": change["high"],
            "better": other["b_better"],
            "worse": other["a_better"],
            "p": other["p_value"],
        }
    return row


def draw(runs: list[dict]) -> Figure:
    """Held-out pass@1 and the pass rate in practice, over rounds."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for color, run in zip(("tab:blue", "tab:orange", "tab:green", "tab:red"), runs, strict=False):
        at = [one["round"] for one in run["held_out"]]
        level = [one["pass_at_1"] for one in run["held_out"]]
        reach = [1.96 * one["standard_error"] for one in run["held_out"]]
        left.errorbar(at, level, yerr=reach, color=color, marker="o", capsize=3, label=run["name"])
        rates = run["rounds"]["pass_rate"]
        right.plot(range(1, len(rates) + 1), rates, color=color, marker=".", label=run["name"])
    left.set(xlabel="round", title="held-out pass@1 (bars: 95 %)", ylim=(0, None))
    right.set(xlabel="round", title="share of programs that pass, in practice", ylim=(0, None))
    left.legend()
    return figure


def main() -> None:
    """Reads the runs and writes the two files; what was timed by hand stays as it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--last", type=int, default=8, help="round up to which runs are filed")
    parser.add_argument("--greedy", type=Path, nargs="+", required=True)
    given = parser.parse_args()
    file = HERE / "ppo_smollm2.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    found["runs"] = [read_run(folder, given.last) for folder in given.runs]
    names = ["base", *(run["name"] for run in found["runs"])]
    found["greedy"] = [read_greedy(*pair) for pair in zip(given.greedy, names, strict=False)]
    file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    draw(found["runs"]).savefig(HERE / "ppo_smollm2.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
