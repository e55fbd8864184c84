"""Qwen2 and Qwen2.5: biases on queries, keys and values."""

import dataclasses
from typing import ClassVar

from jaxmoe.families.hf_config import Size, WindowedConfig
from jaxmoe.model.config import ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen2(WindowedConfig):
    """Queries, keys and values always have a bias; nothing else has one."""

    MODEL_TYPE: ClassVar[str] = "qwen2"
    CLASS_PREFIX: ClassVar[str] = "Qwen2"

    vocab_size: Size = 151936
    intermediate_size: Size = 22016
    num_key_value_heads: Size | None = 32
    max_position_embeddings: Size = 32768

    def to_model(self) -> ModelConfig:
        """The decoder, with the biases that no key of the file mentions."""
        return dataclasses.replace(super().to_model(), qkv_bias=True)
