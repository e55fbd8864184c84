"""Items that work differently in two groups, and factors of two groups, against R and simulated truth."""

import numpy as np
import pytest

from evals.psychometrics import factor_similarity, item_bias, simulate_responses


def deterministic():
    """Answers that R makes from the same lines: no random numbers to share."""
    i = np.arange(240)
    group = (i >= 120).astype(int)
    score = (i * 7) % 20
    noise = (i * 37) % 11 - 5
    return np.clip(np.floor((score + 3 * group + noise) / 5), 0, 4), score, group


def test_regressions_are_those_of_r():
    # R 4, MASS::polr: l = logLik of y ~ 1, ~ z, ~ z + group, ~ z * group (z the standardized score)
    found = item_bias(*deterministic())
    assert found.uniform_chi2 == pytest.approx(34.998326231, abs=1e-4)
    assert found.nonuniform_chi2 == pytest.approx(1.006403125, abs=1e-4)
    assert found.log_odds == pytest.approx(1.569734345, abs=1e-4)
    assert found.r2_change == pytest.approx(0.0473283465, abs=1e-6)
    assert found.size == "moderate"


def test_what_does_not_matter_does_not_matter():
    item, score, group = deterministic()
    found = item_bias(item, score, group)
    scaled = item_bias(10 * item + 3, 2 * score - 7, group)
    assert scaled[:8] == pytest.approx(found[:8], rel=1e-4)
    # the other group as the first: the sign turns
    assert item_bias(item, score, 1 - group).log_odds == pytest.approx(-found.log_odds, rel=1e-3)
    with_gaps = item_bias(np.append(item, np.nan), np.append(score, 3), np.append(group, 1))
    assert with_gaps[:8] == pytest.approx(found[:8], rel=1e-6)


def test_groups_that_differ_in_the_trait_alone_show_no_bias():
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1], 500)
    trait = rng.normal(size=1000) + group
    items = [np.clip(np.round(3 + trait + rng.normal(size=1000)), 1, 5) for _ in range(9)]
    score = np.mean(items[1:], axis=0)
    assert item_bias(items[0], score, group).size == "negligible"
    shifted = np.clip(items[0] - 1.5 * group, 1, 5)
    found = item_bias(shifted, score, group)
    assert found.size == "large"
    assert found.log_odds < 0


@pytest.mark.parametrize(
    ("item", "group", "reason"),
    [
        ([1, 2, 3, 2], [0, 0, 0, 0], "a group has fewer than 2"),
        ([2, 2, 2, 2], [0, 0, 1, 1], "the item does not vary"),
    ],
)
def test_what_is_undefined_says_why(item, group, reason):
    found = item_bias(item, [1, 2, 3, 4], group)
    assert np.isnan(found.p)
    assert reason in found.reason


def test_factors_of_the_same_model_are_the_same_and_shuffled_ones_are_not():
    three = np.kron(np.eye(3), np.full((4, 1), 0.7))
    people, same = (simulate_responses(400, three.tolist(), seed=seed) for seed in (0, 1))
    found = factor_similarity(same, people, 3, target=three)
    assert (found.phi > 0.95).all()
    assert (found.phi > found.by_chance).all()
    # factors stand in the target's order
    assert np.abs(found.reference).argmax(axis=1).tolist() == np.repeat([0, 1, 2], 4).tolist()
    other = same[:, np.random.default_rng(0).permutation(12)]
    assert factor_similarity(other, people, 3).phi.min() < 0.85


def test_too_few_persons_are_said():
    few = simulate_responses(6, [[0.7]] * 8)
    found = factor_similarity(few, simulate_responses(100, [[0.7]] * 8), 1)
    assert np.isnan(found.phi).all()
    assert "6 complete respondents for 8 items" in found.reason
