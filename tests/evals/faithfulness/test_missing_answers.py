"""Refusals: random ones move no verdict, those of an item are named, too many are bounded."""

import numpy as np
import pandas as pd
import pytest

from evals.faithfulness.completion import completed, refusals_by_item
from evals.faithfulness.criteria import Check, Setting, Thresholds, pooled
from evals.faithfulness.null_study import design_for
from evals.faithfulness.verdicts import assess
from evals.psychometrics.estimate import Estimate, undefined
from evals.questionnaires.administration import administer
from evals.questionnaires.behavior_scores import conduct_scores
from evals.questionnaires.behaviors import battery
from evals.questionnaires.instrument import load_instrument
from evals.questionnaires.respondents.simulated import RULES, simulated_respondent
from evals.questionnaires.response_table import cube


@pytest.fixture(scope="module")
def mini():
    return load_instrument("mini_ipip")


@pytest.fixture(scope="module")
def answers(mini):
    design = design_for(RULES["faithful"], 32)
    return administer(simulated_respondent("faithful"), [mini, battery(["conduct"])], design)


def refused(table: pd.DataFrame, which: np.ndarray) -> pd.DataFrame:
    return table.assign(
        response=table["response"].mask(which), refusal=np.where(which, "refused", table["refusal"])
    )


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_random_refusals_hardly_move_an_estimate_and_no_verdict(share, answers, mini):
    drawn = np.random.default_rng(2).random(len(answers)) < share
    gappy = refused(answers, drawn & (answers["instrument"] == mini.name).to_numpy())
    before, after = (assess(table, mini, behavior=conduct_scores(answers)) for table in (answers, gappy))
    pd.testing.assert_series_equal(before.verdicts["verdict"], after.verdicts["verdict"])
    known = before.checks["estimate"].notna()
    difference = (before.checks["estimate"] - after.checks["estimate"])[known].abs()
    assert difference.max() < 0.1
    assert (after.checks["n"] == before.checks["n"]).all()
    # gaps cost precision, never gain it by much
    widths = [(f.checks["high"] - f.checks["low"])[known].mean() for f in (before, after)]
    assert widths[1] > 0.98 * widths[0]
    assert after.refusals.empty


def test_items_that_are_refused_are_named(answers, mini):
    often = (answers["item"] == "miniipip_04").to_numpy() & (
        np.random.default_rng(1).random(len(answers)) < 0.3
    )
    found = refusals_by_item([cube(refused(answers, often), mini, ["persona"])])
    assert found["item"].tolist() == ["miniipip_04"]
    assert found["refused"].iloc[0] == pytest.approx(0.3, abs=0.1)
    assert refusals_by_item([cube(answers, mini, ["persona"])]).empty


def test_an_item_that_hardly_anybody_answered_leaves_its_scale(answers, mini):
    gone = (answers["item"] == "miniipip_04").to_numpy()
    found = completed(cube(refused(answers, gone), mini, ["persona"]))
    assert found.left_out == ("miniipip_04",)
    assert len(found.imputed[0].instrument.items_of("N")) == 3
    assert found.missing["N"] == 0


def test_a_topic_that_is_refused_is_undetermined_and_the_others_are_judged(answers, mini):
    topic = {item.id for item in mini.items_of("N")}
    found = assess(refused(answers, answers["item"].isin(topic).to_numpy()), mini)
    assert found.of("neuroticism", "internal consistency") == "undetermined"
    assert found.of("extraversion", "reproducibility") == "faithful"
    reason = found.verdicts.loc[found.verdicts["construct"] == "neuroticism", "reason"]
    assert reason.str.contains("none of its items").all()


def test_too_many_gaps_are_bounded(answers, mini):
    """A third of the answers missing: worst and best case lie far apart, and the bounds decide."""
    rng = np.random.default_rng(0)
    gappy = refused(
        answers, (rng.random(len(answers)) < 0.33) & (answers["instrument"] == mini.name).to_numpy()
    )
    found = assess(gappy, mini, behavior=conduct_scores(answers)).checks
    assert found["reason"].str.contains("are missing: bounds").mean() > 0.5
    whole = assess(answers, mini, behavior=conduct_scores(answers)).checks
    inside = (found["low"] <= whole["estimate"]) & (whole["estimate"] <= found["high"])
    # in the worst case people may not differ at all: then there is no estimate, and no verdict
    said = found["estimate"].notna()
    assert inside[whole["estimate"].notna() & said].all()
    assert set(found.loc[~said, "verdict"]) == {"undetermined"}
    assert said.mean() > 0.8


def test_imputations_are_pooled_by_rubin_s_rule():
    """Values .80 and .84: B = .0008; half width √(.1² + 1.96² · 1.5 · .0008)."""
    setting = Setting(Thresholds())
    both = [Check("alpha", Estimate(v, v - 0.1, v + 0.1, 30), 0.7, "faithful") for v in (0.80, 0.84)]
    found = pooled(both, setting)
    assert found.estimate.value == pytest.approx(0.82)
    half = np.sqrt(0.1**2 + 1.959964**2 * 1.5 * 0.0008)
    assert found.estimate[1:3] == pytest.approx((0.82 - half, 0.82 + half))
    assert found.verdict == "undetermined"
    none = Check("alpha", undefined("why", 30), 0.7, "undetermined")
    assert pooled([both[0], none], setting) == none
