"""Model families of Hugging Face: one file each, and a line in `FAMILIES`.

A family is a dataclass of the keys in its config.json (`jaxmoe.families.hf_config`). It sets the switches of
the decoder's block: biases, norms on the heads, windows. To add one, write its file and name its class below;
if it needs a switch that the block lacks, add that to `jaxmoe.model.config.ModelConfig` and
`jaxmoe.model.layers`.
"""

import dataclasses
from collections.abc import Mapping

from jaxmoe.families.cohere import Cohere
from jaxmoe.families.gemma2 import Gemma2
from jaxmoe.families.gemma3 import Gemma3
from jaxmoe.families.gpt_oss import GptOss
from jaxmoe.families.granite import Granite
from jaxmoe.families.hf_config import HfConfig
from jaxmoe.families.llama import Llama
from jaxmoe.families.mistral import Mistral
from jaxmoe.families.mixtral import Mixtral
from jaxmoe.families.olmo2 import Olmo2
from jaxmoe.families.phi3 import Phi3
from jaxmoe.families.qwen2 import Qwen2
from jaxmoe.families.qwen3 import Qwen3
from jaxmoe.families.qwen_moe import Qwen2Moe, Qwen3Moe
from jaxmoe.families.smollm3 import SmolLM3
from jaxmoe.families.text_part import text_config
from jaxmoe.json_files import parse
from jaxmoe.json_values import shown
from jaxmoe.model.config import ModelConfig

FAMILIES: dict[str, type[HfConfig]] = {
    family.MODEL_TYPE: family
    for family in (
        Llama,
        Mistral,
        Qwen2,
        Qwen3,
        Gemma2,
        Gemma3,
        Qwen2Moe,
        Qwen3Moe,
        Mixtral,
        Olmo2,
        SmolLM3,
        Granite,
        Cohere,
        Phi3,
        GptOss,
    )
}


def family_of(model_type: object, where: object = "config.json") -> type[HfConfig]:
    """The family with this `model_type`.

    Args:
      where: what the name comes from, for the error message.
    Returns: the dataclass of its config.json.
    Raises: ValueError for any other, listing the known ones.

    >>> family_of("qwen2").CLASS_PREFIX
    'Qwen2'
    """
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ValueError(
            f"model_type must be one of {', '.join(FAMILIES)}; got {shown(model_type)} in {where}; "
            "how to add a family: docs/guides/add-a-model-family.md"
        )
    return FAMILIES[model_type]


def config_from_hf(json_config: Mapping[str, object], where: object = "config.json") -> ModelConfig:
    """The decoder that a config.json describes, in the old or the new form of its rotary settings.

    Args:
      json_config: the object in the file, or `to_dict()` of a transformers config.
      where: the file's name, for error messages.
    Returns: the shape that the decoder is built with.
    Raises: ValueError, in one line, for a family, activation or position scaling that the decoder lacks, and
      for values that do not fit.

    >>> config_from_hf({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}).head_dim
    16
    """
    text = text_config(json_config, where)
    read = parse(family_of(text.get("model_type"), where), text, where)
    try:
        return read.to_model()
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def config_to_hf(model: ModelConfig) -> dict[str, object]:
    """The object for config.json; transformers rebuilds the same model from it.

    Raises: ValueError for a switch that the model's family cannot express, such as `qk_norm` in a Llama.
    """
    written = family_of(model.family, "model.family").to_hf(model)
    again = config_from_hf(written)
    if not any(model.windows):
        again = dataclasses.replace(again, windows=model.windows)
    if lost := [
        f.name for f in dataclasses.fields(model) if getattr(again, f.name) != getattr(model, f.name)
    ]:
        settings = ", ".join(f"{name}={shown(getattr(model, name))}" for name in lost)
        raise ValueError(
            f"the family {model.family} of transformers cannot express {settings}; name another in "
            "model.family"
        )
    return written
