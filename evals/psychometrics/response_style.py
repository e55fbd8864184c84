"""How a respondent answers whatever the question: acquiescence, extremity, midpoint, position, refusals.

These take answers as given, before reversal (evals.questionnaires.scoring.tabulate). What looks like a trait
may be nothing but style. Not covered: the simulated respondents themselves (respondents).
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from evals.psychometrics.estimate import Estimate, as_matrix, complete_cases, pearson, undefined

INDICES = (
    "acquiescence",
    "agreement_excess",
    "balanced_acquiescence",
    "extremity",
    "midpoint",
    "irv",
    "longstring",
)


def style_indices(
    raw: npt.ArrayLike, low: float, high: float, keys: npt.ArrayLike | None = None
) -> pd.DataFrame:
    """Response style of every respondent, from answers as given.

    acquiescence: mean answer as a share of the range; 0.5 is neutral for balanced keys.
    agreement_excess: share of answers over the midpoint minus share below.
    balanced_acquiescence: (mean of + items + mean of − items)/2 − midpoint, in scale points: zero for any
      trait if there are both kinds of items; NaN without keys of both signs.
    extremity: share of answers at either end. midpoint: share exactly in the middle (0 without a middle).
    irv: SD (n − 1) over the items. longstring: longest run of one answer, in item order.

    Args:
      raw: respondents x items before reversal, NaN where missing (left out of each index; a gap ends no run).
      low, high: the least and the greatest answer on offer.
      keys: 1 or −1 for each item.
    Returns: a frame, one row per respondent, NaN for one without answers.
    Raises: ValueError for answers outside low .. high.
    Reference: Baumgartner & Steenkamp 2001; Dunn et al. 2018 (irv); Johnson 2005 (longstring).

    Example:
      >>> from evals.psychometrics import style_indices
      >>> found = style_indices([[5, 5, 4, 5], [1, 5, 1, 5]], 1, 5, keys=[1, -1, 1, -1])
      >>> found[["acquiescence", "balanced_acquiescence", "extremity"]]
         acquiescence  balanced_acquiescence  extremity
      0        0.9375                   1.75       0.75
      1        0.5000                   0.00       1.00
    """
    matrix = as_matrix(raw)
    if not low < high:
        raise ValueError(f"low must lie below high; got {low} and {high}")
    if np.nanmin(matrix, initial=low) < low or np.nanmax(matrix, initial=high) > high:
        raise ValueError(
            f"answers must lie in {low} .. {high}; got {np.nanmin(matrix)} to {np.nanmax(matrix)}"
        )
    given = ~np.isnan(matrix)
    count = given.sum(axis=1)
    middle = (low + high) / 2
    index = raw.index if isinstance(raw, pd.DataFrame) else None

    def share(condition: np.ndarray) -> np.ndarray:
        return np.divide(
            (condition & given).sum(axis=1), count, out=np.full(len(matrix), math.nan), where=count > 0
        )

    mean = _means(matrix, given)
    deviations = np.where(given, matrix - mean[:, None], 0.0)
    irv = np.sqrt((deviations**2).sum(axis=1) / np.where(count > 1, count - 1, np.nan))
    return pd.DataFrame(
        {
            "acquiescence": (mean - low) / (high - low),
            "agreement_excess": share(matrix > middle) - share(matrix < middle),
            "balanced_acquiescence": _balanced(matrix, given, keys) - middle,
            "extremity": share((matrix == low) | (matrix == high)),
            "midpoint": share(matrix == middle),
            "irv": irv,
            "longstring": longest_runs(matrix),
        },
        index=index,
    )


def _means(matrix: np.ndarray, given: np.ndarray) -> np.ndarray:
    count = given.sum(axis=1)
    total = np.where(given, matrix, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(matrix), math.nan), where=count > 0)


def _signs(keys: npt.ArrayLike, n_items: int) -> np.ndarray:
    signs = np.asarray(keys)
    if signs.shape != (n_items,) or not np.isin(signs, (1, -1)).all():
        raise ValueError(
            f"keys must be 1 or -1 for each of {n_items} items; got {list(np.ravel(signs))[:8]} .."
        )
    return signs


def _balanced(matrix: np.ndarray, given: np.ndarray, keys: npt.ArrayLike | None) -> np.ndarray:
    if keys is None:
        return np.full(len(matrix), math.nan)
    signs = _signs(keys, matrix.shape[1])
    halves = [_means(matrix[:, signs == s], given[:, signs == s]) for s in (1, -1)]
    return (halves[0] + halves[1]) / 2


def longest_runs(matrix: np.ndarray) -> np.ndarray:
    """The longest run of identical consecutive answers in each row; missing ones are passed over."""
    result = np.zeros(len(matrix))
    for row, answers in enumerate(matrix):
        known = answers[~np.isnan(answers)]
        edges = (
            np.flatnonzero(np.concatenate([[True], known[1:] != known[:-1], [True]])) if len(known) else [0]
        )
        result[row] = np.diff(edges).max() if len(known) else math.nan
    return result


def forward_reverse_r(raw: npt.ArrayLike, keys: npt.ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Pearson's r over respondents between the mean answer to + items and that to − items, as given.

    A trait makes it negative (affirming one means denying the other), acquiescence positive. Complete cases.

    Args:
      raw: respondents x items before reversal, NaN where missing.
      keys: 1 or −1 for each item.
      confidence: of the interval, two-sided.
    Returns: Estimate; NaN where a kind of item is missing or its answers do not vary.
    Raises: ValueError for keys that do not fit the items.

    Example:
      >>> from evals.psychometrics import forward_reverse_r
      >>> answers = [[5, 4, 1, 2], [4, 4, 2, 1], [2, 1, 4, 5], [3, 3, 3, 3], [1, 2, 5, 4]]
      >>> print(forward_reverse_r(answers, [1, 1, -1, -1]))
      -0.991 [-0.999, -0.866], n = 5
    """
    matrix = as_matrix(raw)
    signs = _signs(keys, matrix.shape[1])
    complete = complete_cases(matrix)
    n_forward, n_reverse = int((signs == 1).sum()), int((signs == -1).sum())
    if not n_forward or not n_reverse:
        return undefined(
            f"needs items of both keys (got {n_forward} forward, {n_reverse} reversed)", len(complete)
        )
    return pearson(
        complete[:, signs == 1].mean(axis=1), complete[:, signs == -1].mean(axis=1), confidence=confidence
    )


