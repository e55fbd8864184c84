"""What the config.json of every Llama-like family has in common, as `ModelConfig` and back.

A family is a subclass: it adds its own keys with their defaults, and says which switches of the block they
set.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from jaxmoe.families.rope import rope_from_hf, rope_to_hf
from jaxmoe.json_values import shown
from jaxmoe.model.config import Activation, ModelConfig, RopeConfig

# Bounds keep a damaged file from asking for a billion layers; no released model comes near them.
Size = Annotated[int, Field(ge=1, le=1 << 31)]
Layers = Annotated[int, Field(ge=1, le=1 << 12)]
TokenId = Annotated[int, Field(ge=-1, lt=1 << 31)]
LayerType = Literal["full_attention", "sliding_attention"]
# config.json's names for the feed-forward's activation
ACTIVATIONS: dict[Activation, str] = {"silu": "silu", "gelu_tanh": "gelu_pytorch_tanh"}


def activation_of(name: object, key: str = "hidden_act") -> Activation:
    """The activation that config.json names.

    Args:
      name: its value.
      key: its key, for the error message.
    Returns: its name in ModelConfig.
    Raises: ValueError for one that the decoder lacks.
    """
    known: dict[object, Activation] = {"swish": "silu", **{hf: ours for ours, hf in ACTIVATIONS.items()}}
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"{key} must be one of {', '.join(map(str, known))}; got {shown(name)}")
    return known[name]


class Fused(NamedTuple):
    """A tensor that holds several of the family's named tensors, joined along their outputs.

    Attributes:
      name: {} stands for the layer.
      parts: the names that it holds, one below the other; a second {} stands for the expert, and all experts
        are then stacked.
      interleaved: the parts' outputs alternate instead.
      transposed: matrices are stored [in, out].
    """

    name: str
    parts: tuple[str, ...]
    interleaved: bool = False
    transposed: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class HfConfig:
    """Keys that the families share; names and defaults are those of `transformers.LlamaConfig`.

    Attributes:
      MODEL_TYPE: the value of `model_type` in config.json.
      CLASS_PREFIX: prefix of transformers' classes: Llama for LlamaForCausalLM.
      BODY_PREFIX: the same for LlamaConfig and LlamaModel; CLASS_PREFIX if it is empty.
      WEIGHT_NAMES: by path in the parameter tree, the name in the checkpoint, {} for the layer; only where it
        differs from Llama's (`jaxmoe.weights.convert`).
      FUSED: tensors that hold several weights in transformers' model at run time.
      FUSED_FILES: whether checkpoints hold them fused too.
    """

    MODEL_TYPE: ClassVar[str]
    CLASS_PREFIX: ClassVar[str]
    BODY_PREFIX: ClassVar[str] = ""
    WEIGHT_NAMES: ClassVar[Mapping[str, str]] = {}
    FUSED: ClassVar[tuple[Fused, ...]] = ()
    FUSED_FILES: ClassVar[bool] = False

    vocab_size: Size = 32000
    hidden_size: Size = 4096
    intermediate_size: Size = 11008
    num_hidden_layers: Layers = 32
    num_attention_heads: Size = 32
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    hidden_act: object = "silu"
    max_position_embeddings: Size = 2048
    rms_norm_eps: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-6
    tie_word_embeddings: bool = False
    rope_parameters: dict[str, object] | None = None
    rope_scaling: dict[str, object] | None = None
    rope_theta: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    partial_rotary_factor: float | None = None
    bos_token_id: TokenId | None = None
    eos_token_id: TokenId | tuple[TokenId, ...] | None = None
    pad_token_id: TokenId | None = None

    def activation(self) -> Activation:
        """The activation of the feed-forward's gate."""
        return activation_of(self.hidden_act)

    def rope(self) -> RopeConfig:
        """The rotary embedding of layers that name no other.

        Raises: ValueError for a position scaling that the decoder lacks.
        """
        if self.partial_rotary_factor not in (None, 1.0):
            raise ValueError(
                f"partial_rotary_factor must be 1, all of a head is rotated here; got "
                f"{self.partial_rotary_factor}"
            )
        # as in transformers: the older key wins if a file has both
        given = self.rope_scaling or self.rope_parameters or {}
        return rope_from_hf(given, self.rope_theta, self.max_position_embeddings)

    def to_model(self) -> ModelConfig:
        """The decoder that the file describes.

        Raises: ValueError for sizes that do not fit each other, and for a position scaling that the decoder
          lacks.
        """
        return ModelConfig(
            family=self.MODEL_TYPE,
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_layers=self.num_hidden_layers,
            num_heads=self.num_attention_heads,
            num_kv_heads=self.num_key_value_heads or self.num_attention_heads,
            head_dim=self.head_dim or self.hidden_size // self.num_attention_heads,
            max_positions=self.max_position_embeddings,
            norm_eps=self.rms_norm_eps,
            rope=self.rope(),
            activation=self.activation(),
            tie_embeddings=self.tie_word_embeddings,
            bos_token_id=self.bos_token_id,
            eos_token_id=self.eos_token_id,
            pad_token_id=self.pad_token_id,
        )

    @classmethod
    def own_keys(cls, model: ModelConfig) -> dict[str, object]:
        """The family's own keys of config.json for a model."""
        del model
        return {}

    @classmethod
    def to_hf(cls, model: ModelConfig) -> dict[str, object]:
        """The object for config.json; transformers rebuilds the same model from it."""
        eos = model.eos_token_id
        return {
            "architectures": [f"{cls.CLASS_PREFIX}ForCausalLM"],
            "model_type": cls.MODEL_TYPE,
            "vocab_size": model.vocab_size,
            "hidden_size": model.hidden_size,
            "intermediate_size": model.intermediate_size,
            "num_hidden_layers": model.num_layers,
            "num_attention_heads": model.num_heads,
            "num_key_value_heads": model.num_kv_heads,
            "head_dim": model.head_dim,
            "hidden_act": ACTIVATIONS[model.activation],
            "max_position_embeddings": model.max_positions,
            "rms_norm_eps": model.norm_eps,
            "rope_parameters": rope_to_hf(model.rope),
            "tie_word_embeddings": model.tie_embeddings,
            "bos_token_id": model.bos_token_id,
            "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
            "pad_token_id": model.pad_token_id,
            **cls.own_keys(model),
        }


