"""Analyses of how items hang together: polychorics, number of factors, exploratory and confirmatory "
"models."""

import math
from typing import Literal, cast

import numpy as np
import pandas as pd

from evals.analysis.answer_table import ALL, AnswerTable
from evals.analysis.results import ResultTable
from evals.analysis.settings import AnalysisSettings
from evals.psychometrics.factors.confirmatory import cfa
from evals.psychometrics.factors.factor_analysis import Efa, efa
from evals.psychometrics.factors.factor_number import bartlett, kmo, parallel_analysis, velicer_map
from evals.psychometrics.polychoric_correlations import polychoric


def factor_number(table: AnswerTable, settings: AnalysisSettings) -> list[ResultTable]:
    """Whether the items can be factored, and into how many: KMO, Bartlett, parallel analysis, Velicer's MAP.

    Args:
      table: the answers to all items together.
      settings: seed is used.
    Returns: verdicts; eigenvalues next to those of random data; KMO of each item.
    """
    keyed = table.all_keyed()
    adequacy, sphericity = kmo(keyed), bartlett(keyed)
    horn = parallel_analysis(keyed, seed=settings.seed)
    partial = velicer_map(keyed, max_factors=min(8, max(1, keyed.shape[1] - 1)))
    least = int(np.nanargmin(partial)) + 1 if np.isfinite(partial).any() else math.nan
    rows = [
        {"statistic": "KMO (.60 is needed, .80 good)", "value": adequacy.overall, "reason": adequacy.reason},
        {"statistic": "Bartlett's chi2", "value": sphericity.chi2, "reason": sphericity.reason},
        {"statistic": "Bartlett's df", "value": float(sphericity.df), "reason": sphericity.reason},
        {
            "statistic": "Bartlett's p (below .05 is needed)",
            "value": sphericity.p,
            "reason": sphericity.reason,
        },
        {"statistic": "factors by parallel analysis", "value": _count(horn.n_factors), "reason": horn.reason},
        {
            "statistic": "components by parallel analysis",
            "value": _count(horn.n_components),
            "reason": horn.reason,
        },
        {"statistic": "components by Velicer's MAP", "value": float(least), "reason": ""},
    ]
    tables = [ResultTable("factor_number", "How many factors", pd.DataFrame(rows))]
    if not horn.reason:
        eigenvalues = pd.DataFrame(
            {
                "number": np.arange(1, len(horn.factor_eigenvalues) + 1),
                "factor": horn.factor_eigenvalues,
                "random_factor": horn.random_factor,
                "component": horn.component_eigenvalues,
                "random_component": horn.random_component,
            }
        )
        note = "Factors count as long as their eigenvalue is above that of random data of the same size."
        tables.append(ResultTable("eigenvalues", "Eigenvalues", eigenvalues, note))
        by_item = pd.DataFrame({"item": list(keyed.columns), "kmo": adequacy.items})
        tables.append(ResultTable("kmo_items", "KMO of items", by_item))
    return tables


def _count(number: int) -> float:
    return math.nan if number < 0 else float(number)


def exploratory(table: AnswerTable, settings: AnalysisSettings) -> list[ResultTable]:
    """Exploratory factor analysis of all items, by minimum residuals.

    Args:
      table: the answers.
      settings: factors, rotation, correlations and seed are used.
    Returns: loadings with communality; correlations of factors; fit.
    Raises: ValueError where parallel analysis finds no factor and none is asked for.
    """
    keyed = table.all_keyed()
    count = settings.factors
    if not count:
        horn = parallel_analysis(keyed, seed=settings.seed)
        if horn.reason:
            raise ValueError(f"efa: the number of factors is not to be told ({horn.reason}); give --factors")
        count = max(1, horn.n_factors)
    found = solution(keyed, count, settings)
    loadings = found.loadings.rename_axis("item").reset_index()
    loadings["communality"] = np.asarray(found.communality, np.float64)
    names = [str(name) for name in found.loadings.columns]
    between = pd.DataFrame(found.factor_correlations, columns=pd.Index(names))
    between.insert(0, "factor", names)
    chosen = "" if settings.factors else f" The number, {count}, is that of parallel analysis (--factors)."
    warned = f" {found.reason}." if found.reason else ""
    of = f"of {settings.correlations} correlations, n = {found.n}"
    note = f"Minimum residuals {of}, rotation {settings.rotation}.{chosen}{warned}"
    return [
        ResultTable("efa_loadings", "Exploratory factors: loadings", loadings, note),
        ResultTable("efa_factor_correlations", "Exploratory factors: correlations of factors", between),
        ResultTable(
            "efa_fit", "Exploratory factors: fit", pd.DataFrame([found.fit]) if found.fit else pd.DataFrame()
        ),
    ]


