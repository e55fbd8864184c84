"""GGUF files: tensors, config and tokenizer, against transformers' own reading."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import jax
import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.gguf.dequant import dequantize as torch_dequantize

import jaxmoe
from jaxmoe.families import config_from_hf
from jaxmoe.tokenizer import load_tokenizer
from jaxmoe.weights.gguf_file import TYPES, read_gguf
from jaxmoe.weights.gguf_folder import gguf_folder, noted_gguf
from jaxmoe.weights.gguf_tokenizer import PRE_TOKENIZERS, build_tokenizer
from tests.tiny_checkpoints import logits_of, torch_logits
from tests.tolerances import DOUBLE

TINY = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
}


def gemma_fields(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_sliding_window(config.sliding_window)
    if config.final_logit_softcapping is not None:
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if config.attn_logit_softcapping is not None:
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)


def expert_fields(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_expert_count(getattr(config, "num_experts", None) or config.num_local_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    if hasattr(config, "moe_intermediate_size"):
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if hasattr(config, "shared_expert_intermediate_size"):
        writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)


def granite_fields(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_embedding_scale(config.embedding_multiplier)
    writer.add_attention_scale(config.attention_multiplier)
    writer.add_residual_scale(config.residual_multiplier)
    writer.add_logit_scale(config.logits_scaling)


def cohere_fields(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_logit_scale(config.logit_scale)


def phi3_fields(writer: gguf.GGUFWriter, config: Any) -> None:
    rope = config.rope_parameters
    writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
    writer.add_sliding_window(config.sliding_window or 0)
    if "long_factor" in rope:
        scale = config.max_position_embeddings / config.original_max_position_embeddings
        long = 1 + np.log(scale) / np.log(config.original_max_position_embeddings)
        writer.add_rope_scaling_attn_factors(float(np.sqrt(long)))
        for name in ("long", "short"):
            writer.add_tensor(f"rope_factors_{name}.weight", np.array(rope[f"{name}_factor"], np.float32))


def llama_fields(writer: gguf.GGUFWriter, config: Any) -> None:
    """What Llama 3's rotary frequencies are divided by, from wave lengths, as in llama.cpp's converter."""
    rope = config.rope_parameters
    if rope["rope_type"] != "llama3":
        return
    divisors: list[float] = []
    old = rope["original_max_position_embeddings"]
    for i in range(0, config.head_dim, 2):
        wave_length = 2 * np.pi * rope["rope_theta"] ** (i / config.head_dim)
        if wave_length < old / rope["high_freq_factor"]:
            divisors.append(1.0)
        elif wave_length > old / rope["low_freq_factor"]:
            divisors.append(rope["factor"])
        else:
            span = rope["high_freq_factor"] - rope["low_freq_factor"]
            smooth = (old / wave_length - rope["low_freq_factor"]) / span
            divisors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    writer.add_tensor("rope_freqs.weight", np.array(divisors, np.float32))


def gpt_oss_fields(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_sliding_window(config.sliding_window)
    writer.add_expert_feed_forward_length(config.intermediate_size)
    expert_fields(writer, config)
    rope = config.rope_parameters
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(rope["factor"])
    writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
    writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])


def split_experts(tensors: dict[str, torch.Tensor], family: str) -> dict[str, torch.Tensor]:
    """Gate and up of all experts as the two tensors that llama.cpp stores."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith("experts.gate_up_proj"):
            gate, up = tensor.chunk(2, dim=1)
            start = name.removesuffix("gate_up_proj")
            if family == "gpt_oss":  # gate and up take turns, and matrices are stored [in, out]
                gate, up = (tensor[..., turn::2].transpose(1, 2) for turn in (0, 1))
            found |= {f"{start}gate_proj.weight": gate, f"{start}up_proj.weight": up}
        elif name.endswith("experts.gate_up_proj_bias"):
            start = name.removesuffix("gate_up_proj_bias")
            found |= {f"{start}gate_proj.bias": tensor[:, ::2], f"{start}up_proj.bias": tensor[:, 1::2]}
        elif name.endswith("experts.down_proj_bias"):
            found[name.replace("_bias", ".bias")] = tensor
        elif name.endswith("experts.down_proj") and family == "gpt_oss":
            found[f"{name}.weight"] = tensor.transpose(1, 2)
        else:
            found[f"{name}.weight" if name.endswith("experts.down_proj") else name] = tensor
    return found


