"""Split-half reliability over all splits: λ4 (the best), Revelle's β (the worst), odd against even.

A split is a vector s of ±1. With covariances C its coefficient (Rulon's, Guttman's) is
2 (1 − (s²_a + s²_b)/s²_total) = 1 − s'Cs / ΣC, so that every split is one quadratic form.
Not covered: clustering items by content before the split.
"""

import itertools
import math
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from evals.psychometrics.covariance import bootstrap, correlations, covariance, small_matrices, varying_items
from evals.psychometrics.estimate import (
    Estimate,
    as_matrix,
    complete_cases,
    pearson,
    percentile_estimate,
    undefined,
    why_no_variance,
)

# all splits are tried up to this many (16 items); beyond that, a random sample of this size
MAX_SPLITS = 10_000


class SplitHalf(NamedTuple):
    """Split-half coefficients of one scale.

    Attributes:
      odd_even_r: correlation of the two half scores, items 1, 3, 5.. against 2, 4, 6...
      spearman_brown: that correlation projected to the whole length, 2r/(1+r).
      flanagan_rulon: the same split, without assuming halves of equal variance.
      maximum: the best split found, Guttman's λ4; minimum: the worst, Revelle's β.
      mean: over the splits; equals alpha for an even number of items and all splits.
      quantiles: 2.5 %, 50 % and 97.5 % of the splits.
      n_splits, exhaustive: how many splits were tried, and whether these are all of them.
    """

    odd_even_r: Estimate
    spearman_brown: Estimate
    flanagan_rulon: Estimate
    maximum: Estimate
    minimum: Estimate
    mean: Estimate
    quantiles: tuple[float, float, float]
    n_splits: int
    exhaustive: bool


