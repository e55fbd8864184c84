"""Decoding as other parts use it: pure, in stretches, with the log-probabilities of the sampler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmoe.generation import decode as generate
from jaxmoe.generation.decode import bucket
from jaxmoe.generation.sampling import Sampling
from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params
from tests.jaxmoe.test_generate import PROMPTS, tiny
from tests.tiny_checkpoints import in_double
from tests.tolerances import DOUBLE, assert_same, double_precision


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny()


def test_few_programs_serve_many_lengths():
    lm = tiny(experts=False, pad_token_id=9)  # no other test's program
    before = generate.run._cache_size()  # type: ignore[attr-defined]
    for length in range(1, 10):
        lm.generate(PROMPTS[:, :length], max_new_tokens=length)
    assert generate.run._cache_size() - before == 1  # type: ignore[attr-defined]


def test_buckets():
    assert [bucket(n) for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13)] == [1, 2, 3, 4, 6, 6, 8, 8, 12, 12, 16]
    for n in range(1, 500):
        assert n <= bucket(n) < 1.5 * n + 1
        assert bucket(n, 16) >= 16


def test_decode_inside_another_program(lm: LanguageModel):
    """The pure form, as rollouts use it."""
    config = generate.DecodeConfig(slots=16, samples=2)

    @jax.jit
    def rollout(trainable, frozen, tokens, limits):
        model = params.merge(params.ModelParams(lm.weights.definition, trainable, frozen))
        prompts = generate.PromptBatch(tokens, jnp.ones_like(tokens), limits)
        return generate.decode(model, prompts, config, key=None)

    out = rollout(lm.weights.trainable, lm.weights.frozen, PROMPTS, np.full(6, 5, np.int32))
    expected = lm.generate(PROMPTS, max_new_tokens=5)
    np.testing.assert_array_equal(out.tokens_BW[::2, :5], expected.tokens[:, 9:])
    np.testing.assert_array_equal(out.tokens_BW[::2], out.tokens_BW[1::2])
    np.testing.assert_array_equal(out.lengths_B, np.full(6, 5))


def stretches(lm: LanguageModel, config: generate.DecodeConfig) -> tuple[generate.Decoded, generate.Decoded]:
    """Decoded in one go, and in stretches; without row 4, which the caller ends between two."""
    prompts = generate.PromptBatch(PROMPTS, np.ones_like(PROMPTS), np.full(6, 14, np.int32))
    key, fixed = jax.random.key(3), {"config": config, "mesh": lm.mesh}
    whole = generate.run(lm.weights, prompts, key, **fixed)
    state = generate.run_begin(lm.weights, prompts, key, **fixed)
    for until in (4, 5, 11, 16):
        state = generate.run_until(lm.weights, state, key, np.int32(until), **fixed)
        if until == 5:
            np.testing.assert_array_equal(state.decoded.lengths_B, np.full(6, 5))
            state = state._replace(ended_B=state.ended_B.at[4].set(True))
    assert int(state.decoded.lengths_B[4]) == 5
    np.testing.assert_array_equal(state.decoded.tokens_BW[4, :5], whole.tokens_BW[4, :5])
    assert not np.asarray(state.decoded.sampler_logprobs_BW[4, 5:]).any()
    kept = np.arange(6) != 4
    return jax.tree.map(lambda leaf: np.asarray(leaf)[kept], (whole, state.decoded))


@pytest.mark.parametrize("unrolled", [True, False])
def test_stretches_give_the_tokens_of_one_go(lm: LanguageModel, unrolled: bool):
    """Whatever their lengths; a row that the caller ends between two gets no more, the others their own."""
    nucleus = Sampling(0.8, top_p=0.9)
    config = generate.DecodeConfig(
        slots=16, samples=2, sampling=nucleus, unrolled=unrolled, score_sampler=True
    )
    whole, parts = stretches(lm, config)
    np.testing.assert_array_equal(parts.tokens_BW, whole.tokens_BW)
    np.testing.assert_array_equal(parts.lengths_B, whole.lengths_B)


@pytest.mark.parametrize("unrolled", [True, False])
@double_precision()
def test_stretches_give_the_logprobs_of_one_go(unrolled: bool):
    """They are other programs, each with its own rounding: in double precision, which a nucleus has not."""
    config = generate.DecodeConfig(
        slots=16,
        samples=2,
        dtype=jnp.float64,
        sampling=Sampling(0.8, top_k=9),
        unrolled=unrolled,
        score_sampler=True,
    )
    whole, parts = stretches(in_double(tiny()), config)
    np.testing.assert_array_equal(parts.tokens_BW, whole.tokens_BW)
    assert_same(parts.logprobs_BW, whole.logprobs_BW)
    assert_same(parts.sampler_logprobs_BW, whole.sampler_logprobs_BW)


@double_precision()
def test_the_samplers_logprobs_are_the_models_at_temperature_1_without_a_nucleus():
    """And at .5 those of logits twice as large; without `score_sampler` there are none."""
    lm = in_double(tiny())
    prompts = generate.PromptBatch(PROMPTS, np.ones_like(PROMPTS), np.full(3, 8, np.int32))

    def drawn(**how):
        config = generate.DecodeConfig(slots=8, dtype=jnp.float64, **how)
        return generate.run(lm.weights, prompts, jax.random.key(0), config=config, mesh=lm.mesh)

    plain = drawn(sampling=Sampling(1.0), score_sampler=True)
    np.testing.assert_array_equal(plain.sampler_logprobs_BW, plain.logprobs_BW)
    assert drawn(sampling=Sampling(1.0)).sampler_logprobs_BW is None
    cold = drawn(sampling=Sampling(0.5), score_sampler=True)
    tokens = np.concatenate([PROMPTS, cold.tokens_BW], axis=1)
    logits = np.asarray(lm(tokens).logits, np.float64)[:, PROMPTS.shape[1] - 1 : -1] / 0.5
    expected = np.take_along_axis(
        logits - np.log(np.exp(logits).sum(-1, keepdims=True)), np.asarray(cold.tokens_BW)[..., None], -1
    )[..., 0]
    np.testing.assert_allclose(cold.sampler_logprobs_BW, expected, atol=DOUBLE)
