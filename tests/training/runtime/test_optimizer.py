"""The optimizer against torch, its schedules in closed form, and which weights decay."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from jaxmoe.model import params
from jaxmoe.model.config import ExpertConfig, ModelConfig
from tests.tolerances import DOUBLE, double_precision, rounding_bound
from training.runtime.optimizer import OptimizerConfig, decayed, make_optimizer, optimizer_shardings, schedule
from training.supervised.step import leaf_names

SHAPE = ModelConfig(
    vocab_size=16,
    hidden_size=8,
    intermediate_size=8,
    num_layers=2,
    num_heads=2,
    num_kv_heads=2,
    head_dim=4,
    qkv_bias=True,
)


def rates(config: OptimizerConfig, steps: int) -> list[float]:
    learning_rate = schedule(config, steps)
    with jax.numpy_dtype_promotion("standard"):
        return [float(learning_rate(np.int32(t))) for t in range(steps)]


def test_constant_after_a_warm_up_whose_first_step_moves():
    # (t + 1) / 4 of the peak, then the peak
    got = rates(OptimizerConfig(lr=1.0, schedule="constant", warmup_steps=4), 7)
    np.testing.assert_allclose(got, [0.25, 0.5, 0.75, 1, 1, 1, 1])


def test_linear_and_cosine_in_closed_form():
    bound = rounding_bound(8, 2.0)  # optax counts in float32
    # W = 2 of 12 steps; p = (t - 2) / 10, f = 0.1
    p = np.arange(10) / 10
    common = {"lr": 2.0, "warmup_ratio": 2 / 12, "final_ratio": 0.1}
    line = rates(OptimizerConfig(schedule="linear", **common), 12)
    np.testing.assert_allclose(line, [1, 2, *(2 * (1 - 0.9 * p))], rtol=0, atol=bound)
    cosine = rates(OptimizerConfig(schedule="cosine", **common), 12)
    np.testing.assert_allclose(
        cosine, [1, 2, *(2 * (0.1 + 0.9 * (1 + np.cos(np.pi * p)) / 2))], rtol=0, atol=bound
    )


def test_one_warm_up_step_is_none():
    np.testing.assert_allclose(
        rates(OptimizerConfig(lr=1.0, schedule="constant", warmup_steps=1), 3), [1, 1, 1]
    )


@pytest.mark.parametrize("clip_norm", [None, 0.5])
@double_precision()
def test_adamw_is_torchs(clip_norm):
    rng = np.random.default_rng(0)
    start = rng.normal(size=(5, 3))
    gradients = rng.normal(size=(6, 5, 3))
    config = OptimizerConfig(
        lr=1e-2, schedule="constant", weight_decay=0.1, b2=0.98, eps=1e-6, clip_norm=clip_norm
    )
    optimizer = make_optimizer(config, 6)
    weight = torch.nn.Parameter(torch.tensor(start))
    theirs = torch.optim.AdamW([weight], lr=1e-2, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1)
    ours, state = jnp.asarray(start), optimizer.init(jnp.asarray(start))
    for gradient in gradients:
        weight.grad = torch.tensor(gradient)
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_([weight], clip_norm)
        theirs.step()
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(jnp.asarray(gradient), state, ours)
        ours = optax.apply_updates(ours, updates)
    # torch divides by the norm + 1e-6: its gradients are up to 1e-6 smaller; six steps of 1e-2
    tolerance = DOUBLE if clip_norm is None else 6 * 1e-2 * 1e-6
    np.testing.assert_allclose(np.asarray(ours), weight.detach().numpy(), rtol=0, atol=tolerance)


@double_precision()
def test_decay_to_start_is_adamw_around_the_start():
    """AdamW on v = w − w₀ with decay to 0 moves v as AdamW on w with decay to w₀ moves w."""
    rng = np.random.default_rng(1)
    start, gradients = rng.normal(size=(5, 3)), rng.normal(size=(6, 5, 3))
    config = OptimizerConfig(lr=1e-2, schedule="constant", weight_decay=3.0)
    around = make_optimizer(replace(config, decay_to="start"), 6)
    to_zero = make_optimizer(config, 6)
    w, v = jnp.asarray(start), jnp.zeros((5, 3))
    state, other = around.init(w), to_zero.init(v)
    for gradient in gradients:
        with jax.numpy_dtype_promotion("standard"):
            updates, state = around.update(jnp.asarray(gradient), state, w)
            shifted, other = to_zero.update(jnp.asarray(gradient), other, v)
        w, v = optax.apply_updates(w, updates), optax.apply_updates(v, shifted)
    np.testing.assert_allclose(np.asarray(w), start + np.asarray(v), rtol=0, atol=DOUBLE)
    assert np.abs(v).max() > 1e-3


def test_only_matrices_decay_unless_told():
    model = params.abstract(SHAPE)
    mask = decayed(model, OptimizerConfig(), "all")
    kept = {n for n, decays in zip(leaf_names(mask), jax.tree.leaves(mask), strict=True) if not decays}
    assert kept == {
        "blocks.input_norm.weight",
        "blocks.post_norm.weight",
        "norm.weight",
        *(f"blocks.self_attn.{p}_proj.bias" for p in "qkv"),
    }
    assert all(jax.tree.leaves(decayed(model, OptimizerConfig(decay="all"), "all")))
    experts = decayed(
        params.abstract(SHAPE, ExpertConfig(num_experts=2, rank=2)), OptimizerConfig(), "experts"
    )
    assert all(jax.tree.leaves(experts))


def test_moments_lie_where_their_weights_lie():
    mesh = params.make_mesh(2, 2, 2)
    model = params.abstract(SHAPE, ExpertConfig(num_experts=2, rank=2))
    trainable, _ = params.shardings(model, mesh)
    optimizer = make_optimizer(
        OptimizerConfig(lr=2e-4, weight_decay=0.1), 3, decayed(model, OptimizerConfig(), "experts")
    )
    shards = optimizer_shardings(optimizer, params.split(model).trainable, trainable, params.replicated(mesh))
    adam = shards[1][0]
    assert jax.tree.leaves(adam.mu) == jax.tree.leaves(trainable)
    assert jax.tree.leaves(adam.nu) == jax.tree.leaves(trainable)
    assert any(s.spec != params.replicated(mesh).spec for s in jax.tree.leaves(adam.mu))
    assert adam.count == params.replicated(mesh)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr": -1.0}, "optimizer.lr must not be negative; got -1.0"),
        ({"b2": 1.0}, "optimizer.b2"),
        ({"clip_norm": 0.0}, "null never clips"),
        ({"warmup_steps": 3, "warmup_ratio": 0.1}, "not both"),
        ({"final_ratio": 2.0}, "optimizer.final_ratio"),
    ],
)
def test_settings_out_of_range(changes, said):
    with pytest.raises(ValueError, match=said):
        OptimizerConfig(**changes)


def test_warm_up_longer_than_the_run():
    with pytest.raises(ValueError, match="at most the run's 3 steps; got 5"):
        schedule(OptimizerConfig(lr=2e-4, warmup_steps=5), 3)


def test_no_rate_at_all():
    with pytest.raises(ValueError, match=r"optimizer\.lr must be a number; got null"):
        schedule(OptimizerConfig(), 3)
