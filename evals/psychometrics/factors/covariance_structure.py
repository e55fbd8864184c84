"""Maximum likelihood for factor models of covariances, Σ = ΛΦΛ' + Θ, by Fisher scoring.

Not covered: reading models and judging their fit (cfa).
"""

import math
from typing import NamedTuple

import numpy as np

from evals.psychometrics.covariance import small_matrices

MAX_ITERATIONS = 200
GRADIENT_TOLERANCE = 1e-8
# condition of the information beyond which parameters cannot be told apart
SINGULAR = 1e10


class Structure(NamedTuple):
    """Which of the parameters are free, in the order loadings, residual variances, factor covariances."""

    loading_items: np.ndarray
    loading_factors: np.ndarray
    cov_first: np.ndarray
    cov_second: np.ndarray
    k: int
    m: int

    def split(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Λ [k, m], residual variances [k] and Φ [m, m] (variances 1) of a parameter vector."""
        n_loadings = len(self.loading_items)
        loadings = np.zeros((self.k, self.m))
        loadings[self.loading_items, self.loading_factors] = theta[:n_loadings]
        phi = np.eye(self.m)
        tail = theta[n_loadings + self.k :]
        phi[self.cov_first, self.cov_second] = tail
        phi[self.cov_second, self.cov_first] = tail
        return loadings, theta[n_loadings : n_loadings + self.k], phi

    def implied(self, theta: np.ndarray) -> np.ndarray:
        """Σ = Λ Φ Λ' + Θ."""
        loadings, residual, phi = self.split(theta)
        return loadings @ phi @ loadings.T + np.diag(residual)


class MaximumLikelihood(NamedTuple):
    """Estimates, the information of one respondent, and whether the search converged."""

    theta: np.ndarray
    information: np.ndarray
    converged: bool

    @property
    def identified(self) -> bool:
        """Whether every parameter has information of its own, judged on a scale without units."""
        size = np.sqrt(np.diagonal(self.information))
        if not (size > 0).all():
            return False
        return bool(np.linalg.cond(self.information / np.outer(size, size)) < SINGULAR)


@small_matrices()
def fit_ml(cov: np.ndarray, structure: Structure) -> MaximumLikelihood:
    """Fisher scoring on F = ln|Σ| + tr SΣ⁻¹ − ln|S| − k; information for one respondent.

    ∂F/∂θₐ = tr Σ⁻¹(Σ − S)Σ⁻¹Σₐ;   information Iₐᵦ = ½ tr Σ⁻¹ΣₐΣ⁻¹Σᵦ.

    Args:
      cov: S [k, k].
      structure: which parameters are free.
    Returns: estimates, their information, and whether the search converged.
    """
    theta = _start(cov, structure)
    value, converged = _discrepancy(cov, structure.implied(theta)), False
    information = np.eye(len(theta))
    for _ in range(MAX_ITERATIONS):
        gradient, information = _score(cov, structure, theta)
        step = np.linalg.lstsq(information, gradient, rcond=None)[0]
        decrement = float(gradient @ step)
        if decrement < GRADIENT_TOLERANCE**2 * max(1.0, abs(value)):
            converged = True
            break
        length = 1.0
        while length > 1e-8:
            trial = theta - length * step
            trial_value = _discrepancy(cov, structure.implied(trial))
            if trial_value < value - 1e-4 * length * decrement:
                break
            length /= 2
        else:
            converged = decrement < 1e-10
            break
        theta, value = trial, trial_value
    return MaximumLikelihood(theta, information, converged)


def _score(cov: np.ndarray, structure: Structure, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Half the gradient of F, and the expected information of one respondent.

    Every Σₐ is a product of few vectors, so the traces need no k x k matrix for each parameter: with
    A = Σ⁻¹, C = ΛΦ, B = AC, D = AΛ, and loadings λᵢₚ, residuals θⱼ, factor covariances φ_ab,
    I(λᵢₚ, λⱼ_q) = Aᵢⱼ(C'B)ₚ_q + Bᵢ_q Bⱼₚ;  I(λᵢₚ, θⱼ) = Aᵢⱼ Bⱼₚ;  I(θᵢ, θⱼ) = Aᵢⱼ²/2;
    I(φ_ab, θⱼ) = Dⱼₐ Dⱼ_b;  I(φ_ab, λᵢₚ) = Dᵢ_b Kₐₚ + Dᵢₐ K_bₚ, K = Λ'B;
    I(φ_ab, φ_cd) = H_bc H_ad + H_bd H_ac, H = Λ'D.
    """
    loadings, _, phi = structure.split(theta)
    implied = structure.implied(theta)
    root = np.linalg.inv(np.linalg.cholesky(implied))
    inverse = root.T @ root
    scaled = loadings @ phi
    b, d = inverse @ scaled, inverse @ loadings
    cross, k_matrix, h = scaled.T @ b, loadings.T @ b, loadings.T @ d
    i, p = structure.loading_items, structure.loading_factors
    one, two = structure.cov_first, structure.cov_second
    items = np.arange(structure.k)
    weight = inverse @ (implied - cov) @ inverse
    gradient = np.concatenate(
        [
            (weight @ scaled)[i, p],
            np.diagonal(weight) / 2,
            (loadings.T @ weight @ loadings)[one, two],
        ]
    )
    by_loading = inverse[np.ix_(i, i)] * cross[np.ix_(p, p)] + b[np.ix_(i, p)] * b[np.ix_(i, p)].T
    loading_residual = inverse[np.ix_(i, items)] * b[:, p].T
    cov_residual = (d[:, one] * d[:, two]).T
    cov_loading = (
        d[np.ix_(i, two)].T * k_matrix[np.ix_(one, p)] + d[np.ix_(i, one)].T * k_matrix[np.ix_(two, p)]
    )
    by_cov = h[np.ix_(two, one)] * h[np.ix_(one, two)] + h[np.ix_(two, two)] * h[np.ix_(one, one)]
    information = np.block(
        [
            [by_loading, loading_residual, cov_loading.T],
            [loading_residual.T, inverse**2 / 2, cov_residual.T],
            [cov_loading, cov_residual, by_cov],
        ]
    )
    return gradient, information


def _discrepancy(cov: np.ndarray, implied: np.ndarray) -> float:
    try:
        root = np.linalg.cholesky(implied)
    except np.linalg.LinAlgError:
        return math.inf
    whitened = np.linalg.solve(root, np.linalg.solve(root, cov).T)
    logdet = 2 * np.log(np.diagonal(root)).sum()
    return float(logdet - np.linalg.slogdet(cov)[1] + np.trace(whitened) - len(cov))


def _start(cov: np.ndarray, structure: Structure) -> np.ndarray:
    """Each factor's first principal axis of its own items, its sign that of the first item."""
    sd = np.sqrt(np.diagonal(cov))
    loadings = np.zeros(len(structure.loading_items))
    for factor in range(structure.m):
        where = np.flatnonzero(structure.loading_factors == factor)
        items = structure.loading_items[where]
        part = cov[np.ix_(items, items)] / np.outer(sd[items], sd[items])
        vector = np.linalg.eigh(part)[1][:, -1]
        vector = vector * (-1 if vector[0] < 0 else 1)
        loadings[where] = np.clip(vector * math.sqrt(len(items)), -1, 1) * 0.6 * sd[items]
    return np.concatenate([loadings, 0.6 * np.diagonal(cov), np.zeros(len(structure.cov_first))])
