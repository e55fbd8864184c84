"""McDonald's omega: the share of a score's variance due to all common factors, or to the general one.

Not covered: alpha and Guttman's bounds (reliability).
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

from evals.psychometrics.covariance import bootstrap, correlations, covariance, varying_items
from evals.psychometrics.estimate import (
    Estimate,
    as_matrix,
    complete_cases,
    percentile_estimate,
    undefined,
    why_no_variance,
    z_critical,
)
from evals.psychometrics.factors.covariance_structure import Structure, fit_ml
from evals.psychometrics.factors.factor_analysis import LEAST_UNIQUENESS
from evals.psychometrics.factors.schmid_leiman import SchmidLeiman, nearby_general, schmid_leiman
from evals.psychometrics.sample_size import why_no_inverse

OmegaKind = Literal["total", "hierarchical", "asymptotic"]


def omega(
    responses: npt.ArrayLike,
    kind: OmegaKind = "total",
    *,
    n_factors: int | None = None,
    standardized: bool = False,
    flip: bool = False,
    confidence: float = 0.95,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> Estimate:
    """McDonald's omega of a scale: the share of the score's variance due to common factors.

    total, one factor (the default): ω = (Σλ)² / ((Σλ)² + Σθ) of a maximum likelihood one-factor model;
      its interval is by the delta method.
    total, several factors: ω = 1 − Σu² / ΣR with uniquenesses of minres factors.
    hierarchical: ω_h = (Σg)² / ΣR, g the loadings on the general factor of a Schmid-Leiman solution.
    asymptotic: ω_h / ω_total, what ω_h would be for infinitely many items.
      These have percentile bootstrap intervals over persons.

    Args:
      responses: persons x items in the direction of the scale, NaN where missing (listwise deletion).
      kind: which of the above.
      n_factors: group factors; 1 for total and 3 for the others unless given. Five items hardly support
        three: expect programs to differ by ±.02 there.
      standardized: fit the one-factor model to correlations instead of covariances.
      flip: reverses items that load negatively on the general factor, as psych::omega does.
      confidence, n_bootstrap, seed: of the intervals.
    Returns: Estimate; NaN with a reason where undefined; a Heywood case is named in the reason.
    Raises: ValueError for an unknown kind or fewer than 1 factor.
    Reference: McDonald 1999; Zinbarg, Revelle, Yovel & Li 2005, Psychometrika 70, 123-133.

    Example:
      >>> from evals.psychometrics import omega, simulate_responses
      >>> print(omega(simulate_responses(200, [0.7, 0.6, 0.5, 0.8])))
      0.724 [0.663, 0.786], n = 200
    """
    if kind not in ("total", "hierarchical", "asymptotic"):
        raise ValueError(f'kind must be "total", "hierarchical" or "asymptotic"; got {kind!r}')
    m = n_factors if n_factors is not None else (1 if kind == "total" else 3)
    if m < 1:
        raise ValueError(f"n_factors must be at least 1; got {m}")
    matrix = as_matrix(responses)
    complete = complete_cases(matrix)
    n = len(complete)
    reason, note = why_no_variance(complete, len(matrix)), ""
    if not reason:
        complete, note = varying_items(complete)
        k = complete.shape[1]
        if k < max(3, m + 1):
            reason = f"needs at least {max(3, m + 1)} items that vary for {m} factors (got {k})"
        elif n <= k or np.linalg.matrix_rank(correlations(covariance(complete))) < k:
            reason = why_no_inverse(n, k)
    if reason:
        return undefined(reason, n)
    if kind == "total" and m == 1:
        return _one_factor(complete, standardized, confidence, note)
    corr = correlations(covariance(complete))
    solution = schmid_leiman(corr, m)
    if flip and (solution.general < 0).any():
        complete = complete * np.where(solution.general < 0, -1.0, 1.0)
        corr = correlations(covariance(complete))
        solution = schmid_leiman(corr, m)
    value = float(_coefficient(corr[None], solution.general[None], solution.uniqueness[None], kind)[0])
    if not solution.converged or math.isnan(value):
        return undefined("the factor solution did not converge", n)

    def coefficient(stack: np.ndarray) -> np.ndarray:
        stack = correlations(stack)
        return _coefficient(stack, *nearby_general(stack, solution), kind)

    draws = bootstrap(complete, coefficient, n_bootstrap=n_bootstrap, seed=seed)
    found = percentile_estimate(value, draws, n, confidence=confidence)
    return found._replace(reason="; ".join(filter(None, (note, found.reason, _heywood(solution)))))


def _coefficient(
    corr: np.ndarray, general: np.ndarray, uniqueness: np.ndarray, kind: OmegaKind
) -> np.ndarray:
    """The coefficient of each solution in a stack."""
    total_variance = corr.sum(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        total_variance = np.where(total_variance > 1e-12 * corr.shape[1], total_variance, np.nan)
        hierarchical = general.sum(axis=1) ** 2 / total_variance
        total = 1 - uniqueness.sum(axis=1) / total_variance
        return {"total": total, "hierarchical": hierarchical, "asymptotic": hierarchical / total}[kind]


def omega_of_stack(complete: np.ndarray, n_factors: int) -> Callable[[np.ndarray], list[np.ndarray]]:
    """A function of correlations [b, k, k] near those of complete responses: ω_total and ω_h, [b] each.

    NaN where the responses have too few items or persons for the factors.

    Args:
      complete: responses [persons, items] without gaps.
      n_factors: group factors.
    Returns: the function, for a bootstrap's samples.
    """
    n, k = complete.shape
    if k < max(3, n_factors + 1) or n <= k or not np.isfinite(correlations(covariance(complete))).all():
        return lambda corr: [np.full(len(corr), math.nan)] * 2
    solution = schmid_leiman(correlations(covariance(complete)), n_factors)
    if not solution.converged:
        return lambda corr: [np.full(len(corr), math.nan)] * 2

    def both(corr: np.ndarray) -> list[np.ndarray]:
        general, uniqueness = nearby_general(corr, solution)
        return [_coefficient(corr, general, uniqueness, kind) for kind in ("total", "hierarchical")]

    return both


def _heywood(solution: SchmidLeiman) -> str:
    bound = solution.uniqueness.min() < 1.2 * LEAST_UNIQUENESS
    return "Heywood case: an item is explained entirely; use fewer factors" if bound else ""


def one_factor_structure(k: int) -> Structure:
    """All k items on one factor."""
    none = np.array([], int)
    return Structure(np.arange(k), np.zeros(k, int), none, none, k, 1)


def _one_factor(complete: np.ndarray, standardized: bool, confidence: float, note: str) -> Estimate:
    n, k = complete.shape
    cov = covariance(complete) * (n - 1) / n
    # the model is scale-free, so correlations only change which sum is taken
    found = fit_ml(correlations(cov) if standardized else cov, one_factor_structure(k))
    if not found.converged or not found.identified:
        return undefined("the one-factor model did not converge", n)
    loadings, residual = found.theta[:k], found.theta[k:]
    shared, unique = loadings.sum() ** 2, residual.sum()
    if shared + unique <= 0:
        return undefined("the one-factor model gives the score no variance", n)
    value = shared / (shared + unique)
    slope = (
        np.concatenate([np.full(k, 2 * loadings.sum() * unique), np.full(k, -shared)])
        / (shared + unique) ** 2
    )
    se = math.sqrt(max(float(slope @ np.linalg.solve(found.information, slope)) / n, 0))
    half = z_critical(confidence) * se
    heywood = "Heywood case: a negative residual variance" if (residual < 0).any() else ""
    reason = "; ".join(filter(None, (note, heywood)))
    return Estimate(float(value), float(value - half), float(value + half), n, reason)
