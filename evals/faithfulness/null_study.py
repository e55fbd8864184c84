"""python -m evals.faithfulness.null_study: is every simulated respondent judged as it should be?

With each seed, every respondent answers two questionnaires and conduct in situations as 64 described people,
the default personas of suite=behavior. The study counts the constructs on which the
conclusion is wrong. A graded respondent, a person whose answers are more or less noise, shows how reliable
scores must be before they are believed (--curve).

    python -m evals.faithfulness.null_study --seeds 100 --workers 2 --output null_study.json

does both; what is already in the file is not done again.
"""

import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from evals.faithfulness.criteria import FaithfulnessVerdict, Thresholds
from evals.faithfulness.run_card import provenance
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
from jaxmoe.json_values import JsonObject

INSTRUMENTS = ("ipip_50", "mini_ipip")
PEOPLE = 64
# reliabilities at which the graded respondent is tried
STEPS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def design_for(rule: SimulatedRule, people: int = PEOPLE) -> Design:
    """Two templates and two option orders, plus whatever makes the rule show.

    Args:
      rule: its `needs` adds leading templates or paraphrased items, or makes the people twins.
      people: graded personas, 32 to 512; twins, 64 to 512.
    Returns: the design.
    Raises: ValueError for another number of people.
    """
    leading = ("leading_yes", "leading_no") if rule.needs == "leading" else ()
    return Design(
        wording.named_templates(["form", "terse", *leading]),
        ("forward", "reversed"),
        personas=tuple(wording.graded_personas(people, twins=rule.needs == "twins")),
        item_wordings=(PUBLISHED, PARAPHRASED) if rule.needs == "paraphrased" else (PUBLISHED,),
    )


def conclusions(
    respondent: Respondent,
    instruments: Sequence[Instrument],
    design: Design,
    thresholds: Thresholds = Thresholds(),  # noqa: B008 - frozen
) -> dict[str, FaithfulnessVerdict]:
    """The worst verdict over all criteria for each construct, in the first instrument.

    A construct is believed only where every criterion is met.

    Args:
      respondent: who answers.
      instruments: what is asked, besides conduct in situations.
      design: the conditions.
      thresholds: what counts as enough.
    Returns: a verdict for each construct.
    """
    table = administer(respondent, [*instruments, behaviors.battery(["conduct"])], design)
    found = assess(table, instruments, behavior=conduct_scores(table), thresholds=thresholds).verdicts
    first = found[found["instrument"] == instruments[0].name]
    return {str(name): worst(set(rows["verdict"])) for name, rows in first.groupby("construct")}


# maps a function over seeds: `map`, or the map of a process pool
Mapped = Callable[[Callable[[int], dict[str, FaithfulnessVerdict]], Sequence[int]], Iterator[dict]]


def study(
    seeds: int, names: Sequence[str] = tuple(RULES), over_seeds: Mapped = map
) -> Iterator[dict[str, object]]:
    """Conclusions over seeds: how many constructs got each verdict, and what share is wrong.

    The constructs of one seed form one cluster for Wilson's interval.

    Args:
      seeds: repetitions of each respondent.
      names: keys of RULES.
      over_seeds: maps over the seeds.
    Returns: one row per respondent, as soon as it is known.
    """
    for name in names:
        rule = RULES[name]
        counts = dict.fromkeys(ORDER, 0)
        wrong, clusters = [], []
        for seed, found in enumerate(over_seeds(partial(_of_rule, name), range(seeds))):
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


def _of_rule(name: str, seed: int) -> dict[str, FaithfulnessVerdict]:
    instruments = [load_instrument(one) for one in INSTRUMENTS]
    return conclusions(simulated_respondent(name, seed), instruments, design_for(RULES[name]))


