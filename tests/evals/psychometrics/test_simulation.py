"""Simulated answers have the structure that was asked for."""

import numpy as np
import pytest

from evals.psychometrics import cronbach_alpha, simulate_responses


def test_alpha_is_that_of_the_loadings():
    """Parallel items of loading λ: α = kλ²/(1 + (k − 1)λ²), a little less after rounding to 41 options."""
    found = cronbach_alpha(simulate_responses(20_000, [0.7] * 6, options=41))
    assert found.value == pytest.approx(6 * 0.49 / (1 + 5 * 0.49), abs=0.01)


def test_factors_do_not_correlate_and_answers_are_on_offer():
    answers = simulate_responses(20_000, [[0.8, 0], [0, 0.8]], options=4, seed=3)
    assert set(np.unique(answers)) == {1, 2, 3, 4}
    assert abs(np.corrcoef(answers.T)[0, 1]) < 0.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, [0.5]), "at least 1 person"), ((5, [0.5], 1), "2 options"), ((5, [[0.9, 0.9]]), "add up to 1")],
)
def test_what_cannot_be_is_refused(arguments, message):
    persons, loadings, *options = arguments
    with pytest.raises(ValueError, match=message):
        simulate_responses(persons, loadings, **({"options": options[0]} if options else {}))
