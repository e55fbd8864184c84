"""A check: an estimate with its interval against a threshold, and the verdict.

Not covered: which checks there are (reproducibility, internal_consistency, external_consistency,
generalizability, validity), and gathering them into verdicts (verdicts).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from evals.psychometrics.estimate import Estimate, complete_cases, undefined, z_critical
from evals.questionnaires.instrument import Scale
from evals.questionnaires.response_table import ResponseCube

FaithfulnessVerdict = Literal["faithful", "not faithful", "undetermined"]
FORWARD_REVERSE = "forward-reverse r"
HALO = "halo"
CARELESS = "share answering at random"
# statistics that must lie below their threshold
BELOW = (FORWARD_REVERSE, HALO, CARELESS)


@dataclass(frozen=True)
class Thresholds:
    """What counts as enough; this project's choice, shown in every report.

    Attributes:
      retest: least ICC(A,1) of a score over conditions.
      answer_retest: least ICC(A,1) of single answers over conditions.
      careless: upper limit for the share of respondents whose answers do not recur.
      alpha: least Cronbach's α within a condition.
      forward_reverse: upper limit for r of true-keyed with false-keyed items as given.
      convergent: least r of two instruments' scores on one construct.
      discriminant: by how much that r must exceed the largest |r| with another construct; the same against
        the described traits.
      halo: upper limit for how far a score follows the other constructs' scores, beyond the description.
      generalizability: least G coefficient over items and conditions, of one condition each.
      behavior: least r of the score with behavior.
      criterion: least r of the score with the described or known trait, corrected for attenuation.
      beyond_description: least reliability of what scores say beyond the description.
      missing: missing answers are imputed up to this share of a scale; beyond it, bounds decide.
      least_respondents: with fewer, a criterion stays undetermined, whatever the estimate.
    """

    retest: float = 0.75
    answer_retest: float = 0.40
    careless: float = 0.20
    alpha: float = 0.70
    forward_reverse: float = 0.0
    convergent: float = 0.50
    discriminant: float = 0.10
    halo: float = 0.40
    generalizability: float = 0.70
    behavior: float = 0.30
    criterion: float = 0.60
    beyond_description: float = 0.0
    missing: float = 0.25
    least_respondents: int = 8

    def __post_init__(self) -> None:
        if self.least_respondents < 4:
            raise ValueError(
                "least_respondents must be at least 4, or there are no intervals; "
                f"got {self.least_respondents}"
            )
        if not 0 <= self.missing < 0.5:
            raise ValueError(
                f"missing must lie in [0, 0.5), or most of a score is imputed; got {self.missing}"
            )


class Setting(NamedTuple):
    """What all checks share."""

    thresholds: Thresholds
    confidence: float = 0.95
    seed: int = 0


class Check(NamedTuple):
    """An estimate against its threshold."""

    statistic: str
    estimate: Estimate
    threshold: float
    verdict: FaithfulnessVerdict
    reason: str = ""


def judged(statistic: str, estimate: Estimate, threshold: float, setting: Setting) -> Check:
    """The verdict of an interval: wholly beyond the threshold, wholly short of it, or across.

    Short is decided first, so that a tie (an estimate without spread on the threshold) is never faithful.

    Args:
      statistic: those in BELOW must lie below the threshold, all others above.
      estimate: with its interval; without an interval the check is undetermined.
    Returns: the check.
    """
    sign = -1 if statistic in BELOW else 1
    low, high = sorted((sign * estimate.low, sign * estimate.high))
    least = setting.thresholds.least_respondents
    if not estimate.defined or math.isnan(low) or math.isnan(high):
        return Check(statistic, estimate, threshold, "undetermined", estimate.reason)
    if estimate.n < least:
        why = f"{estimate.n} respondents; at least {least} are asked for (thresholds.least_respondents)"
        return Check(statistic, estimate, threshold, "undetermined", why)
    if high <= sign * threshold:
        return Check(statistic, estimate, threshold, "not faithful")
    if low > sign * threshold:
        return Check(statistic, estimate, threshold, "faithful")
    why = "; ".join(filter(None, (estimate.reason, "the interval holds the threshold")))
    return Check(statistic, estimate, threshold, "undetermined", why)


def undetermined(statistic: str, why: str, threshold: float, n: int = 0) -> Check:
    """A check that cannot be made, and why.

    Args:
      statistic: what would have been estimated.
      why: the reason, shown in tables and reports.
      threshold: what the estimate would have been compared with.
      n: number of respondents.
    Returns: the check, with a NaN estimate.
    """
    return Check(statistic, undefined(why, n), threshold, "undetermined")


def indistinct(scores_PC: np.ndarray, statistic: str, threshold: float, setting: Setting) -> Check | None:
    """The check where persons cannot be told apart at all; None where they can.

    If several people described as different all get the same score, whatever was measured was not these
    people. The statistic stays NaN. With a single person nothing can be said.

    Args:
      scores_PC: [persons, conditions]; persons with a missing score are left out.
      statistic, threshold: the check's name, and what it is compared with.
      setting: its least_respondents decides which verdict identical scores get.
    Returns: not faithful for at least least_respondents persons, undetermined for fewer or none; None where
      scores vary in some condition.
    """
    complete = complete_cases(scores_PC)
    n, least = len(complete), setting.thresholds.least_respondents
    if not len(complete):
        why = "no respondent answered every item" if len(scores_PC) else "no respondents"
        return undetermined(statistic, why, threshold)
    if (np.ptp(complete, axis=0) > 1e-12).any():
        return None
    if n < least:
        why = f"no variance between respondents (n = {n}): describe at least {least} different people"
        return undetermined(statistic, why, threshold, n)
    why = f"no variance: {n} people who were described as different got the same score"
    return Check(statistic, undefined(why, n), threshold, "not faithful")


def mean_over_conditions(found: Sequence[Estimate]) -> Estimate:
    """The mean of a coefficient and of its bounds over conditions.

    The same persons answer in each condition, so the mean is known at least as well as any one of its parts:
    the interval is conservative. Conditions where the coefficient is undefined are left out and counted in
    the reason.
    """
    usable = [e for e in found if e.defined and not math.isnan(e.low)]
    if not usable:
        return found[0]
    left = len(found) - len(usable)
    note = f"without {left} of {len(found)} conditions, where it is undefined" if left else ""
    value, low, high = (float(np.mean(part)) for part in zip(*(e[:3] for e in usable), strict=True))
    return Estimate(value, low, high, min(e.n for e in usable), note)


def construct_of(scale: Scale) -> str:
    """What a scale measures; the scale's name where it does not say."""
    return scale.measures or scale.name


