"""python -m evals.study: a report on answers that already exist, from one respondent or several."""

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
from evals.questionnaires.given_names import given_instrument
from evals.questionnaires.instrument import Instrument
from evals.questionnaires.response_table import read_responses
from jaxmoe.given_paths import check_writable, given


def main(
    responses: Annotated[
        list[str],
        typer.Argument(
            help="NAME=TABLE or TABLE (long or wide, or a folder of answers); the first is the base"
        ),
    ],
    instrument: Annotated[list[str], typer.Option(help="shipped instrument, or path; repeat for several")],
    output: Annotated[Path, typer.Option(help="folder for report.html and the tables")],
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(help="STEP=TABLE of the same design at a training step; give at least two"),
    ] = None,
    norm_group: Annotated[str | None, typer.Option(help="norms to compare profiles with")] = None,
    facets: Annotated[bool, typer.Option(help="also judge the narrower scales")] = False,
    confidence: Annotated[float, typer.Option(help="confidence level of all intervals")] = 0.95,
) -> None:
    """Writes a report on answers from models or people, collected here or elsewhere.
    \f
    Args:
      responses: without a NAME, the file's name is used, or the folder's name if the file is called
        responses. In a folder the answers are responses.parquet, or behavior/responses.parquet of an
        evaluation.
      checkpoint: each step is compared with the first, in pairs where the same people were asked.
      norm_group: of any of the instruments; instruments without it show means.
    Raises: typer.Exit with status 2, after a line on stderr, for what is refused.
    """
    try:
        check_writable("--output", output, "folder")
        instruments = [given_instrument("--instrument", name) for name in instrument]
        answers: dict[str, pd.DataFrame] = {}
        for argument in responses:
            name, _, place = argument.rpartition("=")
            path = _table("RESPONSES", Path(place))
            name = name or (path.parent.name if path.stem == "responses" else path.stem)
            if name in answers:
                raise ValueError(
                    f"every respondent needs a name of its own; {name!r} is repeated (NAME=TABLE)"
                )
            answers[name] = completed(_responses("RESPONSES", path), instruments[0], name)
        steps = _steps(checkpoint or [], instruments[0])
        # simulated respondents answer a design of their own; style hardly depends on the design
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
        card = {"checkpoints": ", ".join(map(str, sorted(steps)))} if steps else {}
        page = write_report(study.report(answers, card, checkpoints=steps), output)
    except (ValueError, OSError) as error:
        Console(markup=False, emoji=False, stderr=True).print(
            f"error: {error}", style="red", markup=False, soft_wrap=True
        )
        raise typer.Exit(2) from None
    typer.echo(f"{page}")


def _responses(key: str, path: Path) -> pd.DataFrame:
    with given(key, path, "file"):
        return read_responses(path)


def _table(key: str, path: Path) -> Path:
    """The path of a table, given itself or by the folder in which an administration or evaluation left it."""
    inside = [path / "responses.parquet", path / "behavior" / "responses.parquet"]
    found = [one for one in inside if one.is_file()]
    with given(key, path, "file or folder"):
        if path.is_dir() and not found:
            raise ValueError(f"the folder {path} holds no responses.parquet")
    return found[0] if found else path


def _steps(texts: list[str], instrument: Instrument) -> dict[int, pd.DataFrame]:
    found: dict[int, pd.DataFrame] = {}
    for text in texts:
        step, _, path = text.partition("=")
        if not step.strip().isdigit() or not path:
            raise ValueError(f"a checkpoint is written STEP=TABLE, as 300=runs/a/behavior; got {text!r}")
        if int(step) in found:
            raise ValueError(f"step {int(step)} is given twice; every checkpoint needs a step of its own")
        table = _responses("--checkpoint", _table("--checkpoint", Path(path)))
        found[int(step)] = completed(table, instrument, f"step {int(step)}")
    if len(found) == 1:
        raise ValueError("one checkpoint shows no drift; give two at least, the first of them the base")
    return found


if __name__ == "__main__":
    typer.run(main)
