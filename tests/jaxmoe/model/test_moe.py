"""Grouped experts against one expert at a time; what LoRA experts may stand beside."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmoe import LanguageModel, load
from jaxmoe.model import params
from jaxmoe.model.attention import AttentionMask
from jaxmoe.model.config import ClampedSwiglu, ExpertConfig, MoeConfig
from jaxmoe.model.moe import ExpertGroup, choose
from tests.jaxmoe.model.test_transformer import SMALL
from tests.tiny_checkpoints import write_checkpoint
from tests.tolerances import DOUBLE, assert_same, double_precision

MOE = MoeConfig(num_experts=5, experts_per_token=2, expert_size=6)


@double_precision()
def test_choice_takes_the_likeliest_of_a_softmax_over_all():
    logits = jnp.asarray([[0.0, 3.0, 1.0, 2.0, -1.0]])
    weight, expert = choose(logits, MOE)
    assert expert.tolist() == [[1, 3]]
    np.testing.assert_allclose(weight, [[1 / (1 + np.exp(-1)), 1 / (1 + np.e)]], rtol=DOUBLE)
    raw = choose(logits, dataclasses.replace(MOE, normalize=False)).weight_XK
    np.testing.assert_allclose(raw, np.exp([[3.0, 2.0]]) / np.exp(np.asarray(logits)).sum(), rtol=DOUBLE)


@double_precision()
def test_grouped_products_equal_one_expert_at_a_time():
    """Values and gradients, also where an expert has no token."""
    from flax import nnx

    rng = np.random.default_rng(0)
    config = dataclasses.replace(SMALL, moe=MOE)
    definition, state = nnx.split(ExpertGroup(config, MOE, 0.3, rngs=nnx.Rngs(0)))
    layer = jax.tree.map(lambda x: x[1], state)
    x = jnp.asarray(rng.normal(size=(7, 16)))
    logits = jnp.asarray(rng.normal(size=(7, 5))).at[:, 3].set(-9.0)
    choice = choose(logits, MOE)
    assert 3 not in np.asarray(choice.expert_XK)

    def grouped(state, x):
        return jnp.sin(nnx.merge(definition, state)(x[None], choice)[0]).sum()

    def singly(state, x):
        group = nnx.merge(definition, state)
        out = jnp.zeros_like(x)
        for g in range(5):
            gate, up, down = (w[...][g] for w in (group.gate, group.up, group.down))
            weight = jnp.where(choice.expert_XK == g, choice.weight_XK, 0.0).sum(-1, keepdims=True)
            out += weight * ((jax.nn.silu(x @ gate) * (x @ up)) @ down)
        return jnp.sin(out).sum()

    ours, theirs = (jax.value_and_grad(f, (0, 1))(layer, x) for f in (grouped, singly))
    assert_same(*(jax.tree.map(np.asarray, r) for r in (ours, theirs)))


PLAIN = dataclasses.replace(SMALL, num_layers=1, moe=MoeConfig(6, 2, 6, shared_size=4))
BIASED = MoeConfig(6, 2, 6, bias=True, clamped=ClampedSwiglu(limit=0.5))


@pytest.mark.parametrize(
    ("config", "rows", "sizes", "shard"),
    [
        (PLAIN, 4, (2, 2, 2, 1), (1, 6, 8, 3)),
        (PLAIN, 3, (1, 4, 1, 2), (1, 3, 4, 6)),  # rows that the mesh cannot split
        (dataclasses.replace(PLAIN, moe=BIASED), 8, (1, 2, 2, 2), (1, 3, 8, 3)),
    ],
    ids=["no axis of experts", "rows not split", "biases"],
)
@double_precision()
def test_a_mesh_computes_what_one_device_does(config, rows, sizes, shard):
    """Hidden states, and the gradients of all weights."""
    parts = params.split(params.build(config, std=0.3), "none")
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 32, (rows, 5)), jnp.int32)
    positions = jnp.tile(jnp.arange(5, dtype=jnp.int32)[None], (rows, 1))

    def run(frozen, mesh):
        model = params.merge(parts._replace(frozen=frozen))
        ones = jnp.ones_like(tokens)
        mask = AttentionMask(ones, ones)
        hidden = model(tokens, positions, mask, dtype=jnp.float32, mesh=mesh).hidden_BTD
        return jnp.sin(hidden).sum(), hidden

    mesh = params.make_mesh(*sizes)
    _, places = params.shardings(params.abstract(config), mesh, "none")
    spread = jax.device_put(parts.frozen, places)
    kernel = spread["blocks"]["mlp"]["group"]["gate"]
    assert kernel.sharding.shard_shape(kernel.shape) == shard
    gradients = jax.jit(jax.grad(run, has_aux=True), static_argnums=1)
    one, eight = (gradients(w, m) for w, m in ((parts.frozen, None), (spread, mesh)))
    assert_same(*(jax.tree.map(np.asarray, result) for result in (eight, one)))


@pytest.mark.slow
@pytest.mark.parametrize("base_dtype", [None, "int8", "nf4"])
def test_generation_with_experts_over_devices(tmp_path, base_dtype):
    """Greedy text, of prompts that the mesh splits, is that of one device; quantized kernels too."""
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 16}
    write_checkpoint(tmp_path, model_type="qwen3_moe", norm_topk_prob=True, **sizes)
    prompts = [[5, 6, 7], [8, 9, 10], [3, 4, 5]]
    texts = [
        load(tmp_path, mesh=mesh, base_dtype=base_dtype).generate(prompts, max_new_tokens=8).tokens
        for mesh in (None, params.make_mesh(1, 2, 2, 2))
    ]
    np.testing.assert_array_equal(*texts)


def test_an_axis_of_experts_that_do_not_divide_is_refused():
    mesh = params.make_mesh(1, 2, 1, 4)
    for config, has in ((PLAIN, "6 in each layer"), (SMALL, "no experts")):
        with pytest.raises(ValueError, match=f"must divide the experts of the base; got 4, and it has {has}"):
            LanguageModel.random(config, mesh=mesh)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": ("up_proj",)}, "'up_proj' matches none of q_proj, k_proj, v_proj, o_proj, experts"),
        (
            {"targets": ("experts",), "routing": "none", "num_experts": 1, "dora": True},
            "a block of experts is none",
        ),
    ],
)
def test_what_cannot_stand_beside_experts_is_refused(settings, message):
    config = dataclasses.replace(SMALL, moe=MOE)
    with pytest.raises(ValueError, match=message):
        ExpertConfig(**settings).check_targets(config)
    with pytest.raises(ValueError, match="experts_per_token must lie between 1 and num_experts; got 6 and 5"):
        dataclasses.replace(MOE, experts_per_token=6)
