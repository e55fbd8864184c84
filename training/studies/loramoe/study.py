"""LoRAMoE's claims: does fine-tuning on ever more instructions overwrite what a model knows, and do routed
LoRA experts on a frozen base keep it while they learn the tasks as well?

Bases learn real facts in pretraining. Each is fine-tuned in several ways (`TuningRow`) on downstream tasks
with a share of closed-book questions about other facts than the test's, and looked at after 1x to 100x
samples of one run. Knowledge is the share of held-out facts that greedy decoding completes; downstream
accuracy that of held-out task samples answered rightly and ended there.

The learning rate of every row is chosen by one rule on dev splits: of its grid (the same number of rates for
every row, one run each of base 0 and seed 0, at the full volume), the smallest whose dev downstream accuracy
lies within `tolerance` standard errors of the row's best. Test scores play no part in it. The sweep's rows
take the rate that was chosen for the row that they vary.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evals.knowledge import greedy
from evals.knowledge.embedded_questions import closed_book_questions, task_questions
from evals.knowledge.questions import ClosedBookQuestion
from jaxmoe.datasets.corpora import STUDY_RELATIONS, instruction_rows, study_corpus
from jaxmoe.datasets.downstream_questions import question_stem
from jaxmoe.json_values import JsonMapping, JsonObject
from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params
from jaxmoe.model.config import ExpertConfig
from jaxmoe.tokenizer import load_tokenizer
from training.runtime import config as configs
from training.runtime.model import LoraConfig, load_model
from training.runtime.optimizer import OptimizerConfig
from training.studies.bases import Bases
from training.studies.cells import Result, Results, Stopped, StudyCell
from training.studies.loramoe import page as loramoe_page
from training.studies.loramoe import summary as loramoe_summary
from training.studies.loramoe.config import LoramoeConfig, TuningRow
from training.studies.loramoe.tuning import Recipe, Stream, Tuner, stream
from training.studies.page import Page

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def make(config: LoramoeConfig, out: Path) -> "LoramoeStudy":
    """The study, with its bases in a folder.

    Args:
      config: of the study.
      out: folder of its files.
    Returns: the study.
    """
    return LoramoeStudy(config, out)


class LoramoeStudy:
    """See `training.studies.cells.PaperStudy`."""

    name = "loramoe"
    title = "LoRAMoE: what fine-tuning forgets, and what routed experts keep"

    def __init__(self, config: LoramoeConfig, out: Path):
        self.config = config
        corpus = {"corpus": configs.to_dict(study_corpus())}
        self.bases = Bases(config.base, config.checkpoints, out, scale=config.scale, depends=corpus)
        self._tokenizers: dict[int, PreTrainedTokenizerBase] = {}
        self._streams: dict[tuple[int, int, float], Stream] = {}
        self._exams: dict[tuple[int, str], greedy.Exam] = {}

    # the cells

    def cells(self, results: Results) -> list[StudyCell]:
        """A base, the learning rates on it, every row once, then the other seeds, the sweep, other bases."""
        config = self.config
        cells = [self.base_cell(0)]
        for name, row in config.rows.items():
            cells += [self.tuned_cell(name, row, 0, 0, rate) for rate in row.rates]
        chosen = self.chosen_rates(results)
        if chosen is None:
            return cells

        def all_rows(base: int, seed: int) -> list[StudyCell]:
            rates = {name: chosen[row.rate_of or name] for name, row in config.rows.items()}
            return [self.tuned_cell(name, row, base, seed, rates[name]) for name, row in config.rows.items()]

        cells += [cell for seed in range(config.seeds) for cell in all_rows(0, seed)]
        for base in range(1, config.bases):
            cells += [self.base_cell(base), *all_rows(base, 0)]
        for seed in range(config.sweep_seeds):
            for name, row in config.sweep.items():
                cells.append(self.tuned_cell(name, row, 0, seed, chosen[str(row.rate_of)]))
        for base in range(1, config.bases):
            cells += [cell for seed in range(1, config.seeds) for cell in all_rows(base, seed)]
        return list({cell.name: cell for cell in cells}.values())

    def chosen_rates(self, results: Results) -> dict[str, float] | None:
        """By row with rates: the one that `choose_rate` takes; None until all have been tried."""
        chosen = {}
        for name, row in self.config.rows.items():
            dev = {}
            for rate in row.rates:
                result = results.get(self.tuned_cell(name, row, 0, 0, rate).name)
                if result is None:
                    return None
                dev[rate] = result["dev_tasks"]
            if dev:
                chosen[name] = choose_rate(dev, self._exam_settings()["dev_tasks"], self.config.tolerance)
        return chosen

    def base_cell(self, number: int) -> StudyCell:
        """The pretraining of a base."""
        settings = {"base": self.bases.settings(number), "exam": self._exam_settings()}
        cost = 3 if self.bases.there(number) else 250 * self.config.scale
        return StudyCell(f"base{number}", settings, f"base {number}: pretraining", cost)

    def tuned_cell(self, name: str, row: TuningRow, base: int, seed: int, rate: float) -> StudyCell:
        """One fine-tuning.

        Args:
          name: of the row, which `row` describes.
          base: number of the base.
          seed: of the rows' order, new weights and dropout.
          rate: learning rate.
        Returns: the cell; what it does is in its settings.
        """
        config = self.config
        settings = {
            "base": self.bases.settings(base),
            "exam": self._exam_settings(),
            "row": {k: v for k, v in configs.to_dict(row).items() if k not in ("label", "rates", "rate_of")},
            "rate": rate,
            "seed": seed,
            "volumes": self.volumes,
            "knowledge_share": self.knowledge_share(row),
            "data": configs.to_dict(config.data),
            "warmup_steps": config.scaled(config.warmup_steps),
        }
        title = f"{row.label}, base {base}, seed {seed}, lr {rate:g}"
        return StudyCell(f"{name}-b{base}-s{seed}-lr{rate:g}", settings, title, cost=12 * config.scale)

    def knowledge_share(self, row: TuningRow) -> float:
        """The share of world knowledge among a row's instructions."""
        return self.config.knowledge_share if row.knowledge_share is None else row.knowledge_share

    @property
    def volumes(self) -> list[int]:
        """Snapshots, in samples."""
        return [self.config.scaled(self.config.samples * times) for times in self.config.volumes]

    def _exam_settings(self) -> JsonObject:
        config = self.config
        counts = {name: config.scaled(getattr(config, name)) for name in ("tasks", "dev_tasks")}
        return counts | {"facts": self._fact_limit()}

    def _fact_limit(self) -> int | None:
        facts = self.config.facts
        if facts is None and self.config.scale == 1:
            return None
        return self.config.scaled(facts or 300)

    # running them

    def run(self, cell: StudyCell, stopped: Stopped) -> Result:
        """Pretrains a base, or fine-tunes one and looks at it at every volume.

        Args:
          cell: a base's or a fine-tuning's.
          stopped: whether the run is to end.
        Returns: its measures, as plain JSON.
        """
        if cell.name.startswith("base"):
            return self._run_base(int(cell.name.removeprefix("base")))
        name, base, seed, _ = cell.name.split("-", 3)
        row = (self.config.rows | self.config.sweep)[name]
        return self._run_tuned(row, int(base[1:]), int(seed[1:]), cell.settings["rate"], stopped)

    def _run_base(self, number: int) -> Result:
        lm = load_model(self.bases.export(number), "none", ExpertConfig(), LoraConfig(), self.tuner.mesh).lm
        return {"test": self._examined(lm, number), "skills": self._skills(lm, number)}

    def _run_tuned(self, row: TuningRow, base: int, seed: int, rate: float, stopped: Stopped) -> Result:
        recipe = Recipe(row.adapter, row.experts, row.lora, row.balance)
        warmup = self.config.scaled(self.config.warmup_steps)
        optimizer = OptimizerConfig(lr=rate, schedule="constant", warmup_steps=warmup)
        snapshots, last = [], {}
        for snapshot in self.tuner.run(
            self.bases.export(base),
            recipe,
            self.instructions(base, seed, self.knowledge_share(row)),
            optimizer,
            self.volumes,
            seed=seed,
            stopped=stopped,
        ):
            seen = {"volume": snapshot.volume, "seen": snapshot.seen, "loss": finite(snapshot.loss)}
            snapshots.append(seen | self._examined(snapshot.lm, base))
            dev = greedy.take(snapshot.lm, self._exam(snapshot.lm, base, "dev tasks")).ended
            last = {"dev_tasks": float(dev.mean()), "routing": snapshot.routing}
            last |= {"trained_weights": params.count(snapshot.lm.weights.trainable)}
        return {"snapshots": snapshots, **last}

    def describe(self, cell: StudyCell, result: Result) -> str:
        """Knowledge and tasks, at the end.

        Args:
          cell: that is done.
          result: of `run`.
        Returns: one line.
        """
        found = result["test"] if "test" in result else result["snapshots"][-1]
        facts = f"facts completed {found['completed']:.2f}, asked {found['asked']:.2f}"
        return f"{facts}; tasks {found['tasks']:.2f}"

    @cached_property
    def tuner(self) -> Tuner:
        """What trains, made once so that programs are compiled once."""
        return Tuner(self.config.mesh.make(), self.config.step)

    def _tokenizer(self, base: int) -> "PreTrainedTokenizerBase":
        if base not in self._tokenizers:
            self._tokenizers[base] = load_tokenizer(self.bases.export(base))
        return self._tokenizers[base]

    def instructions(self, base: int, seed: int, share: float) -> Stream:
        """The instructions of a seed, the same for every row.

        Args:
          base: number of the base, whose tokenizer encodes them.
          seed: of the rows and their order.
          share: of world knowledge among them.
        Returns: batches.
        """
        key = (base, seed, share)
        if key not in self._streams:
            corpus = study_corpus(seed=seed, knowledge_share=share)
            rows = instruction_rows(corpus, self.volumes[-1])
            order = replace(self.config.data, seed=seed)
            self._streams[key] = stream(rows, self._tokenizer(base), order, self.volumes[-1])
        return self._streams[key]

    def _exam(self, lm: LanguageModel, base: int, what: str) -> greedy.Exam:
        if (base, what) not in self._exams:
            form = "text" if what in ("completed", "reworded tasks") else "instruction"
            self._exams[base, what] = greedy.prepare(lm, self._tokenizer(base), self._questions[what], form)
        return self._exams[base, what]

    @cached_property
    def _questions(self) -> dict[str, list[ClosedBookQuestion]]:
        """Held-out facts, to be completed and asked, and task samples."""
        exam = self._exam_settings()
        facts = closed_book_questions("test", STUDY_RELATIONS, exam["facts"])
        tasks = {split: task_questions(exam[f"{name}tasks"], split) for split, name in SPLITS.items()}
        reworded = [
            replace(task, stem=question_stem(task.category, task.question.split("\n", 1)[1]))
            for task in tasks["test"]
        ]
        return {
            "completed": facts,
            "asked": facts,
            "tasks": tasks["test"],
            "dev tasks": tasks["dev"],
            "reworded tasks": reworded,
        }

    def _examined(self, lm: LanguageModel, base: int) -> Result:
        """Test scores of a model: shares of facts and of tasks, and of the tasks by family."""
        marks = {
            what: greedy.take(lm, self._exam(lm, base, what)) for what in ("completed", "asked", "tasks")
        }
        return {
            "completed": float(marks["completed"].right.mean()),
            "asked": float(marks["asked"].right.mean()),
            "tasks": float(marks["tasks"].ended.mean()),
            "tasks_begun": float(marks["tasks"].right.mean()),
            "families": self._by_family(marks["tasks"].ended),
        }

    def _skills(self, lm: LanguageModel, base: int) -> dict[str, float]:
        """By family, held-out contents asked in other words than the instructions': what a base brings."""
        return self._by_family(greedy.take(lm, self._exam(lm, base, "reworded tasks")).right)

    def _by_family(self, scores: np.ndarray) -> dict[str, float]:
        """Means of the scores of the test tasks."""
        families: dict[str, list[float]] = {}
        for question, score in zip(self._questions["tasks"], scores, strict=True):
            families.setdefault(question.category, []).append(float(score))
        return {name: sum(found) / len(found) for name, found in sorted(families.items())}

    # what they say

    def summary(self, results: Results) -> JsonObject:
        """See `loramoe_summary`."""
        runs = loramoe_summary.TunedRuns()
        chosen = self.chosen_rates(results)
        for cell in self.cells(results):
            if cell.name in results and cell.name.startswith("base"):
                number, found = int(cell.name.removeprefix("base")), results[cell.name]
                runs.bases[number] = found["test"] | {"skills": found["skills"]}
            elif cell.name in results:
                name, base, seed, _ = cell.name.split("-", 3)
                row = (self.config.rows | self.config.sweep)[name]
                rate = cell.settings["rate"]
                run = loramoe_summary.TunedRun(name, int(base[1:]), int(seed[1:]), rate, results[cell.name])
                final = chosen is not None and rate == chosen[row.rate_of or name]
                (runs.final if final else runs.tried).append(run)
        labels = {name: row.label for name, row in (self.config.rows | self.config.sweep).items()}
        settings = configs.to_dict(self.config)
        found = {"scale": self.config.scale, "labels": labels, "settings": settings, "rates": chosen}
        sizes = {what: len(questions) for what, questions in self._questions.items()}
        found |= {"base": self.bases.about(), "sizes": sizes}
        return found | loramoe_summary.summarise(runs, list(self.config.rows), self.volumes)

    def page(self, summary: JsonMapping) -> Page:
        """See `loramoe_page`."""
        return loramoe_page.page(self.title, summary)


SPLITS = {"test": "", "dev": "dev_"}


def choose_rate(dev: Mapping[float, float], items: int, tolerance: float) -> float:
    """The smallest rate whose dev accuracy is not clearly below the best p: at least p − z √(p (1 − p) / n).

    A smaller rate moves a model less, and what decides between accuracies within their sampling error is
    chance.

    Args:
      dev: accuracy by rate; items: n, samples that it rests on; tolerance: z.
    Returns: the learning rate.
    """
    best = max(dev.values())
    error = math.sqrt(best * (1 - best) / items)
    return min(rate for rate, accuracy in dev.items() if accuracy >= best - tolerance * error)


def finite(value: float) -> float | None:
    """A number as JSON has it: null where a run diverged."""
    return value if math.isfinite(value) else None