def curve(
    seeds: int, steps: Sequence[float] = STEPS, people: int = PEOPLE, over_seeds: Mapped = map
) -> Iterator[dict[str, object]]:
    """The operating curve: verdicts on a graded respondent, by the reliability of ten items in one condition.

    Args:
      seeds: repetitions of each step.
      steps: reliabilities.
      people: number of described people.
      over_seeds: maps over the seeds.
    Returns: one row per step, as soon as it is known.
    """
    for step in steps:
        counts = dict.fromkeys(ORDER, 0)
        for found in over_seeds(partial(_of_graded, step, people), range(seeds)):
            for verdict in found.values():
                counts[verdict] += 1
        yield {"reliability": step, "people": people, "seeds": seeds, **counts}


def _of_graded(step: float, people: int, seed: int) -> dict[str, FaithfulnessVerdict]:
    instruments = [load_instrument(one) for one in INSTRUMENTS]
    who = Simulated(f"graded {step:g}", graded(step), seed)
    return conclusions(who, instruments, design_for(RULES["faithful"], people))


def filed(path: Path, seeds: int, people: int = PEOPLE, over_seeds: Mapped = map) -> JsonObject:
    """The study and the curve, kept in a file row by row.

    Args:
      path: JSON with `respondents`, `curve`, date, version and command; rows it already holds for this number
        of seeds are not computed again.
      seeds: repetitions of each.
      people: number of described people for the curve.
      over_seeds: maps over the seeds.
    Returns: what the file holds.
    """
    kept: JsonObject = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept |= provenance()
    rows, points = kept.setdefault("respondents", []), kept.setdefault("curve", [])
    names = [name for name in RULES if not _has(rows, {"respondent": name, "seeds": seeds})]
    steps = [s for s in STEPS if not _has(points, {"reliability": s, "seeds": seeds, "people": people})]
    for where, found in (
        (rows, study(seeds, names, over_seeds)),
        (points, curve(seeds, steps, people, over_seeds)),
    ):
        for row in found:
            where.append(row)
            path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            typer.echo(json.dumps(row, ensure_ascii=False))
    return kept


def _has(rows: Sequence[Mapping[str, object]], wanted: Mapping[str, object]) -> bool:
    return any(all(row[name] == value for name, value in wanted.items()) for row in rows)


def main(
    seeds: Annotated[int, typer.Option(help="repetitions of each respondent")] = 100,
    respondent: Annotated[list[str] | None, typer.Option(help="only this one; repeat for several")] = None,
    graded_curve: Annotated[
        bool, typer.Option("--curve", help="study the graded respondent instead")
    ] = False,
    people: Annotated[int, typer.Option(help="number of described people for the curve")] = PEOPLE,
    output: Annotated[Path | None, typer.Option(help="run study and curve, kept in this JSON file")] = None,
    workers: Annotated[int, typer.Option(help="parallel processes")] = 1,
) -> None:
    """Prints how often each simulated respondent is misjudged, or the operating curve; one row per line.
    \f
    Args:
      respondent: names of `RULES`; all if left out. Ignored by the curve.
      graded_curve: the operating curve (`curve`) instead of the study (`study`).
      people: the study itself always asks 64.
      output: runs everything, whatever respondent and graded_curve say; the same command resumes it.
    Raises: typer.BadParameter for a respondent that is not in `RULES`.
    """
    if unknown := sorted({*(respondent or ())} - RULES.keys()):
        raise typer.BadParameter(f"a simulated respondent is one of {', '.join(RULES)}; got {unknown[0]!r}")
    if output is not None and not output.parent.is_dir():
        raise typer.BadParameter(f"{output.parent} is no folder; make it, or choose another --output")
    # a fork of a process in which jax runs may hang
    fresh = multiprocessing.get_context("spawn")
    with nullcontext() if workers == 1 else ProcessPoolExecutor(workers, mp_context=fresh) as pool:
        over_seeds: Mapped = map if pool is None else partial(pool.map, chunksize=4)
        if output is not None:
            filed(output, seeds, people, over_seeds)
            return
        if graded_curve:
            rows = curve(seeds, people=people, over_seeds=over_seeds)
        else:
            rows = study(seeds, respondent or tuple(RULES), over_seeds)
        for row in rows:
            typer.echo(str(pd.Series(row).to_json(force_ascii=False)))


if __name__ == "__main__":
    typer.run(main)
