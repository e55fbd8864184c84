"""python -m evals.psychometrics DATA [ANALYSIS ..]: what psychologists ask of a table of answers.

Not covered: the analyses (scales, structure, groups, p_values), asking models (administer), verdicts (study).
"""

import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, get_args

import numpy as np
import typer
from rich.console import Console

from evals.analysis import groups, p_values, people, scales, structure
from evals.analysis.answer_table import AnswerTable, of_columns, of_instrument
from evals.analysis.results import ResultTable, as_json, markdown, write
from evals.analysis.settings import AnalysisSettings
from evals.psychometrics.agreement import Level
from evals.questionnaires.given_names import given_instrument
from evals.questionnaires.instrument import Instrument
from evals.questionnaires.people_data import read_answers
from evals.questionnaires.response_table import read_responses
from jaxmoe.given_paths import check_given, check_writable, given
from jaxmoe.progress import say

Analysis = Callable[[AnswerTable, AnalysisSettings], list[ResultTable]]
# by name: the analysis, and the question it answers, in one line
ANALYSES: dict[str, tuple[Analysis, str]] = {
    "items": (scales.items, "Does each item go with its scale? Means, item-rest r, α without it."),
    "reliability": (
        scales.reliability,
        "How precise are scores? α, ordinal α, ω, λ1 to λ6, split halves, SEM.",
    ),
    "factors": (structure.factor_number, "How many factors? KMO, Bartlett, parallel analysis, MAP."),
    "efa": (structure.exploratory, "Which items go together? Exploratory factors (--factors, --rotation)."),
    "cfa": (structure.confirmatory, "Does a stated model fit? Confirmatory factors (--model, or --scale)."),
    "polychoric": (structure.polychorics, "How do ordered answers correlate? Polychorics, thresholds."),
    "grm": (scales.grm, "What does each answer tell of the trait? Graded response model."),
    "agreement": (scales.agreement, "Do raters or runs (columns) agree? ICC, Krippendorff's α (--level)."),
    "retest": (scales.retested, "Do scores return? Retest r, ICC, least change (--second)."),
    "compare": (groups.compared, "Do two groups differ, or are they equivalent? t, d, g, TOST (--group)."),
    "criterion": (groups.criteria, "What do scores go with? r with other columns (--criterion)."),
    "style": (groups.style, "How do people use the scale? Acquiescence, extremity, careless answers."),
    "desirability": (groups.desirability, "Do answers flatter? A desirability scale (--desirability)."),
    "norms": (people.norms, "How do people score? Mean, SD and percentiles, as an instrument's norms."),
    "congruence": (people.congruent, "Are the factors those of people? Tucker's phi (--people)."),
    "dif": (people.biased, "Which items work differently than in people? Ordinal DIF (--people)."),
}
# needs a table of p values, not of answers
P_VALUES = "p_values"
DEFAULT = ("items", "reliability", "factors")
WHAT, SCALES, FACTORS, GROUPS, OUTPUT = (
    "What to read",
    "Scales",
    "Factors, agreement, retest",
    "Groups and criteria",
    "Output",
)
EPILOG = "\n\n".join(
    [
        "[bold]Analyses[/bold]",
        *(f"[bold]{name}[/bold]: {told}" for name, (_, told) in ANALYSES.items()),
        f"[bold]{P_VALUES}[/bold]: Which of many tests hold? Holm, Benjamini-Hochberg (--p-column).",
        "[bold]Examples[/bold]",
        "A first look at a survey: python -m evals.psychometrics survey.csv",
        "Two scales, one item reversed: python -m evals.psychometrics survey.csv reliability cfa "
        "--scale calm=q1,q2,-q3 --scale kind=q4..q8 --range 1-5",
        "Ordered answers: python -m evals.psychometrics survey.csv polychoric efa --items 'q*' "
        "--correlations polychoric --factors 2",
        "Two groups: python -m evals.psychometrics survey.csv compare --scale calm=q1..q6 --group condition",
        "Answers that a model gave: python -m evals.psychometrics answers/responses.parquet reliability "
        "--instrument ipip_50 --respondent persona --respondent template --respondent option_order",
        "A model beside people: python -m evals.psychometrics answers/responses.parquet congruence dif "
        "--instrument ipip_50 --respondent persona --respondent template --people data-final.csv --sample "
        "2000",
        "All digits for R or Excel: add --output results/ (a CSV each) or --output results.json",
    ]
)


