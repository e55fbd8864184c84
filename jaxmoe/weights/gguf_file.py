"""GGUF files (llama.cpp): the model's config, tensors and tokenizer data as Hugging Face names them.

Architectures in `ARCHITECTURES` are read, all others are refused by name. Tensors are dequantized when they
are read, one at a time, so that a file with 4 bits per weight is never held whole in memory.
"""

import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import ml_dtypes
import numpy as np

from jaxmoe.families import config_from_hf, family_of
from jaxmoe.json_values import JsonMapping, JsonObject
from jaxmoe.model.config import ModelConfig
from jaxmoe.weights.convert import weight_table
from jaxmoe.weights.gguf_architectures import ARCHITECTURES, FACTORS, TENSORS, Fields, as_written
from jaxmoe.weights.weight_files import StoredTensor

if TYPE_CHECKING:
    from gguf import ReaderTensor

# the types that are tested bit for bit; llama.cpp has a few more (ternary ones, NVFP4)
TYPES = (
    *("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS", "MXFP4"),
)

NORM_EPSILON = "attention.layer_norm_rms_epsilon"
# what each rotary frequency is divided by, and the settings of Llama 3.1 to 3.3 from which it follows
FREQUENCIES = "rope_freqs"
LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
# where the number of an expert stands in a Hugging Face name
EXPERT = "EXPERT"


class GGUF(NamedTuple):
    """A GGUF file's contents.

    Attributes:
      config: as a config.json would hold it.
      tensors: by their names in a Hugging Face checkpoint.
      tokenizer: the `tokenizer.` fields, without that prefix.
      name: what the file calls the model; empty if it does not.
    """

    config: JsonObject
    tensors: dict[str, StoredTensor]
    tokenizer: Fields
    name: str


def read_gguf(path: str | Path) -> GGUF:
    """Opens a GGUF file; tensors are read and dequantized when they are asked for.

    Raises: ValueError, naming it, for a file that is no GGUF file, is truncated, or holds an architecture, a
      rotary scaling, a quantization or a tensor that is not supported.
    """
    path = Path(path)
    fields, stored = _open(path)
    architecture = str(fields.get("general.architecture"))
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"general.architecture must be one of {', '.join(ARCHITECTURES)}; got {architecture!r} in {path}"
        )
    if (parts := fields.get("split.count", 0)) > 1:
        raise ValueError(
            f"{path} is one of {parts} parts; join them first: llama-gguf-split --merge PART OUT"
        )
    kind = ARCHITECTURES[architecture]
    prefix = f"{architecture}."
    own = {key.removeprefix(prefix): value for key, value in fields.items() if key.startswith(prefix)}
    own[TENSORS] = [tensor.name for tensor in stored]
    # numbers that rotary frequencies are divided by
    named = FACTORS if kind.partial else (FREQUENCIES,)
    factors = [t for t in stored if t.name.removesuffix(".weight") in named]
    stored = [tensor for tensor in stored if tensor not in factors]
    own |= {t.name.removesuffix(".weight"): [as_written(x) for x in _dequantized(t)] for t in factors}
    try:
        config = _config(architecture, own, fields, path)
    except KeyError as error:
        raise ValueError(f"{path} lacks the field {architecture}.{error.args[0]}") from error
    if config["num_hidden_layers"] > len(stored):
        raise ValueError(
            f"{path} is damaged: {architecture}.block_count is {config['num_hidden_layers']}, and it holds "
            f"only {len(stored)} tensors"
        )
    names = _hf_names("llama" if architecture == "mistral" else architecture, config_from_hf(config, path))
    tensors: dict[str, StoredTensor] = {}
    last: dict[str, np.ndarray] = {}
    for tensor in stored:
        if (name := names.get(tensor.name)) is None:
            raise ValueError(f"{path} holds {tensor.name}, which no {architecture} model has")
        heads = _rotary_heads(name, config) if kind.interleaved else None
        offset = kind.norm_offset if name.endswith("norm.weight") else 0.0
        whole = _stored(tensor, heads, offset, path, last, row=name.endswith("shared_expert_gate.weight"))
        if EXPERT in name:
            tensors |= {name.replace(EXPERT, str(i)): _expert(whole, i) for i in range(whole.shape[0])}
        else:
            tensors[name] = whole
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    embedding = tensors.get("model.embed_tokens.weight")
    if embedding is None:
        raise ValueError(f"{path} holds no token_embd.weight: it is no language model")
    config["vocab_size"] = embedding.shape[0]
    tokenizer = {k.removeprefix("tokenizer."): v for k, v in fields.items() if k.startswith("tokenizer.")}
    return GGUF(config, tensors, tokenizer, str(fields.get("general.name", "")))