class PositionBias(NamedTuple):
    """How answers depend on an option's position.

    Attributes:
      shares: share of answers at each position, first to last.
      distance: total variation between shares and equal shares, 0 (none) to 1 − 1/positions (always one).
      flip: mean absolute change of the answer value between two orders of the same question, as a share
        of the range, with a t interval over questions; NaN without repeated questions.
      chi2, df, p: test of equal shares; valid if each option appears in each position equally often.
    """

    shares: np.ndarray
    distance: float
    flip: Estimate
    chi2: float
    df: int
    p: float
    n: int
    reason: str


def position_bias(
    position: npt.ArrayLike,
    n_positions: int,
    *,
    question: npt.ArrayLike | None = None,
    value: npt.ArrayLike | None = None,
    value_range: float | None = None,
) -> PositionBias:
    """How answers depend on an option's position, over options shown in balanced orders.

    distance = ½ Σ |share − 1/positions|; flip = mean absolute change of value between orders over the range.

    Args:
      position: of the chosen option, 0 for the first; NaN for refusals.
      n_positions: number of options on offer.
      question, value: the question asked and the value chosen, to see answers change with the order.
      value_range: high − low of the values.
    Returns: PositionBias.
    Raises: ValueError for positions outside the options, or a value_range that is not positive.

    Example:
      >>> from evals.psychometrics import position_bias
      >>> found = position_bias([0, 0, 0, 1, 0, 0], 3)
      >>> found.shares.round(2), round(found.distance, 2)
      (array([0.83, 0.17, 0.  ]), 0.5)
    """
    places = np.asarray(position, np.float64)
    known = places[~np.isnan(places)]
    if n_positions < 2:
        raise ValueError(f"n_positions must be at least 2; got {n_positions}")
    if len(known) and (known.min() < 0 or known.max() >= n_positions or (known != np.round(known)).any()):
        raise ValueError(f"positions must be whole numbers from 0 to {n_positions - 1}")
    flip = _flips(places, question, value, value_range)
    if not len(known):
        blank = np.full(n_positions, math.nan)
        return PositionBias(blank, math.nan, flip, math.nan, n_positions - 1, math.nan, 0, "no answers")
    counts = np.bincount(known.astype(int), minlength=n_positions)
    shares = counts / counts.sum()
    expected = len(known) / n_positions
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    df = n_positions - 1
    distance = float(np.abs(shares - 1 / n_positions).sum() / 2)
    return PositionBias(shares, distance, flip, chi2, df, float(stats.chi2.sf(chi2, df)), len(known), "")