def person_means(one: ResponseCube, scale: Scale, persons: pd.Index) -> np.ndarray:
    """Scores of one scale, averaged over conditions.

    Args:
      one: the instrument's answers.
      persons: the persons wanted, as in `ResponseCube.persons`, in the order of the result.
    Returns: [persons], in the direction of the construct; NaN for a person who is absent or lacks an answer.
    """
    mean = one.scores(scale).mean(axis=1)
    places = one.persons.get_indexer(persons)
    return np.where(places >= 0, mean[places], np.nan)


def pooled(checks: Sequence[Check], setting: Setting) -> Check:
    """Pools the same check over several imputed data sets into one.

    The value is the mean; with W the half width towards a bound and B the variance of the values over M
    imputations, the half width becomes √(W² + z² (1 + 1/M) B). If any of them is undefined, that one is
    returned.

    Args:
      checks: one for each imputation, at least two, all of the same statistic and threshold.
      setting: whose confidence gives z.
    Returns: the check of the pooled estimate, or the first undefined one.
    Reference: Rubin 1987, Multiple Imputation for Nonresponse in Surveys, chapter 3.
    """
    for check in checks:
        if not check.estimate.defined or math.isnan(check.estimate.low):
            return check
    found = pooled_estimate([check.estimate for check in checks], setting.confidence)
    return judged(checks[0].statistic, found, checks[0].threshold, setting)


def pooled_estimate(found: Sequence[Estimate], confidence: float) -> Estimate:
    """Pools the same estimate over several imputed data sets into one, as in `pooled`.

    Args:
      found: one for each imputation; a single one stays as it is.
      confidence: of their intervals, two-sided.
    Returns: the pooled estimate, or the first without a value or interval.
    """
    for one in found:
        if not one.defined or math.isnan(one.low) or len(found) == 1:
            return one
    values, lows, highs = (np.array([getattr(e, k) for e in found]) for k in ("value", "low", "high"))
    between = (1 + 1 / len(found)) * float(values.var(ddof=1)) * z_critical(confidence) ** 2
    value = float(values.mean())
    below, above = float((values - lows).mean()), float((highs - values).mean())
    return found[0]._replace(
        value=value,
        low=value - math.sqrt(below**2 + between),
        high=value + math.sqrt(above**2 + between),
    )
