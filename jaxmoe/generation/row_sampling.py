"""The next token of rows that each have their own settings and random stream.

`jaxmoe.generation.sampling` draws for a batch under one setting, from one key. Here each row has its own
temperature, top-k, top-p and seed, so that one compiled program serves any mixture, and what a row gets does
not depend on its neighbors.

Letters of this file: Y blocks of the vocabulary, X places in a block.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmoe.generation.sampling import blocks_of, greedy, log_probability, nucleus_mass
from jaxmoe.model.shapes import Array, Bool, Float, Int

# Number of refused draws after which a row takes its likeliest token. A draw is refused with a probability of
# at most 1 − p and cuts the rest in half on average, so only a nucleus of one token ever reaches this.
_ATTEMPTS = 64


class RowSampling(NamedTuple):
    """How each row chooses.

    Attributes:
      temperature_B: 0 takes the likeliest token.
      top_k_B: only the k likeliest tokens; 0 is no limit. Equally likely ones come in together.
      top_p_B: only the nucleus of what is left; 1 is no limit.
      seed_B: of the row's random stream.
    """

    temperature_B: Float[Array, " B"]
    top_k_B: Int[Array, " B"]
    top_p_B: Float[Array, " B"]
    seed_B: Int[Array, " B"]


class Chosen(NamedTuple):
    """Tokens, and how likely they were.

    Attributes:
      logprobs_B: under the model as it is (temperature 1, whole vocabulary).
      drawn_logprobs_B: of the draw, after temperature, top-k and top-p; None unless asked for.
    """

    tokens_B: Int[Array, " B"]
    logprobs_B: Float[Array, " B"]
    drawn_logprobs_B: Float[Array, " B"] | None = None


def choose(
    logits_BV: Float[Array, "B V"],
    settings: RowSampling,
    steps_B: Int[Array, " B"],
    *,
    score_draws: bool = False,
) -> Chosen:
    """One token a row.

    Args:
      logits_BV: of the next token.
      settings: temperature, top-k, top-p and seed of each row.
      steps_B: how many tokens the row has drawn before; with the seed it names the random numbers.
      score_draws: also take the log-probability with which each token was drawn.
    Returns: tokens and their log-probabilities.
    """
    logits_BV = logits_BV.astype(jnp.float32)
    greedy_B = greedy(logits_BV)
    sampled_B = settings.temperature_B > 0
    tokens_B = jax.lax.cond(
        jnp.any(sampled_B),
        lambda: jnp.where(sampled_B, _draw_within(logits_BV, settings, steps_B, greedy_B), greedy_B),
        lambda: greedy_B,
    )
    drawn_B = drawn_log_probability(logits_BV, tokens_B, settings) if score_draws else None
    return Chosen(tokens_B, log_probability(logits_BV, tokens_B), drawn_B)


def drawn_log_probability(
    logits_BV: Float[Array, "B V"], tokens_B: Int[Array, " B"], settings: RowSampling
) -> Float[Array, " B"]:
    """log of the probability with which `choose` draws a token; see `sampling.sampled_log_probability`.

    Args:
      logits_BV: of the next token.
      tokens_B: drawn with the same settings; for any other token the number means nothing.
      settings: a row that takes its likeliest token draws it with probability 1.
    Returns: in nats, float32.
    """
    sampled_B = settings.temperature_B > 0
    weights_BXY, scaled_BV = _weights(logits_BV.astype(jnp.float32), settings)
    mass_B = _mass(weights_BXY)
    nucleus_B = jax.lax.cond(
        jnp.any(sampled_B & (settings.top_p_B < 1)),
        lambda: jnp.where(settings.top_p_B < 1, nucleus_mass(weights_BXY, settings.top_p_B * mass_B), mass_B),
        lambda: mass_B,
    )
    chosen_B = jnp.take_along_axis(scaled_BV, tokens_B[:, None], axis=-1)[:, 0]
    return jnp.where(sampled_B, chosen_B - jnp.max(scaled_BV, axis=-1) - jnp.log(nucleus_B), 0.0)


def _weights(logits_BV: Array, settings: RowSampling) -> tuple[Array, Array]:
    """Weights [B, X, Y] of the tokens that top-k leaves, and the logits divided by the temperature."""
    temperature_B = jnp.where(settings.temperature_B > 0, settings.temperature_B, 1.0)
    scaled_BV = logits_BV / temperature_B[:, None]
    weights_BXY = blocks_of(scaled_BV)
    limited_B = (settings.top_k_B > 0) & (settings.temperature_B > 0)
    weights_BXY = jax.lax.cond(
        jnp.any(limited_B), lambda w: _k_largest(w, settings.top_k_B, limited_B), lambda w: w, weights_BXY
    )
    return weights_BXY, scaled_BV


def _draw_within(logits_BV: Array, settings: RowSampling, steps_B: Array, greedy_B: Array) -> Array:
    """Draws by rejection (see `sampling`): a token is kept if what is likelier weighs less than the limit."""
    weights_BXY, _ = _weights(logits_BV, settings)
    limit_B = settings.top_p_B * _mass(weights_BXY)
    free_B = (settings.top_p_B >= 1) | (settings.temperature_B <= 0)

    def draw(attempt: Array, weights_BXY: Array) -> Array:
        chance_B2 = jax.vmap(
            lambda seed, step: jax.random.uniform(
                jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), attempt), (2,)
            )
        )(settings.seed_B, steps_B)
        return _inverse(weights_BXY, chance_B2)

    def likelier(tokens_B: Array) -> Array:
        flat_BV = weights_BXY.reshape(weights_BXY.shape[0], -1)
        floor_B = jnp.take_along_axis(flat_BV, tokens_B[:, None], axis=-1)
        return jnp.where(weights_BXY > floor_B[..., None], weights_BXY, 0.0)

    def refused(above_BXY: Array) -> Bool[Array, " B"]:
        return (_mass(above_BXY) >= limit_B) & ~free_B

    def again(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        attempt, tokens_B, refused_B = state
        tokens_B = jnp.where(refused_B, draw(attempt, likelier(tokens_B)), tokens_B)
        return attempt + 1, tokens_B, refused_B & refused(likelier(tokens_B))

    tokens_B = draw(jnp.int32(0), weights_BXY)
    start = (jnp.int32(1), tokens_B, refused(likelier(tokens_B)))
    end = jax.lax.while_loop(lambda state: jnp.any(state[2]) & (state[0] < _ATTEMPTS), again, start)
    return jnp.where(end[2], greedy_B, end[1])


def _mass(weights_BXY: Array) -> Float[Array, " B"]:
    return jnp.sum(jnp.sum(weights_BXY, axis=1), axis=-1)


def _k_largest(weights_BXY: Array, k_B: Array, limited_B: Array) -> Array:
    """Weights below the k-th largest of a limited row become 0; positive floats are ordered as their bits."""

    def at_least(bits_B: Array) -> Array:
        floor_B = jax.lax.bitcast_convert_type(bits_B, jnp.float32)
        return jnp.sum(weights_BXY >= floor_B[:, None, None], axis=(1, 2))

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low_B, high_B = ends
        middle_B = low_B + (high_B - low_B + 1) // 2
        enough_B = at_least(middle_B) >= k_B
        return jnp.where(enough_B, middle_B, low_B), jnp.where(enough_B, high_B, middle_B - 1)

    zero_B = jnp.zeros_like(k_B)
    # the likeliest token weighs 1
    one_B = zero_B + jax.lax.bitcast_convert_type(jnp.float32(1.0), jnp.int32)
    bits_B = jax.lax.fori_loop(0, 31, halve, (zero_B, one_B))[0]
    floor_B = jnp.where(limited_B, jax.lax.bitcast_convert_type(bits_B, jnp.float32), 0.0)
    return jnp.where(weights_BXY >= floor_B[:, None, None], weights_BXY, 0.0)


def _inverse(weights_BXY: Array, chance_B2: Float[Array, "B 2"]) -> Int[Array, " B"]:
    """The token at which the running sum passes a uniform number: first of blocks, then of places in one."""

    def pick(weights_BC: Array, chance_B: Array) -> Array:
        running_BC = jnp.cumsum(weights_BC, axis=-1)
        passed_BC = running_BC > (chance_B * running_BC[:, -1])[:, None]
        # rounding may leave none; the last weight that is not 0 then ends the sum
        last_B = weights_BC.shape[-1] - 1 - jnp.argmax(weights_BC[:, ::-1] > 0, axis=-1)
        return jnp.minimum(jnp.where(jnp.any(passed_BC, -1), jnp.argmax(passed_BC, axis=-1), last_B), last_B)

    block_B = pick(jnp.sum(weights_BXY, axis=1), chance_B2[:, 0])
    inside_BX = jnp.take_along_axis(weights_BXY, block_B[:, None, None], axis=-1)[..., 0]
    place_B = pick(inside_BX, chance_B2[:, 1])
    return (place_B * weights_BXY.shape[-1] + block_B).astype(jnp.int32)
