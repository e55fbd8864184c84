"""Token -> expert weights, and statistics of a router, summed for each sample.

The balancing losses and the routing telemetry need nothing but these sums, so no [.., T, E] array leaves a
layer.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmoe.model.config import ExpertConfig
from jaxmoe.model.shapes import Array, Float

# Logit of an expert that a layer does not have: its softmax is exactly 0 in float32.
ABSENT = -1e30


class RouterStatistics(NamedTuple):
    """What one projection's router did, summed over the counted tokens of each of the B x Z samples."""

    weight_BZE: Float[Array, "B Z E"]  # routing weight as applied
    probability_BZE: Float[Array, "B Z E"]  # softmax before any truncation
    chosen_BZE: Float[Array, "B Z E"]  # tokens that chose the expert (dense routing: as their first)
    z_square_BZ: Float[Array, "B Z"]  # squared log-sum-exp of the logits
    entropy_BZ: Float[Array, "B Z"]  # of the applied weights, in nats


def dense(logits_E: Float[Array, "... E"]) -> Float[Array, "... E"]:
    """ω = softmax(logits), in float32 (LoRAMoE, arXiv:2312.09979)."""
    return jax.nn.softmax(logits_E.astype(jnp.float32), axis=-1)


def top_k(logits_E: Float[Array, "... E"], k: int) -> Float[Array, "... E"]:
    """Softmax over the k largest logits, 0 elsewhere; of equal logits the lower index wins.

    k = E is `dense`; k = 1 gives the best expert weight 1.

    Args:
      logits_E: of the router.
      k: experts chosen.
    Returns: weights that sum to 1.
    Raises: ValueError if k lies outside 1..E.
    """
    experts = logits_E.shape[-1]
    if not 1 <= k <= experts:
        raise ValueError(f"top_k must lie in 1..{experts}; got {k} (experts.top_k)")
    _, chosen = jax.lax.top_k(logits_E.astype(jnp.float32), k)
    kept = jax.nn.one_hot(chosen, experts, dtype=jnp.float32).sum(-2)
    return dense(jnp.where(kept > 0, logits_E.astype(jnp.float32), ABSENT))


def top_p(logits_E: Float[Array, "... E"], p: float) -> Float[Array, "... E"]:
    """Softmax over the fewest likeliest experts whose probabilities sum to at least p, 0 elsewhere.

    p = 1 is `dense`; p -> 0 gives the best expert weight 1.

    Args:
      logits_E: of the router.
      p: probability mass, in (0, 1].
    Returns: weights that sum to 1.
    """
    order = jnp.argsort(logits_E.astype(jnp.float32), axis=-1, descending=True)
    ordered = jnp.take_along_axis(dense(logits_E), order, axis=-1)
    before = jnp.cumsum(ordered, axis=-1) - ordered
    kept = jnp.take_along_axis(before < p, jnp.argsort(order, axis=-1), axis=-1)
    return dense(jnp.where(kept, logits_E.astype(jnp.float32), ABSENT))


def route(logits_E: Float[Array, "... E"], config: ExpertConfig) -> Float[Array, "... E"]:
    """Expert weights under the configured routing; they sum to 1 (under "none" each is 1).

    Args:
      logits_E: of the router.
      config: routing, and its k or p.
    Returns: weights of the experts.
    """
    match config.routing:
        case "dense":
            return dense(logits_E)
        case "top_k":
            return top_k(logits_E, min(config.top_k, logits_E.shape[-1]))
        case "top_p":
            return top_p(logits_E, config.top_p)
        case "none":
            return jnp.ones_like(logits_E, dtype=jnp.float32)


def statistics(
    logits_BTE: Float[Array, "B T E"],
    weight_BTE: Float[Array, "B T E"],
    samples_BTZ: Float[Array, "B T Z"],
    config: ExpertConfig,
) -> RouterStatistics:
    """Sums over tokens, by sample.

    Args:
      logits_BTE: of the router.
      config: routing.
      weight_BTE: applied weights, in the dtype in which they were applied. As in the original code their
        sum is rounded to it too, which under bfloat16 moves the balancing constraint by about 0.6 %.
      samples_BTZ: 1 where token t counts for sample z of its row.
    Returns: the sums over the tokens of each sample.
    """
    applied = weight_BTE.dtype
    logits_BTE = logits_BTE.astype(jnp.float32)
    weight_BTE = weight_BTE.astype(jnp.float32)
    if config.routing in ("top_k", "top_p"):
        chosen_BTE = (weight_BTE > 0).astype(jnp.float32)
    else:
        chosen_BTE = jax.nn.one_hot(jnp.argmax(logits_BTE, -1), logits_BTE.shape[-1], dtype=jnp.float32)

    def by_sample(values_BTX):
        return jnp.einsum("BTZ,BTX->BZX", samples_BTZ, values_BTX)

    z_BT = jax.nn.logsumexp(logits_BTE, axis=-1)
    entropy_BT = -jnp.sum(weight_BTE * jnp.log(jnp.maximum(weight_BTE, 1e-30)), axis=-1)
    return RouterStatistics(
        weight_BZE=by_sample(weight_BTE).astype(applied).astype(jnp.float32),
        probability_BZE=by_sample(dense(logits_BTE)),
        chosen_BZE=by_sample(chosen_BTE),
        z_square_BZ=by_sample(z_BT[..., None] ** 2)[..., 0],
        entropy_BZ=by_sample(entropy_BT[..., None])[..., 0],
    )
