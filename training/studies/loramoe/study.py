"""LoRAMoE's claims: does fine-tuning on ever more instructions overwrite what a model knows, and do routed
LoRA experts on a frozen base preserve it while learning the tasks equally well?

Bases learn real facts in pretraining. Each is fine-tuned in several ways (`TuningRow`) on downstream tasks
with a share of closed-book questions about facts that are not in the test, and measured after 1x to 100x
samples of one run. Knowledge is the share of held-out facts that greedy decoding completes; downstream
accuracy is the share of held-out task samples answered correctly and then ended.

The learning rate of every row is chosen by one rule on dev splits. Its grid has the same number of rates as
every other row's, with one run each on base 0 and seed 0 at the full volume; the rule takes the smallest rate
whose dev downstream accuracy lies within `tolerance` standard errors of the row's best. Test scores play no
part in it. The sweep's rows take the rate chosen for the row that they vary. Where dev accuracy cannot
choose, the config names the rates with which all seeds run (`seeded`).
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evals.knowledge.embedded_questions import closed_book_questions
from evals.models.local_model import LocalModel
from jaxmoe.averaging import averaged
from jaxmoe.base_folder import local_folder
from jaxmoe.datasets.corpora import STUDY_RELATIONS, instruction_rows, study_corpus
from jaxmoe.datasets.downstream_families import FAMILIES
from jaxmoe.json_values import JsonMapping, JsonObject
from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params
from jaxmoe.model.config import ExpertConfig
from jaxmoe.tokenizer import encode_chat_prompt, load_tokenizer, plain_ids
from training.data.encode import encode_samples
from training.runtime import config as configs
from training.runtime.model import LoraConfig, load_model
from training.runtime.optimizer import OptimizerConfig
from training.studies.bases import Bases
from training.studies.cells import Result, Results, Stopped, StudyCell
from training.studies.loramoe import frontier
from training.studies.loramoe import page as loramoe_page
from training.studies.loramoe import summary as loramoe_summary
from training.studies.loramoe.config import LoramoeConfig, TuningRow
from training.studies.loramoe.contrasts import Facts
from training.studies.loramoe.exams import EmbeddedExams, Exams, embedded_questions, exam_settings
from training.studies.loramoe.frontier_runs import FrontierRun, FrontierRuns
from training.studies.loramoe.instruction_file import TaskFile, read_instructions
from training.studies.loramoe.pretrained import PretrainedExams, pretrained_settings
from training.studies.loramoe.replay import base_texts, replay_sample, replay_settings, with_replay
from training.studies.loramoe.tuning import Recipe, Stream, Tuner, stream
from training.studies.page import Page

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# fields of a row that a result does not depend on
NO_RESULT = ("label", "rates", "seeded", "rate_of")


def make(config: LoramoeConfig, out: Path) -> "LoramoeStudy":
    """The study, with its bases in a folder.

    Args:
      config: the study's config.
      out: folder for its files.
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
        self._streams: dict[tuple[int, int, float, float], Stream] = {}
        self._base_models: dict[int, LanguageModel] = {}
        self._exams_of: dict[int, Exams] = {}
        self._files: dict[int, TaskFile] = {}
        # results of the finished cells: tuned models are asked what their base knew
        self._found: Results = {}

    # the cells

    def cells(self, results: Results) -> list[StudyCell]:
        """A base, its learning rates, every row once, then the other seeds, the sweep and other bases."""
        config, self._found = self.config, results
        rows = (config.rows | config.sweep).values()
        replayed = [row for row in rows if row.replay]
        cells = [self.base_cell(0)]
        if any(row.rates for row in replayed):
            cells.append(self.replay_cell(0))
        for turn in range(max(len(row.rates) for row in config.rows.values())):
            for name, row in config.rows.items():
                rates = middle_first(row.rates)[turn : turn + 1]
                cells += [self.tuned_cell(name, row, 0, 0, rate) for rate in rates]
        final = self.final_rates(results)
        if final is None:
            return cells

        def all_rows(base: int, seed: int) -> list[StudyCell]:
            return [
                self.tuned_cell(name, row, base, seed, rate)
                for name, row in config.rows.items()
                for rate in final[name]
            ]

        if replayed:
            cells.append(self.replay_cell(0))
        cells += [cell for seed in range(config.seeds) for cell in all_rows(0, seed)]
        for base in range(1, config.bases):
            cells += [self.base_cell(base), *all_rows(base, 0)]
        for seed in range(config.sweep_seeds):
            for name, row in config.sweep.items():
                cells.append(self.tuned_cell(name, row, 0, seed, *final[name]))
        for base in range(1, config.bases):
            cells += [cell for seed in range(1, config.seeds) for cell in all_rows(base, seed)]
        return list({cell.name: cell for cell in cells}.values())

    def chosen_rates(self, results: Results) -> dict[str, float] | None:
        """For each row with rates, the one that `choose_rate` takes; None until all have been tried."""
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

    def final_rates(self, results: Results) -> dict[str, tuple[float, ...]] | None:
        """For each row, the rates with which all its seeds run; None if they are not yet chosen."""
        chosen, rows = self.chosen_rates(results) or {}, self.config.rows
        own = {
            name: row.seeded or (chosen[name],) for name, row in rows.items() if row.seeded or name in chosen
        }
        if any(row.rates and name not in own for name, row in rows.items()):
            return None
        return {
            name: own[name] if row.rate_of is None else own[row.rate_of][-1:]
            for name, row in (rows | self.config.sweep).items()
        }

    def base_cell(self, number: int) -> StudyCell:
        """The pretraining of a base."""
        settings = {"base": self.bases.settings(number), "exam": self._exam_settings()}
        there = self.bases.there(number)
        cost = 3 if there else 250 * self.config.scale
        if self.config.pretrained is not None:
            cost = 24 * self.config.scale  # the base is asked all facts, tuned models only the known ones
        return StudyCell(f"base{number}", settings, f"base {number}{'' if there else ': pretraining'}", cost)

    def replay_cell(self, number: int) -> StudyCell:
        """The texts that are sampled from a base, for rows with replay."""
        settings = {"base": self.bases.settings(number), **replay_settings()}
        return StudyCell(
            f"replay{number}", settings, f"base {number}: texts of its own", 60 * self.config.scale
        )

    def tuned_cell(self, name: str, row: TuningRow, base: int, seed: int, rate: float) -> StudyCell:
        """One fine-tuning.

        Args:
          name: name of the row that `row` describes.
          base: number of the base.
          seed: seed of the data order, new weights and dropout.
          rate: learning rate.
        Returns: the cell; its settings say what it does.
        """
        config = self.config
        settings = {
            "base": self.bases.settings(base),
            "exam": self._exam_settings(),
            "row": {k: v for k, v in configs.to_dict(row).items() if k not in NO_RESULT},
            "rate": rate,
            "seed": seed,
            "volumes": self.volumes,
            "knowledge_share": self.knowledge_share(row),
            "data": configs.to_dict(config.data),
            "warmup_steps": config.scaled(config.warmup_steps),
        }
        if row.replay:
            settings["replayed"] = self.replay_cell(base).settings
        title = f"{row.label}, base {base}, seed {seed}, lr {rate:g}"
        return StudyCell(f"{name}-b{base}-s{seed}-lr{rate:g}", settings, title, cost=12 * config.scale)

    def knowledge_share(self, row: TuningRow) -> float:
        """The share of world knowledge among a row's instructions."""
        return self.config.knowledge_share if row.knowledge_share is None else row.knowledge_share

    @property
    def volumes(self) -> list[int]:
        """When snapshots are taken, in samples."""
        return [self.config.scaled(self.config.samples * times) for times in self.config.volumes]

    def _exam_settings(self) -> JsonObject:
        config = self.config
        if config.pretrained is None:
            return exam_settings(config.exam)
        return pretrained_settings(config.exam, config.pretrained, config.instructions)

    # running cells

    def run(self, cell: StudyCell, stopped: Stopped) -> Result:
        """Pretrains a base, or fine-tunes one and measures it at every volume.

        Args:
          cell: a base's or a fine-tuning's cell.
          stopped: returns true once the run should end.
        Returns: its measurements, as plain JSON.
        """
        if cell.name.startswith("base"):
            return self._run_base(int(cell.name.removeprefix("base")))
        if cell.name.startswith("replay"):
            return self._run_replay(int(cell.name.removeprefix("replay")))
        name, base, seed, _ = cell.name.split("-", 3)
        row = (self.config.rows | self.config.sweep)[name]
        return self._run_tuned(row, int(base[1:]), int(seed[1:]), cell.settings["rate"], stopped)

    def _run_base(self, number: int) -> Result:
        return self._exams(number).of_base(self._base(number))

    def _run_replay(self, number: int) -> Result:
        model = LocalModel(self._base(number), self._tokenizer(number), "text")
        return {"texts": base_texts(model)}

    def _run_tuned(self, row: TuningRow, base: int, seed: int, rate: float, stopped: Stopped) -> Result:
        recipe = Recipe(row.adapter, row.experts, row.lora, row.balance)
        warmup = self.config.scaled(self.config.warmup_steps)
        optimizer = OptimizerConfig(
            lr=rate, schedule="constant", warmup_steps=warmup, weight_decay=row.l2_sp, decay_to="start"
        )
        exams = self._exams(base)
        snapshots: list[Result] = []
        last: JsonObject = {}
        for snapshot in self.tuner.run(
            self.bases.export(base),
            recipe,
            self.instructions(base, seed, row),
            optimizer,
            self.volumes[-1:] if row.average else self.volumes,
            seed=seed,
            stopped=stopped,
        ):
            seen = {"volume": snapshot.volume, "seen": snapshot.seen, "loss": finite(snapshot.loss)}
            ends = snapshot.seen >= self.volumes[-1]
            if row.average:
                start = None if snapshot.lm.experts is not None else self._base(base)
                for alpha in row.average:
                    between = averaged(snapshot.lm, alpha, start)
                    snapshots.append(seen | {"alpha": alpha} | exams.of_snapshot(between, last=False))
            else:
                snapshots.append(seen | exams.of_snapshot(snapshot.lm, last=ends))
            last = {"routing": snapshot.routing}
            last |= {"trained_weights": params.count(snapshot.lm.weights.trainable)}
            if ends:
                last["dev_tasks"] = exams.dev_accuracy(snapshot.lm)
        return {"snapshots": snapshots, **last}

    def describe(self, cell: StudyCell, result: Result) -> str:
        """Knowledge and tasks at the end.

        Args:
          cell: a finished cell.
          result: what `run` returned.
        Returns: one line.
        """
        if "texts" in result:
            return f"{len(result['texts'])} texts"
        found = result["test"] if "test" in result else result["snapshots"][-1]
        facts = f"facts completed {found['completed']:.2f}"
        asked = f", asked {found['asked']:.2f}" if "asked" in found else ""
        far = f"; KL from the base {found['kl']['own']['forward']:.3f}" if "kl" in found else ""
        return f"{facts}{asked}; tasks {found['tasks']:.2f}{far}"

    @cached_property
    def tuner(self) -> Tuner:
        """The tuner, made once so that programs are compiled once."""
        return Tuner(self.config.mesh.make(), self.config.step)

    def _tokenizer(self, base: int) -> "PreTrainedTokenizerBase":
        if base not in self._tokenizers:
            self._tokenizers[base] = load_tokenizer(local_folder(self.bases.export(base)))
        return self._tokenizers[base]

    def instructions(self, base: int, seed: int, row: TuningRow) -> Stream:
        """The instructions of a seed, the same for every row except for what the row changes in them.

        Args:
          base: number of the base whose tokenizer encodes them.
          seed: seed of the samples and their order.
          row: sets their share of world knowledge and of replayed texts.
        Returns: batches.
        """
        share = self.knowledge_share(row)
        key = (base, seed, share, row.replay)
        if key not in self._streams:
            tokenizer, order = self._tokenizer(base), replace(self.config.data, seed=seed)
            form = "instruction" if self.config.pretrained is None else "chat"
            samples = encode_samples(self._rows(base, seed, share), tokenizer, order.length, form=form)
            if row.replay:
                texts = self._found[self.replay_cell(base).name]["texts"]
                replayed = [replay_sample(tokenizer, text, order.length) for text in texts]
                samples = with_replay(samples, replayed, row.replay, seed)
            self._streams[key] = stream(samples, tokenizer, order, self.volumes[-1])
        return self._streams[key]

    def _rows(self, base: int, seed: int, share: float) -> list[JsonObject]:
        if (file := self._instruction_file(base)) is not None:
            return random.Random(f"mixture {seed}").sample(file.learned, len(file.learned))[
                : self.volumes[-1]
            ]
        relations = STUDY_RELATIONS if self.config.pretrained is None else None
        corpus = study_corpus(seed=seed, knowledge_share=share, relations=relations)
        return instruction_rows(corpus, self.volumes[-1])

    def _instruction_file(self, base: int) -> TaskFile | None:
        config = self.config
        if config.instructions is None or config.pretrained is None:
            return None
        if base not in self._files:
            tokenizer = self._tokenizer(base)

            def fits(instruction: str, output: str) -> bool:
                asked = encode_chat_prompt(tokenizer, [{"role": "user", "content": instruction}])
                return len(asked) + len(plain_ids(tokenizer, output)) < config.data.length

            count = config.scaled(config.pretrained.divergence_tasks)
            self._files[base] = read_instructions(config.instructions, config.exam, count, fits)
        return self._files[base]

    def _base(self, number: int) -> LanguageModel:
        """A base by itself; a base from which others are measured is loaded only once."""
        if number not in self._base_models:
            base = self.bases.export(number)
            lm = load_model(base, "none", ExpertConfig(), LoraConfig(), self.tuner.mesh).lm
            if self.config.pretrained is None:
                return lm
            self._base_models[number] = lm
        return self._base_models[number]

    def _exams(self, base: int) -> Exams:
        if base not in self._exams_of:
            config, tokenizer = self.config, self._tokenizer(base)
            if config.pretrained is None:
                self._exams_of[base] = EmbeddedExams(config.exam, tokenizer)
            else:
                found = self._found.get(self.base_cell(base).name)
                self._exams_of[base] = PretrainedExams(
                    config.exam,
                    config.pretrained,
                    tokenizer,
                    self._base(base),
                    found,
                    self._instruction_file(base),
                )
        return self._exams_of[base]

    # results

    def summary(self, results: Results) -> JsonObject:
        """See `loramoe_summary`."""
        if self.config.pretrained is not None:
            return self._frontier(results)
        runs = loramoe_summary.TunedRuns()
        chosen, finals = self.chosen_rates(results), self.final_rates(results)
        for cell in self.cells(results):
            if cell.name in results and cell.name.startswith("base"):
                number, found = int(cell.name.removeprefix("base")), results[cell.name]
                runs.bases[number] = found["test"] | {"skills": found["skills"]}
            elif cell.name in results:
                name, base, seed, _ = cell.name.split("-", 3)
                rate = cell.settings["rate"]
                run = loramoe_summary.TunedRun(name, int(base[1:]), int(seed[1:]), rate, results[cell.name])
                final = finals is not None and rate in finals[name]
                (runs.final if final else runs.tried).append(run)
        labels = {name: row.label for name, row in (self.config.rows | self.config.sweep).items()}
        settings = configs.to_dict(self.config)
        found = {"scale": self.config.scale, "labels": labels, "settings": settings, "rates": chosen}
        sizes = {what: len(questions) for what, questions in embedded_questions(self.config.exam).items()}
        found |= {"base": self.bases.about(), "sizes": sizes}
        return found | loramoe_summary.summarize(runs, list(self.config.rows), self.volumes)

    def _frontier(self, results: Results) -> JsonObject:
        """See `training.studies.loramoe.frontier`."""
        base, finals = results.get(self.base_cell(0).name), self.final_rates(results)
        runs = FrontierRuns(base)
        rows = self.config.rows | self.config.sweep
        for cell in self.cells(results):
            name = cell.name.split("-", 1)[0]
            if cell.name in results and name in rows:
                _, _, seed, _ = cell.name.split("-", 3)
                rate = cell.settings["rate"]
                final = finals is not None and rate in finals[name]
                run = FrontierRun(name, int(seed[1:]), rate, results[cell.name], final)
                runs.runs.append(run)
        labels = {name: row.label for name, row in rows.items()}
        exam = self._exam_settings()
        settings = configs.to_dict(self.config) | {"pretrained": exam["pretrained"]}
        settings["instructions"] = exam.get("instructions")  # by name and content, without its folder
        found = {"scale": self.config.scale, "labels": labels, "settings": settings}
        found |= {"rates": self.chosen_rates(results), "families": list(FAMILIES)}
        facts = None if base is None else self._known_facts(base["known"]["facts"])
        return found | frontier.summarize(runs, list(self.config.rows), exam["tasks"], facts)

    def _known_facts(self, known: Sequence[int]) -> Facts:
        """The facts that the base knows; only those count whose answers no seed's instructions teach."""
        facts = closed_book_questions("test", None, self._exam_settings()["facts"])
        share = self.config.knowledge_share
        taught = {
            row["output"].strip().casefold()
            for seed in range(self.config.seeds)
            for row in self._rows(0, seed, share)
        }
        mine = [facts[number] for number in known]
        counted = [not taught & {answer.strip().casefold() for answer in fact.answers} for fact in mine]
        return Facts(np.array([fact.category for fact in mine]), np.array(counted, np.int32))

    def page(self, summary: JsonMapping) -> Page:
        """See `loramoe_page`."""
        return loramoe_page.page(self.title, summary)


def middle_first(rates: Sequence[float]) -> list[float]:
    """Rates ordered from the middle of their grid outwards, so that a study cut short has the middle one."""
    places = sorted(range(len(rates)), key=lambda place: abs(2 * place - len(rates) + 1))
    return [rates[place] for place in places]


def choose_rate(dev: Mapping[float, float], items: int, tolerance: float) -> float:
    """The smallest rate whose dev accuracy is not clearly below the best p: at least p − z √(p (1 − p) / n).

    A smaller rate moves a model less, and between accuracies that lie within their sampling error, chance
    decides.

    Args:
      dev: accuracy by rate; items: n, the number of samples behind it; tolerance: z.
    Returns: the learning rate.
    """
    best = max(dev.values())
    error = math.sqrt(best * (1 - best) / items)
    return min(rate for rate, accuracy in dev.items() if accuracy >= best - tolerance * error)


def finite(value: float) -> float | None:
    """A number for JSON: null if a run diverged."""
    return value if math.isfinite(value) else None
