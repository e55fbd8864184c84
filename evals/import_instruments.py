"""python -m evals.import_instruments FILE FOLDER: questionnaires of other benchmarks as instruments.

Reads PsychoBench's questionnaires.json, PsyBORGS' administration sessions, TRAIT and inspect_evals'
personality tests. Not covered: the formats themselves (published_formats).
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from evals.questionnaires.published_formats import read_published
from jaxmoe.given_paths import check_writable, given


def main(
    file: Annotated[
        Path, typer.Argument(help="questionnaires.json, an administration session, TRAIT's rows, or bfi.json")
    ],
    folder: Annotated[Path, typer.Argument(help="where the instruments are written, one JSON file each")],
) -> None:
    """Writes each questionnaire as an instrument, for --instrument of the other commands.
    \f
    Args:
      file: its format is recognized from its content.
      folder: created if absent; files of the same name are overwritten.
    Raises: typer.Exit with status 2, after a line on stderr, for what is refused.
    """
    try:
        check_writable("FOLDER", folder, "folder")
        with given("FILE", file, "file"):
            found = read_published(file)
        folder.mkdir(parents=True, exist_ok=True)
        for instrument in found.instruments:
            text = instrument.model_dump_json(indent=1, exclude_defaults=True)
            (folder / f"{instrument.name}.json").write_text(f"{text}\n", encoding="utf-8")
    except (ValueError, OSError) as error:
        Console(markup=False, emoji=False, stderr=True).print(
            f"error: {error}", style="red", markup=False, soft_wrap=True
        )
        raise typer.Exit(2) from None
    for note in found.notes:
        typer.echo(note, err=True)
    for instrument in found.instruments:
        scales = ", ".join(scale.title or scale.name for scale in instrument.scales)
        typer.echo(f"{folder / instrument.name}.json: {len(instrument.items)} items of {scales}")


if __name__ == "__main__":
    typer.run(main)
