"""Writes the README's tables from the files in this folder: python docs/results/render.py

Each table stands between `<!-- results: NAME -->` and `<!-- end -->`; a test holds the two together.
"""

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
GIB = 1 << 30


def read(name: str) -> Any:
    return json.loads((HERE / name).read_text())


def demo() -> str:
    """Knowledge kept and tasks learned."""
    found = read("demo.json")
    rows = found["rows"]
    names = {"base": "base", "full_sft": "full SFT", "loramoe": "LoRAMoE"}
    lines = [
        f"| exact match, % [95 % interval] | {' | '.join(names[n] for n in rows)} |",
        "|---|" + "---|" * len(rows),
    ]

    def cell(score: dict[str, float]) -> str:
        return f"{score['value'] * 100:.0f} [{score['low'] * 100:.0f}, {score['high'] * 100:.0f}]"

    titles = {"facts, completed": f"{found['facts']} facts, as statements to complete"}
    titles |= {"facts, asked": "the same facts, asked", "tasks": f"{found['tasks']} held-out tasks"}
    for key, title in titles.items():
        lines.append(f"| {title} | {' | '.join(cell(row[key]) for row in rows.values())} |")
    for family in sorted(next(iter(rows.values()))["by family"]):
        cells = " | ".join(cell(row["by family"][family]) for row in rows.values())
        lines.append(f"| — {family.replace('_', ' ')} | {cells} |")
    lines.append(f"\n{found['command']}, {found['seconds']:.0f} s on {found['machine']}.")
    return "\n".join(lines)


