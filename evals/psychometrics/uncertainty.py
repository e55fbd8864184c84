"""Means of item scores with their sampling error, and two models compared on the same items.

The items are taken as a sample of the items that might have been asked. Items that share a fact, a passage
or a problem are not independent: give their cluster, and errors are computed over clusters.

Not covered: error from decoding with a temperature (repeat the run), and scores of questionnaires
(evals.psychometrics.estimate).
Letters: N items, C clusters.
"""

import math
from collections.abc import Hashable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from evals.psychometrics.estimate import ROUNDING, z_critical

Interval = Literal["auto", "wilson", "bootstrap", "t"]
# Bootstrap draws x clusters held at a time.
BLOCK = 2_000_000


class Score(NamedTuple):
    """A mean over items, its standard error and its confidence interval.

    Attributes:
      value: mean; NaN without items.
      standard_error: over clusters where there are any; NaN with fewer than two.
      low, high: bounds of the interval; NaN where there is none.
      n, clusters: items, and independent groups of them (equal without clusters).
      interval: "wilson", "bootstrap", "t", "exact" (see `compare`), or "none" without a value.
      reason: why something is NaN, else empty.
    """

    value: float
    standard_error: float
    low: float
    high: float
    n: int
    clusters: int
    interval: str
    reason: str = ""


class Comparison(NamedTuple):
    """Model b against model a on the same items.

    Attributes:
      difference: mean of b − a; positive where b is better.
      a_better, b_better: items on which each is better.
      p_value: two-sided, of no difference.
      test: "mcnemar" (exact) for right-or-wrong scores without clusters, else "sign-flip".
    """

    difference: Score
    a_better: int
    b_better: int
    p_value: float
    test: str


def undefined_score(reason: str, n: int = 0) -> Score:
    """NaN with the reason it is NaN.

    Args:
      reason: in words, for reports.
      n: number of items.
    Returns: a Score without a value.
    """
    return Score(math.nan, math.nan, math.nan, math.nan, n, n, "none", reason)


