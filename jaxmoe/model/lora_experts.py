"""E stacked low-rank pairs around one frozen projection, mixed by a router.

    o = W0 x + scale · Σᵢ ωᵢ Bᵢ Aᵢ x,   ω = route(W_g x)        (LoRAMoE, arXiv:2312.09979, eq. 5)

The experts are never looped over: x meets [A_0 .. A_E-1] as one [I, E·R] matrix, the result is scaled by the
routing weights and meets [B_0; ..; B_E-1] as one [E·R, O] matrix. Projections that read the same x (gate
and up; q, k and v) share one product for all their A's and routers.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxmoe.model import router
from jaxmoe.model.config import ExpertConfig
from jaxmoe.model.quantized import as_array
from jaxmoe.model.shapes import Array, Bool, Float, Weight


class ExpertParam(nnx.Param):
    """A weight of the adapter: what training changes, unless everything is trained."""


class ExpertConstant(nnx.Variable):
    """What differs between layers but is never trained: scales, and which experts a layer has."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["samples_BTZ", "dropout_key", "experts_BE"],
    meta_fields=["enabled", "mesh"],
)
@dataclasses.dataclass(frozen=True)
class ExpertCall:
    """How one forward pass uses the experts.

    Attributes:
      enabled: False leaves only the base model (PPO's reference policy).
      samples_BTZ: 1 where token t counts for sample z in the router's statistics; None collects none.
      dropout_key: draws dropout masks; None means no dropout.
      experts_BE: 1 for the experts that a row may use, [B, 1] for all or none of them; a row without any uses
        only the base. None means all experts in every row.
      mesh: over whose axis expert a base's own experts are sharded; None on one device.
    """

    enabled: bool = True
    samples_BTZ: Float[Array, "B T Z"] | None = None
    dropout_key: Array | None = None
    experts_BE: Bool[Array, "B E"] | None = None
    mesh: Mesh | None = None


def column_norms(kernel: Weight) -> Array:
    """Length of each column, in float32: [.., I, O] -> [.., O]."""
    return jnp.linalg.norm(as_array(kernel, jnp.float32), axis=-2)


