"""The graded response model: how each ordered answer depends on a normal trait.

P(X ≥ c | θ) = 1 / (1 + exp(−a(θ − b_c))), a the discrimination, b₁ < b₂ < ... the thresholds.
Marginal maximum likelihood by the EM algorithm of Bock and Aitkin. Not covered: several traits, other
response models, guessing.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import optimize
from scipy.special import expit, logsumexp

from evals.psychometrics.estimate import as_matrix

QUADRATURE = np.linspace(-6, 6, 61)
MAX_ITERATIONS = 500
TOLERANCE = 1e-4


class GradedResponse(NamedTuple):
    """A fitted graded response model.

    Attributes:
      items: by item, discrimination and its standard error, and thresholds b1, b2, .. with se_b1, ..
        (NaN beyond an item's own). Items that do not vary have NaN.
      log_likelihood, aic, bic: of the answers given.
      traits: by person, trait (expected a posteriori), its standard error, and the items answered.
      reliability: marginal reliability 1 − mean posterior variance / total variance of the trait.
      n, converged, reason: persons with an answer; whether the EM converged; why it is undefined.
    """

    items: pd.DataFrame
    log_likelihood: float
    aic: float
    bic: float
    traits: pd.DataFrame
    reliability: float
    n: int
    converged: bool
    reason: str


def category_probabilities(
    theta: npt.ArrayLike, discrimination: float, thresholds: npt.ArrayLike
) -> np.ndarray:
    """P(X = c | θ), [points, categories], from the lowest answer to the highest.

    Args:
      theta: points on the trait, in standard deviations.
      discrimination: a, the slope.
      thresholds: b, ascending, one less than categories.
    Returns: probabilities that sum to 1 in each row.
    """
    cumulative = expit(discrimination * (np.asarray(theta, float)[:, None] - np.asarray(thresholds, float)))
    edges = np.column_stack([np.ones(len(cumulative)), cumulative, np.zeros(len(cumulative))])
    return edges[:, :-1] - edges[:, 1:]


def item_information(theta: npt.ArrayLike, discrimination: float, thresholds: npt.ArrayLike) -> np.ndarray:
    """Fisher information of one item about θ: Σ_c (∂P_c/∂θ)² / P_c.

    Args:
      theta: points on the trait, in standard deviations.
      discrimination: a, the slope.
      thresholds: b, ascending.
    Returns: information at each point.

    Reference: Samejima 1969, Psychometrika Monograph 17.
    """
    cumulative = expit(discrimination * (np.asarray(theta, float)[:, None] - np.asarray(thresholds, float)))
    slope = discrimination * cumulative * (1 - cumulative)
    none = np.zeros((len(cumulative), 1))
    change = np.hstack([none, slope]) - np.hstack([slope, none])
    probability = category_probabilities(theta, discrimination, thresholds)
    return (change**2 / np.maximum(probability, 1e-300)).sum(axis=1)


def graded_response(responses: npt.ArrayLike) -> GradedResponse:
    """Fits the graded response model to ordered answers by marginal maximum likelihood.

    P(X ≥ c | θ) = 1 / (1 + exp(−a(θ − b_c))).

    Args:
      responses: persons x items, NaN where missing (left out of the likelihood; persons without any
        answer do not count). Any ordered numbers; categories that nobody chose do not exist.
    Returns: GradedResponse; the trait is standard normal and points with the first item's majority, so
      that the sum of discriminations is positive. NaN with a reason where undefined.
    Raises: ValueError for responses that are not a table of finite numbers.
    Reference: Samejima 1969; Bock & Aitkin 1981, Psychometrika 46, 443-459.

    Example:
      >>> from evals.psychometrics import graded_response, simulate_responses
      >>> found = graded_response(simulate_responses(300, [0.7, 0.5, 0.8], options=3))
      >>> found.items[["discrimination", "b1", "b2"]].round(1)
            discrimination   b1   b2
      item
      0                2.1 -1.1  1.6
      1                1.5 -1.5  1.4
      2                2.4 -1.2  1.2
    """
    matrix = as_matrix(responses)
    names = list(responses.columns) if isinstance(responses, pd.DataFrame) else list(range(matrix.shape[1]))
    index = pd.Index(names, name="item")
    people = ~np.isnan(matrix).all(axis=1)
    answered = matrix[people]
    varying = np.array([len(np.unique(c[~np.isnan(c)])) > 1 for c in answered.T], bool)
    reason = ""
    if varying.sum() < 2:
        reason = f"fewer than 2 items vary (got {int(varying.sum())} of {matrix.shape[1]})"
    elif people.sum() < 10:
        reason = f"fewer than 10 persons (got {int(people.sum())})"
    elif np.ptp(np.nanmean(answered, axis=1)) == 0:
        reason = "no variance between persons"
    if reason:
        traits = pd.DataFrame({"trait": np.full(len(matrix), math.nan)})
        items = pd.DataFrame({"discrimination": math.nan}, index=index)
        return GradedResponse(
            items, math.nan, math.nan, math.nan, traits, math.nan, int(people.sum()), False, reason
        )
    codes = [_codes(column) for column in answered[:, varying].T]
    parameters, log_likelihood, posterior, converged = _em(codes)
    if sum(p[0] for p in parameters) < 0:
        parameters = [np.concatenate([[-p[0]], p[1:]]) for p in parameters]
        posterior = posterior[:, ::-1]
    errors = _standard_errors(codes, parameters, posterior)
    items = _item_table(index, varying, parameters, errors)
    n_parameters = sum(map(len, parameters))
    mean = posterior @ QUADRATURE
    variance = posterior @ QUADRATURE**2 - mean**2
    traits = pd.DataFrame({"trait": math.nan, "se": math.nan, "n_answered": 0}, index=range(len(matrix)))
    rows = np.flatnonzero(people)
    traits.loc[rows, "trait"], traits.loc[rows, "se"] = mean, np.sqrt(variance)
    traits["n_answered"] = (~np.isnan(matrix[:, varying])).sum(axis=1)
    n = int(people.sum())
    notes = [] if converged else ["the EM algorithm did not converge; the estimates must not be interpreted"]
    if not varying.all():
        notes.append(f"without {', '.join(str(x) for x in index[~varying])}, which did not vary")
    return GradedResponse(
        items,
        log_likelihood,
        2 * n_parameters - 2 * log_likelihood,
        math.log(n) * n_parameters - 2 * log_likelihood,
        traits,
        float(mean.var() / (mean.var() + variance.mean())),
        n,
        converged,
        "; ".join(notes),
    )


def _codes(column: np.ndarray) -> np.ndarray:
    """Categories 0, 1, .. of one item's answers, −1 where missing."""
    known = ~np.isnan(column)
    codes = np.full(len(column), -1)
    codes[known] = np.unique(column[known], return_inverse=True)[1]
    return codes


def _log_probabilities(parameters: np.ndarray) -> np.ndarray:
    """log P(X = c) at the quadrature points, of [a, intercepts −a b] kept as slope and ordered intercepts."""
    cumulative = expit(parameters[0] * QUADRATURE[:, None] + parameters[1:])
    edges = np.column_stack([np.ones(len(QUADRATURE)), cumulative, np.zeros(len(QUADRATURE))])
    return np.log(np.maximum(edges[:, :-1] - edges[:, 1:], 1e-300))


def _posterior(codes: list[np.ndarray], parameters: list[np.ndarray]) -> tuple[np.ndarray, float]:
    """Each person's weights on the quadrature points, and the log likelihood."""
    log_prior = -(QUADRATURE**2) / 2
    log_prior = log_prior - logsumexp(log_prior)
    joint = np.tile(log_prior, (len(codes[0]), 1))
    for code, item in zip(codes, parameters, strict=True):
        table = np.column_stack([_log_probabilities(item), np.zeros(len(QUADRATURE))])
        # the last column is for missing answers, whose code is −1
        joint += table.T[code]
    marginal = logsumexp(joint, axis=1)
    return np.exp(joint - marginal[:, None]), float(marginal.sum())


def _em(codes: list[np.ndarray]) -> tuple[list[np.ndarray], float, np.ndarray, bool]:
    parameters = []
    for code in codes:
        shares = np.bincount(code[code >= 0])[::-1].cumsum()[::-1][1:] / (code >= 0).sum()
        parameters.append(np.concatenate([[1.0], np.log(shares / (1 - shares))]))
    parameters = _with_signs(codes, parameters)
    for _ in range(MAX_ITERATIONS):
        posterior, _ = _posterior(codes, parameters)
        updated = [_maximize(posterior, code, item) for code, item in zip(codes, parameters, strict=True)]
        moved = max(np.abs(new - old).max() for new, old in zip(updated, parameters, strict=True))
        parameters = updated
        if moved < TOLERANCE:
            break
    posterior, log_likelihood = _posterior(codes, parameters)
    return parameters, log_likelihood, posterior, bool(moved < TOLERANCE)


def _with_signs(codes: list[np.ndarray], parameters: list[np.ndarray]) -> list[np.ndarray]:
    """Starting slopes, signed like each item's correlation with the sum of all."""
    scores = np.array([np.where(code >= 0, code, code[code >= 0].mean()) for code in codes])
    total = scores.sum(axis=0)
    for item, score in zip(parameters, scores, strict=True):
        item[0] *= 1.0 if np.cov(score, total)[0, 1] >= 0 else -1.0
    return parameters


def _maximize(posterior: np.ndarray, code: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The parameters of one item that maximize its expected log likelihood, intercepts kept in order."""
    n_categories = len(start)
    expected = np.stack([posterior[code == c].sum(axis=0) for c in range(n_categories)], axis=1)

    def objective(free: np.ndarray) -> tuple[float, np.ndarray]:
        # intercepts fall by exp(free): order without bounds
        gaps = np.exp(free[2:])
        intercepts = free[1] - np.concatenate([[0.0], np.cumsum(gaps)])
        cumulative = expit(free[0] * QUADRATURE[:, None] + intercepts)
        ones, zeros = np.ones((len(QUADRATURE), 1)), np.zeros((len(QUADRATURE), 1))
        probability = np.hstack([ones, cumulative]) - np.hstack([cumulative, zeros])
        probability = np.maximum(probability, 1e-300)
        weight = expected / probability
        by_intercept = (weight[:, 1:] - weight[:, :-1]) * cumulative * (1 - cumulative)
        total = by_intercept.sum(axis=0)
        tails = np.cumsum(total[::-1])[::-1]
        gradient = np.concatenate([[(by_intercept * QUADRATURE[:, None]).sum(), tails[0]], -tails[1:] * gaps])
        return -float((expected * np.log(probability)).sum()), -gradient

    gaps = np.maximum(-np.diff(start[1:]), 1e-6)
    free = np.concatenate([start[:2], np.log(gaps)])
    found = optimize.minimize(objective, free, jac=True, method="BFGS", options={"gtol": 1e-6})
    intercepts = found.x[1] - np.concatenate([[0.0], np.cumsum(np.exp(found.x[2:]))])
    return np.concatenate([found.x[:1], intercepts])


def _standard_errors(
    codes: list[np.ndarray], parameters: list[np.ndarray], posterior: np.ndarray
) -> list[np.ndarray]:
    """Standard errors of discrimination and thresholds, from the cross products of the persons' scores."""
    scores = []
    for code, item in zip(codes, parameters, strict=True):
        cumulative = expit(item[0] * QUADRATURE[:, None] + item[1:])
        slope = cumulative * (1 - cumulative)
        probability = np.exp(_log_probabilities(item))
        n_categories = probability.shape[1]
        # ∂ log P_c / ∂ intercept j, [points, categories, intercepts]
        derivative = np.zeros((len(QUADRATURE), n_categories, n_categories - 1))
        for j in range(n_categories - 1):
            derivative[:, j, j] = -slope[:, j] / probability[:, j]
            derivative[:, j + 1, j] = slope[:, j] / probability[:, j + 1]
        by_slope = derivative.sum(axis=2, keepdims=True) * QUADRATURE[:, None, None]
        table = np.concatenate([by_slope, derivative], axis=2)
        # a missing answer carries no information
        table = np.concatenate([table, np.zeros((len(QUADRATURE), 1, n_categories))], axis=1)
        scores.append(np.einsum("nq,qnp->np", posterior, table[:, code]))
    stacked = np.hstack(scores)
    covariance = np.linalg.pinv(stacked.T @ stacked)
    errors, start = [], 0
    for item in parameters:
        block = covariance[start : start + len(item), start : start + len(item)]
        # b = −intercept/a
        jacobian = np.vstack(
            [
                np.eye(len(item))[0],
                np.column_stack([item[1:] / item[0] ** 2, np.eye(len(item) - 1) / -item[0]]),
            ]
        )
        errors.append(np.sqrt(np.maximum(np.diagonal(jacobian @ block @ jacobian.T), 0)))
        start += len(item)
    return errors


def _item_table(
    index: pd.Index, varying: np.ndarray, parameters: list[np.ndarray], errors: list[np.ndarray]
) -> pd.DataFrame:
    most = max(len(item) for item in parameters) - 1
    rows = {}
    for name, item, error in zip(index[varying], parameters, errors, strict=True):
        row = {"discrimination": item[0], "se": error[0]}
        for j, (intercept, se) in enumerate(zip(item[1:], error[1:], strict=True), 1):
            row |= {f"b{j}": -intercept / item[0], f"se_b{j}": se}
        rows[name] = row
    columns = ["discrimination", "se", *(f"{kind}{j}" for kind in ("b", "se_b") for j in range(1, most + 1))]
    return pd.DataFrame.from_dict(rows, orient="index").reindex(index=index, columns=pd.Index(columns))
