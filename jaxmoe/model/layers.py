"""The parts of a decoder block: RMSNorm, rotary embedding, projections, attention, gated feed-forward.

Every variable has a leading layer axis [L, ...]; a scan over the layers hands each call its slice.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from jaxmoe.model.config import Activation, ModelConfig, RopeConfig
from jaxmoe.model.lora_experts import ExpertCall, LoraExperts, apply_experts, dora_factor
from jaxmoe.model.products import kernel_product
from jaxmoe.model.quantized import as_array
from jaxmoe.model.router import RouterStatistics
from jaxmoe.model.shapes import Array, Float, Int


class BaseParam(nnx.Param):
    """A weight of the pretrained model: frozen while an adapter is trained."""


class KernelParam(BaseParam):
    """The matrix of a projection in attention or feed-forward: these are the weights that get quantized."""


def rms_norm(
    x: Float[Array, "... D"], weight: Float[Array, " D"], eps: float, offset: float = 0.0
) -> Float[Array, "... D"]:
    """(w + offset) · x / √(mean(x²) + ε), the mean in float32 (arXiv:1910.07467).

    Args:
      x: any leading axes.
      weight: w.
      eps: ε, added to the mean of squares.
      offset: added to the weight; the product is then taken in float32, as in Gemma.
    Returns: of x's shape and dtype.
    """
    wide = x.astype(jnp.float32)
    normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    weight = weight.reshape((1,) * (x.ndim - 1) + (-1,))
    if offset:
        return ((weight.astype(jnp.float32) + offset) * normed).astype(x.dtype)
    return weight.astype(x.dtype) * normed.astype(x.dtype)


def layer_norm(x: Float[Array, "... D"], weight: Float[Array, "*N D"], eps: float) -> Float[Array, "... D"]:
    """w · (x − mean x) / √(var x + ε), in float32 (arXiv:1607.06450, without its bias).

    Args:
      x: any leading axes.
      weight: w; with an axis of heads if each has its own.
      eps: ε, added to the variance.
    Returns: of x's shape and dtype.
    """
    wide = x.astype(jnp.float32)
    centered = wide - jnp.mean(wide, axis=-1, keepdims=True)
    normed = centered * jax.lax.rsqrt(jnp.mean(centered * centered, axis=-1, keepdims=True) + eps)
    weight = weight.reshape((1,) * (x.ndim - weight.ndim) + weight.shape)
    return (weight.astype(jnp.float32) * normed).astype(x.dtype)


class DecoderNorm(nnx.Module):
    """One weight vector per layer, as the config says; `layers=None` makes a single one.

    Args:
      heads: number of heads that each have their own weight vector; None for one that all share.
    """

    def __init__(
        self,
        config: ModelConfig,
        size: int,
        layers: int | None,
        axis: str | None = "embed",
        heads: int | None = None,
    ):
        shape, axes = ((size,), (axis,)) if heads is None else ((heads, size), (None, axis))
        if layers is not None:
            shape, axes = (layers, *shape), ("layer", *axes)
        self.weight = BaseParam(jnp.full(shape, 1.0 - config.norm_offset), axes=axes)
        self.eps, self.offset, self.kind = config.norm_eps, config.norm_offset, config.norm

    def __call__(self, x: Array) -> Array:
        if self.kind == "layer":
            return layer_norm(x, self.weight[...], self.eps)
        return rms_norm(x, self.weight[...], self.eps, self.offset)


def rope_frequencies(
    config: RopeConfig, head_dim: int, max_positions: int, length: Int[Array, ""] | int = 0
) -> tuple[Float[Array, " H/2"], float]:
    """Angular frequencies θᵢ and the factor on cos and sin.

    Args:
      config: base θ and scaling.
      head_dim: H.
      max_positions: the length that the model was trained for.
      length: number of positions in use; matters only to "dynamic" and "longrope".
    Returns: θ in radians per position, and the factor.
    Reference: RoFormer (arXiv:2104.09864); YaRN (arXiv:2309.00071); Llama 3.1 as released.
    """
    head_dim = int(head_dim * config.partial_rotary_factor)  # only so much of a head is rotated
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / head_dim
    plain = (1.0 / np.float32(config.rope_theta) ** exponents).astype(np.float32)
    match config.rope_type:
        case "default":
            return jnp.asarray(plain), 1.0
        case "linear":
            return jnp.asarray(plain / np.float32(config.factor)), 1.0
        case "dynamic":
            used = jnp.maximum(jnp.asarray(length, jnp.float32), float(max_positions))
            growth = config.factor * used / max_positions - (config.factor - 1)
            theta = config.rope_theta * growth ** (head_dim / (head_dim - 2))
            return 1.0 / theta[None] ** jnp.asarray(exponents), 1.0
        case "llama3":
            return jnp.asarray(_llama3(config, plain)), 1.0
        case "yarn":
            return _yarn(config, head_dim, plain)
        case "longrope":
            return _longrope(config, exponents, length)
        case "none":
            return jnp.zeros_like(plain), 1.0


def _llama3(config: RopeConfig, plain: np.ndarray) -> np.ndarray:
    original = config.original_max_position_embeddings
    assert original is not None
    turns = original * plain / (2 * math.pi)  # full turns within the original context
    low, high = config.low_freq_factor, config.high_freq_factor
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return ((1 - smooth) * plain / config.factor + smooth * plain).astype(np.float32)


def _longrope(config: RopeConfig, exponents: np.ndarray, length: Int[Array, ""] | int) -> tuple[Array, float]:
    """Separate factors for texts within and beyond the original length (LongRoPE, arXiv:2402.13753)."""
    original = config.original_max_position_embeddings
    assert original is not None
    powers = np.float32(config.rope_theta) ** exponents
    short, long = (
        (1 / (np.asarray(factors, np.float32) * powers)).astype(np.float32)
        for factors in (config.short_factor, config.long_factor)
    )
    factor = config.attention_factor
    if factor is None:
        factor = 1.0 if config.factor <= 1 else math.sqrt(1 + math.log(config.factor) / math.log(original))
    return jnp.where(jnp.asarray(length) > original, long, short), factor


def _yarn(config: RopeConfig, head_dim: int, plain: np.ndarray) -> tuple[Array, float]:
    original = config.original_max_position_embeddings
    assert original is not None

    def dimension(turns: float) -> float:
        return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(config.rope_theta))

    low, high = dimension(config.beta_fast), dimension(config.beta_slow)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = (np.arange(head_dim // 2, dtype=np.float32) - low) / max(high - low, 0.001)
    interpolated = np.clip(ramp, 0.0, 1.0)
    frequencies = plain / config.factor * interpolated + plain * (1 - interpolated)

    def magnitude(mscale: float) -> float:
        return 1.0 if config.factor <= 1 else 0.1 * mscale * math.log(config.factor) + 1.0

    factor = config.attention_factor
    if factor is None:
        if config.mscale and config.mscale_all_dim:
            factor = magnitude(config.mscale) / magnitude(config.mscale_all_dim)
        else:
            factor = magnitude(1.0)
    return jnp.asarray(frequencies.astype(np.float32)), factor


class Rotation(NamedTuple):
    """cos and sin of every position's angles, in compute dtype."""

    cos_BTH: Float[Array, "B T H"]
    sin_BTH: Float[Array, "B T H"]


