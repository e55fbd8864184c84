"""Checkpoints in and out: parity with torch transformers for every family, shards, slices and bad files."""

import dataclasses
import json
import os
import shutil
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxmoe
from jaxmoe.export import flat_weights
from jaxmoe.families import config_from_hf
from jaxmoe.model import params
from jaxmoe.model.config import ModelConfig, MoeConfig
from jaxmoe.weights import convert
from jaxmoe.weights.placement import place
from jaxmoe.weights.weight_files import StoredTensor, open_weights
from tests.tiny_checkpoints import SIZES, logits_of, padded_batch, torch_logits, write_checkpoint
from tests.tolerances import DOUBLE, assert_same

TINY = ModelConfig(96, 32, 48, 2, 4, 2, 8)

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 5e5,
}
# √D is a whole number: transformers rounds it to float32
GEMMA = {
    "hidden_size": 64,
    "head_dim": 8,
    "num_hidden_layers": 3,
    "sliding_window": 4,
    "query_pre_attn_scalar": 9,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
# powers that torch and numpy round alike
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 1e4}
LONG_ROPE = {
    "rope_type": "longrope",
    "partial_rotary_factor": 0.5,
    "short_factor": [1.0, 2.0],
    "long_factor": [1.5, 4.0],
}
FAMILIES = {
    "llama-1": {"model_type": "llama", "num_key_value_heads": 4},
    "llama-tied-biased": {
        "model_type": "llama",
        "tie_word_embeddings": True,
        "attention_bias": True,
        "mlp_bias": True,
        "head_dim": 16,
    },
    "llama-3": {"model_type": "llama", "rope_parameters": LLAMA3},
    "deepseek-coder": {
        "model_type": "llama",
        "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e5},
    },
    "dynamic": {
        "model_type": "llama",
        "max_position_embeddings": 16,
        "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
    },
    "yarn": {"model_type": "llama", "rope_parameters": YARN},
    "yarn-mscale": {
        "model_type": "llama",
        "rope_parameters": {
            **YARN,
            "mscale": 0.7,
            "mscale_all_dim": 1.3,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
        },
    },
    "yarn-factor": {
        "model_type": "llama",
        "rope_parameters": {**YARN, "attention_factor": 0.9, "truncate": False},
    },
    "mistral-window": {"model_type": "mistral", "sliding_window": 5},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "qwen2": {"model_type": "qwen2"},
    "qwen2-windows": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 1,
        "tie_word_embeddings": True,
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "qwen3-windows": {
        "model_type": "qwen3",
        "head_dim": 8,
        "use_sliding_window": True,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"],
        "attention_bias": True,
    },
    "phi3": {"model_type": "phi3", "sliding_window": 6},
    "phi4": {
        "model_type": "phi3",
        "max_position_embeddings": 64,
        "original_max_position_embeddings": 16,
        "partial_rotary_factor": 0.5,
        "rope_parameters": {**PLAIN_ROPE, **LONG_ROPE},
    },
    "phi4-within": {
        "model_type": "phi3",
        "original_max_position_embeddings": 32,
        "partial_rotary_factor": 0.5,
        "rope_parameters": {**PLAIN_ROPE, **LONG_ROPE},
    },
    "olmo2": {"model_type": "olmo2", "attention_bias": True},
    "smollm3": {"model_type": "smollm3", "no_rope_layers": [0, 1], "tie_word_embeddings": False},
    "granite": {
        "model_type": "granite",
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.25,
        "residual_multiplier": 0.22,
        "logits_scaling": 8.0,
    },
    "cohere": {
        "model_type": "cohere",
        "layer_norm_eps": 1e-4,
        "logit_scale": 0.3,
        "rope_parameters": PLAIN_ROPE,
    },
    "cohere-plus": {
        "model_type": "cohere",
        "use_qk_norm": True,
        "num_attention_heads": 6,
        "hidden_size": 36,
        "tie_word_embeddings": False,
        "rope_parameters": PLAIN_ROPE,
    },
    "qwen2-moe": {
        "model_type": "qwen2_moe",
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 12,
        "shared_expert_intermediate_size": 20,
        "use_sliding_window": True,
        "sliding_window": 4,
    },
    "qwen3-moe": {
        "model_type": "qwen3_moe",
        "head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 12,
        "norm_topk_prob": True,
        "tie_word_embeddings": True,
    },
    "mixtral": {"model_type": "mixtral", "num_local_experts": 3, "sliding_window": 5},
    "gpt-oss": {
        "model_type": "gpt_oss",
        "head_dim": 16,
        "intermediate_size": 12,
        "num_local_experts": 3,
        "num_experts_per_tok": 2,
        "sliding_window": 5,
        "swiglu_limit": 0.5,
        "rope_parameters": {**YARN, "truncate": False},
    },
    "gemma2": {"model_type": "gemma2", **GEMMA, "attn_logit_softcapping": 3.0},
    "gemma2-untied": {
        "model_type": "gemma2",
        **GEMMA,
        "tie_word_embeddings": False,
        "attention_bias": True,
        "final_logit_softcapping": None,
    },
    "gemma3": {"model_type": "gemma3_text", **GEMMA, "final_logit_softcapping": 2.0},
    "gemma3-scaled": {
        "model_type": "gemma3_text",
        **GEMMA,
        "num_key_value_heads": 1,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
    },
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A grouped-query Llama and what torch says of a padded batch."""
    folder = tmp_path_factory.mktemp("llama")
    model = write_checkpoint(folder, model_type="llama")
    return folder, torch_logits(model, *padded_batch())


def copy_of(folder, target):
    shutil.copytree(folder, target)
    return target


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def assert_same_weights(first, second):
    first, second = flat_weights(first), flat_weights(second)
    assert set(first) == set(second)
    for path, value in first.items():
        np.testing.assert_array_equal(np.asarray(value), np.asarray(second[path]), err_msg=path)


@pytest.mark.parametrize("settings", FAMILIES.values(), ids=FAMILIES)
def test_logits_equal_torch_transformers(tmp_path, settings):
    ids, mask = padded_batch()
    model = write_checkpoint(tmp_path / "theirs", **settings)
    expected = torch_logits(model, ids, mask)
    lm = jaxmoe.load(tmp_path / "theirs")
    real = mask > 0
    # these frequencies are computed in float32 on the way, by us or by both
    kind = settings.get("rope_parameters", {}).get("rope_type")
    beyond = kind == "longrope" and settings["original_max_position_embeddings"] < ids.shape[1]
    tolerance = 1e-6 if kind == "dynamic" or beyond else DOUBLE
    assert_same(logits_of(lm, ids, mask)[real], expected[real], tolerance=tolerance)

    from transformers import AutoModelForCausalLM

    jaxmoe.save(lm, tmp_path / "ours", format="hf")
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    again, info = loaded
    assert not any(info.values()), info
    np.testing.assert_array_equal(torch_logits(again, ids, mask)[real], expected[real])


def test_the_text_part_of_a_model_with_images_is_read(tmp_path, caplog):
    """Released Gemma 3 files of 4B and more hold an image encoder beside the language model."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    text = {**SIZES, **GEMMA, "model_type": "gemma3_text"}
    image = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {"model_type": "siglip_vision_model", **image, "image_size": 28, "patch_size": 14}
    tokens = {"image_token_index": 5, "boi_token_index": 6, "eoi_token_index": 7}
    whole = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision, **tokens)
    model = AutoModelForImageTextToText.from_config(whole).eval()
    model.save_pretrained(tmp_path / "whole")
    ids, mask = padded_batch()
    ids = np.where(np.isin(ids, [5, 6, 7]), 8, ids)
    lm = jaxmoe.load(tmp_path / "whole")
    assert "tensors of its image encoder are left out" in caplog.text
    real = mask > 0
    assert_same(logits_of(lm, ids, mask)[real], torch_logits(model, ids, mask)[real])


