"""ICC, Krippendorff's alpha and test-retest against psych, published values and their definitions."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evals.psychometrics import agreement, measurement_error

CLOSED_FORM = 1e-8


# Shrout & Fleiss 1979, table 2, and the values of their table 4
SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float
)
PUBLISHED = {"ICC1": 0.17, "ICC2": 0.29, "ICC3": 0.71, "ICC1k": 0.44, "ICC2k": 0.62, "ICC3k": 0.91}

# Krippendorff 2011, four coders of twelve units
CODERS = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, np.nan, np.nan, np.nan],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, np.nan, 3],
        [np.nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, np.nan],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, np.nan],
    ]
)


def test_published_icc():
    table = agreement.icc_table(SHROUT_FLEISS)
    assert table["icc"].astype(float).round(2).to_dict() == PUBLISHED


@pytest.mark.parametrize("study", ["shrout_fleiss", "retest"])
def test_icc_table(golden, study):
    if study == "shrout_fleiss":
        data, expected = SHROUT_FLEISS, golden["icc_shrout_fleiss"]["table"]
    else:
        data, expected = golden.table("retest")[["t1", "t2"]], golden["retest"]["icc"]["table"]
    table = agreement.icc_table(data)
    names = {
        "ICC": "icc",
        "F": "f",
        "df1": "df1",
        "df2": "df2",
        "p": "p",
        "lower95": "low",
        "upper95": "high",
    }
    for row in expected:
        for theirs, ours in names.items():
            assert float(table.loc[row["type"], ours]) == pytest.approx(row[theirs], abs=CLOSED_FORM), (
                row,
                ours,
            )


def test_forms_have_their_several_names():
    for names in (
        ("ICC(A,1)", "ICC2", "icc(a,1)".upper(), "ICC(2,1)", "A,1"),
        ("ICC(C,k)", "ICC3k", "ICC(3,k)"),
    ):
        values = {agreement.icc(SHROUT_FLEISS, name).value for name in names}
        assert len(values) == 1
    with pytest.raises(ValueError, match="unknown form"):
        agreement.icc(SHROUT_FLEISS, "ICC4")


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval", "ratio"])
def test_krippendorff(golden, level):
    found = agreement.krippendorff_alpha(CODERS.T, level, n_bootstrap=50)
    assert found.value == pytest.approx(golden["krippendorff_2011"][level], abs=CLOSED_FORM)
    assert found.n == 11  # one unit has a single value
    assert found.low < found.value


@given(st.integers(2, 20), st.integers(2, 5), st.floats(0, 0.5), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_krippendorff_is_one_minus_disagreement_over_all_pairs(n, k, missing, seed):
    rng = np.random.default_rng(seed)
    data = rng.integers(1, 5, (n, k)).astype(float)
    data[rng.random((n, k)) < missing] = np.nan
    found = agreement.krippendorff_alpha(data, "interval", n_bootstrap=2)
    units = [row[~np.isnan(row)] for row in data if (~np.isnan(row)).sum() > 1]
    values = np.concatenate(units) if units else np.array([])
    if len(units) < 2 or np.ptp(values) == 0:
        assert math.isnan(found.value)
        assert found.reason
        return
    # straight from the definition, over ordered pairs
    observed = sum(((u[:, None] - u) ** 2).sum() / (len(u) - 1) for u in units) / len(values)
    expected = ((values[:, None] - values) ** 2).sum() / (len(values) * (len(values) - 1))
    assert found.value == pytest.approx(1 - observed / expected, abs=1e-9)


def test_krippendorff_of_continuous_values_needs_no_table_of_pairs():
    data = np.random.default_rng(0).normal(size=(3000, 2)) + np.random.default_rng(1).normal(size=(3000, 1))
    assert agreement.krippendorff_alpha(data, n_bootstrap=20).value == pytest.approx(0.5, abs=0.05)


def test_retest(golden):
    data, expected = golden.table("retest"), golden["retest"]
    found = measurement_error.retest(data["t1"], data["t2"])
    assert found.r[:3] == pytest.approx([expected["r"], *expected["r_ci95"]], abs=CLOSED_FORM)
    assert (found.t, found.df, found.p) == pytest.approx(
        (expected["paired_t"], expected["df"], expected["p"]), abs=CLOSED_FORM
    )
    assert found.sem == pytest.approx(expected["SEM_pooledSD"], abs=CLOSED_FORM)
    assert found.typical_error == pytest.approx(expected["typical_error"], abs=CLOSED_FORM)
    assert found.smallest_change == pytest.approx(expected["SDC95_from_typical_error"], abs=CLOSED_FORM)
    limits = expected["bland_altman"]
    assert found.bias.value == pytest.approx(limits["bias"], abs=CLOSED_FORM)
    assert found.limits == pytest.approx((limits["lower"], limits["upper"]), abs=CLOSED_FORM)


def test_lengthening_undoes_spearman_brown(golden):
    factor = measurement_error.lengthening(0.8133, 0.9)
    assert 5 * factor == pytest.approx(golden["spearman_brown_prophecy"]["items_for_90"], abs=1e-6)
    assert measurement_error.spearman_brown(0.6, measurement_error.lengthening(0.6, 0.85)) == pytest.approx(
        0.85
    )


def test_an_interval_that_would_not_hold_its_estimate_is_none():
    """Subjects that differ far less than the residual: Satterthwaite's degrees of freedom are 0.0004."""
    table = agreement.icc_table(np.random.default_rng(946).normal(size=(3, 3)))
    assert table.loc["ICC2", "icc"] == pytest.approx(-0.6625, abs=1e-4)
    assert math.isnan(table.loc["ICC2", "low"])
    assert math.isnan(table.loc["ICC2", "high"])
    assert "no interval" in table.loc["ICC2", "reason"]
    assert table.loc["ICC3", "low"] < table.loc["ICC3", "icc"] < table.loc["ICC3", "high"]


