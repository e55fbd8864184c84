"""GPT-OSS: a mixture of experts with biases, attention sinks, and a window in every second layer."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from jaxmoe.families.hf_config import Fused, HfConfig, Layers, LayerType, Size, check_layer_types, layer_types
from jaxmoe.families.rope import Positive, rope_from_hf
from jaxmoe.model.config import ClampedSwiglu, ModelConfig, MoeConfig, RopeConfig

MLP = "model.layers.{}.mlp"
EXPERT = f"{MLP}.experts.{{}}"
# for files without rotary settings
YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GptOss(HfConfig):
    """Each expert is as wide as `intermediate_size`; the softmax is over a token's experts."""

    MODEL_TYPE: ClassVar[str] = "gpt_oss"
    CLASS_PREFIX: ClassVar[str] = "GptOss"
    WEIGHT_NAMES: ClassVar[Mapping[str, str]] = {
        "blocks.mlp.router": f"{MLP}.router.weight",
        "blocks.mlp.router_bias": f"{MLP}.router.bias",
    }
    FUSED: ClassVar[tuple[Fused, ...]] = (
        Fused(
            f"{MLP}.experts.gate_up_proj",
            (f"{EXPERT}.gate_proj.weight", f"{EXPERT}.up_proj.weight"),
            interleaved=True,
            transposed=True,
        ),
        Fused(
            f"{MLP}.experts.gate_up_proj_bias",
            (f"{EXPERT}.gate_proj.bias", f"{EXPERT}.up_proj.bias"),
            interleaved=True,
        ),
        Fused(f"{MLP}.experts.down_proj", (f"{EXPERT}.down_proj.weight",), transposed=True),
        Fused(f"{MLP}.experts.down_proj_bias", (f"{EXPERT}.down_proj.bias",)),
    )
    FUSED_FILES: ClassVar[bool] = True

    vocab_size: Size = 201088
    hidden_size: Size = 2880
    intermediate_size: Size = 2880
    num_hidden_layers: Layers = 36
    num_attention_heads: Size = 64
    num_key_value_heads: Size | None = 8
    head_dim: Size | None = 64
    max_position_embeddings: Size = 131072
    rms_norm_eps: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-5
    rope_theta: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 150000.0
    attention_bias: bool = True
    sliding_window: Size | None = 128
    layer_types: tuple[LayerType, ...] | None = None
    num_local_experts: Size = 128
    num_experts_per_tok: Size = 4
    swiglu_alpha: Positive = 1.702
    swiglu_limit: Positive = 7.0

    def rope(self) -> RopeConfig:
        """YaRN, unless the file says otherwise."""
        given = self.rope_scaling or self.rope_parameters or YARN
        return rope_from_hf(given, self.rope_theta, self.max_position_embeddings)

    def to_model(self) -> ModelConfig:
        """The decoder, with its sinks, experts and each layer's window."""
        model = super().to_model()
        check_layer_types(self.layer_types, model.num_layers)
        window = self.sliding_window or 0
        kinds = self.layer_types or [
            "full_attention" if layer % 2 else "sliding_attention" for layer in range(model.num_layers)
        ]
        windows = tuple(window * (kind == "sliding_attention") for kind in kinds)
        moe = MoeConfig(
            self.num_local_experts,
            self.num_experts_per_tok,
            self.intermediate_size,
            bias=True,
            clamped=ClampedSwiglu(self.swiglu_alpha, self.swiglu_limit),
        )
        return dataclasses.replace(
            model,
            qkv_bias=self.attention_bias,
            out_bias=self.attention_bias,
            attention_sinks=True,
            windows=windows if any(windows) else (),
            moe=moe,
        )

    @classmethod
    def own_keys(cls, model: ModelConfig) -> dict[str, object]:
        """The experts, their activation, the windows and the biases."""
        experts: dict[str, object] = {}
        if (moe := model.moe) is not None:
            experts = {"num_local_experts": moe.num_experts, "num_experts_per_tok": moe.experts_per_token}
            if moe.clamped is not None:
                experts |= {"swiglu_alpha": moe.clamped.alpha, "swiglu_limit": moe.clamped.limit}
        return {
            **experts,
            "attention_bias": model.out_bias,
            "sliding_window": max(model.layer_windows) or None,
            "layer_types": layer_types(model),
        }
