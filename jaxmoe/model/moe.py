"""A feed-forward of many experts, of which each token uses a few (Shazeer et al. 2017, arXiv:1701.06538).

    o = Σₖ wₖ · expertₖ(x) [+ σ(g · x) · shared(x)],   w = the K largest of softmax(W x)

Rows are sorted by expert and meet the experts' weights in grouped products (`jax.lax.ragged_dot`), never in a
loop over tokens. XLA's CPU backend computes such a product for every expert and masks it: correct, but E / K
times the work. On a mesh the experts are split like other weights, rows over fsdp and columns over tensor; if
the mesh has an axis expert, each of its devices holds some of the experts (`_spread_outputs`).

Letters of this file: X rows (tokens of a batch), G experts of the base, K those that a token uses.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from jaxmoe.model.config import Activation, ClampedSwiglu, ModelConfig, MoeConfig
from jaxmoe.model.layers import ACTIVATIONS, BaseParam, FeedForward, KernelParam, Statistics
from jaxmoe.model.lora_experts import ExpertCall, LoraExperts, apply_experts
from jaxmoe.model.mesh import devices_along, row_axes
from jaxmoe.model.products import grouped_product, kernel_product
from jaxmoe.model.quantized import is_quantized
from jaxmoe.model.shapes import Array, Float, Int, Weight


class ExpertChoice(NamedTuple):
    """The experts of each row, and their weights."""

    weight_XK: Float[Array, "X K"]
    expert_XK: Int[Array, "X K"]


def choose(logits_XG: Float[Array, "X G"], config: MoeConfig) -> ExpertChoice:
    """The K likeliest experts of each row; the softmax is over all, in float32.

    Args:
      logits_XG: of the router.
      config: K, and whether the weights are normalized to sum to 1.
    Returns: float32 weights and the experts' numbers.
    """
    likely_XG = jax.nn.softmax(logits_XG.astype(jnp.float32), axis=-1)
    weight_XK, expert_XK = jax.lax.top_k(likely_XG, config.experts_per_token)
    if config.normalize:
        weight_XK = weight_XK / weight_XK.sum(-1, keepdims=True)
    return ExpertChoice(weight_XK, expert_XK)


def clamped_swiglu(gate: Array, up: Array, config: ClampedSwiglu) -> Array:
    """(clip(up, ±limit) + 1) · g · σ(alpha g) with g = min(gate, limit), as in the release of GPT-OSS.

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

    LoRA experts may be attached to the group as a whole, as to a projection D -> D.
    """

    def __init__(self, config: ModelConfig, moe: MoeConfig, std: float, *, rngs: nnx.Rngs):
        d, f, lead = config.hidden_size, moe.expert_size, (config.num_layers, moe.num_experts)

        def kernel(shape: tuple[int, int], axes: tuple[str, str], std: float) -> KernelParam:
            drawn = jax.random.normal(rngs.params(), (*lead, *shape)) * std
            return KernelParam(drawn, axes=("layer", "base_expert", *axes))

        self.gate = kernel((d, f), ("embed", "mlp"), std)
        self.up = kernel((d, f), ("embed", "mlp"), std)
        self.down = kernel((f, d), ("mlp", "embed"), std / math.sqrt(2 * config.num_layers))
        self.gate_bias: BaseParam | None = nnx.data(None)
        self.up_bias: BaseParam | None = nnx.data(None)
        self.down_bias: BaseParam | None = nnx.data(None)
        if moe.bias:
            wide = ("layer", "base_expert", "mlp")
            self.gate_bias = BaseParam(jnp.zeros((*lead, f)), axes=wide)
            self.up_bias = BaseParam(jnp.zeros((*lead, f)), axes=wide)
            self.down_bias = BaseParam(jnp.zeros((*lead, d)), axes=("layer", "base_expert", "embed"))
        self.activation: Activation = config.activation
        self.clamped = moe.clamped
        self.shape, self.axes = (d, d), ("embed", "embed")
        self.experts: LoraExperts | None = nnx.data(None)

    def __call__(
        self, x_BTD: Float[Array, "B T D"], choice: ExpertChoice, mesh: Mesh | None = None
    ) -> Float[Array, "B T D"]:
        """Σₖ wₖ · expertₖ(x).

        Args:
          x_BTD: what the experts read.
          choice: of each of the B T rows.
          mesh: over whose axis expert the experts are sharded; None on one device.
        Returns: the experts' sum.
        """
        kernels = ExpertKernels(*(None if w is None else w[...] for w in self._weights()))
        if mesh is not None and devices_along(mesh, "expert") > 1:
            return _spread_outputs(x_BTD, choice, kernels, self._gated, mesh)
        rows_XD = x_BTD.reshape(-1, x_BTD.shape[-1])
        return _outputs(rows_XD, choice, kernels, self._gated).reshape(x_BTD.shape)

    def _weights(self) -> tuple[BaseParam | None, ...]:
        return self.gate, self.up, self.down, self.gate_bias, self.up_bias, self.down_bias

    def _gated(self, gate: Array, up: Array) -> Array:
        if self.clamped is not None:
            return clamped_swiglu(gate, up, self.clamped)
        return ACTIVATIONS[self.activation](gate) * up


class ExpertKernels(NamedTuple):
    """One layer's experts, or those of them that a device holds; biases are None where there are none."""

    gate_GDF: Weight
    up_GDF: Weight
    down_GFD: Weight
    gate_bias_GF: Array | None
    up_bias_GF: Array | None
    down_bias_GD: Array | None


