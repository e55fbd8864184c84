"""python -m evals.study: a report on answers that already exist, from one respondent or several.

One design put to one or more respondents, and everything that can be said about the answers: verdicts,
profiles, reliability, response style next to simulated respondents, conduct, the first model against the
others. Not covered: asking (administer), what the page looks like (report).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from evals.faithfulness import comparison, report_tables
from evals.faithfulness.criteria import Thresholds, construct_of
from evals.faithfulness.report_contents import Report, combined
from evals.faithfulness.run_card import provenance, thresholds_told
from evals.faithfulness.verdicts import Assessment, assess
from evals.questionnaires import behavior_scores, dialogues
from evals.questionnaires.administration import administer
from evals.questionnaires.design import FACETS, PUBLISHED, WORDING, Battery, Design
from evals.questionnaires.instrument import Instrument
from evals.questionnaires.respondents.simulated import NULLS, simulated_respondent
from evals.questionnaires.response_table import ResponseCube


@dataclass(frozen=True)
class FaithfulnessStudy:
    """What is asked, and by which standards the answers are judged.

    Attributes:
      batteries: the instruments' items, and those of behavioral tasks where there are any.
      norm_group: people to compare profiles with; where an instrument has no such norms, means are shown.
      facets: also judge the narrower scales.
      nulls: simulated respondents shown next to the models.
    """

    instruments: Sequence[Instrument]
    batteries: Sequence[Battery]
    design: Design
    thresholds: Thresholds = field(default_factory=Thresholds)
    confidence: float = 0.95
    seed: int = 0
    norm_group: str | None = None
    facets: bool = False
    nulls: Sequence[str] = NULLS

    def __post_init__(self):
        known = sorted({group for one in self.instruments for group in one.groups})
        if self.norm_group and self.norm_group not in known:
            have = f"one of {', '.join(known)}" if known else "left out, as these instruments have no norms"
            raise ValueError(f"norm_group must be {have}; got {self.norm_group!r}")

    def report(
        self,
        answers: Mapping[str, pd.DataFrame],
        card: Mapping[str, object],
        *,
        base: pd.DataFrame | None = None,
        base_name: str = "base",
        checkpoints: Mapping[int, pd.DataFrame] | None = None,
        replies: Mapping[str, pd.DataFrame] | None = None,
    ) -> Report:
        """Everything that can be said about the answers.

        Args:
          answers: a long table by the name of each respondent.
          card: entries that come first in the run card, before those added here.
          base: answers to compare with; if absent, the first of several respondents is the base of the rest.
          base_name: what those answers are called.
          checkpoints: answers by training step, for the plot over steps.
          replies: rated dialogues by respondent.
        Returns: the report, for `evals.faithfulness.write_report`; tables of what was not asked are empty.
        Raises: ValueError as `evals.faithfulness.verdicts.assess`.
        """
        tested = self.instruments
        acts = {name: self._acts(table) for name, table in answers.items()}
        found = {name: self._assess(table, acts[name]) for name, table in answers.items()}
        filled = {name: report_tables.completions(table, tested) for name, table in answers.items()}
        cubes = {name: [one.imputed[0] for one in own] for name, own in filled.items()}
        parts = {
            name: {one.instrument.name: report_tables.components(one) for one in own}
            for name, own in cubes.items()
        }
        crossed = {name: report_tables.traits_by_methods(own) for name, own in cubes.items()}
        conduct = {
            name: self._conduct(cubes[name], acts[name], (replies or {}).get(name)) for name in answers
        }
        nulls = {
            name: administer(simulated_respondent(name, self.seed), self.batteries, self.design)
            for name in self.nulls
        }
        tuned = dict(answers) if base is not None else dict(list(answers.items())[1:])
        before = base if base is not None else next(iter(answers.values()))
        return Report(
            f"Behavior: {', '.join(one.title for one in tested)}",
            {**card, **self._card(answers, found)},
            found,
            {
                one.name: by_model(
                    {
                        name: report_tables.profile(table, one, self._norms(one))
                        for name, table in answers.items()
                    }
                )
                for one in tested
            },
            by_model(
                {
                    name: combined(
                        {
                            one.imputed[0].instrument.name: report_tables.reliability(
                                one, found[name].checks, self.confidence
                            )
                            for one in own
                        }
                    )
                    for name, own in filled.items()
                }
            ),
            by_model({name: combined({k: p[0] for k, p in own.items()}) for name, own in parts.items()}),
            by_model({name: combined({k: p[1] for k, p in own.items()}) for name, own in parts.items()}),
            {name: r for name, (_, r) in crossed.items() if not r.empty},
            by_model(
                {name: pairs.table.drop(columns=["i", "j"]) for name, (pairs, _) in crossed.items() if pairs}
            ),
            report_tables.style({**answers, **nulls}, tested),
            self._tasks(answers),
            by_model(conduct),
            {
                one.name: by_model(
                    {n: comparison.compared(before, t, one, self._norms(one)) for n, t in tuned.items()},
                    always=len(answers) > 1,
                )
                for one in tested
                if tuned
            },
            combined({one.name: comparison.drift(checkpoints, one, self._norms(one)) for one in tested})
            if checkpoints and len(checkpoints) > 1
            else pd.DataFrame(),
            base_name if base is not None else next(iter(answers)),
            self.confidence,
        )

    def _assess(self, table: pd.DataFrame, acts: pd.DataFrame | None) -> Assessment:
        return assess(
            table,
            self.instruments,
            behavior=acts,
            facets=self.facets,
            thresholds=self.thresholds,
            confidence=self.confidence,
            seed=self.seed,
        )

    def _acts(self, table: pd.DataFrame) -> pd.DataFrame | None:
        return behavior_scores.conduct_scores(table) if "conduct" in behavior_scores.families(table) else None

    def _tasks(self, answers: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        return by_model(
            {
                name: behavior_scores.effects(table, confidence=self.confidence)
                for name, table in answers.items()
                if behavior_scores.families(table)
            }
        )

    def _norms(self, one: Instrument) -> str | None:
        return self.norm_group if self.norm_group in one.groups else None

    def _conduct(
        self, cubes: Sequence[ResponseCube], acts: pd.DataFrame | None, replies: pd.DataFrame | None
    ) -> pd.DataFrame:
        """r of self-report with conduct in situations, and with rated replies."""
        first = cubes[0]
        said = pd.DataFrame(
            {construct_of(s): first.scores(s).mean(axis=1) for s in first.instrument.domains},
            index=pd.Index([who[0] for who in first.persons], name="persona"),
        )
        sources = {"conduct": acts, "dialogues": None if replies is None else dialogues.scores(replies)}
        rows = [
            behavior_scores.self_report_correlations(did, said).assign(behavior=name)
            for name, did in sources.items()
            if did is not None
        ]
        return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()

    def _words(self, answers: Mapping[str, pd.DataFrame]) -> str:
        """How the items were worded, and what that leaves open."""
        found = {name for table in answers.values() if WORDING in table for name in table[WORDING].unique()}
        told = ", ".join(sorted(found)) or "as given"
        can = any(item.paraphrase for one in self.instruments for item in one.items)
        if found == {PUBLISHED} and can:
            told += " alone: answers that are known by heart would not show"
        return told

    def _card(
        self, answers: Mapping[str, pd.DataFrame], found: Mapping[str, Assessment]
    ) -> dict[str, object]:
        counts = "; ".join(
            f"{name}: {len(table)}, {(table['refusal'] != '').mean():.1%} without a readable answer"
            for name, table in answers.items()
        )
        return {
            "respondents": next(iter(found.values())).respondents.replace("_orders", " orders"),
            "answers": counts,
            "instruments": "; ".join(
                f"{one.title} ({one.source}; {one.license.partition(':')[0]})" for one in self.instruments
            ),
            "items' words": self._words(answers),
            "norms": self.norm_group or "none",
            "seeds": f"{', '.join(map(str, self.design.seeds))} of questions; {self.seed} of bootstraps",
            "confidence": f"{self.confidence:g} of all intervals",
            "thresholds": thresholds_told(self.thresholds),
            **provenance(),
        }


def by_model(parts: Mapping[str, pd.DataFrame], *, always: bool = False) -> pd.DataFrame:
    """Stacks the tables of several respondents, named in the first column; a single one stays as it is.

    Args:
      parts: tables by the name of the respondent.
      always: name a single respondent too.
    Returns: one table, its first column `model` where respondents are named.
    """
    if len(parts) == 1 and not always:
        return next(iter(parts.values()))
    return combined(parts, "model")


def listed(value: object) -> str:
    """A run card's value as text; a long list as its length and its beginning."""
    if not isinstance(value, list):
        return str(value)
    shown = ", ".join(map(str, value[:8]))
    return shown if len(value) <= 8 else f"{len(value)}: {shown}, .."


