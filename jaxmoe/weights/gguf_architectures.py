"""What llama.cpp's converter does with each architecture: how a GGUF file's fields and tensors are read."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxmoe.json_values import JsonMapping, JsonObject

Fields = dict[str, Any]  # numbers, text, and lists of both, each of the type that the file declares
# besides an architecture's own fields: the names of all tensors, and the values of those that hold LongRoPE's
# factors
TENSORS = "tensor names"
FACTORS = ("rope_factors_long", "rope_factors_short")


def as_written(value: float) -> float:
    """A number as config.json had it, from its float32 in a GGUF file.

    >>> as_written(9.999999747378752e-06)
    1e-05
    """
    return float(f"{value:.7g}")


def _no_keys(own: Fields, config: JsonMapping) -> JsonObject:
    del own, config
    return {}


class Architecture(NamedTuple):
    """One architecture of llama.cpp.

    Attributes:
      model_type: of config.json.
      interleaved: rows of a rotary head are stored as (pair, half), Hugging Face's as (half, pair).
      norm_offset: what the file has added to every norm's weight.
      partial: rope.dimension_count may say that only a part of each head is rotated.
      keys: the remaining keys of config.json, from the architecture's own fields and the config so far.
    """

    model_type: str
    interleaved: bool = False
    norm_offset: float = 0.0
    partial: bool = False
    keys: Callable[[Fields, JsonMapping], JsonObject] = _no_keys


def _granite(own: Fields, config: JsonMapping) -> JsonObject:
    plain = config["head_dim"] ** -0.5
    return {
        "embedding_multiplier": as_written(own.get("embedding_scale", 1.0)),
        "attention_multiplier": as_written(own.get("attention.scale", plain)),
        "residual_multiplier": as_written(own.get("residual_scale", 1.0)),
        "logits_scaling": as_written(own.get("logit_scale", 1.0)),
    }


def _cohere(own: Fields, config: JsonMapping) -> JsonObject:
    return {
        "layer_norm_eps": config["rms_norm_eps"],
        "logit_scale": as_written(own.get("logit_scale", 0.0625)),
        "use_qk_norm": "blk.0.attn_q_norm.weight" in own[TENSORS],
    }


def _experts(own: Fields, name: str) -> JsonObject:
    return {name: own["expert_count"], "num_experts_per_tok": own["expert_used_count"]}


def _mixtral(own: Fields, config: JsonMapping) -> JsonObject:
    """Mixtral's files call themselves llama, too."""
    del config
    return {"model_type": "mixtral", **_experts(own, "num_local_experts")} if own.get("expert_count") else {}


def _qwen_moe(own: Fields, normalize: bool) -> JsonObject:
    # llama.cpp normalizes the weights of a token's experts to a sum of 1 for Qwen3 only
    keys = {"moe_intermediate_size": own["expert_feed_forward_length"], "norm_topk_prob": normalize}
    return {**_experts(own, "num_experts"), **keys}


def _qwen2moe(own: Fields, config: JsonMapping) -> JsonObject:
    del config
    shared = own["expert_shared_feed_forward_length"]
    return {**_qwen_moe(own, normalize=False), "shared_expert_intermediate_size": shared}


def _qwen3moe(own: Fields, config: JsonMapping) -> JsonObject:
    del config
    return _qwen_moe(own, normalize=True)


def _layer_types(own: Fields, layers: int, every: int) -> list[str]:
    """Each layer's kind of attention: every `every`-th sees everything, unless the file says more."""
    pattern = own.get("attention.sliding_window_pattern", every)
    slides = pattern if isinstance(pattern, list) else [bool((i + 1) % pattern) for i in range(layers)]
    return ["sliding_attention" if slide else "full_attention" for slide in slides]