@pytest.mark.parametrize("family", ["qwen3-moe", "mixtral"])
def test_experts_stored_as_one_tensor_are_read_too(tmp_path, family):
    """As transformers holds them while it runs."""
    model = write_checkpoint(tmp_path / "split", **FAMILIES[family])
    shutil.copytree(tmp_path / "split", tmp_path / "fused")
    running = {name: t.numpy() for name, t in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del running["lm_head.weight"]
    assert any("experts.gate_up_proj" in name for name in running)
    save_file(running, tmp_path / "fused" / "model.safetensors", {"format": "pt"})
    assert_same_weights(jaxmoe.load(tmp_path / "fused"), jaxmoe.load(tmp_path / "split"))


def test_windows_limit_what_is_seen():
    """Both mixed-window cases differ from full attention, or they would show nothing."""
    for name in ("qwen2-windows", "qwen3-windows"):
        from transformers import AutoConfig

        config = config_from_hf(AutoConfig.for_model(**{**SIZES, **FAMILIES[name]}).to_dict())
        assert set(config.windows) == {0, 4}
        assert padded_batch()[0].shape[1] > 4


@pytest.mark.parametrize(
    ("old", "expected"),
    [
        ({"rope_theta": 1e5, "rope_scaling": {"type": "linear", "factor": 4.0}}, ("linear", 1e5, 4.0)),
        ({"rope_theta": 5e5, "rope_scaling": {**LLAMA3, "rope_theta": None}}, ("llama3", 5e5, 8.0)),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, ("yarn", 1e4, 2.0)),
        ({"rope_scaling": None}, ("default", 1e4, 1.0)),
        ({}, ("default", 1e4, 1.0)),
    ],
    ids=["linear", "llama3", "yarn", "null", "none"],
)
def test_old_config_files_are_read(old, expected):
    if (old.get("rope_scaling") or {}).get("rope_theta", 0) is None:
        old["rope_scaling"] = {k: v for k, v in LLAMA3.items() if k != "rope_theta"}
    rope = config_from_hf({"model_type": "llama", **SIZES, **old}).rope
    assert (rope.rope_type, rope.rope_theta, rope.factor) == expected


