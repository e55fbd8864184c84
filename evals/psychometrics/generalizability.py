"""Generalizability theory: how much of a score's variance is due to the respondent, how much to conditions.

Random effects, crossed or nested, of one to four facets besides the object of measurement. Balanced data are
estimated by expected mean squares (EMS) or restricted maximum likelihood (REML), unbalanced data by REML.
Not covered: multivariate designs and fixed effects in the estimation (d_study takes fixed facets).
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import optimize

from evals.psychometrics.designs import REPEAT, CodedScores, GStudyDesign, code_table, parse_design
from evals.psychometrics.estimate import Estimate, as_matrix, undefined
from evals.psychometrics.reml import fit_reml

N_DRAWS = 4000
# names of the facets of a plain table
CROSSED = ("person", "item")


class VarianceComponents(NamedTuple):
    """Variance components of a design.

    Attributes:
      table: by effect, df, ms, component (as estimated: EMS may be negative), truncated (at zero), share (of
        the truncated sum), low and high. Effects are named p, p:i, r(t), p:r(t); the last is the residual.
      levels: the number of levels of each facet (inside a level of what it is nested in; 0 if it varies).
      n: scores used; n_dropped: rows without a score.
      converged: whether the REML search ended at a maximum; always true for EMS.
      reason: why it is undefined; empty otherwise.
      draws: [draws, effects] of the components' sampling distribution, for the intervals of d_study.
    """

    table: pd.DataFrame
    design: GStudyDesign
    levels: dict[str, int]
    n: int
    n_dropped: int
    converged: bool
    reason: str
    draws: np.ndarray

    @property
    def components(self) -> dict[str, float]:
        """Components by name of effect."""
        return dict(
            zip(map(str, self.table.index), np.asarray(self.table["component"], float).tolist(), strict=True)
        )


def variance_components(
    data: pd.DataFrame | npt.ArrayLike,
    facets: Sequence[str] | None = None,
    method: Literal["ems", "reml"] = "ems",
    *,
    score: str = "score",
    confidence: float = 0.95,
    seed: int = 0,
) -> VarianceComponents:
    """Estimates the variance of every effect of a random design.

    EMS: mean squares equal their expectations, E MS_α = Σ_{β⊇α} σ²_β ∏_{f∉β} n_f; a component may come out
    negative and is reported both as it is and truncated. REML: the likelihood of contrasts, σ² ≥ 0.
    Balanced intervals are generalized confidence intervals: each mean square over a χ²/df draw (exact for
    ratios of two mean squares); unbalanced ones are normal with REML's information, cut at zero.

    Args:
      data: persons x items if no facets are named; otherwise a long table with a row for each score, a column
        for each facet, and the scores.
      facets: of a long table, the object of measurement first; "rater:task" for raters nested in tasks.
        Several scores in a cell become the residual.
      method: "ems" or "reml".
      score: the column of scores; if absent, the only column that is not a facet.
      confidence, seed: of the intervals.
    Returns: VarianceComponents, NaN with a reason where undefined (EMS of unbalanced data, one level).
    Raises: ValueError for an unknown column or method.
    Reference: Brennan 2001, Generalizability Theory; Weerahandi 1993 for the intervals.

    Example:
      >>> from evals.psychometrics import variance_components
      >>> ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
      >>> found = variance_components(ratings)
      >>> {effect: round(value, 3) for effect, value in found.components.items()}
      {'person': 2.556, 'item': 5.244, 'person:item': 1.019}
    """
    if method not in ("ems", "reml"):
        raise ValueError(f'method must be "ems" or "reml"; got {method!r}')
    frame, facets = (_crossed(data), CROSSED) if facets is None else (pd.DataFrame(data), facets)
    design = parse_design(facets)
    if score not in frame.columns:
        others = [column for column in frame.columns if column not in design.facets]
        score = others[0] if len(others) == 1 else score
    table = code_table(frame, design, score)
    if reason := _why_undefined(table, method):
        return _blank(table, reason)
    rng = np.random.default_rng(seed)
    if table.balanced:
        return _balanced(table, method, confidence, rng)
    effects = table.design.effects[:-1]
    found = fit_reml(table.score, [table.codes[e] for e in effects])
    if found.reason:
        return _blank(table, found.reason)
    spread = rng.multivariate_normal(
        np.zeros(len(found.components)), found.covariance, N_DRAWS, method="eigh"
    )
    draws = np.maximum(found.components + spread, 0)
    blank = np.full(len(found.components), math.nan)
    return _assemble(table, blank, blank, found.components, draws, confidence, found.converged)


def _crossed(responses: npt.ArrayLike) -> pd.DataFrame:
    """A long table of persons x items."""
    matrix = as_matrix(responses)
    person, item = np.indices(matrix.shape)
    return pd.DataFrame({"person": person.ravel(), "item": item.ravel(), "score": matrix.ravel()})


def _why_undefined(table: CodedScores, method: str) -> str:
    if len(table.score) < 2:
        return f"fewer than 2 scores (got {len(table.score)}; {table.n_dropped} rows without one)"
    for facet in table.design.facets:
        if table.levels[facet] == 1:
            return f"facet {facet!r} has one level; leave it out of the facets"
    if np.ptp(table.score) == 0:
        return f"no variance: all {len(table.score)} scores are {table.score[0]:g}"
    if not table.balanced and method == "ems":
        return 'unbalanced: cells differ in their number of scores; use method="reml"'
    return ""


def _blank(table: CodedScores, reason: str) -> VarianceComponents:
    k = len(table.design.effects)
    nan = np.full(k, math.nan)
    return _assemble(table, nan, nan, nan, np.full((1, k), math.nan), 0.95, False)._replace(reason=reason)


def mean_squares(table: CodedScores) -> tuple[np.ndarray, np.ndarray]:
    """Degrees of freedom and mean squares of the effects of balanced data.

    An effect is its cell mean less the effects it contains; df multiplies levels − 1 of its own facets
    by the levels of those they are nested in.
    """
    design, n = table.design, len(table.score)
    fitted: dict[frozenset[str], np.ndarray] = {}
    centered = table.score - table.score.mean()
    df, ms = [], []
    for effect in design.effects:
        lower = sum((fitted[e] for e in fitted if e < effect), np.zeros(n))
        codes = table.codes[effect]
        means = np.bincount(codes, centered - lower) / np.bincount(codes)
        fitted[effect] = means[codes]
        nests = frozenset().union(*(design.within[facet] for facet in effect))
        free = math.prod(table.levels[f] - 1 for f in effect - nests)
        df.append(free * math.prod(table.levels[f] for f in nests))
        ms.append((fitted[effect] ** 2).sum() / df[-1])
    return np.array(df, float), np.array(ms)


def expected_mean_squares(table: CodedScores) -> np.ndarray:
    """E MS of effect α as coefficients of the components β: n over the cells of β, where β contains α."""
    effects, n = table.design.effects, len(table.score)
    return np.array([[n / table.n_levels[b] if b >= a else 0.0 for b in effects] for a in effects])


def _balanced(
    table: CodedScores, method: str, confidence: float, rng: np.random.Generator
) -> VarianceComponents:
    df, ms = mean_squares(table)
    expected = expected_mean_squares(table)
    components, converged = np.linalg.solve(expected, ms), True
    if method == "reml" and (components < 0).any():
        components, converged = _balanced_reml(df, ms, expected)
    pivots = ms * df / rng.chisquare(df, (N_DRAWS, len(df)))
    draws = np.linalg.solve(expected, pivots.T).T
    return _assemble(table, df, ms, components, draws, confidence, converged)


def _balanced_reml(df: np.ndarray, ms: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, bool]:
    """REML of balanced data: −2 log L = Σ df (log λ + MS/λ) with λ = E MS."""
    scale = float((df * ms).sum() / df.sum())
    ms = ms / scale

    def criterion(components: np.ndarray) -> tuple[float, np.ndarray]:
        strata = expected @ components
        slope = df * (1 / strata - ms / strata**2)
        return float((df * (np.log(strata) + ms / strata)).sum()), expected.T @ slope

    start = np.maximum(np.linalg.solve(expected, ms), 1e-3)
    bounds = [(0.0, None)] * (len(ms) - 1) + [(1e-10, None)]
    found = optimize.minimize(
        criterion,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000, "maxfun": 20000},
    )
    inward = np.where(found.x > 1e-9, np.abs(found.jac), np.maximum(-found.jac, 0))
    return found.x * scale, bool(inward.max() < 1e-3 * df.sum())


def _assemble(
    table: CodedScores,
    df: np.ndarray,
    ms: np.ndarray,
    components: np.ndarray,
    draws: np.ndarray,
    confidence: float,
    converged: bool,
) -> VarianceComponents:
    truncated = np.maximum(components, 0)
    low, high = np.quantile(np.maximum(draws, 0), [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    total = truncated.sum()
    columns = {
        "df": df,
        "ms": ms,
        "component": components,
        "truncated": truncated,
        "share": truncated / total if total > 0 else np.full(len(truncated), math.nan),
        "low": low,
        "high": high,
    }
    frame = pd.DataFrame(columns, index=pd.Index(table.design.names, name="effect"))
    n, dropped = len(table.score), table.n_dropped
    return VarianceComponents(frame, table.design, table.levels, n, dropped, converged, "", draws)


class DStudy(NamedTuple):
    """Errors and coefficients of a measurement with given numbers of conditions.

    Attributes:
      sizes: the conditions of each facet; universe: variance of the object's universe score.
      relative_error, absolute_error: error variance of comparisons, and of the score itself.
      g: the generalizability coefficient, universe/(universe + relative error); phi: the dependability
        index, universe/(universe + absolute error).
    """

    sizes: dict[str, int]
    universe: float
    relative_error: float
    absolute_error: float
    g: Estimate
    phi: Estimate


def d_study(
    components: VarianceComponents,
    sizes: Mapping[str, int] | None = None,
    *,
    object_of_measurement: str | None = None,
    fixed: Collection[str] = (),
    confidence: float = 0.95,
) -> DStudy:
    """What the coefficients would be with other numbers of items, occasions, raters, ...

    Each component is divided by the number of conditions averaged over; negative ones count as zero.
    Interactions of the object with fixed facets only belong to its universe score. G = σ²_τ/(σ²_τ + σ²_δ);
    Φ = σ²_τ/(σ²_τ + σ²_Δ).

    Args:
      components: from variance_components.
      sizes: number of conditions by facet; as in the data where not given (so too for repeats).
      object_of_measurement: the first facet unless given.
      fixed: facets whose levels are all that exist.
      confidence: of the intervals, two-sided.
    Returns: DStudy; coefficients NaN with a reason where there is no universe score variance.
    Raises: ValueError for unknown facets or sizes below 1.
    Reference: Brennan 2001, Generalizability Theory, chapter 4.

    Example:
      >>> from evals.psychometrics import d_study, variance_components
      >>> ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
      >>> found = d_study(variance_components(ratings), {"item": 8})
      >>> round(found.g.value, 3), round(found.phi.value, 3)
      (0.953, 0.765)
    """
    design = components.design
    target = object_of_measurement or design.facets[0]
    given = dict(sizes or {})
    others = [facet for facet in design.facets if facet != target]
    if target not in design.facets:
        raise ValueError(
            f"unknown object of measurement {target!r}; the facets are {', '.join(design.facets)}"
        )
    if design.within[target]:
        raise ValueError(f"the object of measurement must not be nested; {target!r} is")
    if unknown := [facet for facet in [*given, *fixed] if facet not in others]:
        raise ValueError(f"unknown facet {unknown[0]!r}; there are {', '.join(others)}")
    if small := [facet for facet, size in given.items() if not size >= 1]:
        raise ValueError(f"the size of {small[0]!r} must be at least 1; got {given[small[0]]}")
    used = {facet: given.get(facet, components.levels[facet]) for facet in others}
    n = int(components.levels[target])
    if components.reason:
        none = undefined(components.reason, n)
        return DStudy(used, math.nan, math.nan, math.nan, none, none)
    if unset := [facet for facet, size in used.items() if size == 0]:
        if REPEAT not in unset or len(unset) > 1:
            raise ValueError(f"facet {unset[0]!r} has no one number of levels; give its size")
        used[REPEAT] = 1
    universe, relative, absolute = _roles(design, target, used, frozenset(fixed))
    variance = components.table["truncated"].to_numpy()
    draws = np.maximum(components.draws, 0)

    def coefficient(error: np.ndarray) -> Estimate:
        signal = float(variance @ universe)
        if signal <= 0:
            return undefined(f"no variance between levels of {target!r}", n)
        drawn = draws @ universe
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = drawn / (drawn + draws @ error)
        low, high = np.nanquantile(ratios, [(1 - confidence) / 2, (1 + confidence) / 2])
        return Estimate(signal / (signal + float(variance @ error)), float(low), float(high), n)

    return DStudy(
        used,
        float(variance @ universe),
        float(variance @ relative),
        float(variance @ absolute),
        coefficient(relative),
        coefficient(absolute),
    )


def _roles(
    design: GStudyDesign, target: str, sizes: Mapping[str, int], fixed: frozenset[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of the components in the universe score, the relative and the absolute error."""
    universe, relative, absolute = (np.zeros(len(design.effects)) for _ in range(3))
    for i, effect in enumerate(design.effects):
        conditions = effect - {target}
        weight = 1 / math.prod(sizes[facet] for facet in conditions)
        if target in effect and conditions <= fixed:
            universe[i] = weight
        elif not conditions <= fixed:
            absolute[i] = weight
            relative[i] = weight if target in effect else 0.0
    return universe, relative, absolute
