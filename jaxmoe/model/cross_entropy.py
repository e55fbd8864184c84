"""Masked next-token cross-entropy, and the losses that keep routers balanced.

The balancing losses are functions of `RouterStatistics`, sums over tokens for each sample; here N counts the
samples of a batch (B x Z flattened).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal

from jaxmoe.model.shapes import Array, Float, Int
from jaxmoe.model.transformer import Head


class TokenScores(NamedTuple):
    """The head's scores of given next tokens."""

    logprob_BT: Float[Array, "B T"]
    entropy_BT: Float[Array, "B T"]


def token_scores(
    hidden_BTD: Float[Array, "B T D"],
    head: Head,
    targets_BT: Int[Array, "B T"],
    *,
    chunk: int = 128,
    temperature: float = 1.0,
) -> TokenScores:
    """log p(target) and entropy from hidden states, in chunks, so that [B, T, V] never exists at once.

    The backward pass recomputes each chunk's logits. Chunks cut every row, so that a batch sharded over
    devices stays sharded.

    Args:
      hidden_BTD: final hidden states.
      head: output projection.
      targets_BT: token ids.
      chunk: positions of each row in a chunk; a device with b rows holds 4·b·chunk·V bytes of logits.
      temperature: divides the logits.
    Returns: log-probability and entropy of each position, in nats, float32.
    """
    chunks = _chunks(hidden_BTD, chunk), _chunks(targets_BT, chunk)

    @jax.checkpoint
    def score(hidden_BXD: Array, targets_BX: Array) -> tuple[Array, Array]:
        logits = head.logits(hidden_BXD) / temperature
        norm = jax.nn.logsumexp(logits, axis=-1)
        chosen = jnp.take_along_axis(logits, targets_BX[..., None], axis=-1)[..., 0]
        expected = (jnp.exp(logits - norm[..., None]) * logits).sum(-1)
        return chosen - norm, norm - expected

    _, scores = jax.lax.scan(lambda _, xs: (None, score(*xs)), None, chunks)
    return TokenScores(*(_joined(s, targets_BT.shape[1]) for s in scores))


