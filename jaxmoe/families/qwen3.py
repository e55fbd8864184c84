"""Qwen3: queries and keys are normalized by head."""

import dataclasses
from typing import ClassVar

from jaxmoe.families.hf_config import Size, WindowedConfig
from jaxmoe.model.config import ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen3(WindowedConfig):
    """An RMSNorm on each head's query and key; attention has optional biases."""

    MODEL_TYPE: ClassVar[str] = "qwen3"
    CLASS_PREFIX: ClassVar[str] = "Qwen3"

    vocab_size: Size = 151936
    intermediate_size: Size = 22016
    num_key_value_heads: Size | None = 32
    head_dim: Size | None = 128
    max_position_embeddings: Size = 32768
    attention_bias: bool = False

    def to_model(self) -> ModelConfig:
        """The decoder, with norms on the heads."""
        bias = self.attention_bias
        return dataclasses.replace(super().to_model(), qk_norm=True, qkv_bias=bias, out_bias=bias)

    @classmethod
    def own_keys(cls, model: ModelConfig) -> dict[str, object]:
        """Windows, and whether attention has biases."""
        return {**super().own_keys(model), "attention_bias": model.out_bias}
