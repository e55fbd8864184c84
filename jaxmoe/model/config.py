"""The configuration of a model: frozen descriptions of the decoder and of its LoRA experts.

`jaxmoe.families` reads a `ModelConfig` from a Hugging Face config and writes it back.
"""

import dataclasses
import math
from typing import Literal

import regex

from jaxmoe.json_values import shown

# alpha above it, or below its inverse, would give scales that float32 cannot hold
MOST_ALPHA = 1e12
ATTENTION_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
PROJECTIONS = (*ATTENTION_PROJECTIONS, *MLP_PROJECTIONS)
# all experts of a mixture-of-experts base in one layer: LoRA experts are attached to the block as a whole
EXPERT_BLOCK = "experts"

RopeKind = Literal["default", "linear", "dynamic", "llama3", "yarn", "longrope", "none"]
Activation = Literal["silu", "gelu_tanh"]
NormPlaces = Literal["input", "output", "both"]
NormKind = Literal["rms", "layer"]
Routing = Literal["dense", "top_k", "top_p", "none"]


@dataclasses.dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding and its context extension; fields as in Hugging Face's `rope_parameters`.

    rope_type "none" rotates nothing: a layer without positions (NoPE).
    """

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
    partial_rotary_factor: float = 1.0
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.rope_type in ("llama3", "yarn", "longrope") and self.original_max_position_embeddings is None:
            raise ValueError(
                f"rope_type {self.rope_type} needs original_max_position_embeddings, the context length "
                "before its extension; got none (model.rope in the config)"
            )

    @property
    def depends_on_length(self) -> bool:
        """Whether the angles of all positions change with the longest text of a batch."""
        return self.rope_type in ("dynamic", "longrope")


@dataclasses.dataclass(frozen=True)
class ClampedSwiglu:
    """The experts' activation in GPT-OSS: (clip(up, ±limit) + 1) · g · σ(alpha g), g = min(gate, limit)."""

    alpha: float = 1.702
    limit: float = 7.0


