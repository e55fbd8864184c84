"""Adapters in and out: the original code's numbers, round trips of all formats, files that do not fit."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxmoe
from jaxmoe.adapters.files import AdapterFormat, read_adapter, write_adapter
from jaxmoe.adapters.loramoe import LAYOUT
from jaxmoe.adapters.record import module_specs, pack, start_experts_from, unpack
from jaxmoe.adapters.tensors import modules_to_tensors
from jaxmoe.export import extract_adapter, merged
from jaxmoe.language_model import layer_experts
from jaxmoe.model import balance as balancing
from jaxmoe.model import cross_entropy, params
from jaxmoe.model.attention import AttentionMask
from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.config import ExpertConfig, ModelConfig
from jaxmoe.model.lora_experts import ExpertCall
from jaxmoe.pretrained import read_model_config
from jaxmoe.weights import convert
from jaxmoe.weights.torch_pickle import read_tensors
from tests.tiny_checkpoints import (
    FLOAT32_LOGITS,
    in_double,
    logits_of,
    padded_batch,
    random_adapter,
    write_checkpoint,
)
from tests.tolerances import double_precision, rounding_bound

LOGITS = 1e-4  # the original's float32 logits are 4e-5 from their float64 value; ours are float64
LOSSES = 1e-5  # the same: means of many logits, of which a logit's error is a small part
CONSTRAINT = 1e-4  # the same of one module: a variance, small differences of nearly equal shares
GRADIENT = 1.2e-4  # the same: they lie 1.05e-4 of a tensor's largest from their float64 value, on any machine

CONFIG = ModelConfig(96, 32, 48, 3, 4, 2, 8)
DENSE = ExpertConfig(num_experts=3, rank=2, alpha=8.0)
RAGGED = ExpertConfig(
    num_experts=(3, 0, 2),
    rank=(2, 4, 3),
    alpha=6.0,
    scaling="sqrt_rank",
    targets=("q_proj", r"layers\.[02]\.mlp\.up_proj", "down_proj"),
    routing="top_k",
    top_k=2,
)
SHARED = ExpertConfig(num_experts=3, rank=2, targets=("o_proj", "gate_proj"), shared_a=True, routing="top_p")
LORA = ExpertConfig(num_experts=1, rank=4, alpha=16.0, routing="none", targets=("v_proj", "up_proj"))
JOINT = ExpertConfig(num_experts=(2, 3, 1), rank=(1, 2, 3), alpha=5.0, routing="none", scaling="sqrt_rank")


def assert_same_adapter(first, second, tolerance=0.0):
    assert set(first.modules) == set(second.modules)
    for name, module in first.modules.items():
        for one, other in zip(module, second.modules[name], strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_allclose(one, other, atol=tolerance, rtol=tolerance, err_msg=name)


def written(folder, adapter, format: AdapterFormat = "loramoe"):
    folder.mkdir()
    write_adapter(folder, adapter, CONFIG, format, "base")
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    write_checkpoint(folder, model_type="llama", num_hidden_layers=3)
    return folder


@pytest.fixture(scope="module")
def golden(goldens):
    folder = goldens / "loramoe" / "llama"
    return jaxmoe.load(folder / "base", folder / "adapter"), np.load(folder / "expected.npz")


def golden_losses(lm, expected):
    """Cross-entropy, constraint and statistics by token of the golden batch, as a function of the adapter."""
    tokens, mask = expected["input_ids"].astype(np.int32), expected["attention_mask"].astype(np.int32)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    targets = (expected["labels"] != -100).astype(np.float32)
    task_types = jnp.asarray(expected["task_types"], jnp.int32)[:, None]
    samples = jnp.ones((*tokens.shape, 1))

    @jax.jit
    def run(trainable):
        model = params.merge(lm.weights._replace(trainable=trainable))
        attention = AttentionMask(jnp.ones_like(mask), jnp.asarray(mask))
        call = ExpertCall(samples_BTZ=samples)
        out = model(tokens, positions, attention, dtype=jnp.float32, call=call)
        total, count = cross_entropy.cross_entropy(
            out.hidden_BTD, model.output_head(jnp.float32), jnp.asarray(tokens), targets
        )
        balance = balancing.balance_loss(
            out.statistics, task_types, samples.sum(1), layer_experts(model), lm.balance
        )
        return total / count + balance.total, (total / count, out.statistics)

    return run


@double_precision()
def test_golden_logits_loss_and_constraint(golden):
    lm, expected = in_double(golden[0]), golden[1]
    out = lm(expected["input_ids"], expected["attention_mask"], expected["task_types"])
    np.testing.assert_allclose(out.logits, expected["logits"], atol=LOGITS)
    np.testing.assert_allclose(out.balance_loss, expected["blc"], rtol=LOSSES)
    inference = lm(expected["input_ids"], expected["attention_mask"])
    np.testing.assert_allclose(inference.logits, expected["logits_infer"], atol=LOGITS)
    assert float(inference.balance_loss) == 0.0
    loss, (ce, _) = golden_losses(lm, expected)(lm.weights.trainable)
    np.testing.assert_allclose(ce, expected["ce"], rtol=LOSSES)
    np.testing.assert_allclose(loss, expected["loss"], rtol=LOSSES)


@double_precision()
def test_golden_constraint_of_each_module(golden):
    lm, expected = in_double(golden[0]), golden[1]
    _, (_, statistics) = golden_losses(lm, expected)(lm.weights.trainable)
    types = jnp.asarray(expected["task_types"], jnp.int32)
    names = [k for k in expected.files if k.startswith("blc.")]
    assert len(names) == 6
    for key in names:
        _, layer, _, projection = key.removeprefix("blc.base_model.model.model.").split(".")
        share = statistics[projection].weight_BZE[int(layer), :, 0]
        loss = balancing.localized_balancing(share, types, jnp.ones(share.shape), lm.balance)
        np.testing.assert_allclose(lm.balance.weight * loss, expected[key], rtol=CONSTRAINT, err_msg=key)


@double_precision()
def test_golden_router_weights_of_each_token(golden):
    lm, expected = in_double(golden[0]), golden[1]
    tokens, mask = expected["input_ids"].astype(np.int32), expected["attention_mask"].astype(np.int32)
    batch, length = tokens.shape
    each_token = jnp.broadcast_to(jnp.eye(length), (batch, length, length))  # token t is sample t
    model = params.merge(lm.weights)
    attention = AttentionMask(jnp.ones_like(mask), jnp.asarray(mask))
    positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
    call = ExpertCall(samples_BTZ=each_token)
    out = model(tokens, positions, attention, dtype=jnp.float32, call=call)
    names = [k for k in expected.files if k.startswith("route.")]
    assert len(names) == 6
    for key in names:
        _, layer, _, projection = key.removeprefix("route.base_model.model.model.").split(".")
        weights = out.statistics[projection].weight_BZE[int(layer)]
        np.testing.assert_allclose(weights, expected[key], atol=LOGITS, err_msg=key)


@double_precision()
def test_golden_gradients_of_every_tensor(golden):
    lm, expected = in_double(golden[0]), golden[1]
    run = golden_losses(lm, expected)
    gradient = jax.grad(lambda trainable: run(trainable)[0])(lm.weights.trainable)
    unpacked = unpack(convert.flatten(gradient), lm.experts, lm.balance, lm.config)
    tensors = modules_to_tensors(LAYOUT, unpacked)
    wanted = {k.removeprefix("grad."): expected[k] for k in expected.files if k.startswith("grad.")}
    assert set(tensors) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(tensors[name], value, atol=GRADIENT * np.abs(value).max(), err_msg=name)


def test_golden_adapter_settings(golden):
    lm, _ = golden
    assert lm.experts == ExpertConfig(
        num_experts=4,
        rank=4,
        alpha=32.0,
        targets=("gate_proj", "up_proj", "down_proj"),
        dropout_mask="per_expert",  # as the original draws it
    )
    assert lm.balance == BalanceConfig(weight=0.1, delta=0.1)


def test_golden_folder_is_written_again_as_it_was(golden, goldens, tmp_path):
    source = goldens / "loramoe" / "llama" / "adapter"
    jaxmoe.save(golden[0], tmp_path / "out", format="loramoe")
    ours, theirs = (
        read_tensors(tmp_path / "out" / "adapter_model.bin"),
        read_tensors(source / "adapter_model.bin"),
    )
    assert list(ours) == list(theirs)  # the order of names too
    assert all(np.array_equal(ours[n], theirs[n]) for n in theirs)
    config, expected = (
        json.loads((folder / "adapter_config.json").read_text()) for folder in (tmp_path / "out", source)
    )
    for setting in expected.keys() - {"base_model_name_or_path"}:
        assert config[setting] == expected[setting], setting
    assert config["base_model_name_or_path"] == str((source.parent / "base").absolute())
    assert list(config) == sorted(config)


def test_bin_alone_and_safetensors_alone_are_read(goldens, tmp_path):
    source = goldens / "loramoe" / "llama" / "adapter"
    config = read_model_config(source.parent / "base")
    adapters = []
    for kept in ("adapter_model.bin", "adapter_model.safetensors"):
        folder = tmp_path / kept
        folder.mkdir()
        for name in (kept, "adapter_config.json"):
            shutil.copy(source / name, folder / name)
        adapters.append(read_adapter(folder, config))
    assert_same_adapter(*adapters)


@pytest.mark.parametrize(
    "experts", [DENSE, RAGGED, SHARED, LORA, JOINT], ids=["dense", "ragged", "shared", "lora", "joint"]
)
def test_tree_and_files_hold_the_same(experts, tmp_path):
    """Adapter -> padded tree -> adapter, and -> folder -> adapter, for per-layer sizes and all routings."""
    adapter = random_adapter(experts, CONFIG)
    flat = pack(adapter, CONFIG)
    shapes = convert.flatten(params.split(params.abstract(CONFIG, experts)).trainable)
    assert {p: a.shape for p, a in flat.items()} == {p: s.shape for p, s in shapes.items()}
    assert_same_adapter(unpack(flat, experts, adapter.balance, CONFIG), adapter)
    again = read_adapter(written(tmp_path / "x", adapter), CONFIG)
    assert_same_adapter(again, adapter)
    assert (again.config, again.balance) == (adapter.config, adapter.balance)


def test_settings_that_the_original_lacks_stop_it(tmp_path):
    """At an unknown peft_type the original raises KeyError; else it would compute something else."""
    kinds = {}
    for name, experts in {"dense": DENSE, "top_k": RAGGED, "shared": SHARED, "lora": LORA}.items():
        folder = written(tmp_path / name, random_adapter(experts, CONFIG))
        kinds[name] = json.loads((folder / "adapter_config.json").read_text())["peft_type"]
    assert kinds == {"dense": "LORA", "top_k": "JAXMOE", "shared": "JAXMOE", "lora": "JAXMOE"}


def test_moe_peft_round_trip(tmp_path):
    targets = ("up_proj", "down_proj")
    experts = dataclasses.replace(DENSE, targets=targets, scaling="sqrt_rank", dropout=0.05)
    adapter = random_adapter(experts, CONFIG)
    folder = written(tmp_path / "x", adapter, "moe-peft")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["peft_type"], config["routing_strategy"], config["num_experts"]) == (
        "LORAMOE",
        "loramoe",
        3,
    )
    assert "loramoe.layers.2.mlp.up_proj.experts.1.lora_B.weight" in read_tensors(
        folder / "adapter_model.bin"
    )
    again = read_adapter(folder, CONFIG)
    assert_same_adapter(again, adapter)
    assert again.config == dataclasses.replace(experts, dropout_mask="per_expert")


@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_moe_peft_files_pass_the_checks_of_moe_peft(tmp_path, dropout):
    """What its LoraConfig.check, LoraMoeConfig.check and Lora.__init__ assert of adapter_config.json."""
    adapter = random_adapter(dataclasses.replace(DENSE, dropout=dropout), CONFIG)
    folder = written(tmp_path / "x", adapter, "moe-peft")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert isinstance(config["lora_dropout"], float)
    assert config["lora_dropout"] > 0
    for key in ("r", "lora_alpha", "num_experts"):
        assert isinstance(config[key], int)
        assert config[key] > 0
    assert isinstance(config.get("use_dora", False), bool)
    assert isinstance(config.get("use_rslora", False), bool)
    assert config.get("lora_init", "original") in ("original", "gaussian")
    assert isinstance(config.get("router_init_range", 5.0), float)
    assert isinstance(config["target_modules"], list)
    tensors = read_tensors(folder / "adapter_model.bin")  # it reads no safetensors
    for layer in range(3):
        for projection in config["target_modules"]:
            start = f"loramoe.layers.{layer}.mlp.{projection}"
            assert f"{start}.moe_gate.weight" in tensors
            assert all(f"{start}.experts.{i}.lora_{x}.weight" in tensors for i in range(3) for x in "AB")
    assert read_adapter(folder, CONFIG).config.dropout == dropout


@pytest.mark.parametrize("experts", [RAGGED, SHARED, LORA], ids=["ragged", "shared", "lora"])
def test_moe_peft_refuses_what_it_cannot_hold(tmp_path, experts):
    with pytest.raises(ValueError, match="the moe-peft format needs"):
        written(tmp_path / "x", random_adapter(experts, CONFIG), "moe-peft")


def test_peft_round_trip(tmp_path):
    adapter = random_adapter(LORA, CONFIG)
    folder = written(tmp_path / "x", adapter, "peft")
    assert not (folder / "adapter_model.bin").exists()
    names = load_file(folder / "adapter_model.safetensors")
    assert "base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight" in names
    again = read_adapter(folder, CONFIG)
    assert_same_adapter(again, adapter)
    assert again.config == LORA
    with pytest.raises(ValueError, match="holds plain LoRA"):
        written(tmp_path / "y", random_adapter(DENSE, CONFIG), "peft")


def delta_of(adapter, name):
    """What a module's unrouted experts add to its weight, [out, in], in double precision."""
    a, b, *_ = (x if x is None else np.asarray(x, np.float64) for x in adapter.modules[name])
    a = np.broadcast_to(a, (len(b), *a.shape[1:]))
    return module_specs(adapter.config, CONFIG)[name].scale * np.einsum("eor,eri->oi", b, a)


