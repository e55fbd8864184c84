"""A base of 320 tokens that has read three texts, and models some way from it."""

import math
from dataclasses import replace

import jax

from jaxmoe.model import params
from jaxmoe.model.config import ModelConfig
from tests.tiny_checkpoints import float32_logits
from tests.tolerances import rounding_bound

TEXTS = ["Lima is the capital of Peru. Quito lies in Ecuador.", "who sings? me and you", "the red lamp"]
CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}<a>"
SHAPE = ModelConfig(
    vocab_size=320,
    hidden_size=16,
    intermediate_size=32,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    max_positions=512,
    eos_token_id=1,
    pad_token_id=0,
)
ABSTRACT = params.abstract(SHAPE)
# KL of a model from itself, p and q by two float32 programs. Logits δ apart give at most δ² / 2 (Hoeffding's
# lemma; no logit is beyond 30). Each log-softmax is off by its normalizer, a sum over the vocabulary of
# exponentials of rounded differences, and by its own rounding, u |log p|, whose mean is u times an entropy.
SAME = (
    float32_logits(SHAPE, SHAPE.max_positions, 30.0) ** 2 / 2
    + rounding_bound(SHAPE.vocab_size + 2, 1.0)
    + rounding_bound(1, math.log(SHAPE.vocab_size))
)


def moved(lm, size: float):
    """A model some way from another, always in the same direction."""
    leaves, tree = jax.tree.flatten(lm.weights.trainable)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    changed = [w + size * jax.random.normal(key, w.shape) for w, key in zip(leaves, keys, strict=True)]
    return replace(lm, weights=lm.weights._replace(trainable=jax.tree.unflatten(tree, changed)))