def _outputs(
    x_XD: Array,
    choice: ExpertChoice,
    kernels: ExpertKernels,
    gated: Callable[[Array, Array], Array],
    first: Array | None = None,
) -> Array:
    """Σₖ wₖ · expertₖ(x) over the experts from number `first` on that `kernels` holds; None if it has all."""
    (rows, used), count = choice.expert_XK.shape, kernels.gate_GDF.shape[0]
    flat = choice.expert_XK.reshape(-1)
    if first is not None:
        flat = flat - first
        flat = jnp.where((flat >= 0) & (flat < count), flat, count)  # other experts' are sorted to the end
    order = jnp.argsort(flat)
    expert_Y = flat[order]
    sizes = (flat[:, None] == jnp.arange(count)[None]).sum(0, dtype=jnp.int32)

    def held(rows_YI: Array) -> Array:
        # the result of a grouped product for rows beyond its groups is undefined
        return rows_YI if first is None else jnp.where((expert_Y < count)[:, None], rows_YI, 0)

    def product(x_YI: Array, kernel: Weight, bias: Array | None) -> Array:
        out = grouped_product(x_YI, kernel, sizes)
        return out if bias is None else out + bias.astype(out.dtype)[jnp.minimum(expert_Y, count - 1)]

    sorted_YD = held(x_XD[order // used])
    gate = product(sorted_YD, kernels.gate_GDF, kernels.gate_bias_GF)
    up = product(sorted_YD, kernels.up_GDF, kernels.up_bias_GF)
    out_YD = held(product(held(gated(gate, up)), kernels.down_GFD, kernels.down_bias_GD))
    out_XKD = out_YD[jnp.argsort(order)].reshape(rows, used, -1)
    return (out_XKD * choice.weight_XK[..., None].astype(out_XKD.dtype)).sum(1)


def _spread_outputs(
    x_BTD: Array,
    choice: ExpertChoice,
    kernels: ExpertKernels,
    gated: Callable[[Array, Array], Array],
    mesh: Mesh,
) -> Array:
    """The same when each device along the axis expert holds G / n of the experts.

    The devices along the axis gather each other's rows, compute what their own experts add to all of them,
    and scatter the sums: exact, whatever the router chooses. Along tensor the experts' widths are split.
    """
    rows = row_axes(mesh, x_BTD.shape[0])
    wide = kernels.gate_GDF.shape[-1]
    # a quantized kernel's values and scales need not divide alike
    columns = None if is_quantized(kernels.gate_GDF) or wide % devices_along(mesh, "tensor") else "tensor"
    tensor = columns if columns in mesh.shape else None

    def local(x_BTD: Array, choice: ExpertChoice, parts: tuple[Weight | None, ...]) -> Array:
        kernels = ExpertKernels(*parts)
        if rows is not None:
            gather = partial(jax.lax.all_gather, axis_name="expert", axis=0, tiled=True)
            x_BTD, choice = gather(x_BTD), ExpertChoice(*map(gather, choice))
        else:
            # indexing by something that differs between devices would give each device's own gradient as that
            # of all
            x_BTD = jax.lax.pcast(x_BTD, "expert", to="varying")
        if tensor is not None and kernels.down_bias_GD is not None:  # the sum over tensor has it once
            once = (jax.lax.axis_index(tensor) == 0).astype(kernels.down_bias_GD.dtype)
            kernels = kernels._replace(down_bias_GD=kernels.down_bias_GD * once)
        first = jax.lax.axis_index("expert") * kernels.gate_GDF.shape[0]
        flat = ExpertChoice(*(x.reshape(-1, x.shape[-1]) for x in choice))
        out_XD = _outputs(x_BTD.reshape(-1, x_BTD.shape[-1]), flat, kernels, gated, first)
        out_BTD = out_XD.reshape(x_BTD.shape)
        if tensor is not None:
            out_BTD = jax.lax.psum(out_BTD, tensor)
        if rows is None:
            return jax.lax.psum(out_BTD, "expert")
        return jax.lax.psum_scatter(out_BTD, "expert", scatter_dimension=0, tiled=True)

    by_rows = PartitionSpec(rows)
    out, inner = PartitionSpec("expert", None, tensor), PartitionSpec("expert", tensor)
    places = (out, out, inner, inner, inner, PartitionSpec("expert"))
    places = tuple(None if k is None else p for k, p in zip(kernels, places, strict=True))
    by_text = ExpertChoice(*(x.reshape(*x_BTD.shape[:2], -1) for x in choice))
    run = jax.shard_map(local, mesh=mesh, in_specs=(by_rows, by_rows, places), out_specs=by_rows)
    return run(x_BTD, by_text, tuple(kernels))


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
        batch, length, _ = x_BTD.shape
        logits = kernel_product(x_BTD, self.router[...])
        if self.router_bias is not None:
            logits += self.router_bias[...].astype(logits.dtype)[None, None]
        choice = choose(logits.reshape(batch * length, -1), self.moe)
        out = self.group(x_BTD, choice, call.mesh)
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
