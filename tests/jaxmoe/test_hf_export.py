"""Exported folders: plain transformers loads them, computes the same and generates with its cache."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxmoe
from jaxmoe.adapters.files import write_adapter
from jaxmoe.export import base_name
from jaxmoe.model import params
from jaxmoe.model.config import PROJECTIONS, ExpertConfig
from jaxmoe.text.stop_tokens import stop_tokens
from jaxmoe.tokenizer import load_tokenizer, train_bpe
from jaxmoe.weights.export_folder import MARKER, export_folder
from tests.tiny_checkpoints import (
    FLOAT32_LOGITS,
    logits_of,
    padded_batch,
    random_adapter,
    torch_logits,
    write_checkpoint,
)
from tests.tolerances import DOUBLE, assert_same

# powers that torch and numpy round alike
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 1e4}
ROUTED = {
    # every family, routing and scaling; per-layer sizes, shared A, attention projections, tied, biased bases
    "llama-dense": ({"model_type": "llama"}, ExpertConfig(4, 2, 4.0)),
    "llama-one-expert": (
        {"model_type": "llama", "mlp_bias": True},
        ExpertConfig(num_experts=1, rank=3, alpha=3.0),
    ),
    "mistral-top-k": (
        {"model_type": "mistral", "sliding_window": 5},
        ExpertConfig((3, 2), (2, 4), 4.0, "sqrt_rank", ("q_proj", "v_proj", "down_proj"), "top_k", top_k=2),
    ),
    "qwen2-top-p": (
        {"model_type": "qwen2", "tie_word_embeddings": True},
        ExpertConfig(5, 2, 4.0, "rank", ("k_proj", r"layers\.1\.mlp\.up_proj"), "top_p", top_p=0.6),
    ),
    "qwen3-shared-a": (
        {"model_type": "qwen3", "head_dim": 16},
        ExpertConfig(3, 2, 4.0, "sqrt_rank", ("o_proj", "gate_proj", "up_proj"), "dense", shared_a=True),
    ),
    "gemma2-every-projection": (
        {
            "model_type": "gemma2",
            "head_dim": 16,
            "sliding_window": 5,
            "query_pre_attn_scalar": 9,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 5.0,
            "hidden_size": 64,
        },
        ExpertConfig(3, 2, 4.0, "rank", PROJECTIONS, "top_k", top_k=2),
    ),
    "gemma3-every-projection": (
        {
            "model_type": "gemma3_text",
            "head_dim": 16,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention"],
            "hidden_size": 64,
            "tie_word_embeddings": False,
        },
        ExpertConfig(2, 2, 4.0, "rank", PROJECTIONS),
    ),
    "phi3-every-projection": ({"model_type": "phi3"}, ExpertConfig(2, 2, 4.0, targets=PROJECTIONS)),
    "phi3-some": (
        {"model_type": "phi3", "tie_word_embeddings": True},
        ExpertConfig(2, 2, 4.0, targets=("k_proj", r"layers\.1\.mlp\.up_proj", "down_proj")),
    ),
    "olmo2-every-projection": ({"model_type": "olmo2"}, ExpertConfig(2, 2, 4.0, targets=PROJECTIONS)),
    "smollm3": (
        {"model_type": "smollm3", "no_rope_layers": [0, 1]},
        ExpertConfig(2, 2, 4.0, targets=("k_proj", "gate_proj")),
    ),
    "granite": (
        {
            "model_type": "granite",
            "attention_multiplier": 0.25,
            "residual_multiplier": 0.5,
            "logits_scaling": 8.0,
        },
        ExpertConfig(2, 2, 4.0, targets=("q_proj", "up_proj")),
    ),
    "cohere-every-projection": (
        {"model_type": "cohere", "logit_scale": 0.3, "rope_parameters": PLAIN_ROPE},
        ExpertConfig(2, 2, 4.0, targets=PROJECTIONS),
    ),
    "qwen3-moe-block": (
        {
            "model_type": "qwen3_moe",
            "head_dim": 16,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 12,
        },
        ExpertConfig(3, 2, 4.0, "rank", ("q_proj", "o_proj", "experts"), "top_k", top_k=2),
    ),
    "mixtral-block": (
        {"model_type": "mixtral", "num_local_experts": 3},
        ExpertConfig(2, 2, 4.0, "rank", ("v_proj", r"layers\.1\.mlp\.experts")),
    ),
    "gpt-oss-block": (
        {
            "model_type": "gpt_oss",
            "head_dim": 16,
            "intermediate_size": 12,
            "num_local_experts": 3,
            "num_experts_per_tok": 2,
            "sliding_window": 5,
            "rope_parameters": PLAIN_ROPE,
        },
        ExpertConfig(2, 2, 4.0, "rank", ("q_proj", "o_proj", "experts")),
    ),
    "llama-lora": (
        {"model_type": "llama", "attention_bias": True},
        ExpertConfig((0, 2), 2, 4.0, "rank", ("q_proj", "down_proj"), "none"),
    ),
}


def loaded_with_torch(folder):
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=True, output_loading_info=True
    )
    model, info = loaded
    assert not any(info.values()), info
    return model.eval()


@pytest.fixture(autouse=True, scope="module")
def _module_cache(tmp_path_factory):
    """transformers copies modeling files into its cache; a fresh one each run keeps old copies out."""
    from transformers import dynamic_module_utils

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(["the cat sat on the mat", "a dog ran to the park"] * 20, 280)


@pytest.fixture(scope="module")
def chat_base(tmp_path_factory, tokenizer):
    """A base with a tokenizer, a chat template and two end-of-sequence tokens in its generation config."""
    folder = tmp_path_factory.mktemp("chat")
    write_checkpoint(folder, model_type="llama", vocab_size=280)
    tokenizer.save_pretrained(folder)
    generation = {
        "bos_token_id": 1,
        "eos_token_id": [1, 7],
        "pad_token_id": 0,
        "temperature": 0.6,
        "do_sample": True,
    }
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def adapted(base, experts, folder, seed=0):
    """The base with random experts, all of which matter."""
    config = jaxmoe.load(base).config
    folder.mkdir()
    write_adapter(folder, random_adapter(experts, config, seed), config, "loramoe", "base")
    return jaxmoe.load(base, folder)


@pytest.mark.parametrize(("settings", "experts"), ROUTED.values(), ids=ROUTED)
def test_loramoe_folder_computes_and_generates_the_same(tmp_path, settings, experts):
    import torch

    write_checkpoint(tmp_path / "base", **settings)
    lm = adapted(tmp_path / "base", experts, tmp_path / "adapter")
    jaxmoe.save(lm, tmp_path / "out", format="hf")
    model = loaded_with_torch(tmp_path / "out")
    ids, mask = padded_batch()
    real = mask > 0
    # α/√r is a float32 constant of ours
    tolerance = 1e-6 if experts.scaling == "sqrt_rank" else DOUBLE
    assert_same(torch_logits(model, ids, mask)[real], logits_of(lm, ids, mask)[real], tolerance=tolerance)
    expected = np.asarray(lm(ids, mask).logits)
    base = np.asarray(jaxmoe.load(tmp_path / "base")(ids, mask).logits)
    assert np.abs(base - expected)[real].max() > 0.1  # the experts matter

    # padded on the left, and whole
    prompt = torch.tensor(ids[[0, 2]]), torch.tensor(mask[[0, 2]])
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    cached, uncached = (
        model.generate(prompt[0], attention_mask=prompt[1], use_cache=use_cache, **settings)
        for use_cache in (True, False)
    )
    np.testing.assert_array_equal(cached.numpy(), uncached.numpy())
    made = lm.generate(ids[[0, 2]], mask[[0, 2]], max_new_tokens=6, stop_tokens=())
    np.testing.assert_array_equal(made.tokens[:, -6:], cached.numpy()[:, -6:])

    again = jaxmoe.load(tmp_path / "out")
    assert (again.experts, again.balance) == (lm.experts, lm.balance)
    np.testing.assert_array_equal(np.asarray(again(ids, mask).logits), expected)


def test_golden_adapter_generates_the_original_tokens(goldens, tmp_path):
    import torch

    folder = goldens / "loramoe" / "llama"
    expected = np.load(folder / "expected.npz")
    jaxmoe.save(jaxmoe.load(folder / "base", folder / "adapter"), tmp_path / "out", format="hf")
    model = loaded_with_torch(tmp_path / "out")
    tokens = model.generate(torch.tensor(expected["generate_prompt"]), max_new_tokens=8, do_sample=False)
    np.testing.assert_array_equal(tokens.numpy(), expected["generate_out"])


def test_loading_needs_nothing_but_transformers(goldens, tmp_path):
    """A fresh interpreter without this project on its path."""
    folder = goldens / "loramoe" / "llama"
    jaxmoe.save(jaxmoe.load(folder / "base", folder / "adapter"), tmp_path / "out", format="hf")
    program = (
        "import sys, torch; from transformers import AutoModelForCausalLM as M; "
        f"m = M.from_pretrained({str(tmp_path / 'out')!r}, trust_remote_code=True); "
        "assert not {'jax', 'jaxmoe', 'flax'} & set(sys.modules); print(type(m).__name__)"
    )
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=240,
    )
    assert done.stdout.strip() == "LlamaLoraMoeForCausalLM", done.stderr


def test_what_the_folder_brings_along(chat_base, tmp_path, tokenizer):
    from transformers import AutoTokenizer, GenerationConfig

    experts = ExpertConfig(num_experts=2, rank=2)
    folders = {"full": jaxmoe.load(chat_base), "experts": adapted(chat_base, experts, tmp_path / "adapter")}
    messages = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]
    for name, lm in folders.items():
        jaxmoe.save(lm, tmp_path / name, format="hf")
        generation = GenerationConfig.from_pretrained(tmp_path / name)
        assert generation.eos_token_id == [1, 2, 7]  # those of config.json and generation_config.json
        assert generation.temperature == 0.6
        assert json.loads((tmp_path / name / "config.json").read_text())["eos_token_id"] == 2
        copied = AutoTokenizer.from_pretrained(tmp_path / name)
        assert copied.get_vocab() == tokenizer.get_vocab()
        assert (copied.eos_token, copied.chat_template) == (tokenizer.eos_token, tokenizer.chat_template)
        assert copied.apply_chat_template(messages, tokenize=False) == tokenizer.apply_chat_template(
            messages, tokenize=False
        )
        assert load_tokenizer(tmp_path / name).pad_token == tokenizer.pad_token


def test_a_model_without_source_gets_its_special_tokens_and_the_given_tokenizer(
    chat_base, tmp_path, tokenizer
):
    lm = dataclasses.replace(jaxmoe.load(chat_base), source=None)
    jaxmoe.save(lm, tmp_path / "out", format="hf", tokenizer=tokenizer)
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (generation["bos_token_id"], generation["eos_token_id"], generation["pad_token_id"]) == (
        1,
        [tokenizer.eos_token_id, 2],
        0,
    )
    assert load_tokenizer(tmp_path / "out").get_vocab() == tokenizer.get_vocab()


def test_an_export_ends_where_we_do(chat_base, tmp_path, tokenizer):
    """The base's generation config stays as it is but for the ends that tokenizer and template add."""
    lm = jaxmoe.load(chat_base)
    jaxmoe.save(lm, tmp_path / "out", format="hf", tokenizer=tokenizer)
    before = json.loads((chat_base / "generation_config.json").read_text())
    after = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert set(after.pop("eos_token_id")) == set(stop_tokens(tokenizer, lm.stop_tokens)) > {1, 7}
    assert after == {key: value for key, value in before.items() if key != "eos_token_id"}
    assert jaxmoe.load(tmp_path / "out").stop_tokens == stop_tokens(tokenizer, lm.stop_tokens)


