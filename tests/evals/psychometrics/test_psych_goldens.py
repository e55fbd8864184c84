"""Values of R's psych, lavaan and published tables that the tests of each module leave out."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evals.psychometrics import agreement, comparisons, covariance, reliability, validity
from evals.psychometrics.comparisons import GroupMoments
from evals.psychometrics.covariance_structure import fit_ml
from evals.psychometrics.generalizability import variance_components
from evals.psychometrics.mcdonald_omega import one_factor_structure
from evals.psychometrics.schmid_leiman import schmid_leiman

CLOSED_FORM, ITERATIVE = 1e-8, 1e-3
OVERFACTORED = 2e-2  # three group factors of five items: programs differ
PUBLISHED = 5e-3  # two decimals
SCALES = ["agree", "conscientious", "extraversion", "neuroticism", "openness"]


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict:
    return json.loads((shared / "golden/psych/golden_dev.json").read_text())


@pytest.fixture(scope="module")
def bfi(shared: Path, golden: dict) -> dict[str, pd.DataFrame]:
    data = pd.read_csv(shared / "golden/psych/bfi.csv", index_col=0)
    return {
        scale: pd.DataFrame({k.lstrip("-"): 7 - data[k[1:]] if k.startswith("-") else data[k] for k in keys})
        for scale, keys in golden["meta"]["keys"].items()
    }


@pytest.mark.parametrize("scale", SCALES)
def test_scale_summaries(golden, bfi, scale):
    expected, complete = golden["scales_complete"][scale], bfi[scale].dropna()
    cov = covariance.covariance(complete.to_numpy(float))
    corr = covariance.correlations(cov)
    pairs = corr[np.triu_indices(5, 1)]
    assert pairs.mean() == pytest.approx(expected["average_r"], abs=CLOSED_FORM)
    assert np.median(pairs) == pytest.approx(expected["median_r"], abs=CLOSED_FORM)
    average = expected["average_r"]
    ratio = complete.shape[1] * average / (1 - average)
    assert ratio == pytest.approx(expected["signal_to_noise"], abs=CLOSED_FORM)
    alpha = reliability.cronbach_alpha(bfi[scale], interval="duhachek")
    half = (alpha.high - alpha.low) / 2
    assert half / 1.959963984540054 == pytest.approx(expected["ase"], abs=CLOSED_FORM)
    lambda6 = reliability.guttman_lambda6(bfi[scale], n_bootstrap=5).value
    assert lambda6 == pytest.approx(expected["lambda6_smc"], abs=CLOSED_FORM)
    means = complete.mean(axis=1)
    assert means.mean() == pytest.approx(expected["mean_of_item_means"], abs=CLOSED_FORM)
    assert means.std() == pytest.approx(expected["sd_of_scale_mean"], abs=CLOSED_FORM)


@pytest.mark.parametrize("scale", SCALES)
def test_one_factor_residuals_and_omegas(golden, bfi, scale):
    expected, complete = golden["scales_complete"][scale], bfi[scale].dropna()
    n = len(complete)
    cov = covariance.covariance(complete.to_numpy(float))
    found = fit_ml(cov * (n - 1) / n, one_factor_structure(5))
    loadings, residual = found.theta[:5], found.theta[5:]
    theirs = expected["cfa1"]
    assert n == theirs["n"]
    assert residual == pytest.approx([theirs["residual_var"][c] for c in complete.columns], abs=ITERATIVE)
    observed = loadings.sum() ** 2 / (cov * (n - 1) / n).sum()
    assert observed == pytest.approx(theirs["omega_observed_var"], abs=ITERATIVE)
    one = schmid_leiman(covariance.correlations(cov), 1)
    corr = covariance.correlations(cov)
    total = 1 - one.uniqueness.sum() / corr.sum()
    assert total == pytest.approx(expected["psych_omega_nf1"]["omega_total"], abs=ITERATIVE)
    for name in ("psych_omega_nf1", "psych_omega_nf3"):
        std = reliability.cronbach_alpha(bfi[scale], standardized=True).value
        assert std == pytest.approx(expected[name]["alpha"], abs=CLOSED_FORM)
        g6 = 1 - covariance.unexplained(corr).sum() / corr.sum()
        assert g6 == pytest.approx(expected[name]["G6"], abs=CLOSED_FORM)


def test_twenty_five_items_together(golden, bfi):
    expected = golden["omega_all25_nf5"]
    corr = covariance.correlations(covariance.covariance(pd.concat(bfi, axis=1).dropna().to_numpy(float)))
    # the solution's sign of each item is psych's: items that load negatively are turned
    general = schmid_leiman(corr, 5).general
    turned = corr * np.outer(np.sign(general), np.sign(general))
    g6 = 1 - covariance.unexplained(turned).sum() / turned.sum()
    assert covariance.alpha_of(turned) == pytest.approx(expected["alpha"], abs=CLOSED_FORM)
    assert g6 == pytest.approx(expected["G6"], abs=CLOSED_FORM)


def test_rank_correlation_and_its_test(golden, bfi):
    expected = golden["extras"]["cor_N_E"]
    n, e = (bfi[name].mean(axis=1, skipna=False) for name in ("neuroticism", "extraversion"))
    found = validity.criterion_correlation(n, {"E": e}, ranks=True)["E"]
    assert found.value == pytest.approx(expected["spearman"], abs=CLOSED_FORM)
    assert found.n == expected["n"]
    assert found.low < found.value < found.high
    r = validity.criterion_correlation(n, {"E": e})["E"].value
    assert r * np.sqrt((found.n - 2) / (1 - r**2)) == pytest.approx(expected["t"], abs=1e-6)


def test_ranks_do_not_mind_a_bent_scale_and_say_when_there_are_none():
    x = np.random.default_rng(0).normal(size=40)
    y = x + np.random.default_rng(1).normal(size=40)
    straight, bent = (
        validity.criterion_correlation(x, {"y": v}, ranks=True)["y"] for v in (y, np.exp(3 * y))
    )
    assert straight == bent
    alike = validity.criterion_correlation(x, {"y": np.ones(40)}, ranks=True)["y"]
    assert np.isnan(alike.value)
    assert alike.reason


def test_hedges_g_by_the_usual_approximation(golden):
    expected = golden["norm_compare_psychobench_example"]
    model, people = (GroupMoments(*expected["inputs"][name]) for name in ("llm", "human_male"))
    found = comparisons.hedges_g(model, people, exact=False)
    assert found.value == pytest.approx(expected["hedges_g_approxJ"], abs=CLOSED_FORM)
    assert found.value != comparisons.hedges_g(model, people).value


def test_identities_of_a_scale(golden, bfi):
    expected, complete = golden["extras"]["identity_neuroticism"], bfi["neuroticism"].dropna()
    table = agreement.icc_table(complete)
    for form in ("ICC2k", "ICC3", "ICC3k"):
        assert table.loc[form, "icc"] == pytest.approx(expected[form], abs=CLOSED_FORM)
    assert reliability.cronbach_alpha(complete).value == pytest.approx(expected["alpha"], abs=CLOSED_FORM)


@pytest.mark.parametrize("scale", SCALES)
def test_standard_error_with_pairwise_deletion(golden, bfi, scale):
    expected, data = golden["scales_pairwise"][scale], bfi[scale]
    assert len(data) == expected["n_rows"]
    cov = covariance.pairwise_covariance(data.to_numpy(float))
    assert reliability.alpha_standard_error(cov, len(data)) == pytest.approx(expected["ase"], abs=1e-6)
    assert data.mean(axis=1).mean() == pytest.approx(expected["mean"], abs=CLOSED_FORM)
    assert data.mean(axis=1).std() == pytest.approx(expected["sd"], abs=CLOSED_FORM)


@pytest.mark.parametrize("rotation", ["none", "varimax", "oblimin"])
def test_variance_of_factors(golden, bfi, rotation):
    expected = golden["efa_bfi25_minres"][rotation]
    data = pd.concat(list(bfi.values()), axis=1)
    found = validity.efa(data, 5, rotation)
    phi = found.factor_correlations if rotation == "oblimin" else np.eye(5)
    loadings = found.loadings.to_numpy()
    ours = np.sort(np.diagonal(phi @ loadings.T @ loadings))[::-1]
    theirs = np.sort(expected["ss"]["values"][0])[::-1]
    # a sum of squares of loadings that each agree within ITERATIVE
    carried = 2 * ITERATIVE * np.abs(loadings).sum(axis=0).max()
    assert ours == pytest.approx(theirs, abs=carried if rotation == "varimax" else ITERATIVE)
    # of the size of 1e-211: the exponent
    assert np.log(found.fit["p"]) == pytest.approx(np.log(expected["p"]), rel=ITERATIVE)


def test_principal_components_of_the_parallel_analysis(golden, bfi):
    expected = golden["efa_bfi25_minres"]["parallel"]["pc_values"]
    data = pd.concat(list(bfi.values()), axis=1)
    values = np.linalg.eigvalsh(data.dropna().corr().to_numpy())[::-1]
    assert values[: len(expected)] == pytest.approx(expected, abs=CLOSED_FORM)


def test_published_agreement(golden, shared):
    expected = golden["icc_shrout_fleiss"]
    ratings = (
        pd.read_csv(shared / "golden/psych/shrout_fleiss_1979.csv").select_dtypes("number").to_numpy(float)
    )
    ratings = ratings[:, -expected["n_judges"] :]
    assert len(ratings) == expected["n_subjects"]
    table = agreement.icc_table(ratings)
    for form, value in expected["published"].items():
        assert table.loc[form, "icc"] == pytest.approx(value, abs=PUBLISHED)
    ms = agreement.mean_squares(ratings)
    assert ms[3] == pytest.approx(expected["MSW"], abs=CLOSED_FORM)
    squares = golden["gtheory_sf_p_x_r"]["MS"]
    assert [ms[0], ms[1], ms[2]] == pytest.approx([squares[k] for k in ("p", "r", "pr")], abs=CLOSED_FORM)


def test_degrees_of_freedom_of_three_facets(golden, shared):
    expected = golden["gtheory_pio_sim_dev"]["result"]
    data = pd.read_csv(shared / "golden/psych/gtheory_pio_sim_dev.csv")
    found = variance_components(data, ["p", "i", "o"])
    assert found.n == np.prod(expected["n"])
    degrees = {name.replace("Residuals", "p:i:o"): df for name, df in expected["df"].items() if df}
    assert found.table["df"].to_dict() == degrees