def _expert(whole: StoredTensor, number: int) -> StoredTensor:
    """One expert's part of a tensor that stacks them."""

    def read(index: tuple[slice, ...]) -> np.ndarray:
        return whole.read((slice(number, number + 1), *index))[0]

    return StoredTensor(whole.shape[1:], whole.dtype, read)


def _hf_names(architecture: str, model: ModelConfig) -> dict[str, str]:
    """Tensors' names in a Hugging Face checkpoint by those in the file, from llama.cpp's own table.

    EXPERT is part of the names of tensors that stack a layer's experts.
    """
    import gguf

    kind = next(k for k, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    table = gguf.get_tensor_name_map(kind, model.num_layers)
    found: dict[str, str] = {}
    family = family_of(model.family)
    written = [weight.name for weight in weight_table(model).values()]
    if family.FUSED_FILES:  # last, since the file uses the same name for up and gate with up
        written += [one.name for one in family.FUSED if one.parts[0].count("{}") == 1]
    for weight in written:
        for layer in range(model.num_layers if "{}" in weight else 1):
            module, _, part = weight.format(layer, EXPERT).rpartition(".")
            if part not in ("weight", "bias"):  # attention sinks
                found[f"{table.get_name(f'{module}.{part}')}.weight"] = f"{module}.{part}"
                continue
            # experts are stacked; in Mixtral's case under a name that its converter makes up
            asked = module.replace(f".{EXPERT}", "").replace(
                "block_sparse_moe.experts", "feed_forward.experts"
            )
            stem = table.get_name(asked) or table.get_name(asked.removeprefix("model."))
            if stem is not None:
                found[f"{stem}.{part}"] = f"{module}.{part}"
    return found


def _open(path: Path) -> tuple[Fields, list["ReaderTensor"]]:
    """All fields by name, and the tensors as the gguf package describes them."""
    import gguf  # only needed for such files

    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ValueError(f"{path} is no GGUF file: it does not begin with the letters GGUF")
        reader = gguf.GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from error
    except (IndexError, KeyError, struct.error, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{path} is damaged or truncated ({error!r:.80}); fetch it again") from error
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path} is damaged or truncated ({error!s:.80}); fetch it again") from error
    return fields, list(reader.tensors)


def _config(architecture: str, own: Fields, fields: Fields, path: Path) -> JsonObject:
    def needed(key: str) -> int | float:
        if key not in own:
            raise ValueError(f"{path} lacks the field {architecture}.{key}")
        if isinstance(own[key], list):
            raise ValueError(f"{architecture}.{key} must be one number for all layers; got a list in {path}")
        return own[key]

    scaling = own.get("rope.scaling.type", "none")
    if scaling not in ("none", "linear", "yarn"):
        raise ValueError(f"rope.scaling.type must be none, linear or yarn; got {scaling!r} in {path}")
    heads = needed("attention.head_count")
    partial = ARCHITECTURES[architecture].partial
    head_dim = own.get("attention.key_length") or (None if partial else own.get("rope.dimension_count"))
    head_dim = head_dim or needed("embedding_length") // heads
    if not partial and own.get("rope.dimension_count", head_dim) != head_dim:
        raise ValueError(
            f"{path} turns {own['rope.dimension_count']} of {head_dim} dimensions; all must turn"
        )
    rope: JsonObject = {"rope_type": "default", "rope_theta": own.get("rope.freq_base", 10000.0)}
    if scaling != "none":
        rope |= {"rope_type": scaling, "factor": needed("rope.scaling.factor")}
        if scaling == "yarn":
            rope |= _yarn(own, needed("context_length"), path)
    elif any(divisor != 1 for divisor in own.get(FREQUENCIES, ())):
        rope |= _llama3(own[FREQUENCIES], int(head_dim), rope["rope_theta"], path)
    config: JsonObject = {
        "model_type": ARCHITECTURES[architecture].model_type,
        "hidden_size": needed("embedding_length"),
        "intermediate_size": needed("feed_forward_length"),
        "num_hidden_layers": needed("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": own.get("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": needed("context_length"),
        "rms_norm_eps": as_written(own.get("attention.layer_norm_epsilon") or needed(NORM_EPSILON)),
        "rope_parameters": rope,
    }
    for name in ("bos", "eos"):
        config[f"{name}_token_id"] = fields.get(f"tokenizer.ggml.{name}_token_id")
    config["pad_token_id"] = fields.get("tokenizer.ggml.padding_token_id")
    return config | ARCHITECTURES[architecture].keys(own, config)


def _llama3(divisors: Sequence[float], head_dim: int, theta: float, path: Path) -> JsonObject:
    """The scaling of Llama 3, of which the file has only what each rotary frequency is divided by.

    All released models share LLAMA_3; the factor is the largest divisor. A file that these do not explain is
    refused. float32's rounding of a frequency is multiplied by the factor at most, some 4e-5 of a divisor.
    """
    found: JsonObject = {"rope_type": "llama3", "factor": max(divisors), **LLAMA_3}
    plain = theta ** -(np.arange(0, head_dim, 2) / head_dim)
    turns = LLAMA_3["original_max_position_embeddings"] * plain / (2 * math.pi)
    low, high = LLAMA_3["low_freq_factor"], LLAMA_3["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    expected = 1 / ((1 - smooth) / found["factor"] + smooth)
    if len(divisors) != len(expected) or not np.allclose(divisors, expected, rtol=1e-4, atol=0):
        raise ValueError(
            f"{path} holds rope_freqs.weight, a rotary scaling that is not Llama 3's "
            f"({', '.join(f'{key} {value:g}' for key, value in LLAMA_3.items())}); "
            "take the original checkpoint instead"
        )
    return found


def _yarn(own: Fields, context: float, path: Path) -> JsonObject:
    """What the file says about YaRN beyond its factor."""
    for name, plain in (("yarn_ext_factor", 1.0), ("yarn_log_multiplier", 0.0)):
        if (value := own.get(f"rope.scaling.{name}", plain)) not in (plain, -1.0):  # -1: not set
            raise ValueError(f"rope.scaling.{name} must be {plain:g}; got {value} in {path}")
    known = {"yarn_attn_factor": "attention_factor", "yarn_beta_fast": "beta_fast"}
    known |= {"yarn_beta_slow": "beta_slow"}
    said = {hf: own.get(f"rope.scaling.{name}") for name, hf in known.items()}
    return {
        "original_max_position_embeddings": own.get("rope.scaling.original_context_length", context),
        **{hf: as_written(value) for hf, value in said.items() if value is not None},
    }


def _rotary_heads(name: str, config: JsonMapping) -> int | None:
    """Heads of a projection whose rows llama.cpp has interleaved for its rotary layout; None for others."""
    if ".q_proj." in name:
        return config["num_attention_heads"]
    return config["num_key_value_heads"] if ".k_proj." in name else None


def _stored(
    tensor: "ReaderTensor",
    heads: int | None,
    offset: float,
    path: Path,
    last: dict[str, np.ndarray],
    row: bool,
) -> StoredTensor:
    """A tensor to read; `last` keeps the one dequantized last, since its shards are read one after another.

    Args:
      row: whether the file has a vector where the checkpoint has a matrix of one row.
    """
    kind = tensor.tensor_type.name
    if kind not in TYPES:
        raise ValueError(f"tensors must be one of {', '.join(TYPES)}; {tensor.name} in {path} is {kind}")
    shape = tuple(int(size) for size in reversed(tensor.shape))
    shape = (1, *shape) if row and len(shape) == 1 else shape
    dtype = {"F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}.get(
        kind, np.dtype(np.float32)
    )

    def read(index: tuple[slice, ...]) -> np.ndarray:
        if tensor.name not in last:
            last.clear()
            values = _in_hf_order(_dequantized(tensor), shape, heads)
            last[tensor.name] = values - values.dtype.type(offset) if offset else values
        return last[tensor.name][index]

    return StoredTensor(shape, dtype, read)


def _dequantized(tensor: "ReaderTensor") -> np.ndarray:
    """The values: float32, or the 16 bits they are stored in."""
    import gguf

    values = gguf.dequantize(tensor.data, tensor.tensor_type)
    # the package widens bfloat16, which is exact
    return values.astype(ml_dtypes.bfloat16) if tensor.tensor_type.name == "BF16" else values


def _in_hf_order(values: np.ndarray, shape: tuple[int, ...], heads: int | None) -> np.ndarray:
    """llama.cpp stores a rotary head's rows as (pair, half), Hugging Face as (half, pair)."""
    values = values.reshape(shape)
    if heads is None:
        return values
    paired = values.reshape(heads, shape[0] // heads // 2, 2, *shape[1:])
    return np.ascontiguousarray(paired.swapaxes(1, 2)).reshape(shape)
