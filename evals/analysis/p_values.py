"""Corrections of p values that somebody else computed."""

import numpy as np
import pandas as pd

from evals.analysis.results import ResultTable
from evals.psychometrics.comparisons import benjamini_hochberg, holm


def corrected(frame: pd.DataFrame, column: str) -> list[ResultTable]:
    """A table with its p values corrected after Holm and after Benjamini and Hochberg.

    Args:
      frame: one row per test.
      column: holds the p values.
    Returns: the table with two more columns.
    Raises: ValueError for a column that does not exist or holds anything but p values.

    Example:
      >>> found = corrected(pd.DataFrame({"p": [0.01, 0.02, 0.04]}), "p")[0].table
      >>> found["p_holm"].tolist(), found["p_benjamini_hochberg"].round(3).tolist()
      ([0.03, 0.04, 0.04], [0.015, 0.03, 0.04])
    """
    if column not in frame.columns:
        raise ValueError(
            f"there is no column {column!r} of p values (--p-column); columns are {', '.join(frame.columns)}"
        )
    p = np.asarray(pd.to_numeric(frame[column], errors="coerce"), np.float64)
    note = "p_holm bounds the chance of any false finding, p_benjamini_hochberg the share of false ones."
    added = frame.assign(p_holm=holm(p), p_benjamini_hochberg=benjamini_hochberg(p))
    return [ResultTable("p_values", "Corrected p values", added, note)]