def solution(keyed: pd.DataFrame, count: int, settings: AnalysisSettings) -> Efa:
    """An exploratory solution from Pearson or polychoric correlations.

    Args:
      keyed: respondents x items.
      count: number of factors.
      settings: rotation and correlations are used.
    Returns: as `evals.psychometrics.efa`.
    Raises: ValueError for an unknown rotation, or more factors than the items can identify.
    """
    rotation = cast(Literal["oblimin", "varimax", "none"], settings.rotation)
    if settings.correlations == "pearson":
        return efa(keyed, count, rotation)
    tetra = polychoric(keyed)
    if np.isnan(tetra.correlations).any():
        raise ValueError(
            f"efa: polychoric correlations are undefined ({tetra.reason or 'an item does not vary'})"
        )
    found = efa(None, count, rotation, correlation=tetra.correlations, n=tetra.n)
    return found._replace(
        loadings=found.loadings.set_axis(pd.Index(keyed.columns), axis=0),
        communality=pd.Series(np.asarray(found.communality), index=keyed.columns),
    )


def confirmatory(table: AnswerTable, settings: AnalysisSettings) -> list[ResultTable]:
    """Confirmatory factor analysis of a stated model, by maximum likelihood; in lavaan's definitions.

    Args:
      table: the answers.
      settings: model is used; empty takes each scale as a factor.
    Returns: fit, and parameters with standard errors, z, p and standardized values.
    Raises: ValueError where neither a model nor scales are named.
    """
    if not settings.model and list(table.scales) == [ALL]:
        raise ValueError('cfa needs --model "factor =~ item + item; ..", or factors as --scale')
    keyed = table.all_keyed()
    stated = settings.model or {name: list(keys) for name, keys in table.scales.items()}
    found = cfa(keyed, stated)
    fit = pd.DataFrame([{"index": name, "value": value} for name, value in found.fit.items()])
    warned = f" {found.reason}." if found.reason else ""
    reversed_items = [item for item, key in table.items.items() if key == -1]
    turned = " Reversed items were turned before." if reversed_items else ""
    note = (
        f"n = {found.n}.{turned}{warned} Usual wishes: CFI and TLI above .95, RMSEA below .06, SRMR below "
        ".08 "
        "(Hu and Bentler 1999)."
    )
    return [
        ResultTable("cfa_fit", "Confirmatory model: fit", fit, note),
        ResultTable(
            "cfa_parameters",
            "Confirmatory model: parameters",
            found.parameters.reset_index(drop=True),
            "=~ a loading, ~~ a variance or covariance; std: items and factors of variance 1.",
        ),
    ]


def polychorics(table: AnswerTable, settings: AnalysisSettings) -> list[ResultTable]:
    """Polychoric correlations of all items, and the thresholds between their answers.

    Args:
      table: the answers.
      settings: unused.
    Returns: correlations, thresholds.
    """
    keyed = table.all_keyed()
    found = polychoric(keyed)
    names = [str(name) for name in keyed.columns]
    correlations = pd.DataFrame(found.correlations, columns=pd.Index(names))
    correlations.insert(0, "item", names)
    rows = [
        {"item": name, **{f"t{i}": value for i, value in enumerate(own, 1)}}
        for name, own in zip(names, found.thresholds, strict=False)
    ]
    warned = f" {found.reason}." if found.reason else ""
    note = f"Of the normal variables that are taken to lie behind ordered answers; n = {found.n}.{warned}"
    return [
        ResultTable("polychoric", "Polychoric correlations", correlations, note),
        ResultTable("polychoric_thresholds", "Thresholds of answers, in SDs", pd.DataFrame(rows)),
    ]