def test_merged_lora_loads_as_a_plain_model(chat_base, tmp_path):
    from transformers import AutoModelForCausalLM

    lora = ExpertConfig(num_experts=1, rank=4, alpha=4.0, routing="none", targets=("q_proj", "down_proj"))
    lm = adapted(chat_base, lora, tmp_path / "adapter")
    jaxmoe.save(lm, tmp_path / "out", format="hf", merge=True)
    assert not (tmp_path / "out" / "modeling_loramoe.py").exists()
    ids, mask = padded_batch()
    got = torch_logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out"), ids, mask)
    # the merged kernels were rounded to float32, each once
    assert_same(got[mask > 0], logits_of(lm, ids, mask)[mask > 0], tolerance=FLOAT32_LOGITS)


def test_a_sharded_model_is_written_the_same(chat_base, tmp_path):
    experts = ExpertConfig(num_experts=3, rank=2, targets=("q_proj", "up_proj"))
    one = adapted(chat_base, experts, tmp_path / "adapter")
    eight = jaxmoe.load(chat_base, tmp_path / "adapter", mesh=params.make_mesh(2, 2, 2))
    for name, lm in {"one": one, "eight": eight}.items():
        jaxmoe.save(lm, tmp_path / name, format="hf")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "eight"))
    assert set(first) == set(second)
    assert all(np.array_equal(first[n], second[n]) for n in first)


