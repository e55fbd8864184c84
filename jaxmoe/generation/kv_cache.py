"""Keys and values of texts in progress, and the decoder's step by one token.

A prompt's keys and values are computed once, held once, and read by all G samples that continue it. Each
sample writes its own tokens to slots of its own.

Letters of this file: P prompts, G samples per prompt (B = P·G rows, those of a prompt adjacent), S slots of a
prompt, W slots for new tokens.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from jaxmoe.model.attention import attend_cached
from jaxmoe.model.layers import rotations
from jaxmoe.model.lora_experts import ExpertCall
from jaxmoe.model.mesh import row_axes
from jaxmoe.model.shapes import Array, Bool, Float, Int, PyTree
from jaxmoe.model.transformer import Decoder, KeyValues


class KVCache(NamedTuple):
    """What decoding has seen: prompts, and the tokens written since.

    Unrolled, `prompt` and `new` are tuples with one entry per layer; scanned, single ones with a leading [L].
    The slot axis comes after the heads but before the size of a head, [.., M, S, H], so that the products
    need no transposes.

    Attributes:
      prompt: KeyValues [P, M, S, H].
      new: KeyValues [B, M, W, H]; slots from `length` on may hold anything.
      prompt_mask_PS: 1 where a prompt's slot holds a token.
      length: tokens written by every sample so far.
    """

    prompt: PyTree
    new: PyTree
    prompt_mask_PS: Int[Array, "P S"]
    length: Int[Array, ""]


def start(
    kept: KeyValues,
    prompt_mask_PS: Int[Array, "P S"],
    samples: int,
    slots: int,
    *,
    unrolled: bool,
    mesh: Mesh | None = None,
) -> KVCache:
    """The cache for prompts that the decoder has just read.

    Args:
      prompt_mask_PS: 1 for real tokens.
      kept: keys and values [L, P, S, M, H] from `Decoder(..., keep=True)`.
      samples: continuations of each prompt.
      slots: room for new tokens.
      unrolled: one buffer per layer, never copied, fastest on CPU; else stacked buffers for a scan over the
        layers, which compiles faster and reads the stacked weights where they are.
      mesh: rows are split over data and fsdp, heads over tensor where it divides them.
    Returns: the cache, its new tokens' part empty.
    """
    layers, prompts, _, heads, size = kept.key_BSMH.shape
    prompt = KeyValues(*(_place(x.swapaxes(2, 3), mesh) for x in kept))
    empty = jnp.zeros((layers, prompts * samples, heads, slots, size), kept.key_BSMH.dtype)
    new = KeyValues(_place(empty, mesh), _place(empty, mesh))
    if unrolled:
        prompt, new = (
            tuple(jax.tree.map(lambda x, i=i: x[i], part) for i in range(layers)) for part in (prompt, new)
        )
    return KVCache(prompt, new, prompt_mask_PS, jnp.zeros((), jnp.int32))


def _place(x: Array, mesh: Mesh | None) -> Array:
    if mesh is None:
        return x
    rows = row_axes(mesh, x.shape[1])
    head_axis = None if x.shape[2] % mesh.shape["tensor"] else "tensor"
    return jax.lax.with_sharding_constraint(
        x, NamedSharding(mesh, PartitionSpec(None, rows, head_axis, None, None))
    )


class Blocks(NamedTuple):
    """The decoder's blocks, ready for steps: one state per layer, or (scanned) one with a leading [L]."""

    definition: nnx.GraphDef
    states: PyTree


def blocks(model: Decoder, *, unrolled: bool) -> Blocks:
    """To be called before the loop over steps: inside it, a layer's weights would be copied at every step.

    Args:
      model: its layers are to be run one step at a time.
      unrolled: as for the cache.
    Returns: the layers' weights, one entry per layer or stacked.
    """
    definition, stacked = nnx.split(model.blocks)
    if not unrolled:
        return Blocks(definition, stacked)
    count = model.config.num_layers
    return Blocks(definition, tuple(jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(count)))


def step(
    model: Decoder,
    blocks: Blocks,
    tokens_B: Int[Array, " B"],
    positions_B: Int[Array, " B"],
    cache: KVCache,
    *,
    dtype: DTypeLike = jnp.float32,
    call: ExpertCall = ExpertCall(),  # noqa: B008 - an immutable tuple
) -> tuple[Float[Array, "B D"], KVCache]:
    """Reads one token per row and returns its final hidden state, and the cache with its keys and values.

    Args:
      model: merged within the trace.
      blocks: from `blocks`.
      tokens_B: the last token of each row.
      positions_B: its position in its text.
      cache: of the tokens before.
      dtype: of activations and products.
      call: of the experts.
    Returns: the hidden states and the cache.
    """
    config = model.config
    turns = rotations(config, positions_B[:, None], dtype)
    hidden = model.embed(tokens_B, dtype)[:, None]

    def layer(index, hidden, state, window, prompt, write):
        visible_PS, visible_W = _visible(cache, _slots(cache.new), window)

        def mixer(query, key, value, sinks):
            new, kept = write(KeyValues(key.swapaxes(1, 2), value.swapaxes(1, 2)))
            cap = config.attention_cap
            return attend_cached(query, prompt, new, visible_PS, visible_W, cap, sinks), kept

        hidden, _, kept = nnx.merge(blocks.definition, state)(hidden, turns(index), mixer, call)
        return hidden, kept

    if isinstance(blocks.states, tuple):
        layers = []
        parts = zip(config.layer_windows, blocks.states, cache.prompt, cache.new, strict=True)
        for index, (window, state, prompt, new) in enumerate(parts):

            def write(token, new=new):
                updated = _update(new, token, (0, 0, cache.length, 0))
                return updated, updated

            hidden, updated = layer(index, hidden, state, window, prompt, write)
            layers.append(updated)
        new = tuple(layers)
    else:

        def scanned(carry, inputs):
            hidden, new = carry
            index, window, state, prompt = inputs

            def write(token):
                token = jax.tree.map(lambda x: x[None], token)
                updated = _update(new, token, (index, 0, 0, cache.length, 0))
                here = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), updated)
                return here, updated

            return layer(index, hidden, state, window, prompt, write), None

        windows = jnp.asarray(config.layer_windows, jnp.int32)
        inputs = (jnp.arange(config.num_layers), windows, blocks.states, cache.prompt)
        (hidden, new), _ = jax.lax.scan(scanned, (hidden, cache.new), inputs)
    return model.norm(hidden)[:, 0], cache._replace(new=new, length=cache.length + 1)


def _slots(new: PyTree) -> int:
    return jax.tree.leaves(new)[0].shape[-2]


def _visible(
    cache: KVCache, slots: int, window: Int[Array, ""] | int
) -> tuple[Bool[Array, "P S"], Bool[Array, " W"]]:
    """Which slots the token at slot S + length sees: real ones up to itself, within the layer's window."""
    length = cache.prompt_mask_PS.shape[1]
    here = length + cache.length
    limit = jnp.where(jnp.asarray(window) > 0, window, length + slots)
    prompt_S, new_W = jnp.arange(length), length + jnp.arange(slots)
    near_S = here - prompt_S < limit
    return (cache.prompt_mask_PS > 0) & near_S[None], (new_W <= here) & (here - new_W < limit)


def _update(buffers: KeyValues, token: KeyValues, where: tuple[Int[Array, ""] | int, ...]) -> KeyValues:
    start = [jnp.asarray(place, jnp.int32) for place in where]  # of one type, also in 64-bit mode
    return KeyValues(
        *(jax.lax.dynamic_update_slice(b, t, start) for b, t in zip(buffers, token, strict=True))
    )
