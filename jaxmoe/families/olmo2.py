"""OLMo 2: norms after attention and feed-forward, and over all heads of queries and keys together."""

import dataclasses
from typing import Annotated, ClassVar

from pydantic import Field

from jaxmoe.families.hf_config import HfConfig, Size, TokenId
from jaxmoe.model.config import ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Olmo2(HfConfig):
    """Nothing is normalized before a part; attention has optional biases."""

    MODEL_TYPE: ClassVar[str] = "olmo2"
    CLASS_PREFIX: ClassVar[str] = "Olmo2"

    vocab_size: Size = 50304
    rms_norm_eps: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-5
    attention_bias: bool = False
    eos_token_id: TokenId | tuple[TokenId, ...] | None = 50279
    pad_token_id: TokenId | None = 1

    def to_model(self) -> ModelConfig:
        """The decoder, with its norms."""
        bias = self.attention_bias
        return dataclasses.replace(
            super().to_model(),
            norms="output",
            qk_norm=True,
            joint_qk_norm=True,
            qkv_bias=bias,
            out_bias=bias,
        )

    @classmethod
    def own_keys(cls, model: ModelConfig) -> dict[str, object]:
        """Whether attention has biases."""
        return {"attention_bias": model.out_bias}
