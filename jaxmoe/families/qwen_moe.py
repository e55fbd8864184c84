"""Qwen2-MoE and Qwen3-MoE: the feed-forward is many experts, in Qwen2 plus one that every token uses."""

import dataclasses
from typing import Annotated, ClassVar

from pydantic import Field

from jaxmoe.families.hf_config import Fused, HfConfig, LayerType, Size, check_layer_types, layer_types
from jaxmoe.json_values import shown
from jaxmoe.model.config import ModelConfig, MoeConfig

MLP = "model.layers.{}.mlp"
# as transformers holds a layer's experts at run time; checkpoints hold them one by one
EXPERTS = (
    Fused(
        f"{MLP}.experts.gate_up_proj",
        (f"{MLP}.experts.{{}}.gate_proj.weight", f"{MLP}.experts.{{}}.up_proj.weight"),
    ),
    Fused(f"{MLP}.experts.down_proj", (f"{MLP}.experts.{{}}.down_proj.weight",)),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class QwenMoe(HfConfig):
    """What both have in common; all layers must have experts."""

    FUSED: ClassVar[tuple[Fused, ...]] = EXPERTS

    vocab_size: Size = 151936
    hidden_size: Size = 2048
    num_hidden_layers: Annotated[int, Field(ge=1, le=1 << 12)] = 24
    max_position_embeddings: Size = 32768
    use_sliding_window: bool = False
    sliding_window: Annotated[int, Field(ge=0)] | None = 4096  # transformers writes 0 for none
    decoder_sparse_step: Size = 1
    mlp_only_layers: tuple[int, ...] | None = None
    num_experts: Size
    num_experts_per_tok: Size
    moe_intermediate_size: Size
    norm_topk_prob: bool = False

    def experts(self) -> int:
        """How many experts a layer has."""
        return self.num_experts

    def moe(self, shared_size: int = 0) -> MoeConfig:
        """The experts.

        Raises: ValueError if some layers have none.
        """
        if self.decoder_sparse_step != 1:
            raise ValueError(
                f"decoder_sparse_step must be 1, all layers have experts here; got {self.decoder_sparse_step}"
            )
        if self.mlp_only_layers:
            raise ValueError(
                "mlp_only_layers must be empty, all layers have experts here; got "
                f"{shown(self.mlp_only_layers)}"
            )
        return MoeConfig(
            num_experts=self.experts(),
            experts_per_token=self.num_experts_per_tok,
            expert_size=self.moe_intermediate_size,
            normalize=self.norm_topk_prob,
            shared_size=shared_size,
        )

    @classmethod
    def own_keys(cls, model: ModelConfig) -> dict[str, object]:
        """The experts, and the window."""
        moe = model.moe
        experts: dict[str, object] = {}
        if moe is not None:
            experts = {
                "num_experts": moe.num_experts,
                "num_experts_per_tok": moe.experts_per_token,
                "moe_intermediate_size": moe.expert_size,
                "norm_topk_prob": moe.normalize,
            }
        return {
            **experts,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "use_sliding_window": any(model.windows),
            "sliding_window": max(model.layer_windows) or None,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen2Moe(QwenMoe):
    """Qwen2's attention; a shared expert behind a sigmoid gate."""

    MODEL_TYPE: ClassVar[str] = "qwen2_moe"
    CLASS_PREFIX: ClassVar[str] = "Qwen2Moe"

    intermediate_size: Size = 5632
    num_attention_heads: Size = 16
    num_key_value_heads: Size | None = 16
    qkv_bias: bool = True
    max_window_layers: Annotated[int, Field(ge=0)] = 28
    layer_types: tuple[LayerType, ...] | None = None
    num_experts: Size = 60
    num_experts_per_tok: Size = 4
    moe_intermediate_size: Size = 1408
    shared_expert_intermediate_size: Size = 5632

    def to_model(self) -> ModelConfig:
        """The decoder, with its experts and each layer's window."""
        model = super().to_model()
        check_layer_types(self.layer_types, model.num_layers)
        window = (self.use_sliding_window and self.sliding_window) or 0
        # as in transformers: every second one of the first layers, if the file names no kinds
        kinds = self.layer_types or tuple(
            "sliding_attention" if layer % 2 == 0 and layer < self.max_window_layers else "full_attention"
            for layer in range(model.num_layers)
        )
        windows = tuple(window * (kind == "sliding_attention") for kind in kinds)
        return dataclasses.replace(
            model,
            qkv_bias=self.qkv_bias,
            windows=windows if any(windows) else (),
            moe=self.moe(self.shared_expert_intermediate_size),
        )

    @classmethod
    def own_keys(cls, model: ModelConfig) -> dict[str, object]:
        """The experts, the windows and the bias."""
        shared = 0 if model.moe is None else model.moe.shared_size
        return {
            **super().own_keys(model),
            "qkv_bias": model.qkv_bias,
            "layer_types": layer_types(model),
            "shared_expert_intermediate_size": shared,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen3Moe(QwenMoe):
    """Qwen3's attention, and no shared expert."""

    MODEL_TYPE: ClassVar[str] = "qwen3_moe"
    CLASS_PREFIX: ClassVar[str] = "Qwen3Moe"

    intermediate_size: Size = 6144
    num_attention_heads: Size = 32
    num_key_value_heads: Size | None = 4
    attention_bias: bool = False
    num_experts: Size = 128
    num_local_experts: Size | None = None  # as transformers 5 writes num_experts
    num_experts_per_tok: Size = 8
    moe_intermediate_size: Size = 768

    def experts(self) -> int:
        """How many experts a layer has, by the newer key if a file has it."""
        return self.num_local_experts or self.num_experts

    def to_model(self) -> ModelConfig:
        """The decoder, with its experts; all layers have the same window."""
        model = super().to_model()
        window = (self.use_sliding_window and self.sliding_window) or 0
        return dataclasses.replace(
            model,
            qk_norm=True,
            qkv_bias=self.attention_bias,
            out_bias=self.attention_bias,
            windows=(window,) * model.num_layers if window else (),
            moe=self.moe(),
        )

    @classmethod
    def own_keys(cls, model: ModelConfig) -> dict[str, object]:
        """The experts, the window and the biases."""
        return {**super().own_keys(model), "attention_bias": model.out_bias}
