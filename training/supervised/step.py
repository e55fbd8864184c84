"""One training step: a pure function of plain dictionaries, jitted with a sharding for every array.

    (state, frozen, batch, step) -> (state, metrics)

The state is donated; the frozen base is an argument that is never copied, differentiated or donated. Metrics
stay on the device until the loop fetches them, one step late.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmoe.language_model import layer_experts
from jaxmoe.model import cross_entropy, params
from jaxmoe.model.attention import AttentionMask
from jaxmoe.model.balance import BalanceConfig, BalanceLoss, balance_loss
from jaxmoe.model.block import projections
from jaxmoe.model.lora_experts import ExpertCall
from jaxmoe.model.mesh import batch_axes
from jaxmoe.model.shapes import Array, Float, Int, PyTree
from jaxmoe.model.transformer import Decoder, Remat
from training.runtime.optimizer import optimizer_shardings
from training.supervised import telemetry


@dataclass(frozen=True)
class StepConfig:
    """How a step computes.

    Attributes:
      precision: dtype of activations and products; trained weights and their optimizer state stay float32.
      accumulate: micro-batches per step; the gradient is that of the mean loss over all their target tokens.
        Balance losses are computed for each micro-batch and averaged.
      remat: what the backward pass recomputes: nothing, all but matrix products, or whole blocks. A real
        model is fastest with dots, as activations cost more to write and read than to compute; a very small
        one with none.
      scan_layers: compile one block and scan it; false unrolls the layers.
      loss_chunk: positions of each row whose logits exist at once.
      most_targets: target tokens that no row exceeds (the loss is NaN if one does); logits are then computed
        at only this many positions per row, which is faster if answers are short.
    """

    precision: Literal["float32", "bfloat16"] = "float32"
    accumulate: int = 1
    remat: Remat = "dots"
    scan_layers: bool = True
    loss_chunk: int = 128
    most_targets: int | None = None

    def __post_init__(self) -> None:
        for name in ("accumulate", "loss_chunk", "most_targets"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"step.{name} must be at least 1; got {getattr(self, name)}")


class TrainState(NamedTuple):
    """All that a step changes.

    Attributes:
      routing: telemetry sums since the last report.
      failed: 1 once a loss or gradient was not finite; from then on no step changes anything, so that what is
        saved is the state before the failure.
    """

    trainable: params.Params
    optimizer: PyTree
    routing: PyTree  # dict[str, telemetry.RoutingSums]
    failed: PyTree  # int32 []


class StepMetrics(NamedTuple):
    """What a step reports, on the device.

    Attributes:
      scalars: loss (mean over target tokens), balance losses, grad_norm, lr, counts of tokens.
      squares: by trainable leaf in flattened order, the squared norm of its gradient.
    """

    scalars: dict[str, Float[Array, ""]]
    squares: Float[Array, " leaves"]
    failed: Int[Array, ""]


DeviceBatch = Any  # a Batch, whose fields are numpy arrays on the host and jax.Arrays in a step
TrainStep = Callable[
    [TrainState, params.Params, DeviceBatch, Int[Array, ""] | np.int32], tuple[TrainState, StepMetrics]
]


class _Parts(NamedTuple):
    """The loss of one micro-batch, taken apart."""

    negative_logprob: Float[Array, ""]
    balance: BalanceLoss
    routing: dict[str, telemetry.RoutingSums]


def attention_mask(batch: DeviceBatch) -> AttentionMask:
    """Tokens attend to their own segment. Padding attends to the row's last segment, as in the original's
    padded batches (its routing counts in the constraint's compatible form), and nothing attends to it."""
    keys_BT = batch.segment_ids
    return AttentionMask(jnp.where(keys_BT == 0, keys_BT.max(1, keepdims=True), keys_BT), keys_BT)


def sample_masks(batch: DeviceBatch) -> Float[Array, "B T Z+1"]:
    """Which tokens belong to which sample of a row, and in the last column the padding of rows in use."""
    segments_BT = batch.segment_ids
    count = batch.task_types.shape[1]
    if count == 1:
        real = (segments_BT > 0)[..., None]
    else:
        real = segments_BT[..., None] == jnp.arange(1, count + 1)[None, None, :]
    padding = (segments_BT == 0) & (segments_BT.max(1, keepdims=True) > 0)
    return jnp.concatenate([real, padding[..., None]], axis=-1).astype(jnp.float32)


def _balance(statistics, batch: DeviceBatch, tokens_BZ, counts, config: BalanceConfig) -> BalanceLoss:
    """The router losses; where padding counts and a row holds one sample, its padding is that sample's."""
    if config.count_padding and batch.task_types.shape[1] == 1:
        statistics = jax.tree.map(lambda a: a.sum(2, keepdims=True), statistics)
        tokens_BZ = tokens_BZ.sum(1, keepdims=True)
    else:
        statistics = jax.tree.map(lambda a: a[:, :, :-1], statistics)
        tokens_BZ = tokens_BZ[:, :-1]
    return balance_loss(statistics, batch.task_types, tokens_BZ, counts, config)


def make_loss(
    model: Decoder, config: StepConfig, balance: BalanceConfig, mesh: Mesh
) -> Callable[..., _Parts]:
    """The loss of a micro-batch, as a function of its weights.

    Args:
      model: for its structure alone; may be abstract.
      balance: which router losses there are, and their weights.
    Returns: (definition, trainable, frozen, batch, key) -> parts: Σ −log p of target tokens (nats), balance
      losses, routing sums. The key is for dropout; None for none.
    """
    counts = layer_experts(model)
    dtype = jnp.float32 if config.precision == "float32" else jnp.bfloat16

    def loss(definition, trainable, frozen, batch: DeviceBatch, key) -> _Parts:
        merged = params.merge(params.ModelParams(definition, trainable, frozen))
        samples_BTZ = sample_masks(batch)
        out = merged(
            batch.tokens,
            batch.positions,
            attention_mask(batch),
            dtype=dtype,
            call=ExpertCall(samples_BTZ=samples_BTZ if counts else None, dropout_key=key),
            remat=config.remat,
            scan_layers=config.scan_layers,
            mesh=mesh,
        )
        head = merged.output_head(dtype, mesh)
        total, _ = cross_entropy.cross_entropy(
            out.hidden_BTD,
            head,
            batch.tokens,
            batch.loss_mask,
            chunk=config.loss_chunk,
            most_targets=config.most_targets,
        )
        tokens_BZ = samples_BTZ.sum(1)
        routing = telemetry.add(
            jax.tree.map(jnp.asarray, telemetry.zeros(counts)),
            jax.tree.map(lambda a: a[:, :, :-1], out.statistics),
            batch.task_types,
            tokens_BZ[:, :-1],
        )
        return _Parts(total, _balance(out.statistics, batch, tokens_BZ, counts, balance), routing)

    return loss


def micro_batches(batch: DeviceBatch, count: int, mesh: Mesh) -> DeviceBatch:
    """Splits a batch; micro-batch i has rows i, i + count, ..., so that no row changes its device.

    Args:
      batch: arrays [B, ...].
      count: of micro-batches; must divide B.
      mesh: over which the rows are spread.
    Returns: arrays [count, B / count, ...].
    """
    spread = NamedSharding(mesh, PartitionSpec(None, batch_axes(mesh)))

    def one(array: Array) -> Array:
        parts = array.reshape(-1, count, *array.shape[1:]).swapaxes(0, 1)
        return jax.lax.with_sharding_constraint(parts, spread)

    return jax.tree.map(one, batch)


def make_gradient(
    model: Decoder, definition: nnx.GraphDef, config: StepConfig, balance: BalanceConfig, mesh: Mesh
) -> Callable[..., tuple[_Parts, params.Params]]:
    """The gradient of a batch, summed over its micro-batches.

    The loss is Σ −log p / (target tokens of the whole batch) + mean balance loss of the micro-batches.

    Args:
      model: for its structure alone; may be abstract.
      definition: of the model, from `params.split`.
    Returns: (trainable, frozen, batch, key) -> (parts of the loss, gradient in the structure of trainable).
    """
    loss = make_loss(model, config, balance, mesh)

    def gradient(trainable, frozen, batch: DeviceBatch, key):
        targets = jnp.maximum(batch.loss_mask[:, 1:].sum(), 1.0)

        def one(trainable, micro: DeviceBatch, key):
            parts = loss(definition, trainable, frozen, micro, key)
            return parts.negative_logprob / targets + parts.balance.total / config.accumulate, parts

        differentiate = jax.grad(one, has_aux=True)
        if config.accumulate == 1:
            grads, parts = differentiate(trainable, batch, key)
            return parts, grads

        def add(carry, inputs):
            micro, index = inputs
            micro_key = None if key is None else jax.random.fold_in(key, index)
            return jax.tree.map(jnp.add, carry, differentiate(trainable, micro, micro_key)), None

        inputs = (micro_batches(batch, config.accumulate, mesh), jnp.arange(config.accumulate))
        shapes = jax.eval_shape(
            lambda: differentiate(trainable, jax.tree.map(lambda a: a[0], inputs[0]), key)
        )
        start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        (grads, parts), _ = jax.lax.scan(add, start, inputs)
        mean = BalanceLoss(*(term / config.accumulate for term in parts.balance))
        return parts._replace(balance=mean), grads

    return gradient


def make_train_step(
    model: Decoder,
    definition: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    config: StepConfig,
    balance: BalanceConfig,
    state_shardings: TrainState,
    frozen_shardings: params.Params,
    *,
    seed: int = 0,
) -> TrainStep:
    """Builds the jitted step.

    Args:
      model: for its structure alone; may be abstract.
      definition: of the model, from `params.split`.
      learning_rate: only for reporting; the optimizer has its own.
      state_shardings, frozen_shardings: where the step's arguments lie.
      seed: dropout of step t draws from fold_in(key(seed), t), whatever came before.
    Returns: (state, frozen, batch, step) -> (new state, metrics); the old state's memory is reused.
    """
    mesh = state_shardings.failed.mesh
    gradient = make_gradient(model, definition, config, balance, mesh)
    attached = (linear.experts for _, linear in projections(model.blocks))
    dropout = any(experts is not None and experts.config.dropout > 0 for experts in attached)

    def train_step(state: TrainState, frozen, batch: DeviceBatch, step) -> tuple[TrainState, StepMetrics]:
        key = jax.random.fold_in(jax.random.key(seed), step) if dropout else None
        parts, grads = gradient(state.trainable, frozen, batch, key)
        targets = batch.loss_mask[:, 1:].sum()
        squares = jnp.stack([jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)])
        with jax.numpy_dtype_promotion("standard"):  # optax mixes integer counters with floats
            updates, optimizer_state = optimizer.update(grads, state.optimizer, state.trainable)
            rate = jnp.asarray(learning_rate(step), jnp.float32)
        scalars = {
            "loss": parts.negative_logprob / jnp.maximum(targets, 1.0),
            "balance": parts.balance.total,
            "grad_norm": jnp.sqrt(squares.sum()),
            "lr": rate,
            "targets": targets,
            "tokens": (batch.segment_ids > 0).sum().astype(jnp.float32),
        }
        finite = jnp.isfinite(scalars["loss"] + scalars["balance"] + scalars["grad_norm"])
        failed = jnp.where(finite, state.failed, 1)
        routing = jax.tree.map(jnp.add, state.routing, parts.routing)
        new = (optax.apply_updates(state.trainable, updates), optimizer_state, routing)
        kept = jax.tree.map(
            lambda n, o: jnp.where(failed > 0, o, n), new, (state.trainable, state.optimizer, state.routing)
        )
        return TrainState(kept[0], kept[1], kept[2], failed), StepMetrics(scalars, squares, failed)

    everywhere = params.replicated(mesh)
    return jax.jit(
        train_step,
        donate_argnums=0,
        in_shardings=(state_shardings, frozen_shardings, params.batch_sharding(mesh), everywhere),
        out_shardings=(state_shardings, everywhere),
    )