def test_experts_without_a_router_become_one_lora(tmp_path):
    adapter = random_adapter(JOINT, CONFIG)
    folder = written(tmp_path / "x", adapter, "peft")
    again = read_adapter(folder, CONFIG)
    assert again.config.layer_ranks(3) == (2, 6, 3)
    for name in adapter.modules:
        # the files hold float32: a factor that took in a scale was rounded once
        bound = rounding_bound(2, np.abs(delta_of(adapter, name)).max())
        np.testing.assert_allclose(delta_of(again, name), delta_of(adapter, name), atol=bound, err_msg=name)


def test_peft_patterns_and_partial_targets(tmp_path):
    """Patterns, layers_to_transform and exclude_modules decide which modules there are, and their scales."""
    rng = np.random.default_rng(0)
    config = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "up_proj", "layers.0.mlp.down_proj"],
        "exclude_modules": ["layers.2.self_attn.q_proj"],
        "layers_to_transform": [0, 2],
        "rank_pattern": {"up_proj": 2},
        "alpha_pattern": {"layers.0.self_attn.q_proj": 12},
    }
    sizes = {
        "layers.0.self_attn.q_proj": (4, 32, 32, 12 / 4),
        "layers.0.mlp.up_proj": (2, 32, 48, 8 / 2),
        "layers.0.mlp.down_proj": (4, 48, 32, 8 / 4),
        "layers.2.mlp.up_proj": (2, 32, 48, 8 / 2),
    }
    tensors, deltas = {}, {}
    for name, (rank, width, out, scale) in sizes.items():
        a = rng.normal(size=(rank, width)).astype(np.float32)
        b = rng.normal(size=(out, rank)).astype(np.float32)
        tensors[f"base_model.model.model.{name}.lora_A.weight"] = a
        tensors[f"base_model.model.model.{name}.lora_B.weight"] = b
        deltas[name] = scale * b @ a
    folder = tmp_path / "x"
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    adapter = read_adapter(folder, CONFIG)
    flat = pack(adapter, CONFIG)
    padded = unpack(flat, adapter.config, adapter.balance, CONFIG)
    assert set(padded.modules) == set(sizes)
    for name, delta in deltas.items():
        np.testing.assert_allclose(
            delta_of(padded, name), delta, atol=rounding_bound(4, np.abs(delta).max()), err_msg=name
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type must be LORA, LORAMOE or JAXMOE; got 'IA3'"),
        ({"use_dora": True}, "missing: .*lora_magnitude_vector"),
        ({"modules_to_save": ["lm_head"]}, "lacks 'lm_head', which modules_to_save says"),
        ({"target_modules": ["x"]}, "match no projection"),
        ({"r": 3}, r"lora_A.weight is \[4, 32\], not \[3, 32\]"),
        ({"target_modules": ["up_proj", "q_proj"]}, "missing: .*q_proj.* unexpected: .*v_proj"),
        ({"r": None}, "lacks 'r'"),
    ],
    ids=str,
)
def test_adapters_that_do_not_fit_are_refused(tmp_path, change, message):
    folder = written(tmp_path / "x", random_adapter(LORA, CONFIG), "peft")
    config = {**json.loads((folder / "adapter_config.json").read_text()), **change}
    (folder / "adapter_config.json").write_text(
        json.dumps({k: v for k, v in config.items() if v is not None})
    )
    with pytest.raises(ValueError, match=message) as caught:
        read_adapter(folder, CONFIG)
    assert "\n" not in str(caught.value)


