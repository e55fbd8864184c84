"""Two measurements of the same respondents compared: mean difference and ratio of spreads.

Two models that answer as the same described people are such a pair: what the people share is not error.
Not covered: equivalence (comparisons.tost takes pairs), two groups of different people (comparisons).
"""

import math

import numpy as np
import numpy.typing as npt
from scipy import stats

from evals.psychometrics.comparisons import MeanTest
from evals.psychometrics.estimate import Estimate, as_matrix, complete_cases, undefined


def paired_difference(
    scores: npt.ArrayLike, reference: npt.ArrayLike, *, unit: float = 1.0, confidence: float = 0.95
) -> MeanTest:
    """The mean of scores − reference over the same respondents, with its t interval, in given units.

    t = d̄ √n / s_d, n − 1 degrees of freedom. The unit, an SD of people or of the reference, is taken as
    known.

    Args:
      scores, reference: of the same respondents in the same order; pairs with a gap are left out.
      unit: score points that count as 1.
      confidence: of the interval, two-sided.
    Returns: MeanTest(difference, se, t, df, p); n counts pairs. Where everybody changes alike the interval is
      the difference itself, and p is 0 or 1.
    Raises: ValueError where the two differ in length, or for a unit that is not positive.
    Reference: Student 1908, Biometrika 6, 1-25.

    Example:
      >>> from evals.psychometrics import paired_difference
      >>> found = paired_difference([3.1, 4.0, 2.6, 3.6], [3.0, 3.7, 2.5, 3.4])
      >>> print(found.difference)
      0.175 [0.023, 0.327], n = 4
    """
    if not unit > 0:
        raise ValueError(f"unit must be positive; got {unit}")
    pairs = _pairs(scores, reference)
    n = len(pairs)
    if n < 2:
        nan = math.nan
        return MeanTest(undefined(f"fewer than 2 complete pairs (got {n})", n), nan, nan, nan, nan)
    change = (pairs[:, 0] - pairs[:, 1]) / unit
    mean, se = float(change.mean()), float(change.std(ddof=1)) / math.sqrt(n)
    if se <= 1e-12:
        same = Estimate(mean, mean, mean, n, "everybody changes alike")
        return MeanTest(same, 0.0, math.nan, n - 1, float(abs(mean) <= 1e-12))
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * se
    p = float(2 * stats.t.sf(abs(mean / se), n - 1))
    return MeanTest(Estimate(mean, mean - half, mean + half, n), se, mean / se, n - 1, p)


def paired_dispersion(
    scores: npt.ArrayLike, reference: npt.ArrayLike, *, confidence: float = 0.95
) -> Estimate:
    """s/s_ref over the same respondents, with the interval of Pitman and Morgan.

    With F = s²/s²_ref, r the correlation and K = 1 + 2(1 − r²) t²/(n − 2): √(F (K ∓ √(K² − 1))). Below 1 the
    respondents differ less than before: characteristics are restricted.

    Args:
      scores, reference: of the same respondents in the same order; pairs with a gap are left out.
      confidence: of the interval, two-sided.
    Returns: Estimate; n counts pairs; NaN where the reference does not vary.
    Raises: ValueError where the two differ in length.
    Reference: Pitman 1939, Biometrika 31, 9-12; Morgan 1939, Biometrika 31, 13-19.

    Example:
      >>> from evals.psychometrics import paired_dispersion
      >>> print(paired_dispersion([3.1, 3.6, 2.8, 3.4, 3.2], [3.0, 3.9, 2.4, 3.6, 3.1]))
      0.524 [0.453, 0.606], n = 5
    """
    pairs = _pairs(scores, reference)
    n = len(pairs)
    if n < 3:
        return undefined(f"fewer than 3 complete pairs (got {n})", n)
    spread, base = (float(part.std(ddof=1)) for part in pairs.T)
    if base <= 1e-12:
        return undefined("the reference does not vary", n)
    if spread <= 1e-12:
        return Estimate(0.0, n=n, reason="no interval: the scores do not vary")
    r = float(np.corrcoef(pairs.T)[0, 1])
    t = float(stats.t.ppf((1 + confidence) / 2, n - 2))
    k = 1 + 2 * max(1 - r**2, 0.0) * t**2 / (n - 2)
    wide = k + math.sqrt(k**2 - 1)
    ratio = spread / base
    return Estimate(ratio, ratio / math.sqrt(wide), ratio * math.sqrt(wide), n)


def pitman_morgan(scores: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """p of equal variances in two measurements of the same respondents, two-sided.

    t = (F − 1) √(n − 2) / (2 √(F (1 − r²))), F = s²/s²_ref, n − 2 degrees of freedom; the test that
    `paired_dispersion`'s interval inverts.

    Args:
      scores, reference: of the same respondents in the same order; pairs with a gap are left out.
    Returns: p; NaN for fewer than 3 pairs, or where one of the two does not vary: scores are steps of a
      scale, and if nobody leaves a step, that says little when few left it before.
    Raises: ValueError where the two differ in length.
    Reference: Pitman 1939, Biometrika 31, 9-12; Morgan 1939, Biometrika 31, 13-19.

    Example:
      >>> from evals.psychometrics import pitman_morgan
      >>> round(pitman_morgan([3.1, 3.6, 2.8, 3.4, 3.2], [3.0, 3.9, 2.4, 3.6, 3.1]), 4)
      0.0006
    """
    pairs = _pairs(scores, reference)
    n = len(pairs)
    if n < 3:
        return math.nan
    spread, base = (float(part.var(ddof=1)) for part in pairs.T)
    if min(spread, base) <= 1e-24:
        return math.nan
    r = float(np.corrcoef(pairs.T)[0, 1])
    f = spread / base
    left = 2 * math.sqrt(f * max(1 - r**2, 0.0))
    if left <= 1e-12:
        return 1.0 if abs(f - 1) <= 1e-12 else 0.0
    return float(2 * stats.t.sf(abs(f - 1) * math.sqrt(n - 2) / left, n - 2))


def _pairs(scores: npt.ArrayLike, reference: npt.ArrayLike) -> np.ndarray:
    first, second = (np.asarray(values, np.float64).ravel() for values in (scores, reference))
    if len(first) != len(second):
        raise ValueError(f"scores and reference must pair up; got {len(first)} and {len(second)}")
    return complete_cases(as_matrix(np.column_stack([first, second])))
