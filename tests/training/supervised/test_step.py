"""One training step: the original's trajectory, and what must not change it."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from jaxmoe.adapters.record import Adapter
from jaxmoe.export import extract_adapter
from jaxmoe.model import params
from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.config import ExpertConfig, ModelConfig, MoeConfig
from jaxmoe.pretrained import load
from tests.tiny_checkpoints import in_double
from tests.tolerances import DOUBLE, assert_same, double_precision, doubled
from training.data.batches import Batch, BatchConfig, Batches, Sample
from training.runtime.model import (
    BaseDtype,
    LoraConfig,
    TrainableModel,
    adapter_experts,
    matched_rank,
    new_model,
)
from training.runtime.optimizer import OptimizerConfig, decayed, make_optimizer, schedule
from training.supervised.step import (
    StepConfig,
    TrainState,
    TrainStep,
    attention_mask,
    init_state,
    leaf_names,
    make_gradient,
    make_train_step,
    state_shardings,
)

SHAPE = ModelConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8
)
EXPERTS = ExpertConfig(num_experts=4, rank=4)
BALANCE = BalanceConfig(count_padding=False)
PLAIN = StepConfig()
# Weights of the original's float32 after AdamW steps of 1e-3, against ours in double precision: where a
# gradient is nearly 0 its sign decides.
TRAJECTORY = 1e-4


def batch_of(rows: int = 8, length: int = 24, segments: int = 1, seed: int = 0) -> Batch:
    """Random samples of different lengths, one a row."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(rows):
        size = int(rng.integers(4, length + 1))
        mask = np.zeros(size, np.float32)
        mask[int(rng.integers(1, size)) :] = 1.0
        samples.append(Sample(rng.integers(3, 64, size).astype(np.int32), mask, i % 3 - 1))
    config = BatchConfig(
        rows, length, "first_fit" if segments > 1 else "none", max_segments=segments, epochs=1
    )
    return next(Batches([samples], config, pad_id=0))


@functools.cache
def _host_weights(experts: ExpertConfig | None, base_dtype: BaseDtype) -> tuple[TrainableModel, Any, Any]:
    """A model and its weights on the host. B, 0 in new experts, gets values, so that all gradients matter."""
    model = new_model(SHAPE, experts, params.single_device_mesh(), base_dtype=base_dtype)
    rng = np.random.default_rng(5)

    def shaken(leaf: np.ndarray) -> np.ndarray:
        return leaf + 0.05 * rng.standard_normal(leaf.shape, np.float32)

    weights = jax.device_get(model.lm.weights)
    return model, jax.tree.map(shaken, weights.trainable), weights.frozen


def build(
    mesh: Mesh | None = None, experts: ExpertConfig | None = EXPERTS, base_dtype: BaseDtype = "float32"
) -> TrainableModel:
    """The same weights on any mesh."""
    model, trainable, frozen = _host_weights(experts, base_dtype)
    mesh = params.single_device_mesh() if mesh is None else mesh
    host = (trainable, frozen)
    host = doubled(host) if jax.config.jax_enable_x64 else host
    placed = jax.device_put(host, params.shardings(model.abstract, mesh, model.train))
    weights = params.ModelParams(model.lm.weights.definition, *placed)
    return model._replace(lm=dataclasses.replace(model.lm, mesh=mesh, weights=weights))


def new_step(
    model: Any,
    definition: Any,
    train: params.Train,
    mesh: Mesh,
    optimizer: OptimizerConfig,
    step: StepConfig,
    balance: BalanceConfig,
    double: bool,
) -> tuple[TrainStep, Any, TrainState]:
    """A jitted step, its optimizer and where its state lies; `double` only tells cached ones apart."""
    transform = make_optimizer(optimizer, 5, decayed(model, optimizer, train))
    shardings = state_shardings(model, transform, mesh, train)
    _, frozen = params.shardings(model, mesh, train)
    rate = schedule(optimizer, 5)
    return (
        make_train_step(model, definition, transform, rate, step, balance, shardings, frozen),
        transform,
        shardings,
    )


shared_step = functools.cache(new_step)


