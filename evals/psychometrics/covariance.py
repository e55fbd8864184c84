"""Item covariances, correlations and squared multiple correlations, for one sample or a bootstrap stack.

Every function takes one matrix [k, k] or a stack [..., k, k]. Not covered: what is computed from them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from scipy import linalg
from threadpoolctl import threadpool_limits

from evals.psychometrics.estimate import constant_columns

# limits on what the bootstrap holds at a time: counts or sums of all samples, covariances of a stack of them,
# products of responses
COUNT_NUMBERS = 20_000_000
STACK_NUMBERS = 5_000_000
PRODUCT_NUMBERS = 4_000_000
_cholesky, _inverse_of_factor = linalg.get_lapack_funcs(("potrf", "potri"), dtype=np.float64)


@contextmanager
def small_matrices() -> Iterator[None]:
    """A context or decorator for linear algebra of a scale's size: one thread.

    With a hundred rows, threads that wait for each other cost more than the work; on a busy machine, 20 times
    as much.
    """
    with threadpool_limits(1, user_api="blas"):
        yield


def covariance(matrix: np.ndarray) -> np.ndarray:
    """Sample covariances (n − 1) of the columns of complete data [n, k]."""
    centered = matrix - matrix.mean(axis=0)
    return centered.T @ centered / (len(matrix) - 1)


def pairwise_covariance(matrix: np.ndarray) -> np.ndarray:
    """Covariances (n − 1) of each pair of columns over the rows where both are present.

    Returns: [k, k], NaN where a pair has fewer than 2 rows. It need not be positive definite.
    """
    present = (~np.isnan(matrix)).astype(np.float64)
    # a shift does not change covariances; shifting by the mean keeps the products small
    means = np.nansum(matrix, axis=0) / np.maximum(present.sum(axis=0), 1)
    filled = np.where(present > 0, matrix - means, 0.0)
    pairs = present.T @ present
    sums = filled.T @ present  # [i, j]: sum of i where j is present too
    with np.errstate(divide="ignore", invalid="ignore"):
        result = (filled.T @ filled - sums * sums.T / pairs) / (pairs - 1)
    return np.where(pairs > 1, result, np.nan)


def correlations(cov: np.ndarray) -> np.ndarray:
    """Correlations of covariances [..., k, k]; NaN in the rows and columns of constant items."""
    variance = np.diagonal(cov, axis1=-2, axis2=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = 1 / np.sqrt(np.where(variance > 0, variance, np.nan))
    result = cov * inverse[..., :, None] * inverse[..., None, :]
    k = cov.shape[-1]
    result[..., np.arange(k), np.arange(k)] = np.where(variance > 0, 1.0, np.nan)
    return result


def unexplained(matrix: np.ndarray) -> np.ndarray:
    """Variance of each item that the other items do not predict, [..., k]: 1 / diag(M⁻¹).

    For correlations this is 1 − smc. NaN where the matrix is singular or not finite.
    """
    k = matrix.shape[-1]
    stack = matrix.reshape(-1, k, k)
    result = np.full((len(stack), k), np.nan)
    finite = np.isfinite(stack).all(axis=(1, 2))
    for row in np.flatnonzero(finite):
        result[row] = 1 / _inverse_diagonal(stack[row])
    variance = np.diagonal(stack, axis1=1, axis2=2)
    # an inverse of rounding errors gives shares outside (0, 1], or next to nothing
    with np.errstate(invalid="ignore"):
        sound = (result > 1e-10 * variance) & (result <= variance * (1 + 1e-8))
    result[~sound.all(axis=1)] = np.nan
    return result.reshape(matrix.shape[:-1])


def _inverse_diagonal(matrix: np.ndarray) -> np.ndarray:
    """diag(M⁻¹) of a symmetric matrix, NaN where it is singular."""
    # by Cholesky, a third of the work of an inverse by LU; pairwise covariances need not be positive definite
    factor, failed = _cholesky(matrix, lower=True, clean=False)
    if not failed:
        return np.diagonal(_inverse_of_factor(factor, lower=True)[0])
    if np.linalg.matrix_rank(matrix) < len(matrix):
        return np.full(len(matrix), np.nan)
    return np.diagonal(np.linalg.inv(matrix))


def alpha_of(cov: np.ndarray) -> np.ndarray:
    """Cronbach's α = k/(k−1) (1 − tr C / ΣC) of covariances [..., k, k]; NaN without total variance."""
    k = cov.shape[-1]
    total = cov.sum(axis=(-2, -1))
    trace = np.trace(cov, axis1=-2, axis2=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 1e-12 * trace, k / (k - 1) * (1 - trace / total), np.nan)


