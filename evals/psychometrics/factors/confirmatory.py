"""Confirmatory factor analysis: maximum likelihood for continuous items, with the usual fit indices.

Factors are correlated or not, items may load on several, residuals are uncorrelated. Not covered: mean
structures, several groups, robust corrections, estimators for ordered categories.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from evals.psychometrics.covariance import covariance
from evals.psychometrics.estimate import as_matrix, complete_cases, constant_columns, why_no_variance
from evals.psychometrics.factors.covariance_structure import MaximumLikelihood, Structure, fit_ml
from evals.psychometrics.factors.factor_analysis import noncentrality

FactorModel = str | Mapping[str, Sequence[str]]


class Cfa(NamedTuple):
    """A fitted confirmatory model.

    Attributes:
      parameters: one row each, lhs op rhs as in lavaan (=~ loading, ~~ variance or covariance), with est,
        se, z, p and std (both items and factors of variance 1). Fixed ones have se 0.
      fit: chi2, df, p, baseline_chi2, baseline_df, cfi, tli, nfi, rmsea, rmsea_low, rmsea_high (90 %),
        rmsea_p (of close fit), srmr, gfi, agfi, loglik, aic, bic, n_parameters.
      implied: model covariances of the items, in the order of the columns used.
      n: complete cases.
      converged, improper: whether the search ended at a maximum; whether a variance is negative or the
        factor correlations are impossible (a Heywood case): then the loadings must not be interpreted.
      reason: why it is undefined or improper; empty otherwise.
    """

    parameters: pd.DataFrame
    fit: dict[str, float]
    implied: np.ndarray
    n: int
    converged: bool
    improper: bool
    reason: str


def parse(model: FactorModel) -> dict[str, list[str]]:
    """Factors and their items, of {"f": ["x1", "x2"]} or lines "f =~ x1 + x2"."""
    if not isinstance(model, str):
        return {factor: list(items) for factor, items in model.items()}
    result: dict[str, list[str]] = {}
    for line in filter(None, (part.strip() for part in model.replace(";", "\n").splitlines())):
        factor, found, items = line.partition("=~")
        if not found:
            raise ValueError(f'a line of the model must read "factor =~ item + item"; got {line!r}')
        result.setdefault(factor.strip(), []).extend(item.strip() for item in items.split("+"))
    return result


def structure_of(model: dict[str, list[str]], items: Sequence[str], *, orthogonal: bool) -> Structure:
    """Positions of the free parameters of a model over items.

    Args:
      model: items of each factor.
      items: in the order of the covariances.
      orthogonal: factors do not correlate.
    Returns: the structure.
    """
    position = {item: i for i, item in enumerate(items)}
    pairs = [(position[i], f) for f, names in enumerate(model.values()) for i in names]
    rows, columns = np.array(pairs).T
    m = len(model)
    first, second = (np.array([], int),) * 2 if orthogonal else np.triu_indices(m, 1)
    return Structure(rows, columns, first, second, len(items), m)


def cfa(
    responses: npt.ArrayLike,
    model: FactorModel,
    *,
    std_lv: bool = False,
    orthogonal: bool = False,
) -> Cfa:
    """Confirmatory factor analysis: maximum likelihood of a stated model for continuous items.

    Minimizes F = ln|Σ| + tr SΣ⁻¹ − ln|S| − k with Σ = ΛΦΛ' + Θ; divisor n, as in lavaan.

    Args:
      responses: persons x items, the model's names as columns, NaN where missing (listwise deletion).
      model: factors and their items, {"visual": ["x1", "x2", "x3"]} or text of lines
        "visual =~ x1 + x2 + x3".
      std_lv: factor variances are fixed to 1; otherwise the first loading of each factor is.
      orthogonal: factors do not correlate.
    Returns: Cfa; estimates NaN with the reason where the model cannot be fitted.
    Raises: ValueError for a column that does not exist or a factor without items.
    Reference: Jöreskog 1969, Psychometrika 34, 183-202; definitions of fit as in lavaan.

    Example:
      >>> import pandas as pd
      >>> from evals.psychometrics import cfa, simulate_responses
      >>> two = [[0.7, 0], [0.7, 0], [0.7, 0], [0, 0.7], [0, 0.7], [0, 0.7]]
      >>> answers = pd.DataFrame(simulate_responses(300, two), columns=list("abcdef"))
      >>> found = cfa(answers, "first =~ a + b + c; second =~ d + e + f")
      >>> round(found.fit["chi2"], 2), found.fit["df"], round(found.fit["cfi"], 3)
      (15.01, 8, 0.977)
    """
    frame = pd.DataFrame(responses)
    factors = parse(model)
    items = list(dict.fromkeys(item for names in factors.values() for item in names))
    if missing := [item for item in items if item not in frame.columns]:
        raise ValueError(f"the model names {missing[0]!r}, which is no column of the responses")
    if empty := [factor for factor, names in factors.items() if not names]:
        raise ValueError(f"factor {empty[0]!r} has no items")
    matrix = as_matrix(frame[items])
    complete = complete_cases(matrix)
    n, k = complete.shape
    structure = structure_of(factors, items, orthogonal=orthogonal)
    n_parameters = len(structure.loading_items) + k + len(structure.cov_first)
    reason = why_no_variance(complete, len(matrix))
    if not reason and constant_columns(complete).any():
        reason = f"item {items[int(constant_columns(complete).argmax())]} does not vary"
    if not reason and n <= k:
        reason = f"{n} complete respondents are too few for {k} items"
    if not reason and n_parameters > k * (k + 1) // 2:
        reason = f"not identified: {n_parameters} parameters for {k * (k + 1) // 2} covariances"
    if not reason:
        cov = covariance(complete) * (n - 1) / n
        if np.linalg.matrix_rank(cov) < k:
            reason = "singular covariances: some item is a sum of others"
    if reason:
        return Cfa(pd.DataFrame(), {}, np.full((k, k), math.nan), n, False, False, reason)
    found = fit_ml(cov, structure)
    if not found.identified:
        reason = "not identified: several parameter values fit alike (give each factor at least 3 items)"
        return Cfa(pd.DataFrame(), {}, np.full((k, k), math.nan), n, False, False, reason)
    return _report(cov, n, structure, found, list(factors), items, std_lv)


def _report(
    cov: np.ndarray,
    n: int,
    structure: Structure,
    found: MaximumLikelihood,
    factors: list[str],
    items: list[str],
    std_lv: bool,
) -> Cfa:
    implied = structure.implied(found.theta)
    loadings, residual, phi = structure.split(found.theta)
    problems = [f"residual variance of {items[i]} is negative" for i in np.flatnonzero(residual < 0)]
    if np.linalg.eigvalsh(phi).min() < 0:
        problems.append("the factor correlations are impossible (not positive definite)")
    if not found.converged:
        problems.append("the search did not converge; the estimates must not be interpreted")
    fit = fit_indices(cov, implied, n, len(found.theta))
    scale = np.ones(structure.m) if std_lv else _marker_scale(structure, loadings)
    parameters = _parameters(structure, found, n, factors, items, scale, np.sqrt(np.diagonal(implied)))
    improper = bool((residual < 0).any() or np.linalg.eigvalsh(phi).min() < 0)
    return Cfa(parameters, fit, implied, n, found.converged, improper, "; ".join(problems))


def _marker_scale(structure: Structure, loadings: np.ndarray) -> np.ndarray:
    """The loading of each factor's first item, which becomes 1."""
    first = [np.flatnonzero(structure.loading_factors == f)[0] for f in range(structure.m)]
    return loadings[structure.loading_items[first], np.arange(structure.m)]