def check_layer_types(kinds: Sequence[LayerType] | None, layers: int) -> None:
    """Raises ValueError unless there is a kind for each layer, or none are named.

    Args:
      kinds: `layer_types` of config.json.
      layers: L.
    """
    if kinds is not None and len(kinds) != layers:
        raise ValueError(f"layer_types must have one entry a layer ({layers}); got {len(kinds)}")


def layer_types(model: ModelConfig) -> list[LayerType]:
    """Each layer's kind of attention, as config.json names it."""
    return ["sliding_attention" if window else "full_attention" for window in model.layer_windows]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WindowedConfig(HfConfig):
    """A family in which some layers have a sliding window (Qwen2, Qwen3).

    `layer_types` names each layer's kind of attention; if it is missing, layers from `max_window_layers` on
    have the window.
    """

    use_sliding_window: bool = False
    sliding_window: Size | None = 4096
    max_window_layers: Annotated[int, Field(ge=0)] = 28
    layer_types: tuple[LayerType, ...] | None = None

    def to_model(self) -> ModelConfig:
        """The decoder, each layer with its window."""
        model = super().to_model()
        kinds = self.layer_types
        check_layer_types(kinds, model.num_layers)
        if not self.use_sliding_window or self.sliding_window is None:
            return model
        if kinds is None:
            slides = [layer >= self.max_window_layers for layer in range(model.num_layers)]
        else:
            slides = [kind == "sliding_attention" for kind in kinds]
        windows = tuple(self.sliding_window if slide else 0 for slide in slides)
        return dataclasses.replace(model, windows=windows if any(windows) else ())

    @classmethod
    def own_keys(cls, model: ModelConfig) -> dict[str, object]:
        """The window, and each layer's kind of attention."""
        return {
            "use_sliding_window": any(model.windows),
            "sliding_window": max(model.layer_windows) or None,
            "layer_types": layer_types(model),
        }
