"""Are there factors, and how many? KMO, Bartlett's test, parallel analysis, Velicer's MAP.

Not covered: extraction (factor_analysis).
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from evals.psychometrics.covariance import correlations, covariance, varying_items
from evals.psychometrics.estimate import as_matrix, complete_cases, why_no_variance
from evals.psychometrics.factors.factor_analysis import minres


class ParallelAnalysis(NamedTuple):
    """How many eigenvalues exceed those of random data of the same size.

    n_factors counts eigenvalues of R with communalities of one factor in the diagonal, n_components those
    of R itself; random_* are the chosen quantile of the random ones. n_factors and n_components are −1
    with a reason where undefined.
    """

    n_factors: int
    n_components: int
    factor_eigenvalues: np.ndarray
    component_eigenvalues: np.ndarray
    random_factor: np.ndarray
    random_component: np.ndarray
    reason: str = ""


class Kmo(NamedTuple):
    """Kaiser-Meyer-Olkin sampling adequacy, overall and by item (NaN with a reason where undefined)."""

    overall: float
    items: np.ndarray
    reason: str = ""


class Bartlett(NamedTuple):
    """Bartlett's test that all correlations are zero: χ², degrees of freedom, p."""

    chi2: float
    df: int
    p: float
    reason: str = ""


def _correlations(responses: npt.ArrayLike) -> tuple[np.ndarray | None, int, str]:
    matrix = as_matrix(responses)
    complete = complete_cases(matrix)
    n = len(complete)
    if reason := why_no_variance(complete, len(matrix)):
        return None, n, reason
    varying, note = varying_items(complete)
    if varying.shape[1] < 2 or n <= varying.shape[1]:
        return None, n, f"{n} complete respondents are too few for {varying.shape[1]} items"
    corr = correlations(covariance(varying))
    if np.linalg.matrix_rank(corr) < len(corr):
        return None, n, "singular correlations: some item is a sum of others"
    return corr, n, note


def kmo(responses: npt.ArrayLike) -> Kmo:
    """Kaiser-Meyer-Olkin sampling adequacy: whether correlations can be due to common factors.

    Σ r² / (Σ r² + Σ q²) over pairs of items, r their correlations and q their partial ones.

    Args:
      responses: persons x items, NaN where missing (listwise deletion).
    Returns: Kmo(overall, items, reason).
    Raises: ValueError for responses that are not a table of finite numbers.
    Reference: Kaiser 1974, Psychometrika 39, 31-36.

    Example:
      >>> from evals.psychometrics import kmo, simulate_responses
      >>> round(kmo(simulate_responses(200, [0.7, 0.6, 0.5, 0.8])).overall, 3)
      0.729
    """
    corr, _, reason = _correlations(responses)
    if corr is None:
        return Kmo(math.nan, np.full(as_matrix(responses).shape[1], math.nan), reason)
    inverse = np.linalg.inv(corr)
    scale = np.sqrt(np.diagonal(inverse))
    partial = inverse / np.outer(scale, scale)
    np.fill_diagonal(partial, 0)
    off = corr - np.eye(len(corr))
    r2, q2 = (off**2).sum(axis=0), (partial**2).sum(axis=0)
    return Kmo(float(r2.sum() / (r2.sum() + q2.sum())), r2 / (r2 + q2), reason)


def bartlett(responses: npt.ArrayLike) -> Bartlett:
    """Bartlett's test that all correlations are zero.

    χ² = −(n − 1 − (2k + 5)/6) ln |R| with k(k − 1)/2 degrees of freedom.

    Args:
      responses: persons x items, NaN where missing (listwise deletion).
    Returns: Bartlett(chi2, df, p, reason).
    Raises: ValueError for responses that are not a table of finite numbers.
    Reference: Bartlett 1951, British Journal of Statistical Psychology 4, 1-11.

    Example:
      >>> from evals.psychometrics import bartlett, simulate_responses
      >>> found = bartlett(simulate_responses(200, [0.7, 0.6, 0.5, 0.8]))
      >>> round(found.chi2, 1), found.df, found.p < 0.001
      (149.1, 6, True)
    """
    corr, n, reason = _correlations(responses)
    if corr is None:
        return Bartlett(math.nan, 0, math.nan, reason)
    k = len(corr)
    chi2 = -(n - 1 - (2 * k + 5) / 6) * float(np.linalg.slogdet(corr)[1])
    df = k * (k - 1) // 2
    return Bartlett(chi2, df, float(stats.chi2.sf(chi2, df)), reason)


