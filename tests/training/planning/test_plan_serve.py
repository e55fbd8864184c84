"""Planning of generation and of a server, in closed form."""

import dataclasses
import json
from pathlib import Path

import jax
import pytest

import jaxmoe
from jaxmoe.generation.engine import EngineConfig
from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params
from jaxmoe.model.config import ExpertConfig, ModelConfig, MoeConfig
from jaxmoe.model.quantized import QuantizedDtype
from training.commands import plan as command
from training.planning import chips
from training.planning.chips import CHIPS
from training.planning.plan_decode import make_decode_plan
from training.planning.plan_serve import Spread, plan_serve, plan_server

# D 64, F 96, 2 layers, 4 heads, 2 of keys and values of 16, V 256; embedding and head apart
SHAPE = ModelConfig(256, 64, 96, 2, 4, 2, 16, tie_embeddings=False)
KERNELS = 2 * (64 * 64 * 2 + 2 * 64 * 32 + 3 * 64 * 96)
REST = 2 * 256 * 64 + 2 * 2 * 64 + 64
ENGINE = EngineConfig(slots=8, max_length=448, chunk=64)
ONE = Spread(1, 1, 1)


def test_generation_reads_weights_and_cache_once_a_step():
    """Two data groups of one chip: each reads all weights, and the cache of three of six rows."""
    mesh = params.make_mesh(2, 1, 1, devices=jax.devices()[:2])
    topology = chips.parse("h100:2")
    decoder = params.abstract(SHAPE)
    plan = make_decode_plan(SHAPE, decoder, topology, mesh, rows=6, length=32, dtype="float32")
    base = 4 * (KERNELS + REST)
    cache = 3 * 32 * 2 * 2 * 2 * 16 * 4
    assert (plan.memory["base"], plan.memory["experts"], plan.memory["cache"]) == (base, 0, cache)
    assert plan.step_s == (base + cache) / 3350e9
    assert (plan.prompt, plan.new_tokens) == (16, 16)
    assert plan.needed == base + plan.memory["temporaries"] + plan.memory["program"]
    assert plan.memory["temporaries"] >= cache


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_slots_fill_what_the_weights_leave(dtype: str, size: int):
    plan = plan_serve(SHAPE, None, CHIPS["v5e"], ONE, ENGINE, dtype=dtype)
    weights = size * (KERNELS + REST)
    position = 2 * 2 * 2 * 16 * size
    # a chunk is written whole behind the longest text
    assert (plan.weights, plan.position, plan.slot) == (weights, position, position * (448 + 64))
    assert plan.slots == int((0.9 * 16 * 2**30 - weights) // plan.slot)


@pytest.mark.parametrize("chip", ["v5e", "v6e", "h100"])
def test_a_step_is_bound_by_memory_then_by_products(chip: str):
    plan = plan_serve(SHAPE, None, CHIPS[chip], ONE, ENGINE, dtype="bfloat16")
    bandwidth, peak = CHIPS[chip].memory_bandwidth, CHIPS[chip].peak_flops
    # 2 a weight of layers and head; attention 4 N H a layer and position, 224 on average
    flops = 2 * (KERNELS + 256 * 64) + 2 * 4 * 224 * 4 * 16
    assert plan.flops == pytest.approx(flops, rel=1e-12)
    read = 2 * (KERNELS + REST) + 224 * plan.position
    assert plan.step_s(1) == pytest.approx(read / bandwidth, rel=1e-12)
    assert plan.rate(1) == pytest.approx(bandwidth / read, rel=1e-12)
    # without keys and values to read the products would be what takes longest
    many = 10**9
    assert plan._replace(position=0).step_s(many) == pytest.approx(many * flops / peak, rel=1e-12)


def test_chips_share_weights_heads_and_slots():
    plan = plan_serve(SHAPE, None, CHIPS["v5e"], Spread(2, 2, 2), ENGINE, dtype="bfloat16")
    one = plan_serve(SHAPE, None, CHIPS["v5e"], ONE, ENGINE, dtype="bfloat16")
    assert plan.weights == one.weights
    assert plan.weights_held == -(-one.weights // 4)
    assert plan.slot == one.slot // 2
    assert plan.slots == 4 * int((0.9 * 16 * 2**30 - plan.weights_held) // plan.slot)
    # eight texts are two for each of four groups; each chip of two reads half of the weights, gathered whole
    assert plan.step_s(8) == (one.weights / 2 + 2 * 224 * plan.position) / 819e9
    # heads that cannot be split are held by all
    three = plan_serve(SHAPE, None, CHIPS["v5e"], Spread(1, 1, 3), ENGINE, dtype="bfloat16")
    assert three.slot == one.slot


def test_chips_share_a_base_s_experts():
    """Of the experts of a mixture each chip of two holds and reads half; slots are spread as over data."""
    shape = dataclasses.replace(SHAPE, moe=MoeConfig(num_experts=4, experts_per_token=2, expert_size=32))
    one = plan_serve(shape, None, CHIPS["v5e"], ONE, ENGINE, dtype="bfloat16")
    two = plan_serve(shape, None, CHIPS["v5e"], Spread(1, 1, 1, 2), ENGINE, dtype="bfloat16")
    experts = 2 * SHAPE.num_layers * 4 * 3 * SHAPE.hidden_size * 32
    assert two.weights_held == one.weights - experts // 2
    assert two.slots == 2 * int((0.9 * 16 * 2**30 - two.weights_held) // one.slot)
    assert two.step_s(2) == (one.weights - experts / 2 + 224 * one.position) / 819e9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and an adapter."""
    made = tmp_path_factory.mktemp("model")
    lm = LanguageModel.random(SHAPE, ExpertConfig(num_experts=3, rank=2, targets=("up_proj",)))
    jaxmoe.save(lm, made / "adapter", "loramoe")
    jaxmoe.save(LanguageModel.random(SHAPE, train="all"), made / "base", "hf")
    return made


@pytest.mark.parametrize(
    ("dtype", "base_dtype"), [("bfloat16", "int8"), ("float32", "nf4"), ("bfloat16", None)]
)
def test_weights_are_those_that_a_server_loads(folder: Path, dtype: str, base_dtype: QuantizedDtype | None):
    loaded = jaxmoe.load(folder / "base", folder / "adapter", dtype, base_dtype=base_dtype)
    words = [f"base={folder / 'base'}", f"adapter={folder / 'adapter'}", f"dtype={dtype}", "mesh.data=1"]
    words += [f"base_dtype={base_dtype}"] if base_dtype else []
    plan = plan_server(words, "v6e:1", None, folder / "plan.json")
    assert plan.weights == params.storage_bytes((loaded.weights.trainable, loaded.weights.frozen))
    saved = json.loads((folder / "plan.json").read_text())
    assert saved["slots"] == plan.slots
    assert set(saved["rates"]) == {"1", "8", str(plan.slots)}


def test_the_command_names_what_it_needs(folder: Path, capsys: pytest.CaptureFixture[str]):
    base = f"base={folder / 'base'}"
    command.command("v5e:2x2", [base, "engine.slots=1000000"], kind="serve")
    said = capsys.readouterr().out
    assert "slots that fit" in said
    assert "1000000 do not fit" in said
    for words, topology, kind, message in [
        ([base], "cpu:1", "serve", "chips with published figures; cpu:1 has none"),
        ([base, "engine.max_length=4096"], "v5e:1", "serve", "must be at most 2048, the positions of the"),
        (["run=x"], "v5e:1", "serve", "planned by files"),
        ([base, "mesh.tensor=3"], "v5e:2x2", "serve", "must multiply to the 4 chips; got -1 x 1 x 3 x 1"),
        (
            [base, "mesh.expert=2"],
            "v5e:2x2",
            "serve",
            "must divide the experts of the base; got 2, and it has no experts",
        ),
        ([], "v5e:1", None, "--config names what is planned"),
    ]:
        with pytest.raises(ValueError, match=message):
            command.command(topology, words, kind=kind)
