"""One prompt computed once for all its samples gives what separate rows give: values, gradients, windows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmoe.generation.shared_prompt import Packing, packed_states, response_states
from jaxmoe.model import params
from jaxmoe.model.config import ExpertConfig
from tests.jaxmoe.model.test_transformer import SMALL, build
from tests.tolerances import DOUBLE, assert_same, double_precision

PROMPTS, SAMPLES, SLOTS, LENGTH = 2, 3, 5, 4


def rows(seed=0):
    rng = np.random.default_rng(seed)
    prompts = jnp.asarray(rng.integers(0, 32, (PROMPTS, SLOTS)), jnp.int32)
    mask = jnp.asarray([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], jnp.int32)
    responses = jnp.asarray(rng.integers(0, 32, (PROMPTS * SAMPLES, LENGTH)), jnp.int32)
    return prompts, mask, responses


def states_and_gradient(config, prompts, mask, responses):
    parts = params.split(build(config, ExpertConfig(num_experts=2, rank=2)))

    @jax.jit
    def run(trainable, prompts, mask, responses):
        def loss(trainable):
            model = params.merge(parts._replace(trainable=trainable))
            hidden = response_states(model, prompts, mask, responses, dtype=jnp.float32)
            return jnp.sin(hidden).sum(), hidden

        return jax.grad(loss, has_aux=True)(trainable)

    return run(parts.trainable, prompts, mask, responses)


@pytest.mark.parametrize("windows", [(), (3, 3, 3), (0, 2, 6)])
@double_precision()
def test_shared_equals_separate(windows):
    config = dataclasses.replace(SMALL, windows=windows)
    prompts, mask, responses = rows()
    shared_grad, shared = states_and_gradient(config, prompts, mask, responses)
    prompts, mask = (jnp.repeat(x, SAMPLES, axis=0) for x in (prompts, mask))
    separate_grad, separate = states_and_gradient(config, prompts, mask, responses)
    assert_same((shared, shared_grad), (separate, separate_grad))


def test_siblings_and_later_tokens_are_not_seen():
    model = build()
    prompts, mask, responses = rows()
    run = jax.jit(lambda responses: response_states(model, prompts, mask, responses))
    before = run(responses)
    after = run(responses.at[1, 2].set((responses[1, 2] + 1) % 32))
    changed = np.asarray(jnp.abs(before - after).max(-1) > 0)
    expected = np.zeros_like(changed)
    expected[1, 3] = True  # the state before token 3 is the first that has read token 2
    np.testing.assert_array_equal(changed, expected)


@double_precision()
def test_states_are_those_of_the_whole_text():
    """Left padding, sharing and the shift by one change nothing: the plain forward over one text agrees."""
    from jaxmoe.model.attention import AttentionMask

    model = build()
    prompts, mask, responses = rows()
    shared = response_states(model, prompts, mask, responses, dtype=jnp.float32)
    text = jnp.concatenate([prompts[0, 2:], responses[1]])[None]
    ones = jnp.ones_like(text)
    positions = jnp.arange(text.shape[1])[None]
    whole = model(text, positions, AttentionMask(ones, ones), dtype=jnp.float32).hidden_BTD[0]
    assert_same(shared[1], whole[2:6])


@pytest.mark.parametrize("windows", [(), (3, 3, 3), (0, 2, 6)])
@double_precision()
def test_packed_responses_see_their_prompt_and_themselves_alone(windows):
    """Lengths 2 and 3 share a block of 6 slots, 4 has another: states are those of a row for each."""
    config = dataclasses.replace(SMALL, windows=windows)
    model = build(config=config)
    prompts, mask, responses = rows()
    lengths = (2, 3, 4)
    tokens = np.zeros((PROMPTS, 2, 6), np.int32)
    segments, positions = np.zeros_like(tokens), np.zeros_like(tokens)
    places = [(0, 0), (0, 2), (1, 0)]
    by_prompt = np.asarray(responses).reshape(PROMPTS, SAMPLES, LENGTH)
    for number, (length, (block, at)) in enumerate(zip(lengths, places, strict=True)):
        tokens[:, block, at : at + length] = by_prompt[:, number, :length]
        segments[:, block, at : at + length] = number + 1
        positions[:, block, at : at + length] = np.arange(1, length + 1)
    packing = Packing(jnp.asarray(segments), jnp.asarray(positions))
    found = packed_states(model, prompts, mask, jnp.asarray(tokens), packing, dtype=jnp.float32)
    states = np.asarray(found)[:, 1:].reshape(PROMPTS, 2, 6, -1)
    before = response_states(model, prompts, mask, responses, dtype=jnp.float32)
    before = np.asarray(before).reshape(PROMPTS, SAMPLES, LENGTH, -1)
    np.testing.assert_allclose(np.asarray(found)[:, 0], before[:, 0, 0], rtol=DOUBLE)
    for number, (length, (block, at)) in enumerate(zip(lengths, places, strict=True)):
        # the state after a token is the one before the next
        known = min(length, LENGTH - 1)
        ours = states[:, block, at : at + known]
        np.testing.assert_allclose(ours, before[:, number, 1 : known + 1], rtol=DOUBLE, atol=DOUBLE)
