"""Agreement of repeated measurements: intraclass correlations and Krippendorff's alpha.

The measurements may be raters, runs, templates or orders. Not covered: agreement of categories
beyond Krippendorff's nominal level (Cohen's and Fleiss' kappa).
"""

import math
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from evals.psychometrics.estimate import (
    Estimate,
    as_matrix,
    complete_cases,
    constant_columns,
    percentile_estimate,
    undefined,
)

# Shrout & Fleiss's names, and McGraw & Wong's for the two-way random model
FORMS = {
    "ICC1": "ICC(1,1)",
    "ICC2": "ICC(A,1)",
    "ICC3": "ICC(C,1)",
    "ICC1k": "ICC(1,k)",
    "ICC2k": "ICC(A,k)",
    "ICC3k": "ICC(C,k)",
}
_ALIASES = {
    **{form: form for form in FORMS},
    **{name: form for form, name in FORMS.items()},
    **{name[4:-1]: form for form, name in FORMS.items()},
    **{f"ICC({i},{j})": f"ICC{i}{'k' if j == 'k' else ''}" for i in "123" for j in "1k"},
    **{f"{i},{j}": f"ICC{i}{'k' if j == 'k' else ''}" for i in "123" for j in "1k"},
}

Level = Literal["nominal", "ordinal", "interval", "ratio"]


class MeanSquares(NamedTuple):
    """Two-way analysis of variance of subjects [n] x measurements [k], one value per cell."""

    subjects: float
    measurements: float
    residual: float
    within: float


def mean_squares(matrix: np.ndarray) -> MeanSquares:
    """Mean squares of complete subjects x measurements: between subjects, measurements, residual, within."""
    n, k = matrix.shape
    # a common shift does not change them; without one, large means cost digits
    centered = matrix - matrix.mean()
    rows, columns = centered.mean(axis=1), centered.mean(axis=0)
    residual = centered - rows[:, None] - columns[None, :]
    ss_rows, ss_columns, ss_residual = k * (rows**2).sum(), n * (columns**2).sum(), (residual**2).sum()
    return MeanSquares(
        float(ss_rows / (n - 1)),
        float(ss_columns / (k - 1)),
        float(ss_residual / ((n - 1) * (k - 1))),
        float((ss_columns + ss_residual) / (n * (k - 1))),
    )


def icc(ratings: npt.ArrayLike, form: str = "ICC(A,1)", *, confidence: float = 0.95) -> Estimate:
    """An intraclass correlation of subjects x measurements, with its F-based interval.

    With mean squares R between subjects, C between measurements, E residual, W within subjects:
    ICC(1,1) = (R−W)/(R+(k−1)W);                 ICC(1,k) = (R−W)/R;
    ICC(A,1) = (R−E)/(R+(k−1)E+k(C−E)/n);        ICC(A,k) = (R−E)/(R+(C−E)/n);
    ICC(C,1) = (R−E)/(R+(k−1)E);                 ICC(C,k) = (R−E)/R, which is Cronbach's alpha.

    Args:
      ratings: subjects x measurements, NaN where missing (listwise deletion of subjects).
      form: ICC(1,1), ICC(A,1), ICC(C,1), ICC(1,k), ICC(A,k), ICC(C,k), also as ICC1 .. ICC3k or ICC(2,1).
      confidence: of the interval, two-sided.
    Returns: Estimate; n counts complete subjects. NaN with a reason where nothing varies.
    Raises: ValueError for an unknown form.
    Reference: Shrout & Fleiss 1979 (the example's data); McGraw & Wong 1996, tables 4 and 7.

    Example:
      >>> from evals.psychometrics import icc
      >>> ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
      >>> print(icc(ratings, "ICC(A,1)"))
      0.290 [0.019, 0.761], n = 6
      >>> print(icc(ratings, "ICC(C,k)"))
      0.909 [0.676, 0.986], n = 6
    """
    name = _ALIASES.get(form.replace(" ", "").replace("icc", "ICC"))
    if name is None:
        raise ValueError(f"unknown form of ICC: {form!r}; there are {', '.join(FORMS.values())}")
    row = icc_table(ratings, confidence=confidence).loc[name]
    return Estimate(
        float(row["icc"]), float(row["low"]), float(row["high"]), int(row["n"]), str(row["reason"])
    )


