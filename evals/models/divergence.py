"""Kullback–Leibler divergence between two language models, token by token over given texts.

    KL(p ‖ q) = Σ_v p(v | x, y<t) (log p(v | x, y<t) − log q(v | x, y<t)),   nats, exact over the vocabulary

Texts are prompts with continuations; the divergence is reported separately for the tokens of each. If the
continuations were sampled from p, Σ_t KL of a text estimates KL(p ‖ q) of whole answers without bias, and
with less variance than Σ_t log p − log q.

Letters: as in jaxmoe.model.shapes.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike

from evals.models.local_model import ScoredIds
from jaxmoe.language_model import LanguageModel, positions_from_mask
from jaxmoe.model import params
from jaxmoe.model.attention import AttentionMask
from jaxmoe.model.mesh import even_rows
from jaxmoe.model.shapes import Array, Float, Int

LENGTHS = 16  # texts are padded to a multiple of it


class Divergence(NamedTuple):
    """Mean over tokens, in nats.

    Attributes:
      forward: KL(reference ‖ model).
      backward: KL(model ‖ reference).
    """

    forward: float
    backward: float


class TextDivergence(NamedTuple):
    """The divergence at the tokens of the continuations, and at those of the prompts except the first, which
    nothing predicts."""

    continuations: Divergence
    prompts: Divergence


class _Part(NamedTuple):
    """Texts of one padded length; `region_BT` is 1 where the token after t belongs to the prompt, 2 where it
    belongs to the continuation, else 0. `hidden_BTD` are the reference's final states."""

    tokens_BT: np.ndarray
    mask_BT: np.ndarray
    region_BT: np.ndarray
    hidden_BTD: np.ndarray


class Reference:
    """A model and its predictions for some texts, kept so that other models can be compared with it.

    Args:
      lm: the reference; its output projection stays in memory.
      texts: encoded; see `evals.models.local_model.LocalModel.scored_ids`.
      pad: token that fills up rows.
      rows: texts per batch.
    Raises: ValueError if there are no texts.
    """

    def __init__(self, lm: LanguageModel, texts: Sequence[ScoredIds], pad: int, rows: int = 16):
        if not texts:
            raise ValueError("a divergence needs texts to be measured on; got none")
        self._lm = lm
        rows = even_rows(lm.mesh, rows)
        ordered = sorted(texts, key=lambda text: len(text.ids))
        batches = [ordered[at : at + rows] for at in range(0, len(ordered), rows)]
        self._parts = [self._part(batch, rows, pad) for batch in batches]

    def _part(self, texts: Sequence[ScoredIds], rows: int, pad: int) -> _Part:
        length = -(-max(len(text.ids) for text in texts) // LENGTHS) * LENGTHS
        tokens, mask = np.full((rows, length), pad, np.int32), np.zeros((rows, length), np.int32)
        region = np.zeros((rows, length), np.int32)
        mask[:, 0] = 1  # a row of nothing but padding would attend to nothing
        for row, text in enumerate(texts):
            end = len(text.ids)
            tokens[row, :end], mask[row, :end] = text.ids, 1
            region[row, : text.start - 1], region[row, text.start - 1 : end - 1] = 1, 2
        here = jax.device_put((tokens, mask), params.batch_sharding(self._lm.mesh))
        return _Part(
            tokens, mask, region, np.asarray(_hidden(*_static(self._lm), *_weights(self._lm), *here))
        )

    def divergence(self, lm: LanguageModel) -> TextDivergence:
        """How far a model is from the reference.

        Args:
          lm: with the same vocabulary, on the same mesh.
        Returns: means over the tokens of all texts.
        """
        sums, counts = np.zeros((3, 2)), np.zeros(3)
        for part in self._parts:
            here = jax.device_put(
                (part.tokens_BT, part.mask_BT, part.hidden_BTD), params.batch_sharding(lm.mesh)
            )
            found_BT2 = np.asarray(
                _divergences(_static(self._lm), _static(lm), _weights(self._lm), _weights(lm), *here)
            )
            for region in (1, 2):
                chosen = part.region_BT == region
                sums[region] += found_BT2[chosen].sum(0, dtype=np.float64)
                counts[region] += chosen.sum()
        prompts, continuations = (Divergence(*map(float, sums[n] / counts[n])) for n in (1, 2))
        return TextDivergence(continuations, prompts)


class _Static(NamedTuple):
    """What is known about a model when a program is compiled."""

    definition: nnx.GraphDef
    dtype: DTypeLike
    mesh: Mesh


def _static(lm: LanguageModel) -> _Static:
    return _Static(lm.weights.definition, lm.dtype, lm.mesh)


def _weights(lm: LanguageModel) -> tuple[params.Params, params.Params]:
    return lm.weights.trainable, lm.weights.frozen


def _merged(static: _Static, weights: tuple[params.Params, params.Params]):
    return params.merge(params.ModelParams(static.definition, *weights))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _hidden(
    definition: nnx.GraphDef,
    dtype: DTypeLike,
    mesh: Mesh,
    trainable: params.Params,
    frozen: params.Params,
    tokens_BT: Int[Array, "B T"],
    mask_BT: Int[Array, "B T"],
) -> Float[Array, "B T D"]:
    model = params.merge(params.ModelParams(definition, trainable, frozen))
    masks = AttentionMask(mask_BT, mask_BT)
    found = model(tokens_BT, positions_from_mask(mask_BT), masks, dtype=dtype, mesh=mesh).hidden_BTD
    return jax.lax.with_sharding_constraint(found, params.replicated(mesh))


@partial(jax.jit, static_argnums=(0, 1))
def _divergences(
    reference: _Static,
    static: _Static,
    reference_weights: tuple[params.Params, params.Params],
    weights: tuple[params.Params, params.Params],
    tokens_BT: Int[Array, "B T"],
    mask_BT: Int[Array, "B T"],
    hidden_BTD: Float[Array, "B T D"],
) -> Float[Array, "B T 2"]:
    """KL(reference ‖ model) and KL(model ‖ reference) at each place; logits exist for one row at a time."""
    hers = _merged(reference, reference_weights).output_head(reference.dtype)
    model = _merged(static, weights)
    own = model.output_head(static.dtype)
    masks = AttentionMask(mask_BT, mask_BT)
    out = model(tokens_BT, positions_from_mask(mask_BT), masks, dtype=static.dtype, mesh=static.mesh)

    def one(states):
        p_TV, q_TV = (
            jax.nn.log_softmax(head.logits(state[None])[0], axis=-1)
            for head, state in zip((hers, own), states, strict=True)
        )
        gap_TV = p_TV - q_TV
        return jnp.stack([(jnp.exp(p_TV) * gap_TV).sum(-1), (jnp.exp(q_TV) * -gap_TV).sum(-1)], axis=-1)

    found = jax.lax.map(one, (hidden_BTD, out.hidden_BTD))
    return jax.lax.with_sharding_constraint(found, params.replicated(static.mesh))
