"""Indices of response style against the definitions computed in R, and on respondents of known style."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.psychometrics import response_style
from evals.questionnaires.instrument import load_instrument

CLOSED_FORM = 1e-8


def test_indices_of_answers(golden):
    expected = golden["response_style"]
    keys = [key for scale in golden.keys.values() for key in scale]
    sign = {key.lstrip("-"): -1 if key.startswith("-") else 1 for key in keys}
    complete = golden.raw.dropna()
    found = response_style.style_indices(complete, *golden.bounds, [sign[c] for c in complete])
    names = {
        "ARS": "acquiescence",
        "ARS_prop": "agreement_excess",
        "ERS": "extremity",
        "MRS": "midpoint",
        "IRV": "irv",
        "longstring": "longstring",
        "ARS_balanced": "balanced_acquiescence",
    }
    for theirs, ours in names.items():
        if theirs != "ARS_balanced":
            assert found[ours].mean() == pytest.approx(expected["sample"][theirs], abs=CLOSED_FORM), theirs
        if theirs in expected["first10"]:
            assert found[ours].head(10).tolist() == pytest.approx(
                expected["first10"][theirs], abs=CLOSED_FORM
            ), theirs
    assert found["balanced_acquiescence"].mean() == pytest.approx(
        expected["sample"]["ARS_balanced"], abs=CLOSED_FORM
    )
    assert found.index.equals(complete.index)


def test_forward_against_reversed_items(golden):
    for name, expected in golden["forward_reverse"].items():
        keys = golden.keys[name]
        raw = golden.raw[[k.lstrip("-") for k in keys]]
        found = response_style.forward_reverse_r(raw, [-1 if k.startswith("-") else 1 for k in keys])
        assert found.n == expected["n"]
        assert found.value == pytest.approx(expected["forward_reverse_r_raw"], abs=CLOSED_FORM)


def test_forward_reverse_tells_a_trait_from_acquiescence():
    rng = np.random.default_rng(0)
    keys = np.array([1, 1, 1, -1, -1, -1])
    trait = rng.normal(size=(300, 1)) * keys + 0.5 * rng.normal(size=(300, 6))
    yes = rng.normal(size=(300, 1)) + 0.5 * rng.normal(size=(300, 6))
    assert response_style.forward_reverse_r(trait, keys).high < 0
    assert response_style.forward_reverse_r(yes, keys).low > 0
    assert "both keys" in response_style.forward_reverse_r(trait, np.ones(6)).reason
    assert math.isnan(response_style.forward_reverse_r(np.full((5, 2), 3.0), [1, -1]).value)


@given(st.integers(1, 6), st.integers(2, 20))
@settings(max_examples=30, deadline=None)
def test_a_constant_respondent(value, k):
    found = response_style.style_indices(
        np.full((2, k), float(value)), 1, 6, [1, -1] * (k // 2) + [1] * (k % 2)
    ).iloc[0]
    assert found["acquiescence"] == pytest.approx((value - 1) / 5)
    assert found["longstring"] == k
    assert found["irv"] == 0
    assert found["extremity"] == (value in (1, 6))
    assert found["balanced_acquiescence"] == pytest.approx(value - 3.5)


def test_balanced_acquiescence_does_not_see_traits():
    # a trait moves + items up and − items down by as much
    keys = np.array([1, -1, 1, -1])
    trait = 3 + keys * np.array([[2.0], [-1.0], [0.0]])
    assert response_style.style_indices(trait, 1, 5, keys)["balanced_acquiescence"].tolist() == [0, 0, 0]
    assert response_style.style_indices(trait, 1, 5)["balanced_acquiescence"].isna().all()


def test_missing_answers_are_left_out():
    raw = np.array([[5, np.nan, 5, 1], [np.nan] * 4])
    found = response_style.style_indices(raw, 1, 5)
    assert found.loc[0, "extremity"] == 1
    assert found.loc[0, "longstring"] == 2
    assert found.loc[0, "acquiescence"] == pytest.approx((11 / 3 - 1) / 4)
    assert found.loc[1].isna().all()


# items of each scale, and how many of them are reversed, as published at ipip.ori.org
BALANCE = {
    "ipip_50": {"E": (10, 5), "A": (10, 4), "C": (10, 4), "ES": (10, 8), "I": (10, 3)},
    "mini_ipip": {"E": (4, 2), "A": (4, 2), "C": (4, 2), "N": (4, 2), "I": (4, 3)},
    "ipip_neo_120": {"N": (24, 7), "E": (24, 6), "O": (24, 12), "A": (24, 17), "C": (24, 13)},
}


@pytest.mark.parametrize("name", BALANCE)
def test_keys_of_shipped_instruments_and_their_constant_respondents(name):
    instrument = load_instrument(name)
    for scale, (count, turned) in BALANCE[name].items():
        items = instrument.items_of(scale)
        assert len(items) == count
        assert sum(item.key == -1 for item in items) == turned
        for value in range(1, 6):
            keyed = [instrument.reverse(value, item.key) for item in items]
            # value on the items as they stand, 6 − value on the reversed ones
            expected = ((count - turned) * value + turned * (6 - value)) / count
            assert np.mean(keyed) == pytest.approx(expected, abs=CLOSED_FORM)


def test_position_bias():
    always_first = response_style.position_bias(np.zeros(100), 5)
    assert always_first.shares.tolist() == [1, 0, 0, 0, 0]
    assert always_first.distance == pytest.approx(0.8)
    assert always_first.p < 1e-10
    even = response_style.position_bias(np.tile(np.arange(5), 20), 5)
    assert even.distance == 0
    assert even.p == 1
    refused = response_style.position_bias([np.nan, np.nan], 5)
    assert math.isnan(refused.distance)
    assert refused.reason == "no answers"


def test_answers_that_turn_with_the_order():
    # shown in both orders: who always takes the first option answers 1 and 5
    question, value = [1, 1, 2, 2, 3, 3], [1, 5, 1, 5, 1, 5]
    biased = response_style.position_bias([0] * 6, 5, question=question, value=value, value_range=4)
    assert biased.flip.value == 1
    steady = response_style.position_bias(
        [0, 4, 1, 3, 2, 2], 5, question=question, value=[1, 1, 2, 2, 3, 4], value_range=4
    )
    assert steady.flip.value == pytest.approx(1 / 12)
    assert steady.flip.n == 3
    single = response_style.position_bias([0, 1], 5, question=[1, 2], value=[1, 2], value_range=4)
    assert "two orders" in single.flip.reason


def test_refusals_and_desirability():
    found = response_style.refusal_rate([True] * 3 + [False] * 7)
    # Wilson: the shares p with (0.3 − p)² = 1.96² p(1 − p)/10
    z = 1.959964
    for bound in found[1:3]:
        assert (0.3 - bound) ** 2 == pytest.approx(z**2 * bound * (1 - bound) / 10, abs=1e-6)
    assert found.low < found.value == 0.3 < found.high
    assert math.isnan(response_style.refusal_rate([]).value)
    desirable = response_style.social_desirability([5, 5, 4, 5], 1, 5)
    assert desirable.value == pytest.approx(0.9375)
    assert desirable.low < desirable.value < desirable.high
    assert math.isnan(response_style.social_desirability([np.nan], 1, 5).value)
    assert "do not vary" in response_style.social_desirability([5, 5], 1, 5).reason


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: response_style.style_indices([[1, 7]], 1, 6), "must lie in 1 .. 6"),
        (lambda: response_style.style_indices([[1, 2]], 1, 6, [1, 0]), "keys must be 1 or -1"),
        (lambda: response_style.style_indices([[1, 2]], 6, 1), "low must lie below"),
        (lambda: response_style.position_bias([5], 5), "from 0 to 4"),
        (lambda: response_style.position_bias([0], 1), "at least 2"),
        (lambda: response_style.social_desirability([1], 5, 1), "must lie below"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
