"""Draw a run's loss curves and expert use into RUN/plots."""

from pathlib import Path
from typing import Annotated

import typer

from jaxmoe.given_paths import given


def command(run: Annotated[Path, typer.Argument(help="Output folder of a run.", show_default=False)]) -> None:
    """Draws the plots that the folder has data for, and prints their files."""
    from training.plots.plot_run import plot_run

    with given("RUN", run, "folder"):
        drawn = plot_run(run)
    for path in drawn:
        print(path)
