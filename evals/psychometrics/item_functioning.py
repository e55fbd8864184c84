"""Differential item functioning: does an item ask the same of two groups at the same level of the trait?

If people and a model answer an item differently although their scores agree, the item measures something else
in one of them. Not covered: invariance of whole models (factors.similarity compares factors).
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats
from scipy.special import expit

from evals.psychometrics.estimate import as_matrix

# Jodoin and Gierl 2001: changes of Nagelkerke's R² that are moderate and large
MODERATE, LARGE = 0.035, 0.070


class ItemBias(NamedTuple):
    """Ordinal logistic regression of an item on the matching score, the group, and both together.

    Attributes:
      chi2, p: of group and interaction together, 2 degrees of freedom.
      uniform_chi2, uniform_p: of the group beyond the score, 1 degree of freedom.
      nonuniform_chi2, nonuniform_p: of the interaction beyond both, 1 degree of freedom.
      log_odds: of a higher answer in the first group at the same score; above 0 the item is easier for it.
      r2_change: Nagelkerke's R² that group and interaction add.
      size: negligible, moderate or large, after Jodoin and Gierl; also negligible where p is .05 or more.
      n: respondents with an answer and a score.
      reason: why it is undefined; empty otherwise.
    """

    chi2: float
    p: float
    uniform_chi2: float
    uniform_p: float
    nonuniform_chi2: float
    nonuniform_p: float
    log_odds: float
    r2_change: float
    size: str
    n: int
    reason: str = ""


def item_bias(item: npt.ArrayLike, matching: npt.ArrayLike, group: npt.ArrayLike) -> ItemBias:
    """Whether two groups answer an item differently at the same matching score.

    logit P(X ≥ c) = b₀c + b₁ score + b₂ group + b₃ score · group; likelihood ratio tests of b₂ and b₃.

    Args:
      item: answers, any ordered numbers, NaN where missing.
      matching: each respondent's score on the trait, ideally without this item; NaN where missing.
      group: 1 for the first group, 0 for the reference.
    Returns: ItemBias; NaN with the reason where a group is empty or the item does not vary.
    Raises: ValueError where the three differ in length, or group holds other numbers.
    Reference: Zumbo 1999, Handbook on DIF; Jodoin & Gierl 2001, Applied Measurement in Education 14, 329-349.

    Example:
      >>> import numpy as np
      >>> score, group = np.tile(np.arange(10.0), 20), np.repeat([0, 1], 100)
      >>> found = item_bias(np.clip(np.round(score / 3 + group), 0, 3), score, group)
      >>> found.size, found.log_odds > 0
      ('large', True)
    """
    columns = [np.reshape(np.asarray(values, np.float64), -1) for values in (item, matching, group)]
    if len({len(column) for column in columns}) > 1:
        lengths = ", ".join(str(len(column)) for column in columns)
        raise ValueError(f"item, matching and group must pair up; got lengths {lengths}")
    table = as_matrix(np.column_stack(columns), name="item and matching")
    answers, score, member = table[~np.isnan(table).any(axis=1)].T
    if not np.isin(member, (0, 1)).all():
        raise ValueError("group must be 1 for the first group and 0 for the reference")
    n = len(answers)
    if min((member == 1).sum(), (member == 0).sum()) < 2:
        return _undefined("a group has fewer than 2 respondents with an answer and a score", n)
    if np.ptp(answers) == 0:
        return _undefined("the item does not vary", n)
    if np.ptp(score) == 0:
        return _undefined("the matching score does not vary", n)
    codes = np.unique(answers, return_inverse=True)[1]
    standing = (score - score.mean()) / score.std()
    predictors = np.column_stack([standing, member, standing * member])
    fits = [_proportional_odds(codes, predictors[:, :count]) for count in range(4)]
    likelihoods = [fit[0] for fit in fits]
    uniform, nonuniform = (max(0.0, 2 * (likelihoods[i + 1] - likelihoods[i])) for i in (1, 2))
    both = uniform + nonuniform
    change = _nagelkerke(likelihoods[3], likelihoods[0], n) - _nagelkerke(likelihoods[1], likelihoods[0], n)
    p = float(stats.chi2.sf(both, 2))
    size = "negligible" if p >= 0.05 or change < MODERATE else "large" if change >= LARGE else "moderate"
    return ItemBias(
        both,
        p,
        uniform,
        float(stats.chi2.sf(uniform, 1)),
        nonuniform,
        float(stats.chi2.sf(nonuniform, 1)),
        float(fits[2][1][1]),
        change,
        size,
        n,
    )


def _undefined(reason: str, n: int) -> ItemBias:
    nan = math.nan
    return ItemBias(nan, nan, nan, nan, nan, nan, nan, nan, "", n, reason)


def _nagelkerke(log_likelihood: float, null: float, n: int) -> float:
    most = 1 - math.exp(2 * null / n)
    return (1 - math.exp(2 * (null - log_likelihood) / n)) / most


def _proportional_odds(codes: np.ndarray, predictors: np.ndarray) -> tuple[float, np.ndarray]:
    """The greatest log-likelihood of a cumulative logit model, and its slopes.

    Thresholds are ascending by construction: the first, and logarithms of the steps to the next.
    """
    n_codes, n_slopes = int(codes.max()) + 1, predictors.shape[1]
    shares = np.cumsum(np.bincount(codes))[:-1] / len(codes)
    cuts = np.log(shares / (1 - shares))
    start = np.concatenate([cuts[:1], np.log(np.diff(cuts)), np.zeros(n_slopes)])

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        steps = np.exp(parameters[1 : n_codes - 1])
        ends = np.concatenate([[-np.inf], parameters[0] + np.concatenate([[0], np.cumsum(steps)]), [np.inf]])
        linear = predictors @ parameters[n_codes - 1 :]
        above, below = expit(ends[codes + 1] - linear), expit(ends[codes] - linear)
        probability = np.maximum(above - below, 1e-300)
        upper = above * (1 - above) / probability  # of the cut above, 0 for the highest answer
        lower = below * (1 - below) / probability
        by_cut = np.bincount(codes, upper, n_codes)[:-1] - np.bincount(codes, lower, n_codes)[1:]
        after = np.cumsum(by_cut[::-1])[::-1]
        slopes = predictors.T @ (lower - upper)
        gradient = np.concatenate([after[:1], after[1:] * steps, slopes])
        return -float(np.log(probability).sum()), -gradient

    found = optimize.minimize(objective, start, jac=True, method="BFGS", options={"gtol": 1e-5})
    return -float(found.fun), np.asarray(found.x)[n_codes - 1 :]
