"""Answers to scores: keys, missing answers, norms, both table forms, the command, and bad input."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.questionnaires.instrument import load_instrument
from evals.questionnaires.scoring import keyed_responses, score, t_score, tabulate

MINI = load_instrument("mini_ipip")
IDS = [item.id for item in MINI.items]


def wide(n: int, seed: int = 0, instrument=MINI) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    values = rng.integers(instrument.low, instrument.high + 1, (n, len(instrument.items))).astype(float)
    return pd.DataFrame(
        values,
        columns=[i.id for i in instrument.items],
        index=pd.Index([f"p{i}" for i in range(n)], name="respondent"),
    )


def long(table: pd.DataFrame) -> pd.DataFrame:
    return table.reset_index().melt("respondent", var_name="item", value_name="response")


def scale_means(scores: pd.DataFrame) -> pd.DataFrame:
    return scores.pivot(index="respondent", columns="scale", values="mean")


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_scores_are_means_of_keyed_items(n, seed):
    table = wide(n, seed)
    found = scale_means(score(table, MINI))
    for scale in MINI.scales:
        columns = [table[i.id] if i.key == 1 else 6 - table[i.id] for i in MINI.items_of(scale.name)]
        assert found[scale.name].to_numpy() == pytest.approx(np.mean(columns, axis=0))


def test_long_and_wide_tables_say_the_same():
    table = wide(5)
    shuffled = long(table).sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(scale_means(score(table, MINI)), scale_means(score(shuffled, MINI)))
    pd.testing.assert_frame_equal(
        scale_means(score(table, MINI)),
        scale_means(score(table.reset_index()[["respondent", *IDS[::-1]]], MINI)),
    )


def test_labels_are_answers_too():
    labels = {float(o.value): o.label for o in MINI.options}
    table = wide(4)
    pd.testing.assert_frame_equal(score(table.map(labels.get), MINI), score(table, MINI))


def test_several_columns_may_name_a_respondent():
    table = long(wide(2)).assign(template="a")
    both = pd.concat([table, table.assign(template="b")])
    found = score(both, MINI, respondent=["respondent", "template"])
    assert len(found) == 4 * 5
    assert set(found["template"]) == {"a", "b"}
    with pytest.raises(ValueError, match=r"answered item .* twice"):
        score(both, MINI)


def test_missing_answers():
    table = wide(3)
    neuroticism = [i.id for i in MINI.items_of("N")]
    table.loc["p0", neuroticism[:2]] = np.nan
    table.loc["p1", neuroticism[:3]] = np.nan
    table.loc["p2", IDS] = np.nan
    found = score(table, MINI).set_index(["respondent", "scale"])
    half = found.loc[("p0", "N")]
    assert half["n_answered"] == 2
    assert half["sum"] == pytest.approx(4 * half["mean"])
    assert half["reason"] == ""
    few = found.loc[("p1", "N")]
    assert math.isnan(few["mean"])
    assert math.isnan(few["sum"])
    assert "fewer than 50%" in few["reason"]
    assert found.loc["p2", "mean"].isna().all()
    strict = score(table, MINI, min_answered=1).set_index(["respondent", "scale"])
    assert math.isnan(strict.loc[("p0", "N"), "mean"])


def test_scales_that_were_not_asked():
    found = score(wide(2)[[i.id for i in MINI.items_of("E")]], MINI).set_index("scale")
    assert found.loc["E", "mean"].notna().all()
    assert set(found.loc["N", "reason"]) == {"none of its items was asked"}


def test_norms_give_t_scores():
    neo = load_instrument("ipip_neo_120")
    group = "women 21 to 40"
    found = score(wide(3, 1, neo), neo, norm_group=group)
    assert set(found["norm_group"]) == {group}
    norms = {n.scale: n for n in neo.norms if n.group == group}
    for row in found.itertuples():
        z = (row.sum - norms[row.scale].mean) / norms[row.scale].sd
        assert (row.z, row.t) == pytest.approx((z, 50 + 10 * z))
    assert score(wide(1, 1, neo), neo)["t"].isna().all()
    with pytest.raises(ValueError, match="has no norms for 'everybody'; it has men under 21"):
        score(wide(1, 1, neo), neo, norm_group="everybody")


def test_t_score_of_the_reference_example(goldens: Path):
    golden = json.loads((goldens / "psych/r_values.json").read_text())["t_score_example"]
    z = (golden["x"] - golden["mean"]) / golden["sd"]
    assert float(t_score(z)) == pytest.approx(golden["T"])
    percentile = 50 * (1 + math.erf(z / math.sqrt(2)))
    assert percentile == pytest.approx(golden["percentile_normal"])


def test_ipsatized_values_are_relative_to_the_respondents_own_mean():
    values = load_instrument("portrait_values")
    table = wide(4, 2, values)
    plain, relative = scale_means(score(table, values)), scale_means(score(table, values, ipsatize=True))
    # the scales have as many items each, so the relative ones average to zero
    assert relative.mean(axis=1).to_numpy() == pytest.approx(0, abs=1e-12)
    spread = plain.sub(plain.mean(axis=1), axis=0)
    pd.testing.assert_frame_equal(relative, spread)


def test_open_answers_are_right_or_wrong():
    crt = load_instrument("crt_2")
    answers = pd.DataFrame(
        {"crt2_1": ["Second", "first"], "crt2_2": ["8", "7"], "crt2_3": ["emily", ""], "crt2_4": ["0", "27"]}
    )
    found = score(answers, crt)
    assert found["mean"].tolist() == [1.0, 0.0]
    assert found["n_answered"].tolist() == [4, 3]
    # numbers, as a reader of CSV files makes them, are answers; True and False are marks
    numbers = pd.DataFrame({"crt2_2": [8, 7], "crt2_4": [0.0, 27.0], "crt2_3": [True, False]})
    assert score(numbers, crt)["mean"].tolist() == [1.0, 0.0]


def test_keyed_responses_are_what_reliability_takes():
    table = wide(6)
    keyed = keyed_responses(table, MINI, "N")
    assert list(keyed.columns) == [i.id for i in MINI.items_of("N")]
    reverse = next(i for i in MINI.items_of("N") if i.key == -1)
    assert (keyed[reverse.id] == 6 - table[reverse.id]).all()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (wide(2).rename(columns={"miniipip_01": "miniipip_1"}), "unknown item 'miniipip_1'.*did you mean"),
        (wide(2).assign(age=30), "unknown item 'age'"),
        (pd.concat([wide(2), wide(2)]), "two rows"),
        (pd.concat([long(wide(2)), long(wide(1))]), "respondent 'p0' answered item .* twice"),
        (wide(2).replace({1.0: 9.0}), "response 9.0 to item .* is none of its answers"),
        (wide(2) + 0.5, "none of its answers"),
        (wide(2).astype(object).replace({1.0: "as an AI, no"}), "'as an AI, no'.*leave refusals empty"),
        (long(wide(2)).drop(columns="respondent"), "no column 'respondent'"),
        (pd.concat([wide(2), wide(2)[["miniipip_01"]]], axis=1), "two columns"),
    ],
)
def test_bad_responses_are_named(table, message):
    with pytest.raises(ValueError, match=message) as error:
        score(table, MINI)
    assert "\n" not in str(error.value)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="min_answered"):
        score(wide(1), MINI, min_answered=0)
    with pytest.raises(ValueError, match="unknown scale: 'Q'"):
        keyed_responses(wide(1), MINI, "Q")
    neo = load_instrument("ipip_neo_120")
    with pytest.raises(ValueError, match="leave out either"):
        score(wide(1, 0, neo), neo, norm_group="men over 60", ipsatize=True)


def test_absent_items_are_listed():
    assert tabulate(wide(1)[IDS[:3]], MINI).absent == tuple(IDS[3:])


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "evals.score", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_command(tmp_path):
    path, output = tmp_path / "responses.csv", tmp_path / "scores.csv"
    wide(12).to_csv(path)
    done = run(str(path), "--instrument", "mini_ipip", "--output", str(output))
    assert done.returncode == 0, done.stderr
    assert "Mini-IPIP: 12 respondents" in done.stderr
    found = pd.read_csv(output, keep_default_na=False)
    assert len(found) == 12 * 5
    expected = score(wide(12), MINI)["mean"]
    assert found["mean"].astype(float).to_numpy() == pytest.approx(expected.to_numpy())


def test_command_names_what_is_wrong(tmp_path):
    path = tmp_path / "responses.csv"
    wide(2).assign(miniipip_01=7).to_csv(path)
    done = run(str(path), "--instrument", "mini_ipip")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "response 7 to item 'miniipip_01'" in " ".join(done.stderr.split())