@dataclasses.dataclass(frozen=True)
class MoeConfig:
    """A feed-forward of many experts in every layer.

    Attributes:
      num_experts: in each layer.
      experts_per_token: that a token uses.
      expert_size: width of each.
      normalize: whether the weights of a token's experts are scaled to sum to 1.
      shared_size: width of an expert that every token uses, behind a sigmoid gate; 0 for none.
      bias: whether the router and the experts have biases.
      clamped: the experts' clamped activation; None for the model's activation times up.
    """

    num_experts: int
    experts_per_token: int
    expert_size: int
    normalize: bool = True
    shared_size: int = 0
    bias: bool = False
    clamped: ClampedSwiglu | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.experts_per_token <= self.num_experts:
            raise ValueError(
                f"experts_per_token must lie between 1 and num_experts; got {self.experts_per_token} and "
                f"{self.num_experts} (model.moe in the config)"
            )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shape of a decoder and the switches of its block; the defaults are Llama's.

    Attributes:
      rope: the rotary embedding of layers for which `layer_ropes` names no other.
      windows: each layer's sliding attention window in positions, 0 for unlimited; empty for none.
      layer_ropes: each layer's rotary embedding, where they differ; empty where all have `rope`.
      norms: what is normalized: the input of attention and feed-forward, their output, or both.
      norm: root mean square, or LayerNorm without a bias.
      parallel: attention and feed-forward read the same normed input, and the outputs of both are added.
      joint_qk_norm: with `qk_norm`, all heads of the queries (and of the keys) are normalized together.
      headwise_qk_norm: with `qk_norm`, each head is normalized with a weight of its own.
      rope_interleaved: neighboring elements of a head rotate together, not those half a head apart.
      residual_scale, logit_scale: factors on what each part adds to the residual stream, and on the logits.
      norm_offset: added to every norm's weight (Gemma stores w − 1).
      activation: of the feed-forward's gate.
      embedding_scale: multiplies the embeddings.
      attention_scale: of q kᵀ; None is 1/√H.
      moe: a feed-forward of many experts in place of the dense one; None for the dense one.
      attention_sinks: each head has a learned logit in the denominator of its softmax (`attention.softmax`).
      attention_cap, logit_cap: c in c · tanh(x / c), of attention's scores and of the logits; None for none.
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
    layer_ropes: tuple[RopeConfig, ...] = ()
    norms: NormPlaces = "input"
    norm: NormKind = "rms"
    parallel: bool = False
    joint_qk_norm: bool = False
    headwise_qk_norm: bool = False
    rope_interleaved: bool = False
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    norm_offset: float = 0.0
    activation: Activation = "silu"
    embedding_scale: float = 1.0
    attention_scale: float | None = None
    attention_sinks: bool = False
    attention_cap: float | None = None
    logit_cap: float | None = None
    moe: MoeConfig | None = None
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
        for name in ("windows", "layer_ropes"):
            if (entries := getattr(self, name)) and len(entries) != self.num_layers:
                raise ValueError(
                    f"{name} must have one entry a layer ({self.num_layers}); got {len(entries)}"
                )
        for name in ("attention_scale", "attention_cap", "logit_cap"):
            if (value := getattr(self, name)) is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a finite number above 0; got {value} (model.{name})")

    @property
    def projections(self) -> tuple[str, ...]:
        """What LoRA experts can be attached to in each layer."""
        return PROJECTIONS if self.moe is None else (*ATTENTION_PROJECTIONS, EXPERT_BLOCK)

    @property
    def layer_windows(self) -> tuple[int, ...]:
        """Each layer's window, 0 for unlimited."""
        return self.windows or (0,) * self.num_layers

    @property
    def ropes(self) -> tuple[RopeConfig, ...]:
        """Each layer's rotary embedding."""
        return self.layer_ropes or (self.rope,) * self.num_layers

    @property
    def longest_text(self) -> int | None:
        """Positions of a text for which the model is made; None if that is not known, or grows with the text.

        >>> ModelConfig(64, 16, 32, 1, 2, 1, 8, max_positions=256).longest_text
        256
        """
        if self.max_positions < 1 or any(rope.rope_type == "dynamic" for rope in self.ropes):
            return None
        # YaRN is often added to a config.json without a change of max_position_embeddings
        extended = (
            int(rope.factor * (rope.original_max_position_embeddings or 0))
            for rope in self.ropes
            if rope.rope_type == "yarn"
        )
        return max((self.max_positions, *extended))