# how llama.cpp calls a model_type, where it differs
LLAMA_CPP = {
    "gemma3_text": "gemma3",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
    "mixtral": "llama",
    "cohere": "command-r",
    "gpt_oss": "gpt-oss",
}
PERMUTED = ("llama", "mixtral", "smollm3", "granite")  # their converters' rotary rows
# an architecture's own fields
ADDED: dict[str, Callable[[gguf.GGUFWriter, Any], None]] = {
    "gemma2": gemma_fields,
    "gemma3_text": gemma_fields,
    "qwen2_moe": expert_fields,
    "qwen3_moe": expert_fields,
    "mixtral": expert_fields,
    "granite": granite_fields,
    "cohere": cohere_fields,
    "phi3": phi3_fields,
    "gpt_oss": gpt_oss_fields,
    "llama": llama_fields,
}
# what differs from TINY, by model_type
OTHER: dict[str, dict[str, Any]] = {
    "gemma2": {"head_dim": 24, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 20.0},
    "smollm3": {"num_hidden_layers": 4, "bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 0},
    "granite": {"attention_multiplier": 0.3, "residual_multiplier": 0.2, "logits_scaling": 8.0},
    "cohere": {"logit_scale": 0.25, "use_qk_norm": True},
    "qwen2_moe": {
        "num_experts": 3,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 64,
    },
    "qwen3_moe": {
        "num_experts": 3,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
    },
    "mixtral": {"num_local_experts": 3, "sliding_window": None},
    "phi3": {
        "original_max_position_embeddings": 32,
        "sliding_window": 9,
        "pad_token_id": 0,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.75,
            "long_factor": [1.0, 1.5, 2.25, 3.0, 4.0, 5.5],
            "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
        },
    },
    "gpt_oss": {"num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": 7},
    "gemma3_text": {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 7},
}
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """As llama.cpp's converter stores rotary projections: the halves of a head interleaved."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
        .swapaxes(1, 2)
        .reshape(weight.shape)
    )


def write(path: Path, model: Any, kind: gguf.GGMLQuantizationType, **extra: Any) -> Path:
    """A GGUF file of a torch model, norms and biases in float32, with a byte-level tokenizer."""
    config = model.config
    architecture = str(LLAMA_CPP.get(config.model_type, config.model_type))
    names = gguf.get_tensor_name_map(
        next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture),
        config.num_hidden_layers,
    )
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    if hasattr(config, "rms_norm_eps"):
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    ropes = config.rope_parameters
    writer.add_rope_freq_base(ropes.get("full_attention", ropes)["rope_theta"])
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(head_dim)
    writer.add_rope_dimension_count(int(head_dim * (ropes.get("partial_rotary_factor") or 1)))
    if config.model_type in ADDED:
        ADDED[config.model_type](writer, config)
    words = ["<|end|>", "<|user|>", *BYTES, "he", "ll", "hell"]
    words += [f"<unused{i}>" for i in range(config.vocab_size - len(words))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(extra.get("pre", "smollm"))
    writer.add_token_list(words)
    writer.add_token_types([3, 3, *[1] * 259, *[3] * (config.vocab_size - 261)])
    writer.add_token_merges(["h e", "l l", "he ll"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(0)
    writer.add_chat_template("{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}")
    for name, tensor in split_experts(model.state_dict(), config.model_type).items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.numpy().astype(np.float32)
        if config.model_type in PERMUTED and ("q_proj" in name or "k_proj" in name):
            values = permuted(
                values, config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            )
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            values = values + 1  # as llama.cpp's converter does
        module, _, part = name.rpartition(".")
        if name.endswith("shared_expert_gate.weight"):
            values = values[0]  # as llama.cpp's converter does
        experts_only = kind == gguf.GGMLQuantizationType.MXFP4
        of = kind if values.ndim > (1 + experts_only) and part != "bias" else gguf.GGMLQuantizationType.F32
        stem = f"{names.get_name(name)}.weight" if part == "sinks" else f"{names.get_name(module)}.{part}"
        writer.add_tensor(stem, gguf.quantize(values, of), raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# of the others it reads no file, or (GPT-OSS) fails on the rotary fields
READ_BY_TRANSFORMERS = ("llama", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "gemma2", "gemma3_text", "phi3")


def in_mxfp4(values: np.ndarray) -> np.ndarray:
    kind = gguf.GGMLQuantizationType.MXFP4
    return gguf.dequantize(gguf.quantize(values, kind), kind)


def tiny_model(family: str, tied: bool, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    sizes = {**TINY, **OTHER.get(family, {})}
    config = AutoConfig.for_model(family, **sizes, tie_word_embeddings=tied)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.add_(0.3 * torch.randn_like(weight))
    return model


def five_bits(block: np.ndarray, minimum: bool) -> list[float]:
    """ggml's Q5_0, d (q - 16), or Q5_1, d q + m, bit by bit: d, m, the fifth bits, then the other four."""
    scale, least = (float(x) for x in block[:4].view(np.float16))
    rest = block[4 if minimum else 2 :]
    fifth = int.from_bytes(rest[:4].tobytes(), "little")
    low = [int(byte) & 15 for byte in rest[4:]] + [int(byte) >> 4 for byte in rest[4:]]
    whole = [four | ((fifth >> i & 1) << 4) for i, four in enumerate(low)]
    return [scale * q + least if minimum else scale * (q - 16) for q in whole]


