"""The demo on a pretrained model: what it knows, and what two fine-tunes on the same rows kept and learned.

A fact counts as known if the model completes its statement by greedy decoding before it is fine-tuned. None
of the facts asked here is in the instructions that are taught.
"""

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import jaxmoe
from evals.knowledge import greedy
from evals.knowledge.closed_book import closed_book
from evals.knowledge.embedded_questions import closed_book_questions, task_questions
from evals.knowledge.prompts import template
from evals.knowledge.questions import ClosedBookQuestion
from evals.models.local_model import LocalModel
from evals.psychometrics.uncertainty import mean_score
from jaxmoe.base_folder import local_folder
from jaxmoe.json_values import JsonObject
from jaxmoe.language_model import LanguageModel
from jaxmoe.model.mesh import even_rows
from jaxmoe.progress import ProgressDisplay
from jaxmoe.tokenizer import load_tokenizer
from training.demo.comparison import as_row, comparison_table, task_rows
from training.demo.stages import Stage, run_stage
from training.plots import figures
from training.runtime.atomic import write_whole
from training.runtime.metrics import read_lines
from training.supervised.config import SftConfig
from training.supervised.sft import main as sft

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PARTS = 6
ANSWER = 24  # tokens of an answer in the chat
TASK_ANSWER = 16  # the longest right answer has fewer tokens
LENGTHS = (12, 24, 48)  # tokens that facts are padded to; most have fewer than 12
CHAT = ("What is the capital of Peru?", "Name a fruit that is yellow.")
# What a stranger would type, run in a process that knows nothing of this project.
TRANSFORMERS = """\
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, question = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype="float32")
turns = [{"role": "user", "content": question}]
prompt = tokenizer.apply_chat_template(
    turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
new = model.generate(**prompt, max_new_tokens=16, do_sample=False)[0, prompt["input_ids"].shape[1]:]
print(tokenizer.decode(new, skip_special_tokens=True))
"""


class FineTune(NamedTuple):
    """A way to fine-tune: its column of the table, its config, and what is printed while it runs."""

    title: str
    stage: str


TUNED = {
    "loramoe": FineTune("LoRAMoE", "fine-tune routed LoRA experts beside the frozen base"),
    "full_sft": FineTune("full SFT", "fine-tune every weight on the same rows"),
}
TITLES = {"base": "base", **{name: way.title for name, way in TUNED.items()}}


