"""Routing rules: reductions of one to another, definitions, sums by sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jaxmoe.model import router
from jaxmoe.model.config import ExpertConfig
from tests.tolerances import assert_same, double_precision

# no subnormal numbers, which XLA takes for zero
LOGITS = arrays(np.float32, (3, 5), elements=st.floats(-8, 8, width=32, allow_subnormal=False))


@given(LOGITS)
@settings(max_examples=25, deadline=None)
@double_precision()
def test_top_k_of_all_and_top_p_of_one_are_dense(logits):
    dense = router.dense(jnp.asarray(logits))
    assert_same(router.top_k(jnp.asarray(logits), 5), dense)
    assert_same(router.top_p(jnp.asarray(logits), 1.0), dense)


@given(LOGITS)
@settings(max_examples=25, deadline=None)
def test_top_1_is_greedy(logits):
    logits = logits + np.float32(0)  # −0 sorts below +0 but equals it
    greedy = np.eye(5)[logits.argmax(-1)]
    np.testing.assert_array_equal(router.top_k(jnp.asarray(logits), 1), greedy)
    # a tiny p keeps the likeliest expert alone; of equals the first
    np.testing.assert_array_equal(router.top_p(jnp.asarray(logits), 1e-6), greedy)


@given(LOGITS, st.floats(0.05, 0.95))
@settings(max_examples=25, deadline=None)
@double_precision()
def test_top_p_keeps_the_fewest_experts_that_reach_p(logits, p):
    weights = np.asarray(router.top_p(jnp.asarray(logits), p))
    probabilities = np.asarray(router.dense(jnp.asarray(logits)), np.float64)
    for kept, probability in zip(weights > 0, probabilities, strict=True):
        ordered = np.sort(probability)[::-1]
        assert probability[kept].sum() >= p - 1e-12
        assert ordered[: kept.sum() - 1].sum() < p + 1e-12
    assert_same(weights.sum(-1), np.ones(3))


@double_precision()
def test_top_k_renormalizes_over_the_chosen():
    logits = jnp.log(jnp.array([[0.1, 0.2, 0.3, 0.4]]))
    assert_same(router.top_k(logits, 2), np.array([[0, 0, 3 / 7, 4 / 7]]))


def test_top_k_outside_the_experts_is_an_error():
    with pytest.raises(ValueError, match=r"top_k must lie in 1\.\.3; got 4"):
        router.top_k(jnp.zeros((1, 3)), 4)


def test_bfloat16_logits_are_softmaxed_in_float32():
    logits = jnp.asarray([[0.1, 3.0, -2.0]], jnp.bfloat16)
    assert router.dense(logits).dtype == jnp.float32
    np.testing.assert_array_equal(router.dense(logits), jax.nn.softmax(logits.astype(jnp.float32)))


@pytest.mark.parametrize("routing", ["dense", "top_k", "top_p"])
@double_precision()
def test_statistics_are_sums_over_each_samples_tokens(routing):
    config = ExpertConfig(num_experts=4, routing=routing, top_k=2, top_p=0.6)
    logits = np.random.default_rng(0).normal(size=(2, 6, 4))
    samples = np.zeros((2, 6, 2), np.float32)
    samples[0, :4, 0] = samples[0, 4:, 1] = samples[1, 1:5, 0] = 1
    weights = router.route(jnp.asarray(logits), config)
    got = router.statistics(jnp.asarray(logits), weights, jnp.asarray(samples), config)
    for b, z, tokens in [(0, 0, slice(0, 4)), (0, 1, slice(4, 6)), (1, 0, slice(1, 5)), (1, 1, slice(0, 0))]:
        part, w = logits[b, tokens], np.asarray(weights)[b, tokens]
        assert_same(got.weight_BZE[b, z], w.sum(0))
        probability = np.exp(part) / np.exp(part).sum(-1, keepdims=True)
        assert_same(got.probability_BZE[b, z], probability.sum(0))
        z_square = np.log(np.exp(part).sum(-1)) ** 2
        assert_same(got.z_square_BZ[b, z], z_square.sum())
        entropy = -np.sum(np.where(w > 0, w * np.log(np.where(w > 0, w, 1)), 0))
        assert_same(got.entropy_BZ[b, z], entropy)
        chosen = (w > 0).sum(0) if routing != "dense" else np.eye(4)[part.argmax(-1)].sum(0)
        np.testing.assert_array_equal(got.chosen_BZE[b, z], chosen)