def completed(table: pd.DataFrame, instrument: Instrument, name: str) -> pd.DataFrame:
    """A long table with the columns of an administration, for answers that were collected elsewhere.

    Respondents (column respondent) are persons, asked once in one condition, unless the table says more. A
    wide table (one row per respondent, one column per item) becomes long.

    Args:
      table: from one model or from people; it is not changed.
      instrument: the one whose items are the columns of a wide table, or that a long table without a column
        `instrument` answers.
      name: of the model or people, for a table that does not say, and for the error.
    Returns: a copy with persona, instrument, model, position, refusal, n_options and all facets; a facet that
      the table lacks is "as given".
    Raises: ValueError for a table that is neither long nor wide.
    """
    frame = table.copy()
    if "item" not in frame.columns:
        items = [item.id for item in instrument.items if item.id in frame.columns]
        keys = [column for column in frame.columns if column in ("respondent", "persona", *FACETS)]
        if not items or not keys:
            raise ValueError(
                f"{name} is neither long (respondent, item, response) nor wide (respondent, and a column "
                f"for each item of {instrument.name})"
            )
        frame = frame.melt(keys, items, "item", "response")
    if "persona" not in frame.columns and "respondent" in frame.columns:
        frame["persona"] = frame["respondent"].astype(str)
    missing: dict[str, object] = {"instrument": instrument.name, "model": name, "position": -1, "refusal": ""}
    missing |= {"n_options": len(instrument.options), **dict.fromkeys(FACETS, "as given")}
    for column, value in missing.items():
        if column not in frame.columns:
            frame[column] = value
    if "response" in frame.columns:
        frame.loc[frame["response"].isna() & (frame["refusal"] == ""), "refusal"] = "empty"
    return frame
