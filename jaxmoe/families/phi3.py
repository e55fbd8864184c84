"""Phi-3 and Phi-4: Llama's block in fused tensors; only a part of each head may be rotated; LongRoPE."""

import dataclasses
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from jaxmoe.families.hf_config import Fused, HfConfig, Size, TokenId
from jaxmoe.families.rope import Positive, rope_from_hf
from jaxmoe.json_files import parse
from jaxmoe.model.config import ModelConfig, RopeConfig

LAYER = "model.layers.{}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _LongRope:
    """`rope_scaling` of Phi-3; older files call its kind su or yarn."""

    short_factor: tuple[Positive, ...]
    long_factor: tuple[Positive, ...]
    factor: Positive | None = None
    attention_factor: Positive | None = None
    rope_theta: Positive | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phi3(HfConfig):
    """No biases; a window in all layers or in none."""

    MODEL_TYPE: ClassVar[str] = "phi3"
    CLASS_PREFIX: ClassVar[str] = "Phi3"
    FUSED: ClassVar[tuple[Fused, ...]] = (
        Fused(
            f"{LAYER}.self_attn.qkv_proj.weight",
            tuple(f"{LAYER}.self_attn.{n}_proj.weight" for n in ("q", "k", "v")),
        ),
        Fused(
            f"{LAYER}.mlp.gate_up_proj.weight", tuple(f"{LAYER}.mlp.{n}_proj.weight" for n in ("gate", "up"))
        ),
    )
    FUSED_FILES: ClassVar[bool] = True

    vocab_size: Size = 32064
    hidden_size: Size = 3072
    intermediate_size: Size = 8192
    max_position_embeddings: Size = 4096
    original_max_position_embeddings: Size = 4096
    rms_norm_eps: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-5
    sliding_window: Size | None = None
    attention_bias: Literal[False] = False
    bos_token_id: TokenId | None = 1
    eos_token_id: TokenId | tuple[TokenId, ...] | None = 32000
    pad_token_id: TokenId | None = 32000

    def rope(self) -> RopeConfig:
        """LongRoPE or no scaling, for a part of each head.

        Raises: ValueError for other kinds of scaling, and for factors that do not fit the part that is
          rotated.
        """
        given = {**(self.rope_scaling or self.rope_parameters or {})}
        partial = given.pop("partial_rotary_factor", None) or self.partial_rotary_factor or 1.0
        if not isinstance(partial, int | float) or not 0 < partial <= 1:
            raise ValueError(f"partial_rotary_factor must lie in (0, 1]; got {partial!r}")
        kind = given.get("rope_type") or given.get("type") or "default"
        if kind not in ("longrope", "su", "yarn"):
            plain = rope_from_hf(given, self.rope_theta, self.max_position_embeddings)
            return dataclasses.replace(plain, partial_rotary_factor=float(partial))
        read = parse(_LongRope, given, "rope_parameters")
        head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        turning = int(head_dim * partial) // 2
        for name in ("short_factor", "long_factor"):
            if len(getattr(read, name)) != turning:
                raise ValueError(f"{name} must have {turning} entries; got {len(getattr(read, name))}")
        original = self.original_max_position_embeddings  # as in transformers: whatever rope_scaling has
        return RopeConfig(
            rope_type="longrope",
            rope_theta=read.rope_theta or self.rope_theta or 1e4,
            factor=read.factor or self.max_position_embeddings / original,
            original_max_position_embeddings=original,
            attention_factor=read.attention_factor,
            partial_rotary_factor=float(partial),
            short_factor=read.short_factor,
            long_factor=read.long_factor,
        )

    def to_model(self) -> ModelConfig:
        """The decoder, all its layers with the same window."""
        model = super().to_model()
        windows = (self.sliding_window,) * model.num_layers if self.sliding_window else ()
        return dataclasses.replace(model, windows=windows)

    @classmethod
    def own_keys(cls, model: ModelConfig) -> dict[str, object]:
        """The window, and the length before the extension."""
        return {
            "sliding_window": max(model.layer_windows) or None,
            "original_max_position_embeddings": model.rope.original_max_position_embeddings
            or model.max_positions,
        }
