"""Does the same test give the same score, and the same question the same answer, from every respondent?

Conditions are whatever should not matter: templates, wordings, option orders, item orders, seeds.
"""

import numpy as np
from scipy import stats

from evals.faithfulness.criteria import CARELESS, Check, Setting, indistinct, judged, undetermined
from evals.psychometrics.agreement import icc
from evals.psychometrics.estimate import Estimate, percentile_estimate, undefined
from evals.psychometrics.response_style import refusal_rate
from evals.questionnaires.instrument import Scale
from evals.questionnaires.response_table import ResponseCube

DRAWS = 1000
# ICC of one respondent's answers: by chance it is 0; someone who reads the questions repeats most answers
LEAST_CONSISTENCY, LEAST_ITEMS = 0.45, 3
ONE_CONDITION = "asked in one condition only: add templates, option orders, item orders or seeds"


def reproducibility(one: ResponseCube, scale: Scale, setting: Setting) -> list[Check]:
    """ICC(A,1) of scores over conditions; ICC(A,1) of single answers; how many answer at random.

    Args:
      one: the instrument's answers, completed.
    Returns: a check each.
    """
    limits = setting.thresholds
    statistic = "ICC(A,1) over conditions"
    scores = one.scores(scale)
    if check := indistinct(scores, statistic, limits.retest, setting):
        return [check]
    if scores.shape[1] < 2:
        return [undetermined(statistic, ONE_CONDITION, limits.retest, len(scores))]
    places = one.columns(scale.name)
    found = icc(scores, "ICC(A,1)", confidence=setting.confidence)
    single = answer_icc(one.keyed[:, :, places], setting)
    return [
        judged(statistic, found, limits.retest, setting),
        judged("ICC(A,1) of single answers", single, limits.answer_retest, setting),
        judged(CARELESS, careless_share(one, scale, setting.confidence), limits.careless, setting),
    ]


def answer_icc(answers_PCJ: np.ndarray, setting: Setting) -> Estimate:
    """ICC(A,1) of answers over conditions; each person's answer to each item is a subject.

    The interval is a percentile bootstrap over persons, since one person's answers are not independent.

    Args:
      answers_PCJ: persons x conditions x items.
    Returns: Estimate; n counts persons.
    """
    known = answers_PCJ[~np.isnan(answers_PCJ).any(axis=(1, 2))]
    n, c, j = known.shape
    if n < 2 or np.ptp(known) == 0:
        return undefined(f"fewer than 2 respondents whose answers vary (n = {n})", n)
    values = known - known.mean()
    # by person: Σ of squared answer means, Σ of squares, sums by condition
    means = np.square(values.mean(axis=1)).sum(axis=1)
    squares = np.square(values).sum(axis=(1, 2))
    sums = values.sum(axis=2)
    rng = np.random.default_rng(setting.seed)
    drawn_from = rng.integers(0, n, (DRAWS, n)) + n * np.arange(DRAWS)[:, None]
    counts = np.bincount(drawn_from.ravel(), minlength=n * DRAWS).reshape(DRAWS, n)
    weights = np.vstack([np.ones(n), counts])
    subjects = n * j
    columns = weights @ sums / subjects
    grand = columns.mean(axis=1)
    rows = c * (weights @ means - subjects * grand**2)
    between = subjects * (columns**2).sum(axis=1) - subjects * c * grand**2
    residual = weights @ squares - subjects * c * grand**2 - rows - between
    r, k, e = rows / (subjects - 1), between / (c - 1), residual / ((subjects - 1) * (c - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = (r - e) / (r + (c - 1) * e + c * (k - e) / subjects)
    return percentile_estimate(float(drawn[0]), drawn[1:], n, confidence=setting.confidence)


def careless_share(one: ResponseCube, scale: Scale, confidence: float) -> Estimate:
    """The share of respondents whose answers to a scale do not recur, with Wilson's interval.

    A respondent is careless if the answers are as good as random both on the scale and on the whole
    instrument: a few items alone say little about one person, and the whole is no evidence against a scale
    that is answered with care. Giving a single answer throughout does not count: that is style.

    Args:
      one: the instrument's answers, completed.
      scale: whose items count.
      confidence: of the interval over respondents, two-sided.
    Returns: Estimate; n counts persons without a missing answer on the scale.
    Reference: Curran 2016, Journal of Experimental Social Psychology 66, 4-19.
    """
    items = one.raw[:, :, one.columns(scale.name)]
    known = ~np.isnan(items).any(axis=(1, 2))
    if items.shape[2] < LEAST_ITEMS:
        why = f"needs {LEAST_ITEMS} items to tell whether a respondent answers at random"
        return undefined(why, int(known.sum()))
    if not known.any():
        return undefined("no respondent answered every item", 0)
    return refusal_rate(_at_random(items[known]) & _at_random(one.raw[known]), confidence=confidence)


def _at_random(raw_PCJ: np.ndarray) -> np.ndarray:
    """For each person, whether the one-way ICC of items x conditions, as given, lies below LEAST_CONSISTENCY
    with a one-sided error of 10 % (Shrout & Fleiss 1979); items with a gap are left out."""
    k = raw_PCJ.shape[1]
    means, within_items = raw_PCJ.mean(axis=1), raw_PCJ.var(axis=1, ddof=1)
    count = np.maximum((~np.isnan(means)).sum(axis=1), 2)
    within = np.nansum(within_items, axis=1) / count
    deviation = means - (np.nansum(means, axis=1) / count)[:, None]
    between = k * np.nansum(deviation**2, axis=1) / (count - 1)
    least = (1 + (k - 1) * LEAST_CONSISTENCY) / (1 - LEAST_CONSISTENCY)
    quantile = stats.f.ppf(0.9, count * (k - 1), count - 1)
    return (within > 0) & (between * quantile < least * within)
