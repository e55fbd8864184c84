"""Models between a base and its trained version (WiSE-FT).

    w(α) = w₀ + α (w − w₀)           every weight
    W0 + α · scale · Σᵢ ωᵢ Bᵢ Aᵢ     adapters: their update is scaled by α, their routers stay

Between the two there is often a model that keeps more of the base and does the new task nearly as well, and
finding it needs no training.

Reference: Wortsman et al. 2022, arXiv:2109.01903.
"""

from dataclasses import replace

import jax

from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params


def averaged(lm: LanguageModel, alpha: float, base: LanguageModel | None = None) -> LanguageModel:
    """The base plus a share of what training changed.

    Args:
      lm: the trained model.
      alpha: α; 0 is the base, 1 the trained model. Values above 1 extrapolate.
      base: what `lm` was before training, its weights split into the same parts; not needed with experts,
        whose base is frozen beside them.
    Returns: a model of the same form, on the same mesh.
    Raises: ValueError without a base if every weight was trained, for a base of another shape, and for DoRA,
      whose update is not a sum.

    >>> import jaxmoe
    >>> config = jaxmoe.ModelConfig(64, 16, 32, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8)
    >>> one, other = (jaxmoe.LanguageModel.random(config, seed=seed) for seed in (0, 1))
    >>> half = averaged(other, 0.5, one)
    >>> bool((half([[5]]).logits == other([[5]]).logits).all())
    False
    """
    if lm.experts is not None:
        if lm.experts.dora:
            raise ValueError(
                "DoRA's update is no sum with the base's weights, so no share of it can be taken"
            )
        return _with(lm, *(jax.tree_util.tree_map_with_path(_scaled(alpha), part) for part in lm.weights[1:]))
    if base is None:
        raise ValueError("every weight was trained: give the base, which the average begins at")
    if jax.tree.map(lambda w: w.shape, lm.weights[1:]) != jax.tree.map(lambda w: w.shape, base.weights[1:]):
        raise ValueError("base and trained model must have the same weights, split into the same parts")
    between = jax.tree.map(lambda w, start: start + alpha * (w - start), lm.weights[1:], base.weights[1:])
    return _with(lm, *between)


def _scaled(alpha: float):
    """B times α, everything else unchanged."""

    def one(path, weight):
        names = jax.tree_util.keystr(path, simple=True, separator=".").split(".")
        return weight * alpha if names[-2:] == ["experts", "b"] else weight

    return one


def _with(lm: LanguageModel, trainable: params.Params, frozen: params.Params) -> LanguageModel:
    return replace(lm, weights=params.ModelParams(lm.weights.definition, trainable, frozen))
