"""The demo from scratch: a base trained on the spot, fine-tuned two ways; then code and questionnaires.

Every stage is a command that can be run alone with its config (demo/scratch/base, ...); finished stages are
not rerun.
"""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.table import Table

import jaxmoe
from evals.knowledge.closed_book import closed_book
from evals.knowledge.embedded_questions import closed_book_questions, task_questions
from evals.knowledge.prompts import template
from evals.models.local_model import LocalModel
from jaxmoe.datasets.corpora import DEMO_RELATIONS
from jaxmoe.json_values import JsonObject
from jaxmoe.language_model import LanguageModel
from jaxmoe.tokenizer import load_tokenizer
from rl.sandbox.worker import SandboxError
from training.demo.comparison import as_row, comparison_table, task_rows
from training.demo.questionnaires import questionnaire
from training.demo.stages import Stage, run_stage
from training.plots import figures
from training.ppo.config import PPORunConfig
from training.ppo.train import main as ppo
from training.runtime.metrics import read_lines
from training.runtime.run_folder import Finished
from training.supervised.config import PretrainConfig, SftConfig
from training.supervised.pretrain import main as pretrain
from training.supervised.sft import main as sft

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PARTS = 7


class DemoModel(NamedTuple):
    """A column of the table, and what its stage does."""

    title: str
    stage: str


ROWS = {
    "base": DemoModel("base", "train a small base model on world knowledge"),
    "full_sft": DemoModel("full SFT", "fine-tune every weight on instructions"),
    "loramoe": DemoModel("LoRAMoE", "fine-tune routed LoRA experts instead"),
}
LABELS = {name: row.title for name, row in ROWS.items()}
KINDS = ("facts, completed", "facts, asked", "tasks")
PRETRAIN, SFT, PPO = Stage(PretrainConfig, pretrain), Stage(SftConfig, sft), Stage(PPORunConfig, ppo)
# by name: the command, and the stage whose export it starts from
STAGES: dict[str, tuple[Stage, str | None]] = {
    "base": (PRETRAIN, None),
    "full_sft": (SFT, "base"),
    "loramoe": (SFT, "base"),
    "code_base": (PRETRAIN, None),
    "code_rl": (PPO, "code_base"),
}


def main(folder: Path, stages: str, steps_scale: float, facts: int | None, tasks: int) -> JsonObject:
    """Runs the stages one after the other and prints the comparison.

    Args:
      folder: for the runs, results.json and plots.
      stages: folder with a config for each stage, or the name of a shipped one.
      steps_scale: share of each stage's steps to do, in (0, 1].
      facts: held-out facts in the table; None takes all.
      tasks: held-out tasks in the table.
    Returns: what is in results.json; empty if the run was stopped before its end.
    """
    console, started = Console(markup=False, emoji=False), time.perf_counter()
    models: dict[str, LanguageModel] = {}
    for number, (name, what) in enumerate(ROWS.items(), 1):
        console.rule(f"{number}/{PARTS} {what.stage}")
        done = _run(name, folder, stages, steps_scale)
        if not done.finished:
            return _stopped(console)
        models[name] = done.lm
    console.rule(f"4/{PARTS} what was kept, what was learned")
    results = compare(models, folder, facts, tasks)
    asked = f"{results['facts']} held-out facts, {results['tasks']} tasks"
    console.print(comparison_table(results["rows"], KINDS, LABELS, asked))
    console.rule(f"5/{PARTS} export to Hugging Face format, generate from the exports")
    # with its own modeling code; the exports of base and full SFT exist already
    export = folder / "loramoe-hf"
    if not export.exists():
        jaxmoe.save(models["loramoe"], export, "hf", tokenizer=tokenizer_of(folder))
    for line in samples(folder):
        console.print(line, markup=False, highlight=False)
    console.rule(f"6/{PARTS} a small code model, taught by tests")
    for name in ("code_base", "code_rl"):
        try:
            done = _run(name, folder, stages, steps_scale)
        except SandboxError as error:
            console.print(f"left out: {error}", markup=False)
            break
        if not done.finished:
            return _stopped(console)
    else:
        results["code"] = code_scores(folder / "code_rl")
        console.print(code_table(results["code"]))
    console.rule(f"7/{PARTS} questionnaires: what the models say of themselves, and whether to believe it")
    named = {LABELS[name]: lm for name, lm in models.items()}
    report = questionnaire(named, tokenizer_of(folder), folder / "behavior", f"{stages}/behavior")
    console.print(f"report, for a browser: {report}", highlight=False)
    results["seconds"] = round(time.perf_counter() - started, 1)
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    drawn = [figures.comparison(results, LABELS, folder / "comparison.png")]
    drawn += [path for name in STAGES for path in sorted((folder / name / "plots").glob("*.png"))]
    console.print(f"{results['seconds']:.0f} s. Results: {folder / 'results.json'}; plots:")
    for path in drawn:
        console.print(f"  {path}", highlight=False)
    return results


