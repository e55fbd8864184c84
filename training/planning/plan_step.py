"""Planning of a training step: the real step compiled for a slice that need not be attached.

The step, its shardings and its weights' shapes are the run's own; only the weights are abstract.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from rich.table import Table

from jaxmoe.base_folder import local_folder
from jaxmoe.language_model import layer_experts
from jaxmoe.model import params
from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.config import ExpertConfig, ModelConfig
from jaxmoe.model.shapes import PyTree
from jaxmoe.model.transformer import Decoder
from training.data.batch import NO_TASK, Batch
from training.data.sources import DataConfig
from training.planning import collectives
from training.planning.chips import GIB, Topology
from training.planning.flops import Flops, step_flops
from training.planning.plan_decode import DecodePlan, make_decode_plan
from training.runtime import model
from training.runtime.distributed import MeshConfig
from training.runtime.model import ModelSource
from training.runtime.optimizer import OptimizerConfig
from training.supervised import telemetry
from training.supervised import train as run
from training.supervised.step import StepConfig, TrainState

MIB = 1 << 20
# Gathers in one piece, so that their bytes can be read off. Split into windows around a product (what the TPU
# compiler prefers) they send as much and need less memory, so the plan errs on the safe side.
PLAIN_GATHERS = {
    "xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000",
    "xla_tpu_enable_async_collective_fusion": "false",
}
# what to try for a frozen base that is too large, by its base_dtype
_INT8 = {"int8": "its kernels take a byte a weight"}
_NF4 = {"nf4": "its kernels take four and a half bits a weight"}
SMALLER_BASE: dict[model.BaseDtype, dict[str, str]] = {
    "float32": {"bfloat16": "half the memory for the frozen base"} | _INT8 | _NF4,
    "bfloat16": _INT8 | _NF4,
    "int8": _NF4,
    "nf4": {},
}
# for a run that lasts data.epochs: the length of the schedule changes nothing that is planned
ANY_STEPS = 1000


class StepPlan(NamedTuple):
    """What a step needs on one chip.

    Attributes:
      memory: bytes by kind; "temporaries" are activations, gradients and buffers at their peak.
      sent: bytes that a chip sends in a step, by collective.
      seconds: compute, memory traffic and communication, each alone at the published peak; None without
      figures. mfu: model FLOPs utilisation if they overlap perfectly, and if not at all.
      tokens: in a step.
    """

    topology: str
    devices: int
    mesh: dict[str, int]
    memory: dict[str, int]
    available: int | None
    flops: Flops
    sent: dict[str, float]
    seconds: dict[str, float] | None
    mfu: tuple[float, float] | None
    tokens: int

    @property
    def needed(self) -> int:
        """Bytes a chip needs."""
        return sum(self.memory.values())


def shape_of(source: ModelSource) -> ModelConfig:
    """The model's shape: as the config gives it, else from the base's config.json."""
    return model.read_shape(local_folder(str(source.base))) if source.shape is None else source.shape


def experts_of(source: ModelSource, shape: ModelConfig) -> ExpertConfig | None:
    """The experts added to the base.

    Args:
      source: gives the adapter and its settings.
      shape: of the base.
    Returns: their settings; None where every weight is trained.
    """
    return model.adapter_experts(source.adapter, source.experts, source.lora, shape)


def make_mesh(config: MeshConfig, devices: list[jax.Device]) -> Mesh:
    """The run's mesh over a slice's devices.

    Args:
      config: sizes of the axes; -1 takes what the others leave.
      devices: all of the slice, which need not be attached.
    Returns: the mesh.
    Raises: ValueError if the sizes do not multiply to the number of devices.
    """
    return params.make_mesh(config.data, config.fsdp, config.tensor, config.expert, devices=devices)


def compiler_options(topology: Topology) -> dict[str, str] | None:
    """Options for the compiler that makes the executable."""
    return PLAIN_GATHERS if topology.compiled_for == "tpu" else None


def plan_generation(
    source: ModelSource, topology: Topology, mesh: Mesh, *, rows: int, length: int, dtype: str
) -> DecodePlan:
    """Plans generation with the run's model.

    Args:
      rows: sequences at once.
      length: tokens of each, half of them the prompt.
      dtype: of weights and products; quantized kernels stay quantized.
    Returns: what generation needs on one chip.
    """
    shape = shape_of(source)
    quantized = model.held_as(source.base_dtype).quantized
    held = quantized or ("bfloat16" if dtype == "bfloat16" else "float32")
    return make_decode_plan(
        shape,
        model.abstract_model(shape, experts_of(source, shape), held),
        topology,
        mesh,
        rows=rows,
        length=length,
        dtype=dtype,
        compiler_options=compiler_options(topology),
    )


def plan_step(
    source: ModelSource,
    topology: Topology,
    mesh: Mesh,
    *,
    data: DataConfig,
    optimizer: OptimizerConfig,
    step: StepConfig,
    balance: BalanceConfig,
    steps: int | None,
) -> StepPlan:
    """Compiles the train step with abstract weights and reads off what it needs.

    Args:
      source: the model; only its shape is read.
      mesh: over the slice's devices.
      data: gives the batch's shape; no data set is read.
      steps: of the run; None where it lasts data.epochs.
    Returns: memory, operations and traffic of one chip, and times where the chip's figures are published.
    """
    shape = shape_of(source)
    experts = experts_of(source, shape)
    train: params.Train = "all" if experts is None else "experts"
    decoder = model.abstract_model(shape, experts, source.base_dtype if train == "experts" else "float32")
    machinery = run.make_machinery(
        decoder, train, mesh, optimizer, step, balance, steps=steps or ANY_STEPS, seed=source.seed
    )
    arguments = abstract_arguments(decoder, train, machinery, mesh, data)
    lowered = machinery.step_fn.lower(*arguments)  # type: ignore[attr-defined]
    compiled = lowered.compile(compiler_options=compiler_options(topology))
    tokens = data.batch_size * data.length
    flops = step_flops(shape, experts, train, data.batch_size, data.length, step.remat)
    sent = collectives.sent_bytes(compiled.as_text(), mesh.size)
    memory = memory_by_kind(arguments, compiled.memory_analysis())
    seconds = mfu = None
    if topology.chip is not None:
        seconds = expected_seconds(topology, flops, memory, sent, mesh.size, step)
        mfu = utilisation(topology, flops, seconds, mesh.size)
    available = None if topology.chip is None else topology.chip.memory_bytes
    return StepPlan(
        topology.text, mesh.size, dict(mesh.shape), memory, available, flops, sent, seconds, mfu, tokens
    )


def abstract_arguments(
    decoder: Decoder, train: params.Train, machinery: run.Machinery, mesh: Mesh, data: DataConfig
) -> tuple[TrainState, params.Params, Batch, jax.ShapeDtypeStruct]:
    """The step's arguments as shapes with shardings.

    Args:
      decoder: abstract.
      train: which part of the weights is trained.
      machinery: gives the optimizer and the shardings of the state.
      data: gives the batch's shape.
    Returns: state, frozen weights, batch (tokens [data.batch_size, data.length]) and step number (int32 []).
    """
    params.check_expert_axis(decoder.config, mesh)
    parts = params.split(decoder, train)
    _, frozen_shardings = params.shardings(decoder, mesh, train)
    optimizer_state = jax.eval_shape(machinery.optimizer.init, parts.trainable)
    routing = telemetry.zeros(layer_experts(decoder))
    state = TrainState(parts.trainable, optimizer_state, routing, np.int32(0))

    def placed(tree: PyTree, shardings: PyTree) -> PyTree:
        return jax.tree.map(
            lambda a, s: jax.ShapeDtypeStruct(np.shape(a), a.dtype, sharding=s), tree, shardings
        )

    rows, length = data.batch_size, data.length
    segments = data.max_segments if data.packing == "first_fit" else 1
    batch = Batch(
        tokens=np.zeros((rows, length), np.int32),
        loss_mask=np.zeros((rows, length), np.float32),
        segment_ids=np.zeros((rows, length), np.int32),
        positions=np.zeros((rows, length), np.int32),
        task_types=np.full((rows, segments), NO_TASK, np.int32),
    )
    by_rows = params.batch_sharding(mesh)
    return (
        TrainState(*(placed(a, s) for a, s in zip(state, machinery.shardings, strict=True))),
        placed(parts.frozen, frozen_shardings),
        jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=by_rows), batch),
        jax.ShapeDtypeStruct((), np.int32, sharding=params.replicated(mesh)),
    )


def memory_by_kind(
    arguments: tuple[TrainState, params.Params, Batch, jax.ShapeDtypeStruct],
    analysis: Any,  # "some simple data structure", says JAX: the compiler's own
) -> dict[str, int]:
    """Bytes on one chip: arguments by their shards, the rest as the compiler says.

    Args:
      arguments: from `abstract_arguments`.
      analysis: from `memory_analysis()` of the compiled step.
    Returns: bytes of base, trainable, optimizer, batch, temporaries and program.
    """

    def shard_bytes(tree: PyTree) -> int:
        return sum(
            int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(tree)
        )

    state, frozen, batch, _ = arguments
    return {
        "base": shard_bytes(frozen),
        "trainable": shard_bytes(state.trainable),
        "optimizer": shard_bytes(state.optimizer),
        "batch": shard_bytes(batch),
        "temporaries": int(analysis.temp_size_in_bytes),
        "program": int(analysis.generated_code_size_in_bytes),
    }


def expected_seconds(
    topology: Topology,
    flops: Flops,
    memory: dict[str, int],
    sent: dict[str, float],
    devices: int,
    step: StepConfig,
) -> dict[str, float]:
    """Each of the three limits alone, at the published peak.

    Memory traffic counts each micro-batch's reads of the weights (gathered ones too) in the forward, the
    recomputed and the backward pass, the optimizer's reads and writes, and temporaries written and read once.

    Args:
      memory: bytes on a chip, by kind. sent: bytes that a chip sends, by collective.
      devices: chips that share the step.
    Returns: seconds of compute, memory traffic and communication.
    """
    chip = topology.chip
    assert chip is not None
    passes = 3 if step.remat == "full" else 2
    gathered = sent.get("all-gather", 0.0)
    weights = memory["base"] + memory["trainable"]
    traffic = passes * step.accumulate * weights + 2 * gathered
    traffic += 2 * (memory["optimizer"] + memory["trainable"] + memory["temporaries"])
    return {
        "compute": (flops.model + flops.recomputed) / devices / chip.peak_flops,
        "memory": traffic / chip.memory_bandwidth,
        "communication": sum(sent.values()) / chip.link_bandwidth,
    }


def utilisation(
    topology: Topology, flops: Flops, seconds: dict[str, float], devices: int
) -> tuple[float, float]:
    """Model FLOPs utilisation (MFU): model operations at the chip's peak, as a share of the step's time.

    Args:
      topology: of a chip whose peak is published.
      flops: of the step on all devices together.
      seconds: from `expected_seconds`.
    Returns: MFU if compute, memory traffic and communication overlap perfectly, and if they do not at all.
    """
    assert topology.chip is not None
    ideal = flops.model / devices / topology.chip.peak_flops
    return ideal / max(seconds.values()), ideal / sum(seconds.values())


def table(plan: StepPlan, title: str) -> Table:
    """The plan as a table of one chip's share.

    Args:
      plan: from `plan_step`.
      title: above the table.
    Returns: a table for rich's console: memory, traffic, operations, and expected times where they are known.
    """
    out = Table(title=title, show_header=False)
    axes = " x ".join(f"{name} {size}" for name, size in plan.mesh.items())
    out.add_row("mesh", f"{axes} ({plan.devices} devices)")
    for kind, size in plan.memory.items():
        out.add_row(f"memory: {kind}", f"{size / MIB:,.1f} MiB")
    total = f"{plan.needed / GIB:.2f} GiB"
    out.add_row(
        "memory: all", total if plan.available is None else f"{total} of {plan.available / GIB:.0f} GiB"
    )
    out.add_row("step", f"{plan.tokens:,} tokens, {plan.flops.model / 1e12:,.2f} TFLOP")
    out.add_row("recomputed", f"{plan.flops.recomputed / 1e12:,.2f} TFLOP")
    for kind, size in plan.sent.items():
        out.add_row(f"sent: {kind}", f"{size / MIB:,.1f} MiB")
    if plan.seconds is not None and plan.mfu is not None:
        for kind, time_s in plan.seconds.items():
            out.add_row(f"time at peak: {kind}", f"{time_s * 1e3:,.1f} ms")
        fast, slow = max(plan.seconds.values()), sum(plan.seconds.values())
        out.add_row(
            "expected step", f"{fast * 1e3:,.0f} ms (all overlaps) to {slow * 1e3:,.0f} ms (nothing does)"
        )
        out.add_row("tokens/s", f"{plan.tokens / slow:,.0f} to {plan.tokens / fast:,.0f}")
        out.add_row("MFU", f"{plan.mfu[1]:.0%} to {plan.mfu[0]:.0%} at the published peak")
    return out


def advice(plan: StepPlan, source: ModelSource, data: DataConfig, step: StepConfig) -> list[str]:
    """What to change if the step does not fit, in the order to try it.

    Args:
      plan: from `plan_step`, of these settings.
    Returns: lines for the user; a single one if the step fits, or the chip's memory is not known.
    """
    if plan.available is None:
        return ["CPUs have no published figures: memory is that of the CPU's executable."]
    if plan.needed <= plan.available:
        return [f"fits: {(plan.available - plan.needed) / GIB:.1f} GiB a chip are left"]
    out = [f"does not fit: {(plan.needed - plan.available) / GIB:.1f} GiB a chip too much. In this order:"]
    largest = max(plan.memory, key=lambda kind: plan.memory[kind])
    if largest == "temporaries":
        if step.remat != "full":
            out.append("  step.remat=full (activations are recomputed)")
        if data.batch_size > plan.devices // plan.mesh["tensor"] * step.accumulate:
            out.append(f"  step.accumulate={step.accumulate * 2} (the same batch in smaller parts)")
        out.append(f"  data.length={data.length // 2}")
    else:
        if plan.mesh["data"] > 1:
            out.append("  mesh.data=1 mesh.fsdp=-1 (every chip holds a share of every weight)")
        if source.adapter != "none":
            smaller = SMALLER_BASE[source.base_dtype]
            out += [f"  base_dtype={name} ({what})" for name, what in smaller.items()]
        if source.base is not None and source.adapter == "none":
            out.append("  adapter=loramoe (no optimizer state for the base)")
    out.append("  more chips")
    return out