def _parameters(
    structure: Structure,
    found: MaximumLikelihood,
    n: int,
    factors: list[str],
    items: list[str],
    scale: np.ndarray,
    item_sd: np.ndarray,
) -> pd.DataFrame:
    """The parameter table; standard errors by the delta method where factors are rescaled."""
    loadings, residual, phi = structure.split(found.theta)
    covariance_of_theta = np.linalg.pinv(found.information) / n
    unscaled = bool((scale == 1).all())
    n_loadings, k = len(structure.loading_items), structure.k

    def reported(theta: np.ndarray) -> np.ndarray:
        free, _, correlation = structure.split(theta)
        by = np.ones(structure.m) if unscaled else _marker_scale(structure, free)
        pairs = correlation * np.outer(by, by)
        return np.concatenate(
            [
                free[structure.loading_items, structure.loading_factors] / by[structure.loading_factors],
                theta[n_loadings : n_loadings + k],
                np.diagonal(pairs),
                pairs[structure.cov_first, structure.cov_second],
            ]
        )

    step = 1e-6 * np.maximum(1, np.abs(found.theta))
    derivative = np.column_stack(
        [(reported(found.theta + d) - reported(found.theta - d)) / (2 * h) for h, d in _nudges(step)]
    )
    se = np.sqrt(np.maximum(np.einsum("ip,pq,iq->i", derivative, covariance_of_theta, derivative), 0))
    est = reported(found.theta)
    std = np.concatenate(
        [
            loadings[structure.loading_items, structure.loading_factors] / item_sd[structure.loading_items],
            residual / item_sd**2,
            np.ones(structure.m),
            phi[structure.cov_first, structure.cov_second],
        ]
    )
    names = (
        [
            (factors[f], "=~", items[i])
            for i, f in zip(structure.loading_items, structure.loading_factors, strict=True)
        ]
        + [(item, "~~", item) for item in items]
        + [(factor, "~~", factor) for factor in factors]
        + [
            (factors[a], "~~", factors[b])
            for a, b in zip(structure.cov_first, structure.cov_second, strict=True)
        ]
    )
    se = np.where(se < 1e-7 * np.maximum(1, np.abs(est)), 0.0, se)
    z = np.divide(est, se, out=np.full_like(est, math.nan), where=se > 0)
    table = pd.DataFrame(names, columns=pd.Index(["lhs", "op", "rhs"]))
    return table.assign(est=est, se=se, z=z, p=2 * stats.norm.sf(np.abs(z)), std=std)