def parallel_analysis(
    responses: npt.ArrayLike, *, n_random: int = 50, quantile: float = 0.95, seed: int = 0
) -> ParallelAnalysis:
    """Horn's parallel analysis: how many factors exceed those of random data of the same size.

    Counts the eigenvalues before the first that does not exceed the quantile of its random counterpart.

    Args:
      responses: persons x items, NaN where missing (listwise deletion).
      n_random, quantile, seed: random data sets, which quantile of their eigenvalues, and the seed.
    Returns: ParallelAnalysis, with n_factors and n_components.
    Raises: ValueError for responses that are not a table of finite numbers.
    Reference: Horn 1965, Psychometrika 30, 179-185; Humphreys & Montanelli 1975 for factors.

    Example:
      >>> from evals.psychometrics import parallel_analysis, simulate_responses
      >>> two = [[0.7, 0], [0.7, 0], [0.7, 0], [0, 0.7], [0, 0.7], [0, 0.7]]
      >>> parallel_analysis(simulate_responses(300, two)).n_components
      2
    """
    corr, n, reason = _correlations(responses)
    if corr is None:
        none = np.array([])
        return ParallelAnalysis(-1, -1, none, none, none, none, reason)
    k = len(corr)
    rng = np.random.default_rng(seed)
    random = [correlations(covariance(rng.standard_normal((n, k)))) for _ in range(n_random)]
    random_factor = np.quantile([_factor_eigenvalues(r) for r in random], quantile, axis=0)
    random_component = np.quantile([_eigenvalues(r) for r in random], quantile, axis=0)
    factor, component = _factor_eigenvalues(corr), _eigenvalues(corr)
    return ParallelAnalysis(
        _leading(factor > random_factor),
        _leading(component > random_component),
        factor,
        component,
        random_factor,
        random_component,
        reason,
    )


def _eigenvalues(corr: np.ndarray) -> np.ndarray:
    return np.linalg.eigvalsh(corr)[::-1]


def _factor_eigenvalues(corr: np.ndarray) -> np.ndarray:
    reduced = corr.copy()
    np.fill_diagonal(reduced, (minres(corr, 1)[0] ** 2).sum(axis=1))
    return _eigenvalues(reduced)


def _leading(exceeds: np.ndarray) -> int:
    return len(exceeds) if exceeds.all() else int(exceeds.argmin())


def velicer_map(responses: npt.ArrayLike, max_factors: int = 8) -> np.ndarray:
    """Velicer's minimum average partial: how many components leave the least correlation behind.

    Args:
      responses: persons x items, NaN where missing (listwise deletion).
      max_factors: the most components taken out.
    Returns: [max_factors], the mean squared partial correlation after taking out 1, 2, .. principal
      components; NaN where undefined. argmin + 1 is the number of components.
    Raises: ValueError for responses that are not a table of finite numbers.
    Reference: Velicer 1976, Psychometrika 41, 321-327.

    Example:
      >>> from evals.psychometrics import simulate_responses, velicer_map
      >>> two = [[0.7, 0], [0.7, 0], [0.7, 0], [0, 0.7], [0, 0.7], [0, 0.7]]
      >>> int(velicer_map(simulate_responses(300, two), max_factors=3).argmin()) + 1
      1
    """
    corr, _, _ = _correlations(responses)
    result = np.full(max_factors, math.nan)
    if corr is None:
        return result
    k = len(corr)
    values, vectors = np.linalg.eigh(corr)
    loadings = vectors[:, ::-1] * np.sqrt(values[::-1])
    for m in range(1, min(max_factors, k - 1) + 1):
        partial = correlations(corr - loadings[:, :m] @ loadings[:, :m].T)
        result[m - 1] = ((partial**2).sum() - k) / (k * (k - 1))
    return result
