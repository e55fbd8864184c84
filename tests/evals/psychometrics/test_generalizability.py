"""Variance components and D-studies against Brennan, lme4 and simulations."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.psychometrics import reml
from evals.psychometrics.agreement import icc
from evals.psychometrics.designs import code_table, parse_design
from evals.psychometrics.generalizability import d_study, variance_components
from evals.psychometrics.reml import fit_reml

CLOSED_FORM = 1e-8
REML = 2e-3
# Shrout & Fleiss 1979, table 2
SHROUT_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]


NESTED = ["Person", "Task", "Rater:Task"]


def crossed(shape: tuple[int, ...], seed: int, names: str = "piot") -> pd.DataFrame:
    """A crossed table with main effects and residuals of variance one."""
    rng = np.random.default_rng(seed)
    score = rng.normal(size=shape)
    for axis in range(len(shape)):
        score = score + rng.normal(size=[n if a == axis else 1 for a, n in enumerate(shape)])
    columns = dict(zip(names, (i.ravel() for i in np.indices(shape)), strict=False))
    return pd.DataFrame({**columns, "score": score.ravel()})


def test_nested_design(golden):
    expected = golden["gtheory_nested"]
    found = variance_components(golden.table("persons_by_raters_in_tasks"), NESTED, "ems")
    theirs = {
        "p": "Person",
        "t": "Task",
        "r_t": "Rater(Task)",
        "pt": "Person:Task",
        "pr_t": "Person:Rater(Task)",
    }
    for short, name in theirs.items():
        assert found.components[name] == pytest.approx(expected["anova_components"][short], abs=CLOSED_FORM)
    squares = {
        "Person": "Person",
        "Task": "Task",
        "RT": "Rater(Task)",
        "Person:Task": "Person:Task",
        "Residuals": "Person:Rater(Task)",
    }
    for short, name in squares.items():
        assert found.table.loc[name, "ms"] == pytest.approx(expected["mean_squares"][short], abs=CLOSED_FORM)
        assert found.table.loc[name, "df"] == expected["df"][short]
    for case in expected["dstudy"]:
        study = d_study(found, {"Task": case["n_t"], "Rater": case["n_r"]})
        assert study.relative_error == pytest.approx(case["rel_err"], abs=CLOSED_FORM)
        assert study.absolute_error == pytest.approx(case["abs_err"], abs=CLOSED_FORM)
        assert study.g.value == pytest.approx(case["Erho2"], abs=CLOSED_FORM)
        assert study.phi.value == pytest.approx(case["Phi"], abs=CLOSED_FORM)


def test_nested_design_by_reml(golden):
    expected = golden["gtheory_nested"]["lme4_reml"]
    found = variance_components(golden.table("persons_by_raters_in_tasks"), NESTED, "reml").components
    names = {"RT": "Rater(Task)", "Residual": "Person:Rater(Task)"}
    assert {k: found[names.get(k, k)] for k in expected} == pytest.approx(expected, abs=REML)


def test_three_facet_design(golden):
    expected = golden["gtheory_crossed"]
    found = variance_components(golden.table("persons_by_items_by_occasions"), ["p", "i", "o"])
    names = {"p": "p", "i": "i", "o": "o", "pi": "p:i", "po": "p:o", "io": "i:o", "pio_e": "p:i:o"}
    for short, name in names.items():
        row = found.table.loc[name]
        assert row["component"] == pytest.approx(
            expected["ems_components_untruncated"][short], abs=CLOSED_FORM
        )
        assert row["truncated"] == pytest.approx(expected["truncated_at_zero"][short], abs=CLOSED_FORM)
    for name, value in expected["MS"].items():
        assert found.table.loc[name, "ms"] == pytest.approx(value, abs=CLOSED_FORM)
    for case in expected["dstudy"]:
        study = d_study(found, {"i": case["n_i"], "o": case["n_o"]})
        assert study.relative_error == pytest.approx(case["rel_err"], abs=CLOSED_FORM)
        assert study.absolute_error == pytest.approx(case["abs_err"], abs=CLOSED_FORM)
        assert study.g.value == pytest.approx(case["Erho2"], abs=CLOSED_FORM)
        assert study.phi.value == pytest.approx(case["Phi"], abs=CLOSED_FORM)


def test_three_facet_design_by_reml(golden):
    # a component is negative in EMS, so that REML differs from it
    expected = golden["gtheory_crossed"]["lme4_reml"]
    found = variance_components(
        golden.table("persons_by_items_by_occasions"), ["p", "i", "o"], "reml"
    ).components
    assert {k: found[{"Residual": "p:i:o"}.get(k, k)] for k in expected} == pytest.approx(expected, abs=REML)


def test_persons_by_raters(golden):
    wide = pd.DataFrame(SHROUT_FLEISS)
    long = wide.rename_axis("p").reset_index().melt("p", var_name="r", value_name="score")
    expected = golden["gtheory_shrout_fleiss"]
    found = variance_components(long, ["p", "r"])
    for theirs, ours in (("p", "p"), ("r", "r"), ("pr_e", "p:r")):
        assert found.components[ours] == pytest.approx(expected[theirs], abs=CLOSED_FORM)
    study = d_study(found)
    assert study.g.value == pytest.approx(icc(wide, "ICC3k").value, abs=CLOSED_FORM)
    assert study.phi.value == pytest.approx(icc(wide, "ICC2k").value, abs=CLOSED_FORM)
    # the generalized interval of a ratio of two mean squares is that of the F distribution
    exact = icc(wide, "ICC3k")
    assert study.g.low == pytest.approx(exact.low, abs=0.02)
    assert study.g.high == pytest.approx(exact.high, abs=0.02)


@pytest.mark.parametrize(
    ("facets", "name", "occasions"), [(["p", "i", "o"], "lme4_reml", 4), (["p", "i"], "two_facets", 1)]
)
def test_unbalanced_designs_by_reml(simulated, facets, name, occasions):
    """Scores missing at regular places and, for some persons, whole items."""
    whole = simulated.table("persons_by_items_by_occasions")
    expected = simulated["gtheory_unbalanced"]
    data = whole.drop(index=expected["left_out"])
    assert len(data) == expected["n"]
    found = variance_components(data[data["o"] <= occasions][[*facets, "y"]], facets, "reml").components
    residual = ":".join(facets)
    theirs = {{"Residual": residual}.get(k, k): v for k, v in expected[name].items()}
    assert found == pytest.approx(theirs, abs=REML)


def test_general_reml_agrees_with_that_of_balanced_data(golden):
    for data, facets, score in (
        (crossed((6, 4, 3), 0), ["p", "i", "o"], "score"),
        (golden.table("persons_by_raters_in_tasks"), NESTED, "Score"),
    ):
        table = code_table(data, parse_design(facets), score)
        found = fit_reml(table.score, [table.codes[e] for e in table.design.effects[:-1]])
        balanced = variance_components(data, facets, "reml")
        assert found.components == pytest.approx(list(balanced.components.values()), abs=REML)


def test_reml_is_the_maximum_of_the_likelihood_written_out():
    # −2 log L with the N x N covariance, as it stands in the textbook
    data = crossed((8, 5), 0).sample(frac=0.7, random_state=1)
    found = np.array(list(variance_components(data, ["p", "i"], "reml").components.values()))
    z = [np.eye(8)[data["p"]], np.eye(5)[data["i"]]]
    y, one = data["score"].to_numpy(), np.ones(len(data))

    def deviance(s):
        v = s[0] * z[0] @ z[0].T + s[1] * z[1] @ z[1].T + s[2] * np.eye(len(y))
        inverse = np.linalg.inv(v)
        weight = one @ inverse @ one
        residual = y - (one @ inverse @ y) / weight
        return np.linalg.slogdet(v)[1] + np.log(weight) + residual @ inverse @ residual

    lowest = deviance(found)
    for step in itertools.product((-0.02, 0, 0.02), repeat=3):
        nearby = np.maximum(found + np.array(step), 1e-6)
        assert deviance(nearby) >= lowest - 1e-6


def test_gradient_of_the_likelihood():
    data = crossed((6, 5, 4), 2).sample(frac=0.8, random_state=0)
    table = code_table(data, parse_design(["p", "i", "o"]), "score")
    codes = [table.codes[e] for e in table.design.effects[:-1]]
    problem = reml._set_up(table.score, codes, [int(c.max()) + 1 for c in codes])
    rng = np.random.default_rng(0)
    for function, size in ((reml._profiled, len(codes)), (reml._deviance, len(codes) + 1)):
        at, steps = rng.random(size), 1e-6 * np.eye(size)
        numeric = [(function(problem, at + s)[0] - function(problem, at - s)[0]) / 2e-6 for s in steps]
        assert function(problem, at)[1] == pytest.approx(numeric, abs=1e-4)


def test_groups_of_unequal_size():
    # one effect alone: persons with 2 to 9 scores; the larger the share between, the larger the component
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(200), rng.integers(2, 10, 200))
    score = rng.normal(size=200)[person] + 0.5 * rng.normal(size=len(person))
    found = variance_components(pd.DataFrame({"p": person, "score": score}), ["p"], "reml")
    assert list(found.components) == ["p", "repeat(p)"]
    for name, truth in (("p", 1.0), ("repeat(p)", 0.25)):
        assert found.table.loc[name, "low"] < truth < found.table.loc[name, "high"]


@given(st.sampled_from([(5, 4), (4, 3, 3), (3, 3, 2, 2), (6, 2)]), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_sums_of_squares_add_up(shape, seed):
    data = crossed(shape, seed)
    table = variance_components(data, list("piot")[: len(shape)]).table
    total = ((data["score"] - data["score"].mean()) ** 2).sum()
    assert (table["df"] * table["ms"]).sum() == pytest.approx(total, rel=1e-9)
    assert table["df"].sum() == len(data) - 1


def test_components_are_recovered_from_a_large_crossed_and_nested_simulation():
    rng = np.random.default_rng(0)
    n_p, n_t, n_r = 300, 20, 6
    truth = {"p": 1.0, "t": 0.5, "p:t": 0.3, "r(t)": 0.4, "p:r(t)": 0.8}
    draw = {name: math.sqrt(v) for name, v in truth.items()}
    score = (
        draw["p"] * rng.normal(size=(n_p, 1, 1))
        + draw["t"] * rng.normal(size=(1, n_t, 1))
        + draw["p:t"] * rng.normal(size=(n_p, n_t, 1))
        + draw["r(t)"] * rng.normal(size=(1, n_t, n_r))
        + draw["p:r(t)"] * rng.normal(size=(n_p, n_t, n_r))
    )
    p, t, r = np.indices(score.shape)
    # raters numbered anew inside each task, or throughout: the nesting says which they are
    for raters in (r, r + n_r * t):
        data = pd.DataFrame({"p": p.ravel(), "t": t.ravel(), "r": raters.ravel(), "score": score.ravel()})
        found = variance_components(data, ["p", "t", "r:t"])
        assert list(found.table.index) == list(truth)
        for name, value in truth.items():
            row = found.table.loc[name]
            assert row["low"] < value < row["high"]
            assert row["low"] < row["component"] < row["high"]


def test_repeated_scores_of_a_cell_become_the_residual():
    once = crossed((6, 4), 1)
    again = once.assign(score=once["score"] + np.random.default_rng(2).normal(size=len(once)))
    found = variance_components(pd.concat([once, again]), ["p", "i"])
    assert list(found.table.index) == ["p", "i", "p:i", "repeat(p,i)"]
    within = pd.concat([once, again]).groupby(["p", "i"])["score"].var().mean()
    assert found.components["repeat(p,i)"] == pytest.approx(within)
    assert d_study(found, {"i": 4, "repeat": 100}).g.value > d_study(found, {"i": 4, "repeat": 1}).g.value


def test_fixed_facets_move_their_interaction_into_the_universe_score():
    found = variance_components(crossed((30, 5, 4), 3), ["p", "i", "o"])
    random, fixed = d_study(found), d_study(found, fixed=["i"])
    part = found.table["truncated"]
    assert fixed.universe == pytest.approx(part["p"] + part["p:i"] / 5)
    assert fixed.g.value >= random.g.value
    assert random.phi.value <= random.g.value


def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(5)
    truth, hits, runs = 1 / (1 + 1 / 5), 0, 100
    for _ in range(runs):
        score = rng.normal(size=(20, 1)) + rng.normal(size=(1, 5)) + rng.normal(size=(20, 5))
        p, i = np.indices(score.shape)
        data = pd.DataFrame({"p": p.ravel(), "i": i.ravel(), "score": score.ravel()})
        g = d_study(variance_components(data, ["p", "i"], seed=int(rng.integers(1e6)))).g
        hits += g.low <= truth <= g.high
    assert 87 <= hits <= 100  # binomial(100, .95): over .999


def test_unbalanced_data():
    data = crossed((30, 8), 6)
    data.loc[::7, "score"] = np.nan
    ems = variance_components(data, ["p", "i"])
    assert "unbalanced" in ems.reason
    assert ems.table["component"].isna().all()
    assert "unbalanced" in d_study(ems).g.reason
    reml = variance_components(data, ["p", "i"], "reml")
    assert reml.n_dropped == data["score"].isna().sum()
    assert reml.n == len(data) - reml.n_dropped
    assert reml.reason == ""
    for name in ("p", "i", "p:i"):
        assert reml.table.loc[name, "low"] <= reml.components[name] <= reml.table.loc[name, "high"]
    study = d_study(reml, {"i": 8})
    assert study.g.low < study.g.value < study.g.high


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (crossed((5, 4), 0).assign(score=3.0), "no variance"),
        (crossed((5, 1), 0), "one level"),
        (crossed((5, 4), 0).assign(score=np.nan), "fewer than 2 scores"),
        (crossed((5, 4), 0).iloc[:0], "fewer than 2 scores"),
    ],
)
@pytest.mark.parametrize("method", ["ems", "reml"])
def test_undefined(data, why, method):
    found = variance_components(data, ["p", "i"], method)
    assert why in found.reason
    assert found.table["component"].isna().all()
    study = d_study(found)
    assert math.isnan(study.g.value)
    assert why in study.phi.reason


def test_no_variance_between_persons_leaves_the_coefficients_undefined():
    data = crossed((6, 5), 0)
    data["score"] = data["i"] + (data["p"] + data["i"]) % 2
    found = variance_components(data, ["p", "i"])
    assert found.components["p"] <= 0
    assert "no variance between levels of 'p'" in d_study(found).g.reason


@pytest.mark.parametrize(
    ("facets", "message"),
    [
        (["p", "p"], "repeated"),
        (["p", "r:t"], "no other facet"),
        (["p", "x"], "no column 'x'"),
        ([], "1 to 5 facets"),
    ],
)
def test_bad_designs_are_named(facets, message):
    with pytest.raises(ValueError, match=message):
        variance_components(crossed((4, 3), 0), facets)


def test_bad_d_studies_are_named():
    found = variance_components(crossed((4, 3), 0), ["p", "i"])
    for call, message in (
        (lambda: d_study(found, {"x": 3}), "unknown facet 'x'"),
        (lambda: d_study(found, {"i": 0}), "at least 1"),
        (lambda: d_study(found, object_of_measurement="q"), "unknown object"),
        (lambda: variance_components(crossed((4, 3), 0), ["p", "i"], "ml"), "method must be"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
