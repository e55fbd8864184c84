"""Llama 1 to 3.x, and models built like it: DeepSeek-Coder, SmolLM2, TinyLlama, Code Llama, Vicuna."""

import dataclasses
from typing import ClassVar

from jaxmoe.families.hf_config import HfConfig, TokenId
from jaxmoe.model.config import ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Llama(HfConfig):
    """Grouped attention and a gated feed-forward, each with optional biases."""

    MODEL_TYPE: ClassVar[str] = "llama"
    CLASS_PREFIX: ClassVar[str] = "Llama"

    attention_bias: bool = False
    mlp_bias: bool = False
    bos_token_id: TokenId | None = 1
    eos_token_id: TokenId | tuple[TokenId, ...] | None = 2

    def to_model(self) -> ModelConfig:
        """The decoder, with biases if the file has them."""
        bias = self.attention_bias
        return dataclasses.replace(super().to_model(), qkv_bias=bias, out_bias=bias, mlp_bias=self.mlp_bias)

    @classmethod
    def own_keys(cls, model: ModelConfig) -> dict[str, object]:
        """Where there are biases."""
        return {"attention_bias": model.out_bias, "mlp_bias": model.mlp_bias}
