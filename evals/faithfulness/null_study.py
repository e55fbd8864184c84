"""python -m evals.faithfulness.null_study: is every simulated respondent judged as it should be?

Every respondent answers two questionnaires and conduct in situations as 32 described people, with each seed;
counted are the constructs on which the conclusion is wrong. A graded respondent, a person whose answers are
more or less noise, shows from which reliability on scores are believed (--curve).
"""

from collections.abc import Iterator, Sequence
from typing import Annotated

import pandas as pd
import typer

from evals.faithfulness.criteria import FaithfulnessVerdict, Thresholds
from evals.faithfulness.verdicts import ORDER, assess, worst
from evals.psychometrics.uncertainty import mean_score
from evals.questionnaires import behaviors, wording
from evals.questionnaires.administration import administer
from evals.questionnaires.behavior_scores import conduct_scores
from evals.questionnaires.design import PARAPHRASED, PUBLISHED, Design
from evals.questionnaires.instrument import Instrument, load_instrument
from evals.questionnaires.respondent import Respondent
from evals.questionnaires.respondents.simulated import (
    RULES,
    Simulated,
    SimulatedRule,
    simulated_respondent,
)
from evals.questionnaires.respondents.simulated_traits import graded

INSTRUMENTS = ("ipip_50", "mini_ipip")
PEOPLE = 32
# reliabilities of the graded respondent
STEPS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def design_for(rule: SimulatedRule, people: int = PEOPLE) -> Design:
    """Two templates and two option orders, and what the rule needs to show itself.

    Args:
      rule: its `needs` adds leading templates, or items in paraphrased words.
      people: composed personas, 2 to 32.
    Returns: the design.
    Raises: ValueError for another number of people.
    """
    leading = ("leading_yes", "leading_no") if rule.needs == "leading" else ()
    return Design(
        wording.named_templates(["form", "terse", *leading]),
        ("forward", "reversed"),
        personas=tuple(wording.composed_personas(people)),
        item_wordings=(PUBLISHED, PARAPHRASED) if rule.needs == "paraphrased" else (PUBLISHED,),
    )


def conclusions(
    respondent: Respondent,
    instruments: Sequence[Instrument],
    design: Design,
    thresholds: Thresholds = Thresholds(),  # noqa: B008 - frozen
) -> dict[str, FaithfulnessVerdict]:
    """By construct, the worst verdict over all criteria, in the first instrument.

    A construct is believed only where every criterion is met.

    Args:
      respondent: who answers.
      instruments: what is asked, beside conduct in situations.
      design: the conditions.
      thresholds: what counts as enough.
    Returns: a verdict for each construct.
    """
    table = administer(respondent, [*instruments, behaviors.battery(["conduct"])], design)
    found = assess(table, instruments, behavior=conduct_scores(table), thresholds=thresholds).verdicts
    first = found[found["instrument"] == instruments[0].name]
    return {str(name): worst(set(rows["verdict"])) for name, rows in first.groupby("construct")}


def study(seeds: int, names: Sequence[str] = tuple(RULES)) -> Iterator[dict[str, object]]:
    """Conclusions over seeds: how many constructs got which, and the share that is wrong.

    The constructs of one seed are one cluster of Wilson's interval.

    Args:
      seeds: repetitions of each respondent.
      names: of RULES.
    Returns: a row a respondent, as soon as it is known.
    """
    instruments = [load_instrument(name) for name in INSTRUMENTS]
    for name in names:
        rule = RULES[name]
        design = design_for(rule)
        counts = dict.fromkeys(ORDER, 0)
        wrong, clusters = [], []
        for seed in range(seeds):
            found = conclusions(simulated_respondent(name, seed), instruments, design)
            for construct, verdict in found.items():
                counts[verdict] += 1
                wrong.append(float(verdict not in rule.rights(construct)))
                clusters.append(seed)
        share = mean_score(wrong, clusters, interval="wilson")
        yield {
            "respondent": name,
            "right": " or ".join(rule.right),
            "exceptions": {construct: " or ".join(found) for construct, found in rule.exceptions.items()},
            "seeds": seeds,
            **counts,
            "wrong": round(share.value, 4),
            "low": round(share.low, 4),
            "high": round(share.high, 4),
        }


def curve(seeds: int, steps: Sequence[float] = STEPS, people: int = PEOPLE) -> Iterator[dict[str, object]]:
    """The operating curve: verdicts on a graded respondent, by the reliability of ten items in one condition.

    Args:
      seeds: repetitions of each step.
      steps: reliabilities.
      people: described people.
    Returns: a row a step, as soon as it is known.
    """
    instruments = [load_instrument(name) for name in INSTRUMENTS]
    design = design_for(RULES["faithful"], people)
    for step in steps:
        counts = dict.fromkeys(ORDER, 0)
        for seed in range(seeds):
            who = Simulated(f"graded {step:g}", graded(step), seed)
            for verdict in conclusions(who, instruments, design).values():
                counts[verdict] += 1
        yield {"reliability": step, "people": people, "seeds": seeds, **counts}


def main(
    seeds: Annotated[int, typer.Option(help="repetitions of each respondent")] = 100,
    respondent: Annotated[list[str] | None, typer.Option(help="only these")] = None,
    graded_curve: Annotated[bool, typer.Option("--curve", help="the graded respondent instead")] = False,
    people: Annotated[int, typer.Option(help="described people of the curve")] = PEOPLE,
) -> None:
    """Prints how often each simulated respondent is judged wrongly, or the operating curve; a row a line.
    \f
    Args:
      respondent: names of `RULES`; all if left out. Ignored by the curve.
      graded_curve: the operating curve (`curve`) instead of the study (`study`).
      people: the study itself always asks 32.
    Raises: typer.BadParameter for a respondent that is not in `RULES`.
    """
    if unknown := sorted({*(respondent or ())} - RULES.keys()):
        raise typer.BadParameter(f"a simulated respondent is one of {', '.join(RULES)}; got {unknown[0]!r}")
    rows = curve(seeds, people=people) if graded_curve else study(seeds, respondent or tuple(RULES))
    for row in rows:
        typer.echo(str(pd.Series(row).to_json(force_ascii=False)))


if __name__ == "__main__":
    typer.run(main)
