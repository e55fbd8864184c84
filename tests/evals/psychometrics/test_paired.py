"""Pairs: closed forms, identities, coverage by simulation."""

import numpy as np
import pytest
from scipy import stats

from evals.psychometrics import dispersion_ratio, paired_difference, paired_dispersion, pitman_morgan, welch


def pairs(n: int, r: float, ratio: float = 1.0, shift: float = 0.0, seed: int = 0):
    rng = np.random.default_rng(seed)
    base = rng.standard_normal(n)
    other = r * base + np.sqrt(1 - r**2) * rng.standard_normal(n)
    return ratio * other + shift, base


def test_difference_is_the_paired_t_test():
    scores, reference = pairs(20, 0.9, shift=0.4)
    found = paired_difference(scores, reference)
    expected = stats.ttest_rel(scores, reference)
    assert (found.t, found.p) == pytest.approx((expected.statistic, expected.pvalue))
    interval = expected.confidence_interval()
    assert found.difference[1:3] == pytest.approx((interval.low, interval.high))
    in_half_points = paired_difference(scores, reference, unit=0.5)
    assert in_half_points.difference.value == pytest.approx(2 * found.difference.value)


def test_pairs_that_agree_are_compared_sharply():
    """At r = .95 the error of the difference is √(2(1 − r)) SD, that of two groups √2 SD: 4.5 times more."""
    scores, reference = pairs(400, 0.95, shift=0.3)
    paired = paired_difference(scores, reference).difference
    groups = welch(scores, reference).difference
    assert (groups.high - groups.low) / (paired.high - paired.low) == pytest.approx(
        1 / np.sqrt(0.05), rel=0.1
    )


def test_dispersion_is_pitman_and_morgan_s():
    """The bound is the ratio at which sum and difference are uncorrelated at the level of the test."""
    scores, reference = pairs(15, 0.6, ratio=0.8, seed=3)
    found = paired_dispersion(scores, reference)
    for bound, sign in ((found.low, 1), (found.high, -1)):
        scaled = scores / bound
        r = np.corrcoef(scaled + reference, scaled - reference)[0, 1]
        t = sign * r * np.sqrt(13 / (1 - r**2))
        assert t == pytest.approx(stats.t.ppf(0.975, 13), rel=1e-6)


def test_dispersion_of_uncorrelated_pairs_is_nearly_that_of_groups():
    scores, reference = pairs(3000, 0.0, ratio=1.3)
    paired, groups = paired_dispersion(scores, reference), dispersion_ratio(scores, reference)
    assert paired[:3] == pytest.approx(groups[:3], rel=0.01)


def test_intervals_cover():
    hits = np.zeros(2)
    for seed in range(400):
        scores, reference = pairs(24, 0.8, ratio=0.7, shift=0.2, seed=seed)
        found = (paired_difference(scores, reference).difference, paired_dispersion(scores, reference))
        hits += [e.low <= truth <= e.high for e, truth in zip(found, (0.2, 0.7), strict=True)]
    # 95 % of 400 is 380 ± 4.4
    assert (np.abs(hits - 380) < 18).all()


def test_degenerate_pairs():
    same = paired_difference([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert same.difference[:3] == (0.0, 0.0, 0.0)
    assert same.p == 1.0
    assert paired_difference([2.0, 3.0, 4.0], [1.0, 2.0, 3.0]).p == 0.0
    assert not paired_dispersion([1, 2, 3], [1, 1, 1]).defined
    assert paired_dispersion([1, 1, 1], [1, 2, 3]).value == 0.0
    assert paired_difference([1, np.nan, 3], [1, 2, 2]).difference.n == 2
    with pytest.raises(ValueError, match="pair up"):
        paired_difference([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="unit must be positive"):
        paired_difference([1, 2], [1, 2], unit=0)


def test_nothing_is_claimed_of_scores_that_do_not_vary():
    """One answer of 64 moved by a quarter: no test can call the others restricted."""
    constant, moved = [3.0] * 64, [3.0] * 63 + [3.25]
    assert np.isnan(pitman_morgan(constant, moved))
    assert np.isnan(pitman_morgan(moved, constant))


def test_pitman_morgan_is_the_correlation_of_sum_and_difference():
    # Var(x + y)·r(x + y, x − y) ∝ Var x − Var y, so equal variances are r = 0
    rng = np.random.default_rng(3)
    x = rng.normal(size=30)
    y = 0.5 * x + 0.7 * rng.normal(size=30)
    assert pitman_morgan(x, y) == pytest.approx(stats.pearsonr(x + y, x - y).pvalue, rel=1e-9)