def _gemma(own: Fields, config: JsonMapping, layers_27b: int, every: int) -> JsonObject:
    # llama.cpp decides by the number of layers which size scales queries by D / N instead of H
    large = config["num_hidden_layers"] == layers_27b
    scalar = config["hidden_size"] // config["num_attention_heads"] if large else config["head_dim"]
    return {
        "query_pre_attn_scalar": scalar,
        "sliding_window": own.get("attention.sliding_window", 4096),
        "layer_types": _layer_types(own, config["num_hidden_layers"], every),
    }


def _gemma2(own: Fields, config: JsonMapping) -> JsonObject:
    caps = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    return {
        **_gemma(own, config, 46, every=2),
        **{key: as_written(own.get(key, cap)) for key, cap in caps.items()},
    }


def _gemma3(own: Fields, config: JsonMapping) -> JsonObject:
    # the scaling applies to layers that see everything
    local = {"rope_type": "default", "rope_theta": own.get("rope.freq_base_swa", 10000.0)}
    cap = own.get("final_logit_softcapping")
    return {
        **_gemma(own, config, 62, every=6),
        "final_logit_softcapping": None if cap is None else as_written(cap),
        "rope_parameters": {"full_attention": config["rope_parameters"], "sliding_attention": local},
    }


def _longrope_factor(own: Fields, growth: float, original: int) -> float | None:
    """The factor on cos and sin; None for LongRoPE's own, which config.json leaves out."""
    plain = math.sqrt(1 + math.log(growth) / math.log(original)) if growth > 1 else 1.0
    factor = own.get("rope.scaling.attn_factor", plain)
    return None if math.isclose(factor, plain, rel_tol=1e-6) else as_written(factor)


def _phi3(own: Fields, config: JsonMapping) -> JsonObject:
    # the factors of LongRoPE are tensors in the file (`gguf_file`); phi3.rope.scaling.type is never written
    rope = config["rope_parameters"]
    original = own.get("rope.scaling.original_context_length", config["max_position_embeddings"])
    turning = own.get("rope.dimension_count", config["head_dim"])
    rope |= {"partial_rotary_factor": turning / config["head_dim"]}
    if FACTORS[0] in own:
        rope |= {
            "rope_type": "longrope",
            "long_factor": own[FACTORS[0]],
            "short_factor": own[FACTORS[1]],
            "attention_factor": _longrope_factor(own, config["max_position_embeddings"] / original, original),
        }
    window = own.get("attention.sliding_window") or None
    return {"original_max_position_embeddings": original, "sliding_window": window}


def _gpt_oss(own: Fields, config: JsonMapping) -> JsonObject:
    # trained with exact limits of YaRN, which the file cannot express
    rope = config["rope_parameters"] | {"truncate": False}
    return {
        **_experts(own, "num_local_experts"),
        "intermediate_size": own.get("expert_feed_forward_length", config["intermediate_size"]),
        "rope_parameters": rope,
        "sliding_window": own["attention.sliding_window"],
        "layer_types": _layer_types(own, config["num_hidden_layers"], 2),
    }


# general.architecture -> how it is read. Mistral's files call themselves llama.
ARCHITECTURES = {
    "llama": Architecture("llama", interleaved=True, keys=_mixtral),
    "mistral": Architecture("mistral", interleaved=True),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "qwen2moe": Architecture("qwen2_moe", keys=_qwen2moe),
    "qwen3moe": Architecture("qwen3_moe", keys=_qwen3moe),
    "olmo2": Architecture("olmo2"),
    # llama.cpp supports no interval of layers without positions other than 4
    "smollm3": Architecture("smollm3", interleaved=True),
    "granite": Architecture("granite", interleaved=True, keys=_granite),
    "command-r": Architecture("cohere", keys=_cohere),
    "phi3": Architecture("phi3", partial=True, keys=_phi3),
    "gpt-oss": Architecture("gpt_oss", keys=_gpt_oss),
    "gemma2": Architecture("gemma2", norm_offset=1.0, keys=_gemma2),
    "gemma3": Architecture("gemma3_text", norm_offset=1.0, keys=_gemma3),
}