def machinery(
    model: TrainableModel,
    optimizer: OptimizerConfig,
    step: StepConfig = PLAIN,
    balance: BalanceConfig = BALANCE,
    make: Callable[..., tuple[TrainStep, Any, TrainState]] = shared_step,
):
    """The jitted step and its first state. Tests of one step share it: compiling takes longest."""
    weights = model.lm.weights
    double = jax.config.jax_enable_x64
    step_fn, transform, shardings = make(
        model.abstract, weights.definition, model.train, model.lm.mesh, optimizer, step, balance, double
    )
    # the state is donated: keep the model's own weights
    trainable = jax.tree.map(jnp.copy, weights.trainable)
    return step_fn, init_state(trainable, model.abstract, transform, shardings)


def place(batch: Batch, model: TrainableModel) -> Any:
    return jax.device_put(batch, params.batch_sharding(model.lm.mesh))


def run_steps(model: TrainableModel, batch: Batch, steps: int = 3, step: StepConfig = PLAIN, **changes):
    """Losses and final weights of a few steps on one batch."""
    balance = changes.pop("balance", BALANCE)
    optimizer = OptimizerConfig(lr=1e-3, schedule="constant", **changes)
    step_fn, state = machinery(model, optimizer, step, balance)
    losses = []
    for i in range(steps):
        state, metrics = step_fn(state, model.lm.weights.frozen, place(batch, model), np.int32(i))
        losses.append(float(metrics.scalars["loss"] + metrics.scalars["balance"]))
    return losses, jax.device_get(state.trainable), state


@functools.cache
def _gradient(step: StepConfig, balance: BalanceConfig, double: bool) -> Any:
    model = build()
    return jax.jit(make_gradient(model.abstract, model.lm.weights.definition, step, balance, model.lm.mesh))


def gradient_of(batch: Batch, step: StepConfig = PLAIN, balance: BalanceConfig = BALANCE):
    """Mean loss, parts of the loss and gradient, on one device."""
    weights = build().lm.weights
    parts, grads = _gradient(step, balance, jax.config.jax_enable_x64)(
        weights.trainable, weights.frozen, place(batch, build()), None
    )
    targets = batch.loss_mask[:, 1:].sum()
    return float(parts.negative_logprob / targets), parts, jax.device_get(grads)


# -- the original code


def weight_named(adapter: Adapter, key: str) -> np.ndarray:
    """A weight by the original's name: after5.base_model.model.model.layers.0.mlp.up_proj.lora_A1.weight."""
    module, leaf = key.removeprefix("after5.base_model.model.model.").removesuffix(".weight").rsplit(".", 1)
    experts = adapter.modules[module]
    if leaf == "lora_route":
        assert experts.router_EI is not None
        return experts.router_EI
    stack = experts.a_ERI if leaf.startswith("lora_A") else experts.b_EOR
    return stack[int(leaf[6:])]


def golden_batch(expected) -> Batch:
    mask = expected["attention_mask"].astype(np.int32)
    return Batch(
        tokens=expected["input_ids"].astype(np.int32),
        loss_mask=(expected["labels"] != -100).astype(np.float32),
        segment_ids=mask,
        positions=np.broadcast_to(np.arange(mask.shape[1], dtype=np.int32), mask.shape),
        task_types=expected["task_types"].astype(np.int32)[:, None],
    )


@functools.cache
def _original(goldens: Path) -> tuple[Any, TrainableModel]:
    """The original's results, and its model in double precision, as those who call this."""
    folder = goldens / "loramoe" / "llama"
    lm = in_double(load(folder / "base", folder / "adapter"))
    return np.load(folder / "expected.npz"), (
        TrainableModel(lm, "experts", params.abstract(lm.config, lm.experts))
    )


@double_precision()
def test_adamw_trajectory_of_the_original_code(goldens):
    expected, model = _original(goldens)
    lm = model.lm
    # torch.optim.AdamW with its defaults, weight decay 0.01 on every weight, no clipping
    losses, _, _ = run_steps(
        model, golden_batch(expected), 6, weight_decay=0.01, decay="all", clip_norm=None, balance=lm.balance
    )
    # a loss is a mean over weights that agree so
    np.testing.assert_allclose(losses, expected["adamw_losses"], rtol=TRAJECTORY)


