"""Generation: the prompts' prefill and the decoding loop as one compiled program.

`decode` is the pure function, for use inside other jitted functions. `generate` serves a loaded model: it
pads to bucketed lengths, so that few programs are ever compiled, and cuts the result to what was generated.
`begin` and `advance` are its two halves, for a caller that inspects the text between stretches of tokens.

Letters of this file: P prompts, G samples per prompt (B = P·G rows), S slots of a prompt, W for new tokens.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from jaxmoe.generation import kv_cache, sampling
from jaxmoe.generation.sampling import Sampling
from jaxmoe.model import params
from jaxmoe.model.attention import AttentionMask
from jaxmoe.model.config import ModelConfig
from jaxmoe.model.lora_experts import ExpertCall
from jaxmoe.model.shapes import Array, Bool, Float, Int
from jaxmoe.model.transformer import Decoder


@dataclasses.dataclass(frozen=True)
class DecodeConfig:
    """What a compiled decoding loop is compiled for.

    Attributes:
      slots: room for new tokens, at least the largest limit.
      samples: continuations of each prompt.
      stop_tokens: a row ends with the first of these; the token itself is kept.
      pad_token: fills the row after its end.
      unrolled: see `kv_cache.start`.
      enabled: False generates with the base model, without its experts.
      score_sampler: also take the log-probability with which each token was drawn.
    """

    slots: int
    sampling: Sampling = sampling.GREEDY
    samples: int = 1
    stop_tokens: tuple[int, ...] = ()
    pad_token: int = 0
    unrolled: bool = True
    enabled: bool = True
    dtype: DTypeLike = jnp.float32
    score_sampler: bool = False


class PromptBatch(NamedTuple):
    """P prompts, to be continued in B = P·G rows.

    Attributes:
      tokens_PS: padded on the left.
      mask_PS: 1 for real tokens.
      limits_B: most new tokens of each row; a row with 0 gets none.
    """

    tokens_PS: Int[Array, "P S"]
    mask_PS: Int[Array, "P S"]
    limits_B: Int[Array, " B"]


class Decoded(NamedTuple):
    """New tokens of B = P·G rows, a prompt's samples adjacent.

    Attributes:
      tokens_BW: `pad_token` after a row's end.
      logprobs_BW: log-probability of each token under the model as it is, at temperature 1 over the whole
        vocabulary, regardless of the sampling; 0 after a row's end.
      lengths_B: number of new tokens in each row, its stop token included.
      sampler_logprobs_BW: log-probability with which each token was drawn (after temperature, top-k, top-p);
        None unless `score_sampler`.
    """

    tokens_BW: Int[Array, "B W"]
    logprobs_BW: Float[Array, "B W"]
    lengths_B: Int[Array, " B"]
    sampler_logprobs_BW: Float[Array, "B W"] | None = None


class Decoding(NamedTuple):
    """Texts in progress.

    Attributes:
      decoded: what has been generated so far.
      ended_B: rows that get no more tokens. A caller may end rows between two stretches.
      limits_B: most new tokens of each row.
      last_B: the token to be read next.
      prompt_end_B: position of the last prompt token.
      cache: of the tokens read; `cache.length` + 1 tokens have been chosen.
    """

    decoded: Decoded
    ended_B: Bool[Array, " B"]
    limits_B: Int[Array, " B"]
    last_B: Int[Array, " B"]
    prompt_end_B: Int[Array, " B"]
    cache: kv_cache.KVCache


def decode(
    model: Decoder,
    prompts: PromptBatch,
    config: DecodeConfig,
    *,
    key: Array | None,
    mesh: Mesh | None = None,
) -> Decoded:
    """Continues prompts; pure, to be called under jit with `params.merge`d weights.

    Each prompt is read once and its cache shared by its samples. The loop ends when every row has ended.

    Args:
      model: merged within the trace.
      config: slots, samples, sampling and stop tokens.
      mesh: None on one device.
      prompts: what to continue, and how far.
      key: may be None if sampling is greedy.
    Returns: tokens, their number and log-probabilities, by row.
    """
    state = begin(model, prompts, config, key=key, mesh=mesh)
    return advance(model, state, config, key=key, until=config.slots, mesh=mesh).decoded


def begin(
    model: Decoder,
    prompts: PromptBatch,
    config: DecodeConfig,
    *,
    key: Array | None,
    mesh: Mesh | None = None,
) -> Decoding:
    """Reads the prompts and chooses the first token of each row; arguments as for `decode`.

    Args:
      model, prompts, config, key, mesh: as for `decode`.
    Returns: the state from which `advance` continues.
    """
    call = ExpertCall(enabled=config.enabled)
    tokens_PS, mask_PS, limits_B = prompts
    # a padding row has no token: all its positions are 0, so that it is never the longest
    positions_PS = jnp.maximum(jnp.cumsum(mask_PS > 0, axis=1, dtype=mask_PS.dtype) - 1, 0)
    mask = AttentionMask(mask_PS, mask_PS)
    read = model(tokens_PS, positions_PS, mask, dtype=config.dtype, call=call, keep=True, mesh=mesh)
    assert read.kept is not None
    cache = kv_cache.start(
        read.kept, mask_PS, config.samples, config.slots, unrolled=config.unrolled, mesh=mesh
    )
    rows = limits_B.shape[0]
    zeros_BW = jnp.zeros((rows, config.slots), jnp.float32)
    decoded = Decoded(
        jnp.full((rows, config.slots), config.pad_token, jnp.int32),
        zeros_BW,
        jnp.zeros((rows,), jnp.int32),
        zeros_BW if config.score_sampler else None,
    )
    end_B = jnp.repeat(positions_PS[:, -1], config.samples)
    state = Decoding(decoded, limits_B <= 0, limits_B, jnp.zeros((rows,), jnp.int32), end_B, cache)
    hidden_BD = jnp.repeat(read.hidden_BTD[:, -1], config.samples, axis=0)
    return _choose(model, state, hidden_BD, config, key)


def advance(
    model: Decoder,
    state: Decoding,
    config: DecodeConfig,
    *,
    key: Array | None,
    until: Int[Array, ""] | int,
    mesh: Mesh | None = None,
) -> Decoding:
    """Chooses tokens until every row has ended or has `until` of them; the tokens do not depend on `until`.

    Args:
      model, config, key, mesh: as for `begin`.
      state: from `begin`, or from an earlier call.
      until: number of tokens, at most `config.slots`.
    Returns: the state after those tokens.
    """
    call = ExpertCall(enabled=config.enabled, mesh=mesh)
    blocks = kv_cache.blocks(model, unrolled=config.unrolled)

    def go_on(state: Decoding) -> Array:
        return ~jnp.all(state.ended_B) & (state.cache.length + 1 < until)

    def one(state: Decoding) -> Decoding:
        now_B = state.prompt_end_B + state.cache.length + 1
        hidden_BD, cache = kv_cache.step(
            model, blocks, state.last_B, now_B, state.cache, dtype=config.dtype, call=call
        )
        return _choose(model, state._replace(cache=cache), hidden_BD, config, key)

    return jax.lax.while_loop(go_on, one, state)


def _choose(
    model: Decoder,
    state: Decoding,
    hidden_BD: Array,
    config: DecodeConfig,
    key: Array | None,
) -> Decoding:
    """Adds each row's next token."""
    logits_BV = model.logits(hidden_BD[:, None])[:, 0]
    now, old = state.cache.length, state.decoded
    draw = None if key is None else jax.random.fold_in(key, now)
    live_B = ~state.ended_B
    token_B = jnp.where(live_B, sampling.sample(logits_BV, config.sampling, key=draw), config.pad_token)

    def written(buffer_BW: Array, values_B: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(buffer_BW, values_B[:, None], now, axis=1)

    logprob_B = jnp.where(live_B, sampling.log_probability(logits_BV, token_B), 0.0)
    drawn_BW = old.sampler_logprobs_BW
    if drawn_BW is not None:
        drawn_B = sampling.sampled_log_probability(logits_BV, token_B, config.sampling)
        drawn_BW = written(drawn_BW, jnp.where(live_B, drawn_B, 0.0))
    lengths_B = old.lengths_B + live_B.astype(jnp.int32)
    stopped_B = jnp.zeros_like(live_B)
    for stop in config.stop_tokens:
        stopped_B |= token_B == stop
    decoded = Decoded(
        written(old.tokens_BW, token_B), written(old.logprobs_BW, logprob_B), lengths_B, drawn_BW
    )
    ended_B = state.ended_B | stopped_B | (lengths_B >= state.limits_B)
    return state._replace(decoded=decoded, ended_B=ended_B, last_B=token_B)


def bucket(length: int, smallest: int = 1) -> int:
    """The smallest of 1, 2, 3, 4, 6, 8, 12, 16, .. not below `length` or `smallest`: two sizes per octave.

    Args:
      length: in tokens or rows.
      smallest: lower bound of the result.
    Returns: the size, so that few programs are compiled.
    """
    power = 1 << (max(length, 1) - 1).bit_length()
    return max(smallest, power * 3 // 4 if length <= power * 3 // 4 else power)


def check_growth(model: ModelConfig, prompt: int, new: int) -> None:
    """Refuses texts during which LongRoPE would change its factors: keys in the cache keep the old ones.

    Args:
      model: the decoder's shape.
      prompt: tokens of the longest prompt.
      new: most tokens that follow; the last of them is not read.
    Raises: ValueError if the texts would do so.
    """
    for rope in model.ropes:
        original = rope.original_max_position_embeddings
        if rope.rope_type == "longrope" and original is not None and prompt <= original < prompt + new - 1:
            raise ValueError(
                f"with rope_type longrope no text may grow past {original} tokens from a shorter prompt; "
                f"got prompts of at most {prompt} and {new} new tokens: at most {original - prompt + 1} can "
                "follow"
            )


@partial(jax.jit, static_argnames=("config", "mesh"))
def run(
    weights: params.ModelParams,
    prompts: PromptBatch,
    key: Array | None,
    *,
    config: DecodeConfig,
    mesh: Mesh,
) -> Decoded:
    """`decode` as a program of its own; the result is whole on every device, also those of other processes.

    Args:
      weights: the model taken apart, see `params.split`.
      prompts, key, config, mesh: as for `decode`.
    Returns: what `decode` gives.
    """
    model = params.merge(weights)
    result = decode(model, prompts, config, key=key, mesh=mesh)
    return jax.lax.with_sharding_constraint(result, params.replicated(mesh))


@partial(jax.jit, static_argnames=("config", "mesh"))
def run_begin(
    weights: params.ModelParams,
    prompts: PromptBatch,
    key: Array | None,
    *,
    config: DecodeConfig,
    mesh: Mesh,
) -> Decoding:
    """`begin` as a program of its own.

    Args:
      weights: the model taken apart, see `params.split`.
      prompts, key, config, mesh: as for `decode`.
    Returns: what `begin` gives.
    """
    model = params.merge(weights)
    state = begin(model, prompts, config, key=key, mesh=mesh)
    return _whole(state, mesh)


@partial(jax.jit, static_argnames=("config", "mesh"), donate_argnames="state")
def run_until(
    weights: params.ModelParams,
    state: Decoding,
    key: Array | None,
    until: Int[Array, ""],
    *,
    config: DecodeConfig,
    mesh: Mesh,
) -> Decoding:
    """`advance` as a program of its own; the state is donated. One program serves every `until`.

    Args:
      weights: the model taken apart, see `params.split`.
      state, key, until, config, mesh: as for `advance`.
    Returns: what `advance` gives.
    """
    model = params.merge(weights)
    return _whole(advance(model, state, config, key=key, until=until, mesh=mesh), mesh)


def _whole(state: Decoding, mesh: Mesh) -> Decoding:
    """What a caller reads is whole on every device; the cache stays sharded."""
    everywhere = params.replicated(mesh)
    decoded, ended_B = jax.lax.with_sharding_constraint((state.decoded, state.ended_B), everywhere)
    return state._replace(decoded=decoded, ended_B=ended_B)


def unroll_layers(mesh: Mesh) -> bool:
    """Whether decoding is faster with the layers unrolled: where a scan has to copy each layer's weights."""
    return mesh.devices.flat[0].platform == "cpu"