@given(st.integers(3, 20), st.integers(2, 6), st.integers(0, 2**32 - 1))
@example(3, 3, 946)
@settings(max_examples=40, deadline=None)
def test_one_way_icc_counts_a_shift_of_a_rater_as_error(n, k, seed):
    data = np.random.default_rng(seed).normal(size=(n, k))
    shifted = data + np.arange(k) * 10
    # consistency ignores the shift, agreement does not
    for form, same in (("ICC3", True), ("ICC3k", True), ("ICC2", False), ("ICC1", False)):
        before, after = agreement.icc(data, form).value, agreement.icc(shifted, form).value
        assert (abs(before - after) < 1e-8) == same


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (np.full((5, 3), 2.0), "no variance"),
        (np.tile([1.0, 2.0, 3.0], (5, 1)), "no variance between"),
        (np.ones((5, 1)), "fewer than 2 measurements"),
        (np.ones((1, 3)), "fewer than 2 complete subjects"),
        (np.full((5, 3), np.nan), "fewer than 2 complete subjects"),
    ],
)
def test_undefined_icc(data, why):
    found = agreement.icc(data)
    assert math.isnan(found.value)
    assert math.isnan(found.low)
    assert why in found.reason


def test_perfect_agreement_is_one():
    data = np.repeat(np.arange(6.0)[:, None], 3, axis=1)
    table = agreement.icc_table(data)
    assert table["icc"].astype(float).tolist() == [1.0] * 6
    assert agreement.krippendorff_alpha(data, n_bootstrap=5).value == 1.0


def test_undefined_krippendorff_and_retest():
    same = agreement.krippendorff_alpha(np.full((4, 3), 2.0))
    assert math.isnan(same.value)
    assert "every value is 2" in same.reason
    assert "no negative" in agreement.krippendorff_alpha([[-1, 1], [2, 3]], "ratio").reason
    with pytest.raises(ValueError, match="level must be"):
        agreement.krippendorff_alpha(SHROUT_FLEISS, "cardinal")
    flat = measurement_error.retest([3, 3, 3], [3, 3, 3])
    assert math.isnan(flat.r.value)
    assert math.isnan(flat.agreement.value)
    assert flat.bias.value == 0
    assert measurement_error.retest([1], [2]).bias.reason
    none = measurement_error.standard_error_of_measurement(1.0, agreement.icc(np.ones((3, 3))))
    assert math.isnan(none.value)
    assert "no variance" in none.reason
    assert "positive" in measurement_error.disattenuate(0.3, -0.1, 0.8).reason
