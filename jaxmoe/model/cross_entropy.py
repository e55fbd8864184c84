"""Masked next-token cross-entropy, and the losses that keep routers balanced.

The balancing losses are functions of `RouterStatistics`, sums over tokens for each sample; here N counts the
samples of a batch (B x Z flattened).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmoe.model.shapes import Array, Float, Int
from jaxmoe.model.transformer import Head


class TokenScores(NamedTuple):
    """What the head says of given next tokens."""

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

    The backward pass computes each chunk's logits again. Chunks cut every row, so that a batch split over
    devices stays split.

    Args:
      hidden_BTD: final hidden states.
      head: output projection.
      targets_BT: token ids.
      chunk: positions of each row in a chunk; a device with b rows holds 4·b·chunk·V bytes of logits.
      temperature: divides the logits.
    Returns: log-probability and entropy of each position, in nats, float32.
    """
    batch, length, width = hidden_BTD.shape
    chunk = min(chunk, length)
    count = -(-length // chunk)
    tail = count * chunk - length
    hidden = (
        jnp.pad(hidden_BTD, ((0, 0), (0, tail), (0, 0))).reshape(batch, count, chunk, width).swapaxes(0, 1)
    )
    targets = jnp.pad(targets_BT, ((0, 0), (0, tail))).reshape(batch, count, chunk).swapaxes(0, 1)

    @jax.checkpoint
    def score(hidden_BXD: Array, targets_BX: Array) -> tuple[Array, Array]:
        logits = head.logits(hidden_BXD) / temperature
        norm = jax.nn.logsumexp(logits, axis=-1)
        chosen = jnp.take_along_axis(logits, targets_BX[..., None], axis=-1)[..., 0]
        expected = (jnp.exp(logits - norm[..., None]) * logits).sum(-1)
        return chosen - norm, norm - expected

    _, scores = jax.lax.scan(lambda _, xs: (None, score(*xs)), None, (hidden, targets))
    return TokenScores(*(s.swapaxes(0, 1).reshape(batch, -1)[:, :length] for s in scores))


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
      most_targets: no row has more of them; logits are then computed at so many positions of each row only.
        The sum is NaN where a row has more after all.
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
    scores = token_scores(hidden_BTD, head, targets_BT, chunk=chunk)
    return -(scores.logprob_BT * weight_BT).sum(), count