def varying_items(matrix: np.ndarray) -> tuple[np.ndarray, str]:
    """The columns that vary, and a note naming those that were left out because they do not."""
    constant = constant_columns(matrix) if len(matrix) else np.zeros(matrix.shape[1], bool)
    if not constant.any():
        return matrix, ""
    names = ", ".join(str(column + 1) for column in np.flatnonzero(constant))
    return matrix[:, ~constant], f"without item {names}, which did not vary"


def bootstrap(
    matrix: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    n_bootstrap: int,
    seed: int,
) -> np.ndarray:
    """Values of a function of the item covariances in samples of the respondents, with replacement.

    The products x_i x_j of each respondent are formed once; a sample's covariances are then the
    counts of its respondents times these products, one matrix product for a whole stack of samples.

    Args:
      matrix: complete responses [n, k].
      statistic: covariances [b, k, k] -> values [b] or [b, m].
    Returns: [n_bootstrap] or [n_bootstrap, m]; the same for the same seed.
    """
    if n_bootstrap < 1:
        raise ValueError(f"n_bootstrap must be at least 1; got {n_bootstrap} (1000 is usual)")
    n, k = matrix.shape
    rng = np.random.default_rng(seed)
    shifted = _shifted(matrix)
    at_once = max(1, COUNT_NUMBERS // max(n, k * (k + 1) // 2))
    stack_size = max(1, STACK_NUMBERS // (k * k))
    parts = []
    for start in range(0, n_bootstrap, at_once):
        size = min(at_once, n_bootstrap - start)
        counts = np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(size)])
        products, means = _resampled(shifted, counts.astype(shifted.dtype))
        for first in range(0, size, stack_size):
            here = slice(first, first + stack_size)
            with small_matrices():
                parts.append(statistic(_as_covariances(products[here], means[here], n)))
    return np.concatenate(parts)


def _resampled(shifted: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of products [b, k (k + 1) / 2] and means [b, k] of responses each taken counts[b, n] times."""
    n, k = shifted.shape
    first, second = np.triu_indices(k)
    products = np.zeros((len(counts), len(first)), shifted.dtype)
    rows = max(1, PRODUCT_NUMBERS // len(first))
    for start in range(0, n, rows):
        part = np.ascontiguousarray(shifted[start : start + rows].T)
        products += counts[:, start : start + rows] @ (part[first] * part[second]).T
    return products, (counts @ shifted).astype(np.float64) / n


def _as_covariances(products: np.ndarray, means: np.ndarray, n: int) -> np.ndarray:
    """Covariances [b, k, k] of n responses from sums of their products and their means."""
    k = means.shape[1]
    first, second = np.triu_indices(k)
    upper = (products - n * means[:, first] * means[:, second]) / (n - 1)
    stack = np.empty((len(products), k, k))
    stack[:, first, second] = upper
    stack[:, second, first] = upper
    return stack


def _shifted(matrix: np.ndarray) -> np.ndarray:
    """Responses near zero; float32 where every sum of products is an integer that it holds exactly."""
    whole = matrix - np.round(matrix.mean())
    # a sample may take the most extreme respondent n times
    if (whole == np.round(whole)).all() and len(matrix) * np.abs(whole).max(initial=0) ** 2 < 2**24:
        return whole.astype(np.float32)
    return matrix - matrix.mean(axis=0)