@pytest.mark.parametrize("kind", ["Q5_0", "Q5_1"])
def test_blocks_of_five_bits_are_dequantized_as_ggml_defines_them(kind: str):
    number = gguf.GGMLQuantizationType[kind]
    raw = np.random.default_rng(0).integers(0, 256, (64, gguf.GGML_QUANT_SIZES[number][1]), np.uint8)
    raw[:, 1:4:2] &= 0x3B  # the scales: no infinity, no NaN
    expected = np.array([five_bits(block, kind == "Q5_1") for block in raw], np.float32)
    np.testing.assert_array_equal(gguf.dequantize(raw, number), expected)


@pytest.mark.parametrize(
    "kind", [kind for kind in TYPES if kind.startswith(("Q", "IQ")) and kind not in ("Q5_0", "Q5_1")]
)
def test_blocks_are_dequantized_bit_for_bit_as_in_transformers(kind: str):
    number = gguf.GGMLQuantizationType[kind]
    size, width = gguf.GGML_QUANT_SIZES[number]
    raw = np.random.default_rng(0).integers(0, 256, (64, width), np.uint8)
    raw[:, 1::2] &= 0x3B  # whichever bytes are a block's 16-bit scale: no infinity, no NaN
    ours = gguf.dequantize(raw, number)
    theirs = torch_dequantize(torch.from_numpy(raw), int(number)).numpy()
    assert ours.size == 64 * size
    np.testing.assert_array_equal(ours.reshape(-1), theirs.reshape(-1))


