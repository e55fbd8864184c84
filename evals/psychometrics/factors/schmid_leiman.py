"""Higher-order factor solutions: a general factor over correlated ones, for a sample or its bootstrap.

Not covered: bifactor rotations, and the coefficients made of the loadings (omega).
"""

from typing import NamedTuple

import numpy as np

from evals.psychometrics.covariance import small_matrices
from evals.psychometrics.factors.factor_analysis import LEAST_UNIQUENESS, minres
from evals.psychometrics.factors.rotation import oblimin

# a bootstrap sample's solution is near the whole sample's, from which the search starts
STACK_ITERATIONS = 300
STACK_TOLERANCE = 1e-5


class SchmidLeiman(NamedTuple):
    """General and group loadings of a higher-order solution, and where a nearby one may start.

    Attributes:
      general [k], group [k, m], uniqueness [k]; converged.
      unrotated [k, m], transform [m, m], second_order [m]: minres loadings, oblimin's T, and loadings of
        the group factors on the general one.
    """

    general: np.ndarray
    group: np.ndarray
    uniqueness: np.ndarray
    converged: bool
    unrotated: np.ndarray
    transform: np.ndarray
    second_order: np.ndarray


@small_matrices()
def schmid_leiman(corr: np.ndarray, n_factors: int = 3) -> SchmidLeiman:
    """Minres factors, rotated by oblimin, and a general factor of their correlations.

    With pattern P, factor correlations Φ and their loadings γ on one general factor, items load Pγ on
    the general and P √(1 − γ²) on the group factors. Two factors do not determine γ: it is √φ for both.

    Args:
      corr: [k, k].
      n_factors: group factors, at least 2.
    Returns: general and group loadings, uniquenesses.
    Reference: Schmid & Leiman 1957, Psychometrika 22, 53-61.
    """
    loadings, converged = minres(corr, n_factors)
    loadings = loadings * np.where(loadings.sum(axis=0) < 0, -1.0, 1.0)
    if n_factors == 1:
        general, one = loadings[:, 0], np.ones((1, 1))
        nothing = np.zeros((len(corr), 1))
        return SchmidLeiman(general, nothing, 1 - general**2, converged, loadings, one, np.ones(1))
    pattern, phi, transform, turned = oblimin(loadings)
    # factors point to where their items load
    signs = np.where(pattern.sum(axis=0) < 0, -1.0, 1.0)
    pattern, phi, transform = pattern * signs, phi * np.outer(signs, signs), transform * signs
    if n_factors == 2:
        gamma = np.sqrt(np.abs(phi[0, 1])) * np.array([1.0, np.sign(phi[0, 1])])
    else:
        gamma = minres(phi, 1)[0][:, 0]
        gamma = gamma if gamma.sum() >= 0 else -gamma
    group = pattern * np.sqrt(np.maximum(1 - gamma**2, 0))
    communality = (loadings**2).sum(axis=1)
    return SchmidLeiman(
        pattern @ gamma, group, 1 - communality, converged and turned, loadings, transform, gamma
    )


def nearby_general(corr: np.ndarray, start: SchmidLeiman) -> tuple[np.ndarray, np.ndarray]:
    """General loadings and uniquenesses [b, k] of correlations [b, k, k] like those that start solves.

    All samples are iterated together, from the given solution. NaN where a sample has no correlations.

    Args:
      corr: of b samples, such as a bootstrap's.
      start: the solution of the whole sample.
    Returns: general loadings and uniquenesses.
    """
    usable = np.isfinite(corr).all(axis=(1, 2))
    general, uniqueness = (np.full(corr.shape[:2], np.nan) for _ in range(2))
    sound = corr[usable]
    loadings = _stacked_minres(sound, start.unrotated)
    uniqueness[usable] = 1 - (loadings**2).sum(axis=2)
    m = start.unrotated.shape[1]
    if m == 1:
        general[usable] = loadings[:, :, 0]
        return general, uniqueness
    pattern, phi = _stacked_oblimin(loadings, start.transform)
    if m == 2:
        root = np.sqrt(np.abs(phi[:, 0, 1]))
        gamma = np.stack([root, root * np.sign(phi[:, 0, 1])], axis=1)
    else:
        gamma = _stacked_minres(phi, start.second_order[:, None])[:, :, 0]
    general[usable] = np.einsum("bkm,bm->bk", pattern, gamma)
    return general, uniqueness


def _stacked_minres(corr: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Minres loadings [b, k, m] by principal axes: loadings for uniquenesses, uniquenesses for loadings.

    The axes are not found anew each time: with Q an orthonormal basis of the last loadings and Y = (R − Ψ)Q,
    Y (Q'Y)^{-1/2} has the same limit, costs one product, and stays close to the last basis.
    """
    loadings = np.broadcast_to(start, (len(corr), *start.shape)).copy()
    for _ in range(STACK_ITERATIONS):
        unique = np.clip(1 - (loadings**2).sum(axis=2), LEAST_UNIQUENESS, 1)
        basis = loadings @ _inverse_root(loadings.transpose(0, 2, 1) @ loadings)
        product = corr @ basis - unique[:, :, None] * basis
        updated = product @ _inverse_root(basis.transpose(0, 2, 1) @ product)
        moved = np.abs(updated - loadings).max(initial=0)
        loadings = updated
        if moved < STACK_TOLERANCE:
            break
    return loadings


def _inverse_root(symmetric: np.ndarray) -> np.ndarray:
    """S^{-1/2} of positive definite [b, m, m]."""
    if symmetric.shape[-1] == 1:
        return 1 / np.sqrt(np.maximum(symmetric, 1e-12))
    values, vectors = np.linalg.eigh((symmetric + symmetric.transpose(0, 2, 1)) / 2)
    return (vectors / np.sqrt(np.maximum(values, 1e-12))[:, None, :]) @ vectors.transpose(0, 2, 1)


def _stacked_oblimin(loadings: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Oblimin (γ = 0) of a stack, as rotation.oblimin: patterns [b, k, m] and factor correlations."""
    m = loadings.shape[2]
    others = np.ones((m, m)) - np.eye(m)

    def evaluate(transform: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        inverse = np.linalg.inv(transform)
        rotated = loadings[active] @ inverse.transpose(0, 2, 1)
        partner = (rotated**2) @ others
        value = (rotated**2 * partner).sum(axis=(1, 2)) / 4
        gradient = -(rotated.transpose(0, 2, 1) @ (rotated * partner) @ inverse).transpose(0, 2, 1)
        radial = (transform * gradient).sum(axis=1, keepdims=True)
        return value, gradient - transform * radial, rotated

    transform = np.broadcast_to(start, (len(loadings), m, m)).copy()
    step = np.ones(len(loadings))
    active = np.arange(len(loadings))
    value, slope, _ = evaluate(transform)
    for _ in range(STACK_ITERATIONS):
        size = (slope**2).sum(axis=(1, 2))
        active = active[size[active] > STACK_TOLERANCE**2]
        if not len(active):
            break
        trial = transform[active] - step[active, None, None] * slope[active]
        trial /= np.linalg.norm(trial, axis=1, keepdims=True)
        new_value, new_slope, _ = evaluate(trial)
        better = new_value < value[active] - 0.5 * size[active] * step[active]
        chosen = active[better]
        transform[chosen], value[chosen], slope[chosen] = trial[better], new_value[better], new_slope[better]
        step[active] *= np.where(better, 2.0, 0.25)
        active = active[step[active] > 1e-10]
    inverse = np.linalg.inv(transform)
    return loadings @ inverse.transpose(0, 2, 1), transform.transpose(0, 2, 1) @ transform
