"""Exploratory factor analysis: minimum residuals, rotation, fit, Schmid-Leiman; how many factors.

Correlations are of complete cases. Not covered: other extractions than minimum residuals, and tests
of a model stated beforehand (cfa).
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import optimize, stats

from evals.psychometrics.covariance import correlations, covariance, varying_items
from evals.psychometrics.estimate import as_matrix, complete_cases, why_no_variance
from evals.psychometrics.factors.rotation import oblimin, varimax

# uniquenesses below this are a Heywood case, at which the search is stopped
LEAST_UNIQUENESS = 0.005


class Efa(NamedTuple):
    """An exploratory factor solution.

    Attributes:
      loadings: pattern, items x factors, ordered by variance explained; NaN where undefined.
      factor_correlations: [m, m], the identity unless the rotation is oblique.
      communality: variance of each item that the factors explain.
      fit: chi2, df, p, rmsea, rmsea_low, rmsea_high (90 %), tli, bic, rms of residual correlations.
      n: complete cases.
      heywood: an item's uniqueness fell to its bound; the solution must not be interpreted.
      reason: why the solution is undefined or not to be trusted; empty otherwise.
    """

    loadings: pd.DataFrame
    factor_correlations: np.ndarray
    communality: pd.Series
    fit: dict[str, float]
    n: int
    heywood: bool
    reason: str


def minres(corr: np.ndarray, n_factors: int) -> tuple[np.ndarray, bool]:
    """Loadings [k, m] that minimize the squared residual correlations, and whether the search converged.

    Over the uniquenesses ψ the best loadings are the first m eigenvectors of R − diag ψ, so that
    f(ψ) = ½ Σ_{j>m} ω²ⱼ of its other eigenvalues; ∂f/∂ψᵢ = −Σ_{j>m} ωⱼ v²ᵢⱼ.

    Args:
      corr: R [k, k].
      n_factors: m.
    Returns: loadings and convergence.
    Reference: Harman & Jones 1966; Jöreskog 1977.
    """
    k = len(corr)

    def objective(unique: np.ndarray) -> tuple[float, np.ndarray]:
        values, vectors = np.linalg.eigh(corr - np.diag(unique))
        # a negative one among the first m gives no real loading, so it stays in the residual
        rest = np.concatenate([values[: k - n_factors], np.minimum(values[k - n_factors :], 0)])
        return 0.5 * float(rest @ rest), -(vectors**2 @ rest)

    start = np.clip(1 / np.diagonal(np.linalg.pinv(corr)), LEAST_UNIQUENESS, 1)
    found = optimize.minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(LEAST_UNIQUENESS, 1)] * k,
        options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 2000},
    )
    values, vectors = np.linalg.eigh(corr - np.diag(found.x))
    loadings = vectors[:, ::-1][:, :n_factors] * np.sqrt(np.maximum(values[::-1][:n_factors], 0))
    gradient = found.jac.copy()
    gradient[found.x <= LEAST_UNIQUENESS * (1 + 1e-9)] = 0
    return loadings, bool(found.success or np.abs(gradient).max() < 1e-5)


def efa(
    responses: npt.ArrayLike | None = None,
    n_factors: int = 1,
    rotation: Literal["oblimin", "varimax", "none"] = "oblimin",
    *,
    correlation: npt.ArrayLike | None = None,
    n: int | None = None,
) -> Efa:
    """Exploratory factor analysis by minimum residuals of Pearson correlations.

    Minimizes Σ_{i<j} (rᵢⱼ − Σ_m λᵢₘ λⱼₘ)², then rotates.

    Args:
      responses: persons x items, NaN where missing (listwise deletion).
      n_factors: how many.
      rotation: "oblimin" (oblique), "varimax" or "none".
      correlation, n: a correlation matrix and its sample size in place of responses.
    Returns: Efa. Items that do not vary are left out and named in the reason.
    Raises: ValueError where n_factors leaves no degrees of freedom to estimate, or for an unknown rotation.
    Reference: Harman & Jones 1966, Psychometrika 31, 351-368; fit as in psych::fa.

    Example:
      >>> from evals.psychometrics import efa, simulate_responses
      >>> two = [[0.7, 0], [0.7, 0], [0.7, 0], [0, 0.7], [0, 0.7], [0, 0.7]]
      >>> efa(simulate_responses(300, two), n_factors=2).loadings.abs().round(1)
             F1   F2
      item
      0     0.0  0.6
      1     0.0  0.7
      2     0.0  0.7
      3     0.7  0.0
      4     0.6  0.1
      5     0.7  0.0
    """
    corr, n, names, reason = _correlation(responses, correlation, n)
    k = len(names)
    if rotation not in ("oblimin", "varimax", "none"):
        raise ValueError(f'rotation must be "oblimin", "varimax" or "none"; got {rotation!r}')
    if not 1 <= n_factors <= max(1, k - 1):
        raise ValueError(f"n_factors must lie between 1 and {k - 1} for {k} items; got {n_factors}")
    factors = [f"F{i + 1}" for i in range(n_factors)]
    if corr is None:
        blank = pd.DataFrame(math.nan, index=pd.Index(names), columns=pd.Index(factors))
        none = pd.Series(math.nan, index=blank.index)
        return Efa(blank, np.full((n_factors,) * 2, math.nan), none, {}, n, False, reason)
    loadings, converged = minres(corr, n_factors)
    communality = (loadings**2).sum(axis=1)
    fit = _fit(corr, loadings, n)
    loadings = loadings * np.where(loadings.sum(axis=0) < 0, -1.0, 1.0)
    rotated = {"oblimin": oblimin, "varimax": varimax}.get(rotation)
    phi = np.eye(n_factors)
    if rotated:
        loadings, phi, _, turned = rotated(loadings)
        converged = converged and turned
    order = np.argsort(-np.diagonal(phi @ loadings.T @ loadings), kind="stable")
    signs = np.where(loadings[:, order].sum(axis=0) < 0, -1.0, 1.0)
    loadings, phi = loadings[:, order] * signs, phi[np.ix_(order, order)] * np.outer(signs, signs)
    heywood = bool((communality >= 1 - LEAST_UNIQUENESS * 1.01).any())
    notes = [reason] if reason else []
    if heywood:
        item = names[int(communality.argmax())]
        notes.append(f"Heywood case: item {item} would be explained entirely; use fewer factors")
    if not converged:
        notes.append("the search did not converge; the loadings must not be interpreted")
    index = pd.Index(names, name="item")
    return Efa(
        pd.DataFrame(loadings, index=index, columns=pd.Index(factors)),
        phi,
        pd.Series(communality, index=index),
        fit,
        n,
        heywood,
        "; ".join(notes),
    )


def _correlation(
    responses: npt.ArrayLike | None, correlation: npt.ArrayLike | None, n: int | None
) -> tuple[np.ndarray | None, int, Sequence, str]:
    """Correlations, persons, item names, and why there are none or what was left out."""
    if (responses is None) == (correlation is None):
        raise ValueError("give either responses or a correlation matrix")
    if correlation is not None:
        corr = as_matrix(correlation, name="correlation")
        names = list(correlation.columns) if isinstance(correlation, pd.DataFrame) else range(len(corr))
        if corr.shape[0] != corr.shape[1] or not np.allclose(corr, corr.T, atol=1e-6):
            raise ValueError(f"a correlation matrix must be square and symmetric; got shape {corr.shape}")
        if np.isnan(corr).any():
            return None, n or 0, names, "a correlation is missing"
        return corr, n or 0, names, "" if n else "no fit statistics: n was not given"
    matrix = as_matrix(responses)  # type: ignore[arg-type]
    named = list(responses.columns) if isinstance(responses, pd.DataFrame) else list(range(matrix.shape[1]))
    complete = complete_cases(matrix)
    if reason := why_no_variance(complete, len(matrix)):
        return None, len(complete), named, reason
    varying, note = varying_items(complete)
    if varying.shape[1] < 3:
        return None, len(complete), named, f"fewer than 3 items vary (got {varying.shape[1]})"
    if len(complete) <= varying.shape[1]:
        why = f"{len(complete)} complete respondents are too few for {varying.shape[1]} items"
        return None, len(complete), named, why
    kept = [name for name, spread in zip(named, np.ptp(complete, axis=0), strict=True) if spread > 0]
    return correlations(covariance(varying)), len(complete), kept, note


def _fit(corr: np.ndarray, loadings: np.ndarray, n: int) -> dict[str, float]:
    """Fit in the definitions of psych::fa: χ² with Bartlett's correction from the ML discrepancy."""
    k, m = loadings.shape
    model = loadings @ loadings.T
    np.fill_diagonal(model, 1)
    residual = corr - model
    rms = math.sqrt((residual**2).sum() / (k * (k - 1)))
    df = k * (k - 1) / 2 - k * m + m * (m - 1) / 2
    names = ("chi2", "p", "rmsea", "rmsea_low", "rmsea_high", "tli", "bic")
    if not n or df <= 0:
        return {"df": df, "rms": rms, **dict.fromkeys(names, math.nan)}
    sign, logdet = np.linalg.slogdet(np.linalg.solve(model, corr))
    discrepancy = np.trace(np.linalg.solve(model, corr)) - logdet - k if sign > 0 else math.nan
    chi2 = discrepancy * (n - 1 - (2 * k + 5) / 6 - 2 * m / 3)
    null = -np.linalg.slogdet(corr)[1] * (n - 1 - (2 * k + 5) / 6 - 2 * m / 3)
    df_null = k * (k - 1) / 2
    tli = (null / df_null - chi2 / df) / (null / df_null - 1)
    low, high = (noncentrality(chi2, df, q) for q in (0.95, 0.05))
    return {
        "chi2": float(chi2),
        "df": df,
        "p": float(stats.chi2.sf(chi2, df)),
        "rmsea": math.sqrt(max(chi2 / (df * n) - 1 / (n - 1), 0)),
        "rmsea_low": math.sqrt(low / ((n - 1) * df)),
        "rmsea_high": math.sqrt(high / ((n - 1) * df)),
        "tli": float(tli),
        "bic": float(chi2) - df * math.log(n),
        "rms": rms,
    }


def noncentrality(chi2: float, df: float, quantile: float) -> float:
    """The λ at which a noncentral χ²(df, λ) has its quantile at the observed χ²; 0 where none is.

    Gives the bounds of the RMSEA: quantile 0.95 for the lower one of 90 %, 0.05 for the upper.

    Args:
      chi2: observed.
      df: degrees of freedom.
      quantile: in (0, 1).
    Returns: λ.
    """
    if not math.isfinite(chi2):
        return math.nan

    def excess(ncp: float) -> float:
        return float(stats.ncx2.cdf(chi2, df, ncp) if ncp > 0 else stats.chi2.cdf(chi2, df)) - quantile

    if excess(0.0) <= 0:
        return 0.0
    upper = max(chi2, df, 1.0)
    while excess(upper) > 0:
        upper *= 2
    return float(optimize.root_scalar(excess, bracket=(0.0, upper), xtol=1e-9).root)
