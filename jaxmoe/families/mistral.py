"""Mistral 7B: Llama's block, with a sliding window in all layers or in none."""

import dataclasses
from typing import ClassVar

from jaxmoe.families.hf_config import HfConfig, Size, TokenId
from jaxmoe.model.config import ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mistral(HfConfig):
    """No biases; every query sees at most `sliding_window` positions, itself included."""

    MODEL_TYPE: ClassVar[str] = "mistral"
    CLASS_PREFIX: ClassVar[str] = "Mistral"

    intermediate_size: Size = 14336
    num_key_value_heads: Size | None = 8
    max_position_embeddings: Size = 4096 * 32
    sliding_window: Size | None = 4096
    bos_token_id: TokenId | None = 1
    eos_token_id: TokenId | tuple[TokenId, ...] | None = 2

    def to_model(self) -> ModelConfig:
        """The decoder, all its layers with the same window."""
        model = super().to_model()
        windows = () if self.sliding_window is None else (self.sliding_window,) * model.num_layers
        return dataclasses.replace(model, windows=windows)

    @classmethod
    def own_keys(cls, model: ModelConfig) -> dict[str, object]:
        """The window."""
        return {"sliding_window": max(model.windows, default=0) or None}
