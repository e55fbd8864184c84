"""Tokens drawn for many rows at once, each with settings of its own."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import log_softmax

from jaxmoe.generation import row_sampling
from jaxmoe.generation.row_sampling import RowSampling
from tests.tolerances import rounding_bound


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.7, 0, 0.8), (1.5, 5, 1.0), (1.0, 6, 0.7), (1.0, 0, 0.01)],
)
def test_rows_are_drawn_with_the_right_probabilities(temperature, top_k, top_p):
    """χ² of 4,000 rows against the probabilities after temperature, top-k and nucleus, in that order."""
    rows, vocabulary = 4000, 13
    logits = jnp.asarray(np.random.default_rng(1).normal(0, 1.5, vocabulary), jnp.float32)
    settings = RowSampling(
        jnp.full(rows, temperature), jnp.full(rows, top_k), jnp.full(rows, top_p), jnp.arange(rows)
    )
    choose = jax.jit(partial(row_sampling.choose, score_draws=True))
    chosen = choose(jnp.tile(logits, (rows, 1)), settings, jnp.zeros(rows, jnp.int32))
    p = np.exp(np.asarray(logits, np.float64) / temperature)
    order = np.argsort(-p)
    if top_k:
        p[order[top_k:]] = 0
    before = np.cumsum(p[order]) - p[order]
    p[order[before >= top_p * p.sum()]] = 0
    p /= p.sum()
    counts = np.bincount(chosen.tokens_B, minlength=vocabulary)
    assert counts[p == 0].sum() == 0
    kept = p > 0
    if kept.sum() > 1:
        assert stats.chisquare(counts[kept], rows * p[kept]).pvalue > 1e-3
    expected = log_softmax(np.asarray(logits, np.float64))[np.asarray(chosen.tokens_B)]
    # a sum of all tokens' weights, and four roundings of a logit or its distance from the largest
    bound = rounding_bound(vocabulary, 1.0) + rounding_bound(4, float(2 * jnp.abs(logits).max()))
    np.testing.assert_allclose(chosen.logprobs_B, expected, rtol=0, atol=bound)
    # likewise, of logits divided by the temperature
    bound = rounding_bound(vocabulary, 1.0) + rounding_bound(
        4, float(2 * jnp.abs(logits).max()) / temperature
    )
    drawn = np.log(p[np.asarray(chosen.tokens_B)])
    np.testing.assert_allclose(chosen.drawn_logprobs_B, drawn, rtol=0, atol=bound)


def test_rows_of_one_batch_have_settings_of_their_own():
    logits = jnp.tile(jnp.asarray([0.0, 1.0, 2.0, 3.0]), (4, 1))
    temperature, top_p = jnp.asarray([0.0, 1.0, 1.0, 5.0]), jnp.asarray([1.0, 1.0, 0.1, 1.0])
    settings = RowSampling(temperature, jnp.asarray([0, 1, 0, 0]), top_p, jnp.arange(4))
    choose = jax.jit(partial(row_sampling.choose, score_draws=True))
    chosen = [choose(logits, settings, jnp.full(4, i)) for i in range(40)]
    seen = [one.tokens_B for one in chosen]
    assert {int(t[0]) for t in seen} == {int(t[1]) for t in seen} == {int(t[2]) for t in seen} == {3}
    assert len({int(t[3]) for t in seen}) > 2
    # certain where one token is left: the likeliest, the first of top-k, a nucleus of one
    assert all(one.drawn_logprobs_B is not None and not one.drawn_logprobs_B[:3].any() for one in chosen)
    assert jax.jit(row_sampling.choose)(logits, settings, jnp.zeros(4, jnp.int32)).drawn_logprobs_B is None
