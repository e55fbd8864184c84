"""How far a score may be off, and how well it recurs: SEM, test-retest, longer tests, disattenuation.

Not covered: agreement of many measurements (agreement) and over many conditions (generalizability).
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from evals.psychometrics.agreement import icc
from evals.psychometrics.estimate import Estimate, as_matrix, complete_cases, pearson, undefined


def spearman_brown(reliability: float, factor: float = 2.0) -> float:
    """The reliability of a test made `factor` times as long with parallel parts: f r / (1 + (f − 1) r).

    Args:
      reliability: of the test as it is.
      factor: how many times as long; 2 steps a half up to the whole.
    Returns: the reliability; NaN where the denominator is not positive.
    Raises: ValueError unless factor > 0.
    Reference: Spearman 1910; Brown 1910, British Journal of Psychology 3, 271-295 and 296-322.

    Example:
      >>> from evals.psychometrics import spearman_brown
      >>> spearman_brown(0.6)
      0.7499999999999999
    """
    if not factor > 0:
        raise ValueError(f"factor must be positive; got {factor} (2 doubles the test)")
    denominator = 1 + (factor - 1) * reliability
    return factor * reliability / denominator if denominator > 0 else math.nan


def lengthening(reliability: float, target: float) -> float:
    """How many times as long a test must be for a target reliability: t(1 − r) / (r(1 − t)).

    NaN where the reliability is not positive. Raises: ValueError for a target outside (0, 1).

    Args:
      reliability: r, of the test as it is.
      target: t.
    Returns: the factor; if below 1, the test may be shortened.
    """
    if not 0 < target < 1:
        raise ValueError(f"target must lie between 0 and 1; got {target}")
    return target * (1 - reliability) / (reliability * (1 - target)) if reliability > 0 else math.nan


def standard_error_of_measurement(sd: float, reliability: Estimate | float) -> Estimate:
    """The standard error of measurement in score units: SEM = sd √(1 − reliability).

    Args:
      sd: standard deviation of the scores over persons.
      reliability: a number or an Estimate, whose interval is carried over.
    Returns: Estimate in score units; NaN where there is no SD or no reliability, or one over 1.
    Raises: nothing.
    Reference: Lord & Novick 1968, Statistical Theories of Mental Test Scores, section 3.8.

    Example:
      >>> from evals.psychometrics import standard_error_of_measurement
      >>> standard_error_of_measurement(15, 0.91).value
      4.499999999999999
    """
    r = reliability if isinstance(reliability, Estimate) else Estimate(float(reliability))
    if not r.defined or not sd >= 0:
        return undefined(r.reason or f"no standard deviation (got {sd})", r.n)
    if r.value > 1:
        return undefined(f"a reliability over 1 (got {r.value:.3g})", r.n)
    low, high = (sd * math.sqrt(max(0.0, 1 - bound)) for bound in (r.high, r.low))
    return Estimate(sd * math.sqrt(1 - r.value), low, high, r.n, r.reason)


def disattenuate(r: Estimate | float, reliability_x: float, reliability_y: float) -> Estimate:
    """The correlation of true scores, r / √(reliability_x reliability_y); it may exceed 1 and is not clipped.

    The interval is that of r over the same root: the reliabilities are taken as known.

    Args:
      r: the observed correlation, a number or an Estimate.
      reliability_x, reliability_y: of the two scores.
    Returns: Estimate; NaN unless both reliabilities are positive.
    Raises: nothing.
    Reference: Spearman 1904, American Journal of Psychology 15, 72-101.

    Example:
      >>> from evals.psychometrics import disattenuate
      >>> round(disattenuate(0.5, 0.8, 0.7).value, 3)
      0.668
    """
    r = r if isinstance(r, Estimate) else Estimate(float(r))
    if not r.defined:
        return undefined(r.reason or "the correlation is undefined", r.n)
    if not (reliability_x > 0 and reliability_y > 0):
        got = f"{reliability_x:.3g} and {reliability_y:.3g}"
        return undefined(f"both reliabilities must be positive (got {got})", r.n)
    root = math.sqrt(reliability_x * reliability_y)
    return Estimate(r.value / root, r.low / root, r.high / root, r.n, r.reason)


class Retest(NamedTuple):
    """Two measurements of the same respondents.

    Attributes:
      r: Pearson correlation, Fisher's interval; agreement: ICC(A,1); consistency: ICC(C,1).
      sem: pooled SD × √(1 − r); typical_error: SD of the differences / √2.
      smallest_change: 1.96 √2 typical error, the least difference beyond error.
      bias: mean difference (first − second) with its t interval; t, df, p: the paired test of no bias.
      limits: Bland-Altman limits of agreement, bias ± 1.96 SD of the differences.
    """

    r: Estimate
    agreement: Estimate
    consistency: Estimate
    sem: float
    typical_error: float
    smallest_change: float
    bias: Estimate
    t: float
    df: int
    p: float
    limits: tuple[float, float]
    n: int


def retest(first: npt.ArrayLike, second: npt.ArrayLike, *, confidence: float = 0.95) -> Retest:
    """Stability of a score over two occasions; pairs with a missing value are left out.

    Args:
      first, second: scores of the same respondents on two occasions.
      confidence: of the intervals, two-sided.
    Returns: Retest, with r, both ICC, SEM, least change, bias and limits of agreement.
    Raises: ValueError where the two differ in length.
    Reference: Bland & Altman 1986; Weir 2005, J. Strength Cond. Res. 19, 231-240.

    Example:
      >>> from evals.psychometrics import retest
      >>> found = retest([10, 12, 9, 14, 11, 13], [11, 12, 10, 13, 12, 14])
      >>> print(found.agreement)
      0.852 [0.347, 0.977], n = 6
      >>> round(found.smallest_change, 2)
      1.64
    """
    pairs = as_matrix(np.column_stack([np.asarray(first, float), np.asarray(second, float)]))
    pairs = complete_cases(pairs)
    n = len(pairs)
    r = pearson(pairs[:, 0], pairs[:, 1], confidence=confidence)
    agreement, consistency = (icc(pairs, form, confidence=confidence) for form in ("ICC(A,1)", "ICC(C,1)"))
    if n < 2:
        none = undefined(f"fewer than 2 complete pairs (got {n})", n)
        nan = math.nan
        return Retest(r, agreement, consistency, nan, nan, nan, none, nan, 0, nan, (nan, nan), n)
    difference = pairs[:, 0] - pairs[:, 1]
    mean, sd = float(difference.mean()), float(difference.std(ddof=1))
    typical = sd / math.sqrt(2)
    pooled = math.sqrt(pairs.var(axis=0, ddof=1).mean())
    sem = pooled * math.sqrt(1 - r.value) if r.defined else math.nan
    if sd > 0:
        half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * sd / math.sqrt(n)
        t = mean / (sd / math.sqrt(n))
        bias, p = Estimate(mean, mean - half, mean + half, n), float(2 * stats.t.sf(abs(t), n - 1))
    else:
        bias, t, p = Estimate(mean, n=n, reason="the differences do not vary"), math.nan, math.nan
    return Retest(
        r,
        agreement,
        consistency,
        sem,
        typical,
        1.96 * math.sqrt(2) * typical,
        bias,
        t,
        n - 1,
        p,
        (mean - 1.96 * sd, mean + 1.96 * sd),
        n,
    )