def state_shardings(
    model: Decoder, optimizer: optax.GradientTransformation, mesh: Mesh, train: params.Train
) -> TrainState:
    """Where every part of the state is placed.

    Args:
      model: for its structure alone; may be abstract.
      train: which part of the weights is trained.
    Returns: shardings in the structure of the state; counters and routing sums are on every device.
    """
    trainable, _ = params.shardings(model, mesh, train)
    everywhere = params.replicated(mesh)
    optimizer_state = optimizer_shardings(
        optimizer, params.split(model, train).trainable, trainable, everywhere
    )
    routing = jax.tree.map(lambda _: everywhere, telemetry.zeros(layer_experts(model)))
    return TrainState(trainable, optimizer_state, routing, everywhere)


def init_state(
    trainable: params.Params,
    model: Decoder,
    optimizer: optax.GradientTransformation,
    shardings: TrainState,
) -> TrainState:
    """The state before the first step; every array is created in its place on the mesh.

    Args:
      trainable: weights, already on the mesh.
      model: for its structure alone; may be abstract.
      shardings: from `state_shardings`.
    Returns: the weights with a new optimizer state and empty routing sums.
    """
    optimizer_state = jax.jit(optimizer.init, out_shardings=shardings.optimizer)(trainable)
    routing = jax.device_put(telemetry.zeros(layer_experts(model)), shardings.routing)
    return TrainState(trainable, optimizer_state, routing, jax.device_put(np.int32(0), shardings.failed))


def leaf_names(tree: PyTree) -> list[str]:
    """Dotted names of a pytree's leaves in flattened order."""
    return [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    ]