@pytest.mark.parametrize(
    ("family", "tied", "kind"),
    [
        *((family, tied, "Q8_0") for family, tied in (("llama", True), ("llama", False), ("qwen2", False))),
        *(("llama", True, kind) for kind in ("F32", "F16", "BF16", "Q4_0", "Q4_1")),
        ("gemma2", True, "Q8_0"),
        ("qwen2_moe", False, "F32"),
        ("qwen3_moe", False, "F32"),
        ("mixtral", False, "F32"),
        ("olmo2", False, "F32"),
        ("smollm3", True, "F32"),
        ("granite", False, "F32"),
        ("cohere", True, "F32"),
        ("gemma3_text", True, "F32"),
        ("qwen3", False, "F32"),
        ("phi3", True, "F32"),
        ("phi3", False, "Q8_0"),
        ("gpt_oss", False, "F32"),
        ("gpt_oss", False, "MXFP4"),
    ],
)
def test_every_weight_equals_transformers_reading(tmp_path: Path, family: str, tied: bool, kind: str):
    model = tiny_model(family, tied)
    if kind == "MXFP4":
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith(("gate_up_proj", "down_proj")):
                    weight.copy_(torch.from_numpy(in_mxfp4(weight.mT.numpy())).mT)
    path = write(tmp_path / "m.gguf", model, gguf.GGMLQuantizationType[kind])
    # where transformers does not read the architecture, the model itself counts
    theirs = model
    if family in READ_BY_TRANSFORMERS:
        theirs = AutoModelForCausalLM.from_pretrained(  # several sizes it takes for the released ones
            tmp_path, gguf_file="m.gguf", config=model.config, dtype=torch.float32
        )
    ours = read_gguf(path)
    known = {n: t.numpy() for n, t in split_experts(theirs.state_dict(), family).items()}
    known = {n: t for n, t in known.items() if not (tied and n == "lm_head.weight")}
    for name in [n for n in known if ".experts." in n]:
        stacked = known.pop(name)
        known |= {name.replace("experts.", f"experts.{i}."): part for i, part in enumerate(stacked)}
    if family == "mixtral":
        mapped = {"mlp.": "block_sparse_moe.", "gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
        for old, new in mapped.items():
            known = {n.replace(old, new): t for n, t in known.items()}
    assert set(ours.tensors) == set(known)
    assert ours.config["tie_word_embeddings"] is tied
    written = {"vocab_size": TINY["vocab_size"], **ours.config}
    ends = {"bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 0}
    assert config_from_hf(written) == config_from_hf({**model.config.to_dict(), **ends})
    for name, tensor in ours.tensors.items():
        np.testing.assert_array_equal(tensor.all().astype(np.float32), known[name], err_msg=name)


@pytest.mark.parametrize("family", ["phi3", "gpt_oss"])
def test_a_file_is_loaded_as_its_twin_in_safetensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
):
    """Of families whose checkpoints hold several weights in one tensor."""
    monkeypatch.setenv("JAXMOE_CACHE", str(tmp_path / "cache"))
    model = tiny_model(family, tied=False)
    model.save_pretrained(tmp_path / "twin")
    path = write(tmp_path / "tiny.gguf", model, gguf.GGMLQuantizationType.F32)
    ours, twin = (jaxmoe.load(source).weights for source in (path, tmp_path / "twin"))
    assert jax.tree.leaves(ours.frozen)
    jax.tree.map(np.testing.assert_array_equal, ours.frozen, twin.frozen)


def test_a_file_is_loaded_as_the_model_it_was_written_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Logits and greedy text equal torch's, and the tokenizer and template come along."""
    monkeypatch.setenv("JAXMOE_CACHE", str(tmp_path / "cache"))
    model = tiny_model("llama", tied=True)
    path = write(tmp_path / "tiny.gguf", model, gguf.GGMLQuantizationType.F32)
    lm, tokenizer = jaxmoe.load(path), load_tokenizer(path)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hello 42"}], tokenize=False)
    assert text == "<|user|>hello 42<|end|>"
    ids = tokenizer.encode("hello 42", add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids) == ["hell", "o", "Ġ", "4", "2"]
    assert tokenizer.decode(ids) == "hello 42"
    assert (tokenizer.eos_token, tokenizer.pad_token_id) == ("<|end|>", 0)
    rows = np.asarray([ids])
    expected = torch_logits(model, rows, np.ones_like(rows))
    np.testing.assert_allclose(logits_of(lm, rows), expected, atol=DOUBLE)
    made = model.generate(
        torch.from_numpy(rows), max_new_tokens=8, do_sample=False, eos_token_id=0, pad_token_id=0
    )
    np.testing.assert_array_equal(lm.generate(rows, max_new_tokens=8).tokens[0, : made.shape[1]], made[0])


def llama_3(factor: float, **changes: float) -> Any:
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": factor, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192, **changes}
    config = AutoConfig.for_model(
        "llama",
        **{**TINY, "max_position_embeddings": 131_072},
        rope_parameters=rope,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3s_rotary_scaling_is_read_from_its_divisors(tmp_path: Path, monkeypatch, factor: float):
    monkeypatch.setenv("JAXMOE_CACHE", str(tmp_path / "cache"))
    model = llama_3(factor)
    path = write(tmp_path / "three.gguf", model, gguf.GGMLQuantizationType.F32)
    lm = jaxmoe.load(path)
    ends = {"bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 0}
    assert lm.config.rope == config_from_hf({**model.config.to_dict(), **ends}).rope
    rows = np.arange(120).reshape(2, 60)
    expected = torch_logits(model, rows, np.ones_like(rows))
    np.testing.assert_allclose(logits_of(lm, rows), expected, atol=DOUBLE)


@pytest.mark.parametrize(
    "changes", [{"high_freq_factor": 5.0}, {"original_max_position_embeddings": 16_384}, {"rope_theta": 1e4}]
)
def test_other_divisors_of_rotary_frequencies_are_refused(tmp_path: Path, changes: dict[str, float]):
    model = llama_3(8.0, **changes)
    if "rope_theta" in changes:
        model.config.rope_parameters = {**model.config.rope_parameters, "rope_theta": 5e5}
    path = write(tmp_path / "other.gguf", model, gguf.GGMLQuantizationType.F32)
    if "rope_theta" in changes:
        path.write_bytes(path.read_bytes().replace(np.float32(5e5).tobytes(), np.float32(1e4).tobytes(), 1))
    with pytest.raises(ValueError, match=r"a rotary scaling that is not Llama 3's \(low_freq_factor 1, high"):
        read_gguf(path)


def test_the_folder_is_made_once_and_knows_when_its_file_is_gone(tmp_path: Path):
    path = write(tmp_path / "tiny.gguf", tiny_model("llama", tied=True), gguf.GGMLQuantizationType.Q8_0)
    folder = gguf_folder(path, tmp_path / "cache")
    stamp = (folder / "tokenizer.json").stat().st_mtime_ns
    assert gguf_folder(path, tmp_path / "cache") == folder
    assert (folder / "tokenizer.json").stat().st_mtime_ns == stamp
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 0
    moved = path.rename(tmp_path / "moved.gguf")
    with pytest.raises(ValueError, match="is no longer there as it was; give the file again"):
        noted_gguf(folder)
    assert gguf_folder(moved, tmp_path / "cache").name.startswith("moved-")


def test_a_folder_that_was_left_half_is_made_again(tmp_path: Path):
    path = write(tmp_path / "tiny.gguf", tiny_model("llama", tied=True), gguf.GGMLQuantizationType.Q8_0)
    folder = gguf_folder(path, tmp_path / "cache")
    (folder / "gguf.json").write_text("")
    (folder / "tokenizer.json").unlink()
    assert gguf_folder(path, tmp_path / "cache") == folder
    assert (folder / "tokenizer.json").is_file()
    assert [one.name for one in (tmp_path / "cache").iterdir()] == [folder.name]


def byte_fields(**other: Any) -> dict[str, Any]:
    return {"ggml.model": "gpt2", "ggml.pre": "gpt-2", "ggml.tokens": BYTES, "ggml.merges": [], **other}


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_every_pre_tokenizer_keeps_every_character(name: str):
    tokenizer = build_tokenizer(byte_fields(**{"ggml.pre": name}))
    text = "It's 12345 HTTPServers: äöü\u0301 漢字\r\n\n\t x==3.14  "
    assert tokenizer.decode(tokenizer.encode(text).ids) == unicodedata.normalize("NFC", text) or (
        PRE_TOKENIZERS[name] != "qwen2" and tokenizer.decode(tokenizer.encode(text).ids) == text
    )


@pytest.mark.parametrize(
    ("name", "text", "pieces"),
    [
        ("gpt-2", "it's 12345", ["it", "'s", "Ġ12345"]),
        ("smollm", "it's 12345", ["it", "'s", "Ġ", "1", "2", "3", "4", "5"]),
        ("llama-bpe", "IT'S 12345", ["IT", "'S", "Ġ", "123", "45"]),
        ("qwen2", "it's 123", ["it", "'s", "Ġ", "1", "2", "3"]),
        ("tekken", "fooBar HTTPServer 12", ["foo", "Bar", "ĠHTTPServer", "Ġ", "1", "2"]),
        ("gpt-4o", "don't 1234", ["don't", "Ġ", "123", "4"]),
    ],
)
def test_words_are_cut_as_published(name: str, text: str, pieces: list[str]):
    built = build_tokenizer(byte_fields(**{"ggml.pre": name}))
    assert [piece for piece, _ in built.pre_tokenizer.pre_tokenize_str(text)] == pieces


def test_gemmas_tokens_of_spaces_and_its_order_of_merges():
    """Its scores say nothing of the order in which pieces merge, and runs of spaces are stored as spaces."""
    tokens = ["<unk>", "<s>", *[f"<0x{i:02X}>" for i in range(256)], "▁", "a", "b", "bc", "ab", "c", "  "]
    fields = {"ggml.model": "llama", "ggml.tokens": tokens, "ggml.scores": [-5.0] * len(tokens)}
    fields |= {"ggml.add_space_prefix": False, "ggml.add_bos_token": False}
    built = build_tokenizer(fields, gemma=True)
    assert built.encode("abc  a").tokens == ["a", "bc", "▁▁", "a"]
    assert built.decode(built.encode("abc  a").ids) == "abc  a"


def test_sentence_piece_merges_the_best_scored_pair_first():
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *[f"<0x{i:02X}>" for i in range(256)],
        "▁",
        "a",
        "b",
        "c",
        "ab",
        "bc",
        "▁a",
    ]
    scores = [0.0] * 259 + [-10.0, -11.0, -12.0, -13.0, -1.0, -2.0, -3.0]
    fields = {"ggml.model": "llama", "ggml.tokens": tokens, "ggml.scores": scores, "ggml.bos_token_id": 1}
    built = build_tokenizer(fields | {"ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * 7]})
    encoded = built.encode("abc é")
    # "ab" scores best, so "bc" and "▁a" find nothing left
    assert encoded.tokens == ["<s>", "▁", "ab", "c", "▁", "<0xC3>", "<0xA9>"]
    assert built.decode(encoded.ids) == "abc é"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "holds no tokenizer"),
        (byte_fields(**{"ggml.model": "bert"}), "must be gpt2 or llama; got 'bert'"),
        (byte_fields(**{"ggml.pre": "newest"}), "tokenizer.ggml.pre must be one of .*; got 'newest'"),
        (byte_fields(**{"ggml.token_type": [1]}), "must have 256 entries; got 1"),
        (byte_fields(**{"ggml.merges": ["ab"]}), "must hold pairs of tokens"),
        ({"ggml.model": "llama", "ggml.tokens": ["a"]}, "scores must have 1 entries"),
    ],
)
def test_tokenizers_that_are_not_known_are_refused(fields: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        build_tokenizer(fields)


def test_files_that_cannot_be_read_are_refused_in_one_line(tmp_path: Path):
    whole = write(tmp_path / "whole.gguf", tiny_model("llama", tied=True), gguf.GGMLQuantizationType.F32)
    bytes_ = whole.read_bytes()
    cases = {
        "empty": b"",
        "other": b"PK\x03\x04 not this",
        "header": bytes_[:20],
        "half": bytes_[: len(bytes_) // 2],
        "architecture": bytes_.replace(b"llama", b"rwkv6"),
    }
    for name, content in cases.items():
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"\.gguf") as raised:
            read_gguf(path)
        assert "\n" not in str(raised.value)


def test_a_part_of_a_split_model_is_refused(tmp_path: Path):
    writer = gguf.GGUFWriter(tmp_path / "part.gguf", "llama")
    writer.add_uint16("split.count", 2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match=r"part\.gguf is one of 2 parts; join them first: llama-gguf-split"):
        read_gguf(tmp_path / "part.gguf")


def _refused(path: Path) -> bool:
    """Whether a file is refused; anything but a result or one line of ValueError fails the test."""
    try:
        read_gguf(path)
    except ValueError as error:
        return "\n" not in str(error) or pytest.fail(f"several lines: {error}")
    return False


def test_fields_that_are_not_computed_are_refused_by_name(tmp_path: Path):
    writer = gguf.GGUFWriter(tmp_path / "scaled.gguf", "llama")
    for add, value in ((writer.add_block_count, 1), (writer.add_context_length, 64)):
        add(value)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(2.0)
    writer.add_rope_scaling_yarn_log_mul(0.1)
    writer.add_tensor("token_embd.weight", np.zeros((8, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match=r"rope\.scaling\.yarn_log_multiplier must be 0; got 0\.1"):
        read_gguf(tmp_path / "scaled.gguf")


def test_damaged_files_end_in_one_line_or_in_a_model(tmp_path: Path):
    whole = write(tmp_path / "whole.gguf", tiny_model("llama", tied=True), gguf.GGMLQuantizationType.Q8_0)
    content = np.frombuffer(whole.read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    path, refused = tmp_path / "damaged.gguf", 0
    for _ in range(200):
        damaged = content.copy()
        damaged[rng.integers(0, 9000, 4)] = rng.integers(0, 256, 4)
        path.write_bytes(damaged.tobytes())
        refused += _refused(path)
    assert refused > 20
