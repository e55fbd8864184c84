"""RealBehavior on a pretrained chat model, before and after fine-tuning: can its answers be believed?

    OUT/answers/NAME-DIGEST/      every answer of a cell as it arrived; a stopped cell resumes from them
    OUT/running/NAME-DIGEST/      a fine-tuning; its export is what is asked

The small study trains its own models and can afford many of them; here there is one base, one fine-tuning of
each kind and one draw, so the results say nothing about training in general.
"""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

import jaxmoe
from evals.faithfulness import comparison, report_tables
from evals.faithfulness.criteria import Thresholds, construct_of
from evals.faithfulness.traits import described_traits
from evals.faithfulness.verdicts import assess
from evals.models.engine_texts import engine_texts
from evals.models.local_model import LocalModel
from evals.psychometrics.estimate import pearson
from evals.questionnaires import behaviors, wording
from evals.questionnaires.administration import administer
from evals.questionnaires.behavior_scores import conduct_scores
from evals.questionnaires.design import KEY, Battery, Design, battery
from evals.questionnaires.instrument import Instrument, load_instrument
from evals.questionnaires.respondent import Respondent
from evals.questionnaires.respondents.local_respondent import ScoringRespondent, WritingRespondent
from jaxmoe.base_folder import local_folder
from jaxmoe.json_values import JsonMapping
from jaxmoe.language_model import LanguageModel
from jaxmoe.tokenizer import load_tokenizer
from training.runtime import config as configs
from training.runtime.atomic import write_whole
from training.studies.cells import Result, Results, Stopped, StoppedError, StudyCell, digest
from training.studies.page import Page
from training.studies.realbehavior import pretrained_page
from training.studies.realbehavior.answers import ScaleScores, conclusions, known, scale_scores
from training.studies.realbehavior.pretrained_config import AskedWay, PretrainedStudyConfig
from training.studies.realbehavior.summary import within
from training.supervised.config import SftConfig
from training.supervised.sft import main as sft

BASE = "base"
# seconds on two idle cores for SmolLM2-135M-Instruct: scoring a question, writing an answer, a fine-tuning
SCORED, WRITTEN, TUNING = 0.04, 0.15, 200.0
# maximum number of tokens of a question with its written answer
WINDOW = 768
# questions asked at once: the answers of a block arrive together
BLOCK = 1920
# seconds between two records of the time that a cell has taken
NOTED = 5.0


