"""Imputed answers: what is there stays, draws have the right mean and spread, estimates are unbiased."""

import numpy as np
import pytest

from evals.psychometrics import cronbach_alpha
from evals.psychometrics.imputation import AnswerVariance, answer_variance, impute

TRUE = AnswerVariance(1.0, 0.3, 0.2, 0.5)


def answers(people: int, conditions: int = 4, items: int = 5, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    sigma = TRUE.covariance(conditions, items)
    flat = rng.multivariate_normal(np.zeros(len(sigma)), sigma, people)
    return flat.reshape(people, conditions, items) + np.arange(items)


def with_gaps(full: np.ndarray, share: float, seed: int = 1) -> np.ndarray:
    return np.where(np.random.default_rng(seed).random(full.shape) < share, np.nan, full)


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_components_are_recovered_with_gaps_and_without(share):
    found = answer_variance(with_gaps(answers(4000), share))
    assert found == pytest.approx(TRUE, abs=0.06)


def test_answers_that_are_there_stay_and_the_same_seed_draws_alike():
    gappy = with_gaps(answers(30), 0.1)
    found = impute(gappy, seed=3)
    there = ~np.isnan(gappy)
    assert found.shape == (5, *gappy.shape)
    assert np.isfinite(found).all()
    assert (found[:, there] == gappy[there]).all()
    assert (found == impute(gappy, seed=3)).all()
    assert (found[0][~there] != found[1][~there]).all()


def test_draws_lie_where_the_true_answers_are():
    """Of normal draws given the person's other answers, the truth is one more: errors have mean 0 and twice
    the conditional variance."""
    full = answers(800, seed=5)
    gappy = with_gaps(full, 0.2, seed=6)
    missing = np.isnan(gappy)
    usable = missing & (missing.mean(axis=(1, 2)) <= 0.5)[:, None, None]
    error = impute(gappy, imputations=1)[0][usable] - full[usable]
    assert error.mean() == pytest.approx(0, abs=0.03)
    sigma, expected = TRUE.covariance(4, 5), []
    for person in np.flatnonzero(usable.any(axis=(1, 2))):
        gap = missing[person].ravel()
        precision = np.linalg.inv(sigma)[np.ix_(gap, gap)]  # its inverse is the conditional covariance
        expected += np.diagonal(np.linalg.inv(precision)).tolist()
    assert error.std() == pytest.approx(np.sqrt(2 * np.mean(expected)), rel=0.03)


def test_alpha_survives_a_fifth_of_random_refusals():
    full = answers(300, conditions=1, items=8, seed=7)
    copies = impute(with_gaps(full, 0.2), seed=1)
    found = np.mean([cronbach_alpha(copy[:, 0]).value for copy in copies])
    assert found == pytest.approx(cronbach_alpha(full[:, 0]).value, abs=0.015)


def test_persons_with_too_little_stay_incomplete():
    gappy = answers(20)
    gappy[3, :, :3] = np.nan
    found = impute(gappy)
    assert np.isnan(found[:, 3]).any()
    assert np.isfinite(np.delete(found, 3, axis=1)).all()


def test_an_item_that_nobody_answered_is_refused():
    gappy = answers(10)
    gappy[:, 1, 2] = np.nan
    with pytest.raises(ValueError, match="nobody answered item 3 in condition 2"):
        impute(gappy)
