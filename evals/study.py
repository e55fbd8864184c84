"""python -m evals.study: a report on answers that are there already, of one respondent or several."""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.console import Console

from evals.faithfulness.criteria import Thresholds
from evals.faithfulness.report import write_report
from evals.faithfulness.study import FaithfulnessStudy, completed
from evals.questionnaires import wording
from evals.questionnaires.design import Design, battery
from evals.questionnaires.instrument import load_instrument
from evals.questionnaires.response_table import read_responses


def main(
    responses: Annotated[
        list[str], typer.Argument(help="NAME=TABLE or TABLE, long or wide; the first is the base")
    ],
    instrument: Annotated[list[str], typer.Option(help="shipped instruments, or paths; repeat the option")],
    output: Annotated[Path, typer.Option(help="folder for report.html and the tables")],
    norm_group: Annotated[str | None, typer.Option(help="norms to compare profiles with")] = None,
    facets: Annotated[bool, typer.Option(help="also judge the narrower scales")] = False,
    confidence: Annotated[float, typer.Option(help="of all intervals")] = 0.95,
) -> None:
    """Writes a report on answers of models or people, collected here or elsewhere.
    \f
    Args:
      responses: without a NAME, the file's name is taken, or the folder's of a file called responses.
      norm_group: of any of the instruments; the others show means.
    Raises: typer.Exit with status 2, after a line on stderr, for what is refused.
    """
    try:
        instruments = [load_instrument(name) for name in instrument]
        if norm_group and not any(norm_group in one.groups for one in instruments):
            known = sorted({group for one in instruments for group in one.groups})
            have = f"one of {', '.join(known)}" if known else "left out, as these instruments have no norms"
            raise ValueError(f"norm_group must be {have}; got {norm_group!r}")
        answers: dict[str, pd.DataFrame] = {}
        for argument in responses:
            name, _, path = argument.rpartition("=")
            name = name or (Path(path).parent.name if Path(path).stem == "responses" else Path(path).stem)
            if name in answers:
                raise ValueError(
                    f"every respondent needs a name of its own; {name!r} is repeated (NAME=TABLE)"
                )
            answers[name] = completed(read_responses(Path(path)), instruments[0], name)
        # simulated respondents answer a design of their own: style hardly depends on it
        design = Design(
            wording.named_templates(["form", "terse"]),
            ("forward", "reversed"),
            personas=tuple(wording.composed_personas(16)),
        )
        study = FaithfulnessStudy(
            instruments,
            [battery(one) for one in instruments],
            design,
            Thresholds(),
            confidence,
            0,
            norm_group,
            facets,
        )
        page = write_report(study.report(answers, {}), output)
    except (ValueError, OSError) as error:
        Console(markup=False, emoji=False, stderr=True).print(
            f"error: {error}", style="red", markup=False, soft_wrap=True
        )
        raise typer.Exit(2) from None
    typer.echo(f"{page}")


if __name__ == "__main__":
    typer.run(main)