def test_sharded_equals_single_device(llama):
    folder, expected = llama
    ids, mask = padded_batch()
    mesh = params.make_mesh(data=2, fsdp=2, tensor=2)
    lm = jaxmoe.load(folder, mesh=mesh)
    kernel = lm.weights.frozen["blocks"]["mlp"]["up_proj"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 16, 24)
    assert_same_weights(lm, jaxmoe.load(folder))
    assert_same(logits_of(lm, ids, mask)[mask > 0], expected[mask > 0])


def test_a_shard_is_read_slice_by_slice():
    """Each device's part asks for its own rows and columns, and replicas share one reading."""
    asked = []
    whole = np.arange(32 * 48, dtype=np.float32).reshape(32, 48)  # [out, in]

    def read(index):
        asked.append(tuple((s.start, s.stop) for s in index))
        return whole[index]

    entry = convert.weight_table(TINY)["blocks.mlp.down_proj.kernel"]
    stored = {entry.name.format(layer): StoredTensor(whole.shape, whole.dtype, read) for layer in range(3)}
    shape = (3, 48, 32)
    mesh = params.make_mesh(data=2, fsdp=2, tensor=2)
    sharding = jax.sharding.NamedSharding(mesh, jax.P(None, "tensor", "fsdp"))
    array = place(shape, sharding, convert.shard_reader(entry, stored, shape, np.dtype(np.float32)))
    np.testing.assert_array_equal(array, np.broadcast_to(whole.T, shape))
    quarters = [((o, o + 16), (i, i + 24)) for o in (0, 16) for i in (0, 24)]
    assert sorted(asked) == sorted(quarters * 3)  # 4 different parts x 3 layers, though there are 8 devices


