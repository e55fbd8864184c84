"""Restricted maximum likelihood of random effects in unbalanced data, each effect a grouping of the rows.

With V = I + Σ θᵢ ZᵢZᵢ' and one mean, −2 log L = log|V| + log 1'V⁻¹1 + (N − 1) log r'V⁻¹r. By Woodbury only
the matrix A = I + ΛZ'ZΛ of effects is factored, after eliminating the largest effect, which is diagonal in
it. Balanced data need none of this (generalizability). Not covered: fixed effects beyond the mean.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import linalg, optimize, sparse

# numbers held for the cross products of all effects but the largest; beyond this, a step takes seconds
MAX_NUMBERS = 50_000_000
Z95 = 1.959964


class Reml(NamedTuple):
    """Components (the residual last), their covariance, convergence, and why there are none."""

    components: np.ndarray
    covariance: np.ndarray
    converged: bool
    reason: str


class _Problem(NamedTuple):
    """Cross products of the indicator columns, from which every likelihood is computed.

    The largest effect's levels enter only through their numbers of rows, so their products are summed over
    levels with the same count (C different counts, Q levels of the other effects).

    Attributes:
      big: position of the largest effect; counts [C], frequency [C]: rows of a level, levels with that many.
      cross [C, Q, Q], right [C, Q, 2], gram [C, 2, 2]: of its levels with the others, and with 1 and y.
      rest [Q, Q], owner [Q], rest_right [Q, 2]: of the other effects; total [2, 2]: of 1 and y; n: rows.
    """

    big: int
    counts: np.ndarray
    frequency: np.ndarray
    cross: np.ndarray
    right: np.ndarray
    gram: np.ndarray
    rest: np.ndarray
    owner: np.ndarray
    rest_right: np.ndarray
    total: np.ndarray
    n: int


def fit_reml(score: np.ndarray, codes: list[np.ndarray]) -> Reml:
    """Estimates the variance of each effect (codes [N] of its levels) and of the residual, all ≥ 0.

    Args:
      score: [N].
      codes: for each effect, the level [N] to which a score belongs.

    Returns: Reml; components in the order of codes, then the residual.
    Reference: Patterson & Thompson 1971; Bates et al. 2015 for the parametrisation.
    """
    sizes = [int(c.max()) + 1 for c in codes]
    different = len(np.unique(np.bincount(codes[int(np.argmax(sizes))])))
    if different * (sum(sizes) - max(sizes)) ** 2 > MAX_NUMBERS:
        why = (
            f"{sum(sizes)} levels are too many for unbalanced REML; average over a facet, or balance the data"
        )
        return _none(len(codes) + 1, why)
    scale = float(score.std())
    problem = _set_up((score - score.mean()) / scale, codes, sizes)
    found = optimize.minimize(
        lambda ratios: _profiled(problem, ratios),
        np.full(len(codes), 0.25),
        method="L-BFGS-B",
        jac=True,
        bounds=[(0.0, 1e6)] * len(codes),
        options={"ftol": 1e-12, "gtol": 1e-5, "maxiter": 1000},
    )
    residual = _parts(problem, found.x).rss / (problem.n - 1)
    components = np.append(found.x * residual, residual)
    covariance = _covariance(problem, components)
    return Reml(components * scale**2, covariance * scale**4, bool(found.success), "")


def _none(size: int, reason: str) -> Reml:
    return Reml(np.full(size, math.nan), np.full((size, size), math.nan), False, reason)


def _set_up(score: np.ndarray, codes: list[np.ndarray], sizes: list[int]) -> _Problem:
    n, rows = len(score), np.arange(len(score))
    columns = [
        sparse.csr_array((np.ones(n), (rows, c)), shape=(n, s)) for c, s in zip(codes, sizes, strict=True)
    ]
    big = int(np.argmax(sizes))
    others = [c for i, c in enumerate(columns) if i != big]
    rest = sparse.hstack(others, format="csr") if others else sparse.csr_array((n, 0))
    fixed = np.column_stack([np.ones(n), score])
    with_rest, with_fixed = sparse.csr_array(columns[big].T @ rest), columns[big].T @ fixed
    counts, group = np.unique(np.bincount(codes[big], minlength=sizes[big]), return_inverse=True)
    same = [np.flatnonzero(group == c) for c in range(len(counts))]
    return _Problem(
        big,
        counts.astype(float),
        np.array([len(levels) for levels in same], float),
        np.stack([(with_rest[levels].T @ with_rest[levels]).toarray() for levels in same]),
        np.stack([with_rest[levels].T @ with_fixed[levels] for levels in same]),
        np.stack([with_fixed[levels].T @ with_fixed[levels] for levels in same]),
        (rest.T @ rest).toarray(),
        np.repeat(
            np.array([i for i in range(len(codes)) if i != big], int),
            [s for i, s in enumerate(sizes) if i != big],
        ),
        rest.T @ fixed,
        fixed.T @ fixed,
        n,
    )


class _Parts(NamedTuple):
    """log|V| + log 1'V⁻¹1 and r'V⁻¹r at ratios θ to the residual variance, and their slopes in θ."""

    logdet: float
    rss: float
    logdet_slope: np.ndarray
    rss_slope: np.ndarray


def _profiled(problem: _Problem, theta: np.ndarray) -> tuple[float, np.ndarray]:
    """−2 log L with the residual variance profiled out, and its gradient."""
    parts, dof = _parts(problem, theta), problem.n - 1
    value = parts.logdet + dof * math.log(parts.rss)
    return value, parts.logdet_slope + dof * parts.rss_slope / parts.rss


def _deviance(problem: _Problem, components: np.ndarray) -> tuple[float, np.ndarray]:
    """−2 log L of components, the residual last, and its gradient."""
    residual, theta = components[-1], components[:-1] / components[-1]
    parts, dof = _parts(problem, theta), problem.n - 1
    slope = parts.logdet_slope + parts.rss_slope / residual
    by_residual = dof - parts.rss / residual - theta @ slope
    value = parts.logdet + dof * math.log(residual) + parts.rss / residual
    return value, np.append(slope, by_residual) / residual


def _parts(problem: _Problem, theta: np.ndarray) -> _Parts:
    """∂ log|V| / ∂θᵢ = tr Zᵢ'V⁻¹Zᵢ, and for G = [1 y]'V⁻¹[1 y]: ∂G/∂θᵢ = −(Zᵢ'V⁻¹[1 y])'(Zᵢ'V⁻¹[1 y])."""
    inner, right, factor, half, root, share = _factored(problem, theta)
    slope = 1 / (1 + theta[problem.big] * problem.counts)
    logdet = float(problem.frequency @ -np.log(slope)) + 2 * float(np.log(np.diagonal(factor)).sum())
    gram = problem.total - np.tensordot(share, problem.gram, 1) - half.T @ half
    scaled = linalg.solve_triangular(factor, root[:, None] * inner, lower=True, check_finite=False)
    trace = np.diagonal(inner) - (scaled**2).sum(axis=0)
    cross = right - scaled.T @ half
    by_trace, by_gram = np.zeros(len(theta)), np.zeros((len(theta), 2, 2))
    for effect in range(len(theta)):
        mine = problem.owner == effect
        by_trace[effect], by_gram[effect] = trace[mine].sum(), -cross[mine].T @ cross[mine]
    # the largest effect acts through its share θ/(1 + θc), whose slope is 1/(1 + θc)²
    lower = linalg.solve_triangular(factor, np.diag(root), lower=True, check_finite=False)
    weight, solved = (
        lower.T @ lower,
        root[:, None] * linalg.solve_triangular(factor, half, lower=True, trans=1),
    )
    less_inner, less_right, less_gram = (
        np.tensordot(slope**2, part, 1) for part in (problem.cross, problem.right, problem.gram)
    )
    mixed = solved.T @ less_right
    by_trace[problem.big] = problem.frequency * problem.counts @ slope - (weight * less_inner).sum()
    by_gram[problem.big] = mixed + mixed.T - less_gram - solved.T @ less_inner @ solved
    tilt = gram[0, 1] / gram[0, 0]
    by_rss = by_gram[:, 1, 1] - 2 * tilt * by_gram[:, 0, 1] + tilt**2 * by_gram[:, 0, 0]
    rss = float(gram[1, 1] - tilt * gram[0, 1])
    return _Parts(logdet + math.log(gram[0, 0]), rss, by_trace + by_gram[:, 0, 0] / gram[0, 0], by_rss)


class _Factored(NamedTuple):
    """Z'PZ and Z'P[1 y] of all effects but the largest, P the weight it leaves; and their factorisation."""

    inner: np.ndarray
    right: np.ndarray
    factor: np.ndarray
    half: np.ndarray
    root: np.ndarray
    share: np.ndarray


def _factored(problem: _Problem, theta: np.ndarray) -> _Factored:
    share = theta[problem.big] / (1 + theta[problem.big] * problem.counts)
    root = np.sqrt(theta)[problem.owner]
    inner = problem.rest - np.tensordot(share, problem.cross, 1)
    right = problem.rest_right - np.tensordot(share, problem.right, 1)
    schur = np.eye(len(root)) + root[:, None] * inner * root
    factor = linalg.cholesky(schur, lower=True, check_finite=False)
    half = linalg.solve_triangular(factor, root[:, None] * right, lower=True, check_finite=False)
    return _Factored(inner, right, factor, half, root, share)


def _covariance(problem: _Problem, components: np.ndarray) -> np.ndarray:
    """Inverse of the observed information at the components above zero, from differences of the gradient.

    A component at zero has no curvature there; its spread is how far it must move for −2 log L to rise by
    1.96² with the others held.
    """
    at_zero = components <= 1e-8 * components.sum()
    at_zero[-1] = False
    inside, axes = np.flatnonzero(~at_zero), np.eye(len(components))
    steps = [1e-4 * components[i] * axes[i] for i in inside]
    slopes = [_deviance(problem, components + s)[1] - _deviance(problem, components - s)[1] for s in steps]
    hessian = np.array([slope[inside] / (2 * step.sum()) for slope, step in zip(slopes, steps, strict=True)])
    values, vectors = np.linalg.eigh((hessian + hessian.T) / 4)
    # a direction without curvature says nothing: leave it out of the spread instead of dividing by noise
    inverse = np.where(values > 1e-10 * values.max(), 1 / np.where(values > 0, values, 1), 0)
    covariance = np.zeros((len(components),) * 2)
    covariance[np.ix_(inside, inside)] = (vectors * inverse) @ vectors.T
    lowest = _deviance(problem, components)[0]
    for i in np.flatnonzero(at_zero):

        def rise(u: float, along: np.ndarray = axes[i]) -> float:
            return _deviance(problem, components + along * u)[0] - lowest - Z95**2

        far = float(components.sum())
        if rise(far) > 0:
            far = optimize.root_scalar(rise, bracket=(0, far), rtol=1e-3).root
        covariance[i, i] = (float(far) / Z95) ** 2
    return covariance