def main(base: str, output: Path, stages: str, steps_scale: float, facts: int, tasks: int) -> JsonObject:
    """Runs the journey; what is finished is not rerun.

    Args:
      base: named model, GGUF file, folder or hub id of a chat model.
      output: folder for runs, exports, results.json and plots.
      stages: folder with a config for each way to fine-tune, or the name of a shipped one.
      steps_scale: share of their steps to do, in (0, 1].
      facts: how many held-out facts the base is asked.
      tasks: how many held-out tasks every model is asked.
    Returns: what is in results.json; empty if the run was stopped before its end.
    Raises: ValueError if the base cannot be found or fetched, or has no chat template.
    """
    console, started = Console(markup=False, emoji=False, highlight=False), time.perf_counter()
    console.rule(f"1/{PARTS} a pretrained model: {base}")
    tokenizer = load_tokenizer(local_folder(base))
    asked = Asked.of(tokenizer, facts, tasks)
    lm = jaxmoe.load(base)
    console.print(f"{_weights(lm):,} weights, {lm.config.num_layers} layers, width {lm.config.hidden_size}")
    _print_chat(console, LocalModel(lm, tokenizer, "chat", batch_size=len(CHAT)))
    console.rule(f"2/{PARTS} what it knows, and which tasks it can do")
    scores = {"base": asked.of_base(lm, base, output / "base.json")}
    known = scores["base"]["known"]
    console.print(
        f"completes {len(known)} of {len(asked.facts)} held-out facts: {_examples(asked.facts, known)}"
    )
    del lm
    for number, (name, way) in enumerate(TUNED.items(), 3):
        console.rule(f"{number}/{PARTS} {way.stage}")
        done = run_stage(Stage(SftConfig, sft), name, output, stages, steps_scale, base)
        if not done.finished:
            console.print("stopped; the same command resumes it")
            return {}
        scores[name] = asked.of_tuned(done.lm, f"{base}, {done.step} steps", known, output / f"{name}.json")
        if name == "loramoe" and not (output / "loramoe-hf").exists():
            jaxmoe.save(done.lm, output / "loramoe-hf", "hf", tokenizer=tokenizer)
        del done
    rows = {name: {k: v for k, v in row.items() if k != "known"} for name, row in scores.items()}
    results: JsonObject = {"base": base, "facts": len(asked.facts), "known": len(known)}
    results |= {"tasks": len(asked.tasks), "rows": rows}
    console.rule(f"5/{PARTS} what was kept, what was learned")
    numbers = f"{len(known)} facts that the base knows, of {len(asked.facts)}; {len(asked.tasks)} tasks"
    console.print(comparison_table(rows, ("known facts kept", "tasks"), TITLES, numbers))
    console.print(expert_table(output / "loramoe"))
    console.rule(f"6/{PARTS} the exported models")
    exports = {"full SFT": output / "full_sft" / "export", "LoRAMoE": output / "loramoe-hf"}
    for line in _answers(exports, tokenizer, asked.tasks[:2]):
        console.print(line)
    results["seconds"] = round(time.perf_counter() - started, 1)
    write_whole(output / "results.json", json.dumps(results, indent=2) + "\n")
    drawn = [figures.comparison(results, TITLES, output / "comparison.png")]
    drawn += [path for name in TUNED for path in sorted((output / name / "plots").glob("*.png"))]
    console.print(f"{results['seconds']:.0f} s. Results: {output / 'results.json'}; plots:")
    for path in drawn:
        console.print(f"  {path}")
    return results