# XLA has no float16 in software for processors that do not convert it themselves (`make test-reference`)
needs_f16c = pytest.mark.skipif("max_isa=SSE4_2" in os.environ["XLA_FLAGS"], reason="SSE 4.2 has no float16")


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=needs_f16c)])
def test_half_precision_storage(llama, dtype):
    folder, expected = llama
    ids, mask = padded_batch()
    lm = jaxmoe.load(folder, dtype=dtype)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(lm.weights.frozen)} == {dtype}
    logits = np.asarray(lm(ids, mask).logits)
    assert logits.dtype == np.float32
    # eight bits of mantissa, two layers, logits of size 4
    assert np.abs(logits - expected)[mask > 0].mean() < {"bfloat16": 0.05, "float16": 0.01}[dtype]


def test_shards_and_bins_of_any_origin_give_the_same_weights(llama, tmp_path):
    import torch

    folder, _ = llama
    lm = jaxmoe.load(folder)
    jaxmoe.save(lm, tmp_path / "shards", format="hf", max_shard_bytes=20_000)
    sizes = [p.stat().st_size for p in (tmp_path / "shards").glob("model-*.safetensors")]
    assert len(sizes) > 2
    assert max(sizes) < 22_000  # 20,000 of tensors and the header
    assert_same_weights(jaxmoe.load(tmp_path / "shards"), lm)

    tensors = load_file(folder / "model.safetensors")
    bins = copy_of(folder, tmp_path / "bins")
    (bins / "model.safetensors").unlink()
    halves = {"one.bin": sorted(tensors)[::2], "two.bin": sorted(tensors)[1::2]}
    for file, names in halves.items():
        torch.save({n: torch.tensor(tensors[n]) for n in names}, bins / file)
    weight_map = {name: file for file, names in halves.items() for name in names}
    (bins / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_same_weights(jaxmoe.load(bins), lm)


def test_transformers_reads_our_shards(llama, tmp_path):
    from transformers import AutoModelForCausalLM

    folder, expected = llama
    ids, mask = padded_batch()
    jaxmoe.save(jaxmoe.load(folder), tmp_path / "shards", format="hf", max_shard_bytes=20_000)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "shards")
    np.testing.assert_array_equal(torch_logits(model, ids, mask)[mask > 0], expected[mask > 0])


def test_bfloat16_checkpoints_keep_their_values(llama, tmp_path):
    folder, _ = llama
    half = copy_of(folder, tmp_path / "half")
    tensors = load_file(folder / "model.safetensors")
    halved = {n: t.astype(ml_dtypes.bfloat16) for n, t in tensors.items()}
    save_file(halved, half / "model.safetensors", {"format": "pt"})
    lm = jaxmoe.load(half, dtype="bfloat16")
    jaxmoe.save(lm, tmp_path / "out", format="hf")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert set(written) == set(halved)
    assert all(np.array_equal(written[n], halved[n]) for n in halved)


def test_what_is_trained_is_float32_whatever_the_base(llama):
    lm = jaxmoe.load(llama[0], dtype="bfloat16", train="all")
    assert lm.weights.frozen == {}
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(lm.weights.trainable)} == {"float32"}


def test_the_table_covers_every_parameter():
    widest = ModelConfig(
        96, 32, 48, 2, 4, 2, 8, qkv_bias=True, out_bias=True, mlp_bias=True, qk_norm=True, norms="both"
    )
    widest = dataclasses.replace(widest, attention_sinks=True)
    for config in (widest, dataclasses.replace(widest, tie_embeddings=True, qk_norm=False)):
        flat = convert.flatten(params.split(params.abstract(config)).frozen)
        assert set(flat) <= set(convert.weight_table(config))
    flat = convert.flatten(params.split(params.abstract(widest)).frozen)
    moe = dataclasses.replace(widest, mlp_bias=False, moe=MoeConfig(4, 2, 8, shared_size=4, bias=True))
    also = convert.flatten(params.split(params.abstract(moe)).frozen)
    assert set(flat) | set(also) == set(convert.weight_table(widest))