def test_loramoe_tensors_that_do_not_fit_are_listed(tmp_path):
    folder = written(tmp_path / "x", random_adapter(DENSE, CONFIG))
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop("base_model.model.model.layers.1.mlp.up_proj.lora_B2.weight")
    tensors["base_model.model.model.layers.1.mlp.up_proj.lora_B3.weight"] = np.ones((48, 2), np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"missing: \S+1\.mlp\.up_proj\.lora_B2\S+; unexpected: \S+lora_B3"):
        read_adapter(folder, CONFIG)
    with pytest.raises(ValueError, match="there is no adapter folder"):
        read_adapter(tmp_path / "none", CONFIG)


def test_merged_lora_computes_the_same(llama, tmp_path):
    ids, mask = padded_batch()
    adapter = random_adapter(dataclasses.replace(JOINT, targets=("q_proj", "down_proj")), CONFIG)
    lm = jaxmoe.load(llama, written(tmp_path / "x", adapter), mesh=params.make_mesh(1, 4, 2))
    plain = merged(lm)
    assert plain.experts is None
    kernel = plain.weights.frozen["blocks"]["mlp"]["down_proj"]["kernel"]
    assert kernel.sharding == lm.weights.frozen["blocks"]["mlp"]["down_proj"]["kernel"].sharding
    got, expected = (logits_of(m, ids, mask)[mask > 0] for m in (plain, lm))
    # the merged kernels were rounded to float32, each once
    np.testing.assert_allclose(got, expected, atol=FLOAT32_LOGITS)
    assert np.abs(expected - np.asarray(jaxmoe.load(llama)(ids, mask).logits)[mask > 0]).max() > 0.1