@dataclasses.dataclass(frozen=True)
class ExpertConfig:
    """LoRA experts beside frozen projections.

    Attributes:
      num_experts: one number, or one for each layer (0: none in that layer).
      rank: of each expert's pair; one number, or one for each layer.
      alpha: the update is multiplied by alpha / rank, see scaling.
      scaling: rank divides alpha by the rank, sqrt_rank by its square root (rsLoRA).
      targets: projection names, or regular expressions over `layers.{l}.self_attn.{name}` and
        `layers.{l}.mlp.{name}`; `experts` is the whole block of experts of a mixture-of-experts base.
      routing: dense mixes all experts by a softmax, top_k and top_p only some; none adds all with weight 1,
        which with one expert is plain LoRA.
      top_k: number of experts that a token chooses; for routing top_k.
      top_p: probability that the chosen experts must at least add up to; for routing top_p.
      dropout: share of the experts' inputs that is dropped in training; the router sees all.
      dropout_mask: one mask shared by the experts of a projection, or one drawn for each expert as the
        paper's code does.
      shared_a: one A for all experts of a projection (HydraLoRA).
      dora: weight-decomposed LoRA (arXiv:2402.09353): each column of W0 + scale · A B is rescaled to a length
        of its own, which is trained too; for one expert without a router.
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
    dora: bool = False

    def __post_init__(self) -> None:
        ranks = self.rank if isinstance(self.rank, tuple) else (self.rank,)
        counts = self.num_experts if isinstance(self.num_experts, tuple) else (self.num_experts,)
        if not ranks or min(ranks) < 1:
            raise ValueError(f"rank must be at least 1; got {self.rank} (experts.rank in the config)")
        if not counts or min(counts) < 0 or max(counts) < 1:
            raise ValueError(
                f"num_experts must be at least 1; got {shown(self.num_experts)} (experts.num_experts)"
            )
        if not 1 / MOST_ALPHA <= self.alpha <= MOST_ALPHA:
            raise ValueError(
                f"alpha must lie between {1 / MOST_ALPHA:g} and {MOST_ALPHA:g}; got {self.alpha} "
                "(experts.alpha)"
            )
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
        if self.dora and (self.routing != "none" or max(counts) > 1):
            raise ValueError(
                f"dora needs one expert without a router; got {max(counts)} and routing {self.routing!r} "
                "(experts.dora in the config)"
            )

    def layer_counts(self, num_layers: int) -> tuple[int, ...]:
        """Experts in each layer."""
        return _per_layer(self.num_experts, num_layers, "num_experts")

    def layer_ranks(self, num_layers: int) -> tuple[int, ...]:
        """Rank in each layer."""
        return _per_layer(self.rank, num_layers, "rank")

    def layers_with(self, projection: str, num_layers: int) -> tuple[bool, ...]:
        """In which layers `projection` carries experts: it matches a target and the layer has any.

        Args:
          projection: such as "up_proj".
          num_layers: L.
        Returns: one entry a layer.
        """
        part = part_of(projection)
        counts = self.layer_counts(num_layers)
        return tuple(
            counts[layer] > 0
            and any(
                target == projection or matches(target, f"layers.{layer}.{part}.{projection}")
                for target in self.targets
            )
            for layer in range(num_layers)
        )

    def check_targets(self, model: ModelConfig) -> None:
        """Raises ValueError for a target that matches no projection, and for DoRA beside an expert block."""
        known = model.projections
        names = [f"layers.{i}.{part_of(p)}.{p}" for i in range(model.num_layers) for p in known]
        for target in self.targets:
            if target not in known and not any(matches(target, name) for name in names):
                raise ValueError(
                    f"experts.targets must match a projection; {shown(target)} matches none of "
                    f"{', '.join(known)} "
                    f"(a regular expression is held against names like {names[-1]})"
                    + ("; experts is a layer's whole block of experts" if EXPERT_BLOCK in known else "")
                )
        if self.dora and EXPERT_BLOCK in known and any(self.layers_with(EXPERT_BLOCK, model.num_layers)):
            raise ValueError("dora scales the columns of a weight matrix; a block of experts is none")

    def scale(self, rank: int) -> float:
        """alpha / rank, or alpha / sqrt(rank) (rsLoRA, arXiv:2312.03732)."""
        return self.alpha / (rank if self.scaling == "rank" else math.sqrt(rank))


def part_of(projection: str) -> Literal["mlp", "self_attn"]:
    """The part of a layer that holds a projection.

    >>> part_of("up_proj"), part_of("q_proj")
    ('mlp', 'self_attn')
    """
    return "self_attn" if projection in ATTENTION_PROJECTIONS else "mlp"


def matches(pattern: str, name: str) -> bool:
    """Whether a regular expression matches the whole of a module's name.

    Args:
      pattern: of Python's `re`, from an adapter's config.
      name: a module's, such as "layers.0.mlp.up_proj".
    Returns: whether all of the name matches.

    Raises: ValueError for a malformed expression, and for one that does not finish within a time limit:
      strangers' adapter files may contain such expressions.
    """
    try:
        return regex.fullmatch(pattern, name, timeout=0.5) is not None
    except (regex.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{pattern[:80]!r} is no regular expression for module names: {error}") from error
    except TimeoutError as error:
        raise ValueError(f"the regular expression {pattern[:80]!r} takes too long on {name}") from error


def _per_layer(value: int | tuple[int, ...], num_layers: int, name: str) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * num_layers
    if len(value) != num_layers:
        raise ValueError(f"experts.{name} must have one entry a layer ({num_layers}); got {len(value)}")
    return value
