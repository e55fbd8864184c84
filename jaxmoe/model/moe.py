"""A feed-forward of many experts, of which each token uses a few (Shazeer et al. 2017, arXiv:1701.06538).

    o = Σₖ wₖ · expertₖ(x) [+ σ(g · x) · shared(x)],   w = the K largest of softmax(W x)

Rows are sorted by expert and meet the experts' weights in grouped products (`jax.lax.ragged_dot`), never in a
loop over tokens. XLA's CPU backend computes such a product for every expert and masks it: correct, but E / K
times the work. On a mesh the experts are split like other weights, rows over fsdp and columns over tensor.

Letters of this file: X rows (tokens of a batch), G experts of the base, K those that a token uses.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmoe.model.config import Activation, ClampedSwiglu, ModelConfig, MoeConfig
from jaxmoe.model.layers import ACTIVATIONS, BaseParam, FeedForward, KernelParam, Statistics
from jaxmoe.model.lora_experts import ExpertCall, LoraExperts, apply_experts
from jaxmoe.model.products import grouped_product, kernel_product
from jaxmoe.model.shapes import Array, Float, Int


class ExpertChoice(NamedTuple):
    """The experts of each row, and their weights."""

    weight_XK: Float[Array, "X K"]
    expert_XK: Int[Array, "X K"]


def choose(logits_XG: Float[Array, "X G"], config: MoeConfig) -> ExpertChoice:
    """The K likeliest experts of each row; the softmax is over all, in float32.

    Args:
      logits_XG: of the router.
      config: K, and whether the weights are brought to a sum of 1.
    Returns: float32 weights and the experts' numbers.
    """
    likely_XG = jax.nn.softmax(logits_XG.astype(jnp.float32), axis=-1)
    weight_XK, expert_XK = jax.lax.top_k(likely_XG, config.experts_per_token)
    if config.normalize:
        weight_XK = weight_XK / weight_XK.sum(-1, keepdims=True)
    return ExpertChoice(weight_XK, expert_XK)


def clamped_swiglu(gate: Array, up: Array, config: ClampedSwiglu) -> Array:
    """(clip(up, ±limit) + 1) · g · σ(alpha g) with g = min(gate, limit), as GPT-OSS was released.

    Args:
      gate, up: of an expert.
      config: alpha and limit.
    Returns: of their shape.
    """
    gate = jnp.minimum(gate, config.limit)
    up = jnp.clip(up, -config.limit, config.limit)
    return (up + 1) * gate * jax.nn.sigmoid(config.alpha * gate)


class ExpertGroup(nnx.Module):
    """The G experts of the base, in all layers: gate and up [L, G, D, F], down [L, G, F, D], perhaps biases.

    LoRA experts may stand beside the group as a whole, as beside a projection D -> D.
    """

    def __init__(self, config: ModelConfig, moe: MoeConfig, std: float, *, rngs: nnx.Rngs):
        d, f, lead = config.hidden_size, moe.expert_size, (config.num_layers, moe.num_experts)

        def kernel(shape: tuple[int, int], axes: tuple[str, str], std: float) -> KernelParam:
            drawn = jax.random.normal(rngs.params(), (*lead, *shape)) * std
            return KernelParam(drawn, axes=("layer", "expert", *axes))

        self.gate = kernel((d, f), ("embed", "mlp"), std)
        self.up = kernel((d, f), ("embed", "mlp"), std)
        self.down = kernel((f, d), ("mlp", "embed"), std / math.sqrt(2 * config.num_layers))
        self.gate_bias: BaseParam | None = nnx.data(None)
        self.up_bias: BaseParam | None = nnx.data(None)
        self.down_bias: BaseParam | None = nnx.data(None)
        if moe.bias:
            wide = ("layer", "expert", "mlp")
            self.gate_bias = BaseParam(jnp.zeros((*lead, f)), axes=wide)
            self.up_bias = BaseParam(jnp.zeros((*lead, f)), axes=wide)
            self.down_bias = BaseParam(jnp.zeros((*lead, d)), axes=("layer", "expert", "embed"))
        self.activation: Activation = config.activation
        self.clamped = moe.clamped
        self.shape, self.axes = (d, d), ("embed", "embed")
        self.experts: LoraExperts | None = nnx.data(None)

    def __call__(self, x_XD: Float[Array, "X D"], choice: ExpertChoice) -> Float[Array, "X D"]:
        rows, used = choice.expert_XK.shape
        flat = choice.expert_XK.reshape(-1)
        order = jnp.argsort(flat)
        sizes = (flat[:, None] == jnp.arange(self.gate.shape[0])[None]).sum(0, dtype=jnp.int32)
        sorted_YD, expert_Y = x_XD[order // used], flat[order]

        def product(x_YI: Array, kernel: KernelParam, bias: BaseParam | None) -> Array:
            out = grouped_product(x_YI, kernel[...], sizes)
            return out if bias is None else out + bias[...].astype(out.dtype)[expert_Y]

        gate, up = (
            product(sorted_YD, self.gate, self.gate_bias),
            product(sorted_YD, self.up, self.up_bias),
        )
        inner = self._gated(gate, up)
        out_YD = product(inner, self.down, self.down_bias)
        out_XKD = out_YD[jnp.argsort(order)].reshape(rows, used, -1)
        return (out_XKD * choice.weight_XK[..., None].astype(out_XKD.dtype)).sum(1)

    def _gated(self, gate: Array, up: Array) -> Array:
        if self.clamped is not None:
            return clamped_swiglu(gate, up, self.clamped)
        return ACTIVATIONS[self.activation](gate) * up


class MoeFeedForward(nnx.Module):
    """The router, its experts, and where the config has one an expert that every token uses."""

    def __init__(self, config: ModelConfig, moe: MoeConfig, std: float, *, rngs: nnx.Rngs):
        d, layers = config.hidden_size, config.num_layers
        self.moe = moe
        self.router = BaseParam(
            jax.random.normal(rngs.params(), (layers, d, moe.num_experts)) * std,
            axes=("layer", "embed", None),
        )
        self.router_bias: BaseParam | None = nnx.data(None)
        if moe.bias:
            self.router_bias = BaseParam(jnp.zeros((layers, moe.num_experts)), axes=("layer", None))
        self.group = ExpertGroup(config, moe, std, rngs=rngs)
        self.shared: FeedForward | None = nnx.data(None)
        self.shared_gate: BaseParam | None = nnx.data(None)
        if moe.shared_size:
            self.shared = FeedForward(config, std, rngs=rngs, size=moe.shared_size)
            self.shared_gate = BaseParam(
                jax.random.normal(rngs.params(), (layers, d, 1)) * std, axes=("layer", "embed", None)
            )

    def __call__(self, x_BTD: Array, call: ExpertCall) -> tuple[Array, Statistics]:
        batch, length, width = x_BTD.shape
        logits = kernel_product(x_BTD, self.router[...])
        if self.router_bias is not None:
            logits += self.router_bias[...].astype(logits.dtype)[None, None]
        choice = choose(logits.reshape(batch * length, -1), self.moe)
        out = self.group(x_BTD.reshape(batch * length, width), choice).reshape(x_BTD.shape)
        collected: Statistics = {}
        if self.group.experts is not None and call.enabled:
            (beside,) = apply_experts(x_BTD, [self.group.experts], call)
            out = out + beside.delta_BTO
            if beside.statistics is not None:
                collected["experts"] = beside.statistics
        if self.shared is not None and self.shared_gate is not None:
            always, _ = self.shared(x_BTD, call)
            gate = kernel_product(x_BTD, self.shared_gate[...])
            out = out + jax.nn.sigmoid(gate) * always
        return out, collected