def icc_table(ratings: npt.ArrayLike, *, confidence: float = 0.95) -> pd.DataFrame:
    """All six intraclass correlations of subjects x measurements (see `icc`), with F test and interval.

    Args:
      ratings: subjects x measurements, NaN where missing (listwise deletion of subjects).
      confidence: of the intervals, two-sided.
    Returns: a frame indexed ICC1, ICC2, ICC3, ICC1k, ICC2k, ICC3k with the columns
      icc, f, df1, df2, p, low, high, n, k, reason.
    Raises: ValueError for ratings that are not a table of finite numbers.
    Reference: Shrout & Fleiss 1979 (the example's data); McGraw & Wong 1996.

    Example:
      >>> from evals.psychometrics import icc_table
      >>> ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
      >>> icc_table(ratings)["icc"].astype(float).round(3).to_dict()
      {'ICC1': 0.166, 'ICC2': 0.29, 'ICC3': 0.715, 'ICC1k': 0.443, 'ICC2k': 0.62, 'ICC3k': 0.909}
    """
    matrix = as_matrix(ratings, name="ratings")
    complete = complete_cases(matrix)
    n, k = complete.shape
    reason = ""
    if k < 2:
        reason = f"fewer than 2 measurements (got {k})"
    elif n < 2:
        reason = f"fewer than 2 complete subjects (got {n} of {len(matrix)})"
    elif np.ptp(complete) == 0:
        reason = f"no variance: all {n} x {k} values are the same"
    elif constant_columns(complete).all():
        reason = f"no variance between the {n} subjects"
    if reason:
        blank = dict.fromkeys(["icc", "f", "df1", "df2", "p", "low", "high"], math.nan)
        return pd.DataFrame({form: {**blank, "n": n, "k": k, "reason": reason} for form in FORMS}).T
    ms = mean_squares(complete)
    rows = {}
    for form in FORMS:
        rows[form] = {**_icc_row(form, ms, n, k, confidence), "n": n, "k": k, "reason": ""}
        if math.isnan(rows[form]["icc"]):
            rows[form]["reason"] = "the subjects do not differ: 0 divided by 0"
        elif math.isnan(rows[form]["low"]) and form == "ICC2":
            rows[form]["reason"] = "no interval: its approximate degrees of freedom are next to none"
    return pd.DataFrame(rows).T


def _icc_row(form: str, ms: MeanSquares, n: int, k: int, confidence: float) -> dict[str, float]:
    r, c, e, w = ms
    one_way, averaged = form.startswith("ICC1"), form.endswith("k")
    error = w if one_way else e
    # rounding leaves a residual of 1e-30 where measurements agree exactly
    error = 0.0 if error <= 1e-14 * (r + c) else error
    df1, df2 = n - 1, n * (k - 1) if one_way else (n - 1) * (k - 1)
    f = r / error if error > 0 else math.inf
    tail = (1 + confidence) / 2
    f_low, f_high = f / stats.f.ppf(tail, df1, df2), f * stats.f.ppf(tail, df2, df1)
    if form.startswith("ICC2"):
        single = _ratio(r - error, r + (k - 1) * error + k * (c - error) / n)
        low, high = _absolute_interval(single, r, c, error, n, k, tail)
    else:
        single = _ratio(r - error, r + (k - 1) * error)
        low, high = (1.0 if math.isinf(v) else (v - 1) / (v + k - 1) for v in (f_low, f_high))
    if averaged:
        single, low, high = (_ratio(k * v, 1 + (k - 1) * v) for v in (single, low, high))
    p = float(stats.f.sf(f, df1, df2))
    return {"icc": single, "f": f, "df1": df1, "df2": df2, "p": p, "low": float(low), "high": float(high)}


def _absolute_interval(
    icc2: float, r: float, c: float, e: float, n: int, k: int, tail: float
) -> tuple[float, float]:
    """McGraw & Wong's interval of ICC(A,1), with Satterthwaite's degrees of freedom.

    NaN where that approximation breaks down: with almost no degrees of freedom, as for subjects that differ
    less than the residual, its interval does not even contain the estimate.
    """
    a = k * icc2 / (n * (1 - icc2)) if icc2 < 1 else math.inf
    b = 1 + k * icc2 * (n - 1) / (n * (1 - icc2)) if icc2 < 1 else math.inf
    if math.isinf(a) or (a * c + b * e) == 0:
        return icc2, icc2
    v = (a * c + b * e) ** 2 / ((a * c) ** 2 / (k - 1) + (b * e) ** 2 / ((n - 1) * (k - 1)))
    spread = k * c + (k * n - k - n) * e
    f_low, f_high = stats.f.ppf(tail, n - 1, v), stats.f.ppf(tail, v, n - 1)
    # with few degrees of freedom the quantiles are infinite; over them, their inverses are zero
    low = _ratio(n * (r / f_low - e), spread + n * r / f_low)
    high = (
        _ratio(n * (r * f_high - e), spread + n * r * f_high)
        if f_high < 1
        else _ratio(n * (r - e / f_high), spread / f_high + n * r)
    )
    return (low, high) if low <= icc2 <= high else (math.nan, math.nan)


