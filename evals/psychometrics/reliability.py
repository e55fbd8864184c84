"""Do the items of a scale agree, and how precise is its score? Alpha, Guttman's λ, item statistics.

Responses are persons x items, already in the direction of the scale
(evals.questionnaires.scoring.keyed_responses); NaN is missing. Every coefficient is NaN with a
reason where the respondents do not differ, which is 0/0.
Formulas work on covariances, so that one bootstrap serves them all (`reliability_table`).
ω, split halves, ICC and Krippendorff's α are in mcdonald_omega, split_halves and agreement.
"""

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from evals.psychometrics.covariance import (
    alpha_of,
    bootstrap,
    correlations,
    covariance,
    pairwise_covariance,
    small_matrices,
    unexplained,
    varying_items,
)
from evals.psychometrics.estimate import (
    Estimate,
    as_matrix,
    complete_cases,
    percentile_estimate,
    undefined,
    why_no_variance,
    z_critical,
)
from evals.psychometrics.mcdonald_omega import omega, omega_of_stack
from evals.psychometrics.sample_size import why_no_inverse
from evals.psychometrics.split_halves import form_coefficients, guttman_lambda4, split_forms

Missing = Literal["listwise", "pairwise"]


def lambdas_of(cov: np.ndarray) -> np.ndarray:
    """Guttman's λ1, λ2, λ3, λ5, λ6 of covariances [..., k, k], on the last axis; NaN where undefined."""
    k = cov.shape[-1]
    total = cov.sum(axis=(-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        total = np.where(total > 1e-12 * np.trace(cov, axis1=-2, axis2=-1), total, np.nan)
        squares = cov**2
        squares[..., np.arange(k), np.arange(k)] = 0
        columns = squares.sum(axis=-2)
        lambda1 = 1 - np.trace(cov, axis1=-2, axis2=-1) / total
        lambda2 = lambda1 + np.sqrt(k / (k - 1) * columns.sum(axis=-1)) / total
        lambda5 = lambda1 + 2 * np.sqrt(columns.max(axis=-1)) / total
        lambda6 = 1 - unexplained(cov).sum(axis=-1) / total
    return np.stack([lambda1, lambda2, alpha_of(cov), lambda5, lambda6], axis=-1)


def cronbach_alpha(
    responses: npt.ArrayLike,
    *,
    standardized: bool = False,
    missing: Missing = "listwise",
    interval: Literal["feldt", "duhachek", "bootstrap"] = "feldt",
    confidence: float = 0.95,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Cronbach's alpha: the share of the total score's variance that items have in common.

    α = k/(k−1) (1 − Σ s²ᵢ / s²_total); standardized: from correlations instead of covariances. It may be
    negative; it is never clipped. Feldt's interval: (1−α̂)/(1−α) ~ F((n−1)(k−1), n−1), exact for parallel
    normal items.

    Args:
      responses: persons x items, in the direction of the scale, NaN where missing.
      standardized: from correlations.
      missing: "listwise" drops persons with a gap; "pairwise" uses what each pair of items has.
      interval: "feldt"; "duhachek" (normal, from the asymptotic variance); "bootstrap" over persons.
      confidence: of the interval, two-sided.
      n_bootstrap, seed: bootstrap samples of persons, and the seed of their draws.
    Returns: Estimate; n is counted after deletion ("pairwise": persons with any answer).
    Raises: ValueError for an unknown treatment of missing answers, or a bootstrap of pairwise covariances.
    Reference: Cronbach 1951; Feldt, Woodruff & Salih 1987; Duhachek & Iacobucci 2004.

    Example:
      >>> from evals.psychometrics import cronbach_alpha
      >>> ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
      >>> print(cronbach_alpha(ratings))
      0.909 [0.676, 0.986], n = 6
    """
    matrix = as_matrix(responses)
    cov, n, note = _item_covariance(matrix, standardized, missing)
    if cov is None:
        return undefined(note, n)
    value = float(alpha_of(cov))
    if math.isnan(value):
        return undefined("no variance of the total score", n)
    if interval == "bootstrap":
        if missing == "pairwise":
            raise ValueError('a bootstrap interval needs missing="listwise"; got "pairwise"')
        usable = varying_items(complete_cases(matrix))[0] if standardized else complete_cases(matrix)
        draws = bootstrap(
            usable,
            lambda c: alpha_of(correlations(c) if standardized else c),
            n_bootstrap=n_bootstrap,
            seed=seed,
        )
        return _noted(percentile_estimate(value, draws, n, confidence=confidence), note)
    z = z_critical(confidence)
    if interval == "duhachek":
        half = z * alpha_standard_error(cov, n)
        return Estimate(value, value - half, value + half, n, note)
    k = cov.shape[0]
    upper_tail, lower_tail = (1 + confidence) / 2, (1 - confidence) / 2
    df = (n - 1, (n - 1) * (k - 1))
    low, high = (1 - (1 - value) * stats.f.ppf(p, *df) for p in (upper_tail, lower_tail))
    return Estimate(value, float(low), float(high), n, note)


def alpha_standard_error(cov: np.ndarray, n: int) -> float:
    """The asymptotic standard error of alpha for normal items (Duhachek & Iacobucci 2004, eq. 2).

    Args:
      cov: covariances [k, k] of the items.
      n: persons.
    Returns: the standard error.
    """
    k = len(cov)
    total, trace, product = cov.sum(), np.trace(cov), cov @ cov
    bracket = total * (np.trace(product) + trace**2) - 2 * trace * product.sum()
    return float(np.sqrt(2 * k**2 / ((k - 1) ** 2 * total**3) * bracket / n))


def guttman_lambdas(
    responses: npt.ArrayLike,
    *,
    standardized: bool = True,
    splits: Literal["all", "psych"] = "all",
    confidence: float = 0.95,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Guttman's six lower bounds λ1-λ6, with percentile bootstrap intervals over persons.

    λ1 = 1 − tr C/ΣC;  λ2 = λ1 + √(k/(k−1) Σ_{i≠j} c²ᵢⱼ)/ΣC;  λ3 = α;  λ4 = the best split half;
    λ5 = λ1 + 2 √(maxⱼ Σ_{i≠j} c²ᵢⱼ)/ΣC;  λ6 = 1 − Σ eᵢ²/ΣC, eᵢ² the variance of item i that the
    other items do not predict.

    Args:
      responses: persons x items, in the direction of the scale, NaN where missing (listwise deletion).
      standardized: of correlations (the default, as is usual), else of covariances.
      splits: which splits λ4 is the best of, see split_half.
      confidence, n_bootstrap, seed: of the bootstrap.
    Returns: {"lambda1": Estimate, ... "lambda6": Estimate}.
    Raises: ValueError for responses that are not a table of finite numbers.
    Reference: Guttman 1945, Psychometrika 10, 255-282.

    Example:
      >>> from evals.psychometrics import guttman_lambdas, simulate_responses
      >>> found = guttman_lambdas(simulate_responses(200, [0.7, 0.6, 0.5, 0.8]), n_bootstrap=100)
      >>> [round(estimate.value, 3) for estimate in found.values()]
      [0.534, 0.717, 0.712, 0.746, 0.71, 0.661]
    """
    matrix = as_matrix(responses)
    names = ["lambda1", "lambda2", "lambda3", "lambda5", "lambda6"]
    cov, n, note = _item_covariance(matrix, standardized, "listwise")
    if cov is None:
        return {f"lambda{i}": undefined(note, n) for i in range(1, 7)}
    usable = complete_cases(matrix)
    draws = bootstrap(
        varying_items(usable)[0] if standardized else usable,
        lambda c: lambdas_of(correlations(c) if standardized else c),
        n_bootstrap=n_bootstrap,
        seed=seed,
    )
    result = {
        name: _noted(percentile_estimate(float(v), d, n, confidence=confidence), note)
        for name, v, d in zip(names, lambdas_of(cov), draws.T, strict=True)
    }
    if not result["lambda6"].defined:
        result["lambda6"] = undefined(why_no_inverse(n, cov.shape[0]), n)
    options = {"splits": splits, "confidence": confidence, "n_bootstrap": n_bootstrap, "seed": seed}
    result["lambda4"] = guttman_lambda4(usable, standardized=standardized, **options)
    return dict(sorted(result.items()))


def guttman_lambda6(
    responses: npt.ArrayLike,
    *,
    standardized: bool = True,
    confidence: float = 0.95,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Guttman's λ6, by how well each item is predicted from the others.

    λ6 = 1 − Σ(1 − smcᵢ)/ΣR, smcᵢ the squared multiple correlation of item i on the rest; of covariances
    1 − Σ s²ᵢ(1 − smcᵢ)/ΣC. The interval is a percentile bootstrap over persons.

    Args:
      responses: persons x items, in the direction of the scale, NaN where missing (listwise deletion).
      standardized: of correlations (the default, as is usual), else of covariances.
      confidence, n_bootstrap, seed: of the bootstrap.
    Returns: Estimate; NaN where the items predict one another exactly, as with fewer persons than items.
    Raises: ValueError for responses that are not a table of finite numbers.
    Reference: Guttman 1945, Psychometrika 10, 255-282.

    Example:
      >>> from evals.psychometrics import guttman_lambda6, simulate_responses
      >>> print(guttman_lambda6(simulate_responses(200, [0.7, 0.6, 0.5, 0.8])))
      0.661 [0.590, 0.730], n = 200
    """
    matrix = as_matrix(responses)
    cov, n, note = _item_covariance(matrix, standardized, "listwise")
    if cov is None:
        return undefined(note, n)

    def lambda6(stack: np.ndarray) -> np.ndarray:
        used = correlations(stack) if standardized else stack
        return 1 - unexplained(used).sum(axis=-1) / used.sum(axis=(-2, -1))

    value = float(lambda6(cov))
    if math.isnan(value):
        return undefined(why_no_inverse(n, cov.shape[0]), n)
    usable = complete_cases(matrix)
    usable = varying_items(usable)[0] if standardized else usable
    draws = bootstrap(usable, lambda6, n_bootstrap=n_bootstrap, seed=seed)
    return _noted(percentile_estimate(value, draws, n, confidence=confidence), note)


def _item_covariance(
    matrix: np.ndarray, standardized: bool, missing: Missing
) -> tuple[np.ndarray | None, int, str]:
    """The covariances (or correlations), persons used, and a note; None where no coefficient exists."""
    if missing not in ("listwise", "pairwise"):
        raise ValueError(f'missing must be "listwise" or "pairwise"; got {missing!r}')
    if missing == "pairwise":
        cov, n = pairwise_covariance(matrix), int((~np.isnan(matrix)).any(axis=1).sum())
        if matrix.shape[1] < 2 or n < 2:
            return None, n, why_no_variance(matrix[:n], n) or f"fewer than 2 respondents (got {n})"
        if np.isnan(cov).any():
            return None, n, "a pair of items has fewer than 2 respondents in common"
        note = ""
        if not (np.diagonal(cov) > 0).any():
            return None, n, f"no variance: all {n} respondents gave the same answers"
        if standardized and not (np.diagonal(cov) > 0).all():
            return None, n, "an item does not vary, so that it has no correlations"
    else:
        complete = complete_cases(matrix)
        n = len(complete)
        if reason := why_no_variance(complete, len(matrix)):
            return None, n, reason
        complete, note = varying_items(complete) if standardized else (complete, "")
        if complete.shape[1] < 2:
            return None, n, f"fewer than 2 items vary ({note})"
        cov = covariance(complete)
    return (correlations(cov) if standardized else cov), n, note


def _noted(estimate: Estimate, note: str) -> Estimate:
    return estimate._replace(reason="; ".join(part for part in (note, estimate.reason) if part))


def reliability_table(
    responses: npt.ArrayLike,
    *,
    n_factors: int = 3,
    confidence: float = 0.95,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """All coefficients of internal consistency of one scale, from one bootstrap.

    Rows: alpha (Feldt), alpha_bootstrap, alpha_standardized, average_r, lambda1 .. lambda6 and beta (of
    correlations), omega_total (one factor), omega_total_group and omega_hierarchical (n_factors group
    factors). Intervals other than Feldt's and omega_total's are percentiles over bootstrap samples.

    Args:
      responses: persons x items, in the direction of the scale, NaN where missing (listwise deletion).
      n_factors: group factors of the last two rows.
      confidence, n_bootstrap, seed: of the bootstrap.
    Returns: a frame with the columns value, low, high, n, reason.
    Raises: ValueError for responses that are not a table of finite numbers.

    Example:
      >>> from evals.psychometrics import reliability_table, simulate_responses
      >>> table = reliability_table(simulate_responses(200, [0.7, 0.6, 0.5, 0.8, 0.6]), n_bootstrap=100)
      >>> round(float(table.loc["alpha_standardized", "value"]), 3)
      0.743
    """
    matrix = as_matrix(responses)
    complete = complete_cases(matrix)
    cov, n, note = _item_covariance(matrix, True, "listwise")
    rows = {"alpha": cronbach_alpha(matrix, confidence=confidence)}
    if cov is None:
        rows |= {name: undefined(note, n) for name in TABLE_ROWS}
        return pd.DataFrame(rows, index=pd.Index(Estimate._fields)).T
    varying = varying_items(complete)[0]
    forms = split_forms(cov, "all", seed)[0][:2]
    hierarchical = omega_of_stack(varying, n_factors)

    def coefficients(stack: np.ndarray) -> np.ndarray:
        corr = correlations(stack)
        k = corr.shape[1]
        average = (corr.sum(axis=(1, 2)) - k) / (k * (k - 1))
        bounds, splits = lambdas_of(corr), form_coefficients(corr, forms)
        ordered = [*bounds[:, :3].T, splits[:, 0], *bounds[:, 3:].T, splits[:, 1]]
        return np.stack([alpha_of(stack), alpha_of(corr), average, *ordered, *hierarchical(corr)], axis=1)

    draws = bootstrap(varying, coefficients, n_bootstrap=n_bootstrap, seed=seed)
    with small_matrices():
        point = coefficients(covariance(varying)[None])[0]
    for name, value, drawn in zip(TABLE_ROWS, point, draws.T, strict=True):
        rows[name] = _noted(percentile_estimate(float(value), drawn, n, confidence=confidence), note)
    rows["omega_total"] = omega(matrix, confidence=confidence)
    return pd.DataFrame(rows, index=pd.Index(Estimate._fields)).T


TABLE_ROWS = (
    "alpha_bootstrap",
    "alpha_standardized",
    "average_r",
    *(f"lambda{i}" for i in range(1, 7)),
    "beta",
    "omega_total_group",
    "omega_hierarchical",
)
