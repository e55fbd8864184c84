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


def study() -> str:
    """The LoRAMoE study at its largest volume, and the differences at equal task accuracy."""
    found = read("reproduce/loramoe/loramoe.json")
    lines = [
        "| after {:,} samples, % [95 % interval over runs] | facts completed | facts asked | tasks |".format(
            found["volumes"][-1]
        ),
        "|---|---|---|---|",
    ]

    def cell(point: dict[str, float]) -> str:
        return f"{point['mean'] * 100:.0f} [{point['low'] * 100:.0f}, {point['high'] * 100:.0f}]"

    for name, row in found["rows"].items():
        cells = " | ".join(cell(row["curves"][what][-1]) for what in ("completed", "asked", "tasks"))
        lines.append(f"| {found['labels'][name]}, lr {row['rate']:g} | {cells} |")
    run, sizes = found["run"], found["sizes"]
    runs = next(iter(found["rows"].values()))
    lines.append(
        f"\n{len(runs['seeds'])} seeds on each of {len(runs['bases'])} bases; {sizes['completed']} facts "
        f"that no instruction asks, {sizes['tasks']} tasks. `{run['command']}`, {run['date']}, "
        f"{run['minutes']:.0f} min without the bases' own training, on {run['machine']}, beside other work."
    )
    return "\n".join(lines)


TABLES = {
    "docs/results/demo.json": demo,
    "docs/results/reproduce/loramoe/loramoe.json": study,
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
