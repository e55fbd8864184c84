"""Put a paper's claims to the test: loramoe, stepcoder, realbehavior, or all. Writes OUT/STUDY.json, figures
and a page; finished cells (OUT/cells) are not rerun."""

from pathlib import Path
from typing import Annotated

import typer

from jaxmoe.given_paths import check_writable
from training.runtime.config_help import config_of
from training.studies import STUDIES

# of each study, for --help
CONFIGS = {name: found for name, module in STUDIES.items() if (found := config_of(module, "make"))}


def command(
    study: Annotated[
        str, typer.Argument(help="loramoe, stepcoder, realbehavior, or all.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder for cells, results and pages.", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Override keys of the study's file.")
    ] = None,
    config: Annotated[
        str | None, typer.Option(metavar="NAME_OR_FILE", help="Config of the study; default reproduce/STUDY.")
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Run nothing; write the results of the finished cells.")
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error arose.")] = False,
) -> None:
    """Works run by run and can be restarted; learning rates are chosen on dev splits only.

    Args: described by their annotations, which --help shows.
    Raises: ValueError, as `reproduce` does; it becomes one line on the terminal.
    """
    from training.runtime.config import check_file
    from training.studies import reproduce

    check_file(config, overrides or [])
    check_writable("--out", out, "folder")
    reproduce.reproduce(study, out, config, overrides or (), report_only=report_only)
