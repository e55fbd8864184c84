"""The frozen/trainable split and the placement of weights on meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmoe.model import params
from jaxmoe.model.attention import AttentionMask
from jaxmoe.model.config import ExpertConfig, ModelConfig
from jaxmoe.model.lora_experts import ExpertCall
from tests.tolerances import assert_same, double_precision

SMALL = ModelConfig(
    vocab_size=32, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=4
)
EXPERTS = ExpertConfig(num_experts=4, rank=2)


def names(tree) -> set[str]:
    return {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def test_experts_train_and_everything_else_is_frozen():
    parts = params.split(params.build(SMALL, EXPERTS))
    assert names(parts.trainable) == {
        f"['blocks']['mlp']['{p}']['experts']['{n}']"
        for p in ("gate_proj", "up_proj", "down_proj")
        for n in ("a", "b", "router")
    }
    everything = params.split(params.build(SMALL), "all")
    assert not everything.frozen
    assert params.count(everything.trainable) == params.count(params.split(params.build(SMALL)).frozen)
    assert not params.split(params.build(SMALL, EXPERTS), "none").trainable


def test_trainable_count_at_7b_is_the_papers():
    """LLaMA-2-7B, r 4 on gate, up and down: 38,486,016 weights with 6 experts, 51,314,688 with 8."""
    llama = ModelConfig(32000, 4096, 11008, 32, 32, 32, 128)
    for experts, expected in [(6, 38_486_016), (8, 51_314_688)]:
        parts = params.split(params.abstract(llama, ExpertConfig(num_experts=experts, rank=4)))
        assert params.count(parts.trainable) == expected


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)])
@double_precision()
def test_eight_devices_give_what_one_gives(sizes):
    model = params.build(SMALL, EXPERTS, std=0.3)
    parts = params.split(model)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 32, (8, 6)), jnp.int32)
    positions = jnp.tile(jnp.arange(6, dtype=jnp.int32)[None], (8, 1))
    types = jnp.asarray([[1], [0]] * 4)
    from jaxmoe.language_model import layer_experts
    from jaxmoe.model.balance import BalanceConfig, balance_loss

    def loss(trainable, frozen, tokens, positions):
        model = params.merge(parts._replace(trainable=trainable, frozen=frozen))
        samples = jnp.ones((8, 6, 1))
        ones = jnp.ones_like(tokens)
        call = ExpertCall(samples_BTZ=samples)
        out = model(tokens, positions, AttentionMask(ones, ones), dtype=jnp.float32, call=call)
        balance = balance_loss(out.statistics, types, samples.sum(1), layer_experts(model), BalanceConfig())
        return (model.logits(out.hidden_BTD) ** 2).mean() + balance.total

    step = jax.jit(jax.value_and_grad(loss))
    expected = step(parts.trainable, parts.frozen, tokens, positions)
    mesh = params.make_mesh(*sizes)
    placed = jax.device_put((parts.trainable, parts.frozen), params.shardings(model, mesh))
    batch = jax.device_put(
        (tokens, positions),
        params.batch_sharding(mesh) if sizes[2] == 1 or sizes[0] > 1 else params.replicated(mesh),
    )
    got = step(*placed, *batch)
    assert_same(got, expected)


def test_kernels_are_split_over_fsdp_and_tensor():
    mesh = params.make_mesh(1, 4, 2)
    _, frozen = params.shardings(params.abstract(SMALL, EXPERTS), mesh)
    assert frozen["blocks"]["mlp"]["up_proj"]["kernel"].spec == jax.P(None, "fsdp", "tensor")
    assert frozen["blocks"]["mlp"]["down_proj"]["kernel"].spec == jax.P(None, "tensor", "fsdp")


def test_an_axis_that_does_not_divide_stays_whole():
    assert params.partition_spec(("embed", "mlp"), (16, 9), params.make_mesh(1, 4, 2)) == jax.P("fsdp", None)


def test_mesh_that_does_not_fit_the_devices():
    with pytest.raises(ValueError, match="must multiply to the 8 devices; got 3 x 1 x 1"):
        params.make_mesh(3)
    assert params.make_mesh(2, -1, 2).shape == {"data": 2, "fsdp": 2, "expert": 1, "tensor": 2}
