"""Averages with the base: the ends are base and trained model, of adapters the update counts α times."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import jaxmoe
from jaxmoe.averaging import averaged
from jaxmoe.model.config import ExpertConfig
from tests.tiny_checkpoints import in_double
from tests.tolerances import DOUBLE, assert_same

pytestmark = pytest.mark.usefixtures("in_double_precision")

SHAPE = jaxmoe.ModelConfig(64, 16, 32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8)
IDS = [[3, 4, 5, 6]]


def random(experts: ExpertConfig | None = None, seed: int = 0) -> jaxmoe.LanguageModel:
    return in_double(jaxmoe.LanguageModel.random(SHAPE, experts, seed=seed))


def with_noise(lm: jaxmoe.LanguageModel) -> jaxmoe.LanguageModel:
    """As if trained: every trained weight differs from its start."""
    leaves, tree = jax.tree.flatten(lm.weights.trainable)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    moved = [w + 0.1 * jax.random.normal(key, w.shape) for w, key in zip(leaves, keys, strict=True)]
    return replace(lm, weights=lm.weights._replace(trainable=jax.tree.unflatten(tree, moved)))


def logits(lm: jaxmoe.LanguageModel) -> np.ndarray:
    return np.asarray(lm(IDS).logits)


def test_of_every_weight_the_ends_are_the_two_models():
    base, tuned = (random(seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(logits(averaged(tuned, 0.0, base)), logits(base))
    assert_same(logits(averaged(tuned, 1.0, base)), logits(tuned))
    half = averaged(tuned, 0.5, base)
    for w, a, b in zip(*(jax.tree.leaves(lm.weights[1:]) for lm in (half, base, tuned)), strict=True):
        np.testing.assert_allclose(w, (a + b) / 2, rtol=0, atol=DOUBLE)


def test_of_experts_the_update_counts_so_often():
    """The same as alpha / rank times α, for which the file of an adapter has a place."""
    experts = ExpertConfig(num_experts=3, rank=2, alpha=4.0)
    tuned = with_noise(random(experts))
    base = random()
    assert_same(logits(averaged(tuned, 0.0)), logits(base))
    np.testing.assert_array_equal(logits(averaged(tuned, 1.0)), logits(tuned))
    weaker = with_noise(random(replace(experts, alpha=1.0)))
    assert_same(logits(averaged(tuned, 0.25)), logits(weaker))
    assert np.abs(logits(weaker) - logits(base)).max() > 1e-3


def test_what_cannot_be_averaged_is_said():
    tuned = jaxmoe.LanguageModel.random(SHAPE)
    with pytest.raises(ValueError, match="give the base"):
        averaged(tuned, 0.5)
    other = jaxmoe.LanguageModel.random(replace(SHAPE, num_layers=1))
    with pytest.raises(ValueError, match="the same weights"):
        averaged(tuned, 0.5, other)
    dora = ExpertConfig(num_experts=1, rank=2, routing="none", dora=True)
    with pytest.raises(ValueError, match="DoRA"):
        averaged(jaxmoe.LanguageModel.random(SHAPE, dora), 0.5)