class LoraExperts(nnx.Module):
    """The experts of one projection, in all L layers: every variable has a leading layer axis.

        a [L, I, E, R]   (E = 1 if shared)     b [L, E, R, O]     router [L, I, E]     magnitude [L, O]

    Layers with fewer experts or a smaller rank are padded: a padded rank has A = B = 0 and so stays 0, a
    padded expert's logit is `router.ABSENT`. B starts at 0, so that a new adapter changes nothing; A and the
    router start Kaiming uniform with a = √5, that is, uniform within ±1/√I. With DoRA the magnitudes start as
    the lengths of the frozen kernel's columns (0 where no kernel is given, or only its shape), and are 0 in
    layers without experts.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        axes: tuple[str, str],
        config: ExpertConfig,
        present: Sequence[bool],
        *,
        rngs: nnx.Rngs,
        kernel: Array | jax.ShapeDtypeStruct | None = None,
    ):
        (in_features, out_features), (in_axis, out_axis) = shape, axes
        layers = len(present)
        counts = np.where(present, config.layer_counts(layers), 0)
        ranks = np.asarray(config.layer_ranks(layers))
        experts, rank = int(counts.max()), int(ranks[counts > 0].max())
        self.config = config
        self.counts = tuple(int(c) for c in counts)
        self.ranks = tuple(int(r) for r in ranks)
        bound = in_features**-0.5

        def uniform(shape):
            return jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)

        a = uniform((layers, in_features, 1 if config.shared_a else experts, rank))
        real_rank = (np.arange(rank) < ranks[:, None]).astype(np.float32)
        self.a = ExpertParam(a * real_rank[:, None, None, :], axes=("layer", in_axis, "expert", "rank"))
        self.b = ExpertParam(
            jnp.zeros((layers, experts, rank, out_features)), axes=("layer", "expert", "rank", out_axis)
        )
        self.router = (
            None
            if config.routing == "none"
            else ExpertParam(uniform((layers, in_features, experts)), axes=("layer", in_axis, "expert"))
        )
        scales = np.array([config.scale(r) for r in self.ranks], np.float32)
        self.scale = ExpertConstant(jnp.asarray(scales), axes=("layer",))
        self.magnitude = _magnitude(kernel, counts, out_features, out_axis) if config.dora else None
        self.present = (
            None
            if (counts == experts).all()
            else ExpertConstant(jnp.asarray(np.arange(experts) < counts[:, None]), axes=("layer", "expert"))
        )


def _magnitude(
    kernel: Array | jax.ShapeDtypeStruct | None, counts: np.ndarray, out_features: int, axis: str
) -> ExpertParam:
    known = isinstance(kernel, jax.Array)
    norms = column_norms(kernel) if known else jnp.zeros((len(counts), out_features))
    return ExpertParam(norms * jnp.asarray(counts > 0, jnp.float32)[:, None], axes=("layer", axis))


class ExpertOutput(NamedTuple):
    """What the experts of one projection add, and what their router did (None if not asked for)."""

    delta_BTO: Float[Array, "B T O"]
    statistics: router.RouterStatistics | None


def mix(
    low_BTER: Float[Array, "B T E R"],
    weight_BTE: Float[Array, "B T E"],
    b_ERO: Float[Array, "E R O"],
) -> Float[Array, "B T O"]:
    """Σᵢ ωᵢ Bᵢ (Aᵢ x) as one product with the stacked B's.

    Args:
      low_BTER: Aᵢ x, times the experts' scale.
      weight_BTE: ωᵢ, of the router.
      b_ERO: the stacked Bᵢ.
    Returns: the experts' output.
    """
    mixed_BTER = low_BTER * weight_BTE[..., None].astype(low_BTER.dtype)
    batch, length = low_BTER.shape[:2]
    out = b_ERO.shape[-1]
    mixed = mixed_BTER.reshape(batch * length, -1)
    return (mixed @ b_ERO.reshape(-1, out).astype(low_BTER.dtype)).reshape(batch, length, out)


def apply_experts(
    x_BTI: Float[Array, "B T I"], group: Sequence[LoraExperts], call: ExpertCall
) -> list[ExpertOutput]:
    """Runs the experts of projections that share their input, in one layer (no leading L here).

    With dropout the experts see dropout(x) while the router sees x, as in the paper's code.

    Args:
      x_BTI: what the projections read.
      group: the experts of each projection.
      call: which experts a row may use, what the statistics count, the dropout key.
    Returns: one entry per projection: the sum of its experts, and its router's statistics.
    """
    dropped = [_dropout(x_BTI, experts, call, i) for i, experts in enumerate(group)]
    # one [I, n] product for every router, and every A that sees the undropped x
    columns = [e.router[...] for e in group if e.router is not None]
    columns += [_flat(e.a[...]) for e, d in zip(group, dropped, strict=True) if d is None]
    products = iter(_split_columns(x_BTI, columns))
    logits = [next(products) if e.router is not None else None for e in group]
    outputs = []
    for experts, logits_BTE, x_dropped in zip(group, logits, dropped, strict=True):
        low = next(products) if x_dropped is None else _low_rank(x_dropped, experts.a[...])
        outputs.append(_finish(experts, logits_BTE, low, call))
    return outputs


def _finish(experts: LoraExperts, logits_BTE: Array | None, low: Array, call: ExpertCall) -> ExpertOutput:
    b_ERO = experts.b[...]
    count, rank = b_ERO.shape[:2]
    batch, length = low.shape[:2]
    low_BTER = low.reshape(batch, length, -1, rank)
    present = None if experts.present is None else experts.present[...][None, None, :]
    if call.experts_BE is not None:
        allowed = jnp.broadcast_to(call.experts_BE[:, None, :], (batch, 1, count))
        present = allowed if present is None else present & allowed
    if logits_BTE is None:
        logits_BTE = jnp.zeros((batch, length, count), low.dtype)
    if present is not None:
        logits_BTE = jnp.where(present, logits_BTE.astype(jnp.float32), router.ABSENT)
    weight_BTE = router.route(logits_BTE, experts.config)
    if present is not None:  # a layer without any expert has equal weights: zero them
        weight_BTE = weight_BTE * present.astype(jnp.float32)
    weight_BTE = weight_BTE.astype(low.dtype)
    collected = None
    if call.samples_BTZ is not None and experts.router is not None:
        collected = router.statistics(logits_BTE, weight_BTE, call.samples_BTZ, experts.config)
    scale = experts.scale[...].astype(low.dtype)
    return ExpertOutput(mix(low_BTER * scale, weight_BTE, b_ERO), collected)


def _flat(a_IER: Array) -> Array:
    return a_IER.reshape(a_IER.shape[0], -1)


def _split_columns(x_BTI: Array, columns: list[Array]) -> list[Array]:
    """x @ [c_0 | c_1 | ..] as one product, split again."""
    if not columns:
        return []
    joined = jnp.concatenate(columns, axis=1).astype(x_BTI.dtype)
    batch, length, width = x_BTI.shape
    joint = (x_BTI.reshape(batch * length, width) @ joined).reshape(batch, length, -1)
    return jnp.split(joint, np.cumsum([c.shape[1] for c in columns])[:-1], axis=-1)


def _dropout(x_BTI: Array, experts: LoraExperts, call: ExpertCall, index: int) -> Array | None:
    """dropout(x) as [B, T, I] (one mask) or [E, B, T, I] (a mask for each expert); None without dropout."""
    rate = experts.config.dropout
    if call.dropout_key is None or rate == 0.0:
        return None
    key = jax.random.fold_in(call.dropout_key, index)
    shape = x_BTI.shape
    if experts.config.dropout_mask == "per_expert":
        shape = (experts.b.shape[0], *shape)
    keep = jax.random.bernoulli(key, 1.0 - rate, shape)
    return jnp.where(keep, jnp.broadcast_to(x_BTI, shape) / (1.0 - rate), jnp.zeros((), x_BTI.dtype))


def _low_rank(x_dropped: Array, a_IER: Array) -> Array:
    """A x for inputs that dropout changed; [B, T, E·R]."""
    a_IER = a_IER.astype(x_dropped.dtype)
    if x_dropped.ndim == 3:
        return x_dropped @ _flat(a_IER)
    a_IER = jnp.broadcast_to(a_IER, (a_IER.shape[0], x_dropped.shape[0], a_IER.shape[2]))
    low_BTER = jnp.einsum("EBTI,IER->BTER", x_dropped, a_IER)
    return low_BTER.reshape(*low_BTER.shape[:2], -1)


def dora_factor(experts: LoraExperts, kernel_IO: Float[Array, "I O"]) -> Float[Array, " O"]:
    """The factor of weight-decomposed LoRA on each output, in one layer: mₒ / ‖(W0 + scale · A B)ₒ‖.

    No gradient flows through the norm, as in the paper. 1 in a layer without experts.

    Args:
      experts: of one projection in one layer, with `magnitude`.
      kernel_IO: W0.
    Returns: one factor per output.
    Reference: Liu et al. 2024, arXiv:2402.09353, section 4.3.
    """
    assert experts.magnitude is not None
    magnitude_O = experts.magnitude[...]
    delta_IO = jnp.einsum("IER,ERO->IO", experts.a[...], experts.b[...]) * experts.scale[...]
    norm_O = jax.lax.stop_gradient(column_norms(kernel_IO.astype(jnp.float32) + delta_IO))
    present_O = magnitude_O != 0
    return jnp.where(present_O, magnitude_O / jnp.where(present_O, norm_O, 1.0), 1.0)