def test_routed_experts_cannot_be_merged(golden):
    with pytest.raises(ValueError, match="cannot be merged into the base"):
        merged(golden[0])


def test_experts_start_as_given_adapters():
    """With the router at 0 each expert counts 1/E, so the experts add the mean of what the adapters add."""
    first, second = (random_adapter(LORA, CONFIG, seed) for seed in (1, 2))
    experts = ExpertConfig(num_experts=4, rank=6, alpha=3.0, targets=("v_proj", "up_proj", "down_proj"))
    fresh = random_adapter(experts, CONFIG)
    fresh = dataclasses.replace(
        fresh, modules={n: m._replace(b_EOR=np.zeros_like(m.b_EOR)) for n, m in fresh.modules.items()}
    )
    started = start_experts_from(fresh, [first, second], CONFIG)
    unrouted = dataclasses.replace(started.config, routing="none")
    summed = dataclasses.replace(
        started, config=unrouted, modules={n: m._replace(router_EI=None) for n, m in started.modules.items()}
    )
    for name in first.modules:
        both = 2 * delta_of(first, name) + 2 * delta_of(second, name)
        bound = rounding_bound(4, np.abs(both).max())
        np.testing.assert_allclose(delta_of(summed, name), both, atol=bound, err_msg=name)
        np.testing.assert_array_equal(started.modules[name].a_ERI[:, 4:], fresh.modules[name].a_ERI[:, 4:])
    down = started.modules["layers.0.mlp.down_proj"]
    np.testing.assert_array_equal(down.a_ERI, fresh.modules["layers.0.mlp.down_proj"].a_ERI)
    assert not down.b_EOR.any()