def split_half(
    responses: npt.ArrayLike,
    *,
    standardized: bool = False,
    splits: Literal["all", "psych"] = "all",
    confidence: float = 0.95,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> SplitHalf:
    """Split-half reliabilities over all splits of a scale, with bootstrap intervals over persons.

    For a split s (±1 for each item) and covariances C: 2 (1 − (s²_a + s²_b)/s²_total) = 1 − s'Cs / ΣC. The
    intervals of maximum and minimum are those of the split that was found in the whole sample. With an odd
    number of items, the halves differ by one.

    Args:
      responses: persons x items in the direction of the scale, NaN where missing (listwise deletion).
      standardized: of correlations in place of covariances (not the odd-even ones).
      splits: "all"; "psych" reproduces psych::splitHalf, which for an odd number of items looks only at
        the first half of the splits in lexicographic order. Above 16 items both sample 10,000 splits,
        and the extremes are then improved by exchanging items.
      confidence, n_bootstrap, seed: of the bootstrap.
    Returns: SplitHalf; every Estimate NaN with the reason where undefined.
    Raises: ValueError for responses that are not a table of finite numbers.
    Reference: Guttman 1945; Revelle 1979, Multivariate Behavioral Research 14, 57-74.

    Example:
      >>> from evals.psychometrics import simulate_responses, split_half
      >>> found = split_half(simulate_responses(200, [0.7, 0.6, 0.5, 0.8]))
      >>> print(found.spearman_brown)
      0.707 [0.612, 0.778], n = 200
      >>> round(found.maximum.value, 3), round(found.minimum.value, 3), found.n_splits
      (0.751, 0.686, 3)
    """
    matrix = as_matrix(responses)
    complete = complete_cases(matrix)
    n = len(complete)
    reason, note = why_no_variance(complete, len(matrix)), ""
    used = complete
    if not reason and standardized:
        used, note = varying_items(complete)
        reason = f"fewer than 2 items vary ({note})" if used.shape[1] < 2 else ""
    if reason:
        none = undefined(reason, n)
        return SplitHalf(none, none, none, none, none, none, (math.nan, math.nan, math.nan), 0, False)
    cov = covariance(used)
    cov = correlations(cov) if standardized else cov
    forms, values, exhaustive = split_forms(cov, splits, seed)

    def coefficients(stack: np.ndarray) -> np.ndarray:
        stack = correlations(stack) if standardized else stack
        return form_coefficients(stack, forms)

    draws = bootstrap(used, coefficients, n_bootstrap=n_bootstrap, seed=seed)
    point = coefficients(cov[None])[0]
    maximum, minimum, mean = (
        percentile_estimate(float(v), d, n, confidence=confidence)._replace(reason=note)
        for v, d in zip(point, draws.T, strict=True)
    )
    r, stepped_up, rulon = _odd_even(complete, confidence, n_bootstrap, seed)
    low, median, high = np.quantile(values, [0.025, 0.5, 0.975])
    quantiles = (float(low), float(median), float(high))
    return SplitHalf(
        r, stepped_up, rulon, maximum, minimum, mean, quantiles, len(values), exhaustive and splits == "all"
    )


@small_matrices()
def split_forms(cov: np.ndarray, splits: str = "all", seed: int = 0) -> tuple[np.ndarray, np.ndarray, bool]:
    """The forms ss' [3, k, k] of the best and the worst split and the mean of all; every split's coefficient.

    Args:
      cov: covariances [k, k].
      splits: see `split_half`.
      seed: of the sample of splits where they are too many.

    Returns: (forms, coefficients [splits], whether these are all splits there are).
    """
    signs, exhaustive = _splits(len(cov), splits, seed)
    values = 1 - np.einsum("si,si->s", signs @ cov, signs) / cov.sum()
    best, worst = signs[values.argmax()], signs[values.argmin()]
    if not exhaustive:
        best, worst = _exchange(cov, best, 1), _exchange(cov, worst, -1)
    return (
        np.stack([np.outer(best, best), np.outer(worst, worst), signs.T @ signs / len(signs)]),
        values,
        exhaustive,
    )


def form_coefficients(stack: np.ndarray, forms: np.ndarray) -> np.ndarray:
    """1 − s'Cs / ΣC of covariances [b, k, k] and forms ss' [f, k, k], as [b, f].

    Args:
      stack: C, one per sample.
      forms: ss', one per split.
    Returns: one coefficient per sample and split.
    """
    flat = stack.reshape(len(stack), -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1 - flat @ forms.reshape(len(forms), -1).T / flat.sum(axis=1, keepdims=True)


def guttman_lambda4(
    responses: npt.ArrayLike,
    *,
    standardized: bool = True,
    splits: Literal["all", "psych"] = "all",
    confidence: float = 0.95,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Guttman's λ4, the best split half of a scale.

    λ4 = max over splits of 1 − s'Rs / ΣR; the interval is that of split_half.

    Args:
      responses: persons x items in the direction of the scale, NaN where missing (listwise deletion).
      standardized: of correlations (the default, as is usual), else of covariances.
      splits, confidence, n_bootstrap, seed: see split_half.
    Returns: Estimate; NaN with the reason where undefined.
    Raises: ValueError for responses that are not a table of finite numbers.
    Reference: Guttman 1945, Psychometrika 10, 255-282.

    Example:
      >>> from evals.psychometrics import guttman_lambda4, simulate_responses
      >>> print(guttman_lambda4(simulate_responses(200, [0.7, 0.6, 0.5, 0.8])))
      0.746 [0.670, 0.813], n = 200
    """
    found = split_half(
        responses,
        standardized=standardized,
        splits=splits,
        confidence=confidence,
        n_bootstrap=n_bootstrap,
        seed=seed,
    )
    return found.maximum


def _odd_even(
    complete: np.ndarray, confidence: float, n_bootstrap: int, seed: int
) -> tuple[Estimate, Estimate, Estimate]:
    n, k = complete.shape
    r = pearson(complete[:, ::2].sum(axis=1), complete[:, 1::2].sum(axis=1), confidence=confidence)
    if r.defined and r.value > -1:
        # monotone in r, so the bounds carry over
        value, low, high = (2 * v / (1 + v) for v in r[:3])
        stepped_up = Estimate(value, low, high, n, r.reason)
    else:
        stepped_up = undefined(r.reason or "the halves correlate at -1", n)
    sign = np.where(np.arange(k) % 2 == 0, 1.0, -1.0)
    form = np.outer(sign, sign)[None]
    value = float(form_coefficients(covariance(complete)[None], form)[0, 0])
    draws = bootstrap(
        complete, lambda c: form_coefficients(c, form)[:, 0], n_bootstrap=n_bootstrap, seed=seed
    )
    return r, stepped_up, percentile_estimate(value, draws, n, confidence=confidence)


def _splits(k: int, which: str, seed: int) -> tuple[np.ndarray, bool]:
    """Splits of k items as rows of ±1, and whether they are all of them."""
    if which not in ("all", "psych"):
        raise ValueError(f'splits must be "all" or "psych"; got {which!r}')
    half = k // 2
    # an even number of items: a split and its complement are the same, so item 1 stays in the first half
    count = math.comb(k, half) // (2 if k % 2 == 0 else 1)
    if count > MAX_SPLITS:
        order = np.random.default_rng(seed).random((MAX_SPLITS, k)).argsort(axis=1)
        return np.where(order < half, -1.0, 1.0), False
    subsets = itertools.combinations(range(k), half)
    wanted = count if k % 2 == 0 or which == "all" else math.comb(k, half) // 2
    signs = np.ones((wanted, k))
    for row, subset in zip(signs, subsets, strict=False):
        row[list(subset)] = -1
    return signs, True


def _exchange(cov: np.ndarray, sign: np.ndarray, direction: int) -> np.ndarray:
    """Exchanges the pair of items that helps most, until none does (direction 1: up, −1: down)."""
    sign = sign.copy()
    while True:
        pull = sign * (cov @ sign) - np.diagonal(cov)
        first, second = np.flatnonzero(sign > 0), np.flatnonzero(sign < 0)
        # change of s'Cs when i and j swap sides
        change = -4 * (pull[first, None] + pull[None, second] + 2 * cov[np.ix_(first, second)])
        i, j = np.unravel_index((direction * change).argmin(), change.shape)
        if direction * change[i, j] >= -1e-12 * np.trace(cov):
            return sign
        sign[[first[i], second[j]]] *= -1
