"""An estimate with its interval, or NaN and the reason; and what every statistic first does to its input.

Not covered: the statistics themselves.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

# Below this share of its parts' variance, a difference of two floats is rounding error, not variance.
ROUNDING = 1e-12


class Estimate(NamedTuple):
    """A statistic, its confidence interval, the respondents it rests on, and why any of it is NaN.

    Attributes:
      value: the point estimate; NaN where the statistic is undefined.
      low, high: the bounds of the confidence interval; NaN where there is none.
      n: respondents (or subjects) used, counted after deletion of incomplete cases.
      reason: why value, or the interval alone, is NaN; empty where everything is defined.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    reason: str = ""

    @property
    def defined(self) -> bool:
        """Whether there is a value."""
        return not math.isnan(self.value)

    def __str__(self) -> str:
        """Value [low, high], n; and the reason where there is one."""
        bounds = "" if math.isnan(self.low) else f" [{self.low:.3f}, {self.high:.3f}]"
        value = f"{self.value:.3f}" if self.defined else "undefined"
        return f"{value}{bounds}, n = {self.n}" + (f" ({self.reason})" if self.reason else "")


def undefined(reason: str, n: int = 0) -> Estimate:
    """NaN with the reason it is NaN.

    Args:
      reason: in words, for reports.
      n: number of cases.
    Returns: an Estimate without a value.
    """
    return Estimate(math.nan, math.nan, math.nan, n, reason)


def as_matrix(responses: npt.ArrayLike, *, name: str = "responses") -> np.ndarray:
    """Responses as float64 [persons, items], NaN where missing (None counts as missing).

    Args:
      responses: persons x items.
      name: of the argument, for messages.
    Returns: a new array.

    Raises: ValueError for another number of axes, text, or an infinite value.
    """
    try:
        matrix = np.asarray(responses, dtype=object if _holds_objects(responses) else None).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must hold numbers, or NaN where missing; {error} (score the answers first, "
            "see evals.questionnaires.keyed_responses)"
        ) from None
    if matrix.ndim != 2:
        raise ValueError(
            f"{name} must be a table persons x items; got {matrix.ndim} axes, shape {matrix.shape}"
        )
    if np.isinf(matrix).any():
        row, column = np.argwhere(np.isinf(matrix))[0]
        raise ValueError(f"{name} must be finite; got {matrix[row, column]} in row {row}, column {column}")
    return matrix


def _holds_objects(responses: npt.ArrayLike) -> bool:
    """Whether the values are a mixture (None, pandas' NA) that numpy must not coerce to text."""
    import pandas as pd  # imported here, so that plain arrays do not wait for pandas

    return isinstance(responses, list | tuple | pd.DataFrame)


def complete_cases(matrix: np.ndarray) -> np.ndarray:
    """The rows without a missing value (listwise deletion)."""
    return matrix[~np.isnan(matrix).any(axis=1)]


def constant_columns(matrix: np.ndarray) -> np.ndarray:
    """Which columns hold one value only: by range, since a computed variance is rarely exactly 0."""
    return np.ptp(matrix, axis=0) == 0


def why_no_variance(matrix: np.ndarray, n_rows: int) -> str:
    """Why no coefficient of consistency exists for these complete cases; empty where one may exist.

    Args:
      matrix: complete cases [persons, items].
      n_rows: cases before incomplete ones were left out.
    Returns: the reason, or "".
    """
    n, k = matrix.shape
    if k < 2:
        return f"fewer than 2 items (got {k})"
    if n < 2:
        return f"fewer than 2 complete respondents (got {n} of {n_rows} rows)"
    if constant_columns(matrix).all():
        return f"no variance: all {n} respondents gave the same answers"
    total = matrix.sum(axis=1)
    if total.var() <= ROUNDING * matrix.var(axis=0).sum():
        return f"no variance between respondents: all {n} have the same total score"
    return ""


def z_critical(confidence: float) -> float:
    """The two-sided normal quantile, 1.96 at 0.95. Raises: ValueError outside (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1; got {confidence} (0.95 is usual)")
    return float(stats.norm.ppf((1 + confidence) / 2))


def pearson(x: npt.ArrayLike, y: npt.ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Pearson's correlation over the pairs without a missing value, with Fisher's interval.

    r = cov(x, y) / (sd(x) sd(y));   CI: tanh(atanh r ± z / √(n − 3)).

    Args:
      x, y: a number for each respondent, NaN where missing; both of the same length.
      confidence: of the interval, two-sided.
    Returns: Estimate; NaN where a variable is constant; bounds NaN below 4 pairs. |r| = 1 has bounds r.
    Raises: ValueError where x and y differ in length, or hold text or an infinite value.
    Reference: Fisher 1921, Metron 1, 3-32.

    Example:
      >>> from evals.psychometrics import pearson
      >>> print(pearson([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]))
      0.800 [-0.280, 0.986], n = 5
    """
    x, y = (as_matrix(np.reshape(v, (-1, 1)), name="x and y")[:, 0] for v in (x, y))
    if len(x) != len(y):
        raise ValueError(f"x and y must pair up; got {len(x)} and {len(y)} values")
    pairs = complete_cases(np.column_stack([x, y]))
    n = len(pairs)
    if n < 2:
        return undefined(f"fewer than 2 complete pairs (got {n})", n)
    if constant_columns(pairs).any():
        return undefined("one of the two variables does not vary", n)
    centered = pairs - pairs.mean(axis=0)
    scaled = centered / np.linalg.norm(centered, axis=0)
    return fisher_interval(float(np.clip(scaled[:, 0] @ scaled[:, 1], -1, 1)), n, confidence=confidence)


def fisher_interval(r: float, n: int, *, confidence: float = 0.95) -> Estimate:
    """A correlation r from n pairs, with the interval of Fisher's z.

    Args:
      r: in [-1, 1].
      n: pairs.
      confidence: of the interval, in (0, 1).
    Returns: the estimate; without an interval where n is below 4.
    """
    if n < 4:
        return Estimate(r, n=n, reason=f"no interval: Fisher's needs at least 4 pairs (got {n})")
    if abs(r) > 1 - 1e-15:
        return Estimate(r, r, r, n)
    half = z_critical(confidence) / math.sqrt(n - 3)
    return Estimate(r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half), n)


def percentile_estimate(value: float, draws: np.ndarray, n: int, *, confidence: float = 0.95) -> Estimate:
    """A value with the percentile interval of its bootstrap draws; undefined draws are counted and named.

    Args:
      value: of the whole sample.
      draws: of the bootstrap, NaN where undefined.
      n: cases.
      confidence: of the interval, in (0, 1).
    Returns: the estimate.
    """
    if math.isnan(value):
        return undefined("undefined for these responses", n)
    usable = draws[np.isfinite(draws)]
    lost = draws.size - usable.size
    if usable.size < draws.size / 2 or usable.size < 2:
        return Estimate(value, n=n, reason=f"no interval: {lost} of {draws.size} bootstrap samples undefined")
    low, high = np.quantile(usable, [(1 - confidence) / 2, (1 + confidence) / 2])
    note = f"interval without {lost} of {draws.size} bootstrap samples, which are undefined" if lost else ""
    return Estimate(value, float(low), float(high), n, note)