@double_precision()
def test_weights_after_five_steps_of_the_original_code(goldens):
    expected, model = _original(goldens)
    lm = model.lm
    _, _, state = run_steps(
        model, golden_batch(expected), 5, weight_decay=0.01, decay="all", clip_norm=None, balance=lm.balance
    )
    trained = dataclasses.replace(lm, weights=lm.weights._replace(trainable=state.trainable))
    adapter: Adapter = extract_adapter(trained)
    before = extract_adapter(lm)
    moved = 0.0
    for key in expected.files:
        if key.startswith("after5."):
            got, old = weight_named(adapter, key), weight_named(before, key)
            np.testing.assert_allclose(got, expected[key], atol=TRAJECTORY, err_msg=key)
            moved = max(moved, float(np.abs(got - old).max()))
    assert moved > 4e-3  # five steps of 1e-3: the tolerance is far below what they change


# -- invariances


@double_precision()
def test_packed_rows_give_the_gradient_of_unpacked_ones():
    rng = np.random.default_rng(3)
    samples = []
    for i in range(8):
        size = int(rng.integers(4, 11))
        mask = np.zeros(size, np.float32)
        mask[size // 2 :] = 1.0
        samples.append(Sample(rng.integers(3, 64, size).astype(np.int32), mask, i % 2))
    plain = next(Batches([samples], BatchConfig(8, 24, "none", epochs=1), pad_id=0))
    packing = BatchConfig(4, 40, "first_fit", max_segments=4, epochs=1)
    packed = next(Batches([samples], packing, pad_id=0))
    assert packed.segment_ids.max() > 1
    assert packed.loss_mask.sum() == plain.loss_mask.sum()
    loss, parts, grads = gradient_of(plain)
    packed_loss, packed_parts, packed_grads = gradient_of(packed)
    assert packed_loss == pytest.approx(loss, rel=DOUBLE)
    assert float(packed_parts.balance.total) == pytest.approx(float(parts.balance.total), rel=DOUBLE)
    assert float(parts.balance.total) > 0
    assert_same(packed_grads, grads)


@pytest.mark.parametrize("count", [2, 4])
@double_precision()
def test_accumulated_gradient_is_that_of_the_whole_batch(count):
    batch = batch_of(seed=1)
    per_row = batch.loss_mask.sum(1)
    assert len({per_row[i::count].sum() for i in range(count)}) > 1  # micro-batches with different targets
    none = BalanceConfig(weight=0.0)
    loss, _, grads = gradient_of(batch, balance=none)
    split_loss, _, split_grads = gradient_of(batch, StepConfig(accumulate=count), balance=none)
    assert split_loss == pytest.approx(loss, rel=DOUBLE)
    assert_same(split_grads, grads)


@double_precision()
def test_accumulated_balance_loss_is_the_mean_of_the_micro_batches():
    batch = batch_of()
    _, parts, _ = gradient_of(batch, StepConfig(accumulate=2))
    halves = [gradient_of(Batch(*(a[i::2] for a in batch)))[1] for i in range(2)]
    mean = np.mean([float(half.balance.total) for half in halves])
    assert float(parts.balance.total) == pytest.approx(mean, rel=DOUBLE)


@functools.cache
def _on_one_device():  # in double precision, as those who call it
    return run_steps(build(), batch_of())[:2]


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (2, 2, 2)])
@double_precision()
def test_eight_devices_train_as_one(sizes):
    losses, trainable = _on_one_device()
    mesh = params.make_mesh(*sizes)
    many = build(mesh)
    other_losses, other, state = run_steps(many, batch_of())
    np.testing.assert_allclose(other_losses, losses, rtol=DOUBLE)
    assert_same(other, trainable)
    assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(state.optimizer))


@double_precision()
def test_accumulation_on_eight_devices():
    batch = batch_of(rows=16)
    losses, trainable, _ = run_steps(build(), batch, step=StepConfig(accumulate=2))
    many = build(params.make_mesh(4, 2, 1))
    other_losses, other, _ = run_steps(many, batch, step=StepConfig(accumulate=2))
    np.testing.assert_allclose(other_losses, losses, rtol=DOUBLE)
    assert_same(other, trainable)