def change_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def drop(name):
    return lambda tensors: tensors.pop(name)


def put(name, value):
    return lambda tensors: tensors.update({name: value})


EMBEDDING, UP = "model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop(UP), f"missing: {UP}"),
        (
            put("model.layers.2.mlp.up_proj.weight", np.ones((48, 32))),
            "unexpected: model.layers.2.mlp.up_proj",
        ),
        (put(UP, np.ones((32, 48), np.float32)), r"up_proj.weight is \[32, 48\], not \[48, 32\]"),
        (put(UP, np.ones((48, 32), np.int8)), f"{UP} in .* is I8: give the checkpoint before quantization"),
    ],
    ids=["missing", "unexpected", "shape", "quantised"],
)
def test_wrong_tensors_are_listed(llama, tmp_path, change, message):
    folder = copy_of(llama[0], tmp_path / "x")
    change_tensors(folder, change)
    with pytest.raises(ValueError, match=message) as caught:
        jaxmoe.load(folder)
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_files_are_named(llama, tmp_path):
    folder = copy_of(llama[0], tmp_path / "x")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or truncated"):
        jaxmoe.load(folder)
    weights.unlink()
    with pytest.raises(ValueError, match="holds no weights"):
        jaxmoe.load(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {EMBEDDING: "model-00001-of-00002.safetensors"}}))
    with pytest.raises(ValueError, match="files that are missing beside it: model-00001"):
        jaxmoe.load(folder)
    index.write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        jaxmoe.load(folder)
    (folder / "config.json").write_text("{]")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        jaxmoe.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"has no config\.json"):
        jaxmoe.load(folder)


def test_other_architectures_are_refused(llama, tmp_path):
    folder = copy_of(llama[0], tmp_path / "x")
    edit_json(folder / "config.json", model_type="gpt2")
    with pytest.raises(
        ValueError, match=r"model_type must be one of llama, mistral, qwen2, qwen3, .*; got 'gpt2'"
    ):
        jaxmoe.load(folder)


def test_no_folder_and_no_hub_id(tmp_path):
    with pytest.raises(ValueError, match=r"a base is a folder, .*; /no/such/place is none"):
        jaxmoe.load("/no/such/place")
    with pytest.raises(ValueError, match=r"there is no folder owner/name, and as a hub id"):
        jaxmoe.load("owner/name")
    with pytest.raises(ValueError, match="dtype must be one of"):
        jaxmoe.load(tmp_path, dtype="int8")


def test_a_tied_head_may_be_stored_but_not_differ(tmp_path):
    write_checkpoint(tmp_path / "x", model_type="llama", tie_word_embeddings=True)
    embedding = load_file(tmp_path / "x" / "model.safetensors")[EMBEDDING]
    plain = jaxmoe.load(tmp_path / "x")
    change_tensors(tmp_path / "x", put("lm_head.weight", embedding.copy()))
    assert_same_weights(jaxmoe.load(tmp_path / "x"), plain)
    change_tensors(tmp_path / "x", put("lm_head.weight", embedding + 1))
    with pytest.raises(ValueError, match="a head of their own"):
        jaxmoe.load(tmp_path / "x")


def test_golden_base_reads_alike_from_bin_and_safetensors(goldens, tmp_path):
    base = goldens / "loramoe" / "llama" / "base"
    folder = copy_of(base, tmp_path / "x")
    (folder / "model.safetensors").unlink()
    assert "rotary_emb.inv_freq" in " ".join(open_weights(folder, "model", "pytorch_model"))
    assert_same_weights(jaxmoe.load(folder), jaxmoe.load(base))
