"""KL between models: zero from itself, a closed form, sums by hand, prompts and answers apart."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evals.models.divergence import Reference
from evals.models.local_model import ScoredIds
from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params
from jaxmoe.model.config import ExpertConfig, ModelConfig
from tests.tiny_checkpoints import in_double
from tests.tolerances import DOUBLE
from training.runtime.model import new_model

pytestmark = pytest.mark.usefixtures("in_double_precision")

SHAPE = ModelConfig(
    vocab_size=32,
    hidden_size=8,
    intermediate_size=16,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    max_positions=64,
    eos_token_id=1,
    pad_token_id=0,
)
TEXTS = [ScoredIds([3, 4, 5, 6, 7], 3), ScoredIds([9, 8, 2], 1), ScoredIds(list(range(2, 25)), 20)]


def model(seed: int, experts: ExpertConfig | None = None) -> LanguageModel:
    return in_double(new_model(SHAPE, experts, params.single_device_mesh(), seed=seed, std=0.3).lm)


def by_hand(reference: LanguageModel, other: LanguageModel) -> dict[str, np.ndarray]:
    """Means over tokens from whole tables of log-probabilities, one text at a time."""
    found: dict[str, list] = {"continuations": [], "prompts": []}
    for ids, start in TEXTS:
        p, q = (np.asarray(jax.nn.log_softmax(lm(np.asarray([ids])).logits[0])) for lm in (reference, other))
        both = np.stack([(np.exp(p) * (p - q)).sum(1), (np.exp(q) * (q - p)).sum(1)], axis=1)
        found["prompts"] += list(both[: start - 1])
        found["continuations"] += list(both[start - 1 : -1])
    return {name: np.mean(rows, axis=0) for name, rows in found.items()}


def test_is_the_sum_over_the_vocabulary_apart_for_prompts_and_continuations():
    """Rows of several lengths and a batch that is filled up change nothing."""
    one, other = model(0), model(1)
    wanted = by_hand(one, other)
    for rows in (1, 2, 16):
        found = Reference(one, TEXTS, 0, rows).divergence(other)
        np.testing.assert_allclose(found.continuations, wanted["continuations"], rtol=DOUBLE)
        np.testing.assert_allclose(found.prompts, wanted["prompts"], rtol=DOUBLE)
    forward, backward = found.continuations
    assert forward > 0.01
    assert abs(forward - backward) > 1e-3 * forward


def test_new_experts_are_no_distance_away():
    """B = 0: the model is its base, so nothing diverges; another seed of the experts neither."""
    experts = ExpertConfig(num_experts=2, rank=2, alpha=4)
    found = Reference(model(0), TEXTS, 0).divergence(model(0, experts))
    np.testing.assert_allclose(np.asarray(found), 0, atol=DOUBLE)


def test_closed_form_from_a_model_that_has_no_opinion():
    """With all weights 0 p is uniform: KL(p ‖ q) = −ln V − mean over v of ln q(v)."""
    base = model(0)
    flat = jax.tree.map(jnp.zeros_like, base.weights.trainable)
    uniform = replace(base, weights=base.weights._replace(trainable=flat))
    found = Reference(uniform, TEXTS, 0).divergence(uniform)
    np.testing.assert_allclose(np.asarray(found), 0, atol=DOUBLE)
    logits = np.concatenate([np.asarray(base(np.asarray([ids])).logits[0])[s - 1 : -1] for ids, s in TEXTS])
    q = np.asarray(jax.nn.log_softmax(logits))
    expected = np.mean(-np.log(SHAPE.vocab_size) - q.mean(1))
    found = Reference(uniform, TEXTS, 0).divergence(base)
    np.testing.assert_allclose(found.continuations.forward, expected, rtol=DOUBLE)


def test_needs_texts():
    with pytest.raises(ValueError, match="needs texts"):
        Reference(model(0), [], 0)
