"""Whatever a block's switches: cached decoding, slots and shared prompts compute what the whole text does."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxmoe.generation import kv_cache, slot_cache
from jaxmoe.generation.shared_prompt import response_states
from jaxmoe.model import params
from jaxmoe.model.attention import AttentionMask
from jaxmoe.model.config import ClampedSwiglu, ModelConfig, MoeConfig, RopeConfig
from tests.jaxmoe.model.test_transformer import SMALL
from tests.tolerances import assert_same, double_precision, doubled

LOCAL = RopeConfig(rope_theta=50.0)
SWITCHES = {
    "gemma": dataclasses.replace(
        SMALL,
        num_layers=2,
        qk_norm=True,
        windows=(3, 0),
        layer_ropes=(LOCAL, SMALL.rope),
        norms="both",
        norm_offset=1.0,
        activation="gelu_tanh",
        embedding_scale=4.0,
        attention_scale=0.7,
        attention_cap=1.5,
    ),
    "cohere": dataclasses.replace(
        SMALL,
        num_layers=2,
        norm="layer",
        parallel=True,
        rope_interleaved=True,
        qk_norm=True,
        headwise_qk_norm=True,
        residual_scale=0.5,
        layer_ropes=(RopeConfig(rope_type="none"), SMALL.rope),
    ),
    "experts": dataclasses.replace(
        SMALL, num_layers=2, qk_norm=True, joint_qk_norm=True, moe=MoeConfig(5, 2, 8, shared_size=4)
    ),
    "gpt-oss": dataclasses.replace(
        SMALL,
        num_layers=2,
        windows=(3, 0),
        qkv_bias=True,
        attention_sinks=True,
        moe=MoeConfig(4, 2, 8, bias=True, clamped=ClampedSwiglu(limit=0.5)),
    ),
}
PROMPT, WHOLE = 6, 9
TOKENS = np.random.default_rng(0).integers(0, 32, (2, WHOLE)).astype(np.int32)
POSITIONS = np.tile(np.arange(WHOLE, dtype=np.int32)[None], (2, 1))
ONES = np.ones((2, WHOLE), np.int32)


@cache
def weights(config: ModelConfig) -> params.ModelParams:
    return params.split(params.build(config, std=0.3))


def whole_text(config: ModelConfig, drawn: params.ModelParams):
    """Final states of both rows, without a cache."""
    definition = params.split(params.abstract(config)).definition

    def run(trainable, frozen):
        model = nnx.merge(definition, trainable, frozen)
        mask = AttentionMask(jnp.asarray(ONES), jnp.asarray(ONES))
        return model(jnp.asarray(TOKENS), jnp.asarray(POSITIONS), mask, dtype=jnp.float32).hidden_BTD

    return jax.jit(run)(drawn.trainable, drawn.frozen)


def cached(model, tokens, positions, unrolled: bool):
    """The prompt at once, then token by token."""
    ones = jnp.ones((2, PROMPT), jnp.int32)
    mask = AttentionMask(ones, ones)
    read = model(tokens[:, :PROMPT], positions[:, :PROMPT], mask, dtype=jnp.float32, keep=True)
    kept = kv_cache.start(read.kept, ones, 1, WHOLE - PROMPT, unrolled=unrolled)
    blocks = kv_cache.blocks(model, unrolled=unrolled)

    def step(kept, t):
        here = jax.lax.dynamic_index_in_dim(tokens, t, 1, False)
        at = jnp.full((2,), t, jnp.int32)
        hidden, kept = kv_cache.step(model, blocks, here, at, kept, dtype=jnp.float32)
        return kept, hidden

    _, states = jax.lax.scan(step, kept, jnp.arange(PROMPT, WHOLE, dtype=jnp.int32))
    return jnp.concatenate([read.hidden_BTD, states.swapaxes(0, 1)], axis=1)


def in_slots(model, tokens, positions, unrolled: bool):
    """The prompt in chunks, slot by slot, then token by token."""
    blocks = kv_cache.blocks(model, unrolled=unrolled)
    kept = slot_cache.empty_cache(model.config, 2, WHOLE, jnp.float32, unrolled=unrolled)
    chunk = PROMPT // 2

    def read(kept, place):
        slot, start = place
        part = jax.lax.dynamic_slice(tokens, (slot, start), (1, chunk))[0]
        hidden, kept = slot_cache.read_chunk(model, blocks, part, start, slot, kept, dtype=jnp.float32)
        return kept, hidden

    def step(kept, t):
        here = jax.lax.dynamic_index_in_dim(tokens, t, 1, False)
        at = jnp.full((2,), t, jnp.int32)
        hidden, kept, _ = slot_cache.read_tokens(model, blocks, here, at, kept, dtype=jnp.float32)
        return kept, hidden

    places = jnp.asarray([[0, 0], [0, chunk], [1, 0], [1, chunk]], jnp.int32)
    kept, chunks = jax.lax.scan(read, kept, (places[:, 0], places[:, 1]))
    _, states = jax.lax.scan(step, kept, jnp.arange(PROMPT, WHOLE, dtype=jnp.int32))
    return jnp.concatenate([chunks.reshape(2, PROMPT, -1), states.swapaxes(0, 1)], axis=1)


def shared(model, tokens, positions):
    """The states before each token behind the prompt, each row twice."""
    responses = jnp.repeat(tokens[:, PROMPT:], 2, axis=0)
    ones = jnp.ones((2, PROMPT), jnp.int32)
    return response_states(model, tokens[:, :PROMPT], ones, responses, dtype=jnp.float32)[::2]


WAYS = {
    "cached": partial(cached, unrolled=False),
    "cached, unrolled": partial(cached, unrolled=True),
    "slots": partial(in_slots, unrolled=False),
    "slots, unrolled": partial(in_slots, unrolled=True),
    "shared": shared,
}


@pytest.mark.parametrize("config", SWITCHES.values(), ids=SWITCHES)
def test_every_way_of_reading_a_text_agrees(config: ModelConfig):
    drawn = weights(config)
    with double_precision():
        wide = drawn._replace(trainable=doubled(drawn.trainable), frozen=doubled(drawn.frozen))
        expected = whole_text(config, wide)
        for name, way in WAYS.items():

            def run(trainable, frozen, way=way):
                model = params.merge(wide._replace(trainable=trainable, frozen=frozen))
                return way(model, jnp.asarray(TOKENS), jnp.asarray(POSITIONS))

            part = expected[:, PROMPT - 1 : -1] if name == "shared" else expected
            assert_same({name: jax.jit(run)(wide.trainable, wide.frozen)}, {name: part})


@pytest.mark.parametrize("switch", ["layer_ropes", "attention_scale", "attention_cap", "embedding_scale"])
def test_each_switch_matters(switch: str):
    """Or the agreement above would show nothing."""
    config = SWITCHES["gemma"]
    plain = dataclasses.replace(config, **{switch: getattr(SMALL, switch)})
    with_it, without = (whole_text(one, weights(config)) for one in (config, plain))
    assert np.abs(with_it - without).max() > 1e-3
