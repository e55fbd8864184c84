"""The training forward over responses to shared prompts: each prompt is computed once for all its samples.

A row holds a prompt and its G responses side by side, [S + G·W] slots. Projections are unaffected; attention
lets each response see its prompt and itself, never its siblings. With G = 16 and prompts as long as responses
that is about half the work of 16 separate rows, forward and backward, with the same values up to rounding.

Letters of this file: P prompts, G samples per prompt (B = P·G), S slots of a prompt, W slots of a response.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from jaxmoe.model.attention import MASKED, AttentionMask, attend, grouped_sinks, soft_cap, softmax
from jaxmoe.model.attention_kernels import Attend
from jaxmoe.model.lora_experts import ExpertCall
from jaxmoe.model.shapes import Array, Float, Int
from jaxmoe.model.transformer import Decoder, Remat


def response_states(
    model: Decoder,
    prompts_PS: Int[Array, "P S"],
    prompt_mask_PS: Int[Array, "P S"],
    responses_BW: Int[Array, "B W"],
    *,
    dtype: DTypeLike = jnp.float32,
    call: ExpertCall = ExpertCall(),  # noqa: B008 - an immutable tuple
    mesh: Mesh | None = None,
    remat: Remat = "none",
    scan_layers: bool = True,
) -> Float[Array, "B W D"]:
    """Final hidden states before each response token: those that predict it, and that a critic reads.

    Args:
      model: merged within the trace.
      prompt_mask_PS: 1 for real tokens.
      dtype: of activations and products.
      call: of the experts.
      mesh: None on one device.
      remat: what the backward pass recomputes.
      scan_layers: compile one block and scan it.
      prompts_PS: padded on the left, so that the last slot is real.
      responses_BW: a prompt's samples adjacent, padded on the right.
    Returns: the state at the position before each response token.
    """
    prompts, slots = prompts_PS.shape
    rows, length = responses_BW.shape
    samples = rows // prompts
    tokens = jnp.concatenate([prompts_PS, responses_BW.reshape(prompts, samples * length)], axis=1)
    first_P = jnp.argmax(prompt_mask_PS > 0, axis=1)
    prompt_positions = jnp.maximum(jnp.arange(slots)[None] - first_P[:, None], 0)
    own = jnp.tile(jnp.arange(1, length + 1), samples)[None]
    positions = jnp.concatenate([prompt_positions, prompt_positions[:, -1:] + own], axis=1)
    if samples == 1:  # an ordinary row: every kernel supports it
        segments = jnp.concatenate([(prompt_mask_PS > 0).astype(jnp.int32), jnp.ones_like(responses_BW)], 1)
        mask: AttentionMask | Attend = AttentionMask(segments, segments)
    else:
        config = model.config
        mask = shared_attention(prompt_mask_PS, samples, length, config.layer_windows, config.attention_cap)
    out = model(
        tokens, positions, mask, dtype=dtype, call=call, mesh=mesh, remat=remat, scan_layers=scan_layers
    )
    width = out.hidden_BTD.shape[-1]
    own_states = out.hidden_BTD[:, slots:].reshape(prompts, samples, length, width)[:, :, :-1]
    last = jnp.broadcast_to(out.hidden_BTD[:, None, slots - 1 : slots], (prompts, samples, 1, width))
    return jnp.concatenate([last, own_states], axis=2).reshape(rows, length, width)


class Packing(NamedTuple):
    """Several responses in each of the G blocks of a prompt.

    Attributes:
      segments: which of a block's responses a slot belongs to, from 1 on; 0 for none.
      positions: position of a slot in its response, from 1 on.
    """

    segments: Int[Array, "P G W"]
    positions: Int[Array, "P G W"]


def packed_states(
    model: Decoder,
    prompts_PS: Int[Array, "P S"],
    prompt_mask_PS: Int[Array, "P S"],
    tokens_PGW: Int[Array, "P G W"],
    packing: Packing,
    *,
    dtype: DTypeLike = jnp.float32,
    mesh: Mesh | None = None,
) -> Float[Array, "P G*W+1 D"]:
    """Final hidden states of a prompt's last token and of each token of the packed responses to it.

    Args:
      model: merged within the trace.
      prompts_PS: padded on the left, so that the last slot is real.
      prompt_mask_PS: 1 for real tokens.
      tokens_PGW: short responses one after the other in G blocks; none is split between two blocks.
      packing: describes the slots of the blocks.
      dtype: of activations and products.
      mesh: None on one device.
    Returns: the prompt's last state, then those of the slots.
    """
    prompts, slots = prompts_PS.shape
    blocks, length = tokens_PGW.shape[1:]
    tokens = jnp.concatenate([prompts_PS, tokens_PGW.reshape(prompts, -1)], axis=1)
    first_P = jnp.argmax(prompt_mask_PS > 0, axis=1)
    prompt_positions = jnp.maximum(jnp.arange(slots)[None] - first_P[:, None], 0)
    own = packing.positions.reshape(prompts, -1)
    positions = jnp.concatenate([prompt_positions, prompt_positions[:, -1:] + own], axis=1)
    config = model.config
    attention = shared_attention(
        prompt_mask_PS, blocks, length, config.layer_windows, config.attention_cap, packing
    )
    out = model(tokens, positions, attention, dtype=dtype, mesh=mesh)
    return out.hidden_BTD[:, slots - 1 :]


def shared_attention(
    prompt_mask_PS: Int[Array, "P S"],
    samples: int,
    length: int,
    windows: Sequence[int],
    cap: float | None = None,
    packing: Packing | None = None,
) -> Attend:
    """Attention of rows [S + G·W]: the prompt causally, each response to the prompt and causally to itself.

    Args:
      prompt_mask_PS: 1 for real tokens.
      samples: G, responses of a prompt.
      length: W, tokens of each response.
      windows: each layer's sliding window in slots, 0 for unlimited.
      cap: of the scores (`soft_cap`).
      packing: of several responses in each of the G; None for one.
    Returns: a function (layer, query, key, value, sinks) -> out.
    """
    slots = prompt_mask_PS.shape[1]
    segments = (prompt_mask_PS > 0).astype(jnp.int32)
    prompt_mask = AttentionMask(segments, segments)
    if packing is None:
        whole = jnp.ones((1, 1, length), jnp.int32)
        packing = Packing(whole, jnp.arange(1, length + 1)[None, None])
    own, place = packing
    now = slots - 1 + place
    apart_S = now[..., None] - jnp.arange(slots)[None, None, None]
    apart_W = place[..., :, None] - place[..., None, :]
    same = own[..., :, None] == own[..., None, :]

    def mix(
        layer: Int[Array, ""] | int, query: Array, key: Array, value: Array, sinks: Array | None = None
    ) -> Array:
        window = jnp.asarray(windows, jnp.int32)[layer]
        limit = jnp.where(window > 0, window, slots + length)
        visible_S = (segments > 0)[:, None, None] & (apart_S < limit)
        visible_W = same & (apart_W >= 0) & (apart_W < limit)
        mask = prompt_mask.dense(window)
        first = attend(query[:, :slots], key[:, :slots], value[:, :slots], mask, cap, sinks)
        prompt = key[:, :slots], value[:, :slots]
        responses = key[:, slots:], value[:, slots:]
        rest = attend_shared(query[:, slots:], prompt, responses, visible_S, visible_W, samples, cap, sinks)
        return jnp.concatenate([first, rest], axis=1)

    return mix


def attend_shared(
    query: Float[Array, "P G*W N H"],
    prompt: tuple[Float[Array, "P S M H"], Float[Array, "P S M H"]],
    own: tuple[Float[Array, "P G*W M H"], Float[Array, "P G*W M H"]],
    visible_S: Array,
    visible_W: Array,
    samples: int,
    cap: float | None = None,
    sinks_N: Float[Array, " N"] | None = None,
) -> Float[Array, "P G*W N H"]:
    """`attend` for responses, whose keys and values are their prompt's and their own.

    Args:
      query: of the responses of each prompt, one after the other.
      prompt: keys and values of the prompt.
      own: keys and values of the responses.
      visible_S: True where response position w sees prompt slot s, [P or 1, G or 1, W, S].
      visible_W: the same within a response, [P or 1, G or 1, W, W].
      samples: G.
      cap: of the scores (`soft_cap`).
      sinks_N: of the heads (`softmax`).
    Returns: the values mixed.
    """
    prompts, joined, heads, size = query.shape
    kv_heads, slots = prompt[0].shape[2], prompt[0].shape[1]
    length, group = joined // samples, heads // kv_heads
    # [P, M, G, N/M, W, H]: rows of one prompt and key head are one product with its keys
    query = query.reshape(prompts, samples, length, kv_heads, group, size).transpose(0, 3, 1, 4, 2, 5)
    query = query * size**-0.5
    by_prompt = query.reshape(prompts, kv_heads, samples * group * length, size)
    by_sample = query.reshape(prompts, kv_heads, samples, group * length, size)
    old_key, old_value = (x.swapaxes(1, 2) for x in prompt)
    key, value = (x.reshape(prompts, samples, length, kv_heads, size).transpose(0, 3, 1, 2, 4) for x in own)
    wide = {"preferred_element_type": jnp.float32}
    shape = (prompts, kv_heads, samples, group, length)
    old = jnp.einsum("pmxh,pmsh->pmxs", by_prompt, old_key, **wide).reshape(*shape, slots)
    old = jnp.where(visible_S[:, None, :, None], soft_cap(old, cap), MASKED)
    new = jnp.einsum("pmgxh,pmgsh->pmgxs", by_sample, key, **wide).reshape(*shape, length)
    new = jnp.where(visible_W[:, None, :, None], soft_cap(new, cap), MASKED)
    sinks = grouped_sinks(sinks_N, kv_heads, 1, 1, 1)
    weights = softmax(jnp.concatenate([old, new], axis=-1), sinks).astype(value.dtype)
    to_prompt = weights[..., :slots].reshape(prompts, kv_heads, -1, slots)
    to_own = weights[..., slots:].reshape(prompts, kv_heads, samples, -1, length)
    out = jnp.einsum("pmxs,pmsh->pmxh", to_prompt, old_value).reshape(*shape, size)
    out = out + jnp.einsum("pmgxs,pmgsh->pmgxh", to_own, value).reshape(*shape, size)
    return out.transpose(0, 2, 4, 1, 3, 5).reshape(prompts, joined, heads, size)