def _stopped(console: Console) -> JsonObject:
    console.print("stopped; the same command resumes it")
    return {}


def _run(name: str, folder: Path, stages: str, steps_scale: float) -> Finished:
    stage, base = STAGES[name]
    start = None if base is None else f"{folder}/{base}/export"
    return run_stage(stage, name, folder, stages, steps_scale, start)


def tokenizer_of(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of the demo's base."""
    return load_tokenizer(folder / "base" / "export")


def compare(models: dict[str, LanguageModel], folder: Path, known: int | None, count: int) -> JsonObject:
    """Exact-match scores of every model: facts completed, facts asked, tasks; each with its 95 % interval.

    Args:
      models: by row.
      folder: of the demo; the base's tokenizer is in it.
      known: facts to ask for; None takes all that are held out.
      count: of tasks.
    Returns: the numbers of facts and tasks, and the scores by model and kind of question.
    """
    tokenizer = tokenizer_of(folder)
    facts = closed_book_questions("test", DEMO_RELATIONS, known)
    tasks = task_questions(count)
    asked = {
        "facts, completed": (facts, "completion", "text"),
        "facts, asked": (facts, "instruction", "instruction"),
        "tasks": (tasks, "instruction", "instruction"),
    }
    rows: JsonObject = {}
    for name, lm in models.items():
        rows[name] = {}
        for title, (questions, style, form) in asked.items():
            model = LocalModel(lm, tokenizer, form, batch_size=64)  # type: ignore[arg-type]
            found = closed_book(model, questions, template(style), max_new_tokens=16, score_answers=False)
            rows[name] |= (
                task_rows(found) if title == "tasks" else {title: as_row(found.scores["exact_match"])}
            )
    return {"facts": len(facts), "tasks": len(tasks), "rows": rows}


def code_scores(run: Path) -> JsonObject:
    """pass@1 on held-out problems before and after, with standard errors, as the run measured them."""
    told = [record for record in read_lines(run / "metrics.jsonl") if "held_out_pass_at_1" in record]
    keys = [key for key in told[0] if key.startswith("held_out_")]
    short = {key: key.removeprefix("held_out_") for key in keys}
    moments = {"before": told[0], "after": told[-1]}
    return {moment: {short[k]: record[k] for k in keys} for moment, record in moments.items()}


def code_table(scores: JsonObject) -> Table:
    """pass@1 before and after, one row per difficulty."""
    table = Table(title="held-out pass@1, %")
    table.add_column("")
    for moment in scores:
        table.add_column(moment, justify="right")
    for key in (key for key in scores["before"] if key.startswith("pass_at_1")):
        error = key.replace("pass_at_1", "standard_error")
        cells = (f"{s[key] * 100:.0f} ± {s[error] * 100:.0f}" for s in scores.values())
        table.add_row(key.removeprefix("pass_at_1").strip("_") or "all", *cells)
    return table


def samples(folder: Path) -> list[str]:
    """A few answers of the exported models, loaded again from their folders."""
    tokenizer = tokenizer_of(folder)
    exports = {"full SFT": folder / "full_sft" / "export", "LoRAMoE": folder / "loramoe-hf"}
    loaded = {name: jaxmoe.load(path) for name, path in exports.items()}
    questions = [closed_book_questions("test", DEMO_RELATIONS)[0], *task_questions(2)]
    lines: list[str] = []
    for question in questions:
        lines.append(f"> {question.question}")
        for name, lm in loaded.items():
            model = LocalModel(lm, tokenizer, "instruction", batch_size=1)
            answer = model.generate([template("instruction").prompt(question)], 16, ("\n",))[0].strip()
            lines.append(f"  {name}: {answer}   (right: {question.answers[0]})")
    return lines
