"""Missing answers of a scale, imputed several times from what the same person answered.

Answers are persons x conditions x items. The model is that of generalizability theory: answer = mean of
item and condition + person + person x item + person x condition + error, all but the mean random and normal.
Its variances come from all pairs of observed answers (no deletion of cases); a missing answer is drawn from
its distribution given the person's other answers. That is sound where refusals depend on the item, the
condition or other answers of the person, not where they depend on the answer that was refused.
Not covered: using answers to other scales, drawing the variances too.
"""

from typing import NamedTuple

import numpy as np


class AnswerVariance(NamedTuple):
    """Variance components of the answers to one scale."""

    person: float
    person_item: float
    person_condition: float
    error: float

    def covariance(self, conditions: int, items: int) -> np.ndarray:
        """Σ of one person's answers, [C·J, C·J], conditions outermost.

        Args:
          conditions: C.
          items: J.
        Returns: the matrix.
        """
        same_item = np.kron(np.ones((conditions, conditions)), np.eye(items))
        same_condition = np.kron(np.eye(conditions), np.ones((items, items)))
        size = conditions * items
        return (
            self.person
            + self.person_item * same_item
            + self.person_condition * same_condition
            + self.error * np.eye(size)
        )


def answer_variance(answers_PCJ: np.ndarray) -> AnswerVariance:
    """Components from the mean products of pairs of answers, by what the two have in common.

    With residuals from the means of item and condition, E r r' over pairs of different items and conditions
    is σ²_p; over one item in two conditions σ²_p + σ²_pi; over two items in one condition σ²_p + σ²_pc.

    Args:
      answers_PCJ: persons x conditions x items, NaN where missing.
    Returns: AnswerVariance; negative components count as zero, the error as at least 1e-6 of the total.
    """
    people, conditions, items = answers_PCJ.shape
    flat = _residuals(answers_PCJ).reshape(people, -1)
    present = ~np.isnan(flat)
    filled = np.where(present, flat, 0.0)
    products, counts = filled.T @ filled, present.T.astype(np.float64) @ present
    item = np.tile(np.arange(items), conditions)
    condition = np.repeat(np.arange(conditions), items)
    same_item, same_condition = item[:, None] == item, condition[:, None] == condition

    def mean(which: np.ndarray, otherwise: float) -> float:
        count = counts[which].sum()
        # means were taken out of the residuals: n − 1
        return float(products[which].sum() / count * people / max(people - 1, 1)) if count else otherwise

    total = mean(same_item & same_condition, 0.0)
    apart = mean(~same_item & ~same_condition, 0.0 if conditions > 1 else mean(~same_item, 0.0))
    by_item = mean(same_item & ~same_condition, apart)
    by_condition = mean(~same_item & same_condition, apart)
    person = max(apart, 0.0)
    parts = person, max(by_item - person, 0.0), max(by_condition - person, 0.0)
    return AnswerVariance(*parts, max(total - sum(parts), 1e-6 * total, 1e-12))


def impute(answers_PCJ: np.ndarray, *, imputations: int = 5, least: float = 0.5, seed: int = 0) -> np.ndarray:
    """Completed copies of the answers to one scale; observed answers stay as they are.

    x_mis | x_obs ~ N(μ + Σ_mo Σ_oo⁻¹ (x_obs − μ), Σ_mm − Σ_mo Σ_oo⁻¹ Σ_om) with Σ of `answer_variance`.

    Args:
      answers_PCJ: persons x conditions x items, keyed one way, NaN where missing.
      imputations: number of copies.
      least: share of answers that a person must have given; others stay incomplete.
      seed: of the draws.
    Returns: [imputations, P, C, J]; drawn answers lie between and beyond the options, as they should.
    Raises: ValueError for an item that nobody answered in some condition.
    Reference: Rubin 1987, Multiple Imputation for Nonresponse in Surveys.
    """
    people, conditions, items = answers_PCJ.shape
    missing = np.isnan(answers_PCJ)
    if missing.all(axis=0).any() and people:
        condition, item = np.argwhere(missing.all(axis=0))[0]
        raise ValueError(f"nobody answered item {item + 1} in condition {condition + 1}: leave it out")
    result = np.repeat(answers_PCJ[None], imputations, axis=0)
    enough = missing.mean(axis=(1, 2)) <= 1 - least
    if not (missing.any(axis=(1, 2)) & enough).any():
        return result
    sigma = answer_variance(answers_PCJ).covariance(conditions, items)
    means = np.nanmean(answers_PCJ, axis=0).ravel()
    rng = np.random.default_rng(seed)
    for person in np.flatnonzero(missing.any(axis=(1, 2)) & enough):
        gaps = missing[person].ravel()
        weights = np.linalg.solve(sigma[np.ix_(~gaps, ~gaps)], sigma[np.ix_(~gaps, gaps)]).T
        center = means[gaps] + weights @ (answers_PCJ[person].ravel() - means)[~gaps]
        spread = sigma[np.ix_(gaps, gaps)] - weights @ sigma[np.ix_(~gaps, gaps)]
        draws = rng.multivariate_normal(center, spread, imputations, method="eigh", check_valid="ignore")
        result[:, person][:, missing[person]] = draws
    return result


def _residuals(answers_PCJ: np.ndarray) -> np.ndarray:
    return answers_PCJ - np.nanmean(answers_PCJ, axis=0)
