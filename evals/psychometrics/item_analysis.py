"""Each item against the rest of its scale: item-rest correlations, alpha if an item is dropped.

Not covered: item response models (item_response).
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from evals.psychometrics.covariance import alpha_of, correlations, covariance, small_matrices, unexplained
from evals.psychometrics.estimate import as_matrix, complete_cases, why_no_variance, z_critical


class ItemStatistics(NamedTuple):
    """The table of `item_statistics`, or an empty one and the reason."""

    table: pd.DataFrame
    n: int
    reason: str


def item_statistics(responses: npt.ArrayLike, *, confidence: float = 0.95) -> ItemStatistics:
    """How well each item goes with the rest of its scale, over complete cases.

    Columns: mean, sd; r_total (with the whole score); r_rest with r_rest_low and r_rest_high (with the
    sum of the other items; Fisher's interval); r_corrected (with the score, the item's own variance replaced
    by its smc); alpha_if_dropped and std_alpha_if_dropped. NaN for an item that does not vary.

    Args:
      responses: persons x items, in the direction of the scale, NaN where missing (listwise deletion).
      confidence: of the intervals, two-sided.
    Returns: ItemStatistics(table indexed by item, n, reason).
    Raises: ValueError for responses that are not a table of finite numbers.
    Reference: the definitions of psych::alpha (Revelle).

    Example:
      >>> from evals.psychometrics import item_statistics
      >>> ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
      >>> item_statistics(ratings).table[["r_rest", "alpha_if_dropped"]].round(3)
            r_rest  alpha_if_dropped
      item
      0      0.806             0.883
      1      0.859             0.867
      2      0.844             0.872
      3      0.790             0.918
    """
    matrix = as_matrix(responses)
    names = list(responses.columns) if isinstance(responses, pd.DataFrame) else list(range(matrix.shape[1]))
    complete = complete_cases(matrix)
    n, k = complete.shape
    if reason := why_no_variance(complete, len(matrix)):
        return ItemStatistics(pd.DataFrame(index=pd.Index(names, name="item")), n, reason)
    cov = covariance(complete)
    variance, with_total, total = np.diagonal(cov), cov.sum(axis=1), cov.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.where(np.ptp(complete, axis=0) > 0, np.sqrt(variance), np.nan)
        r_total = with_total / (spread * np.sqrt(total))
        r_rest = (with_total - variance) / (spread * np.sqrt(total - 2 * with_total + variance))
        corrected = correlations(cov)
        with small_matrices():
            np.fill_diagonal(corrected, 1 - unexplained(corrected))
        r_corrected = corrected.sum(axis=1) / np.sqrt(corrected.sum())
    rest = [np.delete(np.delete(cov, i, axis=0), i, axis=1) for i in range(k)]
    half = z_critical(confidence) / math.sqrt(n - 3) if n > 3 else math.nan
    table = pd.DataFrame(
        {
            "mean": complete.mean(axis=0),
            "sd": np.sqrt(variance),
            "r_total": r_total,
            "r_rest": r_rest,
            "r_rest_low": np.tanh(np.arctanh(np.clip(r_rest, -1, 1 - 1e-15)) - half),
            "r_rest_high": np.tanh(np.arctanh(np.clip(r_rest, -1, 1 - 1e-15)) + half),
            "r_corrected": r_corrected,
            "alpha_if_dropped": [float(alpha_of(c)) if k > 2 else math.nan for c in rest],
            "std_alpha_if_dropped": [float(alpha_of(correlations(c))) if k > 2 else math.nan for c in rest],
        },
        index=pd.Index(names, name="item"),
    )
    return ItemStatistics(table, n, "" if k > 2 else "alpha if dropped needs 3 items")