def test_an_export_replaces_an_export_and_nothing_else(chat_base, tmp_path):
    lm = jaxmoe.load(chat_base)
    out = tmp_path / "out"
    out.mkdir()
    jaxmoe.save(lm, out, format="hf")  # an empty folder is as good as none
    first = (out / "model.safetensors").stat().st_ino
    jaxmoe.save(lm, out, format="hf")
    assert (out / "model.safetensors").stat().st_ino != first
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"new, empty or an earlier export; .* holds notes\.txt"):
        jaxmoe.save(lm, out, format="hf")
    copy = tmp_path / "copy"
    shutil.copytree(chat_base, copy)
    with pytest.raises(ValueError, match=r"holds \S+ and \d more files"):
        jaxmoe.save(lm, copy, format="hf")
    with pytest.raises(ValueError, match="is a file"):
        jaxmoe.save(lm, copy / "config.json", format="hf")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "out"]


def test_a_failed_export_leaves_what_was_there(tmp_path):
    with export_folder(tmp_path / "out", "hf") as folder:
        assert folder is not None
        (folder / "a").write_text("old")

    def fail():
        with export_folder(tmp_path / "out", "hf") as folder:
            assert folder is not None
            (folder / "a").write_text("new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert (tmp_path / "out" / "a").read_text() == "old"
    assert json.loads((tmp_path / "out" / MARKER).read_text()) == {"kind": "hf", "files": ["a"]}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_wrong_uses_are_refused(chat_base, tmp_path):
    lm = jaxmoe.load(chat_base)
    with pytest.raises(ValueError, match="format must be one of hf, loramoe, moe-peft, peft; got 'gguf'"):
        jaxmoe.save(lm, tmp_path / "x", format="gguf")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="the model has none: use format 'hf'"):
        jaxmoe.save(lm, tmp_path / "x")
    with pytest.raises(ValueError, match="no adapter to merge"):
        jaxmoe.save(lm, tmp_path / "x", format="hf", merge=True)
    with pytest.raises(
        ValueError, match="format 'peft' holds an adapter alone, so there is nothing to merge"
    ):
        jaxmoe.save(lm, tmp_path / "x", format="peft", merge=True)
    jaxmoe.save(
        adapted(chat_base, ExpertConfig(num_experts=2, rank=2), tmp_path / "a"), tmp_path / "y", format="hf"
    )
    with pytest.raises(ValueError, match="holds experts of its own"):
        jaxmoe.load(tmp_path / "y", tmp_path / "a")
    config = json.loads((tmp_path / "y" / "config.json").read_text())
    config["loramoe"]["experts"]["rank"] = 3
    (tmp_path / "y" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"lora_a.weight is \[4, 32\], not \[6, 32\]"):
        jaxmoe.load(tmp_path / "y")
    assert not (tmp_path / "x").exists()


def test_how_an_adapter_names_its_base(tmp_path):
    hub = tmp_path / "models--meta-llama--Llama-2-7b-hf" / "snapshots" / "0123abc"
    assert base_name(hub) == "meta-llama/Llama-2-7b-hf"
    assert base_name(tmp_path) == str(tmp_path)
    assert base_name(None) == ""
    (tmp_path / "gguf.json").write_text('{"file": "/models/small.gguf", "bytes": 3}')
    assert base_name(tmp_path) == "/models/small.gguf"