class PretrainedStudy:
    """See `training.studies.cells.PaperStudy`."""

    name = "realbehavior_pretrained"
    title = "RealBehavior on a pretrained chat model: are its answers to be believed?"

    def __init__(self, config: PretrainedStudyConfig, out: Path):
        self.config, self._out = config, out
        for way in (*config.ways.values(), *config.tuned_ways.values()):
            AskedQuestions(way)  # unknown names are reported before anything is asked

    def cells(self, results: Results) -> list[StudyCell]:
        """The base, asked in every way, then each fine-tuning in each of its ways."""
        config = self.config
        cells = [self._cell(BASE, name, way) for name, way in config.ways.items()]
        cells += [
            self._cell(tuned, name, way) for tuned in config.tuned for name, way in config.tuned_ways.items()
        ]
        return cells

    def _cell(self, model: str, name: str, way: AskedWay) -> StudyCell:
        asked = configs.to_dict(way)
        del asked["batch_size"]
        settings: dict[str, object] = {"base": self.config.base, "asked": asked}
        count = AskedQuestions(way).count
        cost = count * (WRITTEN if way.answers == "written" else SCORED)
        if model != BASE:
            settings |= {"tuned": self._tuning(model)}
            cost += TUNING
        settings |= {"thresholds": configs.to_dict(self.config.thresholds)}
        return StudyCell(
            f"{model}-{name}", settings, f"{self._label(model)}, {name}: {count:,} questions", cost
        )

    def _label(self, model: str) -> str:
        return BASE if model == BASE else self.config.tuned[model].label

    def _tuning(self, model: str) -> Result:
        """The resolved config of a fine-tuning, without its folder."""
        overrides = [f"base={self.config.base}", "output=unused"]
        return configs.to_dict(
            configs.load_given(SftConfig, f"tuned.{model}.config", self.config.tuned[model].config, overrides)
        )

    def run(self, cell: StudyCell, stopped: Stopped) -> Result:
        """Asks one model in one way.

        Args:
          cell: one of `cells`.
          stopped: returns true once the run should end.
        Returns: verdicts, scores and style as plain JSON; for a fine-tuning, also compared with the base.
        """
        model, _, name = cell.name.rpartition("-")
        way = (self.config.ways if model == BASE else self.config.tuned_ways)[name]
        asked = AskedQuestions(way)
        table = self._answers(cell, asked, model, stopped)
        found = asked.judged(table, self.config.thresholds)
        if model != BASE:
            base = self._cell(BASE, name, self.config.ways[name])
            before = pd.read_parquet(self._folder(base) / "responses.parquet")
            found["against base"] = asked.against(before, table)
        return found | {"seconds": Stopwatch(self._folder(cell) / "seconds.json").seconds}

    def _folder(self, cell: StudyCell) -> Path:
        return self._out / "answers" / cell.file.removesuffix(".json")

    def _answers(
        self, cell: StudyCell, asked: "AskedQuestions", model: str, stopped: Stopped
    ) -> pd.DataFrame:
        folder = self._folder(cell)
        folder.mkdir(parents=True, exist_ok=True)
        watch = Stopwatch(folder / "seconds.json")
        lm = jaxmoe.load(self.config.base) if model == BASE else self._tuned(model)
        tokenizer = load_tokenizer(local_folder(self.config.base))
        way = asked.way
        text_model = LocalModel(lm, tokenizer, way.form, way.batch_size)
        if way.answers == "written":
            # a person's questions share a prefix, which the engine reads once
            text_model = replace(text_model, engine=engine_texts(lm, "engine", way.batch_size, WINDOW))

        def progress(done: int, of: int) -> None:
            watch.note()
            if stopped() and done < of:
                raise StoppedError

        return administer(
            asked.respondent(text_model, model),
            asked.batteries,
            asked.design,
            folder,
            block=BLOCK,
            progress=progress,
        )

    def _tuned(self, model: str) -> LanguageModel:
        """A fine-tuned model, trained first if it does not exist."""
        settings = self._tuning(model)
        folder = self._out / "running" / f"{model}-{digest(settings)}"
        done = sft(
            configs.parse(SftConfig, settings | {"output": str(folder)}, self.config.tuned[model].config)
        )
        if not done.finished:
            raise StoppedError
        return done.lm

    def describe(self, cell: StudyCell, result: Result) -> str:
        """How many constructs can be believed.

        Args:
          cell: a finished cell.
          result: what `run` returned.
        Returns: one line.
        """
        found = list(conclusions(result["verdicts"]).values())
        return ", ".join(f"{found.count(verdict)} {verdict}" for verdict in dict.fromkeys(found))

    def summary(self, results: Results) -> Result:
        """Every cell, with the names of its models and ways.

        Args:
          results: results of the finished cells, by name.
        Returns: plain JSON.
        """
        cells = [cell for cell in self.cells(results) if cell.name in results]
        return {
            "base": self.config.base,
            "settings": configs.to_dict(self.config),
            "labels": {BASE: BASE, **{name: one.label for name, one in self.config.tuned.items()}},
            "cells": {cell.name: results[cell.name] for cell in cells},
        }

    def page(self, summary: JsonMapping) -> Page:
        """See `pretrained_page`."""
        return pretrained_page.page(self.title, summary)


