"""The decoder's invariances: causality, padding, packing, scanning, experts that change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxmoe.model import params
from jaxmoe.model.attention import AttentionMask
from jaxmoe.model.block import projections
from jaxmoe.model.config import ExpertConfig, ModelConfig
from jaxmoe.model.lora_experts import ExpertCall
from tests.tolerances import assert_same, double_precision, rounding_bound

SMALL = ModelConfig(
    vocab_size=32, hidden_size=16, intermediate_size=24, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=4
)


def build(config=SMALL, experts=None, *, random_b=True):
    model = params.build(config, experts, std=0.3)
    if experts is not None and random_b:
        for _, linear in projections(model.blocks):
            if linear.experts is not None:
                b = linear.experts.b
                noise = jax.random.normal(jax.random.key(7), b.shape) * 0.2
                ranks = np.arange(b.shape[2]) < np.asarray(linear.experts.ranks)[:, None]
                b.set_value(noise * jnp.asarray(ranks, jnp.float32)[:, None, :, None])
    return model


@nnx.jit(static_argnames=("remat", "scan_layers"))
def logits(model, tokens, positions, segments, call=None, remat="none", scan_layers=True):
    out = model(
        tokens,
        positions,
        AttentionMask(segments, segments),
        dtype=jnp.float32,
        call=call or ExpertCall(),
        remat=remat,
        scan_layers=scan_layers,
    )
    return model.logits(out.hidden_BTD), out.statistics


def whole_rows(batch=2, length=6, seed=0):
    tokens = jnp.asarray(np.random.default_rng(seed).integers(0, 32, (batch, length)), jnp.int32)
    positions = jnp.tile(jnp.arange(length, dtype=jnp.int32)[None], (batch, 1))
    return tokens, positions, jnp.ones_like(tokens)


def test_no_position_sees_a_later_one():
    """Causality by gradient: the logits at t depend on the embeddings up to t alone."""
    model = build(experts=ExpertConfig(num_experts=3, rank=2, targets=("o_proj", "up_proj", "down_proj")))
    tokens, positions, segments = whole_rows(1)
    tokens = jnp.arange(6, dtype=jnp.int32)[None]  # every position has its own embedding row
    definition, state = nnx.split(model)

    def at(state, t):
        return logits(nnx.merge(definition, state), tokens, positions, segments)[0][0, t].sum()

    for t in range(6):
        grad = np.abs(jax.grad(at)(state, t)["embedding"].get_raw_value()[:6]).sum(-1)
        assert (grad[t + 1 :] == 0).all()
        assert (grad[: t + 1] > 0).all()


def test_sliding_windows_limit_the_view():
    """With one layer and window 2, the logits at t depend on positions t−1 and t alone."""
    from dataclasses import replace

    config = replace(SMALL, num_layers=1, windows=(2,))
    model = build(config)
    tokens, positions, segments = whole_rows(1)
    changed = tokens.at[0, 2].set((tokens[0, 2] + 1) % 32)
    before, after = (logits(model, x, positions, segments)[0][0] for x in (tokens, changed))
    moved = np.abs(before - after).max(-1) > 0
    assert moved.tolist() == [False, False, True, True, False, False]


@pytest.mark.parametrize("side", ["left", "right"])
@double_precision()
def test_padding_changes_nothing(side):
    model = build(experts=ExpertConfig(num_experts=2, rank=2))
    tokens, positions, segments = whole_rows(2, 5)
    expected = logits(model, tokens, positions, segments)[0]
    pad = ((0, 0), (3, 0) if side == "left" else (0, 3))
    padded = [jnp.pad(x, pad) for x in (tokens, positions, segments)]
    got = logits(model, *padded)[0]
    assert_same(got[:, 3:] if side == "left" else got[:, :5], expected)


@double_precision()
def test_packed_equals_unpacked_with_statistics_by_sample():
    model = build(experts=ExpertConfig(num_experts=4, rank=2))
    a, b = (whole_rows(1, n, seed=n) for n in (4, 3))
    alone = [
        logits(model, *rows, call=ExpertCall(samples_BTZ=jnp.ones((1, rows[0].shape[1], 1))))
        for rows in (a, b)
    ]
    tokens, positions = (jnp.concatenate([x, y], 1) for x, y in zip(a[:2], b[:2], strict=True))
    segments = jnp.asarray([[1, 1, 1, 1, 2, 2, 2]], jnp.int32)
    samples = (segments[..., None] == jnp.asarray([1, 2])[None, None]).astype(jnp.float32)
    packed, statistics = logits(model, tokens, positions, segments, call=ExpertCall(samples_BTZ=samples))
    assert_same(packed, jnp.concatenate([x[0] for x in alone], 1))
    for z, (_, one) in enumerate(alone):
        ours, theirs = (jax.tree.map(lambda x, i=i: x[:, :, i], s) for i, s in ((z, statistics), (0, one)))
        assert_same(ours, theirs)


@pytest.mark.parametrize(
    ("remat", "scan_layers"), [("none", False), ("dots", True), ("full", True), ("full", False)]
)
@double_precision()
def test_scanning_and_recomputation_change_nothing(remat, scan_layers):
    model = build(experts=ExpertConfig(num_experts=2, rank=2))
    rows = whole_rows()

    def loss(model, **options):
        return (logits(model, *rows, **options)[0] ** 2).mean()

    plain = nnx.grad(loss)(model)
    other = nnx.grad(lambda m: loss(m, remat=remat, scan_layers=scan_layers))(model)
    assert_same(other, plain)


def test_new_experts_leave_the_base_unchanged_bit_by_bit():
    rows = whole_rows()
    base = logits(build(), *rows)[0]
    with_experts = build(experts=ExpertConfig(num_experts=3, rank=2), random_b=False)
    np.testing.assert_array_equal(logits(with_experts, *rows)[0], base)
    switched_off = logits(build(experts=ExpertConfig(num_experts=3, rank=2)), *rows, call=None)[0]
    assert np.abs(switched_off - base).max() > 1e-3  # and filled experts do change it


def test_disabled_experts_give_the_base_model():
    rows = whole_rows()
    model = build(experts=ExpertConfig(num_experts=3, rank=2))
    off = model(rows[0], rows[1], AttentionMask(rows[2], rows[2]), call=ExpertCall(enabled=False))
    base = build()
    plain = base(rows[0], rows[1], AttentionMask(rows[2], rows[2]))
    np.testing.assert_array_equal(off.hidden_BTD, plain.hidden_BTD)


@double_precision()
def test_one_routed_expert_is_plain_lora():
    """E = 1: softmax over one logit is 1."""
    rows = whole_rows()
    routed = build(experts=ExpertConfig(num_experts=1, rank=3))
    plain = build(experts=ExpertConfig(num_experts=1, rank=3, routing="none"))
    for (_, a), (_, b) in zip(projections(routed.blocks), projections(plain.blocks), strict=True):
        if a.experts is not None and b.experts is not None:
            b.experts.a.set_value(a.experts.a[...])
    assert_same(logits(plain, *rows)[0], logits(routed, *rows)[0])


@double_precision()
def test_order_of_experts_does_not_matter():
    rows = whole_rows()
    model = build(experts=ExpertConfig(num_experts=4, rank=2, targets=("q_proj", "v_proj", "down_proj")))
    before = logits(model, *rows)[0]
    order = np.array([2, 0, 3, 1])
    for _, linear in projections(model.blocks):
        if linear.experts is not None:
            e = linear.experts
            e.a.set_value(e.a[...][:, :, order])
            e.b.set_value(e.b[...][:, order])
            assert e.router is not None
            e.router.set_value(e.router[...][:, :, order])
    assert_same(logits(model, *rows)[0], before)


def test_layers_may_differ_in_experts_and_rank():
    """A padded layer equals the same layer built alone at its own size."""
    mixed = ExpertConfig(num_experts=(3, 0, 2), rank=(2, 1, 4))
    model = build(experts=mixed)
    rows = whole_rows()
    call = ExpertCall(samples_BTZ=jnp.ones((2, 6, 1)))
    _, statistics = logits(model, *rows, call=call)
    weight = np.asarray(statistics["up_proj"].weight_BZE)
    np.testing.assert_allclose(
        weight.sum(-1), np.broadcast_to([[[6.0]], [[0.0]], [[6.0]]], (3, 2, 1)), rtol=rounding_bound(24, 1.0)
    )
    assert (weight[2, ..., 2] == 0).all()
    grads = nnx.grad(lambda m: (logits(m, *rows)[0] ** 2).mean(), argnums=nnx.DiffState(0, nnx.Param))(model)
    up = nnx.to_pure_dict(grads)["blocks"]["mlp"]["up_proj"]["experts"]
    for layer, (experts, rank) in enumerate([(3, 2), (0, 1), (2, 4)]):
        assert (up["a"][layer, :, experts:] == 0).all()
        assert (up["a"][layer, :, :, rank:] == 0).all()
        assert (up["b"][layer, experts:] == 0).all()
        assert (up["b"][layer, :, rank:] == 0).all()
        assert (np.abs(up["b"][layer, :experts, :rank]).sum() > 0) == (experts > 0)


def test_dropout_sees_fresh_masks_and_keeps_the_mean():
    rows = whole_rows(1, 4)
    for mask in ("shared", "per_expert"):
        config = ExpertConfig(
            num_experts=2, rank=2, dropout=0.5, dropout_mask=mask, targets=("gate_proj", "up_proj")
        )
        model = build(experts=config)
        a, b = (logits(model, *rows, call=ExpertCall(dropout_key=jax.random.key(s)))[0] for s in (0, 1))
        assert np.abs(a - b).max() > 1e-3
        again = logits(model, *rows, call=ExpertCall(dropout_key=jax.random.key(0)))[0]
        np.testing.assert_array_equal(a, again)


def test_a_target_that_matches_nothing_is_named():
    with pytest.raises(ValueError, match="'up_porj' matches none of q_proj"):
        build(experts=ExpertConfig(targets=("up_porj",)))


def test_what_matches_no_projection_is_shown_in_short():
    with pytest.raises(ValueError, match="matches none of") as error:
        build(experts=ExpertConfig(targets=("x" * 3000,)))
    assert len(str(error.value)) < 400
    with pytest.raises(ValueError, match="num_experts must be at least 1") as error:
        ExpertConfig(num_experts=(0,) * 3000)
    assert len(str(error.value)) < 400


def test_targets_may_be_regular_expressions():
    model = build(experts=ExpertConfig(num_experts=2, targets=(r"layers\.[02]\.mlp\..*",)))
    found = {
        n: linear.experts.counts for n, linear in projections(model.blocks) if linear.experts is not None
    }
    assert found == {n: (2, 0, 2) for n in ("gate_proj", "up_proj", "down_proj")}