def test_experts_that_cannot_start_so_are_refused():
    lora = random_adapter(LORA, CONFIG)
    room = dataclasses.replace(DENSE, rank=4, targets=("v_proj", "up_proj"))
    for experts, given, message in [
        (dataclasses.replace(room, shared_a=True), [lora], "shared A"),
        (room, [], "at least one adapter"),
        (room, [random_adapter(DENSE, CONFIG)], "number 0 is a mixture"),
        (dataclasses.replace(room, targets=("up_proj",)), [lora], "where there are no experts: .*v_proj"),
        (dataclasses.replace(room, rank=3), [lora], "rank must be at least 4"),
    ]:
        with pytest.raises(ValueError, match=message):
            start_experts_from(random_adapter(experts, CONFIG), given, CONFIG)


def test_new_experts_are_those_of_a_built_model(llama):
    """Drawn beside a loaded base as `params.build` draws them, the same on one device and on eight."""
    experts = ExpertConfig(num_experts=(2, 0, 3), rank=2, targets=("q_proj", "up_proj"))
    lm = jaxmoe.load(llama, experts=experts, mesh=params.make_mesh(2, 2, 2), seed=5)
    expected = convert.flatten(params.split(params.build(lm.config, experts, seed=5)).trainable)
    got = convert.flatten(lm.weights.trainable)
    assert set(got) == set(expected)
    for path, value in expected.items():
        np.testing.assert_array_equal(np.asarray(got[path]), np.asarray(value), err_msg=path)


def test_an_adapter_is_spread_over_the_mesh(llama, tmp_path):
    adapter = random_adapter(RAGGED, CONFIG)
    lm = jaxmoe.load(llama, written(tmp_path / "x", adapter), mesh=params.make_mesh(1, 4, 2))
    a = lm.weights.trainable["blocks"]["mlp"]["down_proj"]["experts"]["a"]
    assert a.sharding.shard_shape(a.shape)[1] == a.shape[1] // 2
    assert_same_adapter(extract_adapter(lm), adapter)
    assert lm.balance == adapter.balance


def test_adapter_and_new_experts_exclude_each_other(llama, tmp_path):
    with pytest.raises(ValueError, match="not both"):
        jaxmoe.load(llama, tmp_path, experts=DENSE)