class Stopwatch:
    """Counts the seconds that a cell took over all its sessions."""

    def __init__(self, path: Path):
        self._path, self._last = path, time.monotonic()
        self.seconds = float(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else 0.0
        self._written = self.seconds

    def note(self) -> None:
        """Adds the time since the last call; the file is updated every few seconds."""
        now = time.monotonic()
        self.seconds, self._last = self.seconds + now - self._last, now
        if self.seconds - self._written >= NOTED:
            self._written = self.seconds
            write_whole(self._path, json.dumps(round(self.seconds, 1)) + "\n")


class AskedQuestions:
    """A way of asking, ready to give to any respondent."""

    def __init__(self, way: AskedWay):
        self.way = way
        self.instruments: list[Instrument] = [load_instrument(name) for name in way.instruments]
        self.design = Design(
            wording.named_templates(way.templates),
            way.option_orders,
            personas=wording.chosen_personas(way.personas),
        )
        self.batteries: list[Battery] = [battery(one) for one in self.instruments]
        if way.situations:
            self.batteries.append(behaviors.battery(["conduct"], way.situations))

    @property
    def count(self) -> int:
        """The total number of questions."""
        return sum(self.design.size(one) for one in self.batteries)

    def respondent(self, model: LocalModel, name: str) -> Respondent:
        """A respondent for these questions.

        Args:
          model: the model that is asked.
          name: its name in the long table.
        Returns: the respondent.
        """
        if self.way.answers == "written":
            return WritingRespondent(
                model, name, self.way.temperature, max_new_tokens=self.way.max_new_tokens
            )
        return ScoringRespondent(model, name)

    def judged(self, table: pd.DataFrame, thresholds: Thresholds) -> Result:
        """Verdicts, the checks behind them, scores and style.

        Args:
          table: a model's answers to these questions.
          thresholds: what counts as faithful.
        Returns: plain JSON.
        """
        acts = conduct_scores(table) if self.way.situations else None
        found = assess(table, self.instruments, behavior=acts, thresholds=thresholds)
        style = report_tables.style({"model": table}, self.instruments)
        return {
            "questions": len(table),
            "respondents": found.respondents,
            "verdicts": records(found.verdicts),
            "checks": records(found.checks),
            "refusals": {str(k): int(v) for k, v in table["refusal"].value_counts().items() if k},
            "first shown": known(float(np.mean(table["position"].eq(0)))),
            "style": records(style.drop(columns=["model"]))[0],
            "profile": {
                one.name: [row for row in records(report_tables.profile(table, one)) if not row["facet"]]
                for one in self.instruments
            },
            "described": self.described(table),
        }

    def described(self, table: pd.DataFrame) -> list[Result]:
        """r of every domain's scores (means over conditions) with every trait that the personas describe.

        value, low and high use the chosen options; expected is r for the expected values Σ p·v, which move
        before a choice does, or null if answers have no probabilities.
        """
        traits = described_traits(table, ["persona"])
        rows: list[Result] = []
        if traits is None:
            return rows
        people = [persona.name for persona in self.design.personas]
        between = self._expected(table)
        theirs = traits.table.reindex(people)
        for one in report_tables.cubes(table, self.instruments):
            places = one.persons.get_indexer(pd.Index([(name,) for name in people]))
            for scale in one.instrument.domains:
                construct = construct_of(scale)
                chosen = one.scores(scale).mean(axis=1)[places]
                expected = np.asarray(between[f"{one.instrument.name}/{construct}"]).mean(axis=1)
                for trait in map(str, theirs.columns):
                    told = theirs[trait].to_numpy(np.float64)
                    found = {name: known(x) for name, x in pearson(chosen, told)._asdict().items()}
                    found["expected"] = known(pearson(expected, told).value)
                    rows.append(
                        {"instrument": one.instrument.name, "construct": construct, "trait": trait, **found}
                    )
        return rows

    def against(self, before: pd.DataFrame, after: pd.DataFrame) -> Result:
        """A fine-tuned model against its base, on the questions that both were asked.

        Args:
          before: the base's answers, possibly to more questions.
          after: the fine-tuned model's answers to these questions.
        Returns: plain JSON: scale by scale (`comparison.compared`), drift and dispersion of expected
          values (`summary.within`), and the share of equal answers.
        """
        both = before.merge(after[[*KEY, "response"]], on=list(KEY), suffixes=("", "_after"))
        asked = [one.name for one in self.instruments]
        same = pd.DataFrame(both[both["instrument"].isin(asked)])
        scales = []
        for one in self.instruments:
            rows = comparison.compared(both, after, one)
            scales += [{"instrument": one.name, **row} for row in records(rows) if not row["facet"]]
        return {
            "questions": len(same),
            "expected": within(*({"expected": self._expected(table)} for table in (both, after))),
            "same answer": known(float(np.mean(same["response"].eq(same["response_after"])))),
            "scales": scales,
        }

    def _expected(self, table: pd.DataFrame) -> ScaleScores:
        """Expected values of every domain, [P, C], for answers in the order of the design."""
        people = [persona.name for persona in self.design.personas]
        return scale_scores(table, "expected", self.instruments, people)


def records(table: pd.DataFrame) -> list[Result]:
    """The rows of a table as plain JSON."""
    return [{str(k): known(v) for k, v in row.items()} for row in table.to_dict("records")]
