"""The command of the null study."""

import json

import typer
from typer.testing import CliRunner

from evals.faithfulness import null_study
from evals.faithfulness.null_study import main
from evals.questionnaires.respondents.simulated import RULES


def test_a_respondent_that_there_is_not_is_refused_by_name():
    app = typer.Typer()
    app.command()(main)
    done = CliRunner().invoke(app, ["--seeds", "1", "--respondent", "nobody"], env={"COLUMNS": "2000"})
    assert done.exit_code == 2
    assert "got 'nobody'" in done.output


def test_a_file_in_no_folder_is_refused_before_anything_is_asked(tmp_path):
    app = typer.Typer()
    app.command()(main)
    done = CliRunner().invoke(app, ["--output", str(tmp_path / "none" / "a.json")], env={"COLUMNS": "2000"})
    assert done.exit_code == 2
    assert "is no folder; make it, or choose another --output" in done.output


def test_a_file_keeps_what_is_done(tmp_path, monkeypatch):
    asked = []

    def judged(what, *more):
        asked.append((what, more[-1]))
        return {
            "openness": "not faithful",
            "agreeableness": "faithful" if what == "random" else "not faithful",
        }

    monkeypatch.setattr(null_study, "RULES", {name: RULES[name] for name in ("random", "inverted")})
    monkeypatch.setattr(null_study, "STEPS", (0.0, 0.9))
    monkeypatch.setattr(null_study, "_of_rule", judged)
    monkeypatch.setattr(null_study, "_of_graded", judged)
    path = tmp_path / "null_study.json"
    found = null_study.filed(path, 4)
    assert [(row["respondent"], row["wrong"], row["faithful"]) for row in found["respondents"]] == [
        ("random", 0.5, 4),
        ("inverted", 0.0, 0),
    ]
    assert [(row["reliability"], row["not faithful"]) for row in found["curve"]] == [(0.0, 8), (0.9, 8)]
    assert len(asked) == 4 * 4
    # killed after the first row: what is missing is asked, and no more
    cut = {"respondents": found["respondents"][:1], "curve": []}
    path.write_text(json.dumps(cut))
    assert null_study.filed(path, 4) == found == json.loads(path.read_text())
    assert len(asked) == 4 * 4 + 3 * 4
    null_study.filed(path, 4)
    assert len(asked) == 4 * 4 + 3 * 4


def test_processes_side_by_side_find_the_same(tmp_path):
    app = typer.Typer()
    app.command()(main)
    options = ["--seeds", "2", "--respondent", "midpoint"]
    alone, together = (CliRunner().invoke(app, [*options, "--workers", n]).output for n in ("1", "2"))
    assert '"not faithful":10' in alone
    assert alone == together
