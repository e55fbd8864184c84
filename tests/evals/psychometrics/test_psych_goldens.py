"""Values of R's psych, lavaan and published tables that the tests of each module leave out."""

import numpy as np
import pandas as pd
import pytest

from evals import psychometrics
from evals.psychometrics import agreement, comparisons, covariance, reliability
from evals.psychometrics.comparisons import GroupMoments
from evals.psychometrics.factors.covariance_structure import fit_ml
from evals.psychometrics.factors.schmid_leiman import schmid_leiman
from evals.psychometrics.generalizability import variance_components
from evals.psychometrics.mcdonald_omega import one_factor_structure

CLOSED_FORM, ITERATIVE = 1e-8, 1e-3
OVERFACTORED = 2e-2  # three group factors of five items: programs differ
PUBLISHED = 5e-3  # two decimals
# Shrout & Fleiss 1979, table 2
SHROUT_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]


def test_scale_summaries(scale):
    expected, complete = scale.values, scale.complete
    cov = covariance.covariance(complete.to_numpy(float))
    corr = covariance.correlations(cov)
    pairs = corr[np.triu_indices(len(corr), 1)]
    assert pairs.mean() == pytest.approx(expected["average_r"], abs=CLOSED_FORM)
    assert np.median(pairs) == pytest.approx(expected["median_r"], abs=CLOSED_FORM)
    average = expected["average_r"]
    ratio = complete.shape[1] * average / (1 - average)
    assert ratio == pytest.approx(expected["signal_to_noise"], abs=CLOSED_FORM)
    alpha = psychometrics.cronbach_alpha(scale.data, interval="duhachek")
    half = (alpha.high - alpha.low) / 2
    assert half / 1.959963984540054 == pytest.approx(expected["ase"], abs=CLOSED_FORM)
    lambda6 = psychometrics.guttman_lambda6(scale.data, n_bootstrap=5).value
    assert lambda6 == pytest.approx(expected["lambda6_smc"], abs=CLOSED_FORM)
    means = complete.mean(axis=1)
    assert means.mean() == pytest.approx(expected["mean_of_item_means"], abs=CLOSED_FORM)
    assert means.std() == pytest.approx(expected["sd_of_scale_mean"], abs=CLOSED_FORM)


def test_one_factor_residuals_and_omegas(scale):
    expected, complete = scale.values, scale.complete
    n, k = complete.shape
    cov = covariance.covariance(complete.to_numpy(float))
    found = fit_ml(cov * (n - 1) / n, one_factor_structure(k))
    loadings, residual = found.theta[:k], found.theta[k:]
    theirs = expected["cfa1"]
    assert n == theirs["n"]
    assert residual == pytest.approx([theirs["residual_var"][c] for c in complete.columns], abs=ITERATIVE)
    observed = loadings.sum() ** 2 / (cov * (n - 1) / n).sum()
    assert observed == pytest.approx(theirs["omega_observed_var"], abs=ITERATIVE)
    one = schmid_leiman(covariance.correlations(cov), 1)
    corr = covariance.correlations(cov)
    total = 1 - one.uniqueness.sum() / corr.sum()
    assert total == pytest.approx(expected["psych_omega_nf1"]["omega_total"], abs=ITERATIVE)
    for name in {"psych_omega_nf1", "psych_omega_nf3"} & expected.keys():
        std = psychometrics.cronbach_alpha(scale.data, standardized=True).value
        assert std == pytest.approx(expected[name]["alpha"], abs=CLOSED_FORM)
        g6 = 1 - covariance.unexplained(corr).sum() / corr.sum()
        assert g6 == pytest.approx(expected[name]["G6"], abs=CLOSED_FORM)


def test_all_items_together(golden):
    expected = golden["omega_together"]
    answers = pd.concat(golden.scales, axis=1).dropna().to_numpy(float)
    corr = covariance.correlations(covariance.covariance(answers))
    # the solution's sign of each item is psych's: items that load negatively are turned
    general = schmid_leiman(corr, expected["n_factors"]).general
    turned = corr * np.outer(np.sign(general), np.sign(general))
    g6 = 1 - covariance.unexplained(turned).sum() / turned.sum()
    assert covariance.alpha_of(turned) == pytest.approx(expected["alpha"], abs=CLOSED_FORM)
    assert g6 == pytest.approx(expected["G6"], abs=CLOSED_FORM)


def test_rank_correlation_and_its_test(golden):
    expected = golden["correlation"]
    n, e = (golden.scale(name).mean(axis=1, skipna=False) for name in expected["scales"])
    found = psychometrics.criterion_correlation(n, {"E": e}, ranks=True)["E"]
    assert found.value == pytest.approx(expected["spearman"], abs=CLOSED_FORM)
    assert found.n == expected["n"]
    assert found.low < found.value < found.high
    r = psychometrics.criterion_correlation(n, {"E": e})["E"].value
    assert r * np.sqrt((found.n - 2) / (1 - r**2)) == pytest.approx(expected["t"], abs=1e-6)


