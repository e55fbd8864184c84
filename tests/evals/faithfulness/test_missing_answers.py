"""Refusals: random ones move no verdict, those of an item are named, too many are bounded."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from evals.faithfulness.comparison import compared, scores_of
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
    assert found.left_out["N"] == ("miniipip_04",)
    assert not found.left_out["E"]
    assert len(found.imputed[0].instrument.items_of("N")) == 3
    assert found.missing["N"] == 0
    judged = assess(refused(answers, gone), mini).verdicts.set_index(["construct", "criterion"])
    row = judged.loc[("neuroticism", "internal consistency")]
    assert row["reason"] == "without miniipip_04 (too few answers, or none in some condition)"
    assert row["verdict"] != "undetermined"
    # what else a check has to say stays said
    alone = judged.loc[("neuroticism", "external consistency")]
    assert alone["reason"].startswith("no other instrument measures it: administer a second one; without")


def test_a_scale_of_which_most_items_are_refused_is_not_judged_by_the_rest():
    """7 of 10 items refused: that the other three agree says nothing of the scale."""
    test = load_instrument("ipip_50")
    table = administer(simulated_respondent("faithful"), test, design_for(RULES["faithful"], 32))
    gone = [item.id for item in test.items if item.scale == "ES"][3:]
    found = assess(refused(table, table["item"].isin(gone).to_numpy()), test)
    mine = found.verdicts[found.verdicts["construct"] == "neuroticism"]
    assert set(mine["verdict"]) == {"undetermined"}
    assert mine["reason"].str.startswith(f"7 of 10 items are left out ({gone[0]}, ").all()
    assert found.of("extraversion", "internal consistency") == "faithful"
    # answered in three conditions of four, which no score can be compared over
    partly = table["item"].isin(gone) & (table["template"] == "terse") & (table["option_order"] == "forward")
    again = assess(refused(table, partly.to_numpy()), test).verdicts
    assert again.loc[again["construct"] == "neuroticism", "reason"].str.startswith("7 of 10 items").all()


def test_another_test_is_not_held_against_what_is_left_of_a_scale(mini):
    long = load_instrument("ipip_50")
    table = administer(simulated_respondent("faithful"), [long, mini], design_for(RULES["faithful"], 32))
    gone = [item.id for item in mini.items_of("N")][1:]
    found = assess(refused(table, table["item"].isin(gone).to_numpy()), [long, mini]).verdicts
    own = found[(found["instrument"] == "ipip_50") & (found["criterion"] == "external consistency")]
    row = own[own["construct"] == "neuroticism"].iloc[0]
    assert row["verdict"] == "undetermined"
    assert row["reason"].startswith("mini_ipip measures it too, but 3 of 4 items are left out")
    assert set(own.loc[own["construct"] != "neuroticism", "verdict"]) == {"faithful"}


def test_a_topic_that_is_refused_is_undetermined_and_the_others_are_judged(answers, mini):
    topic = {item.id for item in mini.items_of("N")}
    found = assess(refused(answers, answers["item"].isin(topic).to_numpy()), mini)
    assert found.of("neuroticism", "internal consistency") == "undetermined"
    assert found.of("extraversion", "reproducibility") == "faithful"
    reason = found.verdicts.loc[found.verdicts["construct"] == "neuroticism", "reason"]
    assert reason.str.startswith("4 of 4 items are left out").all()


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


# models held against each other


def test_a_model_that_refuses_at_random_has_not_changed(answers, mini):
    """Its own answers with gaps: no mean moves, no dispersion; drawn answers would be differences."""
    for seed in range(4):
        drawn = np.random.default_rng(seed).random(len(answers)) < 0.2
        found = compared(answers, refused(answers, drawn), mini)
        assert found["delta"].abs().max() < 1e-12
        assert found["dispersion"].to_numpy() == pytest.approx(1.0)
        assert set(found["claim"]) == {"none"}


def test_scores_with_gaps_are_those_of_the_questions_that_both_answered(answers, mini):
    """By hand: two persons, two items. Question means .5 (2 + 4) = 3 and, of the one that is left, 5."""
    one = cube(answers, mini, ["persona"])
    scale = next(scale for scale in mini.domains if scale.name == "E")
    places = one.columns("E")
    raw = np.full((2, 1, len(mini.items)), np.nan)
    raw[:, 0, places] = [[2.0, 5.0, 3.0, 3.0], [4.0, 1.0, 3.0, 3.0]]
    flipped = mini.low + mini.high - raw
    keyed = replace(
        one,
        raw=np.where(one.keys == -1, flipped, raw),
        persons=pd.Index([("a",), ("b",)], tupleize_cols=False),
        conditions=one.conditions.iloc[:1],
    )
    other = replace(keyed, raw=keyed.raw.copy())
    other.raw[1, 0, places[1]] = np.nan
    first, second = scores_of([keyed, other], scale, [keyed.persons] * 2, shared=True)
    # question means 3, 5, 3, 3; a is −1, 0, 0, 0 from them, b +1, 0, 0
    assert first == pytest.approx([3.5 - 0.25, 3.5 + 1 / 3])
    assert second == pytest.approx(first)
    (whole,) = scores_of([keyed], scale, [keyed.persons], shared=False)
    assert whole == pytest.approx(keyed.scores(scale).mean(axis=1))
    other.raw[1, 0, places] = np.nan
    _, few = scores_of([keyed, other], scale, [keyed.persons] * 2, shared=True)
    assert np.isnan(few[1])


def test_a_model_that_answered_nothing_is_not_one_that_does_not_vary(answers, mini):
    found = compared(answers, refused(answers, np.ones(len(answers), bool)), mini)
    assert found["delta_reason"].str.contains("0 persons are left with half of the answers").all()


def test_a_base_that_gives_one_answer_to_everything_has_no_unit(answers, mini):
    """Its means are equal but for rounding, which is no SD."""
    flat = answers.assign(response=answers["response"].mask(answers["instrument"] == mini.name, 4.0))
    for people in (32, 31, 27):
        some = flat[flat["persona"].isin(flat["persona"].unique()[:people])]
        found = compared(some, answers, mini)
        assert set(found["delta_reason"]) == {"the base does not vary"}
        assert found["delta"].isna().all()


def test_gaps_at_random_in_both_models_leave_nearly_everybody(answers, mini):
    """Three in ten are gone in each, so that half of the questions are shared."""
    rng = np.random.default_rng(0)
    tables = [refused(answers, rng.random(len(answers)) < 0.3) for _ in range(2)]
    found = compared(*tables, mini)
    assert (found["delta_n"] >= 30).all()  # of 32
    dropped = found["delta_n"] < 32
    assert (found.loc[dropped, "delta_reason"].str.contains("of 32 persons: the others left too much")).all()
    assert not (found.loc[~dropped, "delta_reason"].str.contains("persons")).any()


def test_a_gap_counts_in_no_other_condition(answers, mini):
    """One model asked forward, the other reversed: a gap of the one says nothing of the other's prompts."""
    one, other = (answers[answers["option_order"] == order] for order in ("forward", "reversed"))
    gappy = refused(one, np.random.default_rng(0).random(len(one)) < 0.3)
    whole, part = (compared(table, other, mini) for table in (one, gappy))
    assert part["tuned"].to_numpy() == pytest.approx(whole["tuned"].to_numpy())


def test_conditions_may_stand_in_another_order(answers, mini):
    backwards = answers.iloc[::-1].reset_index(drop=True)
    found = compared(answers, backwards, mini)
    assert found["delta"].abs().max() < 1e-12


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
