"""Planning: arithmetic against the compiler's own counts, traffic in closed form, the whole command."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from jaxmoe.model import params
from jaxmoe.model.config import ExpertConfig, ModelConfig, MoeConfig
from training.planning import chips, collectives, plan_run, plan_step
from training.planning.flops import step_flops, weights_used
from training.runtime import config as configs
from training.runtime import model
from training.supervised import train as run
from training.supervised.config import SftConfig

ROOT = Path(__file__).parents[3]
SHAPE = ModelConfig(64, 32, 48, 3, 4, 2, 8)


def test_flops_of_a_dense_model_are_six_a_weight_and_token():
    """Forward 2, backward 4 for every weight in a product; attention apart."""
    flops = step_flops(SHAPE, None, "all", batch=2, length=16, remat="none")
    block = 32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 48
    attention = (
        3 * 3 * 2 * (2 * 16) * 16 * 32
    )  # layers, forward and twice backward, q kᵀ and p v, causal half
    assert flops.model == 6 * 32 * (3 * block + 32 * 64) + attention
    assert flops.recomputed == 0


def test_frozen_products_cost_two_thirds_and_experts_three_passes():
    experts = ExpertConfig(num_experts=4, rank=2, targets=("up_proj",))
    tuned = step_flops(SHAPE, experts, "experts", batch=2, length=16, remat="none")
    dense = step_flops(SHAPE, None, "all", batch=2, length=16, remat="none")
    block = 32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 48
    low_rank = 3 * 2 * 32 * 4 * (2 * (32 + 48) + 32)  # layers; A, B and router of four experts
    assert dense.model - tuned.model == 2 * 32 * (3 * block + 32 * 64) - 3 * low_rank


def test_flops_agree_with_the_compiler_on_the_forward_pass():
    """XLA counts a program without loops; attention there is computed in full, not its causal half."""
    model = params.build(SHAPE)
    tokens = jnp.zeros((2, 16), jnp.int32)

    def forward(tokens):
        from jaxmoe.model.attention import AttentionMask

        ones = jnp.ones_like(tokens)
        out = model(tokens, tokens, AttentionMask(ones, ones), scan_layers=False)
        return model.logits(out.hidden_BTD)

    counted = jax.jit(forward).lower(tokens).compile().cost_analysis()["flops"]
    ours = step_flops(SHAPE, None, "all", batch=2, length=16, remat="none")
    attention = 3 * 2 * (2 * 16) * 16 * 32
    products = (ours.model - 3 * attention) / 3
    elementwise = 0.25  # softmax, norms, rotary: not products, and not small in so small a model
    assert products + 2 * attention <= counted <= (products + 2 * attention) * (1 + elementwise)


def test_traffic_of_a_gather_in_a_loop():
    """Four devices gather a [8, 8] float32 matrix in each of 5 turns: each sends 3/4 of 256 bytes a turn."""
    mesh = params.make_mesh(1, 4, 1, devices=jax.devices()[:4])
    split, whole = (NamedSharding(mesh, jax.P(*axes)) for axes in (("fsdp",), ()))

    def turn(x, w):
        full = jax.lax.with_sharding_constraint(w, whole)
        return jnp.tanh(x @ full), None

    def loop(x, ws):
        return jax.lax.scan(turn, x, ws)[0]

    ws = jax.ShapeDtypeStruct((5, 8, 8), jnp.float32, sharding=NamedSharding(mesh, jax.P(None, "fsdp")))
    x = jax.ShapeDtypeStruct((4, 8), jnp.float32, sharding=split)
    hlo = jax.jit(loop, out_shardings=split).lower(x, ws).compile().as_text()
    sent = collectives.sent_bytes(hlo, 4)
    assert sent["all-gather"] == 5 * 0.75 * 256


@pytest.mark.parametrize(
    ("text", "message"),
    [("v9:4x4", "must name one of cpu, v4"), ("v5e", "reads CHIP:SHAPE"), ("h100:0", "reads CHIP:SHAPE")],
)
def test_unknown_topologies_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        chips.parse(text)


def test_plan_of_a_small_run(tmp_path, capsys):
    config = ROOT / "configs" / "sft" / "tiny.yaml"
    overrides = [
        "mesh.data=1",
        "mesh.fsdp=8",
        "model={vocab_size: 256, hidden_size: 64, intermediate_size: 96, "
        "num_layers: 2, num_heads: 4, num_kv_heads: 2, head_dim: 16}",
    ]
    found = plan_run.plan_run(config, overrides, "cpu:8", tmp_path / "plan.json")
    assert found is not None
    saved = json.loads((tmp_path / "plan.json").read_text())
    shape = ModelConfig(256, 64, 96, 2, 4, 2, 16)
    split = params.split(params.abstract(shape, ExpertConfig(num_experts=4, rank=4)))
    assert found.devices == 8
    # weights whose axes 8 divides are split; the rest (norms, scales) is small
    base = 4 * params.count(split.frozen)
    assert base / 8 <= found.memory["base"] <= base / 8 * 1.1
    assert found.memory["optimizer"] >= 2 * found.memory["trainable"]
    assert saved["flops"]["model"] == found.flops.model
    assert found.sent["all-gather"] > 0
    assert "no published figures" in capsys.readouterr().out
    generation = saved["decode"]
    # keys and values of two layers, 16 rows of 192 positions, two heads of 16 in float32, over eight devices
    assert generation["memory"]["cache"] == 2 * 2 * (16 // 8) * 192 * 2 * 16 * 4
    assert generation["memory"]["temporaries"] >= generation["memory"]["cache"]


def test_gpu_figures_bound_the_step(tmp_path):
    """On one chip nothing is sent, and the step takes at least its FLOPs at the published peak."""
    config = ROOT / "configs" / "pretrain" / "tiny.yaml"
    found = plan_run.plan_run(config, [], "h100:1", decode=False)
    assert found.seconds is not None
    assert found.mfu is not None
    assert found.seconds["communication"] == 0
    np.testing.assert_allclose(
        found.seconds["compute"],
        (found.flops.model + found.flops.recomputed) / chips.CHIPS["h100"].peak_flops,
    )
    assert 0 < found.mfu[1] <= found.mfu[0] <= 1


def test_the_train_step_lowers_for_tpu_and_cuda():
    """What the planner compiles is also exported for both platforms, with nothing of theirs installed."""
    overrides = [
        "model={vocab_size: 64, hidden_size: 32, intermediate_size: 48, num_layers: 2, num_heads: 4, "
        "num_kv_heads: 2, head_dim: 8}",
        "step.precision=bfloat16",
        "step.remat=full",
    ]
    config = configs.load(SftConfig, ROOT / "configs" / "sft" / "tiny.yaml", overrides)
    decoder = model.abstract_model(plan_step.shape_of(config.source), config.experts, "bfloat16")
    mesh = params.make_mesh(devices=jax.devices()[:1])
    machinery = run.make_machinery(
        decoder, "experts", mesh, config.optimizer, config.step, config.balance, steps=10, seed=0
    )
    arguments = plan_step.abstract_arguments(decoder, "experts", machinery, mesh, config.data)
    # an exported program's interface is plain containers
    leaves, structure = jax.tree.flatten(arguments)
    flat = jax.jit(lambda *leaves: jax.tree.leaves(machinery.step_fn(*jax.tree.unflatten(structure, leaves))))
    exported = jax.export.export(flat, platforms=["tpu", "cuda"])(*leaves)
    assert exported.platforms == ("tpu", "cuda")
    assert "stablehlo.dot_general" in exported.mlir_module()


@pytest.mark.parametrize("layers", [2])
def test_a_tpu_slice_compiles_without_one(layers, tmp_path):
    """The real fine-tuning step of the 7B config, with two layers, for a v5e-16."""
    pytest.importorskip("libtpu", reason="the TPU compiler is an extra: pip install 'jaxmoe[plan]'")
    config = ROOT / "configs" / "sft" / "llama2_7b_v5e_16.yaml"
    found = plan_run.plan_run(config, [f"model.num_layers={layers}"], "v5e:4x4", decode=False)
    assert found.devices == 16
    assert found.needed < 16 * chips.GIB
    # FSDP: the frozen base is gathered layer by layer, its bytes a sixteenth on each chip
    assert found.memory["base"] < found.sent["all-gather"]


def test_the_command_is_read_from_a_run_folder_and_else_told_from_the_config(tmp_path):
    (tmp_path / "config.yaml").write_text("base: x\n")
    assert plan_run.command_for(tmp_path, []) == ("sft", "the config has the key base")
    (tmp_path / "run.json").write_text('{"command": "pretrain"}')
    assert plan_run.command_for(tmp_path, []) == ("pretrain", None)
    assert plan_run.command_for(tmp_path, [], "ppo") == ("ppo", None)
    assert plan_run.command_for("ppo/quickstart", [])[0] == "ppo"
    with pytest.raises(ValueError, match="--command must be one of pretrain, sft, ppo; got 'eval'"):
        plan_run.command_for(tmp_path, [], "eval")


def test_a_ppo_folder_is_planned(tmp_path, capsys):
    """Its rollouts: rows are prompts times samples."""
    shape = {"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48}
    shape |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(shape))
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text('{"command": "ppo"}')
    rollout = {"prompts": 4, "samples": 2, "prompt_tokens": 32, "response_tokens": 32}
    config = {"output": str(run), "base": str(tmp_path / "base"), "rounds": 2, "rollout": rollout}
    (run / "config.yaml").write_text(json.dumps(config))
    assert plan_run.plan_run(run, [], "cpu:8", tmp_path / "plan.json") is None
    saved = json.loads((tmp_path / "plan.json").read_text())
    assert saved["command"] == "ppo"
    assert (saved["decode"]["rows"], saved["decode"]["prompt"], saved["decode"]["new_tokens"]) == (8, 32, 32)
    assert "the learning step is not" in capsys.readouterr().out


def test_a_token_meets_the_experts_that_it_uses():
    """With all experts in use, all of a layer's weights but its norms."""
    moe = MoeConfig(num_experts=4, experts_per_token=4, expert_size=12, shared_size=8)
    config = dataclasses.replace(SHAPE, moe=moe)
    blocks = params.split(params.abstract(config), "none").frozen["blocks"]
    norms = 2 * config.hidden_size
    assert weights_used(config) == params.count(blocks) / config.num_layers - norms
    fewer = dataclasses.replace(config, moe=dataclasses.replace(moe, experts_per_token=1))
    assert weights_used(config) - weights_used(fewer) == 3 * 3 * 12 * config.hidden_size
