"""A questionnaire given to a model or a simulated respondent, and what the study keeps of the answers.

Respondents are described people x wordings x option orders: one model answers as each of them. Every answer
has two values: the option that was chosen, and the expected value Σ p·v over the options, which moves before
a choice does. Verdicts use choices, as a user would; drift and dispersion use expected values and, in
addition, choices.
Letters: P described people, C conditions (wording x option order).
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from evals.faithfulness import report_tables
from evals.faithfulness.criteria import FaithfulnessVerdict, construct_of
from evals.faithfulness.verdicts import assess, worst
from evals.models.local_model import LocalModel
from evals.questionnaires import behaviors, wording
from evals.questionnaires.administration import administer
from evals.questionnaires.behavior_scores import conduct_scores
from evals.questionnaires.design import Battery, Design, battery
from evals.questionnaires.instrument import Instrument, load_instrument
from evals.questionnaires.respondents.local_respondent import ScoringRespondent
from evals.questionnaires.respondents.simulated import simulated_respondent
from evals.questionnaires.response_table import ResponseCube
from jaxmoe.json_values import JsonMapping
from jaxmoe.language_model import LanguageModel
from training.studies.cells import Result, Stopped, StoppedError
from training.studies.realbehavior.config import AskedConfig

# [P, C] by scale, named INSTRUMENT/CONSTRUCT
ScaleScores = dict[str, list[list[float]]]
# plain JSON, as results are filed; readers know its layout
JsonRecord = JsonMapping
# statistics of a model's answers as a whole
STYLES = ("acquiescence", "extremity", "midpoint", "position")


class ScoringKey(NamedTuple):
    """What is known about the questions and the described people.

    Attributes:
      flattering: by scale, 1 where more of the construct is desirable, −1 where less is, 0 where neither.
      traits: by scale, what the descriptions say of its construct [P].
    """

    flattering: dict[str, int]
    traits: dict[str, list[float]]


class Questionnaire:
    """The design of a study, ready to give to any respondent."""

    def __init__(self, config: AskedConfig, personas: int):
        self.config = config
        self.instruments = [load_instrument(name) for name in config.instruments]
        self.personas = wording.composed_personas(personas)
        self.design = Design(
            wording.named_templates(config.templates), config.option_orders, personas=tuple(self.personas)
        )

    @cached_property
    def batteries(self) -> list[Battery]:
        """The questionnaires, and conduct in situations."""
        return [
            *map(battery, self.instruments),
            behaviors.battery(["conduct"], self.config.situations),
        ]

    @cached_property
    def key(self) -> ScoringKey:
        """See `ScoringKey`."""
        scales = [(f"{one.name}/{construct_of(s)}", s) for one in self.instruments for s in one.domains]
        return ScoringKey(
            {name: scale.desirable * scale.direction for name, scale in scales},
            {name: [p.traits.get(construct_of(s), 0.0) for p in self.personas] for name, s in scales},
        )

    def of_model(self, lm: LanguageModel, tokenizer: PreTrainedTokenizerBase) -> Result:
        """Everything that is kept of a model's answers: scores, style, verdicts.

        Args:
          lm: the model that is asked.
          tokenizer: its tokenizer.
        Returns: plain JSON.
        """
        config = replace(lm.config, max_positions=max(lm.config.max_positions, self.config.window))
        asked = LocalModel(replace(lm, config=config), tokenizer, self.config.form, self.config.batch_size)
        table = administer(ScoringRespondent(asked), self.batteries, self.design)
        style = report_tables.style({"model": table}, self.instruments).iloc[0]
        return {
            "expected": self.scores(table, "expected"),
            "chosen": self.scores(table, "response"),
            "style": {name: known(float(style[name])) for name in STYLES},
            "verdicts": self.verdicts(table),
        }

    def of_simulated(self, name: str, seeds: int, stopped: Stopped) -> Result:
        """Conclusions about a simulated respondent, seed by seed, and its verdicts counted over seeds.

        A respondent that repeats earlier answers (constant, midpoint) is not judged again; `distinct` counts
        the different answer sheets.

        Args:
          name: name of a simulated respondent.
          seeds: number of seeds.
          stopped: returns true to end before the next seed.
        Returns: plain JSON.
        """
        found: dict[bytes, list[Result]] = {}
        judged = []
        for seed in range(seeds):
            if stopped():
                raise StoppedError
            table = administer(simulated_respondent(name, seed), self.batteries, self.design)
            sheet = table["response"].to_numpy(np.float64).tobytes()
            if sheet not in found:
                found[sheet] = self.verdicts(table)
            judged.append(found[sheet])
        return {
            "conclusions": [dict(Counter(conclusions(rows).values())) for rows in judged],
            "verdicts": tally(judged),
            "distinct": len(found),
        }

    def verdicts(self, table: pd.DataFrame) -> list[Result]:
        """The verdict on every scale by criterion, with the check that decided it."""
        found = assess(
            table,
            self.instruments,
            behavior=conduct_scores(table),
            thresholds=self.config.thresholds,
        ).verdicts
        kept = ["instrument", "construct", "criterion", "verdict", "statistic", "estimate", "reason"]
        rows = pd.DataFrame(found, columns=pd.Index(kept)).to_dict("records")
        return [{str(k): known(v) for k, v in row.items()} for row in rows]

    def scores(self, table: pd.DataFrame, column: str) -> ScaleScores:
        """See `scale_scores`.

        Args:
          table: long table of answers, in the order of the design.
          column: column of the long table with the answers' values.
        Returns: by scale.
        """
        return scale_scores(table, column, self.instruments, [person.name for person in self.personas])


def scale_scores(
    table: pd.DataFrame, column: str, instruments: Sequence[Instrument], people: Sequence[str]
) -> ScaleScores:
    """Scale means in the direction of the construct, for answers in the order of a design.

    Unlike `evals.questionnaires.response_table.cube`, it accepts values between the options.

    Args:
      table: long table of answers, with each item asked in one wording of its own.
      column: column of the long table with the answers' values.
      instruments: the instruments whose domains are scored.
      people: their names, in the order of the design.
    Returns: by scale.
    """
    names = pd.Index(list(people))
    found = {}
    for one in instruments:
        values = table.loc[table["instrument"] == one.name, column].to_numpy(np.float64)
        raw_PCJ = values.reshape(-1, len(names), len(one.items)).swapaxes(0, 1)
        laid = ResponseCube(one, raw_PCJ, names, pd.DataFrame(), 0.0)
        for scale in one.domains:
            found[f"{one.name}/{construct_of(scale)}"] = laid.scores(scale).round(6).tolist()
    return found


def conclusions(verdicts: Sequence[JsonRecord]) -> dict[str, str]:
    """For each construct of the first instrument, the worst verdict over the criteria: it is believed only if
    every criterion is met (as in `evals.faithfulness.null_study`)."""
    first = [row for row in verdicts if row["instrument"] == verdicts[0]["instrument"]]
    by_construct: dict[str, set[FaithfulnessVerdict]] = {}
    for row in first:
        by_construct.setdefault(row["construct"], set()).add(row["verdict"])
    return {construct: worst(found) for construct, found in by_construct.items()}


def tally(runs: Sequence[Sequence[JsonRecord]]) -> Result:
    """Counts of verdicts over runs: by instrument, criterion, construct, verdict."""
    counts: Result = {}
    for row in (row for run in runs for row in run):
        place = counts.setdefault(row["instrument"], {}).setdefault(row["criterion"], {})
        place = place.setdefault(row["construct"], {})
        place[row["verdict"]] = place.get(row["verdict"], 0) + 1
    return counts


def known(value: object) -> object:
    """A value for JSON: null for NaN; numbers rounded to six digits."""
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
