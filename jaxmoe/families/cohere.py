"""Cohere's Command R: parallel attention and feed-forward, LayerNorm, adjacent elements rotate together."""

import dataclasses
from typing import Annotated, ClassVar

from pydantic import Field

from jaxmoe.families.hf_config import HfConfig, Size, TokenId
from jaxmoe.model.config import ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cohere(HfConfig):
    """One norm per layer, without a bias; the logits are scaled. Command R+ also has norms on each head."""

    MODEL_TYPE: ClassVar[str] = "cohere"
    CLASS_PREFIX: ClassVar[str] = "Cohere"

    vocab_size: Size = 256000
    hidden_size: Size = 8192
    intermediate_size: Size = 22528
    num_hidden_layers: Annotated[int, Field(ge=1, le=1 << 12)] = 40
    num_attention_heads: Size = 64
    max_position_embeddings: Size = 8192
    layer_norm_eps: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-5
    logit_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.0625
    tie_word_embeddings: bool = True
    rope_theta: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 5e5
    attention_bias: bool = False
    use_qk_norm: bool | None = False
    bos_token_id: TokenId | None = 5
    eos_token_id: TokenId | tuple[TokenId, ...] | None = 255001
    pad_token_id: TokenId | None = 0

    def to_model(self) -> ModelConfig:
        """The decoder, with parallel blocks."""
        return dataclasses.replace(
            super().to_model(),
            norm="layer",
            norm_eps=self.layer_norm_eps,
            parallel=True,
            rope_interleaved=True,
            logit_scale=self.logit_scale,
            qkv_bias=self.attention_bias,
            out_bias=self.attention_bias,
            qk_norm=bool(self.use_qk_norm),
            headwise_qk_norm=bool(self.use_qk_norm),
        )

    @classmethod
    def own_keys(cls, model: ModelConfig) -> dict[str, object]:
        """The norm's ε, the scale of logits, and whether attention has biases and norms."""
        return {
            "layer_norm_eps": model.norm_eps,
            "logit_scale": model.logit_scale,
            "attention_bias": model.out_bias,
            "use_qk_norm": model.qk_norm,
        }
