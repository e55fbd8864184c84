"""What llama.cpp's converter does with each architecture: how a GGUF file's fields and tensors are read."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxmoe.json_values import JsonMapping, JsonObject

Fields = dict[str, Any]  # numbers, text, and lists of both, each of the type that the file says


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
      keys: from the architecture's own fields and the config so far, the further keys of config.json.
    """

    model_type: str
    interleaved: bool = False
    norm_offset: float = 0.0
    keys: Callable[[Fields, JsonMapping], JsonObject] = _no_keys


def _gemma(own: Fields, config: JsonMapping, layers_27b: int) -> JsonObject:
    # llama.cpp knows by its layers which size scales queries by D / N instead of H
    large = config["num_hidden_layers"] == layers_27b
    scalar = config["hidden_size"] // config["num_attention_heads"] if large else config["head_dim"]
    return {"query_pre_attn_scalar": scalar, "sliding_window": own.get("attention.sliding_window", 4096)}


def _gemma2(own: Fields, config: JsonMapping) -> JsonObject:
    caps = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    return {**_gemma(own, config, 46), **{key: as_written(own.get(key, cap)) for key, cap in caps.items()}}


def _gemma3(own: Fields, config: JsonMapping) -> JsonObject:
    # the scaling is of layers that see everything
    local = {"rope_type": "default", "rope_theta": own.get("rope.freq_base_swa", 10000.0)}
    cap = own.get("final_logit_softcapping")
    return {
        **_gemma(own, config, 62),
        "sliding_window_pattern": 6,
        "final_logit_softcapping": None if cap is None else as_written(cap),
        "rope_parameters": {"full_attention": config["rope_parameters"], "sliding_attention": local},
    }


# general.architecture -> how it is read. Mistral's files call themselves llama.
ARCHITECTURES = {
    "llama": Architecture("llama", interleaved=True),
    "mistral": Architecture("mistral", interleaved=True),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "gemma2": Architecture("gemma2", norm_offset=1.0, keys=_gemma2),
    "gemma3": Architecture("gemma3_text", norm_offset=1.0, keys=_gemma3),
}