def _ratio(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> float:
    """NaN in place of a division by zero."""
    top, bottom = float(np.asarray(numerator)), float(np.asarray(denominator))
    return top / bottom if bottom > 0 else math.nan


def krippendorff_alpha(
    ratings: npt.ArrayLike,
    level: Level = "interval",
    *,
    confidence: float = 0.95,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Krippendorff's alpha of subjects x measurements: 1 − observed / expected disagreement.

    Units with fewer than two values do not count. The interval is a percentile bootstrap over units.

    Args:
      ratings: units (subjects, items) x measurements (raters, runs), NaN where missing.
      level: "nominal", "ordinal", "interval" or "ratio".
      confidence, n_bootstrap, seed: of the bootstrap.
    Returns: Estimate; n counts the units with at least two values.
    Raises: ValueError for an unknown level.
    Reference: Krippendorff 2011, Computing Krippendorff's alpha-reliability (the example's data).

    Example:
      >>> import numpy as np
      >>> from evals.psychometrics import krippendorff_alpha
      >>> nan = np.nan
      >>> observers = [
      ...     [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
      ...     [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
      ...     [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
      ...     [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
      ... ]
      >>> units = np.transpose(observers)
      >>> [round(krippendorff_alpha(units, level).value, 3) for level in ("nominal", "ordinal", "interval")]
      [0.743, 0.815, 0.849]
    """
    if level not in ("nominal", "ordinal", "interval", "ratio"):
        raise ValueError(f"level must be nominal, ordinal, interval or ratio; got {level!r}")
    matrix = as_matrix(ratings, name="ratings")
    pairable = matrix[(~np.isnan(matrix)).sum(axis=1) >= 2]
    n = len(pairable)
    if n < 2:
        return undefined(f"fewer than 2 units with two values (got {n})", n)
    values = np.unique(pairable[~np.isnan(pairable)])
    if len(values) < 2:
        return undefined(f"no variance: every value is {values[0]:g}", n)
    if level == "ratio" and values[0] < 0:
        return undefined(f"a ratio scale has no negative values (got {values[0]:g})", n)
    rng = np.random.default_rng(seed)
    weights = np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(n_bootstrap)])
    weights = np.vstack([np.ones(n), weights])
    by_weight = _interval_alphas if level == "interval" else _coincidence_alphas
    value, *draws = by_weight(pairable, weights, level)
    return percentile_estimate(float(value), np.array(draws), n, confidence=confidence)


def _interval_alphas(pairable: np.ndarray, weights: np.ndarray, _: Level) -> np.ndarray:
    """Interval alphas of weighted units: squared differences add up to sums of squares, without pairs."""
    values = pairable - np.nanmean(pairable)
    m = (~np.isnan(values)).sum(axis=1)
    within = m / (m - 1) * np.nansum((values - np.nanmean(values, axis=1, keepdims=True)) ** 2, axis=1)
    total, first, second, observed = (
        weights @ np.column_stack([m, np.nansum(values, axis=1), np.nansum(values**2, axis=1), within])
    ).T
    expected = (second - first**2 / total) * total / (total - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected > 1e-12 * second, 1 - observed / expected, np.nan)


def _coincidence_alphas(pairable: np.ndarray, weights: np.ndarray, level: Level) -> np.ndarray:
    """Alphas of weighted units from their coincidence matrices o[v, v'] = Σ_units pairs / (m − 1)."""
    domain = np.unique(pairable[~np.isnan(pairable)])
    counts = (pairable[:, :, None] == domain).sum(axis=1).astype(np.float64)
    share = counts / (counts.sum(axis=1, keepdims=True) - 1)
    alphas = []
    for weight in weights:
        coincidences = (share * weight[:, None]).T @ counts - np.diag(weight @ share)
        marginal = coincidences.sum(axis=1)
        distance = _distances(domain, marginal, level)
        expected = (np.outer(marginal, marginal) * distance).sum() / (marginal.sum() - 1)
        alphas.append(1 - (coincidences * distance).sum() / expected if expected > 0 else math.nan)
    return np.array(alphas)


def _distances(domain: np.ndarray, marginal: np.ndarray, level: Level) -> np.ndarray:
    """Squared differences between values; ordinal ones by how many values lie between."""
    a, b = domain[:, None], domain[None, :]
    match level:
        case "nominal":
            return (a != b).astype(np.float64)
        case "ordinal":
            middle = np.cumsum(marginal) - marginal / 2
            return (middle[:, None] - middle[None, :]) ** 2
        case "interval":
            return (a - b) ** 2
    with np.errstate(invalid="ignore"):
        return np.nan_to_num((a - b) / (a + b)) ** 2
