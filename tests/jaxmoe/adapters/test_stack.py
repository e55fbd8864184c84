"""Adapters side by side: each row gets what its adapter alone gives."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmoe.adapters.record import Adapter, ModuleExperts, module_specs, pack
from jaxmoe.adapters.stack import stack_adapters
from jaxmoe.generation.engine import Engine, EngineConfig
from jaxmoe.generation.requests import Request
from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params
from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.config import ExpertConfig, ModelConfig
from jaxmoe.weights import convert
from tests.tolerances import rounding_bound

MODEL = ModelConfig(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
)
KINDS = {
    "moe": ExpertConfig(num_experts=3, rank=2, alpha=4.0),
    "wide": ExpertConfig(
        num_experts=2, rank=5, alpha=3.0, targets=("q_proj", "down_proj"), scaling="sqrt_rank"
    ),
    "hydra": ExpertConfig(num_experts=2, rank=3, alpha=6.0, shared_a=True, targets=("up_proj",)),
    "lora": ExpertConfig(num_experts=1, rank=4, alpha=8.0, routing="none", targets=("v_proj", "gate_proj")),
    "joint": ExpertConfig(num_experts=3, rank=2, alpha=2.0, routing="none", targets=("o_proj",)),
}


def random_adapter(config: ExpertConfig, seed: int) -> Adapter:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.3, shape).astype(np.float32)

    modules = {
        name: ModuleExperts(
            draw(1 if config.shared_a else s.experts, s.rank, s.in_features),
            draw(s.experts, s.out_features, s.rank),
            None if config.routing == "none" else draw(s.experts, s.in_features),
        )
        for name, s in module_specs(config, MODEL).items()
    }
    return Adapter(config, BalanceConfig(weight=0.0), modules)


def with_adapter(adapter: Adapter) -> LanguageModel:
    """The base of seed 0 with an adapter."""
    weights = params.split(params.build(MODEL, adapter.config, std=0.3))
    flat = convert.flatten(weights.trainable)
    packed = {path: jnp.asarray(array) for path, array in pack(adapter, MODEL).items()}
    assert packed.keys() <= flat.keys()
    trained = convert.unflatten(flat | packed)
    return LanguageModel(
        MODEL, weights._replace(trainable=trained), params.single_device_mesh(), adapter.config
    )


def test_each_request_gets_its_own_adapter():
    adapters = {name: random_adapter(config, i) for i, (name, config) in enumerate(KINDS.items())}
    stacked = stack_adapters(adapters, MODEL)
    assert stacked.runs == {"moe": (0, 3), "wide": (3, 5), "hydra": (5, 7), "lora": (7, 8), "joint": (8, 9)}
    engine = Engine(
        with_adapter(stacked.adapter), EngineConfig(slots=6, max_length=64, chunk=8, sizes=()), stacked.runs
    )
    prompt = [3, 1, 4, 1, 5, 9, 2, 6]
    ids = {name: engine.submit(Request(prompt, 12, experts=name)) for name in adapters}
    ids["base"] = engine.submit(Request(prompt, 12, experts=False))
    done = engine.run()
    alone = {name: with_adapter(adapter) for name, adapter in adapters.items()}
    rows = np.asarray([prompt])
    for name, lm in alone.items():
        made = lm.generate(rows, max_new_tokens=12, stop_tokens=())
        assert done[ids[name]].tokens == made.tokens[0, len(prompt) :].tolist(), name
    base = alone["moe"].generate(rows, max_new_tokens=12, stop_tokens=(), experts=False)
    assert done[ids["base"]].tokens == base.tokens[0, len(prompt) :].tolist()
    assert len({tuple(one.tokens) for one in done.values()}) > 3


def test_what_one_adapter_read_is_not_taken_for_another():
    adapters = {name: random_adapter(KINDS["moe"], i) for i, name in enumerate(("one", "two"))}
    stacked = stack_adapters(adapters, MODEL)
    engine = Engine(
        with_adapter(stacked.adapter), EngineConfig(slots=2, max_length=64, chunk=8, sizes=()), stacked.runs
    )
    prompt = list(range(1, 33))
    assert engine.run_one(Request(prompt, 2, experts="one")).reused == 0
    assert engine.run_one(Request(prompt, 2, experts="two")).reused == 0
    assert engine.run_one(Request(prompt, 2, experts="one")).reused == 31
    with pytest.raises(ValueError, match="experts must be one of one, two; got 'three'"):
        engine.submit(Request(prompt, 2, experts="three"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dataclasses.replace(KINDS["moe"], routing="top_k"), "adapter it chooses experts by top_k"),
        (ExpertConfig(num_experts=1, routing="none", dora=True), "adapter it has DoRA"),
        (dataclasses.replace(KINDS["moe"], num_experts=(2, 3)), "other numbers of experts in other layers"),
    ],
)
def test_what_cannot_stand_beside_others_is_refused(config: ExpertConfig, message: str):
    with pytest.raises(ValueError, match=message):
        stack_adapters({"it": random_adapter(config, 0)}, MODEL)


def test_a_run_of_experts_is_the_adapter_alone():
    """The sum of a run's experts equals the adapter's, expert by expert, whatever stands beside it."""
    adapter = random_adapter(KINDS["moe"], 0)
    stacked = stack_adapters({"a": adapter, "b": random_adapter(KINDS["wide"], 1)}, MODEL)
    spec = module_specs(adapter.config, MODEL)["layers.1.mlp.up_proj"]
    mine, theirs = stacked.adapter.modules["layers.1.mlp.up_proj"], adapter.modules["layers.1.mlp.up_proj"]
    x = np.random.default_rng(0).normal(size=spec.in_features)
    for expert in range(3):
        # B is multiplied by the scale in float32; the products here are of float64
        got = mine.b_EOR[expert] @ (mine.a_ERI[expert] @ x)
        expected = spec.scale * theirs.b_EOR[expert] @ (theirs.a_ERI[expert] @ x)
        largest = np.abs(mine.b_EOR[expert]) @ np.abs(mine.a_ERI[expert] @ x)
        np.testing.assert_allclose(got, expected, rtol=0, atol=rounding_bound(2, largest.max()))
