"""Gemma 3, text only: Gemma 2, with norms on the heads and other rotary settings in windowed layers."""

import dataclasses
from typing import Annotated, ClassVar

from pydantic import Field

from jaxmoe.families.gemma2 import Cap, Gemma2
from jaxmoe.families.hf_config import LayerType, Size
from jaxmoe.families.rope import rope_from_hf, rope_to_hf
from jaxmoe.json_values import is_object, shown
from jaxmoe.model.config import ModelConfig, RopeConfig

FULL: LayerType = "full_attention"
SLIDING: LayerType = "sliding_attention"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gemma3(Gemma2):
    """Five layers in six have a window, and a smaller base θ than the others."""

    MODEL_TYPE: ClassVar[str] = "gemma3_text"
    CLASS_PREFIX: ClassVar[str] = "Gemma3"
    BODY_PREFIX: ClassVar[str] = "Gemma3Text"

    vocab_size: Size = 262208
    max_position_embeddings: Size = 131072
    sliding_window_pattern: Size = 6
    rope_theta: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 1e6
    rope_local_base_freq: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e4
    attn_logit_softcapping: None = None  # transformers reads the key but does nothing with it
    final_logit_softcapping: Cap | None = None

    def full_every(self) -> int:
        """As older files say it."""
        return self.sliding_window_pattern

    def _rope(self, kind: LayerType) -> RopeConfig:
        settings = self.rope_parameters or dict[str, object]()
        if stray := next((key for key in settings if key not in (FULL, SLIDING)), None):
            raise ValueError(
                f"rope_parameters must have an object for each kind of layer; got {shown(stray)}"
            )
        given = settings.get(kind) or dict[str, object]()
        if not is_object(given):
            raise ValueError(f"rope_parameters.{kind} must be an object; got {shown(given)}")
        if kind == FULL and self.rope_scaling:
            given = {**given, **self.rope_scaling}
        theta = self.rope_theta if kind == FULL else self.rope_local_base_freq
        return rope_from_hf(given, theta, self.max_position_embeddings)

    def rope(self) -> RopeConfig:
        """The rotary embedding of layers that see everything."""
        return self._rope(FULL)

    def to_model(self) -> ModelConfig:
        """The decoder, each layer with its window and its rotary embedding."""
        ropes = tuple(self._rope(kind) for kind in self.kinds())
        return dataclasses.replace(super().to_model(), qk_norm=True, layer_ropes=ropes)

    @classmethod
    def own_keys(cls, model: ModelConfig) -> dict[str, object]:
        """Windows, caps, the scale of queries, and both rotary embeddings."""
        keys = super().own_keys(model)
        layers = list(zip(model.layer_windows, model.ropes, strict=True))
        slides = [bool(window) or rope != model.rope for window, rope in layers]
        local = next((rope for (_, rope), slide in zip(layers, slides, strict=True) if slide), model.rope)
        return {
            **keys,
            "layer_types": [SLIDING if slide else FULL for slide in slides],
            "rope_parameters": {FULL: rope_to_hf(model.rope), SLIDING: rope_to_hf(local)},
            "attn_logit_softcapping": None,
        }
