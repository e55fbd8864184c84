"""Sampling error: closed forms, reductions, and coverage on simulated items."""

import math

import numpy as np
import pytest
from scipy import stats

from evals.psychometrics.uncertainty import compare, mean_score, wilson

EXACT = 1e-12


def test_wilson_equals_scipys_score_interval():
    for right, n in [(0, 5), (3, 10), (52, 100), (7, 7)]:
        low, high = wilson(right / n, n)
        expected = stats.binomtest(right, n).proportion_ci(0.95, "wilson")
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_standard_error_of_single_items_is_the_usual_one():
    scores = np.random.default_rng(0).random(40)
    score = mean_score(scores)
    assert score.standard_error == pytest.approx(scores.std(ddof=1) / math.sqrt(40), rel=EXACT)
    assert mean_score(scores, list(range(40))) == score


def test_clustered_error_by_hand():
    # clusters a: 1 1, b: 0, c: 1; mean 3/4; sums of deviations 1/2, -3/4, 1/4
    # SE² = 3/2 · (1/4 + 9/16 + 1/16) / 16 = 3/2 · 14/16 / 16
    score = mean_score([1, 1, 0, 1], ["a", "a", "b", "c"])
    assert score.standard_error == pytest.approx(math.sqrt(1.5 * 14 / 16 / 16), rel=EXACT)
    assert (score.n, score.clusters) == (4, 3)


def test_copies_of_each_item_in_one_cluster_add_nothing():
    # five copies of every item: the mean's error is that of the distinct items
    scores = np.random.default_rng(1).integers(2, size=30).astype(float)
    copied = mean_score(np.repeat(scores, 5), np.repeat(np.arange(30), 5).tolist())
    single = mean_score(scores)
    assert copied.standard_error == pytest.approx(single.standard_error, rel=EXACT)
    assert (copied.low, copied.high) == pytest.approx((single.low, single.high), abs=0.01)
    naive = mean_score(np.repeat(scores, 5))
    assert naive.standard_error < single.standard_error / 2


def test_all_right_in_two_clusters_counts_as_two_trials():
    assert mean_score([1.0] * 10, [0] * 5 + [1] * 5)[2:4] == wilson(1.0, 2)


def test_t_interval_equals_scipys():
    scores = np.random.default_rng(2).random(12)
    score = mean_score(scores, interval="t")
    expected = stats.t.interval(0.95, 11, scores.mean(), stats.sem(scores))
    assert (score.low, score.high) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("method", ["wilson", "bootstrap", "t"])
def test_intervals_of_clustered_items_cover_the_truth(method):
    """95 % intervals over 400 simulated tests; items of a cluster are mostly alike."""
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        easy = rng.random(60) < 0.6
        flipped = rng.random((60, 4)) < 0.1
        scores = (easy[:, None] ^ flipped).astype(float).ravel()
        score = mean_score(scores, np.repeat(np.arange(60), 4).tolist(), interval=method, draws=400)
        # P(right) = .6 · .9 + .4 · .1
        covered += score.low <= 0.58 <= score.high
    # binomial(400, .95) has sd 4.4; 366 is three below, bootstrap's small-sample loss included
    assert covered >= 366


def test_no_items_and_a_single_cluster_say_why():
    assert math.isnan(mean_score([]).value)
    assert mean_score([]).reason == "no items"
    single = mean_score([0.2, 0.4], ["a", "a"])
    assert math.isnan(single.low)
    assert single.reason == "no interval: a single cluster"


def test_mcnemar_is_the_binomial_of_the_discordant_items():
    a = np.array([1] * 10 + [0] * 8 + [1] * 2)
    b = np.array([1] * 10 + [1] * 8 + [0] * 2)
    result = compare(a, b)
    # 2 · P(X <= 2), X ~ Binomial(10, ½) = 2 · (1 + 10 + 45) / 1024
    assert result.p_value == pytest.approx(2 * 56 / 1024, rel=EXACT)
    assert (result.a_better, result.b_better, result.test) == (2, 8, "mcnemar")
    assert result.difference.value == pytest.approx(0.3)


def test_equal_models_do_not_differ():
    scores = [0.0, 1.0, 1.0]
    assert compare(scores, scores).p_value == 1.0
    assert compare(scores, scores, ["a", "b", "c"]).p_value == 1.0


def test_items_that_all_change_alike_leave_an_interval():
    """None of 50 items differs: the bound is Clopper's and Pearson's of 0 in 50, one-sided at 97.5 %."""
    scores = np.arange(50) % 2 * 1.0
    same = compare(scores, scores).difference
    bound = stats.binomtest(0, 50).proportion_ci(method="exact").high
    assert (same.low, same.high) == (pytest.approx(-bound, rel=EXACT), pytest.approx(bound, rel=EXACT))
    won = compare(np.zeros(50), np.ones(50)).difference
    assert (won.low, won.high) == (pytest.approx(1 - 2 * bound, rel=EXACT), 1.0)
    # five independent groups tell less than fifty items
    assert compare(scores, scores, np.repeat(np.arange(5), 10).tolist()).difference.high > 2 * bound
    # log-probabilities have no bounds to reason from
    nats = compare(scores * 3, scores * 3).difference
    assert math.isnan(nats.low)
    assert nats.reason == "no interval: all values are equal"


def test_sign_flip_is_near_the_exact_permutation_distribution():
    # differences 1..6 all positive: of 2⁶ sign patterns 2 are as extreme
    result = compare(np.zeros(6), np.arange(1, 7) / 10, draws=20_000)
    assert result.test == "sign-flip"
    assert result.p_value == pytest.approx(2 / 64, abs=0.005)


def test_clusters_weaken_the_evidence():
    """Ten copies of six differences are no more evidence than six."""
    a, b = np.zeros(60), np.repeat([1.0, 1, 1, 1, 1, 0], 10)
    clustered = compare(a, b, np.repeat(np.arange(6), 10).tolist(), draws=20_000)
    assert compare(a, b).p_value < 1e-9
    assert clustered.p_value == pytest.approx(2 / 32, abs=0.01)


def test_swapping_the_models_swaps_the_sign():
    rng = np.random.default_rng(4)
    a, b = rng.random(30), rng.random(30)
    one, other = compare(a, b), compare(b, a)
    assert one.difference.value == -other.difference.value
    assert one.p_value == other.p_value


def test_bad_scores_are_refused():
    with pytest.raises(ValueError, match="item 1 is NaN"):
        mean_score([1.0, math.nan])
    with pytest.raises(ValueError, match="one for each item; got 1 for 2"):
        mean_score([1.0, 0.0], ["a"])
    with pytest.raises(ValueError, match="same items; got 2 and 1"):
        compare([1.0, 0.0], [1.0])
    with pytest.raises(ValueError, match="0 <= mean <= 1"):
        mean_score([3.0, 2.0], interval="wilson")
