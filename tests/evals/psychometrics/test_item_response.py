"""Polychoric correlations against psych; the graded response model on simulated answers."""

import math

import numpy as np
import pytest
from scipy import stats

from evals import psychometrics
from evals.psychometrics import item_response, polychoric_correlations

ITERATIVE = 1e-3


def graded(n: int, discrimination: list[float], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Answers 1..5 of n normal persons, their traits, and the items' thresholds."""
    rng = np.random.default_rng(seed)
    trait = rng.normal(size=(n, 1, 1))
    a = np.array(discrimination)
    b = np.linspace(-1.5, 1.5, 4) + np.linspace(-0.5, 0.5, len(a))[:, None]
    above = rng.random((n, len(a), 1)) < 1 / (1 + np.exp(-a[:, None] * (trait - b)))
    return above.sum(axis=2) + 1.0, trait.ravel(), b


def test_polychoric_correlations(golden):
    expected = golden["polychoric"]
    turned = golden.scale(expected["scale"])
    data = golden.raw[turned.columns].dropna()
    found = psychometrics.polychoric(data)
    assert found.n == expected["n"]
    assert found.correlations == pytest.approx(np.array(expected["rho"]["values"]), abs=ITERATIVE)
    assert np.array(found.thresholds) == pytest.approx(np.array(expected["tau"]["values"]), abs=1e-8)
    alpha = psychometrics.ordinal_alpha(turned.dropna())
    assert alpha.value == pytest.approx(expected["ordinal_alpha"], abs=ITERATIVE)


@pytest.mark.parametrize("r", [-0.95, -0.3, 0.0, 0.5, 0.99])
def test_bivariate_normal_distribution(r):
    x, y = np.array([-1.0, 0.0, 0.7, np.inf, -np.inf, 2.0]), np.array([0.5, 0.0, -2.0, 1.0, 0.0, np.inf])
    expected = [
        stats.norm.cdf(b)
        if a == np.inf
        else stats.norm.cdf(a)
        if b == np.inf
        else 0.0
        if a == -np.inf
        else stats.multivariate_normal.cdf([a, b], cov=[[1, r], [r, 1]])
        for a, b in zip(x, y, strict=True)
    ]
    # scipy integrates to 1e-5 by default, more finely in two dimensions
    assert polychoric_correlations.bivariate_normal_cdf(x, y, r) == pytest.approx(expected, abs=1e-7)


def test_polychoric_sees_through_the_categories():
    rng = np.random.default_rng(0)
    latent = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 20_000)
    answers = np.digitize(latent, [-1.5, -1.0, 0.8])
    assert np.corrcoef(answers.T)[0, 1] < 0.53
    assert psychometrics.polychoric(answers).correlations[0, 1] == pytest.approx(0.6, abs=0.02)


def test_ordinal_alpha_bootstrap():
    data, _, _ = graded(150, [1.5, 1.5, 1.5], 0)
    found = psychometrics.ordinal_alpha(data, n_bootstrap=20)
    assert found.low < found.value < found.high


def test_graded_response_recovers_its_parameters():
    discrimination = [0.8, 1.2, 2.0, 1.5, 1.0]
    answers, trait, thresholds = graded(3000, discrimination, 1)
    found = item_response.graded_response(answers)
    assert found.converged
    assert found.reason == ""
    errors = (found.items["discrimination"] - discrimination) / found.items["se"]
    assert np.abs(errors).max() < 3.5
    b = found.items[["b1", "b2", "b3", "b4"]].to_numpy()
    se = found.items[["se_b1", "se_b2", "se_b3", "se_b4"]].to_numpy()
    assert np.abs((b - thresholds) / se).max() < 3.8
    assert np.corrcoef(found.traits["trait"], trait)[0, 1] ** 2 == pytest.approx(found.reliability, abs=0.03)
    # the likelihood at the estimate is no lower than at the truth
    codes = [item_response._codes(c) for c in answers.T]
    truth = [np.concatenate([[a], -a * t]) for a, t in zip(discrimination, thresholds, strict=True)]
    assert found.log_likelihood >= item_response._posterior(codes, truth)[1]


def test_two_categories_are_the_logistic_model():
    theta = np.array([-1.0, 0.0, 2.0])
    p = item_response.category_probabilities(theta, 1.3, [0.5])
    assert p[:, 1] == pytest.approx(1 / (1 + np.exp(-1.3 * (theta - 0.5))))
    # whose information is a² p (1 − p)
    information = item_response.item_information(theta, 1.3, [0.5])
    assert information == pytest.approx(1.3**2 * p[:, 1] * p[:, 0])


def test_missing_answers_and_reversed_items():
    answers, trait, _ = graded(1500, [1.5, 1.5, 1.5, 1.5], 2)
    whole = item_response.graded_response(answers)
    answers[np.random.default_rng(3).random(answers.shape) < 0.2] = np.nan
    answers[0] = np.nan
    found = item_response.graded_response(answers)
    assert found.n == 1500 - np.isnan(answers).all(axis=1).sum()
    assert math.isnan(found.traits.loc[0, "trait"])
    assert found.items["discrimination"].to_numpy() == pytest.approx(whole.items["discrimination"], abs=0.35)
    assert found.traits["se"].mean() > whole.traits["se"].mean()
    turned = answers.copy()
    turned[:, 0] = 6 - turned[:, 0]
    reverse = item_response.graded_response(turned)
    assert reverse.items["discrimination"][0] == pytest.approx(-found.items["discrimination"][0], abs=0.02)
    known = reverse.traits["trait"].notna()
    assert np.corrcoef(reverse.traits["trait"][known], trait[known])[0, 1] > 0.8


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (np.full((40, 3), 2.0), "fewer than 2 items vary"),
        (np.full((40, 3), np.nan), "fewer than 2 items vary"),
        (graded(5, [1.0, 1.0], 0)[0], "fewer than 10 persons"),
        (graded(40, [1.0], 0)[0], "fewer than 2 items vary"),
        (np.array([[1.0, 2.0], [2.0, 1.0]] * 10), "no variance between persons"),
    ],
)
def test_undefined(data, why):
    found = item_response.graded_response(data)
    assert why in found.reason
    assert math.isnan(found.log_likelihood)
    assert math.isnan(found.reliability)


def test_undefined_polychoric():
    constant = np.column_stack([np.arange(20.0) % 3, np.full(20, 2.0)])
    assert "item 2 does not vary" in psychometrics.polychoric(constant).reason
    assert math.isnan(psychometrics.ordinal_alpha(constant).value)
    assert "too many" in psychometrics.polychoric(np.random.default_rng(0).normal(size=(50, 2))).reason