@pytest.mark.parametrize(
    "step",
    [
        StepConfig(remat="full"),
        StepConfig(remat="dots"),
        StepConfig(scan_layers=False),
        StepConfig(loss_chunk=7),
    ],
)
@double_precision()
def test_memory_settings_change_nothing(step):
    batch = batch_of()
    loss, _, grads = gradient_of(batch)
    other_loss, _, other = gradient_of(batch, step)
    assert other_loss == pytest.approx(loss, rel=DOUBLE)
    assert_same(other, grads)


@double_precision()
def test_padding_counts_only_in_the_compatible_constraint():
    short = batch_of(length=16)
    long = Batch(*(np.pad(a, ((0, 0), (0, 8))) for a in short[:4]), short.task_types)
    aware = [gradient_of(b)[1].balance.total for b in (short, long)]
    assert float(aware[0]) == pytest.approx(float(aware[1]), rel=DOUBLE)
    compatible = [gradient_of(b, balance=BalanceConfig())[1].balance.total for b in (short, long)]
    assert abs(float(compatible[0]) - float(compatible[1])) > 1e-4


# -- what a step must leave alone


def test_base_is_bitwise_unchanged_and_experts_move():
    model = build()
    before = jax.device_get(model.lm.weights.frozen)
    start = jax.device_get(model.lm.weights.trainable)
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(model.lm.weights.frozen)]
    _, trainable, _ = run_steps(model, batch_of())
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(model.lm.weights.frozen))
    assert pointers == [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(model.lm.weights.frozen)]
    assert all(
        np.abs(a - b).max() > 0
        for a, b in zip(jax.tree.leaves(start), jax.tree.leaves(trainable), strict=True)
    )


def test_state_is_donated_and_the_base_is_not():
    model = build()
    step_fn, state = machinery(model, OptimizerConfig(lr=2e-4))
    step_fn(state, model.lm.weights.frozen, place(batch_of(), model), np.int32(0))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.trainable, state.optimizer)))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(model.lm.weights.frozen))


def test_learning_rate_zero_moves_nothing():
    model = build()
    before = jax.device_get(model.lm.weights.trainable)
    step_fn, state = machinery(model, OptimizerConfig(lr=0.0, weight_decay=0.1))
    for i in range(2):
        state, _ = step_fn(state, model.lm.weights.frozen, place(batch_of(), model), np.int32(i))
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(state.trainable))


def test_nothing_changes_once_a_step_was_not_finite():
    model = build()
    frozen = model.lm.weights.frozen
    bad = frozen | {"norm": {"weight": frozen["norm"]["weight"].at[0].set(jnp.nan)}}
    step_fn, state = machinery(model, OptimizerConfig(lr=2e-4))
    good = place(batch_of(), model)
    state, metrics = step_fn(state, frozen, good, np.int32(0))
    assert not metrics.failed
    before = jax.device_get(state._replace(failed=None))
    state, metrics = step_fn(state, bad, good, np.int32(1))
    assert metrics.failed
    assert not np.isfinite(metrics.squares).all()
    state, metrics = step_fn(state, frozen, good, np.int32(2))  # a good batch again
    assert metrics.failed
    assert np.isfinite(metrics.scalars["loss"])
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(state._replace(failed=None)))


# -- compilation, precision, randomness


def test_compiles_once_for_each_shape():
    model = build()
    step_fn: Any
    step_fn, state = machinery(model, OptimizerConfig(lr=2e-4), make=new_step)
    for i in range(4):
        state, _ = step_fn(state, model.lm.weights.frozen, place(batch_of(seed=i), model), np.int32(i))
    assert step_fn._cache_size() == 1
    for i in range(4, 6):
        short = batch_of(length=16, seed=i)
        state, _ = step_fn(state, model.lm.weights.frozen, place(short, model), np.int32(i))
    assert step_fn._cache_size() == 2


def test_bfloat16_keeps_float32_masters():
    batch = batch_of()
    exact, _, _ = run_steps(build(), batch)
    model = build(base_dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(model.lm.weights.frozen)} >= {jnp.dtype("bfloat16")}
    rounded, trainable, state = run_steps(model, batch, step=StepConfig(precision="bfloat16"))
    np.testing.assert_allclose(rounded, exact, rtol=0.02)  # 8 bits of mantissa
    assert {leaf.dtype for leaf in jax.tree.leaves((trainable, state.optimizer)) if leaf.ndim} == {
        np.dtype("float32")
    }