def main(
    data: Annotated[
        Path,
        typer.Argument(
            help="table of answers: CSV, TSV, JSON or Parquet; wide, or long (respondent, item, response)"
        ),
    ],
    analyses: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ANALYSIS ..", help=f"one or more of those below; {', '.join(DEFAULT)} if left out"
        ),
    ] = None,
    instrument: Annotated[
        str,
        typer.Option(
            help="shipped questionnaire, or path: gives items, keys and scales", rich_help_panel=WHAT
        ),
    ] = "",
    facets: Annotated[bool, typer.Option(help="its narrower scales too", rich_help_panel=WHAT)] = False,
    respondent: Annotated[
        list[str] | None,
        typer.Option(
            help="column that tells respondents apart, repeatable; 'respondent' if left out",
            rich_help_panel=WHAT,
        ),
    ] = None,
    missing: Annotated[
        list[float] | None,
        typer.Option(help="number that stands for no answer, such as -99", rich_help_panel=WHAT),
    ] = None,
    items: Annotated[
        str,
        typer.Option(
            help="item columns: q1,q2 or 'q*' or q1..q10; every column of numbers if left out",
            rich_help_panel=SCALES,
        ),
    ] = "",
    scale: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=q1,q2,-q3: a scale; a minus reverses an item; repeat for several",
            rich_help_panel=SCALES,
        ),
    ] = None,
    answer_range: Annotated[
        str,
        typer.Option(
            "--range",
            help="least and greatest answer, such as 1-5; as found in the data if left out",
            rich_help_panel=SCALES,
        ),
    ] = "",
    factors: Annotated[
        int,
        typer.Option(
            min=0, help="number for efa; 0 takes the number from parallel analysis", rich_help_panel=FACTORS
        ),
    ] = 0,
    rotation: Annotated[
        str, typer.Option(help="oblimin, varimax or none", rich_help_panel=FACTORS)
    ] = "oblimin",
    correlations: Annotated[
        str, typer.Option(help="for efa: pearson or polychoric", rich_help_panel=FACTORS)
    ] = "pearson",
    model: Annotated[
        str,
        typer.Option(help="for cfa: 'calm =~ q1 + q2 + q3; kind =~ q4 + q5 + q6'", rich_help_panel=FACTORS),
    ] = "",
    level: Annotated[
        str,
        typer.Option(
            help="for Krippendorff's α: nominal, ordinal, interval or ratio", rich_help_panel=FACTORS
        ),
    ] = "ordinal",
    second: Annotated[
        Path | None,
        typer.Option(help="the same respondents at another time, for retest", rich_help_panel=FACTORS),
    ] = None,
    people_: Annotated[
        Path | None,
        typer.Option(
            "--people",
            help="people's answers to the same items: a table, openpsychometrics' IPIP-FFM, or IPIP120.dat",
            rich_help_panel=GROUPS,
        ),
    ] = None,
    sample: Annotated[
        int,
        typer.Option(min=0, help="draw this many people at random; 0 takes all", rich_help_panel=GROUPS),
    ] = 0,
    group: Annotated[
        str, typer.Option(help="column that tells two groups apart", rich_help_panel=GROUPS)
    ] = "",
    between: Annotated[
        str, typer.Option(help="two of that column's values, A,B: A minus B", rich_help_panel=GROUPS)
    ] = "",
    pair: Annotated[
        str, typer.Option(help="column that names the same person in both groups", rich_help_panel=GROUPS)
    ] = "",
    bound: Annotated[
        float,
        typer.Option(min=0.001, help="differences below this many SDs count as none", rich_help_panel=GROUPS),
    ] = 0.2,
    criterion: Annotated[
        list[str] | None,
        typer.Option(help="column to correlate scores with; repeat for several", rich_help_panel=GROUPS),
    ] = None,
    ranks: Annotated[bool, typer.Option(help="use Spearman's correlations", rich_help_panel=GROUPS)] = False,
    desirability: Annotated[
        str, typer.Option(help="scale of socially desirable answers", rich_help_panel=GROUPS)
    ] = "",
    p_column: Annotated[
        str, typer.Option(help="column of p values, for p_values", rich_help_panel=GROUPS)
    ] = "p",
    output: Annotated[
        Path | None,
        typer.Option(
            help=".json, .md, or a folder for CSV files; if left out, prints Markdown",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_json_: Annotated[bool, typer.Option("--json", help="print JSON", rich_help_panel=OUTPUT)] = False,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.999, help="level of intervals", rich_help_panel=OUTPUT)
    ] = 0.95,
    bootstrap: Annotated[
        int, typer.Option(min=0, help="bootstrap samples of persons", rich_help_panel=OUTPUT)
    ] = 500,
    seed: Annotated[int, typer.Option(help="for bootstraps and random data", rich_help_panel=OUTPUT)] = 0,
) -> None:
    """Reliability, factors, item response, agreement and comparisons of a table of answers.

    Each row is a respondent and each column an item (or a long table: respondent, item, response). Columns of
    numbers are items unless --items, --scale or --instrument says which.
    \f
    Args:
      data: from people or models; p_values takes one row per test.
      analyses: run in this order, on a table that is read once.
    Raises: typer.Exit with status 2, after a line on stderr, for what is refused.
    """
    try:
        wanted = list(analyses or DEFAULT)
        if unknown := [name for name in wanted if name not in (*ANALYSES, P_VALUES)]:
            raise ValueError(
                f"there is no analysis {unknown[0]!r}; there are {', '.join((*ANALYSES, P_VALUES))}"
            )
        for name, value, known in (
            ("rotation", rotation, ("oblimin", "varimax", "none")),
            ("correlations", correlations, ("pearson", "polychoric")),
            ("level", level, get_args(Level)),
        ):
            if value not in known:
                raise ValueError(f"--{name} must be one of {', '.join(known)}; got {value!r}")
        if output is not None:
            check_writable("--output", output, "file" if output.suffix else "folder")
        for key, path in (("DATA", data), ("--second", second), ("--people", people_)):
            if path is not None:
                check_given(key, path, "file")  # before the analysis of the others, which may take minutes
        if P_VALUES in wanted:
            if len(wanted) > 1:
                raise ValueError(
                    "p_values reads a table of tests, other analyses one of answers; run it alone"
                )
            with given("DATA", data):
                tests = read_responses(data)
            results = p_values.corrected(tests, p_column)
        else:
            known_instrument = given_instrument("--instrument", instrument) if instrument else None
            if known_instrument and (items or scale or answer_range):
                raise ValueError(
                    "--instrument says which items, scales and range there are; leave out --items, --scale "
                    "and --range"
                )

            keys = respondent or ["respondent"]
            how = partial(
                _read,
                instrument=known_instrument,
                facets=facets,
                missing=missing or [],
                items=items,
                scale=scale or [],
            )
            table = how("DATA", data, respondent=keys, answer_range=answer_range)
            for note in table.notes:
                say(note)
            span = answer_range or ("" if known_instrument else f"{table.low:g}-{table.high:g}")
            settings = AnalysisSettings(
                confidence,
                bootstrap,
                seed,
                factors,
                rotation,
                correlations,
                model,
                level,  # type: ignore[arg-type]  # checked above
                group,
                tuple(part.strip() for part in between.split(",")) if between else (),
                pair,
                bound,
                tuple(criterion or ()),
                ranks,
                desirability,
                how("--second", second, respondent=keys, answer_range=span) if second else None,
                how(
                    "--people",
                    people_,
                    respondent=["respondent"],
                    answer_range=span,
                    sample=sample,
                    seed=seed,
                )
                if people_
                else None,
            )
            results = [one for name in wanted for one in ANALYSES[name][0](table, settings)]
        card: dict[str, object] = {"data": data.name, "analyses": wanted, "command": _command()}
        if output is not None:
            typer.echo(write(results, output, card))
    except (ValueError, OSError) as error:
        Console(markup=False, emoji=False, stderr=True).print(
            f"error: {error}", style="red", markup=False, soft_wrap=True
        )
        raise typer.Exit(2) from None
    if output is None:
        typer.echo(as_json(results, card) if as_json_ else markdown(results), nl=False)


def _command() -> str:
    return shlex.join(["python", "-m", "evals.psychometrics", *sys.argv[1:]])


def _read(
    key: str,
    path: Path,
    *,
    instrument: Instrument | None,
    facets: bool,
    missing: list[float],
    items: str,
    scale: list[str],
    respondent: list[str],
    answer_range: str,
    sample: int = 0,
    seed: int = 0,
) -> AnswerTable:
    with given(key, path):
        frame, published = read_answers(path, instrument)
    if published:
        say(f"{path.name} is {published}: {len(frame)} people; 0 is no answer")
    if 0 < sample < len(frame):
        frame = frame.sample(sample, random_state=seed).reset_index(drop=True)
    if instrument is None:
        return of_columns(
            frame,
            items=items,
            scales=scale,
            answer_range=answer_range,
            missing=missing,
            respondent=respondent,
        )
    known = {item.id for item in instrument.items} | {"response"}
    for name in known & set(frame.columns) if missing else ():
        frame[name] = frame[name].where(~frame[name].isin(missing), np.nan)
    return of_instrument(frame, instrument, respondent, facets=facets)


app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_show_locals=False)
app.command(epilog=EPILOG)(main)
