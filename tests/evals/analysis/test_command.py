"""python -m evals.psychometrics: tables of answers in, tables of statistics out."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from evals import psychometrics
from evals.analysis.command import ANALYSES, app
from evals.questionnaires.administration import administer
from evals.questionnaires.design import Design, battery
from evals.questionnaires.instrument import load_instrument
from evals.questionnaires.respondents.simulated import simulated_respondent
from evals.questionnaires.wording import composed_personas, named_templates

N = 120
SCALES = ("--scale", "calm=q1,-q2,q3,q4", "--scale", "kind=q5..q8", "--range", "1-5")
EVERYTHING = (
    *SCALES,
    *(
        "--group",
        "arm",
        "--criterion",
        "grade",
        "--desirability",
        "kind",
        "--factors",
        "2",
        "--bootstrap",
        "20",
    ),
)


def survey(seed=0):
    two = [[0.7, 0]] * 4 + [[0, 0.7]] * 4
    frame = pd.DataFrame(
        psychometrics.simulate_responses(N, two, seed=seed), columns=pd.Index([f"q{i}" for i in range(1, 9)])
    )
    frame["q2"] = 6 - frame["q2"]
    frame.insert(0, "respondent", [f"p{i}" for i in range(N)])
    return frame.assign(arm=["new", "old"] * (N // 2), grade=frame["q1"] + np.arange(N) % 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("survey")
    survey().to_csv(place / "survey.csv", index=False)
    survey(1).to_csv(place / "later.csv", index=False)
    return place


def run(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


def tables(*arguments):
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)["tables"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("no.csv",), "DATA: there is no file no.csv (looked for in "),
        (("cut.json",), "DATA: cut.json cannot be read"),
        (("no.csv", "p_values"), "DATA: there is no file no.csv (looked for in "),
        (("survey.csv", "--second", "no.csv"), "--second: there is no file no.csv (looked for in "),
        (
            ("survey.csv", "--people", "."),
            "--people: . is a folder; a file is needed; give another: --people",
        ),
        (("survey.csv", "--people", "cut.json"), "--people: cut.json cannot be read"),
        (("survey.csv", "--instrument", "no.json"), "--instrument: no instrument or file named 'no.json'"),
        (("survey.csv", "--output", "cut.json/x.md"), "--output: cut.json/x.md cannot be written: "),
        (("survey.csv", "--output", "cut.json"), None),
    ],
)
def test_a_path_that_is_no_good_is_told_by_its_option(folder, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "survey.csv").write_bytes((folder / "survey.csv").read_bytes())
    (tmp_path / "cut.json").write_text('[{"q1": ')
    done = run(*arguments, *(() if said else ("items",)))
    if said is None:
        assert done.exit_code == 0, done.stderr
        return
    assert done.exit_code == 2
    assert said in done.stderr
    assert "give another" in done.stderr


def rows(found, **wanted):
    return [row for row in found["rows"] if all(row[key] == value for key, value in wanted.items())]


def test_a_first_look_needs_no_options(folder):
    survey()[[f"q{i}" for i in range(1, 9)]].to_csv(folder / "items.csv", index=False)
    done = run(folder / "items.csv", "--bootstrap", 20)
    assert done.exit_code == 0
    for title in ("## Items", "## Reliability", "## How many factors"):
        assert title in done.stdout
    # what was taken by default is said
    assert "8 columns of numbers" in done.stderr
    assert "range from 1 to 5" in done.stderr


def test_reversed_items_are_turned_and_values_are_those_of_the_functions(folder):
    found = tables(folder / "survey.csv", "reliability", *SCALES, "--bootstrap", 20)
    frame = survey()
    calm = frame[["q1", "q2", "q3", "q4"]].assign(q2=6 - frame["q2"])
    alpha = psychometrics.cronbach_alpha(calm)
    [row] = rows(found["reliability"], scale="calm", statistic="alpha")
    assert row["value"] == pytest.approx(alpha.value, rel=1e-12)
    assert [row["low"], row["high"], row["n"]] == pytest.approx([alpha.low, alpha.high, N])
    plain = tables(folder / "survey.csv", "reliability", "--scale", "calm=q1,q2,q3,q4", "--bootstrap", 20)
    assert rows(plain["reliability"], statistic="alpha")[0]["value"] < row["value"]


def test_long_tables_are_those_of_wide_ones(folder):
    frame = survey()
    items = [f"q{i}" for i in range(1, 9)]
    frame.melt(["respondent", "arm", "grade"], items, "item", "response").to_csv(
        folder / "long.csv", index=False
    )
    assert tables(folder / "long.csv", "items", "compare", *SCALES, "--group", "arm") == tables(
        folder / "survey.csv", "items", "compare", *SCALES, "--group", "arm"
    )


def test_numbers_for_no_answer_are_missing(folder):
    frame = survey()
    frame.loc[:9, "q1"] = -99
    frame.to_csv(folder / "coded.csv", index=False)
    found = tables(folder / "coded.csv", "items", *SCALES, "--missing", -99)
    assert rows(found["items"], item="q1")[0]["missing"] == pytest.approx(10 / N)
    refused = run(folder / "coded.csv", "items", *SCALES)
    assert "holds -99, outside 1 to 5; give another --range, or --missing -99" in refused.stderr


def test_every_analysis_is_told_and_runs(folder):
    told = run("--help").stdout
    assert [name for name in ANALYSES if f" {name}:" not in told] == []
    # GRM's regressions take as long as all others; it has a test of its own
    names = [name for name in ANALYSES if name != "grm"]
    others = ("--second", folder / "later.csv", "--people", folder / "later.csv")
    found = tables(folder / "survey.csv", *names, *EVERYTHING, *others)
    assert [name for name, one in found.items() if not one["rows"]] == []
    assert len(found) > len(names)


def test_the_graded_response_model_tells_where_a_scale_is_precise(folder):
    found = tables(folder / "survey.csv", "grm", *SCALES[:2], "--range", "1-5")
    precise = {row["trait"]: row["se"] for row in found["grm_information"]["rows"]}
    assert precise[0] < precise[-2]
    assert len(found["grm_traits"]["rows"]) == N


def test_the_stated_model_fits_and_the_factors_are_found(folder):
    found = tables(folder / "survey.csv", "cfa", "efa", *SCALES, "--correlations", "polychoric")
    assert rows(found["cfa_fit"], index="cfi")[0]["value"] > 0.9
    loadings = found["efa_loadings"]["rows"]
    first = {row["item"] for row in loadings if abs(row["F1"]) > abs(row["F2"])}
    assert first in ({"q1", "q2", "q3", "q4"}, {"q5", "q6", "q7", "q8"})
    assert "parallel analysis" in found["efa_loadings"]["note"]


def test_the_same_people_are_compared_as_pairs(folder):
    both = pd.concat([survey().assign(time="one"), survey(1).assign(time="two")])
    both.to_csv(folder / "both.csv", index=False)
    who = ("--respondent", "time", "--respondent", "respondent", "--pair", "respondent", "--group", "time")
    [row] = rows(tables(folder / "both.csv", "compare", *SCALES, *who)["compare"], scale="kind")
    scores = [survey(seed)[["q5", "q6", "q7", "q8"]].mean(axis=1) for seed in (0, 1)]
    found = psychometrics.paired_difference(*scores)
    assert [row["difference"], row["t"], row["df"]] == pytest.approx([found.difference.value, found.t, N - 1])


def test_an_item_that_means_something_else_than_to_people_is_found(folder):
    frame = survey(2)
    frame["q1"] = 6 - frame["q1"]
    frame.to_csv(folder / "model.csv", index=False)
    found = tables(folder / "model.csv", "dif", "congruence", *SCALES, "--people", folder / "survey.csv")
    sizes = {row["item"]: row["size"] for row in found["dif"]["rows"]}
    assert sizes["q1"] == "large"
    loadings = {row["item"]: row["congruence"] for row in found["congruence_loadings"]["rows"]}
    assert min(loadings, key=loadings.__getitem__) == "q1"
    assert {row["factor"] for row in found["congruence"]["rows"]} == {"calm", "kind"}
    assert "dif needs --people" in run(folder / "model.csv", "dif", *SCALES).stderr


def test_p_values_are_corrected(folder):
    pd.DataFrame({"test": list("abc"), "p": [0.01, 0.02, 0.04]}).to_csv(folder / "p.csv", index=False)
    found = tables(folder / "p.csv", "p_values")["p_values"]["rows"]
    assert [row["p_benjamini_hochberg"] for row in found] == pytest.approx([0.03 / 1, 0.03, 0.04])


def test_answers_of_a_model_are_analysed_by_their_instrument(tmp_path):
    mini = load_instrument("mini_ipip")
    design = Design(named_templates(["form"]), ("forward", "reversed"), personas=tuple(composed_personas(16)))
    administer(simulated_respondent("faithful"), [battery(mini)], design, tmp_path)
    who = ("--respondent", "persona", "--respondent", "option_order")
    found = tables(
        tmp_path / "responses.parquet",
        "items",
        "compare",
        "--instrument",
        "mini_ipip",
        *who,
        *("--group", "option_order", "--pair", "persona"),
    )
    assert {row["scale"] for row in found["items"]["rows"]} == {scale.name for scale in mini.domains}
    assert {row["key"] for row in found["items"]["rows"]} == {1, -1}
    assert all(row["n_1"] == 16 for row in found["compare"]["rows"])


def test_results_are_written_as_the_output_says(folder, tmp_path):
    data = (folder / "survey.csv", "items", "compare", *SCALES, "--group", "arm")
    assert run(*data, "--output", tmp_path / "all.json").exit_code == 0
    written = json.loads((tmp_path / "all.json").read_text(), parse_constant=pytest.fail)
    assert written["card"]["analyses"] == ["items", "compare"]
    assert run(*data, "--output", tmp_path / "all.md").exit_code == 0
    assert "| calm" in (tmp_path / "all.md").read_text()
    assert "2 tables" in run(*data, "--output", tmp_path / "csv").stdout
    items = pd.read_csv(tmp_path / "csv" / "items.csv")
    assert len(items) == 8
    assert items["alpha_if_dropped"].tolist() == pytest.approx(
        [row["alpha_if_dropped"] for row in written["tables"]["items"]["rows"]], rel=1e-12
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reliabilty"], "there is no analysis 'reliabilty'; there are items, reliability"),
        (["items", "--items", "z*"], "there is no column 'z*'; columns are q1, q2"),
        (["items", "--scale", "calm"], "a scale is written NAME=item,item,-reversed; got 'calm'"),
        (["items", "--items", "arm"], "item 'arm' holds 'new'; answers must be numbers"),
        (["items", "--range", "5"], "a range is written LOW-HIGH, as 1-5; got '5'"),
        (["cfa"], "cfa needs --model"),
        (["compare", *SCALES], "comparing groups needs --group"),
        (["compare", *SCALES, "--group", "grade"], "must have two values, or --between names two as A,B"),
        (["compare", *SCALES, "--group", "sex"], "there is no column 'sex' beside the items; columns are"),
        (["criterion", *SCALES, "--criterion", "arm"], "criterion 'arm' holds no numbers"),
        (["desirability", *SCALES], "needs --desirability, one of the scales calm, kind; got none"),
        (["retest", *SCALES], "retest needs --second"),
        (["agreement", "--level", "rank"], "--level must be one of nominal, ordinal, interval"),
        (["items", "--instrument", "ipip_50"], "none of the items of ipip_50 (ipip50_01 .. ipip50_50)"),
        (["items", "--instrument", "ipip_50", "--items", "q1"], "leave out --items, --scale and --range"),
        (["p_values"], "there is no column 'p' of p values (--p-column)"),
        (["items", "--output", "x.xlsx"], "--output must be a .json or .md file, or a folder"),
    ],
)  # fmt: skip
def test_what_is_refused_is_said_in_one_line(folder, arguments, message):
    done = run(folder / "survey.csv", *arguments)
    assert done.exit_code == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert message in lines[0]
