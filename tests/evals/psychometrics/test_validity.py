"""Factor analysis, confirmatory models and multitrait-multimethod matrices against psych and lavaan."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals import psychometrics
from evals.psychometrics.factors import covariance_structure
from evals.psychometrics.factors.confirmatory import parse, structure_of
from evals.psychometrics.factors.factor_analysis import minres
from evals.psychometrics.factors.rotation import align, oblimin, varimax
from evals.psychometrics.factors.schmid_leiman import nearby_general, schmid_leiman

CLOSED_FORM = 1e-8
ITERATIVE = 1e-3


def simple_structure(n: int, seed: int, n_factors: int = 3, items: int = 4) -> pd.DataFrame:
    """Items of loading .7 on their factor; factors correlate at .3."""
    rng = np.random.default_rng(seed)
    factors = math.sqrt(0.3) * rng.normal(size=(n, 1)) + math.sqrt(0.7) * rng.normal(size=(n, n_factors))
    data = 0.7 * np.repeat(factors, items, axis=1) + math.sqrt(0.51) * rng.normal(size=(n, n_factors * items))
    return pd.DataFrame(data, columns=[f"f{f}_{i}" for f in range(n_factors) for i in range(items)])


@pytest.mark.parametrize("rotation", ["none", "varimax", "oblimin"])
def test_efa_of_all_items(golden, rotation):
    expected = golden["efa"]
    found = psychometrics.efa(golden.raw, expected["n_factors"], rotation)
    assert found.n == expected["n"]
    assert found.reason == ""
    assert not found.heywood
    theirs = np.array(expected[rotation]["loadings"]["values"])
    order, signs = align(found.loadings.to_numpy(), theirs)
    assert found.loadings.to_numpy()[:, order] * signs == pytest.approx(theirs, abs=ITERATIVE)
    assert found.communality.to_dict() == pytest.approx(expected[rotation]["communality"], abs=ITERATIVE)
    if rotation == "oblimin":
        phi = found.factor_correlations[np.ix_(order, order)] * np.outer(signs, signs)
        assert phi == pytest.approx(np.array(expected[rotation]["Phi"]["values"]), abs=ITERATIVE)
    fit = expected[rotation]
    assert found.fit["chi2"] == pytest.approx(fit["chisq_stat"], rel=ITERATIVE)
    assert found.fit["df"] == fit["dof"]
    assert found.fit["rmsea"] == pytest.approx(fit["RMSEA"]["RMSEA"], abs=1e-6)
    assert found.fit["rmsea_low"] == pytest.approx(fit["RMSEA"]["lower"], abs=1e-5)
    assert found.fit["rmsea_high"] == pytest.approx(fit["RMSEA"]["upper"], abs=1e-5)
    assert found.fit["tli"] == pytest.approx(fit["TLI"], abs=1e-5)
    assert found.fit["bic"] == pytest.approx(fit["BIC"], abs=ITERATIVE)
    assert found.fit["rms"] == pytest.approx(fit["rms"], abs=1e-7)


def test_efa_of_a_correlation_matrix_is_that_of_the_data(simulated):
    complete = simulated.raw.dropna()
    from_data = psychometrics.efa(complete, 2)
    from_matrix = psychometrics.efa(None, 2, correlation=complete.corr(), n=len(complete))
    assert from_matrix.loadings.to_numpy() == pytest.approx(from_data.loadings.to_numpy(), abs=1e-6)
    assert from_matrix.fit["chi2"] == pytest.approx(from_data.fit["chi2"])


def test_number_of_factors(golden):
    expected, raw = golden["efa"], golden.raw
    kmo = psychometrics.kmo(raw)
    assert kmo.overall == pytest.approx(expected["kmo"]["MSA"], abs=CLOSED_FORM)
    assert kmo.items == pytest.approx(list(expected["kmo"]["MSAi"].values()), abs=CLOSED_FORM)
    bartlett = psychometrics.bartlett(raw)
    assert bartlett.chi2 == pytest.approx(expected["bartlett"]["chisq"], rel=1e-10)
    assert bartlett.df == expected["bartlett"]["df"]
    steps = psychometrics.velicer_map(raw)
    assert steps == pytest.approx(expected["velicer_map"], abs=CLOSED_FORM)
    assert steps.argmin() + 1 == expected["map_min_at"]
    parallel = psychometrics.parallel_analysis(raw, n_random=10)
    assert parallel.component_eigenvalues == pytest.approx(expected["eigenvalues"], abs=CLOSED_FORM)
    assert parallel.factor_eigenvalues == pytest.approx(expected["parallel"]["fa_values"], abs=ITERATIVE)
    assert abs(parallel.n_factors - expected["parallel"]["nfact"]) <= 1
    assert abs(parallel.n_components - expected["parallel"]["ncomp"]) <= 1


@pytest.mark.parametrize("study", ["abilities", "questionnaire"])
def test_cfa(golden, study):
    expected = golden[f"cfa_{study}"]
    data = golden.raw if study == "questionnaire" else golden.table(study)
    found = psychometrics.cfa(data, expected["model"])
    assert found.n == expected["n"]
    assert found.converged
    assert not found.improper
    names = {
        "npar": "n_parameters",
        "chisq": "chi2",
        "pvalue": "p",
        "baseline.chisq": "baseline_chi2",
        "baseline.df": "baseline_df",
        "rmsea.ci.lower": "rmsea_low",
        "rmsea.ci.upper": "rmsea_high",
        "rmsea.pvalue": "rmsea_p",
        "logl": "loglik",
    }
    for name, value in expected["fit"].items():
        assert found.fit[names.get(name, name)] == pytest.approx(value, abs=ITERATIVE, rel=1e-6), name
    table = found.parameters.set_index(["lhs", "op", "rhs"])
    for row in expected["params"]:
        ours = table.loc[(row["lhs"], row["op"], row["rhs"])]
        assert (ours["est"], ours["se"], ours["std"]) == pytest.approx(
            (row["est"], row["se"], row["std_all"]), abs=ITERATIVE
        )


def test_one_factor_models(scale):
    data, expected = scale.complete, scale.values["cfa1"]
    found = psychometrics.cfa(data, {"f": list(data)}, std_lv=True)
    loadings = found.parameters[found.parameters["op"] == "=~"].set_index("rhs")
    sign = np.sign(loadings["est"].sum())
    assert (sign * loadings["est"]).to_dict() == pytest.approx(expected["loadings_unstd"], abs=ITERATIVE)
    assert (sign * loadings["std"]).to_dict() == pytest.approx(expected["loadings_std"], abs=ITERATIVE)
    names = {"chisq": "chi2", "pvalue": "p", "rmsea.ci.lower": "rmsea_low", "rmsea.ci.upper": "rmsea_high"}
    for name, value in expected["fit"].items():
        assert found.fit[names.get(name, name)] == pytest.approx(value, abs=ITERATIVE, rel=1e-6), name


def test_gradient_and_information_are_those_of_the_likelihood():
    data = simple_structure(300, 0)
    model = parse({f"f{f}": [c for c in data if c.startswith(f"f{f}")] for f in range(3)})
    model["f0"].append("f1_0")  # a cross-loading
    structure = structure_of(model, list(data), orthogonal=False)
    cov = np.cov(data.T, bias=True)
    theta = covariance_structure.fit_ml(cov, structure).theta + 0.05
    gradient, information = covariance_structure._score(cov, structure, theta)
    step = 1e-5 * np.eye(len(theta))

    def discrepancy(t):
        return covariance_structure._discrepancy(cov, structure.implied(t))

    numeric = [(discrepancy(theta + s) - discrepancy(theta - s)) / 2e-5 for s in step]
    assert 2 * gradient == pytest.approx(np.array(numeric), abs=1e-6)
    inverse = np.linalg.inv(structure.implied(theta))
    slopes = [(structure.implied(theta + s) - structure.implied(theta - s)) / 2e-5 for s in step]
    traces = [[np.trace(inverse @ a @ inverse @ b) / 2 for b in slopes] for a in slopes]
    assert information == pytest.approx(np.array(traces), abs=1e-5)


def test_cfa_recovers_what_was_simulated():
    data = simple_structure(20_000, 1)
    found = psychometrics.cfa(
        data, "\n".join(f"f{f} =~ " + " + ".join(f"f{f}_{i}" for i in range(4)) for f in range(3))
    )
    std = found.parameters.set_index(["lhs", "op", "rhs"])["std"]
    assert std["f0", "=~", "f0_2"] == pytest.approx(0.7, abs=0.02)
    assert std["f0", "~~", "f1"] == pytest.approx(0.3, abs=0.03)
    assert found.fit["cfi"] > 0.998


def test_efa_recovers_what_was_simulated():
    found = psychometrics.efa(simple_structure(20_000, 2), 3)
    target = np.kron(np.eye(3), np.full((4, 1), 0.7))
    order, signs = align(found.loadings.to_numpy(), target)
    assert found.loadings.to_numpy()[:, order] * signs == pytest.approx(target, abs=0.03)
    assert (
        np.diagonal(psychometrics.congruence(found.loadings.to_numpy()[:, order] * signs, target)).min()
        > 0.99
    )


@given(st.integers(0, 2**32 - 1), st.integers(2, 4))
@settings(max_examples=20, deadline=None)
def test_rotations_keep_what_the_factors_explain(seed, m):
    loadings = np.random.default_rng(seed).normal(size=(10, m)) * 0.3
    for rotate in (varimax, oblimin):
        found = rotate(loadings)
        explained = found.loadings @ found.factor_correlations @ found.loadings.T
        assert explained == pytest.approx(loadings @ loadings.T, abs=1e-8)
        assert np.diagonal(found.factor_correlations) == pytest.approx(1)


def test_stacked_schmid_leiman_is_the_single_one():
    data = simple_structure(400, 3)
    start = schmid_leiman(data.corr().to_numpy(), 3)
    samples = [data.sample(frac=1, replace=True, random_state=s).corr().to_numpy() for s in range(4)]
    general, uniqueness = nearby_general(np.array(samples), start)
    for row, corr in enumerate(samples):
        alone = schmid_leiman(corr, 3)
        assert general[row] == pytest.approx(alone.general, abs=2e-3)
        assert uniqueness[row] == pytest.approx(alone.uniqueness, abs=2e-3)


def test_minres_reproduces_an_exact_factor_matrix():
    loadings = np.array([0.8, 0.7, 0.6, 0.5])
    corr = np.outer(loadings, loadings)
    np.fill_diagonal(corr, 1)
    assert np.abs(minres(corr, 1)[0][:, 0]) == pytest.approx(loadings, abs=1e-5)


# three traits by three methods; the people's are Campbell & Fiske 1959, table 1
TRAITS, METHODS = list("ABC") * 3, [1] * 3 + [2] * 3 + [3] * 3


def test_mtmm(golden):
    matrix = golden.table("multitrait_multimethod", index_col=0)
    expected = golden["mtmm"]
    found = psychometrics.mtmm(matrix, TRAITS, METHODS)
    assert found.reason == ""
    assert found.mean["convergent"] == pytest.approx(expected["mean_convergent"], abs=CLOSED_FORM)
    assert found.mean["hetero_mono"] == pytest.approx(
        expected["mean_hetero_trait_mono_method"], abs=CLOSED_FORM
    )
    assert found.mean["hetero_hetero"] == pytest.approx(
        expected["mean_hetero_trait_hetero_method"], abs=CLOSED_FORM
    )
    counts = found.table["kind"].value_counts()
    assert [counts[k] for k in ("convergent", "hetero_mono", "hetero_hetero")] == expected["n"]
    convergent = found.table[found.table["kind"] == "convergent"]
    assert sorted(convergent["r"]) == pytest.approx(sorted(expected["convergent"]))
    assert found.positive == (9, 9)
    second, third = expected["criterion2_convergent_gt_htHm"], expected["criterion3_convergent_gt_htMm"]
    assert found.over_hetero_hetero == (second["pass"], second["total"])
    assert found.over_hetero_mono == (third["pass"], third["total"])
    first = convergent[(convergent["trait_1"] == "A") & (convergent["method_2"] == 2)].iloc[0]
    assert first["disattenuated"] == pytest.approx(expected["disattenuated_A1A2"], abs=CLOSED_FORM)
    if golden.source == "simulated":  # computed there on the blocks' mean triangles, as here
        assert found.same_pattern == pytest.approx(expected["same_pattern"], abs=CLOSED_FORM)
    assert 0 < found.same_pattern <= 1


def test_mtmm_does_not_depend_on_the_order_of_the_variables(simulated):
    matrix = simulated.table("multitrait_multimethod", index_col=0).to_numpy()
    order = np.random.default_rng(0).permutation(9)
    first = psychometrics.mtmm(matrix, TRAITS, METHODS)
    second = psychometrics.mtmm(
        matrix[np.ix_(order, order)], [TRAITS[i] for i in order], [METHODS[i] for i in order]
    )
    assert second.mean == pytest.approx(first.mean)
    assert second[2:5] == first[2:5]
    assert second.same_pattern == pytest.approx(first.same_pattern)


def test_mtmm_tells_traits_from_methods():
    rng = np.random.default_rng(0)
    traits, methods = rng.normal(size=(2000, 3)), rng.normal(size=(2000, 2))
    noise = rng.normal(size=(2000, 6))
    by_trait = traits[:, [0, 1, 2, 0, 1, 2]] + 0.5 * noise
    by_method = methods[:, [0, 0, 0, 1, 1, 1]] + 0.5 * noise
    labels = (list("ABCABC"), [1, 1, 1, 2, 2, 2])
    good, bad = psychometrics.mtmm(by_trait, *labels), psychometrics.mtmm(by_method, *labels)
    assert good.positive == (3, 3)
    assert good.over_hetero_hetero.passed == good.over_hetero_hetero.total == 12
    assert good.over_hetero_mono.passed == good.over_hetero_mono.total == 12
    assert bad.over_hetero_mono.passed == 0
    assert bad.mean["convergent"] < 0.1 < bad.mean["hetero_mono"]


def test_criterion_correlation_with_its_interval(golden):
    expected = golden["correlation"]
    one, other = (golden.scale(name).mean(axis=1, skipna=False) for name in expected["scales"])
    found = psychometrics.criterion_correlation(one, {"other": other})["other"]
    assert found.n == expected["n"]
    assert found[:3] == pytest.approx([expected["r"], *expected["ci95"]], abs=CLOSED_FORM)


# Undefined, and never silent.


def test_a_constant_item_is_left_out_of_efa_and_named():
    data = simple_structure(200, 0).assign(same=3.0)
    found = psychometrics.efa(data, 3)
    assert "item 13" in found.reason
    assert "same" not in found.loadings.index


def test_a_heywood_case_is_flagged():
    # r12 r13 / r23 > 1: item 1 would need a loading above one
    corr = np.array([[1, 0.75, 0.75], [0.75, 1, 0.45], [0.75, 0.45, 1]])
    assert "Heywood" in psychometrics.efa(None, 1, correlation=corr, n=100).reason
    values, vectors = np.linalg.eigh(corr)
    data = np.random.default_rng(0).normal(size=(5000, 3)) @ (vectors * np.sqrt(values)).T
    found = psychometrics.cfa(pd.DataFrame(data, columns=["a", "b", "c"]), "f =~ a + b + c")
    assert found.improper
    assert "negative" in found.reason


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (pd.DataFrame(np.full((30, 4), 2.0), columns=list("abcd")), "same answers"),
        (pd.DataFrame(np.full((30, 4), np.nan), columns=list("abcd")), "fewer than 2 complete"),
        (simple_structure(3, 0, 1).set_axis(list("abcd"), axis=1), "too few"),
    ],
)
def test_undefined_factor_models(data, why):
    factor = psychometrics.efa(data, 1)
    assert why in factor.reason
    assert np.isnan(factor.loadings.to_numpy()).all()
    assert why in psychometrics.cfa(data, "f =~ a + b + c + d").reason
    assert np.isnan(psychometrics.kmo(data).overall)
    assert np.isnan(psychometrics.bartlett(data).chi2)
    assert np.isnan(psychometrics.velicer_map(data)).all()
    assert psychometrics.parallel_analysis(data).n_factors == -1


def test_unidentified_models_are_named():
    data = simple_structure(100, 0)
    for model in ("f =~ f0_0 + f0_1", "f =~ f0_0 + f0_1 + f0_2\ng =~ f1_0 + f1_1\nh =~ f2_0"):
        assert "not identified" in psychometrics.cfa(data, model).reason


def test_mtmm_of_one_constant_score():
    data = np.random.default_rng(0).normal(size=(50, 4))
    data[:, 2] = 1
    found = psychometrics.mtmm(data, list("ABAB"), [1, 1, 2, 2])
    assert "variable 3 does not vary" in found.reason
    assert found.over_hetero_mono.total == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: psychometrics.cfa(simple_structure(50, 0), "f =~ f0_0 + nothing"),
            "'nothing', which is no column",
        ),
        (lambda: psychometrics.cfa(simple_structure(50, 0), "f ~ f0_0"), "must read"),
        (lambda: psychometrics.cfa(simple_structure(50, 0), {"f": []}), "has no items"),
        (lambda: psychometrics.efa(simple_structure(50, 0), 0), "n_factors must lie"),
        (lambda: psychometrics.efa(simple_structure(50, 0), 2, "promax"), "rotation must be"),
        (lambda: psychometrics.efa(None, 2), "either responses or"),
        (lambda: psychometrics.mtmm(np.eye(4), list("ABA"), [1, 1, 2, 2]), "a trait and a method for each"),
        (lambda: psychometrics.mtmm(np.eye(4), list("AABB"), [1, 1, 2, 2]), "given twice"),
        (lambda: psychometrics.congruence(np.ones((3, 1)), np.ones((4, 1))), "same items"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