Turns = Callable[[Int[Array, ""] | int], Rotation]


def rotations(config: ModelConfig, positions_BT: Int[Array, "B T"], dtype: DTypeLike) -> Turns:
    """Each layer's rotation; rotations that layers share are computed once.

    Args:
      config: with the ropes of its layers.
      positions_BT: of the text.
      dtype: of cos and sin.
    Returns: a function from the layer's number, which may be traced.
    """
    distinct = [*dict.fromkeys(config.ropes)]
    turns = [rotation(config, rope, positions_BT, dtype) for rope in distinct]
    if len(turns) == 1:
        return lambda layer: turns[0]
    which_L = np.array([distinct.index(rope) for rope in config.ropes])
    stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *turns)
    return lambda layer: jax.tree.map(lambda x: x[jnp.asarray(which_L)[layer]], stacked)


def rotation(
    config: ModelConfig, rope: RopeConfig, positions_BT: Int[Array, "B T"], dtype: DTypeLike
) -> Rotation:
    """Angles m θᵢ for text positions m; both halves of a head rotate by the same angles.

    Args:
      config: with H and the trained length.
      rope: base θ and scaling.
      positions_BT: m.
      dtype: of cos and sin; angles are computed in float32.
    Returns: cos and sin [B, T, H], times the factor of `rope_frequencies`.
    """
    frequencies, factor = rope_frequencies(
        rope, config.head_dim, config.max_positions, jnp.max(positions_BT) + 1
    )
    angles = positions_BT[..., None].astype(jnp.float32) * frequencies[None, None, :]
    if config.rope_interleaved:
        angles = jnp.repeat(angles, 2, axis=-1)
    else:
        angles = jnp.concatenate([angles, angles], axis=-1)
    return Rotation((jnp.cos(angles) * factor).astype(dtype), (jnp.sin(angles) * factor).astype(dtype))


