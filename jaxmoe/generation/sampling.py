"""Choosing the next token: greedy, temperature, top-k, top-p, as pure functions of the logits.

No function sorts the vocabulary. A nucleus is sampled by rejection: draw a token and keep it if the mass of
the strictly likelier ones is below p; otherwise nothing that unlikely can be in the nucleus, so draw again
among the likelier. Each pass is one masked sum over the vocabulary, and a refused draw cuts away half of the
mass outside the nucleus on average, so two or three passes are usual (FlashInfer samples by the same idea).

Letters of this file: C candidates, Y blocks of the vocabulary, X places in a block.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxmoe.model.shapes import Array, Bool, Float, Int

_LEAST_TEMPERATURE = 1e-6


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; the steps apply in this order, as in transformers.

    Attributes:
      temperature: logits are divided by it; below 1e-6, as at 0, the likeliest token is taken (the quotients
        may leave float32, and hardly any other token is drawn), and then the others do not matter.
      top_k: only the k likeliest tokens; of equal logits the lower index wins. 0 is no limit.
      top_p: only the nucleus of what is left, see `nucleus`; 1 is no limit.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(
                f"temperature must be finite and at least 0; got {self.temperature} (0 is greedy)"
            )
        if self.top_k < 0:
            raise ValueError(f"top_k must be at least 0; got {self.top_k} (0 is no limit)")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1]; got {self.top_p} (1 is no limit)")

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature < _LEAST_TEMPERATURE


GREEDY = Sampling()


def sample(logits_BV: Float[Array, "B V"], settings: Sampling, *, key: Array | None) -> Int[Array, " B"]:
    """One token a row; `key` may be None if `settings` is greedy.

    The choice in a row does not depend on the rows after it.

    Args:
      logits_BV: of the next token.
      settings: of all rows.
      key: of the random numbers.
    Returns: token ids.
    """
    if settings.is_greedy:
        return greedy(logits_BV)
    if key is None:
        raise ValueError(
            f"sampling at temperature {settings.temperature} needs a key; pass key=jax.random.key(seed)"
        )
    logits_BV = logits_BV.astype(jnp.float32) / settings.temperature
    if settings.top_k:
        return top_k(logits_BV, settings.top_k, settings.top_p, key=key)
    return top_p(logits_BV, settings.top_p, key=key)


def greedy(logits_BV: Float[Array, "B V"]) -> Int[Array, " B"]:
    """The likeliest token; of equal logits the lower index wins."""
    # XLA's argmax on a CPU is a loop over single numbers, five times as slow as these two passes
    most_B1 = jnp.max(logits_BV, axis=-1, keepdims=True)
    vocabulary = logits_BV.shape[-1]
    below_BV = logits_BV < most_B1  # nothing is below a NaN, and the first token is taken
    return jnp.min(jnp.where(below_BV, vocabulary, jnp.arange(vocabulary, dtype=jnp.int32)), axis=-1)


def top_k(logits_BV: Float[Array, "B V"], k: int, p: float = 1.0, *, key: Array) -> Int[Array, " B"]:
    """Draws among the k largest logits, within the nucleus of mass p of those.

    Args:
      logits_BV: divided by the temperature.
      k: tokens that may be drawn.
      p: mass of the nucleus among those.
      key: of the random numbers.
    Returns: token ids.
    """
    logits_BC, tokens_BC = jax.lax.top_k(logits_BV.astype(jnp.float32), min(k, logits_BV.shape[-1]))
    logits_BC = jnp.where(nucleus(jax.nn.softmax(logits_BC), p), logits_BC, -jnp.inf)
    chosen_B = jax.random.categorical(key, logits_BC)
    return jnp.take_along_axis(tokens_BC, chosen_B[:, None], axis=-1)[:, 0]


def nucleus(sorted_BC: Float[Array, "B C"], p: float) -> Bool[Array, "B C"]:
    """Which of the probabilities, sorted from the largest, are in the nucleus of mass p.

    A token belongs to it if the strictly likelier ones sum to less than p of the total: the fewest likeliest
    tokens that reach p (Holtzman et al. 2020, arXiv:1904.09751), except that equally likely ones come in or
    stay out together.

    Args:
      sorted_BC: probabilities of C candidates, descending.
      p: mass, in (0, 1].
    Returns: True for those in it.
    """
    before_BC = jnp.cumsum(sorted_BC, axis=-1) - sorted_BC
    # equal probabilities all have the mass before the first of them
    first_BC = jnp.concatenate(
        [jnp.ones_like(before_BC[:, :1], bool), sorted_BC[:, 1:] < sorted_BC[:, :-1]], axis=-1
    )
    before_BC = jax.lax.cummax(jnp.where(first_BC, before_BC, 0.0), axis=1)
    return (before_BC < p * jnp.sum(sorted_BC, axis=-1, keepdims=True)) | (p >= 1)


def top_p(logits_BV: Float[Array, "B V"], p: float, *, key: Array) -> Int[Array, " B"]:
    """Draws within the nucleus of mass p (see `nucleus`) of the vocabulary; p = 1 draws from all of it.

    Args:
      logits_BV: divided by the temperature.
      p: mass of the nucleus, in (0, 1].
      key: of the random numbers.
    Returns: token ids.
    """
    weights_BXY = blocks_of(logits_BV)
    total_BY = jnp.sum(weights_BXY, axis=1)
    tokens_B = _draw(weights_BXY, total_BY, jax.random.fold_in(key, 0))
    if p >= 1.0:
        return tokens_B
    limit_B = p * jnp.sum(total_BY, axis=-1)

    def likelier(tokens_B):
        floor_B = jnp.take_along_axis(_flat(weights_BXY), tokens_B[:, None], axis=-1)
        kept_BXY = jnp.where(weights_BXY > floor_B[..., None], weights_BXY, 0.0)
        return kept_BXY, jnp.sum(kept_BXY, axis=1)

    def refused(above_BY):  # never true of a NaN, so that the loop ends
        return jnp.sum(above_BY, axis=-1) >= limit_B

    def again(state):
        attempt, tokens_B, above_BY = state
        kept_BXY, _ = likelier(tokens_B)
        drawn_B = _draw(kept_BXY, above_BY, jax.random.fold_in(key, attempt))
        tokens_B = jnp.where(refused(above_BY), drawn_B, tokens_B)
        return attempt + 1, tokens_B, likelier(tokens_B)[1]

    start = (jnp.int32(1), tokens_B, likelier(tokens_B)[1])
    return jax.lax.while_loop(lambda state: jnp.any(refused(state[2])), again, start)[1]


def log_probability(logits_BV: Float[Array, "B V"], tokens_B: Int[Array, " B"]) -> Float[Array, " B"]:
    """log softmax(logits)[token], in float32.

    Args:
      logits_BV: of the next token.
      tokens_B: ids.
    Returns: in nats.
    """
    logits_BV = logits_BV.astype(jnp.float32)
    chosen_B = jnp.take_along_axis(logits_BV, tokens_B[:, None], axis=-1)[:, 0]
    return chosen_B - jax.nn.logsumexp(logits_BV, axis=-1)


def sampled_log_probability(
    logits_BV: Float[Array, "B V"], tokens_B: Int[Array, " B"], settings: Sampling
) -> Float[Array, " B"]:
    """log of the probability with which `sample` draws a token: after temperature, top-k and nucleus.

        log q(v) = l_v − log Σ_{u kept} exp l_u,   l = logits / temperature

    `log_probability` describes the model, this the sampler; importance weights correct their difference. The
    nucleus is found by bisection, without a sort.

    Args:
      tokens_B: drawn with the same settings; for any other token the number means nothing.
      settings: greedy sampling draws its token with probability 1.
    Returns: [B], in nats, float32.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.5, 0.3, 0.2]]))
    >>> said = sampled_log_probability(logits, jnp.array([1]), Sampling(1.0, top_p=0.6))
    >>> round(float(jnp.exp(said)[0]), 4)  # of .5 and .3, which the nucleus keeps
    0.375
    """
    if settings.is_greedy:
        return jnp.zeros(logits_BV.shape[0], jnp.float32)
    logits_BV = logits_BV.astype(jnp.float32) / settings.temperature
    chosen_B = jnp.take_along_axis(logits_BV, tokens_B[:, None], axis=-1)[:, 0]
    if settings.top_k:
        best_BC, _ = jax.lax.top_k(logits_BV, min(settings.top_k, logits_BV.shape[-1]))
        kept_BC = jnp.where(nucleus(jax.nn.softmax(best_BC), settings.top_p), best_BC, -jnp.inf)
        return chosen_B - jax.nn.logsumexp(kept_BC, axis=-1)
    if settings.top_p >= 1.0:
        return chosen_B - jax.nn.logsumexp(logits_BV, axis=-1)
    weights_BXY = blocks_of(logits_BV)
    limit_B = settings.top_p * jnp.sum(jnp.sum(weights_BXY, axis=1), axis=-1)
    return chosen_B - jnp.max(logits_BV, axis=-1) - jnp.log(nucleus_mass(weights_BXY, limit_B))


def nucleus_mass(weights_BXY: Float[Array, "B X Y"], limit_B: Float[Array, " B"]) -> Float[Array, " B"]:
    """Mass of the nucleus: sums in the order in which `top_p` takes them.

    A token of weight w is kept if the weights above w sum to less than the limit. So the nucleus is all
    weights from the smallest threshold for which that holds; positive floats are ordered like their bits.

    Args:
      weights_BXY: of `blocks_of`, relative to the likeliest token.
      limit_B: p of the row's sum of weights.
    Returns: the sum of the weights kept.
    """

    def above(bits_B: Array) -> Array:
        floor_B = jax.lax.bitcast_convert_type(bits_B, jnp.float32)
        kept_BXY = jnp.where(weights_BXY > floor_B[:, None, None], weights_BXY, 0.0)
        return jnp.sum(jnp.sum(kept_BXY, axis=1), axis=-1)

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low_B, high_B = ends
        middle_B = low_B + (high_B - low_B) // 2
        enough_B = above(middle_B) < limit_B
        return jnp.where(enough_B, low_B, middle_B + 1), jnp.where(enough_B, middle_B, high_B)

    zero_B = jnp.zeros(weights_BXY.shape[0], jnp.int32)
    one_B = zero_B + jax.lax.bitcast_convert_type(jnp.float32(1.0), jnp.int32)
    bits_B = jax.lax.fori_loop(0, 31, halve, (zero_B, one_B))[1]
    floor_B = jax.lax.bitcast_convert_type(bits_B, jnp.float32)
    return jnp.sum(jnp.where(weights_BXY >= floor_B[:, None, None], weights_BXY, 0.0), axis=(1, 2))


def blocks_of(logits_BV: Float[Array, "B V"]) -> Float[Array, "B X Y"]:
    """exp(logit - largest), token v at [v // Y, v % Y]; padded with 0.

    Drawing a block Y and then a place X in it needs about 2·√V random numbers instead of V.
    """
    vocabulary = logits_BV.shape[-1]
    places = 2 ** max(round(math.log2(vocabulary) / 2), 0)
    blocks = -(-vocabulary // places)
    logits_BV = logits_BV.astype(jnp.float32)
    weights_BV = jnp.exp(logits_BV - jnp.max(logits_BV, axis=-1, keepdims=True))
    padded = jnp.pad(weights_BV, ((0, 0), (0, places * blocks - vocabulary)))
    return padded.reshape(-1, places, blocks)


def _flat(weights_BXY: Array) -> Array:
    return weights_BXY.reshape(weights_BXY.shape[0], -1)


def _draw(weights_BXY: Array, sums_BY: Array, key: Array) -> Int[Array, " B"]:
    """A token with probability proportional to its weight, given the sums over X."""
    of_block, of_place = jax.random.split(key)
    block_B = jax.random.categorical(of_block, jnp.log(sums_BY))
    inside_BX = jnp.take_along_axis(weights_BXY, block_B[:, None, None], axis=-1)[..., 0]
    place_B = jax.random.categorical(of_place, jnp.log(inside_BX))
    return (place_B * weights_BXY.shape[-1] + block_B).astype(jnp.int32)
