"""Do different tests of one construct agree, and do different constructs differ? MTMM and criteria.

Not covered: factor models (factor_analysis, confirmatory).
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from evals.psychometrics.estimate import (
    Estimate,
    as_matrix,
    complete_cases,
    constant_columns,
    pearson,
    undefined,
    z_critical,
)
from evals.psychometrics.measurement_error import disattenuate


class Count(NamedTuple):
    """How many of the comparisons turned out as they should."""

    passed: int
    total: int


class Mtmm(NamedTuple):
    """A multitrait-multimethod matrix, sorted.

    Attributes:
      table: a row for each pair: trait_1, method_1, trait_2, method_2, kind (convergent: same trait, other
        method; hetero_mono: other trait, same method; hetero_hetero: other both), r with low and high,
        and disattenuated, NaN without reliabilities.
      mean: the mean r of each kind.
      positive: criterion 1, convergent r above zero, their interval too where there is one.
      over_hetero_hetero: criterion 2, each convergent r against every heterotrait-heteromethod r in its
        row and column of the block. over_hetero_mono: criterion 3, against the heterotrait-monomethod r
        of both variables. same_pattern: criterion 4, rank agreement (Kendall's W over the blocks of
        one and of two methods) of the heterotrait r, NaN for fewer than 3 traits.
      n: complete cases; 0 where a matrix was given.
      reason: why it is undefined; empty otherwise.
    """

    table: pd.DataFrame
    mean: dict[str, float]
    positive: Count
    over_hetero_hetero: Count
    over_hetero_mono: Count
    same_pattern: float
    n: int
    reason: str


def mtmm(
    scores: pd.DataFrame | npt.ArrayLike,
    traits: Sequence[Hashable],
    methods: Sequence[Hashable],
    *,
    correlation: bool | None = None,
    reliabilities: Sequence[float] | None = None,
    confidence: float = 0.95,
) -> Mtmm:
    """Multitrait-multimethod analysis of scores (or of their correlation matrix).

    Args:
      scores: respondents x variables, NaN where missing (listwise deletion); or a correlation matrix, whose
        diagonal, if not 1, holds reliabilities.
      traits, methods: of each variable, in the order of the columns.
      correlation: whether scores is a correlation matrix; by default if square, symmetric and within ±1.
      reliabilities: of each variable, for disattenuated correlations.
      confidence: of the intervals, two-sided.
    Returns: Mtmm; NaN with a reason where undefined.
    Raises: ValueError for labels that do not fit the columns, or one trait by one method twice.
    Reference: Campbell & Fiske 1959, Psychological Bulletin 56, 81-105.

    Example:
      >>> from evals.psychometrics import mtmm, simulate_responses
      >>> scores = simulate_responses(200, [[0.8, 0], [0, 0.8], [0.8, 0], [0, 0.8]])
      >>> found = mtmm(scores, ["calm", "open", "calm", "open"], ["self", "self", "peer", "peer"])
      >>> round(found.mean["convergent"], 2), round(found.mean["hetero_hetero"], 2)
      (0.61, 0.07)
    """
    matrix = as_matrix(scores, name="scores")
    k = matrix.shape[1]
    if len(traits) != k or len(methods) != k:
        raise ValueError(
            f"give a trait and a method for each of {k} variables; got {len(traits)} and {len(methods)}"
        )
    pairs = list(zip(traits, methods, strict=True))
    if repeated := [pair for pair in pairs if pairs.count(pair) > 1]:
        trait, method = repeated[0]
        raise ValueError(f"trait {trait!r} by method {method!r} is given twice; average its variables first")
    given = _is_correlation(matrix) if correlation is None else correlation
    estimates, n, reason = _correlations(matrix, given, confidence)
    if given and reliabilities is None and not np.allclose(np.diagonal(matrix), 1):
        reliabilities = list(np.diagonal(matrix))
    found = _pairs(estimates, list(traits), list(methods), reliabilities)
    table = pd.DataFrame(found, columns=pd.Index(Pair._fields))
    mean = {kind: _mean([pair.r for pair in found if pair.kind == kind]) for kind in KINDS}
    if reason:
        none = Count(0, 0)
        return Mtmm(table, mean, none, none, none, math.nan, n, reason)
    convergent = [pair for pair in found if pair.kind == "convergent"]
    above = [pair.r > 0 and not pair.low <= 0 for pair in convergent]
    return Mtmm(
        table,
        mean,
        Count(sum(above), len(above)),
        _compare(found, "hetero_hetero"),
        _compare(found, "hetero_mono"),
        _same_pattern(found, list(dict.fromkeys(traits))),
        n,
        "" if convergent else "no trait is measured by two methods",
    )


KINDS = ("convergent", "hetero_mono", "hetero_hetero")


class Pair(NamedTuple):
    """The correlation of two variables, i and j their columns."""

    trait_1: Hashable
    method_1: Hashable
    trait_2: Hashable
    method_2: Hashable
    kind: str
    r: float
    low: float
    high: float
    disattenuated: float
    i: int
    j: int


def _is_correlation(matrix: np.ndarray) -> bool:
    square = matrix.shape[0] == matrix.shape[1]
    return bool(square and np.allclose(matrix, matrix.T, equal_nan=True) and np.nanmax(np.abs(matrix)) <= 1)


def _correlations(
    matrix: np.ndarray, given: bool, confidence: float
) -> tuple[list[list[Estimate]], int, str]:
    k = matrix.shape[1]
    if given:
        if matrix.shape[0] != k or not np.allclose(matrix, matrix.T, equal_nan=True):
            raise ValueError(f"a correlation matrix must be square and symmetric; got shape {matrix.shape}")
        return [[Estimate(float(r), reason="no interval: n unknown") for r in row] for row in matrix], 0, ""
    complete = complete_cases(matrix)
    n, reason = len(complete), ""
    if n < 2:
        reason = f"fewer than 2 complete respondents (got {n} of {len(matrix)})"
    elif constant_columns(complete).any():
        reason = f"variable {int(constant_columns(complete).argmax()) + 1} does not vary between respondents"
    return (
        [
            [pearson(complete[:, i], complete[:, j], confidence=confidence) for j in range(k)]
            for i in range(k)
        ],
        n,
        reason,
    )


def _pairs(
    r: list[list[Estimate]], traits: list, methods: list, reliabilities: Sequence[float] | None
) -> list[Pair]:
    pairs = []
    for j in range(len(traits)):
        for i in range(j):
            same_trait, same_method = traits[i] == traits[j], methods[i] == methods[j]
            kind = "convergent" if same_trait else "hetero_mono" if same_method else "hetero_hetero"
            true = undefined("reliabilities were not given")
            if reliabilities is not None:
                true = disattenuate(r[i][j], reliabilities[i], reliabilities[j])
            labels = (traits[i], methods[i], traits[j], methods[j], kind)
            pairs.append(Pair(*labels, *r[i][j][:3], true.value, i, j))
    return pairs


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _compare(pairs: list[Pair], kind: str) -> Count:
    """Each convergent r against the r of a kind that share a variable with it (and its block)."""
    passed = total = 0
    for one in (pair for pair in pairs if pair.kind == "convergent"):
        for other in (pair for pair in pairs if pair.kind == kind):
            block = {other.method_1, other.method_2} == {one.method_1, one.method_2}
            if {one.i, one.j} & {other.i, other.j} and (block or kind == "hetero_mono"):
                passed += one.r > other.r
                total += 1
    return Count(passed, total)


def _same_pattern(pairs: list[Pair], traits: list) -> float:
    """Kendall's W of the heterotrait triangles' rankings of the same pairs of traits.

    A block of two methods holds two triangles. Which r belongs to which depends only on the order of the
    traits, so their mean is ranked.
    """
    found: dict[tuple[str, ...], dict[frozenset, list[float]]] = {}
    for pair in (pair for pair in pairs if pair.kind != "convergent"):
        methods = tuple(sorted((str(pair.method_1), str(pair.method_2))))
        found.setdefault(methods, {}).setdefault(frozenset((pair.trait_1, pair.trait_2)), []).append(pair.r)
    triangles = [{one: float(np.mean(r)) for one, r in block.items()} for block in found.values()]
    n_pairs = len(traits) * (len(traits) - 1) // 2
    full = [triangle for triangle in triangles if len(triangle) == n_pairs]
    if len(traits) < 3 or len(full) < 2:
        return math.nan
    order = list(full[0])
    ranks = pd.DataFrame([[t[pair] for pair in order] for t in full]).rank(axis=1).to_numpy()
    spread = ((ranks.sum(axis=0) - ranks.sum(axis=0).mean()) ** 2).sum()
    return float(12 * spread / (len(full) ** 2 * (n_pairs**3 - n_pairs)))


def criterion_correlation(
    scores: npt.ArrayLike,
    criteria: Mapping[str, npt.ArrayLike],
    *,
    ranks: bool = False,
    confidence: float = 0.95,
) -> dict[str, Estimate]:
    """Correlation of a score with each criterion (a behavioral task, a rating), pairwise complete.

    ranks=True gives Spearman's, r of the ranks (ties share theirs); its interval is Fisher's with the
    variance (1 + r²/2)/(n − 3).

    Args:
      scores: a number for each respondent, NaN where missing.
      criteria: by name, a number for each of the same respondents.
      ranks: Spearman's in place of Pearson's.
      confidence: of the intervals, two-sided.
    Returns: an Estimate for each criterion.
    Raises: ValueError where a criterion has another length.
    Reference: Bonett & Wright 2000, Psychometrika 65, 23-28.

    Example:
      >>> from evals.psychometrics import criterion_correlation
      >>> found = criterion_correlation([1, 2, 3, 4, 5], {"helped": [0, 2, 1, 3, 5]}, ranks=True)
      >>> print(found["helped"])
      0.900 [-0.169, 0.996], n = 5
    """
    if not ranks:
        return {name: pearson(scores, values, confidence=confidence) for name, values in criteria.items()}
    return {name: _spearman(scores, values, confidence) for name, values in criteria.items()}


def _spearman(first: npt.ArrayLike, second: npt.ArrayLike, confidence: float) -> Estimate:
    pairs = complete_cases(np.column_stack([np.asarray(v, np.float64) for v in (first, second)]))
    ranked = stats.rankdata(pairs, axis=0) if len(pairs) else pairs
    found = pearson(ranked[:, 0], ranked[:, 1], confidence=confidence)
    if not found.defined or found.n < 4 or abs(found.value) >= 1:
        return found
    half = z_critical(confidence) * math.sqrt((1 + found.value**2 / 2) / (found.n - 3))
    low, high = (math.tanh(math.atanh(found.value) + sign * half) for sign in (-1, 1))
    return found._replace(low=low, high=high)
