"""Gemma 2: norms before and after each part, soft caps, a window in every second layer."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from jaxmoe.families.hf_config import (
    ACTIVATIONS,
    HfConfig,
    LayerType,
    Size,
    TokenId,
    activation_of,
    check_layer_types,
    layer_types,
)
from jaxmoe.model.config import Activation, ModelConfig

Cap = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gemma2(HfConfig):
    """What Gemma 2 and 3 share: norms that store w − 1, a GELU gate, embeddings times √D.

    `query_pre_attn_scalar` replaces H in attention's 1/√H.
    """

    MODEL_TYPE: ClassVar[str] = "gemma2"
    CLASS_PREFIX: ClassVar[str] = "Gemma2"
    WEIGHT_NAMES: ClassVar[Mapping[str, str]] = {
        "blocks.post_norm.weight": "model.layers.{}.pre_feedforward_layernorm.weight"
    }

    vocab_size: Size = 256000
    hidden_size: Size = 2304
    intermediate_size: Size = 9216
    num_hidden_layers: Size = 26
    num_attention_heads: Size = 8
    num_key_value_heads: Size | None = 4
    head_dim: Size | None = 256
    hidden_activation: object = "gelu_pytorch_tanh"  # hidden_act is in released files but has no effect
    max_position_embeddings: Size = 8192
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    query_pre_attn_scalar: Size = 256
    sliding_window: Size | None = 4096
    layer_types: tuple[LayerType, ...] | None = None
    attn_logit_softcapping: Cap | None = 50.0
    final_logit_softcapping: Cap | None = 30.0
    use_bidirectional_attention: Literal[False] | None = None
    bos_token_id: TokenId | None = 2
    eos_token_id: TokenId | tuple[TokenId, ...] | None = 1
    pad_token_id: TokenId | None = 0

    def activation(self) -> Activation:
        """The activation of the feed-forward's gate."""
        return activation_of(self.hidden_activation, "hidden_activation")

    def kinds(self) -> tuple[LayerType, ...]:
        """Each layer's kind of attention."""
        check_layer_types(self.layer_types, self.num_hidden_layers)
        return self.layer_types or tuple(
            "sliding_attention" if (layer + 1) % self.full_every() else "full_attention"
            for layer in range(self.num_hidden_layers)
        )

    def full_every(self) -> int:
        """One in how many layers sees everything, if the file names no kinds."""
        return 2

    def to_model(self) -> ModelConfig:
        """The decoder, each layer with its window."""
        windows = tuple((self.sliding_window or 0) * (kind == "sliding_attention") for kind in self.kinds())
        model = super().to_model()
        same = self.query_pre_attn_scalar == model.head_dim
        return dataclasses.replace(
            model,
            qkv_bias=self.attention_bias,
            out_bias=self.attention_bias,
            windows=windows if any(windows) else (),
            norms="both",
            norm_offset=1.0,
            embedding_scale=math.sqrt(self.hidden_size),
            attention_scale=None if same else self.query_pre_attn_scalar**-0.5,
            attention_cap=self.attn_logit_softcapping,
            logit_cap=self.final_logit_softcapping,
        )

    @classmethod
    def own_keys(cls, model: ModelConfig) -> dict[str, object]:
        """Windows, caps, the scale of queries."""
        scale = model.attention_scale
        return {
            "hidden_activation": ACTIVATIONS[model.activation],
            "attention_bias": model.out_bias,
            "query_pre_attn_scalar": model.head_dim if scale is None else round(scale**-2),
            "sliding_window": max(model.layer_windows) or None,
            "layer_types": layer_types(model),
            "attn_logit_softcapping": model.attention_cap,
            "final_logit_softcapping": model.logit_cap,
        }
