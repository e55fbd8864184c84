"""python -m evals.score responses.csv --instrument ipip_neo_120: scores of answers from anywhere.

Writes a table of scores (CSV or Parquet, by the suffix of the output) and prints a summary by scale.
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from evals.psychometrics.reliability import cronbach_alpha
from evals.questionnaires.given_names import given_instrument
from evals.questionnaires.instrument import Instrument
from evals.questionnaires.response_table import read_responses
from evals.questionnaires.scoring import Answers, keyed_responses, score, tabulate
from jaxmoe.given_paths import check_writable, given


def summary(scores: pd.DataFrame, answers: Answers, instrument: Instrument) -> Table:
    """Mean, SD and alpha of each scale over the respondents.

    Args:
      scores: as `evals.questionnaires.score` returns them.
      answers: what the scores were made from; alpha is computed on its keyed items.
    Returns: a table to print, one row per scale, facets indented.
    """
    table = Table(title=f"{instrument.title}: {len(answers.table)} respondents")
    for column in ("scale", "n", "mean", "SD", "alpha", "95 % CI", "note"):
        table.add_column(column)
    for scale in instrument.scales:
        means = scores.loc[scores["scale"] == scale.name, "mean"].dropna()
        alpha = cronbach_alpha(keyed_responses(answers, instrument, scale.name))
        spread = f"{means.std():.2f}" if len(means) > 1 else "–"
        interval = f"{alpha.low:.2f} to {alpha.high:.2f}" if alpha.defined else "–"
        value = f"{alpha.value:.2f}" if alpha.defined else "–"
        mean = f"{means.mean():.2f}" if len(means) else "–"
        name = scale.name if scale.parent is None else f"  {scale.name}"
        table.add_row(name, str(len(means)), mean, spread, value, interval, alpha.reason)
    return table


def main(
    responses: Annotated[Path, typer.Argument(help="long (respondent, item, response) or wide table")],
    instrument: Annotated[str, typer.Option(help="shipped instrument, or path")],
    output: Annotated[Path | None, typer.Option(help="where the scores go (.csv or .parquet)")] = None,
    norm_group: Annotated[str | None, typer.Option(help="norms to compare with")] = None,
    respondent: Annotated[
        list[str] | None, typer.Option(help="column that names the respondent; repeat for several")
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(help="flag whose items are kept; repeat for several")
    ] = None,
    min_answered: Annotated[float, typer.Option(help="least share of a scale's items answered")] = 0.5,
    ipsatize: Annotated[bool, typer.Option(help="subtract each respondent's own mean")] = False,
) -> None:
    """Scores questionnaire responses, collected here or elsewhere, human ones included.
    \f
    Args:
      output: if left out, scores go to stdout as CSV. The summary goes to stderr either way.
      respondent: "respondent" if left out; several columns together name one.
      include: flags such as "self_harm", not item ids.
      min_answered: of a scale; below this share, its score is missing.
    Raises: typer.Exit with status 2, after a line on stderr, for what is refused.
    """
    try:
        if output is not None:
            if output.suffix not in (".csv", ".parquet"):
                raise ValueError(f"the output must be .csv or .parquet; got {output.name}")
            check_writable("--output", output, "file")
        loaded = given_instrument("--instrument", instrument, include or ())
        keys = respondent or ["respondent"]
        with given("RESPONSES", responses, "file"):
            table = read_responses(responses)
        answers = tabulate(table, loaded, respondent=keys)
        scores = score(answers, loaded, min_answered=min_answered, norm_group=norm_group, ipsatize=ipsatize)
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            scores.to_parquet(output) if output.suffix == ".parquet" else scores.to_csv(output, index=False)
    except (ValueError, OSError) as error:
        Console(markup=False, emoji=False, stderr=True).print(
            f"error: {error}", style="red", markup=False, soft_wrap=True
        )
        raise typer.Exit(2) from None
    if output is None:
        typer.echo(scores.to_csv(index=False), nl=False)
    Console(markup=False, emoji=False, stderr=True).print(summary(scores, answers, loaded))


if __name__ == "__main__":
    typer.run(main)