def _flips(
    places: np.ndarray,
    question: npt.ArrayLike | None,
    value: npt.ArrayLike | None,
    value_range: float | None,
) -> Estimate:
    if question is None or value is None:
        return undefined("questions and values were not given")
    if value_range is None or value_range <= 0:
        raise ValueError(
            f"value_range must be positive; got {value_range} (the largest value minus the least)"
        )
    frame = pd.DataFrame({"question": np.asarray(question), "value": np.asarray(value, np.float64)})
    frame = frame[~np.isnan(places)].dropna()
    # mean absolute difference over all pairs of a question's answers, from their order statistics
    changes = np.array(
        [_gini(group.to_numpy()) for _, group in frame.groupby("question")["value"] if len(group) > 1]
    )
    n = len(changes)
    if n < 1:
        return undefined("no question was answered in two orders")
    mean = float(changes.mean()) / value_range
    if n < 2:
        return Estimate(mean, n=n, reason="no interval: a single question")
    half = float(stats.t.ppf(0.975, n - 1) * changes.std(ddof=1) / math.sqrt(n)) / value_range
    return Estimate(mean, mean - half, mean + half, n)


def _gini(values: np.ndarray) -> float:
    n = len(values)
    rank = 2 * np.arange(1, n + 1) - n - 1
    return float(2 * (rank * np.sort(values)).sum() / (n * (n - 1)))


def refusal_rate(refused: npt.ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """The share of questions that were refused or not answered readably, with Wilson's interval.

    Args:
      refused: true or false for each question.
      confidence: of the interval, two-sided.
    Returns: Estimate; n counts questions.
    Raises: ValueError unless 0 < confidence < 1.
    Reference: Wilson 1927, JASA 22, 209-212.

    Example:
      >>> from evals.psychometrics import refusal_rate
      >>> print(refusal_rate([True] + [False] * 19))
      0.050 [0.009, 0.236], n = 20
    """
    flags = np.asarray(refused, bool).ravel()
    if not len(flags):
        return undefined("nothing was asked")
    low, high = stats.binomtest(int(flags.sum()), len(flags)).proportion_ci(confidence, method="wilson")
    return Estimate(float(flags.mean()), float(low), float(high), len(flags))


def social_desirability(
    scores: npt.ArrayLike, scale_low: float, scale_high: float, *, confidence: float = 0.95
) -> Estimate:
    """Mean of a desirability scale (impression management) as a share of its range, with a t interval.

    Args:
      scores: scale means of the respondents, in the units of the answers; NaN where missing.
      scale_low, scale_high: the least and the greatest mean possible.
      confidence: of the interval, two-sided.
    Returns: Estimate between 0 and 1.
    Raises: ValueError unless scale_low < scale_high.
    Reference: Paulhus 1991, in Measures of Personality and Social Psychological Attitudes, 17-59.

    Example:
      >>> from evals.psychometrics import social_desirability
      >>> print(social_desirability([4.0, 4.5, 3.5, 5.0], 1, 5))
      0.812 [0.556, 1.069], n = 4
    """
    values = np.asarray(scores, np.float64).ravel()
    values = values[~np.isnan(values)]
    if not scale_low < scale_high:
        raise ValueError(f"scale_low must lie below scale_high; got {scale_low} and {scale_high}")
    if not len(values):
        return undefined("no respondent has a score")
    share = (values - scale_low) / (scale_high - scale_low)
    n = len(share)
    if n < 2 or np.ptp(share) == 0:
        return Estimate(float(share.mean()), n=n, reason="no interval: the respondents do not vary")
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * share.std(ddof=1) / math.sqrt(n))
    return Estimate(float(share.mean()), float(share.mean()) - half, float(share.mean()) + half, n)
