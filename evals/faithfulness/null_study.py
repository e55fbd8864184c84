"""python -m evals.faithfulness.null_study: are null respondents unfaithful, and the faithful one faithful?

Every respondent answers two questionnaires and conduct in situations as 32 described people in four
conditions, with each seed; counted are the constructs on which the conclusion is wrong.
"""

from collections.abc import Sequence
from typing import Annotated

import pandas as pd
import typer

from evals.faithfulness.criteria import FaithfulnessVerdict, Thresholds
from evals.faithfulness.verdicts import assess, worst
from evals.questionnaires import behaviors, wording
from evals.questionnaires.administration import administer
from evals.questionnaires.behavior_scores import conduct_scores
from evals.questionnaires.design import Design, battery
from evals.questionnaires.instrument import Instrument, load_instrument
from evals.questionnaires.null_respondents import RULES, simulated_respondent
from evals.questionnaires.respondent import Respondent


def conclusions(
    respondent: Respondent,
    instruments: Sequence[Instrument],
    design: Design,
    thresholds: Thresholds = Thresholds(),  # noqa: B008 - frozen
) -> dict[str, FaithfulnessVerdict]:
    """By construct, the worst verdict over all criteria, in the first instrument.

    A construct is believed only where every criterion is met.
    """
    batteries = [battery(one) for one in instruments]
    table = administer(respondent, [*batteries, behaviors.behavioral_battery(["conduct"])], design)
    found = assess(table, instruments, behavior=conduct_scores(table), thresholds=thresholds).verdicts
    first = found[found["instrument"] == instruments[0].name]
    return {str(name): worst(set(rows["verdict"])) for name, rows in first.groupby("construct")}


def study(seeds: int, names: Sequence[str] = tuple(RULES)) -> pd.DataFrame:
    """Conclusions over seeds: by respondent, how many constructs got which, and the share that is wrong."""
    instruments = [load_instrument("ipip_50"), load_instrument("mini_ipip")]
    design = Design(
        wording.named_templates(["form", "terse"]),
        ("forward", "reversed"),
        personas=tuple(wording.composed_personas(32)),
    )
    rows = []
    for name in names:
        counts: dict[str, int] = {"faithful": 0, "undetermined": 0, "not faithful": 0}
        for seed in range(seeds):
            for verdict in conclusions(simulated_respondent(name, seed), instruments, design).values():
                counts[verdict] += 1
        right = "faithful" if name == "faithful" else "not faithful"
        total = sum(counts.values())
        rows.append({"respondent": name, "seeds": seeds, **counts, "wrong": 1 - counts[right] / total})
    return pd.DataFrame(rows)


def main(
    seeds: Annotated[int, typer.Option(help="repetitions of each respondent")] = 100,
    respondent: Annotated[list[str] | None, typer.Option(help="only these")] = None,
) -> None:
    """Prints how often each simulated respondent is judged wrongly."""
    for name in respondent or RULES:
        found = study(seeds, [name])
        typer.echo(str(found.to_json(orient="records", lines=True)).strip())


if __name__ == "__main__":
    typer.run(main)