def rotate(
    x_BTNH: Float[Array, "B T N H"], turn: Rotation, interleaved: bool = False
) -> Float[Array, "B T N H"]:
    """x cos + (−x₂, x₁) sin, with x₁ and x₂ the halves of a head, as in Hugging Face's Llama.

    Args:
      x_BTNH: queries or keys.
      turn: from `rotation`.
      interleaved: x₁ and x₂ are the even and the odd elements of a head, as in Cohere's models.
    Returns: of x's shape and dtype; where cos and sin are shorter than a head, the rest of the head is
      unchanged.
    """
    size = turn.cos_BTH.shape[-1]
    if size < x_BTNH.shape[-1]:
        turned, rest = jnp.split(x_BTNH, [size], axis=-1)
        return jnp.concatenate([rotate(turned, turn, interleaved), rest], axis=-1)
    if interleaved:
        turned = jnp.stack([-x_BTNH[..., 1::2], x_BTNH[..., ::2]], axis=-1).reshape(x_BTNH.shape)
    else:
        first, second = jnp.split(x_BTNH, 2, axis=-1)
        turned = jnp.concatenate([-second, first], axis=-1)
    return x_BTNH * turn.cos_BTH[:, :, None, :] + turned * turn.sin_BTH[:, :, None, :]


class Linear(nnx.Module):
    """A frozen projection x W0 (+ bias) in all layers, to which experts can be attached.

    The kernel is stored [L, I, O], the transpose of Hugging Face's.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        axes: tuple[str, str],
        layers: int,
        bias: bool,
        std: float,
        *,
        rngs: nnx.Rngs,
    ):
        self.kernel = KernelParam(
            jax.random.normal(rngs.params(), (layers, *shape)) * std, axes=("layer", *axes)
        )
        self.bias = BaseParam(jnp.zeros((layers, shape[1])), axes=("layer", axes[1])) if bias else None
        self.shape, self.axes = shape, axes
        self.experts: LoraExperts | None = nnx.data(None)

    def base(self, x_BTI: Array) -> Array:
        """The frozen part alone."""
        out = kernel_product(x_BTI, self.kernel[...])
        return out if self.bias is None else out + self.bias[...][None, None, :].astype(x_BTI.dtype)

    def combine(self, out_BTO: Array, delta_BTO: Array) -> Array:
        """The frozen part's output plus the experts'; with DoRA both are scaled by output, except the bias.

        Args:
          out_BTO: W0 x, with the bias if there is one.
          delta_BTO: the experts' output.
        Returns: their sum.
        """
        experts = self.experts
        if experts is None or experts.magnitude is None:
            return out_BTO + delta_BTO
        kernel = as_array(self.kernel[...], jnp.float32)
        factor_O = dora_factor(experts, kernel)[None, None, :].astype(out_BTO.dtype)
        if self.bias is None:
            return factor_O * (out_BTO + delta_BTO)
        bias = self.bias[...][None, None, :].astype(out_BTO.dtype)
        return factor_O * (out_BTO - bias + delta_BTO) + bias


Statistics = dict[str, RouterStatistics]


def project(x_BTI: Array, linears: dict[str, Linear], call: ExpertCall) -> tuple[list[Array], Statistics]:
    """Runs projections that read the same x; their experts share one product.

    Args:
      x_BTI: what all of them read.
      linears: by name.
      call: mask, dropout and samples of the experts.
    Returns: the outputs in the order of `linears`, and the routers' statistics by name.
    """
    outputs = {name: linear.base(x_BTI) for name, linear in linears.items()}
    routed = {n: lin.experts for n, lin in linears.items() if lin.experts is not None} if call.enabled else {}
    collected: Statistics = {}
    results = apply_experts(x_BTI, list(routed.values()), call)
    for name, result in zip(routed, results, strict=True):
        outputs[name] = linears[name].combine(outputs[name], result.delta_BTO)
        if result.statistics is not None:
            collected[name] = result.statistics
    return list(outputs.values()), collected


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions; queries and keys may be normalized by head."""

    def __init__(self, config: ModelConfig, std: float, *, rngs: nnx.Rngs):
        d, h, layers = config.hidden_size, config.head_dim, config.num_layers
        q, kv = config.num_heads * h, config.num_kv_heads * h
        self.q_proj = Linear((d, q), ("embed", "heads"), layers, config.qkv_bias, std, rngs=rngs)
        self.k_proj = Linear((d, kv), ("embed", "kv_heads"), layers, config.qkv_bias, std, rngs=rngs)
        self.v_proj = Linear((d, kv), ("embed", "kv_heads"), layers, config.qkv_bias, std, rngs=rngs)
        out_std = std / math.sqrt(2 * layers)
        self.o_proj = Linear((q, d), ("heads", "embed"), layers, config.out_bias, out_std, rngs=rngs)

        def head_norm(heads: int) -> DecoderNorm | None:
            if not config.qk_norm:
                return None
            size, each = (heads * h if config.joint_qk_norm else h), config.headwise_qk_norm
            return DecoderNorm(config, size, layers, axis=None, heads=heads if each else None)

        self.q_norm, self.k_norm = head_norm(config.num_heads), head_norm(config.num_kv_heads)
        self.sinks: BaseParam | None = nnx.data(None)
        if config.attention_sinks:
            drawn = jax.random.normal(rngs.params(), (layers, config.num_heads)) * std
            self.sinks = BaseParam(drawn, axes=("layer", "heads"))
        self.joint_norm, self.interleaved = config.joint_qk_norm, config.rope_interleaved
        self.head_dim = h
        # attention divides scores by √H; for another scale queries are scaled beforehand
        self.query_scale = 1.0 if config.attention_scale is None else config.attention_scale * math.sqrt(h)

    def heads(self, x_BTD: Array, turn: Rotation, call: ExpertCall) -> tuple[Array, Array, Array, Statistics]:
        """Rotated queries [B, T, N, H], rotated keys and values [B, T, M, H].

        Args:
          x_BTD: normed input.
          turn: the rotary embedding of its positions.
          call: of the experts.
        Returns: queries, keys, values, and the routers' statistics.
        """
        linears = {"q_proj": self.q_proj, "k_proj": self.k_proj, "v_proj": self.v_proj}
        flat, collected = project(x_BTD, linears, call)
        query, key, value = flat if self.joint_norm else map(self._split, flat)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        if self.joint_norm:
            query, key, value = map(self._split, (query, key, value))
        if self.query_scale != 1.0:
            query = query * jnp.asarray(self.query_scale, query.dtype)
        query, key = (rotate(x, turn, self.interleaved) for x in (query, key))
        return query, key, value, collected

    def _split(self, flat: Array) -> Array:
        return flat.reshape(*flat.shape[:2], -1, self.head_dim)

    def output(self, mixed_BTNH: Array, call: ExpertCall) -> tuple[Array, Statistics]:
        """Joins the heads again.

        Args:
          mixed_BTNH: the result of attention.
          call: of the experts.
        Returns: [B, T, D], and the router's statistics.
        """
        (out,), collected = project(
            mixed_BTNH.reshape(*mixed_BTNH.shape[:2], -1), {"o_proj": self.o_proj}, call
        )
        return out, collected


ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
}


class FeedForward(nnx.Module):
    """down(activation(gate x) · up x)."""

    def __init__(self, config: ModelConfig, std: float, *, rngs: nnx.Rngs, size: int | None = None):
        d, f, layers, bias = config.hidden_size, config.intermediate_size, config.num_layers, config.mlp_bias
        f = f if size is None else size
        self.gate_proj = Linear((d, f), ("embed", "mlp"), layers, bias, std, rngs=rngs)
        self.up_proj = Linear((d, f), ("embed", "mlp"), layers, bias, std, rngs=rngs)
        self.down_proj = Linear(
            (f, d), ("mlp", "embed"), layers, bias, std / math.sqrt(2 * layers), rngs=rngs
        )
        self.activation: Activation = config.activation

    def __call__(self, x_BTD: Array, call: ExpertCall) -> tuple[Array, Statistics]:
        (gate, up), first = project(x_BTD, {"gate_proj": self.gate_proj, "up_proj": self.up_proj}, call)
        inner = ACTIVATIONS[self.activation](gate) * up
        (out,), second = project(inner, {"down_proj": self.down_proj}, call)
        return out, first | second
