"""Internal consistency: values of R's psych and lavaan, identities, and what is undefined."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals import psychometrics
from evals.psychometrics import covariance
from evals.psychometrics.agreement import icc, icc_table
from evals.psychometrics.estimate import complete_cases
from evals.psychometrics.generalizability import d_study, variance_components

CLOSED_FORM = 1e-8
ITERATIVE = 1e-3
OVERFACTORED = 2e-2  # three group factors of five items: programs differ
QUICK = {"n_bootstrap": 40}


def responses(n: int, k: int, seed: int, trait: float = 1.0) -> np.ndarray:
    """Five-point answers of n persons to k items of one trait."""
    rng = np.random.default_rng(seed)
    return np.clip(np.round(3 + trait * rng.normal(size=(n, 1)) + rng.normal(size=(n, k))), 1, 5)


def test_alpha_with_its_intervals(scale):
    expected = scale.values
    alpha = psychometrics.cronbach_alpha(scale.data)
    assert alpha.n == expected["n"]
    assert alpha.reason == ""
    assert alpha[:3] == pytest.approx([expected["raw_alpha"], *expected["feldt_ci95"]], abs=CLOSED_FORM)
    duhachek = psychometrics.cronbach_alpha(scale.data, interval="duhachek")
    # psych takes 1.96 for the normal quantile
    assert duhachek[1:3] == pytest.approx(expected["duhachek_ci95"], abs=1e-6)
    std = psychometrics.cronbach_alpha(scale.data, standardized=True)
    assert std.value == pytest.approx(expected["std_alpha"], abs=CLOSED_FORM)


def test_pairwise_deletion(scale):
    expected = scale.pairwise
    alpha = psychometrics.cronbach_alpha(scale.data, missing="pairwise")
    std = psychometrics.cronbach_alpha(scale.data, missing="pairwise", standardized=True)
    assert alpha.value == pytest.approx(expected["raw_alpha"], abs=CLOSED_FORM)
    assert std.value == pytest.approx(expected["std_alpha"], abs=CLOSED_FORM)
    corr = covariance.correlations(covariance.pairwise_covariance(scale.data.to_numpy(float)))
    assert corr[np.triu_indices(len(corr), 1)].mean() == pytest.approx(expected["average_r"], abs=CLOSED_FORM)
    lambda6 = 1 - covariance.unexplained(corr).sum() / corr.sum()
    assert lambda6 == pytest.approx(expected["lambda6"], abs=CLOSED_FORM)


def test_guttman_bounds(scale):
    expected = scale.values
    std = psychometrics.guttman_lambdas(scale.data, splits="psych", **QUICK)
    assert {k: v.value for k, v in std.items()} == pytest.approx(expected["guttman_std"], abs=CLOSED_FORM)
    assert all(v.low < v.high for v in std.values())
    raw = psychometrics.guttman_lambdas(scale.data, standardized=False, **QUICK)
    assert raw["lambda2"].value == pytest.approx(expected["lambda2_raw"], abs=CLOSED_FORM)
    for standardized, name in ((True, "lambda6_std_formula"), (False, "lambda6_raw_formula")):
        found = psychometrics.guttman_lambda6(scale.data, standardized=standardized, **QUICK)
        assert found.value == pytest.approx(expected[name], abs=CLOSED_FORM)


def test_item_statistics(scale):
    expected = scale.values
    table = psychometrics.item_statistics(scale.data).table
    names = {
        "alpha_if_dropped": "alpha_if_dropped",
        "std_alpha_if_dropped": "std_alpha_if_dropped",
        "item_total_r_raw": "r_total",
        "item_total_r_cor": "r_corrected",
        "item_rest_r_drop": "r_rest",
        "item_mean": "mean",
        "item_sd": "sd",
    }
    for theirs, ours in names.items():
        assert table[ours].to_dict() == pytest.approx(expected[theirs], abs=CLOSED_FORM), theirs
    assert (table["r_rest_low"] < table["r_rest"]).all()


@pytest.mark.parametrize(
    ("standardized", "name"), [(True, "split_half_all_std"), (False, "split_half_all_covar")]
)
def test_split_halves(scale, standardized, name):
    expected = scale.values[name]
    # psych looks at half of the splits of an odd number of items, which decides the digits
    found = psychometrics.split_half(scale.data, standardized=standardized, splits="psych", **QUICK)
    assert found.maximum.value == pytest.approx(expected["max"], abs=CLOSED_FORM)
    assert found.minimum.value == pytest.approx(expected["min_beta"], abs=CLOSED_FORM)
    assert found.mean.value == pytest.approx(expected["mean"], abs=CLOSED_FORM)
    if "quantiles" in expected:
        assert found.quantiles == pytest.approx(expected["quantiles"], abs=CLOSED_FORM)
        assert found.n_splits == expected["n_splits"]
    every = psychometrics.split_half(scale.data, standardized=standardized, **QUICK)
    k = scale.data.shape[1]
    assert every.n_splits == (math.comb(k, k // 2) // 2 if k % 2 == 0 else math.comb(k, k // 2))
    assert every.minimum.value <= found.minimum.value + CLOSED_FORM
    assert every.maximum.value >= found.maximum.value - CLOSED_FORM


def test_odd_even_and_sem(scale):
    expected = scale.values
    found = psychometrics.split_half(scale.data, **QUICK)
    assert found.odd_even_r.value == pytest.approx(expected["odd_even"]["r"], abs=CLOSED_FORM)
    assert found.spearman_brown.value == pytest.approx(
        expected["odd_even"]["spearman_brown"], abs=CLOSED_FORM
    )
    assert found.flanagan_rulon.value == pytest.approx(
        expected["odd_even"]["flanagan_rulon"], abs=CLOSED_FORM
    )
    sd = math.sqrt(expected["sum_score_variance"])
    sem = psychometrics.standard_error_of_measurement(sd, psychometrics.cronbach_alpha(scale.data))
    assert sem.value == pytest.approx(expected["sem_sum_score_alpha"], abs=1e-7)
    assert sem.low < sem.value < sem.high


def test_omega(scale):
    expected = scale.values
    total = psychometrics.omega(scale.data)
    assert total.value == pytest.approx(expected["cfa1"]["omega_total_cfa_raw"], abs=ITERATIVE)
    assert total.low < total.value < total.high
    std = psychometrics.omega(scale.data, standardized=True)
    assert std.value == pytest.approx(expected["cfa1"]["omega_total_std"], abs=ITERATIVE)
    if "psych_omega_nf3" not in expected:
        return
    group, bound = expected["psych_omega_nf3"], ITERATIVE if scale.data.shape[1] == 9 else OVERFACTORED
    for kind, name in (("hierarchical", "omega_h"), ("asymptotic", "omega_lim")):
        found = psychometrics.omega(scale.data, kind, **QUICK)
        assert found.value == pytest.approx(group[name], abs=bound)
        assert found.low < found.high
    minres = psychometrics.omega(scale.data, "total", n_factors=3, **QUICK)
    assert minres.value == pytest.approx(group["omega_total"], abs=bound)


def test_omega_of_all_items_together(golden):
    everything = pd.concat(golden.scales.values(), axis=1)
    expected = golden["omega_together"]
    for kind, name in (("hierarchical", "omega_h"), ("total", "omega_total"), ("asymptotic", "omega_lim")):
        found = psychometrics.omega(
            everything, kind, n_factors=expected["n_factors"], flip=True, n_bootstrap=20
        )
        assert found.value == pytest.approx(expected[name], abs=ITERATIVE)


def test_alpha_of_an_unreversed_item_is_not_clipped(golden):
    expected = golden["unreversed"]
    data, item = golden.scale(expected["scale"]), expected["item"]
    wrong = data.assign(**{item: sum(golden.bounds) - data[item]})
    assert psychometrics.cronbach_alpha(wrong).value == pytest.approx(expected["raw"], abs=CLOSED_FORM)
    std = psychometrics.cronbach_alpha(wrong, standardized=True)
    assert std.value == pytest.approx(expected["std"], abs=CLOSED_FORM)
    opposed = np.random.default_rng(0).normal(size=(50, 1)) * [1, -1] + np.random.default_rng(1).normal(
        size=(50, 2)
    )
    assert psychometrics.cronbach_alpha(opposed).value < 0


def test_prophecy_and_disattenuation(golden):
    prophecy = golden["spearman_brown_prophecy"]["result"]
    assert psychometrics.spearman_brown(0.7338, 2) == pytest.approx(prophecy)
    true = psychometrics.disattenuate(0.35, 0.7, 0.81)
    assert true.value == pytest.approx(golden["disattenuation"]["result"], abs=CLOSED_FORM)


# Identities, for which no outside reference is needed.

sizes = st.tuples(st.integers(5, 40), st.integers(2, 8), st.integers(0, 2**32 - 1))


@given(sizes)
@settings(max_examples=40, deadline=None)
def test_alpha_is_icc3k_is_the_generalizability_coefficient(size):
    n, k, seed = size
    data = responses(n, k, seed)
    alpha = psychometrics.cronbach_alpha(data)
    if not alpha.defined:
        return
    consistency = icc(data, "ICC(C,k)")
    assert alpha.value == pytest.approx(consistency.value, abs=1e-9)
    # Feldt's interval is that of the F ratio of ICC(3,k)
    assert alpha[1:3] == pytest.approx(consistency[1:3], abs=1e-9)
    person, item = np.indices(data.shape)
    long = pd.DataFrame({"person": person.ravel(), "item": item.ravel(), "score": data.ravel()})
    study = d_study(variance_components(long, ["person", "item"]))
    if alpha.value > 0 and study.g.defined:
        assert study.g.value == pytest.approx(alpha.value, abs=1e-9)
        absolute = icc(data, "ICC(A,k)")
        components = variance_components(long, ["person", "item"]).components
        if min(components.values()) >= 0:
            assert study.phi.value == pytest.approx(absolute.value, abs=1e-9)


@given(sizes)
@settings(max_examples=40, deadline=None)
def test_spearman_brown_leads_from_one_rater_to_k(size):
    n, k, seed = size
    table = icc_table(responses(n, k, seed))
    for single, averaged in (("ICC1", "ICC1k"), ("ICC2", "ICC2k"), ("ICC3", "ICC3k")):
        one, many = float(table.loc[single, "icc"]), float(table.loc[averaged, "icc"])
        if not math.isnan(one) and 1 + (k - 1) * one > 1e-6:
            assert psychometrics.spearman_brown(one, k) == pytest.approx(many, rel=1e-9)


@given(st.integers(10, 60), st.integers(2, 8), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_alpha_of_right_and_wrong_is_kr20(n, k, seed):
    data = (responses(n, k, seed) > 3).astype(float)
    alpha = psychometrics.cronbach_alpha(data)
    if alpha.defined:
        p = data.mean(axis=0)
        kr20 = k / (k - 1) * (1 - (p * (1 - p)).sum() / data.sum(axis=1).var())
        assert alpha.value == pytest.approx(kr20, abs=1e-9)


@given(st.integers(10, 40), st.sampled_from([2, 4, 6, 8]), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_mean_of_all_even_splits_is_alpha(n, k, seed):
    data = responses(n, k, seed)
    found = psychometrics.split_half(data, n_bootstrap=2)
    alpha = psychometrics.cronbach_alpha(data)
    if alpha.defined:
        assert found.exhaustive
        assert found.mean.value == pytest.approx(alpha.value, abs=1e-9)
        assert found.minimum.value - 1e-12 <= alpha.value <= found.maximum.value + 1e-12


@given(sizes)
@settings(max_examples=25, deadline=None)
def test_bounds_are_ordered(size):
    n, k, seed = size
    data = responses(n, k, seed)
    if not psychometrics.cronbach_alpha(data).defined:
        return
    bounds = {
        name: e.value
        for name, e in psychometrics.guttman_lambdas(data, standardized=False, n_bootstrap=2).items()
    }
    # Guttman 1945: λ1 < λ3 ≤ λ2
    assert bounds["lambda1"] <= bounds["lambda2"] + 1e-12
    assert bounds["lambda3"] <= bounds["lambda2"] + 1e-12
    if bounds["lambda3"] >= 0:
        assert bounds["lambda1"] <= bounds["lambda3"] + 1e-12


@given(sizes, st.floats(-5, 5), st.floats(0.1, 10))
@settings(max_examples=25, deadline=None)
def test_alpha_ignores_shift_scale_and_order(size, shift, scale):
    n, k, seed = size
    data = responses(n, k, seed)
    alpha = psychometrics.cronbach_alpha(data)
    if alpha.defined:
        order = np.random.default_rng(seed).permutation(k)
        moved = psychometrics.cronbach_alpha(shift + scale * data[:, order])
        assert moved.value == pytest.approx(alpha.value, abs=1e-8)


def test_parallel_items_follow_spearman_brown():
    # with loadings λ and error variance 1, item reliability is ρ = λ²/(λ²+1) and alpha the stepped-up ρ
    rng = np.random.default_rng(3)
    data = 0.8 * rng.normal(size=(200_000, 1)) + rng.normal(size=(200_000, 6))
    expected = psychometrics.spearman_brown(0.64 / 1.64, 6)
    assert psychometrics.cronbach_alpha(data).value == pytest.approx(expected, abs=4e-3)
    assert psychometrics.omega(data).value == pytest.approx(expected, abs=4e-3)


def test_interval_covers_as_often_as_it_says():
    # true alpha of six parallel items with ρ = 0.39: see above
    rng = np.random.default_rng(4)
    truth = psychometrics.spearman_brown(0.64 / 1.64, 6)
    hits = {"feldt": 0, "bootstrap": 0, "omega": 0}
    runs = 200
    for _ in range(runs):
        data = 0.8 * rng.normal(size=(100, 1)) + rng.normal(size=(100, 6))
        for name in ("feldt", "bootstrap"):
            found = psychometrics.cronbach_alpha(data, interval=name, n_bootstrap=200)
            hits[name] += found.low <= truth <= found.high
        found = psychometrics.omega(data)
        hits["omega"] += found.low <= truth <= found.high
    # binomial(200, .95) lies in 180..198 with probability over .999
    assert all(180 <= count <= 200 for count in hits.values()), hits


def test_bootstrap_covariances_are_those_of_resampled_rows():
    data = responses(30, 4, 0)
    rng = np.random.default_rng(7)
    expected = [np.cov(data[rng.integers(0, 30, 30)].T) for _ in range(5)]
    for shift in (0.0, 0.1):  # integers go through float32, others through float64
        found = covariance.bootstrap(data + shift, lambda c: c.reshape(len(c), -1), n_bootstrap=5, seed=7)
        assert found.reshape(5, 4, 4) == pytest.approx(np.array(expected), abs=1e-6)


def test_splits_of_many_items_are_improved_by_exchange():
    rng = np.random.default_rng(0)
    # two clusters of ten: the worst split keeps them apart, β is far below the best
    factors = rng.normal(size=(500, 2))
    data = factors[:, np.repeat([0, 1], 10)] + rng.normal(size=(500, 20))
    found = psychometrics.split_half(data, n_bootstrap=20)
    assert not found.exhaustive
    cov = np.cov(data.T)
    apart = np.repeat([1.0, -1.0], 10)
    assert found.minimum.value == pytest.approx(1 - apart @ cov @ apart / cov.sum(), abs=1e-9)
    assert found.maximum.value > 0.9


def test_table_agrees_with_the_single_functions():
    data = responses(120, 8, 5)
    table = psychometrics.reliability_table(data, n_bootstrap=50)
    assert table.loc["alpha", "value"] == psychometrics.cronbach_alpha(data).value
    bounds = psychometrics.guttman_lambdas(data, n_bootstrap=50)
    for name in ("lambda1", "lambda2", "lambda3", "lambda4", "lambda5", "lambda6"):
        assert table.loc[name, "value"] == pytest.approx(bounds[name].value, abs=1e-12)
        # one bootstrap for all of them, with the same seed
        assert table.loc[name, "low"] == pytest.approx(bounds[name].low, abs=1e-9)
    hierarchical = psychometrics.omega(data, "hierarchical", n_bootstrap=50)
    assert table.loc["omega_hierarchical", "value"] == pytest.approx(hierarchical.value, abs=1e-3)
    assert table.loc["beta", "value"] <= table.loc["lambda4", "value"]


# Undefined, and never silent.

CONSTANT = np.full((20, 4), 3.0)
ALIKE = np.tile([1.0, 2.0, 3.0, 4.0], (20, 1))
CANCELLING = np.column_stack([np.arange(20.0), -np.arange(20.0)])


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (CONSTANT, "same answers"),
        (ALIKE, "same answers"),
        (CANCELLING, "same total"),
        (responses(20, 1, 0), "fewer than 2 items"),
        (responses(1, 4, 0), "fewer than 2 complete respondents"),
        (np.full((20, 4), np.nan), "fewer than 2 complete respondents"),
        (np.empty((0, 4)), "fewer than 2 complete respondents"),
        (np.full((20, 3), 0.1), "same answers"),
    ],
    ids=["constant", "greedy", "cancelling", "one item", "one person", "all refused", "nobody", "floats"],
)
def test_undefined_is_nan_with_a_reason(data, why):
    halves = psychometrics.split_half(data, n_bootstrap=3)
    found = [
        psychometrics.cronbach_alpha(data),
        psychometrics.cronbach_alpha(data, standardized=True),
        psychometrics.cronbach_alpha(data, missing="pairwise") if why != "same total" else halves.mean,
        psychometrics.omega(data),
        psychometrics.omega(data, "hierarchical", n_bootstrap=3),
        psychometrics.guttman_lambda6(data, n_bootstrap=3),
        *psychometrics.guttman_lambdas(data, n_bootstrap=3).values(),
        *(e for e in halves if isinstance(e, psychometrics.Estimate) and e is not halves.odd_even_r),
    ]
    for estimate in found:
        assert math.isnan(estimate.value)
        assert math.isnan(estimate.low)
        assert estimate.reason
    assert why in found[0].reason
    assert psychometrics.item_statistics(data).reason
    table = psychometrics.reliability_table(data, n_bootstrap=3)
    assert table["value"].isna().all()
    assert (table["reason"] != "").all()


def test_a_constant_item_counts_for_alpha_and_is_left_out_elsewhere():
    data = responses(50, 5, 1)
    data[:, 2] = 4
    rest = np.delete(data, 2, axis=1)
    # its variance is 0, k still counts it
    cov = np.cov(data.T)
    assert psychometrics.cronbach_alpha(data).value == pytest.approx(
        5 / 4 * (1 - np.trace(cov) / cov.sum()), abs=1e-12
    )
    std = psychometrics.cronbach_alpha(data, standardized=True)
    assert std.value == pytest.approx(psychometrics.cronbach_alpha(rest, standardized=True).value, abs=1e-12)
    assert "item 3" in std.reason
    assert "item 3" in psychometrics.omega(data).reason
    assert "item 3" in psychometrics.guttman_lambda6(data, n_bootstrap=20).reason


def test_more_items_than_persons_has_no_lambda6():
    data = responses(6, 10, 2)
    assert psychometrics.cronbach_alpha(data).defined
    found = psychometrics.guttman_lambda6(data, n_bootstrap=3)
    assert math.isnan(found.value)
    assert "6 respondents are too few for 10 items: needs at least 11" in found.reason
    assert psychometrics.omega(data).reason == found.reason


def test_listwise_deletion_counts_who_is_left():
    data = responses(30, 4, 0)
    data[3, 1] = np.nan
    assert psychometrics.cronbach_alpha(data).n == 29
    assert len(complete_cases(data)) == 29


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: psychometrics.cronbach_alpha([["a", "b"], ["c", "d"]]), "must hold numbers"),
        (lambda: psychometrics.cronbach_alpha([1, 2, 3]), "persons x items"),
        (lambda: psychometrics.cronbach_alpha([[1, np.inf], [2, 3]]), "finite"),
        (lambda: psychometrics.cronbach_alpha(responses(9, 3, 0), confidence=1.5), "between 0 and 1"),
        (lambda: psychometrics.cronbach_alpha(responses(9, 3, 0), missing="drop"), "listwise"),
        (lambda: psychometrics.omega(responses(9, 3, 0), "partial"), "kind must be"),
        (lambda: psychometrics.split_half(responses(9, 3, 0), splits="some"), "splits must be"),
        (lambda: psychometrics.spearman_brown(0.5, 0), "factor must be positive"),
        (lambda: psychometrics.guttman_lambda6(responses(9, 3, 0), n_bootstrap=0), "at least 1"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_missing_values_may_be_none():
    rows = [[1, 2, 3], [2, None, 3], [3, 4, 5], [1, 1, 2]]
    assert psychometrics.cronbach_alpha(rows).n == 3
    assert list(itertools.chain(psychometrics.cronbach_alpha(rows)))[3] == 3
