"""Whether two groups' answers have the same factors: Tucker's congruence after rotation to a target.

Not covered: single items (item_bias), stated models (confirmatory).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.linalg import orthogonal_procrustes

from evals.psychometrics.covariance import correlations, covariance
from evals.psychometrics.estimate import as_matrix, complete_cases, constant_columns
from evals.psychometrics.factors.factor_analysis import minres
from evals.psychometrics.factors.rotation import align, congruence, varimax


class FactorSimilarity(NamedTuple):
    """Factors of a group next to those of a reference.

    Attributes:
      reference: loadings of the reference, varimax, [items, factors].
      loadings: of the group, rotated to the reference, [items, factors].
      phi: Tucker's congruence of each factor; from .95 factors count as the same, from .85 as similar.
      by_chance: the phi that the best rotation reaches for loadings with shuffled items, 95th percentile.
      items: congruence of each item's loadings.
      reason: why it is undefined; empty otherwise.
    """

    reference: np.ndarray
    loadings: np.ndarray
    phi: np.ndarray
    by_chance: np.ndarray
    items: np.ndarray
    reason: str = ""


def factor_similarity(
    responses: npt.ArrayLike,
    reference: npt.ArrayLike,
    n_factors: int,
    *,
    target: npt.ArrayLike | None = None,
    n_random: int = 200,
    seed: int = 0,
) -> FactorSimilarity:
    """Congruence of a group's factors with a reference's.

    Both are factored by minimum residuals; the reference is rotated by varimax, the group by the orthogonal
    rotation that brings it closest to the reference (Procrustes). φ = Σ a b / √(Σ a² Σ b²).

    Args:
      responses, reference: persons x the same items, NaN where missing (listwise deletion).
      n_factors: of both.
      target: items x factors, which item belongs to which factor; orders the reference's factors.
      n_random: shuffles of the items, for what a rotation reaches by chance.
      seed: of the shuffles.
    Returns: FactorSimilarity; NaN with the reason where a group has too few persons or an item does not vary.
    Raises: ValueError for different numbers of items, or more factors than the items can identify.
    Reference: McCrae et al. 1996, JPSP 70, 552-566; Lorenzo-Seva & ten Berge 2006, Methodology 2, 57-64.

    Example:
      >>> from evals.psychometrics import factor_similarity, simulate_responses
      >>> two = [[0.7, 0], [0.7, 0], [0.6, 0], [0, 0.7], [0, 0.7], [0, 0.6]]
      >>> people, model = (simulate_responses(400, two, seed=seed) for seed in (0, 1))
      >>> bool((factor_similarity(model, people, 2).phi > 0.95).all())
      True
    """
    groups = [complete_cases(as_matrix(values)) for values in (responses, reference)]
    k = groups[0].shape[1]
    if groups[1].shape[1] != k:
        raise ValueError(f"both groups must have the same items; got {k} and {groups[1].shape[1]}")
    if not 1 <= n_factors < k:
        raise ValueError(f"n_factors must lie between 1 and {k - 1} for {k} items; got {n_factors}")
    for name, values in zip(("the group", "the reference"), groups, strict=True):
        if len(values) <= k:
            return _undefined(k, n_factors, f"{name} has {len(values)} complete respondents for {k} items")
        if constant_columns(values).any():
            return _undefined(
                k, n_factors, f"{name} answers {int(constant_columns(values).sum())} items all alike"
            )
    own, theirs = (minres(correlations(covariance(values)), n_factors)[0] for values in groups)
    people = varimax(theirs).loadings
    if target is not None:
        order, signs = align(people, np.asarray(target, np.float64))
        people = people[:, order] * signs
    rotated = own @ orthogonal_procrustes(own, people)[0]
    rng = np.random.default_rng(seed)
    shuffled = [own[rng.permutation(k)] for _ in range(n_random)]
    chance = [_phi(one @ orthogonal_procrustes(one, people)[0], people) for one in shuffled]
    by_chance = np.quantile(chance, 0.95, axis=0) if chance else np.full(n_factors, np.nan)
    return FactorSimilarity(people, rotated, _phi(rotated, people), by_chance, _phi(rotated.T, people.T))


def _phi(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.diagonal(congruence(first, second))


def _undefined(k: int, m: int, reason: str) -> FactorSimilarity:
    blank, none = np.full((k, m), np.nan), np.full(m, np.nan)
    return FactorSimilarity(blank, blank, none, none, np.full(k, np.nan), reason)
