"""SmolLM3: Llama's block, with every fourth layer without positions."""

import dataclasses
from typing import Annotated, ClassVar

from pydantic import Field

from jaxmoe.families.hf_config import LayerType, Size, TokenId, check_layer_types, layer_types
from jaxmoe.families.llama import Llama
from jaxmoe.model.config import ModelConfig, RopeConfig

NOPE = RopeConfig(rope_type="none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmolLM3(Llama):
    """`no_rope_layers` has a 1 for each layer that does rotate its queries and keys."""

    MODEL_TYPE: ClassVar[str] = "smollm3"
    CLASS_PREFIX: ClassVar[str] = "SmolLM3"

    vocab_size: Size = 128256
    hidden_size: Size = 2048
    num_hidden_layers: Annotated[int, Field(ge=1, le=1 << 12)] = 36
    num_attention_heads: Size = 16
    num_key_value_heads: Size | None = 4
    max_position_embeddings: Size = 32768
    tie_word_embeddings: bool = True
    rope_theta: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 2e6
    use_sliding_window: bool = False
    sliding_window: Size | None = None
    layer_types: tuple[LayerType, ...] | None = None
    no_rope_layers: tuple[Annotated[int, Field(ge=0, le=1)], ...] | None = None
    no_rope_layer_interval: Size = 4
    bos_token_id: TokenId | None = 128000
    eos_token_id: TokenId | tuple[TokenId, ...] | None = 128001
    pad_token_id: TokenId | None = 128004

    def to_model(self) -> ModelConfig:
        """The decoder, each layer with its window and with or without positions."""
        model = super().to_model()
        layers = range(model.num_layers)
        turns = self.no_rope_layers or tuple(int((i + 1) % self.no_rope_layer_interval != 0) for i in layers)
        if len(turns) != model.num_layers:
            raise ValueError(
                f"no_rope_layers must have one entry a layer ({model.num_layers}); got {len(turns)}"
            )
        check_layer_types(self.layer_types, model.num_layers)
        window = (self.use_sliding_window and self.sliding_window) or 0
        kinds = self.layer_types or ["full_attention" if turn else "sliding_attention" for turn in turns]
        windows = tuple(window * (kind == "sliding_attention") for kind in kinds)
        ropes = tuple(model.rope if turn else NOPE for turn in turns)
        return dataclasses.replace(
            model, windows=windows if any(windows) else (), layer_ropes=() if all(turns) else ropes
        )

    @classmethod
    def own_keys(cls, model: ModelConfig) -> dict[str, object]:
        """Biases, windows, and the layers with positions."""
        return {
            **super().own_keys(model),
            "use_sliding_window": any(model.windows),
            "sliding_window": max(model.layer_windows) or None,
            "layer_types": layer_types(model),
            "no_rope_layers": [int(rope != NOPE) for rope in model.ropes],
        }
