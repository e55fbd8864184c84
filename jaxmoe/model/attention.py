"""Scaled dot-product attention with grouped heads, segments and sliding windows."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmoe.model.shapes import Array, Bool, Float, Int

# Score of a pair that may not attend: finite, so that a row without any key stays finite.
MASKED = -1e30


def soft_cap(x: Float[Array, "*S"], cap: float | None) -> Float[Array, "*S"]:
    """c · tanh(x / c): within ±c, and close to x where x is small (Gemma 2, arXiv:2408.00118, section 2).

    Args:
      x: scores.
      cap: c; None leaves them as they are.
    Returns: of x's shape and dtype.

    >>> [round(float(soft_cap(jnp.float32(x), 30.0)), 3) for x in (1.0, 100.0)]
    [1.0, 29.924]
    """
    return x if cap is None else cap * jnp.tanh(x / cap)


def softmax(scores: Float[Array, "*B S"], sink: Float[Array, "*B"] | None = None) -> Float[Array, "*B S"]:
    """exp sᵢ / (Σⱼ exp sⱼ + exp sink), over the last axis; without a sink the usual softmax.

    A sink takes a share of the attention and contributes nothing, so that a head may attend to nothing (Xiao
    et al. 2023, arXiv:2309.17453; GPT-OSS learns one logit per head).

    Args:
      scores: of the keys.
      sink: broadcasts over the other axes of scores.
    Returns: of scores' shape and dtype.

    >>> [round(float(w), 3) for w in softmax(jnp.zeros(2), jnp.float32(0.0))]
    [0.333, 0.333]
    """
    if sink is None:
        return jax.nn.softmax(scores, axis=-1)
    sink = sink.astype(scores.dtype)[..., None]
    top = jax.lax.stop_gradient(jnp.maximum(scores.max(-1, keepdims=True), sink))
    weights = jnp.exp(scores - top)
    return weights / (weights.sum(-1, keepdims=True) + jnp.exp(sink - top))


def grouped_sinks(
    sinks_N: Float[Array, " N"] | None, kv_heads: int, before: int, between: int, behind: int
) -> Array | None:
    """A head's sink, shaped to go with scores [.., M, .., N / M, ..].

    Args:
      sinks_N: None without sinks.
      kv_heads: M.
      before, between, behind: axes of the scores before M, between M and N / M, and after, except the last.
    Returns: the same numbers, with axes of size 1 in the other places.
    """
    if sinks_N is None:
        return None
    group = sinks_N.shape[0] // kv_heads
    return sinks_N.reshape((1,) * before + (kv_heads,) + (1,) * between + (group,) + (1,) * behind)


class AttentionMask(NamedTuple):
    """Who may attend to whom: a query at slot t sees keys at slots s <= t of its own segment.

    Slots count positions of the buffer, not of the text, so packed and padded rows need no special case.

    Attributes:
      query_segments_BT, key_segments_BS: pairs attend only where these are equal; padding keys are 0.
    """

    query_segments_BT: Int[Array, "B T"]
    key_segments_BS: Int[Array, "B S"]

    def dense(self, window: Int[Array, ""] | int = 0) -> Bool[Array, "B T S"]:
        """The mask as an array; `window` > 0 limits how far back a query sees (itself included)."""
        query_T = jnp.arange(self.query_segments_BT.shape[1])
        key_S = jnp.arange(self.key_segments_BS.shape[1])
        distance_TS = query_T[:, None] - key_S[None, :]
        limit = jnp.where(jnp.asarray(window) > 0, window, key_S.shape[0] + 1)
        near_TS = (distance_TS >= 0) & (distance_TS < limit)
        same_BTS = self.query_segments_BT[:, :, None] == self.key_segments_BS[:, None, :]
        return same_BTS & near_TS[None]


def attend(
    query_BTNH: Float[Array, "B T N H"],
    key_BSMH: Float[Array, "B S M H"],
    value_BSMH: Float[Array, "B S M H"],
    mask_BTS: Bool[Array, "B T S"],
    cap: float | None = None,
    sinks_N: Float[Array, " N"] | None = None,
) -> Float[Array, "B T N H"]:
    """softmax(q kᵀ / √H) v, softmax in float32; query heads share key/value heads in runs of N / M.

    Plain products on [B, M, (N/M)·T, H]: on CPU about twice as fast, forward and backward, as
    `jax.nn.dot_product_attention`. (B and M stay two axes: the TPU compiler crashes on their product.)

    Args:
      query_BTNH, key_BSMH, value_BSMH: with the rotary embedding already applied.
      mask_BTS: True where query t sees key s.
      cap: of the scores (`soft_cap`).
      sinks_N: of the heads (`softmax`).
    Returns: the mixed values for each query.
    """
    batch, length, heads, size = query_BTNH.shape
    kv_heads = key_BSMH.shape[2]
    group = heads // kv_heads
    grouped = query_BTNH.reshape(batch, length, kv_heads, group, size).transpose(0, 2, 3, 1, 4)
    query = grouped.reshape(batch, kv_heads, group * length, size) * size**-0.5
    key, value = key_BSMH.swapaxes(1, 2), value_BSMH.swapaxes(1, 2)
    scores = jnp.einsum("bmth,bmsh->bmts", query, key, preferred_element_type=jnp.float32)
    scores = soft_cap(scores, cap).reshape(batch, kv_heads, group, length, -1)
    scores = jnp.where(mask_BTS[:, None, None], scores, MASKED)
    weights = softmax(scores, grouped_sinks(sinks_N, kv_heads, 1, 0, 1)).astype(value.dtype)
    weights = weights.reshape(batch, kv_heads, group * length, -1)
    out = jnp.einsum("bmts,bmsh->bmth", weights, value)
    out = out.reshape(batch, kv_heads, group, length, size).transpose(0, 3, 1, 2, 4)
    return out.reshape(batch, length, heads, size)


def attend_cached(
    query_BTNH: Float[Array, "B T N H"],
    prompt: tuple[Float[Array, "P M S H"], Float[Array, "P M S H"]],
    new: tuple[Float[Array, "B M W H"], Float[Array, "B M W H"]],
    visible_PS: Bool[Array, "P S"],
    visible_W: Bool[Array, " W"],
    cap: float | None = None,
    sinks_N: Float[Array, " N"] | None = None,
) -> Float[Array, "B T N H"]:
    """`attend` for one query per row (T = 1), with keys and values in two places: its prompt's and its own.

    Rows are in runs of B / P that continue the same prompt: their queries meet its keys in one product, so a
    prompt is read once, however many samples continue it.

    Args:
      query_BTNH: one query per row, T = 1.
      prompt: keys and values of the P prompts.
      new: keys and values of each row's own tokens.
      visible_PS: True where a prompt's slot is seen.
      visible_W: True where one of the row's own slots is seen.
      cap: of the scores (`soft_cap`).
      sinks_N: of the heads (`softmax`).
    Returns: the values mixed.
    """
    (prompt_key, prompt_value), (key, value) = prompt, new
    prompts, kv_heads, slots, size = prompt_key.shape
    batch, _, heads, _ = query_BTNH.shape
    samples, group = batch // prompts, heads // kv_heads
    query = query_BTNH.reshape(prompts, samples, kv_heads, group, size) * size**-0.5
    by_prompt = query.swapaxes(1, 2).reshape(prompts, kv_heads, samples * group, size)
    wide = {"preferred_element_type": jnp.float32}
    old_scores = jnp.einsum("pmxh,pmsh->pmxs", by_prompt, prompt_key, **wide)
    old_scores = jnp.where(visible_PS[:, None, None], soft_cap(old_scores, cap), MASKED)
    old_scores = old_scores.reshape(prompts, kv_heads, samples, group, slots).swapaxes(1, 2)
    query = query.reshape(batch, kv_heads, group, size)
    scores = jnp.einsum("bmgh,bmwh->bmgw", query, key, **wide)
    scores = jnp.where(visible_W[None, None, None], soft_cap(scores, cap), MASKED)
    joint = jnp.concatenate([old_scores.reshape(batch, kv_heads, group, slots), scores], axis=-1)
    weights = softmax(joint, grouped_sinks(sinks_N, kv_heads, 1, 0, 0)).astype(value.dtype)
    old_weights = weights[..., :slots].reshape(prompts, samples, kv_heads, group, slots).swapaxes(1, 2)
    old_weights = old_weights.reshape(prompts, kv_heads, samples * group, slots)
    old = jnp.einsum("pmxs,pmsh->pmxh", old_weights, prompt_value)
    old = old.reshape(prompts, kv_heads, samples, group, size).swapaxes(1, 2)
    own = jnp.einsum("bmgw,bmwh->bmgh", weights[..., slots:], value)
    return (old.reshape(own.shape) + own).reshape(query_BTNH.shape)
