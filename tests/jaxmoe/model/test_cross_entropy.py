"""Cross-entropy against the whole-vocabulary form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmoe.model import cross_entropy
from jaxmoe.model.transformer import Head
from tests.tolerances import assert_same, double_precision


@pytest.mark.parametrize(("chunk", "cap"), [(3, None), (7, 2.0), (1000, None)])
@double_precision()
def test_token_scores_equal_the_unchunked_form(chunk, cap):
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(2, 5, 8)), jnp.float32)
    head = jnp.asarray(rng.normal(size=(8, 11)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, 11, (2, 5)), jnp.int32)
    cotangent = jnp.asarray(rng.normal(size=(2, 2, 5)), jnp.float32)

    def whole(hidden, head):
        logits = hidden @ head[None]
        capped = logits if cap is None else cap * jnp.tanh(logits / cap)
        log_p = jax.nn.log_softmax(capped / 0.7)
        chosen = jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0]
        return (cotangent * jnp.stack([chosen, -(jnp.exp(log_p) * log_p).sum(-1)])).sum()

    def chunked(hidden, head):
        scores = cross_entropy.token_scores(hidden, Head(head, cap), targets, chunk=chunk, temperature=0.7)
        return (cotangent * jnp.stack([scores.logprob_BT, scores.entropy_BT])).sum()

    ours, theirs = (jax.value_and_grad(f, (0, 1))(hidden, head) for f in (chunked, whole))
    assert_same(ours, theirs)


@double_precision()
def test_cross_entropy_counts_targets_only():
    """Uniform scores over V tokens cost log V each; position 0 is never a target."""
    tokens = jnp.zeros((1, 4), jnp.int32)
    mask = jnp.asarray([[1.0, 0.0, 1.0, 1.0]])
    total, count = cross_entropy.cross_entropy(jnp.zeros((1, 4, 2)), Head(jnp.zeros((2, 9))), tokens, mask)
    assert count == 2
    assert_same(total, 2 * np.log(9))


@pytest.mark.parametrize("trained", [(0,), (0, 1)], ids=["frozen head", "trained head"])
@pytest.mark.parametrize(("chunk", "cap"), [(3, None), (7, 2.0), (1000, None)])
@double_precision()
def test_the_loss_and_its_gradient_equal_the_unchunked_form(chunk, cap, trained):
    """Also where the sum is scaled afterwards."""
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(2, 5, 8)), jnp.float32)
    head = jnp.asarray(rng.normal(size=(8, 11)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, 11, (2, 5)), jnp.int32)
    weight = jnp.asarray(rng.uniform(size=(2, 5)), jnp.float32)

    def whole(hidden, head):
        logits = hidden @ head[None]
        log_p = jax.nn.log_softmax(logits if cap is None else cap * jnp.tanh(logits / cap))
        return -0.3 * (weight * jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0]).sum()

    def chunked(hidden, head):
        return 0.3 * cross_entropy.summed_loss(hidden, Head(head, cap), targets, weight, chunk=chunk)

    expected = jax.value_and_grad(whole, trained)(hidden, head)
    assert_same(jax.jit(jax.value_and_grad(chunked, trained))(hidden, head), expected)
    assert_same(chunked(hidden, head), whole(hidden, head))


@double_precision()
def test_logits_are_computed_once_for_the_loss():
    """Products with the head of a step: logits and the gradient to its input, and to itself where trained."""
    hidden, kernel = jnp.ones((2, 6, 8), jnp.float32), jnp.ones((8, 64), jnp.float32)
    tokens, mask = jnp.zeros((2, 6), jnp.int32), jnp.ones((2, 6), jnp.float32)

    def loss(hidden, kernel):
        return cross_entropy.cross_entropy(hidden, Head(kernel), tokens, mask, chunk=3)[0]

    def products(trained):
        return str(jax.make_jaxpr(jax.grad(loss, trained))(hidden, kernel)).count("dot_general")

    assert (products((0,)), products((0, 1))) == (2, 3)


@double_precision()
def test_logits_at_the_targets_alone_give_the_same_loss_and_gradient():
    """Rows with 3, 1 and no targets among 6 positions; with room for fewer targets than a row has, NaN."""
    rng = np.random.default_rng(0)
    hidden, head = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((3, 6, 4), (4, 9)))
    tokens = jnp.asarray(rng.integers(9, size=(3, 6)), jnp.int32)
    mask = jnp.asarray([[0, 1, 0, 1, 1, 0], [1, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0]], jnp.float32)

    def loss(hidden, most):
        return cross_entropy.cross_entropy(hidden, Head(head), tokens, mask, most_targets=most)[0]

    value, gradient = jax.value_and_grad(loss)(hidden, None)
    some, some_gradient = jax.value_and_grad(loss)(hidden, 3)
    assert_same((some, some_gradient), (value, gradient))
    assert cross_entropy.cross_entropy(hidden, Head(head), tokens, mask, most_targets=3)[1] == 4
    assert jnp.isnan(loss(hidden, 2))