def test_dropout_depends_on_seed_and_step_alone():
    model = build(experts=dataclasses.replace(EXPERTS, dropout=0.5))
    batch = place(batch_of(), model)

    def losses(*steps: int) -> list[float]:
        """Of the first update of a step function of its own."""
        step_fn, _ = machinery(model, OptimizerConfig(lr=2e-4), make=new_step)
        found = []
        for step in steps:
            _, state = machinery(model, OptimizerConfig(lr=2e-4))
            _, metrics = step_fn(state, model.lm.weights.frozen, batch, np.int32(step))
            found.append(float(metrics.scalars["loss"]))
        return found

    first, other = losses(3, 4)
    assert [first] == losses(3)
    assert first != other


# -- adapters


def test_full_fine_tuning_trains_every_weight():
    model = build(experts=None)
    assert not jax.tree.leaves(model.lm.weights.frozen)
    before = jax.device_get(model.lm.weights.trainable)
    losses, trainable, _ = run_steps(model, batch_of(), steps=5)
    assert losses[-1] < losses[0]
    assert all(
        np.abs(a - b).max() > 0
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(trainable), strict=True)
    )


def test_matched_lora_has_the_weights_of_the_experts():
    """At 7B: 6 experts of rank 4 with routers are 38,486,016 weights; LoRA of rank 26 on the same projections
    is 26 (4096 + 11008) x 3 x 32 = 37,699,584, of rank 27 39,149,568: rank 27 is nearer."""
    llama = ModelConfig(32000, 4096, 11008, 32, 32, 32, 128)
    experts = ExpertConfig(num_experts=6, rank=4)
    rank = matched_rank(experts, llama)
    each = (4096 + 11008) * 3 * 32
    assert rank == 27
    assert abs(rank * each - 38_486_016) <= each / 2
    lora = adapter_experts("lora", experts, LoraConfig(), llama)
    parts = params.split(params.abstract(llama, lora))
    assert params.count(parts.trainable) == rank * each
    assert adapter_experts("none", experts, LoraConfig(), llama) is None
    assert adapter_experts("loramoe", experts, LoraConfig(), llama) == experts


def test_beside_a_base_of_experts_the_default_is_their_block():
    base = dataclasses.replace(SHAPE, moe=MoeConfig(4, 2, 8))
    for kind in ("loramoe", "lora"):
        attached = adapter_experts(kind, ExpertConfig(), LoraConfig(), base)
        assert attached is not None
        assert attached.targets == ("experts",)
        with pytest.raises(
            ValueError, match=r"'up_proj' matches none of .*; experts is a layer's whole block"
        ):
            adapter_experts(kind, ExpertConfig(targets=("up_proj", "q_proj")), LoraConfig(), base)


def test_lora_skips_layers_without_experts():
    experts = ExpertConfig(num_experts=(4, 0), rank=4)
    lora = adapter_experts("lora", experts, LoraConfig(rank=3), SHAPE)
    assert lora is not None
    assert lora.layer_counts(2) == (1, 0)
    losses, _, _ = run_steps(build(experts=lora), batch_of(), steps=4)
    assert losses[-1] < losses[0]


def test_padding_sees_the_last_segment_and_is_seen_by_nothing():
    segments = np.array([[1, 1, 2, 0]], np.int32)
    batch = Batch(segments, segments.astype(np.float32), segments, segments, np.zeros((1, 2), np.int32))
    visible = np.asarray(attention_mask(jax.tree.map(jnp.asarray, batch)).dense())[0]
    assert visible[:, 3].sum() == 0
    np.testing.assert_array_equal(visible[3], [False, False, True, False])


def test_state_names_its_leaves():
    model = build()
    names = leaf_names(model.lm.weights.trainable)
    assert "blocks.mlp.up_proj.experts.a" in names
    assert isinstance(machinery(model, OptimizerConfig(lr=2e-4))[1], TrainState)
