"""Effect sizes, equivalence tests and corrections against published values and their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evals.psychometrics import comparisons
from evals.psychometrics.comparisons import GroupMoments

CLOSED_FORM = 1e-8


def test_tost_of_lakens(golden):
    expected = golden["tost_lakens2017_eskine"]
    first, second = GroupMoments(5.25, 0.95, 95), GroupMoments(5.22, 0.83, 89)
    found = comparisons.tost(first, second, 0.43, standardized=True)
    assert (found.low_bound, found.high_bound) == pytest.approx(
        (expected["low"], expected["high"]), abs=CLOSED_FORM
    )
    assert found.df == pytest.approx(expected["df"], abs=CLOSED_FORM)
    for name in ("t_low", "p_low", "t_high", "p_high"):
        theirs = name.replace("low", "lower").replace("high", "upper")
        assert getattr(found, name) == pytest.approx(expected[theirs], abs=CLOSED_FORM)
    assert found.p == pytest.approx(expected["p_tost"], abs=CLOSED_FORM)
    assert found.equivalent
    assert found.difference[1:3] == pytest.approx(expected["ci90"], abs=CLOSED_FORM)
    test = comparisons.welch(first, second)
    assert (test.se, test.t, test.p) == pytest.approx(
        (expected["se"], expected["t_nhst"], expected["p_nhst"]), abs=1e-7
    )
    assert test.difference[1:3] == pytest.approx(expected["ci95"], abs=CLOSED_FORM)


def test_paired_tost(golden):
    data, expected = golden.table("retest"), golden["tost_paired"]
    found = comparisons.tost(data["t1"], data["t2"], expected["bound"], paired=True)
    assert found.df == expected["dof"]
    assert found.p == pytest.approx(expected["pval"], abs=CLOSED_FORM)
    assert not found.equivalent
    # the same by differences against a fixed mean
    alone = comparisons.tost(data["t1"] - data["t2"], 0.0, expected["bound"])
    assert alone.p == pytest.approx(found.p)


def test_a_model_against_people(golden):
    expected = golden["norm_compare"]
    model, people = GroupMoments(13.9, 4.3, 10), GroupMoments(12.51, 6, 693)
    welch, student = comparisons.welch(model, people), comparisons.student(model, people)
    assert (welch.t, welch.df, welch.p) == pytest.approx(
        (expected["welch_t"], expected["welch_df"], expected["welch_p"]), abs=CLOSED_FORM
    )
    assert (student.t, student.p) == pytest.approx(
        (expected["student_t"], expected["student_p"]), abs=CLOSED_FORM
    )
    assert comparisons.cohens_d(model, people).value == pytest.approx(
        expected["cohens_d_pooled"], abs=CLOSED_FORM
    )
    assert comparisons.hedges_g(model, people).value == pytest.approx(
        expected["hedges_g_exactJ"], abs=CLOSED_FORM
    )
    delta = comparisons.glass_delta(model, people)
    assert delta.value == pytest.approx(expected["glass_delta_human_sd"], abs=CLOSED_FORM)
    assert delta.low < delta.value < delta.high
    # the F of the golden values is people's variance over the model's
    assert comparisons.dispersion_ratio(people, model).value ** 2 == pytest.approx(
        expected["F"], abs=CLOSED_FORM
    )


def test_difference_of_groups(golden):
    expected = golden["group_difference"]
    groups = [
        GroupMoments(m, s, n) for m, s, n in zip(expected["mean"], expected["sd"], expected["n"], strict=True)
    ]
    found = comparisons.welch(*groups)
    assert (found.t, found.df) == pytest.approx((expected["welch_t"], expected["df"]), abs=1e-7)
    assert found.p == pytest.approx(expected["p"], rel=1e-6)
    assert found.difference[1:3] == pytest.approx(expected["ci95"], abs=CLOSED_FORM)
    assert comparisons.cohens_d(*groups).value == pytest.approx(expected["cohen_d"], abs=CLOSED_FORM)


def test_tests_agree_with_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=12), rng.normal(0.5, 2, size=30)
    for ours, equal in ((comparisons.welch, False), (comparisons.student, True)):
        theirs = stats.ttest_ind(a, b, equal_var=equal)
        interval = theirs.confidence_interval()
        found = ours(a, b)
        assert (found.t, found.p, found.df) == pytest.approx((theirs.statistic, theirs.pvalue, theirs.df))
        assert found.difference[1:3] == pytest.approx((interval.low, interval.high))


def test_benjamini_hochberg_agrees_with_scipy_and_holm_with_its_definition():
    p = np.array([0.01, 0.04, 0.03, 0.5, 0.005])
    assert comparisons.benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p))
    # sorted .005 .01 .03 .04 .5 times 5 4 3 2 1, made monotone
    assert comparisons.holm(p) == pytest.approx([0.04, 0.09, 0.09, 0.5, 0.025])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_corrections_keep_the_order_and_are_no_smaller_than_p(values):
    p = np.array(values)
    bonferroni = np.minimum(p * len(p), 1)
    for adjust in (comparisons.holm, comparisons.benjamini_hochberg):
        adjusted = adjust(p)
        assert (adjusted >= p - 1e-15).all()
        assert (adjusted <= bonferroni + 1e-15).all()
        assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= -1e-15).all()
    with_gap = comparisons.holm([*values, math.nan])
    assert with_gap[:-1] == pytest.approx(comparisons.holm(p))
    assert math.isnan(with_gap[-1])


@given(st.integers(4, 30), st.integers(4, 30), st.floats(-2, 2), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_effect_sizes_change_sign_with_the_groups_and_ignore_units(n, m, shift, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=n) + shift, rng.normal(size=m)
    for effect in (comparisons.cohens_d, comparisons.hedges_g):
        forward, back, scaled = effect(a, b), effect(b, a), effect(10 * a + 3, 10 * b + 3)
        assert back.value == pytest.approx(-forward.value)
        assert (back.low, back.high) == pytest.approx((-forward.high, -forward.low), abs=1e-6)
        assert scaled.value == pytest.approx(forward.value)
        assert forward.low < forward.value < forward.high
    assert abs(comparisons.hedges_g(a, b).value) < abs(comparisons.cohens_d(a, b).value)


@pytest.mark.parametrize(
    ("t", "df", "shift"), [(2.0, 10, 1.0), (-1.5, 3, 0.5), (0.0, 50, -2.0), (4.0, 700, 3.0), (1.0, 1, 0.3)]
)
def test_noncentral_t(t, df, shift):
    assert comparisons.noncentral_t_cdf(t, df, shift) == pytest.approx(stats.nct.cdf(t, df, shift), abs=1e-5)
    low, high = comparisons.noncentral_t_interval(t, df)
    assert stats.nct.cdf(t, df, low) == pytest.approx(0.975, abs=1e-5)
    assert stats.nct.cdf(t, df, high) == pytest.approx(0.025, abs=1e-5)


def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(1)
    truth, runs = 0.6, 200
    hits = {"d": 0, "delta": 0, "ratio": 0}
    for _ in range(runs):
        a, b = rng.normal(truth, 1, size=25), rng.normal(size=40)
        d, delta, ratio = (
            comparisons.cohens_d(a, b),
            comparisons.glass_delta(a, b),
            comparisons.dispersion_ratio(a, b),
        )
        hits["d"] += d.low <= truth <= d.high
        hits["delta"] += delta.low <= truth <= delta.high
        hits["ratio"] += ratio.low <= 1 <= ratio.high
    assert all(180 <= count <= 199 for count in hits.values()), hits  # binomial(200, .95)


def test_nothing_varies():
    flat = np.full(5, 2.0)
    assert comparisons.welch(flat, flat + 1).difference.value == -1
    assert math.isnan(comparisons.welch(flat, flat).p)
    for undefined in (
        comparisons.cohens_d(flat, flat + 1),
        comparisons.hedges_g(flat, flat),
        comparisons.glass_delta([1, 2, 3], flat),
        comparisons.dispersion_ratio([1, 2, 3], flat),
        comparisons.glass_delta([], [1, 2, 3]),
        comparisons.cohens_d([], [1, 2, 3]),
        comparisons.dispersion_ratio([1], [1, 2]),
    ):
        assert math.isnan(undefined.value)
        assert undefined.reason
    found = comparisons.tost(flat, flat, 1.0)
    assert math.isnan(found.p)
    assert not found.equivalent
    assert found.difference.reason
    single = comparisons.glass_delta([2.0], [1, 2, 3])
    assert single.value == 0
    assert math.isnan(single.low)
    assert "single score" in single.reason


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: comparisons.tost([1, 2], [2, 3], (1, -1)), "lower bound must lie below"),
        (lambda: comparisons.holm([0.2, 1.2]), "between 0 and 1"),
        (lambda: comparisons.welch([1, math.inf], [1, 2]), "finite"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