def test_ranks_do_not_mind_a_bent_scale_and_say_when_there_are_none():
    x = np.random.default_rng(0).normal(size=40)
    y = x + np.random.default_rng(1).normal(size=40)
    straight, bent = (
        psychometrics.criterion_correlation(x, {"y": v}, ranks=True)["y"] for v in (y, np.exp(3 * y))
    )
    assert straight == bent
    alike = psychometrics.criterion_correlation(x, {"y": np.ones(40)}, ranks=True)["y"]
    assert np.isnan(alike.value)
    assert alike.reason


def test_hedges_g_by_the_usual_approximation(golden):
    expected = golden["norm_compare"]
    model, people = (GroupMoments(*expected["inputs"][name]) for name in ("llm", "human_male"))
    found = comparisons.hedges_g(model, people, exact=False)
    assert found.value == pytest.approx(expected["hedges_g_approxJ"], abs=CLOSED_FORM)
    assert found.value != comparisons.hedges_g(model, people).value


def test_identities_of_a_scale(golden):
    expected = golden["identity"]
    complete = golden.scale(expected["scale"]).dropna()
    table = agreement.icc_table(complete)
    for form in ("ICC2k", "ICC3", "ICC3k"):
        assert table.loc[form, "icc"] == pytest.approx(expected[form], abs=CLOSED_FORM)
    assert psychometrics.cronbach_alpha(complete).value == pytest.approx(expected["alpha"], abs=CLOSED_FORM)


def test_standard_error_with_pairwise_deletion(scale):
    expected, data = scale.pairwise, scale.data
    assert len(data) == expected["n_rows"]
    cov = covariance.pairwise_covariance(data.to_numpy(float))
    assert reliability.alpha_standard_error(cov, len(data)) == pytest.approx(expected["ase"], abs=1e-6)
    assert data.mean(axis=1).mean() == pytest.approx(expected["mean"], abs=CLOSED_FORM)
    assert data.mean(axis=1).std() == pytest.approx(expected["sd"], abs=CLOSED_FORM)


@pytest.mark.parametrize("rotation", ["none", "varimax", "oblimin"])
def test_variance_of_factors(golden, rotation):
    expected = golden["efa"][rotation]
    data = pd.concat(list(golden.scales.values()), axis=1)
    found = psychometrics.efa(data, 5, rotation)
    phi = found.factor_correlations if rotation == "oblimin" else np.eye(5)
    loadings = found.loadings.to_numpy()
    ours = np.sort(np.diagonal(phi @ loadings.T @ loadings))[::-1]
    theirs = np.sort(expected["ss"]["values"][0])[::-1]
    # a sum of squares of loadings that each agree within ITERATIVE
    carried = 2 * ITERATIVE * np.abs(loadings).sum(axis=0).max()
    assert ours == pytest.approx(theirs, abs=carried if rotation == "varimax" else ITERATIVE)
    # of the size of 1e-211: the exponent
    assert np.log(found.fit["p"]) == pytest.approx(np.log(expected["p"]), rel=ITERATIVE)


def test_principal_components_of_the_parallel_analysis(golden):
    expected = golden["efa"]["parallel"]["pc_values"]
    data = pd.concat(list(golden.scales.values()), axis=1)
    values = np.linalg.eigvalsh(data.dropna().corr().to_numpy())[::-1]
    assert values[: len(expected)] == pytest.approx(expected, abs=CLOSED_FORM)


def test_published_agreement(golden):
    expected = golden["icc_shrout_fleiss"]
    ratings = np.array(SHROUT_FLEISS, float)
    assert ratings.shape == (expected["n_subjects"], expected["n_judges"])
    table = agreement.icc_table(ratings)
    for form, value in expected["published"].items():
        assert table.loc[form, "icc"] == pytest.approx(value, abs=PUBLISHED)
    ms = agreement.mean_squares(ratings)
    assert ms[3] == pytest.approx(expected["MSW"], abs=CLOSED_FORM)
    squares = golden["gtheory_shrout_fleiss"]["MS"]
    assert [ms[0], ms[1], ms[2]] == pytest.approx([squares[k] for k in ("p", "r", "pr")], abs=CLOSED_FORM)


def test_degrees_of_freedom_of_three_facets(golden):
    expected = golden["gtheory_crossed"]
    data = golden.table("persons_by_items_by_occasions")
    found = variance_components(data, ["p", "i", "o"])
    assert found.n == np.prod(expected["n"])
    assert found.table["df"].to_dict() == expected["df"]