def _nudges(step: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """Each parameter's step, and the vector that moves only that parameter."""
    return [(h, h * unit) for h, unit in zip(step, np.eye(len(step)), strict=True)]


def fit_indices(cov: np.ndarray, implied: np.ndarray, n: int, n_parameters: int) -> dict[str, float]:
    """Fit of implied to observed covariances (divisor n), in lavaan's definitions.

    χ² = n F;  RMSEA = √(max(χ² − df, 0)/(n df));  CFI, TLI against independent items;
    SRMR over the lower triangle with its diagonal;  GFI = 1 − tr (Σ⁻¹S − I)² / tr (Σ⁻¹S)².

    Args:
      cov: observed [k, k].
      implied: by the model [k, k].
      n: persons.
      n_parameters: free ones.
    Returns: the indices by name.
    """
    k = len(cov)
    ratio = np.linalg.solve(implied, cov)
    logdet, logdet_cov = np.linalg.slogdet(implied)[1], np.linalg.slogdet(cov)[1]
    chi2 = max(float(n * (logdet - logdet_cov + np.trace(ratio) - k)), 0.0)
    df = k * (k + 1) // 2 - n_parameters
    base = float(n * (np.log(np.diagonal(cov)).sum() - logdet_cov))
    base_df = k * (k - 1) // 2
    loglik = float(-n / 2 * (k * math.log(2 * math.pi) + logdet + np.trace(ratio)))
    sd = np.sqrt(np.diagonal(cov))
    standardized = ((cov - implied) / np.outer(sd, sd))[np.tril_indices(k)]
    off = ratio - np.eye(k)
    gfi = float(1 - np.trace(off @ off) / np.trace(ratio @ ratio))
    excess, base_excess = max(chi2 - df, 0.0), max(base - base_df, chi2 - df, 0.0)
    testable = df > 0
    low, high = (noncentrality(chi2, df, q) if testable else math.nan for q in (0.95, 0.05))
    return {
        "chi2": chi2,
        "df": df,
        "p": float(stats.chi2.sf(chi2, df)) if testable else math.nan,
        "baseline_chi2": base,
        "baseline_df": base_df,
        "cfi": 1 - excess / base_excess if base_excess > 0 else 1.0,
        "tli": 1 - (chi2 - df) / df * base_df / (base - base_df)
        if testable and base != base_df
        else math.nan,
        "nfi": 1 - chi2 / base if base > 0 else math.nan,
        "rmsea": math.sqrt(excess / (n * df)) if testable else math.nan,
        "rmsea_low": math.sqrt(low / (n * df)) if testable else math.nan,
        "rmsea_high": math.sqrt(high / (n * df)) if testable else math.nan,
        "rmsea_p": float(stats.ncx2.sf(chi2, df, 0.05**2 * n * df)) if testable else math.nan,
        "srmr": float(np.sqrt((standardized**2).mean())),
        "gfi": gfi,
        "agfi": 1 - (1 - gfi) * k * (k + 1) / (2 * df) if testable else math.nan,
        "loglik": loglik,
        "aic": -2 * loglik + 2 * n_parameters,
        "bic": -2 * loglik + math.log(n) * n_parameters,
        "n_parameters": n_parameters,
    }
