"""The unbiased pass@k of code models.

Letters: P problems.
"""

import numpy as np
import numpy.typing as npt


def pass_at_k(samples: npt.ArrayLike, correct: npt.ArrayLike, k: int) -> np.ndarray:
    """Probability that one of k samples passes, for each problem, from n >= k samples of which c passed.

        1 − C(n−c, k) / C(n, k) = 1 − Π_{j<k} (1 − c / (n − j))

    is the share of all subsets of k samples that contain a correct one; 1 − (1 − c/n)^k is biased. Summed as
    logarithms, so that neither large binomials nor small differences occur.

    Args:
      samples, correct: n and c of each problem, [P] or a number.
    Returns: float64 [P]; NaN where n < k.
    Raises: ValueError for k below 1, c outside [0, n], or numbers that are not whole.
    Reference: Chen et al. 2021, arXiv:2107.03374, eq. 1.
    """
    n, c = (np.asarray(value, np.float64) for value in (samples, correct))
    n, c = np.broadcast_arrays(np.atleast_1d(n), np.atleast_1d(c))
    if k < 1:
        raise ValueError(f"k of pass@k must be at least 1; got {k}")
    if n.ndim != 1 or ((c < 0) | (c > n) | (n % 1 != 0) | (c % 1 != 0)).any():
        raise ValueError("pass@k needs whole numbers of samples and correct ones, 0 <= correct <= samples")
    left = np.maximum(n[:, None] - np.arange(k), 1)
    # with fewer than k wrong samples every subset holds a correct one: its factor is 0
    share = np.minimum(c[:, None] / left, 1.0)
    with np.errstate(divide="ignore"):
        missed = np.log1p(-share).sum(axis=1)
    return np.where(n >= k, -np.expm1(missed), np.nan)
