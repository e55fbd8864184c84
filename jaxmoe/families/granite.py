"""Granite 3: Llama's block with multipliers on embeddings, attention, what a part adds, and logits."""

import dataclasses
from typing import Annotated, ClassVar

from pydantic import Field

from jaxmoe.families.llama import Llama
from jaxmoe.model.config import ModelConfig

Multiplier = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Granite(Llama):
    """`attention_multiplier` replaces 1/√H; logits are divided by `logits_scaling`."""

    MODEL_TYPE: ClassVar[str] = "granite"
    CLASS_PREFIX: ClassVar[str] = "Granite"

    embedding_multiplier: Multiplier = 1.0
    attention_multiplier: Multiplier = 1.0
    residual_multiplier: Multiplier = 1.0
    logits_scaling: Multiplier = 1.0

    def to_model(self) -> ModelConfig:
        """The decoder, with its multipliers."""
        model = super().to_model()
        same = self.attention_multiplier == model.head_dim**-0.5
        return dataclasses.replace(
            model,
            embedding_scale=self.embedding_multiplier,
            attention_scale=None if same else self.attention_multiplier,
            residual_scale=self.residual_multiplier,
            logit_scale=1 / self.logits_scaling,
        )

    @classmethod
    def own_keys(cls, model: ModelConfig) -> dict[str, object]:
        """Biases and multipliers."""
        scale = model.attention_scale
        return {
            **super().own_keys(model),
            "embedding_multiplier": model.embedding_scale,
            "attention_multiplier": model.head_dim**-0.5 if scale is None else scale,
            "residual_multiplier": model.residual_scale,
            "logits_scaling": float(f"{1 / model.logit_scale:.12g}"),
        }
