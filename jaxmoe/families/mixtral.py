"""Mixtral: Mistral's attention, and a feed-forward of a few large experts."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from jaxmoe.families.hf_config import Fused, Size
from jaxmoe.families.mistral import Mistral
from jaxmoe.model.config import ModelConfig, MoeConfig

FILE, RUNNING = "model.layers.{}.block_sparse_moe", "model.layers.{}.mlp"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixtral(Mistral):
    """Each expert is as wide as `intermediate_size`; the weights of a token's experts add up to 1."""

    MODEL_TYPE: ClassVar[str] = "mixtral"
    CLASS_PREFIX: ClassVar[str] = "Mixtral"
    WEIGHT_NAMES: ClassVar[Mapping[str, str]] = {
        "blocks.mlp.router": f"{FILE}.gate.weight",
        "blocks.mlp.group.gate": f"{FILE}.experts.{{}}.w1.weight",
        "blocks.mlp.group.up": f"{FILE}.experts.{{}}.w3.weight",
        "blocks.mlp.group.down": f"{FILE}.experts.{{}}.w2.weight",
    }
    FUSED: ClassVar[tuple[Fused, ...]] = (
        Fused(f"{RUNNING}.gate.weight", (f"{FILE}.gate.weight",)),
        Fused(
            f"{RUNNING}.experts.gate_up_proj",
            (f"{FILE}.experts.{{}}.w1.weight", f"{FILE}.experts.{{}}.w3.weight"),
        ),
        Fused(f"{RUNNING}.experts.down_proj", (f"{FILE}.experts.{{}}.w2.weight",)),
    )

    rms_norm_eps: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-5
    rope_theta: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 1e6
    sliding_window: Size | None = None
    num_local_experts: Size = 8
    num_experts_per_tok: Size = 2

    def to_model(self) -> ModelConfig:
        """The decoder, with its experts."""
        moe = MoeConfig(self.num_local_experts, self.num_experts_per_tok, self.intermediate_size)
        return dataclasses.replace(super().to_model(), moe=moe)

    @classmethod
    def own_keys(cls, model: ModelConfig) -> dict[str, object]:
        """The window, and the experts."""
        keys = super().own_keys(model)
        if (moe := model.moe) is not None:
            keys |= {"num_local_experts": moe.num_experts, "num_experts_per_tok": moe.experts_per_token}
        return keys
