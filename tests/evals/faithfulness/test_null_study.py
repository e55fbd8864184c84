"""The command of the null study."""

import typer
from typer.testing import CliRunner

from evals.faithfulness.null_study import main


def test_a_respondent_that_there_is_not_is_refused_by_name():
    app = typer.Typer()
    app.command()(main)
    done = CliRunner().invoke(app, ["--seeds", "1", "--respondent", "nobody"], env={"COLUMNS": "2000"})
    assert done.exit_code == 2
    assert "got 'nobody'" in done.output