class Asked(NamedTuple):
    """What every model is asked: facts as statements to complete, tasks as messages of a chat."""

    tokenizer: "PreTrainedTokenizerBase"
    facts: list[ClosedBookQuestion]
    tasks: list[ClosedBookQuestion]

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase", facts: int, tasks: int) -> "Asked":
        """This many of the held-out facts, spread evenly over all relations, and this many held-out tasks.

        Args:
          tokenizer: of all the models.
          facts, tasks: how many; a number above all of them takes all.
        Returns: the questions.
        """
        held_out = closed_book_questions("test")
        count = min(facts, len(held_out))
        spread = [held_out[number * len(held_out) // count] for number in range(count)]
        return cls(tokenizer, spread, task_questions(tasks))

    def of_base(self, lm: LanguageModel, name: str, kept: Path) -> JsonObject:
        """Scores of the base, and which facts it knows.

        Args:
          lm: the base.
          name: of the base, for the file.
          kept: file of the scores, read if it exists and is of the same model and questions.
        Returns: the scores with their 95 % intervals; under `known` the places of the facts.
        """
        scores = self._scores(lm, name, range(len(self.facts)), kept)
        # the others are measured by what the base knows
        return {**scores, "known facts kept": {"value": 1.0, "low": 1.0, "high": 1.0}}

    def of_tuned(self, lm: LanguageModel, name: str, known: Sequence[int], kept: Path) -> JsonObject:
        """Scores of a fine-tuned model.

        Args:
          lm: the model.
          name: of its base and how long it was trained, for the file.
          known: places of the facts that the base knows; only they are asked.
          kept: file of the scores, read if it exists and is of the same model and questions.
        Returns: the scores with their 95 % intervals.
        """
        return self._scores(lm, name, known, kept)

    def _scores(self, lm: LanguageModel, name: str, places: Sequence[int], kept: Path) -> JsonObject:
        asked = {"model": name, "facts": len(self.facts), "tasks": len(self.tasks), "of": len(places)}
        if kept.exists():
            found: JsonObject = json.loads(kept.read_text(encoding="utf-8"))
            if found["asked"] == asked:
                return found["scores"]
        facts = [self.facts[place] for place in places]
        with ProgressDisplay() as display:
            right = np.zeros(0)
            if facts:
                exam = greedy.prepare(lm, self.tokenizer, facts, "text", LENGTHS)
                right = greedy.take(lm, exam, display.task("facts")).right
            model = LocalModel(lm, self.tokenizer, "chat", batch_size=even_rows(lm.mesh, 20))
            instruction = template("instruction")
            answered = closed_book(
                model,
                self.tasks,
                instruction,
                max_new_tokens=TASK_ANSWER,
                score_answers=False,
                chunk=model.batch_size,
                progress=display.task("tasks"),
            )
        scores = {
            "known facts kept": as_row(mean_score(right)),
            **task_rows(answered),
            "known": [place for place, kept_fact in zip(places, right, strict=True) if kept_fact],
        }
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, json.dumps({"asked": asked, "scores": scores}) + "\n")
        return scores


def _weights(lm: LanguageModel) -> int:
    leaves = jax.tree.leaves((lm.weights.trainable, lm.weights.frozen))
    return sum(leaf.size for leaf in leaves)


def _print_chat(console: Console, model: LocalModel) -> None:
    for question, answer in zip(CHAT, model.generate(CHAT, ANSWER), strict=True):
        console.print(f"> {question}\n  {' '.join(answer.split())}")


def _examples(facts: Sequence[ClosedBookQuestion], known: Sequence[int]) -> str:
    """A few of the known facts as sentences, from different relations."""
    by_relation = {facts[place].category: facts[place] for place in known}
    shown = list(by_relation.values())[:3]
    return "; ".join(f"{fact.stem} {fact.answers[0]}" for fact in shown) or "none"


def expert_table(run: Path) -> Table | str:
    """How a run's routers divide their weight among the experts: by kind of task, at a few depths.

    Args:
      run: folder with routing.jsonl.
    Returns: a row for each of three layers and each kind of task, averaged over the projections; a line of
      text if the run recorded none.
    """
    records = read_lines(run / "routing.jsonl")
    if not records:
        return "no use of the experts to show: the run was shorter than watch.routing_every"
    rows = records[-1]["rows"]
    layers = sorted({row["layer"] for row in rows})
    experts = len(rows[0]["share"])
    table = Table(title="share of the routing weight by expert, % (last steps of LoRAMoE)")
    for name in ("layer", "instructions"):
        table.add_column(name)
    for number in range(experts):
        table.add_column(str(number), justify="right")
    for layer in dict.fromkeys((layers[0], layers[len(layers) // 2], layers[-1])):
        for task in dict.fromkeys(row["task"] for row in rows):
            shares = [row["share"] for row in rows if row["layer"] == layer and row["task"] == task]
            if shares:
                means = (sum(column) / len(shares) for column in zip(*shares, strict=True))
                table.add_row(str(layer), task, *(f"{100 * mean:.0f}" for mean in means))
    return table


def _answers(
    exports: dict[str, Path], tokenizer: "PreTrainedTokenizerBase", tasks: Sequence[ClosedBookQuestion]
) -> list[str]:
    """Answers of the exported models, loaded again from their folders: here, and by transformers."""
    models = {name: jaxmoe.load(folder) for name, folder in exports.items()}
    lines: list[str] = []
    for question in (CHAT[0], *(task.question for task in tasks)):
        lines.append(f"> {question}")
        for name, lm in models.items():
            [answer] = LocalModel(lm, tokenizer, "chat", batch_size=1).generate([question], TASK_ANSWER)
            lines.append(f"  {name}: {' '.join(answer.split())}")
    if importlib.util.find_spec("torch") is None:
        return [*lines, "(torch is not installed: transformers was not tried on the exports)"]
    command = [sys.executable, "-c", TRANSFORMERS, str(exports["LoRAMoE"]), CHAT[0]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()[-1:]
    return [*lines, f"LoRAMoE by transformers, {CHAT[0]} {' '.join(last)}"]
