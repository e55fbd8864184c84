"""How many persons an interval takes: published tables, monotony, and simulated intervals of that width."""

import math

import numpy as np
import pytest

from evals.psychometrics import (
    alpha_width,
    correlation_width,
    cronbach_alpha,
    guttman_lambda6,
    omega,
    pearson,
    persons_for_alpha,
    persons_for_correlation,
    persons_for_inverse,
    simulate_responses,
)


@pytest.mark.parametrize("r", [-0.8, 0.0, 0.3, 0.9])
@pytest.mark.parametrize("width", [0.05, 0.2, 0.6])
def test_the_number_for_a_correlation_is_the_smallest_that_does(r, width):
    n = persons_for_correlation(r, width)
    assert correlation_width(r, n) <= width < correlation_width(r, n - 1)


@pytest.mark.parametrize("alpha", [-0.5, 0.0, 0.7, 0.95])
@pytest.mark.parametrize("items", [2, 10, 24])
def test_the_number_for_alpha_is_the_smallest_that_does(alpha, items):
    n = persons_for_alpha(alpha, items, 0.15)
    assert alpha_width(alpha, items, n) <= 0.15 < alpha_width(alpha, items, n - 1)


def test_at_no_correlation_there_is_a_closed_form():
    # tanh(h) - tanh(-h) = w, so n = 3 + (z / artanh(w/2))²
    for width in (0.1, 0.2, 0.4):
        wanted = 3 + (1.959963984540054 / math.atanh(width / 2)) ** 2
        assert persons_for_correlation(0.0, width) == math.ceil(wanted)


def test_for_alpha_there_is_a_closed_form():
    # 2(1 − α) sinh(h) = w, so n = 2 + 2k/(k − 1) (z / arsinh(w / 2(1 − α)))²
    for alpha, items, width in ((0.7, 10, 0.2), (0.9, 24, 0.1)):
        share = 1.959963984540054 / math.asinh(width / (2 * (1 - alpha)))
        assert persons_for_alpha(alpha, items, width) == math.ceil(2 + 2 * items / (items - 1) * share**2)


def test_intervals_of_simulated_persons_are_so_wide():
    r, n = 0.5, persons_for_correlation(0.5, 0.3)
    widths, hits = [], 0
    rng = np.random.default_rng(0)
    for _ in range(300):
        x = rng.normal(size=n)
        found = pearson(x, r * x + math.sqrt(1 - r**2) * rng.normal(size=n))
        widths.append(found.high - found.low)
        hits += found.low < r < found.high
    # mean of 300 widths of SD .03: four standard errors
    assert np.mean(widths) == pytest.approx(0.3, abs=0.01)
    assert hits / 300 == pytest.approx(0.95, abs=0.04)


def test_intervals_of_alpha_are_so_wide():
    loading, items = math.sqrt(0.25), 10  # parallel items with r = .25
    alpha = items * 0.25 / (1 + (items - 1) * 0.25)
    n = persons_for_alpha(alpha, items, 0.12)
    found = [cronbach_alpha(simulate_responses(n, [loading] * items, seed=s)) for s in range(200)]
    rounded = np.mean([one.value for one in found])  # five categories take a little
    wanted = alpha_width(float(rounded), items, n)
    assert np.mean([one.high - one.low for one in found]) == pytest.approx(wanted, abs=0.01)
    assert wanted == pytest.approx(0.12, abs=0.02)


@pytest.mark.parametrize("bad", [(1.0, 0.2), (0.5, 0.0), (0.5, 1e-9)])
def test_what_cannot_be_planned_is_refused(bad):
    with pytest.raises(ValueError, match=r"r must|width"):
        persons_for_correlation(*bad)


def test_coefficients_that_need_an_inverse_say_how_many_persons():
    few = simulate_responses(16, [0.7] * 24)
    for found in (omega(few), guttman_lambda6(few, n_bootstrap=10)):
        assert not found.defined
        assert "16 respondents are too few for 24 items: needs at least 25" in found.reason
    enough = simulate_responses(persons_for_inverse(24), [0.7] * 24)
    assert guttman_lambda6(enough, n_bootstrap=10).defined


def test_fewer_than_there_can_be_an_interval_of():
    assert math.isnan(correlation_width(0.5, 3))
    assert math.isnan(alpha_width(0.5, 4, 2))
