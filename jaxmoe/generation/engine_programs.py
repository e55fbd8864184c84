"""The compiled programs of an engine: a decoding step, a chunk of a prompt, a copy of a slot, another length.

Those that use the cache are compiled once for each of its lengths; a decoding step also once for each number
of rows. The cache is donated to all but `resized`, so that it is held once.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike

from jaxmoe.generation import kv_cache, row_sampling, slot_cache
from jaxmoe.generation.decode import unroll_layers
from jaxmoe.generation.kv_cache import Blocks
from jaxmoe.generation.row_sampling import RowSampling
from jaxmoe.generation.sampling import log_probability
from jaxmoe.generation.slot_cache import SlotCache, placed
from jaxmoe.model import params
from jaxmoe.model.config import ModelConfig
from jaxmoe.model.layers import KernelParam
from jaxmoe.model.lora_experts import ExpertCall
from jaxmoe.model.quantized import is_quantized
from jaxmoe.model.shapes import Array, Bool, Float, Int
from jaxmoe.model.transposed import TransposedKernel


class StepRows(NamedTuple):
    """What a decoding step is told about each slot; free slots have a position beyond the cache.

    Attributes:
      slots_B: which slots these are, all different; None for all of them in order.
    """

    tokens_B: Int[Array, " B"]
    positions_B: Int[Array, " B"]
    drawn_B: Int[Array, " B"]
    sampling: RowSampling
    experts_BE: Bool[Array, "B E"]
    slots_B: Int[Array, " B"] | None = None


class PromptChunk(NamedTuple):
    """A part of a prompt, on its way into a slot.

    Attributes:
      tokens_C: padded at the end.
      targets_C: the token after each.
      start: position of the first.
      slot: number of the slot.
      experts_E: 1 for each expert that reads it.
    """

    tokens_C: Int[Array, " C"]
    targets_C: Int[Array, " C"]
    start: Int[Array, ""]
    slot: Int[Array, ""]
    experts_E: Bool[Array, " E"]


class Alternatives(NamedTuple):
    """The K likeliest tokens at each position, likeliest first."""

    tokens_BK: Int[Array, "B K"]
    logprobs_BK: Float[Array, "B K"]

    def of(self, row: int, count: int) -> tuple[tuple[int, float], ...]:
        """A row's first `count`; call it on arrays that have been fetched.

        Args:
          row: of the batch.
          count: number of alternatives, at most as many as were kept.
        Returns: token ids and log-probabilities in nats, the likeliest first.
        """
        ids, logprobs = self.tokens_BK[row, :count], self.logprobs_BK[row, :count]
        return tuple((int(i), float(p)) for i, p in zip(ids, logprobs, strict=True))


class StepResult(NamedTuple):
    """What a decoding step chose."""

    tokens_B: Int[Array, " B"]
    logprobs_B: Float[Array, " B"]
    drawn_logprobs_B: Float[Array, " B"] | None
    alternatives: Alternatives | None
    experts_BE: Float[Array, "B E"] | None
    cache: SlotCache


@partial(jax.jit, static_argnames=("config", "slots", "length", "dtype", "unrolled", "mesh"))
def empty_cache(
    config: ModelConfig, slots: int, length: int, dtype: DTypeLike, *, unrolled: bool, mesh: Mesh
) -> SlotCache:
    """`slot_cache.empty_cache` as a program of its own, sharded over the mesh.

    Args:
      config, slots, length, dtype, unrolled: as there.
      mesh: as for all programs that change the cache.
    Returns: the cache.
    """
    return placed(slot_cache.empty_cache(config, slots, length, dtype, unrolled=unrolled), mesh)


@partial(jax.jit, static_argnames=("unrolled", "transposed"))
def layers(weights: params.ModelParams, *, unrolled: bool, transposed: bool = False) -> Blocks:
    """The layers' weights; unrolled, they are copied out of their stacks once instead of at every step.

    Args:
      weights: the model taken apart, see `params.split`.
      unrolled: as for the cache.
      transposed: the kernels too are copied, in the layout of `jaxmoe.model.transposed`; quantized ones stay.
    Returns: for `decode_step` and `read_chunk`.
    """
    blocks = kv_cache.blocks(params.merge(weights), unrolled=unrolled)
    if not transposed:
        return blocks

    def one(variable: nnx.Variable) -> nnx.Variable:
        kernel = variable.get_raw_value()
        if not isinstance(variable, KernelParam) or is_quantized(kernel) or kernel.ndim != 2:
            return variable
        return variable.replace(TransposedKernel(kernel.T))

    return blocks._replace(
        states=jax.tree.map(one, blocks.states, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    )


@partial(
    jax.jit,
    static_argnames=("alternatives", "expert_weights", "score_draws", "dtype", "mesh"),
    donate_argnames=("cache",),
)
def decode_step(
    weights: params.ModelParams,
    blocks: Blocks,
    rows: StepRows,
    cache: SlotCache,
    *,
    alternatives: int,
    expert_weights: bool,
    score_draws: bool,
    dtype: DTypeLike,
    mesh: Mesh,
) -> StepResult:
    """Reads the next token of every slot, or of some, and chooses the one after it.

    Args:
      weights: the model taken apart, see `params.split`; only what lies outside its blocks is read.
      blocks: the model's, from `layers`, unrolled as the cache is.
      rows: what is in the slots.
      cache: donated.
      alternatives: number of likeliest tokens to report at each position.
      expert_weights: also return each expert's share of the routing weights.
      score_draws: also take the log-probability with which each token was drawn.
      dtype: of activations and products.
      mesh: over which the cache is sharded; what is chosen is whole on each of its devices.
    Returns: the tokens, their log-probabilities, and the cache with what was read.
    """
    model = params.merge(weights)
    counted_BTZ = jnp.ones((len(rows.tokens_B), 1, 1)) if expert_weights else None
    call = ExpertCall(experts_BE=rows.experts_BE, samples_BTZ=counted_BTZ, mesh=mesh)
    read = slot_cache.read_tokens(
        model, blocks, rows.tokens_B, rows.positions_B, cache, slots_B=rows.slots_B, dtype=dtype, call=call
    )
    head = model.output_head(read.hidden_BD.dtype)
    # an embedding is stored as the transpose of a head's kernel
    few = model.head is None and mesh.size == 1 and unroll_layers(mesh)
    logits_BV = head.few_logits(read.hidden_BD) if few else head.logits(read.hidden_BD[:, None])[:, 0]
    chosen = row_sampling.choose(logits_BV, rows.sampling, rows.drawn_B, score_draws=score_draws)
    others = _likeliest(logits_BV, alternatives) if alternatives else None
    result = StepResult(
        chosen.tokens_B, chosen.logprobs_B, chosen.drawn_logprobs_B, others, read.experts_BE, read.cache
    )
    whole = jax.lax.with_sharding_constraint(result._replace(cache=()), params.replicated(mesh))
    return whole._replace(cache=placed(read.cache, mesh))


def _likeliest(logits_BV: Float[Array, "B V"], count: int) -> Alternatives:
    best_BK, tokens_BK = jax.lax.top_k(logits_BV.astype(jnp.float32), min(count, logits_BV.shape[-1]))
    total_B = jax.nn.logsumexp(logits_BV.astype(jnp.float32), axis=-1)
    return Alternatives(tokens_BK, best_BK - total_B[:, None])


@partial(
    jax.jit,
    static_argnames=("scored", "alternatives", "dtype", "mesh"),
    donate_argnames=("cache",),
)
def read_chunk(
    weights: params.ModelParams,
    blocks: Blocks,
    chunk: PromptChunk,
    cache: SlotCache,
    *,
    scored: bool,
    alternatives: int,
    dtype: DTypeLike,
    mesh: Mesh,
) -> tuple[tuple[Float[Array, " C"], Alternatives | None] | None, SlotCache]:
    """Reads a chunk of a prompt.

    Args:
      weights: the model taken apart, see `params.split`; only what lies outside its blocks is read.
      blocks: the model's, from `layers`, unrolled as the cache is.
      chunk: with the slot where the prompt is.
      cache: donated.
      scored: also take the log-probability of each target.
      alternatives: number of likeliest tokens to report at each position, if scored.
      dtype: of activations and products.
      mesh: over which the cache is sharded.
    Returns: log-probabilities and alternatives if scored, else None; and the cache with what was read.
    """
    model = params.merge(weights)
    call = ExpertCall(experts_BE=chunk.experts_E[None], mesh=mesh)
    hidden_CD, cache = slot_cache.read_chunk(
        model, blocks, chunk.tokens_C, chunk.start, chunk.slot, cache, dtype=dtype, call=call
    )
    cache = placed(cache, mesh)
    if not scored:
        return None, cache
    logits_CV = model.logits(hidden_CD[None])[0]
    others = _likeliest(logits_CV, alternatives) if alternatives else None
    told = log_probability(logits_CV, chunk.targets_C), others
    return jax.lax.with_sharding_constraint(told, params.replicated(mesh)), cache


@partial(jax.jit, donate_argnames=("cache",), static_argnames=("mesh",))
def copy_slot(cache: SlotCache, source: Int[Array, ""], target: Int[Array, ""], *, mesh: Mesh) -> SlotCache:
    """`slot_cache.copy_slot` as a program of its own; the cache is donated.

    Args:
      cache: with both slots.
      source, target: their numbers.
      mesh: over which the cache is sharded.
    Returns: the cache with the copy.
    """
    return placed(slot_cache.copy_slot(cache, source, target), mesh)


@partial(jax.jit, static_argnames=("length", "mesh"))
def resized(cache: SlotCache, length: int, *, mesh: Mesh) -> SlotCache:
    """`slot_cache.resized` as a program of its own.

    Args:
      cache: of any length.
      length: positions of each slot.
      mesh: over which the cache is sharded.
    Returns: a new cache.
    """
    return placed(slot_cache.resized(cache, length), mesh)
