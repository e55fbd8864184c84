"""Rotation of factor loadings: varimax and direct oblimin, by gradient projection; congruence, alignment.

Written here because the packages that have it would bring in a whole statistics suite for sixty lines.
Not covered: target and bifactor rotations.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

MAX_ITERATIONS = 2000
GRADIENT_TOLERANCE = 1e-7


class Rotated(NamedTuple):
    """Rotated loadings A T⁻ᵀ [k, m], factor correlations T'T, T itself, and whether the search converged."""

    loadings: np.ndarray
    factor_correlations: np.ndarray
    transform: np.ndarray
    converged: bool


def varimax(loadings: np.ndarray, *, kaiser: bool = True) -> Rotated:
    """Orthogonal rotation that maximizes the variance of squared loadings within factors.

    Args:
      loadings: unrotated [k, m].
      kaiser: rows are scaled to length 1 for the search (Kaiser's normalization, the usual form).
    Returns: rotated loadings; the factors stay uncorrelated.
    Reference: Kaiser 1958; the iteration is the singular value form of Horst 1965.
    """
    k, m = loadings.shape
    if m < 2:
        return Rotated(loadings.copy(), np.eye(m), np.eye(m), True)
    length = np.sqrt((loadings**2).sum(axis=1)) if kaiser else np.ones(k)
    start = loadings / np.where(length > 0, length, 1)[:, None]
    rotation, previous, converged = np.eye(m), 0.0, False
    for _ in range(MAX_ITERATIONS):
        rotated = start @ rotation
        target = rotated**3 - rotated * (rotated**2).mean(axis=0)
        u, singular, vt = np.linalg.svd(start.T @ target)
        rotation = u @ vt
        if singular.sum() < previous * (1 + 1e-12):
            converged = True
            break
        previous = singular.sum()
    return Rotated(loadings @ rotation, np.eye(m), rotation, converged)


def oblimin(loadings: np.ndarray, *, gamma: float = 0.0) -> Rotated:
    """Oblique rotation that minimizes the covariation of squared loadings (γ = 0: quartimin).

    f = ¼ Σ_{j≠l} Σᵢ λ²ᵢⱼ λ²ᵢₗ for γ = 0, over loadings A T⁻ᵀ with the columns of T of length 1.

    Args: loadings: unrotated [k, m]; not normalized, as in GPArotation.
    Returns: Rotated(pattern loadings, factor correlations T'T, converged).
    Reference: Jennrich 2002, Psychometrika 67, 7-19; Bernaards & Jennrich 2005.
    """
    m = loadings.shape[1]
    if m < 2:
        return Rotated(loadings.copy(), np.eye(m), np.eye(m), True)

    def criterion(rotated: np.ndarray) -> tuple[float, np.ndarray]:
        squares = rotated**2
        others = squares @ (np.ones((m, m)) - np.eye(m))
        if gamma:
            others = others - gamma * others.mean(axis=0)
        return float((squares * others).sum() / 4), rotated * others

    transform, step, converged = np.eye(m), 1.0, False
    rotated = loadings @ np.linalg.inv(transform).T
    value, slope = criterion(rotated)
    for _ in range(MAX_ITERATIONS):
        gradient = -(rotated.T @ slope @ np.linalg.inv(transform)).T
        projected = gradient - transform * (transform * gradient).sum(axis=0)
        size = np.linalg.norm(projected)
        if size < GRADIENT_TOLERANCE:
            converged = True
            break
        step *= 2
        for _ in range(40):
            trial = transform - step * projected
            trial /= np.linalg.norm(trial, axis=0)
            candidate = loadings @ np.linalg.inv(trial).T
            new_value, new_slope = criterion(candidate)
            if new_value < value - 0.5 * size**2 * step:
                break
            step /= 2
        else:
            # no descent that floats can resolve
            converged = bool(size < 1e-5)
            break
        transform, rotated, value, slope = trial, candidate, new_value, new_slope
    return Rotated(rotated, transform.T @ transform, transform, converged)


def congruence(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Tucker's congruence of each column of one loading matrix with each of another.

    φ = Σ a b / √(Σ a² Σ b²); 0.95 counts as the same factor.

    Args:
      first, second: loadings of the same items, items x factors.
    Returns: [m1, m2]; NaN for a column of zeros.
    Raises: ValueError for loadings of different items.
    Reference: Lorenzo-Seva & ten Berge 2006, Methodology 2, 57-64.

    Example:
      >>> from evals.psychometrics import congruence
      >>> congruence([[0.8, 0.1], [0.7, 0.0], [0.1, 0.6]], [[0.7, 0.2], [0.8, 0.1], [0.0, 0.5]]).round(3)
      array([[0.987, 0.479],
             [0.108, 0.96 ]])
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second):
        raise ValueError(
            f"congruence compares loadings of the same items; got {first.shape} and {second.shape}"
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        return (first.T @ second) / np.outer(np.linalg.norm(first, axis=0), np.linalg.norm(second, axis=0))


def align(loadings: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order and signs of columns that make loadings most like a target.

    Args:
      loadings: [k, m].
      target: [k, m].

    Returns: (order, signs) with loadings[:, order] * signs ≈ target.
    """
    similarity = np.nan_to_num(congruence(target, loadings))
    rows, order = linear_sum_assignment(-np.abs(similarity))
    return order, np.where(similarity[rows, order] < 0, -1.0, 1.0)
