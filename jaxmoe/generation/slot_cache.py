"""Keys and values of texts of different lengths, each in a slot, and the decoder's steps over them.

`kv_cache` serves a batch that starts and ends together. Here every slot is at its own position: it is filled
chunk by chunk (`read_chunk`), then grows by one token per step together with the others (`read_tokens`), and
its content can be copied to another slot (`copy_slot`). All shapes are fixed by the cache, so that a few
compiled programs serve any mixture of requests.

Letters of this file: B slots, S positions of a slot, C tokens of a chunk.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from jaxmoe.generation.kv_cache import Blocks
from jaxmoe.model.attention import MASKED, grouped_sinks, soft_cap, softmax
from jaxmoe.model.config import ModelConfig
from jaxmoe.model.layers import Statistics, rotations
from jaxmoe.model.lora_experts import ExpertCall
from jaxmoe.model.mesh import row_axes
from jaxmoe.model.shapes import Array, Bool, Float, Int
from jaxmoe.model.transformer import Decoder, KeyValues


class SlotValues(NamedTuple):
    """Rotated keys, and values, of S positions; keys are laid out for fast products with few queries."""

    key_BMHS: Float[Array, "B M H S"]
    value_BMSH: Float[Array, "B M S H"]


class ReadTokens(NamedTuple):
    """One token read in every slot, or in some.

    Attributes:
      hidden_BD: final hidden states.
      experts_BE: each expert's share of the routing weights, mean over layers and projections; None unless
        the call collects statistics and there are routers.
    """

    hidden_BD: Float[Array, "B D"]
    cache: "SlotCache"
    experts_BE: Float[Array, "B E"] | None


# One SlotValues per layer (unrolled), or a single one with a leading [L] (scanned)
SlotCache = tuple[SlotValues, ...] | SlotValues


def empty_cache(
    config: ModelConfig, slots: int, length: int, dtype: DTypeLike, *, unrolled: bool
) -> SlotCache:
    """A cache of zeros.

    Args:
      config: the model's shape.
      dtype: of keys and values.
      slots: texts at a time.
      length: positions of each.
      unrolled: one buffer per layer, fastest on CPU; else stacked ones for a scan over the layers.
    Returns: the cache.
    """
    rows, size, layers = (slots, config.num_kv_heads), config.head_dim, config.num_layers

    def zeros(*leading: int) -> SlotValues:
        key, value = (*leading, *rows, size, length), (*leading, *rows, length, size)
        return SlotValues(jnp.zeros(key, dtype), jnp.zeros(value, dtype))

    return tuple(zeros() for _ in range(layers)) if unrolled else zeros(layers)


def placed(cache: SlotCache, mesh: Mesh) -> SlotCache:
    """The cache sharded over a mesh: slots over data and fsdp, heads over tensor, where they divide.

    Every program ends with it: otherwise XLA chooses where a result is placed, and the next program would be
    compiled again for another placement.

    Args:
      cache: anywhere.
      mesh: to shard it over.
    Returns: the same content.
    """

    def one(x: Array) -> Array:
        slots, heads = x.shape[-4:-2]
        rows = row_axes(mesh, slots)
        head_axis = None if heads % mesh.shape["tensor"] else "tensor"
        spec = PartitionSpec(*(None,) * (x.ndim - 4), rows, head_axis, None, None)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    return jax.tree.map(one, cache)


def length_of(cache: SlotCache) -> int:
    """Positions of a slot."""
    return jax.tree.leaves(cache)[0].shape[-1]  # of keys


def resized(cache: SlotCache, length: int) -> SlotCache:
    """The same content with room for other lengths; positions beyond the new end are lost.

    Args:
      cache: of any length.
      length: positions of each slot.
    Returns: a new cache.
    """
    more = length - length_of(cache)

    def one(layer: SlotValues) -> SlotValues:
        key, value = layer
        if more <= 0:
            return SlotValues(key[..., :length], value[..., :length, :])
        lead = [(0, 0)] * (key.ndim - 2)
        return SlotValues(
            jnp.pad(key, [*lead, (0, 0), (0, more)]), jnp.pad(value, [*lead, (0, more), (0, 0)])
        )

    return one(cache) if isinstance(cache, SlotValues) else tuple(map(one, cache))


def copy_slot(cache: SlotCache, source: Int[Array, ""], target: Int[Array, ""]) -> SlotCache:
    """Writes one slot's keys and values over another's.

    Args:
      cache: with both slots.
      source, target: their numbers.
    Returns: a new cache.
    """

    def one(x: Array) -> Array:
        axis = x.ndim - 4
        row = jax.lax.dynamic_slice_in_dim(x, source, 1, axis)
        return jax.lax.dynamic_update_slice_in_dim(x, row, target, axis)

    return jax.tree.map(one, cache)


def read_tokens(
    model: Decoder,
    blocks: Blocks,
    tokens_B: Int[Array, " B"],
    positions_B: Int[Array, " B"],
    cache: SlotCache,
    *,
    slots_B: Int[Array, " B"] | None = None,
    dtype: DTypeLike = jnp.float32,
    call: ExpertCall = ExpertCall(),  # noqa: B008 - an immutable tuple
) -> ReadTokens:
    """Reads one token in every slot, or in some.

    Args:
      positions_B: the position of each slot's token; one at S or beyond writes nothing (a free slot).
      slots_B: numbers of the slots, all different; None for all of them in order.
      call: of the experts; with `samples_BTZ` ones [B, 1, 1] their shares are returned.
    Returns: final hidden states, the cache with the tokens' keys and values, and the experts' shares.
    """
    rows_B = jnp.arange(tokens_B.shape[0]) if slots_B is None else slots_B

    def here(kept: SlotValues) -> SlotValues:
        return kept if slots_B is None else SlotValues(*(x[slots_B] for x in kept))

    def write(old: SlotValues, new: KeyValues) -> SlotValues:
        places = old.key_BMHS.at[rows_B, :, :, positions_B], old.value_BMSH.at[rows_B, :, positions_B]
        return SlotValues(
            *(
                place.set(y[:, 0].astype(x.dtype), mode="drop", unique_indices=True)
                for place, x, y in zip(places, old, new, strict=True)
            )
        )

    hidden_BTD, cache, sums_BE = _run(
        model, blocks, tokens_B[:, None], positions_B[:, None], cache, write, here, dtype, call
    )
    if sums_BE is not None:  # a row that uses only the base has none
        sums_BE = sums_BE / jnp.maximum(sums_BE.sum(-1, keepdims=True), jnp.finfo(jnp.float32).tiny)
    return ReadTokens(hidden_BTD[:, 0], cache, sums_BE)


def read_chunk(
    model: Decoder,
    blocks: Blocks,
    tokens_C: Int[Array, " C"],
    start: Int[Array, ""],
    slot: Int[Array, ""],
    cache: SlotCache,
    *,
    dtype: DTypeLike = jnp.float32,
    call: ExpertCall = ExpertCall(),  # noqa: B008 - an immutable tuple
) -> tuple[Float[Array, "C D"], SlotCache]:
    """Reads C tokens of one slot's prompt, which begin at `start`; S must be at least start + C.

    A chunk that is not full is padded at the end: what it writes there is overwritten by what comes next, and
    nothing before that sees it.

    Args:
      model: merged within the trace.
      blocks: from `kv_cache.blocks`.
      tokens_C: a part of the prompt.
      start: position of its first token.
      slot: number of the slot.
      cache: changed in that slot only.
      dtype: of activations and products.
      call: of the experts.

    Returns: final hidden states [C, D], and the cache.
    """

    zero = jnp.zeros((), start.dtype)

    def write(old: SlotValues, new: KeyValues) -> SlotValues:
        key, value = (x.astype(old.key_BMHS.dtype) for x in new)
        return SlotValues(
            jax.lax.dynamic_update_slice(old.key_BMHS, key.transpose(0, 2, 3, 1), (slot, zero, zero, start)),
            jax.lax.dynamic_update_slice(old.value_BMSH, value.swapaxes(1, 2), (slot, zero, start, zero)),
        )

    def row(kept: SlotValues) -> SlotValues:
        return SlotValues(*(jax.lax.dynamic_slice_in_dim(x, slot, 1, 0) for x in kept))

    positions = start + jnp.arange(tokens_C.shape[0])
    hidden_BTD, cache, _ = _run(
        model, blocks, tokens_C[None], positions[None], cache, write, row, dtype, call
    )
    return hidden_BTD[0], cache


def _run(
    model: Decoder,
    blocks: Blocks,
    tokens_BT: Int[Array, "B T"],
    positions_BT: Int[Array, "B T"],
    cache: SlotCache,
    write: Callable[[SlotValues, KeyValues], SlotValues],
    rows: Callable[[SlotValues], SlotValues],
    dtype: DTypeLike,
    call: ExpertCall,
) -> tuple[Float[Array, "B T D"], SlotCache, Float[Array, "B E"] | None]:
    """The decoder over T tokens of some slots; their keys and values are written, then attended to.

    The last result is the sum of the experts' weights over layers, projections and counted tokens.
    """
    config = model.config
    turns = rotations(config, positions_BT, dtype)
    hidden = model.embed(tokens_BT, dtype)

    def layer(
        index: Int[Array, ""] | int,
        hidden: Array,
        state: nnx.State,
        window: Int[Array, ""] | int,
        old: SlotValues,
    ) -> tuple[Array, SlotValues, Array | None]:
        def mixer(query: Array, key: Array, value: Array, sinks: Array | None) -> tuple[Array, SlotValues]:
            kept = write(old, KeyValues(key, value))
            here = rows(kept)
            visible_BTS = _visible(positions_BT, here.key_BMHS.shape[-1], window)
            return attend_slots(query, here, visible_BTS, config.attention_cap, sinks), kept

        hidden, collected, kept = nnx.merge(blocks.definition, state)(hidden, turns(index), mixer, call)
        return hidden, kept, _expert_weights(collected)

    if not isinstance(cache, SlotValues):
        layers: list[SlotValues] = []
        weights: list[Array] = []
        parts = zip(config.layer_windows, blocks.states, cache, strict=True)
        for index, (window, state, old) in enumerate(parts):
            hidden, kept, weight = layer(index, hidden, state, window, old)
            layers.append(kept)
            weights += [] if weight is None else [weight]
        return model.norm(hidden), tuple(layers), sum(weights[1:], start=weights[0]) if weights else None

    def scanned(
        hidden: Array, inputs: tuple[Array, Array, nnx.State, SlotValues]
    ) -> tuple[Array, tuple[SlotValues, Array | None]]:
        index, window, state, old = inputs
        hidden, kept, weight = layer(index, hidden, state, window, old)
        return hidden, (kept, weight)

    windows = jnp.asarray(config.layer_windows, jnp.int32)
    inputs = (jnp.arange(config.num_layers), windows, blocks.states, cache)
    hidden, (kept, stacked) = jax.lax.scan(scanned, hidden, inputs)
    return model.norm(hidden), kept, None if stacked is None else stacked.sum(0)


def _expert_weights(collected: Statistics) -> Float[Array, "B E"] | None:
    """A layer's routing weights, summed over its projections; these may have experts only in other layers,
    and thus fewer columns."""
    sums = [one.weight_BZE.sum(1) for one in collected.values()]
    if not sums:
        return None
    most = max(one.shape[-1] for one in sums)
    return sum(
        (jnp.pad(one, ((0, 0), (0, most - one.shape[-1]))) for one in sums),
        start=jnp.zeros((sums[0].shape[0], most)),
    )


def _visible(
    positions_BT: Int[Array, "B T"], length: int, window: Int[Array, ""] | int
) -> Bool[Array, "B T S"]:
    """Positions up to a token's own, within the layer's window."""
    distance_BTS = positions_BT[..., None] - jnp.arange(length)[None, None]
    limit = jnp.where(jnp.asarray(window) > 0, window, jnp.iinfo(jnp.int32).max)
    return (distance_BTS >= 0) & (distance_BTS < limit)


def attend_slots(
    query_BTNH: Float[Array, "B T N H"],
    kept: SlotValues,
    visible_BTS: Bool[Array, "B T S"],
    cap: float | None = None,
    sinks_N: Float[Array, " N"] | None = None,
) -> Float[Array, "B T N H"]:
    """softmax(q kᵀ / √H) v over the slots; query heads share key/value heads in runs of N / M.

    Args:
      query_BTNH: rotated.
      kept: keys and values of every slot.
      visible_BTS: True where query t sees slot position s.
      cap: of the scores (`soft_cap`).
      sinks_N: of the heads (`softmax`).
    Returns: the values mixed.
    """
    batch, length, heads, size = query_BTNH.shape
    key, value = kept
    kv_heads = key.shape[1]
    group = heads // kv_heads
    query = query_BTNH.reshape(batch, length, kv_heads, group, size).transpose(0, 2, 3, 1, 4)
    query = query.reshape(batch, kv_heads, group * length, size) * size**-0.5
    scores = jnp.einsum("bmxh,bmhs->bmxs", query, key, preferred_element_type=jnp.float32)
    scores = soft_cap(scores, cap).reshape(batch, kv_heads, group, length, -1)
    scores = jnp.where(visible_BTS[:, None, None], scores, MASKED)
    weights = softmax(scores, grouped_sinks(sinks_N, kv_heads, 1, 0, 1)).astype(value.dtype)
    out = jnp.einsum("bmxs,bmsh->bmxh", weights.reshape(batch, kv_heads, group * length, -1), value)
    out = out.reshape(batch, kv_heads, group, length, size).transpose(0, 3, 1, 2, 4)
    return out.reshape(batch, length, heads, size)
