"""What a model is: frozen descriptions of the decoder and of its LoRA experts.

`ModelConfig.from_hf` reads every family that the decoder covers (Llama 1 to 3.x, DeepSeek-Coder, Mistral,
Qwen2, Qwen2.5, Qwen3) from a Hugging Face config; `ModelConfig.to_hf` writes it back.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MLP_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")

RopeKind = Literal["default", "linear", "dynamic", "llama3", "yarn"]
Routing = Literal["dense", "top_k", "top_p", "none"]


@dataclasses.dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding and its context extension; fields as in Hugging Face's `rope_parameters`."""

    rope_type: RopeKind = "default"
    rope_theta: float = 10000.0
    factor: float = 1.0
    original_max_position_embeddings: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    @classmethod
    def from_hf(cls, parameters: Mapping[str, Any]) -> "RopeConfig":
        """Reads `rope_parameters`; raises ValueError for a scaling that the decoder lacks."""
        kind = parameters.get("rope_type", "default")
        supported = ("default", "linear", "dynamic", "llama3", "yarn")
        if kind not in supported:
            raise ValueError(
                f"rope_type must be one of {', '.join(supported)}; got {kind!r} in the model's config"
            )
        if parameters.get("partial_rotary_factor", 1.0) != 1.0:
            raise ValueError(f"partial_rotary_factor must be 1; got {parameters['partial_rotary_factor']}")
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{k: v for k, v in parameters.items() if k in names and v is not None})

    def to_hf(self) -> dict[str, Any]:
        """The fields that matter to this kind of scaling."""
        by_kind = {
            "default": (),
            "linear": ("factor",),
            "dynamic": ("factor",),
            "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
            "yarn": (
                "factor",
                "original_max_position_embeddings",
                "attention_factor",
                "beta_fast",
                "beta_slow",
                "mscale",
                "mscale_all_dim",
                "truncate",
            ),
        }
        keys = ("rope_type", "rope_theta", *by_kind[self.rope_type])
        return {k: getattr(self, k) for k in keys if getattr(self, k) is not None}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shape of a Llama-like decoder: RMSNorm, rotary attention with grouped heads, gated SiLU feed-forward.

    `windows` holds each layer's sliding attention window in positions, 0 for unlimited.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    family: str = "llama"
    max_positions: int = 2048
    norm_eps: float = 1e-6
    rope: RopeConfig = RopeConfig()
    tie_embeddings: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    windows: tuple[int, ...] = ()
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "head_dim"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1; got {getattr(self, name)} (model.{name} in the config)"
                )
        if self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads must divide num_heads; got {self.num_kv_heads} and {self.num_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim must be even for rotary embeddings; got {self.head_dim} (model config)"
            )
        if self.windows and len(self.windows) != self.num_layers:
            raise ValueError(
                f"windows must have one entry a layer ({self.num_layers}); got {len(self.windows)}"
            )

    @classmethod
    def from_hf(cls, config: Any) -> "ModelConfig":
        """Reads a transformers config, or the dictionary in a config.json (old and new rope keys).

        Raises: ValueError for an architecture, activation or position scaling that the decoder lacks.
        """
        if isinstance(config, Mapping):
            from transformers import AutoConfig

            family = config.get("model_type")
            if family not in FAMILIES:
                raise ValueError(
                    f"model_type must be one of {', '.join(FAMILIES)}; got {family!r} in config.json"
                )
            config = AutoConfig.for_model(**config)
        family = config.model_type
        if family not in FAMILIES:
            raise ValueError(
                f"model_type must be one of {', '.join(FAMILIES)}; got {family!r} in config.json"
            )
        if config.hidden_act not in ("silu", "swish"):
            raise ValueError(f"hidden_act must be silu; got {config.hidden_act!r} in config.json")
        bias = bool(getattr(config, "attention_bias", False))
        eos = config.eos_token_id
        rope = RopeConfig.from_hf(config.rope_parameters)
        if rope.rope_type in ("llama3", "yarn") and rope.original_max_position_embeddings is None:
            rope = dataclasses.replace(rope, original_max_position_embeddings=config.max_position_embeddings)
        return cls(
            family=family,
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_layers=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads or config.num_attention_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            max_positions=config.max_position_embeddings,
            norm_eps=config.rms_norm_eps,
            rope=rope,
            tie_embeddings=bool(config.tie_word_embeddings),
            qkv_bias=bias or family == "qwen2",
            out_bias=bias,
            mlp_bias=bool(getattr(config, "mlp_bias", False)),
            qk_norm=family == "qwen3",
            windows=_windows(config),
            bos_token_id=config.bos_token_id,
            eos_token_id=tuple(eos) if isinstance(eos, list) else eos,
            pad_token_id=config.pad_token_id,
        )

    def to_hf(self) -> dict[str, Any]:
        """The dictionary for config.json; transformers rebuilds the same model from it."""
        eos = list(self.eos_token_id) if isinstance(self.eos_token_id, tuple) else self.eos_token_id
        out: dict[str, Any] = {
            "architectures": [
                {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}[self.family]
                + "ForCausalLM"
            ],
            "model_type": self.family,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_positions,
            "rms_norm_eps": self.norm_eps,
            "rope_parameters": self.rope.to_hf(),
            "tie_word_embeddings": self.tie_embeddings,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": eos,
            "pad_token_id": self.pad_token_id,
        }
        if self.family in ("llama", "qwen3"):
            out["attention_bias"] = self.out_bias
        if self.family == "llama":
            out["mlp_bias"] = self.mlp_bias
        window = max(self.windows, default=0)
        if self.family == "mistral":
            out["sliding_window"] = window or None
        elif self.family in ("qwen2", "qwen3"):
            out["use_sliding_window"] = bool(window)
            out["sliding_window"] = window or None
            out["layer_types"] = [
                "sliding_attention" if w else "full_attention" for w in self.windows or (0,) * self.num_layers
            ]
        return out


