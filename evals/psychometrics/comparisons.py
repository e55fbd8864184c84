"""Two groups of scores compared: equivalence tests, standardized differences, several tests at once.

For a model against people, for a tuned model against its base. Not covered: bootstrap of whole
pipelines, comparisons of right-or-wrong answers (uncertainty).
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.optimize import root_scalar
from scipy.special import gammaln, ndtr

from evals.psychometrics.estimate import Estimate, undefined

QUANTILE_NODES = tuple(part / 2 for part in (np.polynomial.legendre.leggauss(200) + np.array([[1.0], [0.0]])))


class GroupMoments(NamedTuple):
    """Mean, SD (n − 1) and size of a group: all that these statistics need."""

    mean: float
    sd: float
    n: int


def describe(scores: npt.ArrayLike | GroupMoments) -> GroupMoments:
    """The moments of scores without missing values; GroupMoments pass through."""
    if isinstance(scores, GroupMoments):
        return scores
    values = np.asarray(scores, np.float64).ravel()
    values = values[~np.isnan(values)]
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite; one is infinite")
    sd = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    return GroupMoments(float(values.mean()) if len(values) else math.nan, sd, len(values))


class MeanTest(NamedTuple):
    """A t test of a mean difference; difference carries its confidence interval."""

    difference: Estimate
    se: float
    t: float
    df: float
    p: float


def welch(
    first: npt.ArrayLike | GroupMoments, second: npt.ArrayLike | GroupMoments, *, confidence: float = 0.95
) -> MeanTest:
    """Welch's test of first − second, without assuming equal variances.

    t = (m₁ − m₂)/√(s₁²/n₁ + s₂²/n₂), Satterthwaite's degrees of freedom.

    Args:
      first, second: scores of two groups, NaN where missing; or their GroupMoments.
      confidence: of the interval, two-sided.
    Returns: MeanTest(difference, se, t, df, p).
    Raises: ValueError for an infinite score.
    Reference: Welch 1947, Biometrika 34, 28-35.

    Example:
      >>> from evals.psychometrics import welch
      >>> found = welch([5, 6, 7, 8], [4, 4, 5, 6])
      >>> print(found.difference)
      1.750 [-0.257, 3.757], n = 8
      >>> round(found.p, 3)
      0.076
    """
    return _t_test(*_welch(describe(first), describe(second)), confidence)


def student(
    first: npt.ArrayLike | GroupMoments, second: npt.ArrayLike | GroupMoments, *, confidence: float = 0.95
) -> MeanTest:
    """Student's test of first − second with the pooled variance.

    t = (m₁ − m₂)/(s_pooled √(1/n₁ + 1/n₂)), n₁ + n₂ − 2 degrees of freedom.

    Args:
      first, second: scores of two groups, NaN where missing; or their GroupMoments.
      confidence: of the interval, two-sided.
    Returns: MeanTest(difference, se, t, df, p).
    Raises: ValueError for an infinite score.
    Reference: Student 1908, Biometrika 6, 1-25.

    Example:
      >>> from evals.psychometrics import student
      >>> round(student([5, 6, 7, 8], [4, 4, 5, 6]).t, 3)
      2.178
    """
    a, b = describe(first), describe(second)
    se = _pooled(a, b) * math.sqrt(1 / a.n + 1 / b.n) if a.n and b.n else math.nan
    return _t_test(a.mean - b.mean, se, a.n + b.n - 2, a.n + b.n, confidence)


def _welch(a: GroupMoments, b: GroupMoments) -> tuple[float, float, float, int]:
    if min(a.n, b.n) < 2:
        return math.nan, math.nan, math.nan, a.n + b.n
    va, vb = a.sd**2 / a.n, b.sd**2 / b.n
    if va + vb == 0:
        return a.mean - b.mean, 0.0, math.nan, a.n + b.n
    df = (va + vb) ** 2 / (va**2 / (a.n - 1) + vb**2 / (b.n - 1))
    return a.mean - b.mean, math.sqrt(va + vb), df, a.n + b.n


def _t_test(difference: float, se: float, df: float, n: int, confidence: float) -> MeanTest:
    if not se > 0:
        why = "neither group varies" if se == 0 else "a group has fewer than 2 scores"
        estimate = Estimate(difference, n=n, reason=f"no interval: {why}")
        return MeanTest(estimate, se, math.nan, df, math.nan)
    t = difference / se
    half = float(stats.t.ppf((1 + confidence) / 2, df)) * se
    p = float(2 * stats.t.sf(abs(t), df))
    return MeanTest(Estimate(difference, difference - half, difference + half, n), se, t, df, p)


class Tost(NamedTuple):
    """Two one-sided tests: p is the larger of the two; equivalent at level alpha where p < alpha.

    difference has the interval of confidence 1 − 2 alpha that goes with the tests. p is NaN with
    difference.reason where nothing varies.
    """

    difference: Estimate
    low_bound: float
    high_bound: float
    t_low: float
    p_low: float
    t_high: float
    p_high: float
    p: float
    df: float
    equivalent: bool


def tost(
    first: npt.ArrayLike | GroupMoments,
    second: npt.ArrayLike | GroupMoments | float,
    bound: float | tuple[float, float],
    *,
    paired: bool = False,
    alpha: float = 0.05,
    standardized: bool = False,
) -> Tost:
    """Is the difference first − second practically zero, inside the bounds? Two one-sided tests.

    p = max(P(T ≥ (d − low)/se), P(T ≤ (d − high)/se)).

    Args:
      first: scores of a group, NaN where missing; or their GroupMoments.
      second: another group (Welch), the same respondents (paired), or a fixed mean (one sample).
      bound: ± this, or (low, high), in score units.
      paired: the scores are from the same respondents, in the same order.
      alpha: level of the test.
      standardized: bounds are in units of √((s₁² + s₂²)/2) (SD of differences if paired, s₁ if one sample).
    Returns: Tost; equivalent where p < alpha.
    Raises: ValueError unless the lower bound lies below the upper.
    Reference: Schuirmann 1987; Lakens 2017, doi:10.1177/1948550617697177.

    Example:
      >>> from evals.psychometrics import tost
      >>> found = tost([5.1, 4.9, 5.0, 5.2, 4.8], [5.0, 5.0, 5.1, 5.1, 4.9], bound=0.5)
      >>> found.equivalent, round(found.p, 4)
      (True, 0.0005)
    """
    low, high = (-bound, bound) if isinstance(bound, int | float) else bound
    if not low < high:
        raise ValueError(f"the lower bound must lie below the upper; got {low} and {high}")
    if paired:
        pairs = np.asarray(first, float) - np.asarray(second, float)
        sample = describe(pairs)
        difference, se, df, n = _one_sample(sample)
        unit = sample.sd
    elif isinstance(second, int | float):
        sample = describe(first)
        difference, se, df, n = _one_sample(sample._replace(mean=sample.mean - second))
        unit = sample.sd
    else:
        a, b = describe(first), describe(second)
        difference, se, df, n = _welch(a, b)
        unit = math.sqrt((a.sd**2 + b.sd**2) / 2)
    low, high = (low * unit, high * unit) if standardized else (low, high)
    test = _t_test(difference, se, df, n, 1 - 2 * alpha)
    if math.isnan(test.p):
        nan = math.nan
        return Tost(test.difference, low, high, nan, nan, nan, nan, nan, df, False)
    t_low, t_high = (difference - low) / se, (difference - high) / se
    p_low, p_high = float(stats.t.sf(t_low, df)), float(stats.t.cdf(t_high, df))
    p = max(p_low, p_high)
    return Tost(test.difference, low, high, t_low, p_low, t_high, p_high, p, df, p < alpha)


def _one_sample(sample: GroupMoments) -> tuple[float, float, float, int]:
    se = sample.sd / math.sqrt(sample.n) if sample.n > 1 else math.nan
    return sample.mean, se, sample.n - 1, sample.n


def _pooled(a: GroupMoments, b: GroupMoments) -> float:
    if a.n + b.n < 3:
        return math.nan
    # a single score has no SD and adds nothing to the sum of squares
    squares = sum((s.n - 1) * s.sd**2 for s in (a, b) if s.n > 1)
    return math.sqrt(squares / (a.n + b.n - 2))


def cohens_d(
    first: npt.ArrayLike | GroupMoments, second: npt.ArrayLike | GroupMoments, *, confidence: float = 0.95
) -> Estimate:
    """Cohen's d = (m₁ − m₂)/s_pooled, with the interval of the noncentral t distribution.

    Args:
      first, second: scores of two groups, NaN where missing; or their GroupMoments.
      confidence: of the interval, two-sided.
    Returns: Estimate; NaN where neither group varies or a group is empty.
    Raises: ValueError for an infinite score.
    Reference: Cohen 1988, Statistical Power Analysis; Cumming & Finch 2001 for the interval.

    Example:
      >>> from evals.psychometrics import cohens_d
      >>> print(cohens_d([5, 6, 7, 8], [4, 4, 5, 6]))
      1.540 [-0.131, 3.122], n = 8
    """
    return _standardized(describe(first), describe(second), confidence, corrected=False)


def hedges_g(
    first: npt.ArrayLike | GroupMoments,
    second: npt.ArrayLike | GroupMoments,
    *,
    exact: bool = True,
    confidence: float = 0.95,
) -> Estimate:
    """Hedges' g: Cohen's d without its bias in small samples.

    g = J d, J = Γ(ν/2) / (√(ν/2) Γ((ν − 1)/2)) with ν = n₁ + n₂ − 2.

    Args:
      first, second: scores of two groups, NaN where missing; or their GroupMoments.
      exact: False takes the usual approximation J = 1 − 3/(4ν − 1), for comparison with other programs.
      confidence: of the interval, two-sided.
    Returns: Estimate; NaN as `cohens_d`, and with fewer than 4 scores.
    Raises: ValueError for an infinite score.
    Reference: Hedges 1981, Journal of Educational Statistics 6, 107-128.

    Example:
      >>> from evals.psychometrics import hedges_g
      >>> round(hedges_g([5, 6, 7, 8], [4, 4, 5, 6]).value, 3)
      1.338
    """
    a, b = describe(first), describe(second)
    found = _standardized(a, b, confidence, corrected=True)
    if exact or not found.defined:
        return found
    df = a.n + b.n - 2
    change = (1 - 3 / (4 * df - 1)) / hedges_correction(df)
    return found._replace(value=found.value * change, low=found.low * change, high=found.high * change)


def hedges_correction(df: float) -> float:
    """The exact J of `hedges_g`; about 1 − 3/(4ν − 1)."""
    return math.exp(gammaln(df / 2) - gammaln((df - 1) / 2) - math.log(df / 2) / 2) if df > 1 else math.nan


def _standardized(a: GroupMoments, b: GroupMoments, confidence: float, *, corrected: bool) -> Estimate:
    n = a.n + b.n
    pooled = _pooled(a, b)
    if min(a.n, b.n) < 1 or not pooled > 0:
        return undefined("an empty group" if min(a.n, b.n) < 1 else "no variance within the groups", n)
    d = (a.mean - b.mean) / pooled
    df = n - 2
    if corrected and df < 2:
        return undefined(f"Hedges' correction needs more than 3 scores (got {n})", n)
    size = math.sqrt(a.n * b.n / n)
    low, high = (v / size for v in noncentral_t_interval(d * size, df, confidence))
    j = hedges_correction(df) if corrected else 1.0
    return Estimate(j * d, j * low, j * high, n)


def noncentral_t_cdf(t: float, df: float, noncentrality: float) -> float:
    """P(T ≤ t) of the noncentral t: the mean of Φ(ts − δ) over s = √(χ²/df), by quadrature.

    scipy's own is NaN at some ordinary arguments (seen at 1.17).

    Args:
      t: where it is evaluated.
      df: degrees of freedom.
      noncentrality: δ.
    Returns: a probability.
    """
    nodes, weights = QUANTILE_NODES
    spread = np.sqrt(stats.chi2.ppf(nodes, df) / df)
    return float(weights @ ndtr(t * spread - noncentrality))


def noncentral_t_interval(t: float, df: float, confidence: float = 0.95) -> tuple[float, float]:
    """The noncentralities at which an observed t is the upper and the lower tail quantile.

    Args:
      t: observed.
      df: degrees of freedom.
      confidence: of the interval, in (0, 1).
    Returns: lower and upper δ.
    """
    reach = 10 + 10 * abs(t)

    def bound(probability: float) -> float:
        found = root_scalar(
            lambda d: noncentral_t_cdf(t, df, d) - probability, bracket=(-reach, reach), xtol=1e-9
        )
        return float(found.root)

    return bound((1 + confidence) / 2), bound((1 - confidence) / 2)


def glass_delta(
    scores: npt.ArrayLike | GroupMoments, reference: npt.ArrayLike | GroupMoments, *, confidence: float = 0.95
) -> Estimate:
    """Glass's Δ = (m − m_ref)/s_ref: a difference in SDs of the reference group, people or the base model.

    The interval is normal with variance s²/(n s_ref²) + 1/n_ref + Δ²/(2(n_ref − 1)), which lets the groups
    differ in variance.

    Args:
      scores, reference: of two groups, NaN where missing; or their GroupMoments.
      confidence: of the interval, two-sided.
    Returns: Estimate; NaN where the reference group does not vary.
    Raises: ValueError for an infinite score.
    Reference: Glass 1976; Hedges 1981; variance by the delta method.

    Example:
      >>> from evals.psychometrics import glass_delta
      >>> print(glass_delta([5, 6, 7, 8], [4, 4, 5, 6]))
      1.828 [-0.373, 4.029], n = 8
    """
    a, ref = describe(scores), describe(reference)
    n = a.n + ref.n
    if a.n < 1 or ref.n < 2:
        return undefined(f"needs a score and 2 reference scores (got {a.n} and {ref.n})", n)
    if not ref.sd > 0:
        return undefined("the reference group does not vary", n)
    delta = (a.mean - ref.mean) / ref.sd
    if a.n < 2:
        return Estimate(delta, n=n, reason="no interval: a single score has no sampling error")
    variance = a.sd**2 / (a.n * ref.sd**2) + 1 / ref.n + delta**2 / (2 * (ref.n - 1))
    half = float(stats.norm.ppf((1 + confidence) / 2)) * math.sqrt(variance)
    return Estimate(delta, delta - half, delta + half, n)


def dispersion_ratio(
    scores: npt.ArrayLike | GroupMoments, reference: npt.ArrayLike | GroupMoments, *, confidence: float = 0.95
) -> Estimate:
    """s/s_ref of two independent groups, with the interval of the F distribution.

    Below 1 the group differs less within itself than the reference: characteristics are restricted.

    Args:
      scores, reference: of two groups, NaN where missing; or their GroupMoments.
      confidence: of the interval, two-sided.
    Returns: Estimate; NaN where the reference group does not vary.
    Raises: ValueError for an infinite score.
    Reference: Snedecor & Cochran 1989, Statistical Methods, section 6.12.

    Example:
      >>> from evals.psychometrics import dispersion_ratio
      >>> print(dispersion_ratio([5, 6, 7, 8], [2, 4, 6, 9]))
      0.432 [0.110, 1.699], n = 8
    """
    a, ref = describe(scores), describe(reference)
    n = a.n + ref.n
    if min(a.n, ref.n) < 2:
        return undefined(f"both groups need 2 scores (got {a.n} and {ref.n})", n)
    if not ref.sd > 0:
        return undefined("the reference group does not vary", n)
    ratio = (a.sd / ref.sd) ** 2
    upper, lower = (stats.f.ppf(p, a.n - 1, ref.n - 1) for p in ((1 + confidence) / 2, (1 - confidence) / 2))
    return Estimate(math.sqrt(ratio), math.sqrt(ratio / upper), math.sqrt(ratio / lower), n)


def holm(p_values: npt.ArrayLike) -> np.ndarray:
    """Holm's adjusted p, which bound the chance of any false rejection.

    The r-th smallest of m becomes max over the smaller ones of (m − rank + 1) p, at most 1.

    Args:
      p_values: of the tests; NaN stay NaN and do not count.
    Returns: adjusted p in the same order.
    Raises: ValueError for a p outside 0 to 1.
    Reference: Holm 1979, Scandinavian Journal of Statistics 6, 65-70.

    Example:
      >>> from evals.psychometrics import holm
      >>> holm([0.01, 0.04, 0.03]).round(3)
      array([0.03, 0.06, 0.06])
    """
    return _adjust(p_values, lambda p: np.maximum.accumulate(p * np.arange(len(p), 0, -1)))


def benjamini_hochberg(p_values: npt.ArrayLike) -> np.ndarray:
    """Benjamini and Hochberg's adjusted p, which bound the share of false rejections among all rejections.

    The r-th smallest of m becomes min over the larger ones of m p / rank, at most 1.

    Args:
      p_values: of the tests; NaN stay NaN and do not count.
    Returns: adjusted p in the same order.
    Raises: ValueError for a p outside 0 to 1.
    Reference: Benjamini & Hochberg 1995, J. R. Stat. Soc. B 57, 289-300.

    Example:
      >>> from evals.psychometrics import benjamini_hochberg
      >>> benjamini_hochberg([0.01, 0.04, 0.03]).round(3)
      array([0.03, 0.04, 0.04])
    """
    return _adjust(
        p_values,
        lambda p: np.minimum.accumulate((p * len(p) / np.arange(1, len(p) + 1))[::-1])[::-1],
    )


def _adjust(p_values: npt.ArrayLike, step) -> np.ndarray:
    p = np.asarray(p_values, np.float64)
    valid = ~np.isnan(p)
    if ((p[valid] < 0) | (p[valid] > 1)).any():
        raise ValueError(f"p values must lie between 0 and 1; got {p[valid].min()} to {p[valid].max()}")
    adjusted = np.full(p.shape, math.nan)
    known = p[valid]
    order = np.argsort(known, kind="stable")
    result = np.empty_like(known)
    result[order] = np.minimum(step(known[order]), 1) if len(known) else known
    adjusted[valid] = result
    return adjusted