def wilson(mean: float, n: float, *, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion.

    (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n)

    Args:
      mean: p, the observed share.
      confidence: of the interval, in (0, 1).
      n: trials; an effective number need not be whole.
    Returns: lower and upper end.
    Raises: ValueError if p lies outside [0, 1] or n is not positive.
    Reference: Wilson 1927, JASA 22, 209-212.
    """
    if not 0 <= mean <= 1 or n <= 0:
        raise ValueError(f"a proportion needs 0 <= mean <= 1 and n > 0; got mean {mean}, n {n}")
    z = z_critical(confidence)
    center = mean + z**2 / (2 * n)
    half = z * math.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2))
    low, high = (center - half) / (1 + z**2 / n), (center + half) / (1 + z**2 / n)
    # exact at the ends, where rounding would leave 1e-17
    return (0.0 if mean == 0 else max(low, 0.0), 1.0 if mean == 1 else min(high, 1.0))


def mean_score(
    scores: npt.ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    confidence: float = 0.95,
    interval: Interval = "auto",
    draws: int = 2000,
    seed: int = 0,
) -> Score:
    """The mean of N item scores with its sampling error.

    SE² = C/(C−1) · Σ_c (Σ_{i∈c} (sᵢ − s̄))² / N², which without clusters is the usual s²/N.

    Args:
      scores: of N items.
      confidence: of the interval, in (0, 1).
      clusters: of each item; items of one cluster are resampled together.
      interval: "wilson" for right-or-wrong scores, with N divided by the design effect of the clusters (never
        less than 1; where every score is equal, each cluster counts as one trial); "bootstrap" percentiles
        over clusters; "t" with C − 1 degrees of freedom; "auto" is Wilson for scores of 0 and 1, else
        bootstrap.
      draws: bootstrap samples; seed makes them reproducible.
    Returns: the mean, its error and interval.
    Raises: ValueError for a NaN score, or clusters of another length, or Wilson for scores outside [0, 1].
    Reference: Miller 2024, arXiv:2411.00640, eq. 4.
    """
    values, groups = _checked(scores, clusters)
    n = len(values)
    method = interval
    if interval == "auto":
        method = "wilson" if np.isin(values, (0.0, 1.0)).all() else "bootstrap"
    if n == 0:
        return undefined_score("no items")
    mean = float(values.mean())
    count = int(groups.max()) + 1
    error = _standard_error(values, groups)
    if method == "wilson":
        low, high = wilson(mean, n / _design_effect(values, groups), confidence=confidence)
        reason = "" if count > 1 else "no standard error: a single cluster"
        return Score(mean, error, low, high, n, count, method, reason)
    if count < 2:
        return Score(mean, math.nan, math.nan, math.nan, n, count, method, "no interval: a single cluster")
    if method == "t":
        half = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * error
        return Score(mean, error, mean - half, mean + half, n, count, method)
    if np.ptp(values) == 0:
        # resampling equal values would suggest certainty, which no sample gives
        return Score(mean, 0.0, math.nan, math.nan, n, count, method, "no interval: all values are equal")
    means = _bootstrap_means(values, groups, draws, seed)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Score(mean, error, float(low), float(high), n, count, method)


def compare(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Whether model b scores differently from model a on the same N items.

    Pairing takes the difficulty of the items out of the error. Where all C independent items change by the
    same d and scores lie in [0, 1], resampling knows no error; an item that changes otherwise is then no more
    likely than π = 1 − α^(1/C), α = (1 − confidence)/2, and the interval is [d − π(1 + d), d + π(1 − d)].
    McNemar's exact test: of the items on which the two differ, b's share is Binomial(½) under no difference.
    With clusters, or scores between 0 and 1, the sign of each cluster's summed difference is flipped at
    random: p = (1 + #{|Σ±d| ≥ |Σd|}) / (1 + draws).

    Args:
      a, b: scores of the same items, in the same order.
      clusters: of each item; None takes items as independent.
      confidence: of the interval, in (0, 1).
      draws: bootstrap samples and random sign flips.
      seed: of both.
    Returns: b − a with its error, interval and p.

    Raises: ValueError if a and b do not pair up.
    Reference: McNemar 1947, Psychometrika 12, 153-157; Fisher 1935, Design of Experiments, section 21;
      Clopper and Pearson 1934, Biometrika 26, 404-413, for π.
    """
    first, groups = _checked(a, clusters)
    second, _ = _checked(b, clusters)
    if len(first) != len(second):
        raise ValueError(f"a and b must score the same items; got {len(first)} and {len(second)} scores")
    change = second - first
    difference = mean_score(
        change, clusters, confidence=confidence, interval="bootstrap", draws=draws, seed=seed
    )
    bounded = all(((scores >= 0) & (scores <= 1)).all() for scores in (first, second))
    if bounded and len(change) and np.ptp(change) == 0:
        difference = _all_alike(difference, confidence)
    a_better, b_better = int((change < 0).sum()), int((change > 0).sum())
    binary = np.isin(first, (0.0, 1.0)).all() and np.isin(second, (0.0, 1.0)).all()
    if binary and clusters is None:
        trials = a_better + b_better
        p_value = float(stats.binomtest(b_better, trials).pvalue) if trials else 1.0
        return Comparison(difference, a_better, b_better, p_value, "mcnemar")
    sums = np.bincount(groups, change)
    p_value = _sign_flip(sums, draws, seed) if len(sums) else math.nan
    return Comparison(difference, a_better, b_better, p_value, "sign-flip")


def _all_alike(change: Score, confidence: float) -> Score:
    """The interval of a difference that every item shows; see `compare`."""
    other = 1 - ((1 - confidence) / 2) ** (1 / change.clusters)
    low, high = change.value - other * (1 + change.value), change.value + other * (1 - change.value)
    return change._replace(low=low, high=high, interval="exact", reason="")


def _checked(scores: npt.ArrayLike, clusters: Sequence[Hashable] | None) -> tuple[np.ndarray, np.ndarray]:
    """Scores as float64 [N], and the number of each one's cluster, counted from 0."""
    values = np.asarray(scores, np.float64)
    if values.ndim != 1:
        raise ValueError(f"scores must be one number an item; got shape {values.shape}")
    if np.isnan(values).any():
        raise ValueError(
            f"scores must be numbers; item {int(np.isnan(values).argmax())} is NaN (leave it out)"
        )
    if clusters is None:
        return values, np.arange(len(values))
    if len(clusters) != len(values):
        raise ValueError(
            f"clusters must name one for each item; got {len(clusters)} for {len(values)} scores"
        )
    number: dict[Hashable, int] = {}
    return values, np.asarray([number.setdefault(c, len(number)) for c in clusters], np.int64)


def _standard_error(values: np.ndarray, groups: np.ndarray) -> float:
    sums = np.bincount(groups, values - values.mean())
    count = len(sums)
    if count < 2:
        return math.nan
    return math.sqrt(count / (count - 1) * float(sums @ sums)) / len(values)


def _design_effect(values: np.ndarray, groups: np.ndarray) -> float:
    """The variance of the mean as a multiple of that of as many independent items; at least 1."""
    n, count = len(values), int(groups.max()) + 1
    plain = _standard_error(values, np.arange(n))
    if count == n:
        return 1.0
    if count < 2 or not plain > ROUNDING:
        return n / count
    return max((_standard_error(values, groups) / plain) ** 2, 1.0)


def _bootstrap_means(values: np.ndarray, groups: np.ndarray, draws: int, seed: int) -> np.ndarray:
    sums, sizes = np.bincount(groups, values), np.bincount(groups).astype(np.float64)
    count = len(sums)
    rng = np.random.default_rng(seed)
    step = max(BLOCK // count, 1)
    means = []
    for start in range(0, draws, step):
        picked = rng.integers(count, size=(min(step, draws - start), count))
        means.append(sums[picked].sum(1) / sizes[picked].sum(1))
    return np.concatenate(means)


def _sign_flip(sums: np.ndarray, draws: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    observed = abs(float(sums.sum()))
    tolerance = ROUNDING * float(np.abs(sums).sum())
    step = max(BLOCK // len(sums), 1)
    hits = 0
    for start in range(0, draws, step):
        signs = rng.integers(2, size=(min(step, draws - start), len(sums))) * 2.0 - 1.0
        hits += int((np.abs(signs @ sums) >= observed - tolerance).sum())
    return (1 + hits) / (1 + draws)