def _windows(config: Any) -> tuple[int, ...]:
    """Each layer's sliding window from a transformers config; empty if no layer has one."""
    window = getattr(config, "sliding_window", None)
    if not window:
        return ()
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    windows = tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
    return windows if any(windows) else ()


@dataclasses.dataclass(frozen=True)
class ExpertConfig:
    """LoRA experts beside frozen projections.

    Attributes:
      num_experts: one number, or one for each layer (0: none in that layer).
      rank: of each expert's pair; one number, or one for each layer.
      alpha: the update counts alpha / rank.
      scaling: rank divides alpha by the rank, sqrt_rank by its root (rsLoRA).
      targets: projection names, or regular expressions over `layers.{l}.self_attn.{name}` and
        `layers.{l}.mlp.{name}`.
      routing: dense mixes all experts by a softmax, top_k and top_p some; none adds all with weight 1: with
        one expert, plain LoRA.
      top_k: experts that a token chooses; for routing top_k.
      top_p: probability that the chosen experts hold at least; for routing top_p.
      dropout: share of the experts' inputs that is dropped in training; the router sees all.
      dropout_mask: one mask shared by the experts of a projection, or one drawn for each expert as the
        paper's code does.
      shared_a: one A for all experts of a projection (HydraLoRA).
    """

    num_experts: int | tuple[int, ...] = 6
    rank: int | tuple[int, ...] = 4
    alpha: float = 32.0
    scaling: Literal["rank", "sqrt_rank"] = "rank"
    targets: tuple[str, ...] = MLP_PROJECTIONS
    routing: Routing = "dense"
    top_k: int = 2
    top_p: float = 0.7
    dropout: float = 0.0
    dropout_mask: Literal["shared", "per_expert"] = "shared"
    shared_a: bool = False

    def __post_init__(self) -> None:
        ranks = self.rank if isinstance(self.rank, tuple) else (self.rank,)
        counts = self.num_experts if isinstance(self.num_experts, tuple) else (self.num_experts,)
        if not ranks or min(ranks) < 1:
            raise ValueError(f"rank must be at least 1; got {self.rank} (experts.rank in the config)")
        if not counts or min(counts) < 0 or max(counts) < 1:
            raise ValueError(f"num_experts must be at least 1; got {self.num_experts} (experts.num_experts)")
        if not self.targets:
            raise ValueError("targets must name at least one projection; got none (experts.targets)")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1); got {self.dropout} (experts.dropout)")
        if not self.top_k >= 1:
            raise ValueError(f"top_k must be at least 1; got {self.top_k} (experts.top_k)")
        if self.routing == "top_k" and self.top_k > max(counts):
            raise ValueError(
                f"top_k must be at most num_experts; got {self.top_k} and {max(counts)} (experts.top_k)"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1]; got {self.top_p} (experts.top_p)")

    def layer_counts(self, num_layers: int) -> tuple[int, ...]:
        """Experts in each layer."""
        return _per_layer(self.num_experts, num_layers, "num_experts")

    def layer_ranks(self, num_layers: int) -> tuple[int, ...]:
        """Rank in each layer."""
        return _per_layer(self.rank, num_layers, "rank")

    def layers_with(self, projection: str, num_layers: int) -> tuple[bool, ...]:
        """Which layers' `projection` carries experts: it matches a target and the layer has any."""
        part = "mlp" if projection in MLP_PROJECTIONS else "self_attn"
        counts = self.layer_counts(num_layers)
        return tuple(
            counts[layer] > 0
            and any(
                target == projection or re.fullmatch(target, f"layers.{layer}.{part}.{projection}")
                for target in self.targets
            )
            for layer in range(num_layers)
        )

    def check_targets(self, num_layers: int) -> None:
        """Raises ValueError for a target that matches no projection."""
        names = [
            f"layers.{i}.{'mlp' if p in MLP_PROJECTIONS else 'self_attn'}.{p}"
            for i in range(num_layers)
            for p in PROJECTIONS
        ]
        for target in self.targets:
            if target not in PROJECTIONS and not any(re.fullmatch(target, name) for name in names):
                raise ValueError(
                    f"experts.targets must match a projection; {target!r} matches none of "
                    f"{', '.join(PROJECTIONS)} "
                    "(a regular expression is held against names like layers.0.mlp.up_proj)"
                )

    def scale(self, rank: int) -> float:
        """alpha / rank, or alpha / sqrt(rank) (rsLoRA, arXiv:2312.03732)."""
        return self.alpha / (rank if self.scaling == "rank" else math.sqrt(rank))


def _per_layer(value: int | tuple[int, ...], num_layers: int, name: str) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * num_layers
    if len(value) != num_layers:
        raise ValueError(f"experts.{name} must have one entry a layer ({num_layers}); got {len(value)}")
    return value