def plans() -> str:
    """What the 7B configs need."""
    lines = [
        "| config | chips | memory a chip, GiB | of | step, ms | tokens/s | MFU |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in sorted(HERE.glob("plan_llama2_7b_*.json")):
        plan = read(path.name)
        fast, slow = max(plan["seconds"].values()), sum(plan["seconds"].values())
        lines.append(
            f"| {path.stem.removeprefix('plan_')}.yaml | {plan['topology']} | {plan['needed'] / GIB:.1f} | "
            f"{plan['available'] / GIB:.0f} | {fast * 1e3:.0f} to {slow * 1e3:.0f} | "
            f"{plan['tokens'] / slow:,.0f} to {plan['tokens'] / fast:,.0f} | "
            f"{plan['mfu'][1]:.0%} to {plan['mfu'][0]:.0%} |"
        )
    return "\n".join(lines)


def speed() -> str:
    """Benchmarks, each beside its target."""
    found = read("speed.json")
    lines = ["| what | measured | target | command |", "|---|---|---|---|"]
    for row in found["rows"]:
        lines.append(f"| {row['what']} | {row['measured']} | {row['target']} | `{row['command']}` |")
    lines.append(f"\nMedians on {found['machine']}.")
    return "\n".join(lines)


def quickstart() -> str:
    """Held-out problems solved, over the rounds of a run."""
    found = read("ppo_quickstart.json")
    kinds = ("", "_easy", "_medium", "_hard")
    lines = [
        "| pass@1 on held-out problems, % ± standard error | all | easy | medium | hard |",
        "|---|---|---|---|---|",
    ]
    for row in found["held_out"]:
        cells = (f"{row[f'pass_at_1{k}'] * 100:.0f} ± {row[f'standard_error{k}'] * 100:.0f}" for k in kinds)
        lines.append(f"| after {row['round']} rounds | {' | '.join(cells)} |")
    lines.append(f"\n{found['problems']}; {found['command']}; {found['seconds']} on {found['machine']}.")
    return "\n".join(lines)


def null_study() -> str:
    """What is concluded of simulated respondents."""
    rows = read("null_study.json")
    kinds = ("faithful", "undetermined", "not faithful")
    lines = [f"| simulated respondent | {' | '.join(kinds)} | wrong |", "|---|---|---|---|---|"]
    for row in rows:
        counts = " | ".join(str(row[kind]) for kind in kinds)
        lines.append(f"| {row['respondent']} | {counts} | {row['wrong']:.1%} |")
    first = rows[0]
    lines.append(
        f"\n{first['constructs']} constructs with each of {first['seeds']} seeds; `{first['command']}`, "
        f"{first['date']}, on {first['machine']}."
    )
    return "\n".join(lines)


def loramoe_study() -> str:
    """The LoRAMoE study at its largest volume."""
    found = read("reproduce/loramoe/loramoe.json")
    lines = [
        "| after {:,} samples, % [95 % interval over runs] | facts completed | facts asked | tasks |".format(
            found["volumes"][-1]
        ),
        "|---|---|---|---|",
    ]

    for name, row in found["rows"].items():
        cells = " | ".join(percent(row["curves"][what][-1]) for what in ("completed", "asked", "tasks"))
        lines.append(f"| {found['labels'][name]}, lr {row['rate']:g} | {cells} |")
    sizes, runs = found["sizes"], next(iter(found["rows"].values()))
    lines.append(
        f"\n{len(runs['seeds'])} seeds on each of {len(runs['bases'])} bases; {sizes['completed']} facts "
        f"that no instruction asks, {sizes['tasks']} tasks. {run_of(found)}"
    )
    return "\n".join(lines)


def stepcoder_study() -> str:
    """The StepCoder study: held-out pass@1 after the last round."""
    found = read("reproduce/stepcoder/stepcoder.json")
    kinds = [kind for kind in found["difficulties"] if kind != "all"]
    columns = ["practice on", "row", "all", *kinds]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, regime in found["regimes"].items():
        label, scores = found["regime_labels"][name], {"start": regime["start"]}
        scores |= {row: values["final"] for row, values in regime["rows"].items()}
        for row, final in scores.items():
            shown = " | ".join(percent(final[kind]) for kind in ("all", *kinds))
            lines.append(f"| {label} | {found['labels'].get(row, 'before practice')} | {shown} |")
            label = ""
    bases = len({seed % found["settings"]["bases"] for seed in found["seeds"]})
    lines.append(
        f"\nHeld-out pass@1, % [95 % interval over seeds]; {len(found['seeds'])} seeds on {bases} bases, "
        f"{sum(found['sizes']['held_out'].values())} held-out problems. {run_of(found)}"
    )
    return "\n".join(lines)


def realbehavior_study() -> str:
    """The RealBehavior study: conclusions on every model, drift, dispersion, wrong conclusions on nulls."""
    found = read("reproduce/realbehavior/realbehavior.json")
    labels = {"base": "base", "code_base": "code base"} | found["labels"]
    lines = [
        "| model | believed / undetermined / not | drift, SD of its base | dispersion, x its base |",
        "|---|---|---|---|",
    ]

    def plain(score: dict[str, float]) -> str:
        ends = "" if score["low"] is None else f" [{score['low']:.2f}, {score['high']:.2f}]"
        return "–" if score["mean"] is None else f"{score['mean']:.2f}{ends}"

    for name, judged in found["respondents"].items():
        counts = [
            str(sum(one[verdict] for one in judged["conclusions"]))
            for verdict in ("faithful", "undetermined", "not faithful")
        ]
        row = found["rows"].get(name)
        moved = [plain(row[what][-1]) for what in ("drift", "dispersion")] if row else ["", ""]
        runs = f"{judged['runs']} run{'s' * (judged['runs'] != 1)}"
        lines.append(f"| {labels[name]}, {runs} | {' / '.join(counts)} | {' | '.join(moved)} |")
    nulls = found["nulls"]
    seeds = max(one["seeds"] for one in nulls.values())
    wrong = ", ".join(f"{name} {100 * one['wrong']['mean']:.1f}" for name, one in nulls.items())
    lines.append(
        f"\nWrong conclusions on simulated respondents, % over {seeds} seeds (at most 5 wanted): {wrong}. "
        f"{run_of(found)}"
    )
    return "\n".join(lines)


def percent(score: dict[str, float]) -> str:
    """A share with its interval, which ends at 0 and 100."""
    low, high = max(score["low"], 0.0), min(score["high"], 1.0)
    return f"{score['mean'] * 100:.0f} [{low * 100:.0f}, {high * 100:.0f}]"


def run_of(found: dict) -> str:
    """By what a study's result can be had again."""
    run = found["run"]
    return (
        f"`{run['command']}`, commit {run['commit']}, {run['date']}, {run['minutes']:.0f} min on "
        f"{run['machine']}."
    )


TABLES = {
    "docs/results/demo.json": demo,
    "docs/results/reproduce/loramoe/loramoe.json": loramoe_study,
    "docs/results/reproduce/stepcoder/stepcoder.json": stepcoder_study,
    "docs/results/reproduce/realbehavior/realbehavior.json": realbehavior_study,
    "docs/results/ppo_quickstart.json": quickstart,
    "docs/results/null_study.json": null_study,
    "docs/results/plan_llama2_7b_*.json": plans,
    "docs/results/speed.json": speed,
}


def rendered(text: str) -> str:
    """The README with every table written anew."""
    for name, table in TABLES.items():
        pattern = re.compile(rf"(<!-- results: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        assert pattern.search(text), f"README.md has no place for {name}"
        start, end = pattern.search(text).groups()  # type: ignore[union-attr]
        text = pattern.sub((start + table() + "\n" + end).replace("\\", "\\\\"), text)
    return text


if __name__ == "__main__":
    README.write_text(rendered(README.read_text()))
