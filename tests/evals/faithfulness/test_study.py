"""python -m evals.study: reports on answers from anywhere, and what it refuses."""

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from evals import administer
from evals.faithfulness.study import completed
from evals.questionnaires.instrument import load_instrument
from evals.study import main

MINI = load_instrument("mini_ipip")
ITEMS = [item.id for item in MINI.items]
app = typer.Typer()
app.command()(main)


def people(n: int = 12, seed: int = 0) -> pd.DataFrame:
    """A wide table of people with traits."""
    rng = np.random.default_rng(seed)
    scales = [item.scale for item in MINI.items]
    traits = {scale: rng.normal(size=n) for scale in set(scales)}
    keys = [item.key for item in MINI.items]
    answers = {
        name: np.clip(np.round(3 + key * traits[scale] + 0.6 * rng.normal(size=n)), 1, 5)
        for name, key, scale in zip(ITEMS, keys, scales, strict=True)
    }
    return pd.DataFrame({"respondent": [f"p{i}" for i in range(n)], **answers})


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.filterwarnings("error")
def test_people_are_reported_from_a_wide_table(tmp_path):
    people().to_csv(tmp_path / "people.csv", index=False)
    done = run(
        f"people={tmp_path / 'people.csv'}", "--instrument", "mini_ipip", "--output", tmp_path / "report"
    )
    assert done.exit_code == 0, done.output
    verdicts = pd.read_csv(tmp_path / "report" / "tables" / "verdicts.csv").set_index(
        ["construct", "criterion"]
    )
    # asked once, there is nothing to return to; items can agree all the same
    assert verdicts.loc[("extraversion", "reproducibility"), "verdict"] == "undetermined"
    assert verdicts.loc[("extraversion", "internal consistency"), "estimate"] != 0
    assert "12 (persona)" in (tmp_path / "report" / "report.html").read_text()


def test_long_and_wide_tables_are_the_same():
    wide = people()
    long = wide.melt("respondent", ITEMS, "item", "response")
    order = ["persona", "item"]
    both = [
        completed(frame, MINI, "people").sort_values(order)[[*order, "response"]] for frame in (wide, long)
    ]
    pd.testing.assert_frame_equal(*(frame.reset_index(drop=True) for frame in both))


@pytest.mark.parametrize("case", ["no variance", "nothing answered", "one person"])
@pytest.mark.filterwarnings("error")
def test_what_says_nothing_is_reported_as_such(tmp_path, case):
    frame = people(1 if case == "one person" else 12)
    if case != "one person":
        frame[ITEMS] = 3.0 if case == "no variance" else np.nan
    frame.to_csv(tmp_path / "people.csv", index=False)
    done = run(tmp_path / "people.csv", "--instrument", "mini_ipip", "--output", tmp_path / "report")
    assert done.exit_code == 0, done.output
    checks = pd.read_csv(tmp_path / "report" / "tables" / "checks.csv")
    assert set(checks["verdict"]) <= {"not faithful", "undetermined"}
    assert checks.loc[checks["estimate"].isna(), "reason"].notna().all()


def test_checkpoints_stand_beside_models_on_one_page(tmp_path):
    frame = people(24)
    # the same people, nearer to the middle with every step
    for step, share in ((0, 1.0), (200, 0.3)):
        folder = tmp_path / f"step{step}" / "behavior"
        folder.mkdir(parents=True)
        nearer = frame.assign(**{name: 3 + share * (frame[name] - 3) for name in ITEMS}).round()
        nearer.to_parquet(folder / "responses.parquet")
    steps = [f"--checkpoint={step}={tmp_path / f'step{step}'}" for step in (0, 200)]
    first, last = tmp_path / "step0" / "behavior" / "responses.parquet", tmp_path / "step200"
    page = tmp_path / "page"
    done = run(f"base={first}", f"tuned={last}", *steps, "--instrument", "mini_ipip", "--output", page)
    assert done.exit_code == 0, done.output
    drift = pd.read_csv(page / "tables" / "drift.csv")
    assert drift["step"].tolist() == [0] * 5 + [200] * 5
    final = drift[drift["step"] == 200]
    assert (final["claim"] == "restricted").all()
    # a step and a model of the same answers are told alike
    compared = pd.read_csv(page / "tables" / "comparison_mini_ipip.csv")
    assert final["dispersion"].tolist() == pytest.approx(compared["dispersion"].tolist())
    told = (page / "report.html").read_text()
    assert "checkpoints" in told
    assert "step 200: restricted since the first step" in told
    for wrong, message in (
        (["--checkpoint=end=x.csv"], "a checkpoint is written STEP=TABLE"),
        ([steps[0], steps[0]], "step 0 is given twice"),
        ([steps[0]], "one checkpoint shows no drift"),
        ([f"--checkpoint=1={tmp_path}"], "holds no responses.parquet"),
    ):
        done = run(f"base={first}", *wrong, "--instrument", "mini_ipip", "--output", page)
        assert done.exit_code == 2
        assert message in done.stderr


def test_mistakes_are_one_line_each(tmp_path):
    frame = people().melt("respondent", ITEMS, "item", "response")
    cases = {
        "unknown item 'zz'": frame.assign(item=["zz", *frame["item"][1:]]),
        "answered item 'miniipip_01' twice": pd.concat([frame, frame.head(1)]),
        "response 9": frame.assign(response=[9, *frame["response"][1:]]),
        "neither long": pd.DataFrame({"a": [1]}),
    }
    for message, table in cases.items():
        table.to_csv(tmp_path / "wrong.csv", index=False)
        done = run(tmp_path / "wrong.csv", "--instrument", "mini_ipip", "--output", tmp_path / "report")
        assert done.exit_code == 2
        assert message in done.output
        assert done.output.count("\n") == 1
    people().to_csv(tmp_path / "right.csv", index=False)
    path = tmp_path / "right.csv"
    for message, arguments in {
        "did you mean 'mini_ipip'": (path, "--instrument", "mini_ipp"),
        "these instruments have no norms": (path, "--instrument", "mini_ipip", "--norm-group", "men"),
        "'right' is repeated": (path, path, "--instrument", "mini_ipip"),
        "there is no file": (tmp_path / "nowhere.csv", "--instrument", "mini_ipip"),
    }.items():
        done = run(*arguments, "--output", tmp_path / "report")
        assert done.exit_code == 2
        assert message in done.output
        assert not (tmp_path / "report").exists()


def test_answers_known_by_heart_show_where_items_are_reworded(tmp_path):
    """Published words alone: the run card says what they leave open. With both the report is as any other."""
    runner = CliRunner()
    shown = {}
    for words in (["published"], ["published", "paraphrased"]):
        folder = tmp_path / words[-1]
        asked = [str(folder), "--instrument", "mini_ipip", "--respondent", "null:memorized", "--report"]
        asked += ["--personas", "graded-64", "--template", "form"]
        asked += [part for word in words for part in ("--item-wording", word)]
        found = runner.invoke(administer.app, asked)
        assert found.exit_code == 0, found.output
        page = (folder / "report.html").read_text()
        assert ("answers that are known by heart would not show" in page) == (len(words) == 1)
        verdicts = pd.read_csv(folder / "tables" / "verdicts.csv")
        shown[words[-1]] = set(verdicts.loc[verdicts["criterion"] == "internal consistency", "verdict"])
    assert shown["published"] == {"faithful"}
    assert shown["paraphrased"] == {"not faithful"}