def _chunks(values_BT: Array, chunk: int) -> Array:
    """[B, T, ..] as [count, B, X, ..], the last chunk padded with 0."""
    batch, length, *rest = values_BT.shape
    chunk = min(chunk, length)
    count = -(-length // chunk)
    filled = jnp.pad(values_BT, [(0, 0), (0, count * chunk - length), *((0, 0) for _ in rest)])
    return filled.reshape(batch, count, chunk, *rest).swapaxes(0, 1)


def _joined(chunks: Array, length: int) -> Array:
    """[count, B, X, ..] as [B, T, ..]."""
    whole = chunks.swapaxes(0, 1)
    return whole.reshape(whole.shape[0], -1, *whole.shape[3:])[:, :length]


def next_token_targets(tokens_BT: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """What each position predicts: the next token; the last position predicts token 0, to be masked."""
    return jnp.pad(tokens_BT[:, 1:], ((0, 0), (0, 1)))


def cross_entropy(
    hidden_BTD: Float[Array, "B T D"],
    head: Head,
    tokens_BT: Int[Array, "B T"],
    loss_mask_BT: Float[Array, "B T"],
    *,
    chunk: int = 128,
    most_targets: int | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Summed −log p of the tokens whose loss mask is 1, each predicted from the position before, and their
    count.

    Args:
      hidden_BTD: final hidden states.
      head: output projection.
      tokens_BT: token ids; token t is predicted from position t − 1.
      chunk: positions of each row whose logits exist at once.
      loss_mask_BT: 1 where token t counts as a target; position 0 has no predecessor and never counts.
      most_targets: upper bound on the targets of a row; logits are then computed at only so many positions of
        each row. The sum is NaN if a row has more after all.
    Returns: the sum in nats, and the number of targets.
    """
    targets_BT = next_token_targets(tokens_BT)
    weight_BT = jnp.pad(loss_mask_BT[:, 1:], ((0, 0), (0, 1))).astype(jnp.float32)
    count = weight_BT.sum()
    if most_targets is not None and most_targets < tokens_BT.shape[1]:
        fits = ((weight_BT > 0).sum(1) <= most_targets).all()
        weight_BT, places = jax.lax.top_k(weight_BT, most_targets)
        hidden_BTD = jnp.take_along_axis(hidden_BTD, places[..., None], axis=1)
        targets_BT = jnp.take_along_axis(targets_BT, places, axis=1)
        weight_BT = jnp.where(fits, weight_BT, jnp.nan)
    return summed_loss(hidden_BTD, head, targets_BT, weight_BT, chunk=chunk), count


def summed_loss(
    hidden_BTD: Float[Array, "B T D"],
    head: Head,
    targets_BT: Int[Array, "B T"],
    weight_BT: Float[Array, "B T"],
    *,
    chunk: int = 128,
) -> Float[Array, ""]:
    """Σ weight · −log p(target), in chunks; the forward pass already computes each chunk's gradient.

    The gradient of a sum needs nothing that comes later, so a chunk's logits are computed once.
    `token_scores`, whose caller weights every position afterwards, computes them twice. This function can be
    differentiated once, in reverse; targets and weights are constants.

    Args:
      hidden_BTD: final hidden states.
      head: output projection.
      targets_BT: token ids.
      weight_BT: of each position.
      chunk: positions of each row in a chunk; a device with b rows holds 4·b·chunk·V bytes of logits.
    Returns: the sum in nats, float32.
    Reference: Liger Kernel (arXiv:2410.10989) fuses them in the same way.
    """
    total = jax.custom_vjp(partial(_sum_of_chunks, head))
    total.defvjp(partial(_sum_and_gradient, head), _scaled_gradient, symbolic_zeros=True)
    chunks = (_chunks(x, chunk) for x in (hidden_BTD, targets_BT, weight_BT))
    return total(head.kernel_DV, *chunks)


def _loss_of(head: Head, kernel_DV: Array, hidden_BXD: Array, targets_BX: Array, weight_BX: Array) -> Array:
    logits = head._replace(kernel_DV=kernel_DV).logits(hidden_BXD)
    chosen = jnp.take_along_axis(logits, targets_BX[..., None], axis=-1)[..., 0]
    return ((jax.nn.logsumexp(logits, axis=-1) - chosen) * weight_BX).sum()


def _sum_of_chunks(head: Head, kernel_DV: Array, *chunks: Array) -> Array:
    def add(total: Array, chunk: tuple[Array, ...]) -> tuple[Array, None]:
        return total + _loss_of(head, kernel_DV, *chunk), None

    return jax.lax.scan(add, jnp.zeros((), chunks[-1].dtype), chunks)[0]


def _sum_and_gradient(
    head: Head, kernel_DV: CustomVJPPrimal, *chunks: CustomVJPPrimal
) -> tuple[Array, tuple[Array | None, Array]]:
    """The sum, and its gradients to the kernel (None where it is frozen) and to the chunks' hidden states."""
    kernel, trained = kernel_DV.value, kernel_DV.perturbed
    gradient_of = jax.value_and_grad(partial(_loss_of, head), argnums=(0, 1) if trained else (1,))

    def add(sums: tuple[Array, Array | None], chunk: tuple[Array, ...]):
        total, kernel_gradient = sums
        loss, gradients = gradient_of(kernel, *chunk)
        if kernel_gradient is not None:
            kernel_gradient += gradients[0].astype(kernel_gradient.dtype)
        return (total + loss, kernel_gradient), gradients[-1]

    values = [chunk.value for chunk in chunks]
    total = jnp.zeros((), values[-1].dtype)
    begin = total, jnp.zeros(kernel.shape, total.dtype) if trained else None
    (total, kernel_gradient), hidden_gradients = jax.lax.scan(add, begin, tuple(values))
    if kernel_gradient is not None:
        kernel_gradient = kernel_gradient.astype(kernel.dtype)
    return total, (kernel_gradient, hidden_gradients)


def _scaled_gradient(
    gradients: tuple[Array | None, Array], cotangent: Array
) -> tuple[Array | None, Array, None, None]:
    kernel, hidden = (None if x is None else x * cotangent.astype(x.dtype) for x in gradients)
    assert hidden is not None
    return kernel, hidden, None, None
