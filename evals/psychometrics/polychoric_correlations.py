"""Polychoric correlations: how normal variables behind ordered categories would correlate.

Two steps: thresholds from each item's margin, then the correlation of each pair by maximum likelihood.
Not covered: joint estimation of thresholds, standard errors of single correlations.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize
from scipy.special import ndtr, ndtri

from evals.psychometrics.covariance import alpha_of
from evals.psychometrics.estimate import (
    Estimate,
    as_matrix,
    complete_cases,
    percentile_estimate,
    undefined,
    why_no_variance,
)

# Gauss-Legendre nodes on the correlation path of the bivariate normal distribution
NODES, WEIGHTS = np.polynomial.legendre.leggauss(32)
# beyond this, the table has an empty diagonal direction and the likelihood no interior maximum
LARGEST = 0.9999


class Polychoric(NamedTuple):
    """Correlations [k, k], thresholds of each item (as many as categories − 1), complete cases, reason."""

    correlations: np.ndarray
    thresholds: list[np.ndarray]
    n: int
    reason: str


def bivariate_normal_cdf(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    """Φ₂(x, y; r) elementwise, ±inf allowed.

    Φ₂ = Φ(x)Φ(y) + ∫₀^asin r exp(−(x² + y² − 2xy sin t)/(2 cos² t)) dt / 2π (Sheppard; Plackett).

    Args:
      x, y: of one shape.
      r: correlation, in (-1, 1).
    Returns: probabilities, of that shape.
    """
    inside = np.isfinite(x) & np.isfinite(y)
    u, v = np.where(inside, x, 0.0), np.where(inside, y, 0.0)
    angle = math.asin(r)
    t = angle * (NODES + 1) / 2
    sine, cosine = np.sin(t), np.cos(t)
    exponent = -(u[..., None] ** 2 + v[..., None] ** 2 - 2 * (u * v)[..., None] * sine) / (2 * cosine**2)
    integral = (np.exp(exponent) * WEIGHTS).sum(axis=-1) * angle / 2
    return ndtr(x) * ndtr(y) + np.where(inside, integral / (2 * math.pi), 0.0)


def _pair(table: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """The correlation that makes a contingency table most likely, given both margins' thresholds."""
    rows = np.concatenate([[-np.inf], first, [np.inf]])[:, None]
    columns = np.concatenate([[-np.inf], second, [np.inf]])[None, :]
    rows, columns = np.broadcast_arrays(rows, columns)
    seen = table > 0

    def minus_log_likelihood(r: float) -> float:
        cdf = bivariate_normal_cdf(rows, columns, r)
        cells = np.diff(np.diff(cdf, axis=0), axis=1)
        return -float((table[seen] * np.log(np.maximum(cells[seen], 1e-300))).sum())

    found = optimize.minimize_scalar(
        minus_log_likelihood, bounds=(-LARGEST, LARGEST), method="bounded", options={"xatol": 1e-8}
    )
    return float(found.x)


def polychoric(responses: npt.ArrayLike) -> Polychoric:
    """Polychoric correlations of items with few ordered answers.

    Thresholds Φ⁻¹ of each item's cumulative shares, then each pair's correlation by maximum likelihood.

    Args:
      responses: persons x items, NaN where missing (listwise deletion); any ordered numbers.
    Returns: Polychoric; NaN with a reason where an item does not vary or has over 30 different answers.
    Raises: ValueError for responses that are not a table of finite numbers.
    Reference: Olsson 1979, Psychometrika 44, 443-460 (the two-step estimator).

    Example:
      >>> from evals.psychometrics import polychoric, simulate_responses
      >>> answers = simulate_responses(500, [0.8, 0.8], options=3)
      >>> round(float(polychoric(answers).correlations[0, 1]), 2)
      0.64
    """
    matrix = as_matrix(responses)
    complete = complete_cases(matrix)
    n, k = complete.shape
    blank = np.full((k, k), math.nan)
    if reason := why_no_variance(complete, len(matrix)):
        return Polychoric(blank, [], n, reason)
    coded = [np.unique(column, return_inverse=True) for column in complete.T]
    categories = [len(values) for values, _ in coded]
    if min(categories) < 2:
        return Polychoric(blank, [], n, f"item {categories.index(min(categories)) + 1} does not vary")
    if max(categories) > 30:
        item = categories.index(max(categories)) + 1
        return Polychoric(blank, [], n, f"item {item} has {max(categories)} different answers, too many")
    thresholds = [ndtri(np.cumsum(np.bincount(codes))[:-1] / n) for _, codes in coded]
    corr = np.eye(k)
    for j in range(k):
        for i in range(j):
            table = np.zeros((categories[i], categories[j]))
            np.add.at(table, (coded[i][1], coded[j][1]), 1)
            corr[i, j] = corr[j, i] = _pair(table, thresholds[i], thresholds[j])
    return Polychoric(corr, thresholds, n, "")


def ordinal_alpha(
    responses: npt.ArrayLike, *, confidence: float = 0.95, n_bootstrap: int = 0, seed: int = 0
) -> Estimate:
    """Alpha from polychoric correlations: for the variables behind the answers, not for the score.

    Args:
      responses: persons x items, NaN where missing (listwise deletion); any ordered numbers.
      n_bootstrap: samples of persons for a percentile interval; each fits every pair anew (slow), so
        none are drawn unless asked for.
      confidence, seed: of that interval.
    Returns: Estimate, without an interval unless asked for.
    Raises: ValueError for responses that are not a table of finite numbers.
    Reference: Zumbo, Gadermann & Zeisser 2007, JMASM 6, 21-29.

    Example:
      >>> from evals.psychometrics import cronbach_alpha, ordinal_alpha, simulate_responses
      >>> answers = simulate_responses(500, [0.7, 0.7, 0.7], options=3)
      >>> round(cronbach_alpha(answers).value, 2), round(ordinal_alpha(answers).value, 2)
      (0.61, 0.72)
    """
    matrix = as_matrix(responses)
    found = polychoric(matrix)
    if found.reason:
        return undefined(found.reason, found.n)
    value = float(alpha_of(found.correlations))
    if not n_bootstrap:
        return Estimate(value, n=found.n, reason="no interval: n_bootstrap is 0")
    complete, rng = complete_cases(matrix), np.random.default_rng(seed)
    draws = []
    for _ in range(n_bootstrap):
        sample = polychoric(complete[rng.integers(0, found.n, found.n)])
        draws.append(math.nan if sample.reason else float(alpha_of(sample.correlations)))
    return percentile_estimate(value, np.array(draws), found.n, confidence=confidence)
