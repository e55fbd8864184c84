"""Compiles the real step for a slice that need not be there, and says what it would need.

The step, its shardings and its weights' shapes are the run's own; only the weights are abstract.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxmoe.base_folder import local_folder
from jaxmoe.language_model import layer_experts
from jaxmoe.model import params
from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.config import ModelConfig
from jaxmoe.model.transformer import Decoder
from training.data.batches import NO_TASK, Batch
from training.planning import chips, collectives
from training.planning.chips import GIB, Topology
from training.planning.flops import Flops, step_flops
from training.planning.plan_decode import DecodePlan, decode_table, make_decode_plan
from training.runtime import config as configs
from training.runtime import model
from training.supervised import telemetry
from training.supervised import train as run
from training.supervised.pretrain import PretrainConfig
from training.supervised.sft import SftConfig

MIB = 1 << 20
# Gathers in one piece, so that their bytes can be read off. Split into windows around a product (what the TPU
# compiler prefers) they send as much and need less memory, so the plan errs on the safe side.
PLAIN_GATHERS = {
    "xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000",
    "xla_tpu_enable_async_collective_fusion": "false",
}


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


def main(
    path: Path, overrides: list[str], topology_text: str, save: Path | None = None, *, decode: bool = True
) -> StepPlan:
    """Plans the run of a config file, and generation with its model, and prints both; `save` writes JSON."""
    topology = chips.parse(topology_text)
    devices = chips.devices(topology)
    config = read(path, overrides)
    plan = make_plan(config, topology, devices)
    console = Console()
    console.print(table(plan, f"{path} on {topology.text}"))
    for line in advice(plan, config):
        console.print(line, markup=False, highlight=False)
    found = to_json(plan, config)
    if decode:
        generation = plan_decoding(config, topology, devices)
        console.print(decode_table(generation, f"generation with {path} on {topology.text}"))
        found["decode"] = generation._asdict() | {"needed": generation.needed}
    if save is not None:
        save.parent.mkdir(parents=True, exist_ok=True)
        save.write_text(json.dumps(found, indent=2) + "\n")
    return plan


def plan_decoding(config: SftConfig | PretrainConfig, topology: Topology, devices: list[Any]) -> DecodePlan:
    """Generation with the run's model in the run's precision, a row for each row of its batch."""
    shape = shape_of(config)
    experts = None
    if isinstance(config, SftConfig):
        experts = model.adapter_experts(config.adapter, config.experts, config.lora, shape)
    return make_decode_plan(
        shape,
        model.abstract_model(shape, experts, config.step.precision),
        topology,
        params.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor, devices=devices),
        rows=config.data.batch_size,
        length=config.data.length,
        dtype=config.step.precision,
        compiler_options=PLAIN_GATHERS if topology.compiled_for == "tpu" else None,
    )


def read(path: Path, overrides: list[str]) -> SftConfig | PretrainConfig:
    """The run's config: fine-tuning if it names an adapter or a base, else pretraining."""
    keys = configs.read(path).keys() | {override.partition("=")[0] for override in overrides}
    return configs.load(SftConfig if {"adapter", "base"} & keys else PretrainConfig, path, overrides)


def shape_of(config: SftConfig | PretrainConfig) -> ModelConfig:
    """The model's shape: as the config tells it, else from the base's config.json."""
    if config.model is not None:
        return config.model
    return model.read_shape(local_folder(str(config.base)))


def make_plan(config: SftConfig | PretrainConfig, topology: Topology, devices: list[Any]) -> StepPlan:
    """Compiles the train step with abstract weights and reads off what it needs."""
    shape = shape_of(config)
    experts = None
    balance = BalanceConfig(weight=0.0)
    if isinstance(config, SftConfig):
        experts = model.adapter_experts(config.adapter, config.experts, config.lora, shape)
        balance = config.balance
    train: params.Train = "all" if experts is None else "experts"
    mesh = params.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor, devices=devices)
    base_dtype = config.base_dtype if isinstance(config, SftConfig) and train == "experts" else "float32"
    decoder = model.abstract_model(shape, experts, base_dtype)
    steps = config.steps or 1000
    machinery = run.make_machinery(config, decoder, train, mesh, steps, balance)
    arguments = abstract_arguments(config, decoder, train, machinery, mesh)
    lowered = machinery.step_fn.lower(*arguments)  # type: ignore[attr-defined]
    compiled = lowered.compile(compiler_options=PLAIN_GATHERS if topology.compiled_for == "tpu" else None)
    tokens = config.data.batch_size * config.data.length
    flops = step_flops(shape, experts, train, config.data.batch_size, config.data.length, config.step.remat)
    sent = collectives.sent_bytes(compiled.as_text(), len(devices))
    memory = memory_by_kind(arguments, compiled.memory_analysis())
    seconds = mfu = None
    if topology.chip is not None:
        seconds = expected_seconds(topology, flops, memory, sent, len(devices), config)
        mfu = utilisation(topology, flops, seconds, len(devices))
    available = None if topology.chip is None else topology.chip.memory_bytes
    return StepPlan(
        topology.text, len(devices), dict(mesh.shape), memory, available, flops, sent, seconds, mfu, tokens
    )


def abstract_arguments(
    config: SftConfig | PretrainConfig,
    decoder: Decoder,
    train: params.Train,
    machinery: run.Machinery,
    mesh: Any,
) -> tuple[Any, Any, Any, Any]:
    """The step's arguments as shapes with shardings."""
    parts = params.split(decoder, train)
    _, frozen_shardings = params.shardings(decoder, mesh, train)
    moments = jax.eval_shape(machinery.optimizer.init, parts.trainable)
    routing = telemetry.zeros(layer_experts(decoder))
    state = (parts.trainable, moments, routing, np.int32(0))

    def placed(tree: Any, shardings: Any) -> Any:
        return jax.tree.map(
            lambda a, s: jax.ShapeDtypeStruct(np.shape(a), a.dtype, sharding=s), tree, shardings
        )

    rows, length = config.data.batch_size, config.data.length
    segments = config.data.max_segments if config.data.packing == "first_fit" else 1
    batch = Batch(
        tokens=np.zeros((rows, length), np.int32),
        loss_mask=np.zeros((rows, length), np.float32),
        segment_ids=np.zeros((rows, length), np.int32),
        positions=np.zeros((rows, length), np.int32),
        task_types=np.full((rows, segments), NO_TASK, np.int32),
    )
    by_rows = params.batch_sharding(mesh)
    return (
        type(machinery.shardings)(*(placed(a, s) for a, s in zip(state, machinery.shardings, strict=True))),
        placed(parts.frozen, frozen_shardings),
        jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=by_rows), batch),
        jax.ShapeDtypeStruct((), np.int32, sharding=params.replicated(mesh)),
    )


def memory_by_kind(arguments: tuple[Any, Any, Any, Any], analysis: Any) -> dict[str, int]:
    """Bytes on one chip: arguments by their shards, the rest as the compiler says."""

    def shard_bytes(tree: Any) -> int:
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
    config: SftConfig | PretrainConfig,
) -> dict[str, float]:
    """Each of the three limits alone, at the published peak.

    Memory traffic counts each micro-batch's reads of the weights (gathered ones too) in the forward, the
    recomputed and the backward pass, the optimizer's reads and writes, and temporaries written and read once.
    """
    chip = topology.chip
    assert chip is not None
    passes = 3 if config.step.remat == "full" else 2
    gathered = sent.get("all-gather", 0.0)
    weights = memory["base"] + memory["trainable"]
    traffic = passes * config.step.accumulate * weights + 2 * gathered
    traffic += 2 * (memory["optimizer"] + memory["trainable"] + memory["temporaries"])
    return {
        "compute": (flops.model + flops.recomputed) / devices / chip.peak_flops,
        "memory": traffic / chip.memory_bandwidth,
        "communication": sum(sent.values()) / chip.link_bandwidth,
    }


def utilisation(
    topology: Topology, flops: Flops, seconds: dict[str, float], devices: int
) -> tuple[float, float]:
    """Model FLOPs utilisation with perfect overlap and with none."""
    assert topology.chip is not None
    ideal = flops.model / devices / topology.chip.peak_flops
    return ideal / max(seconds.values()), ideal / sum(seconds.values())


def table(plan: StepPlan, title: str) -> Table:
    """The plan as a table of one chip's share."""
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


def advice(plan: StepPlan, config: SftConfig | PretrainConfig) -> list[str]:
    """What to change if it does not fit."""
    if plan.available is None:
        return ["CPUs have no published figures: memory is that of the CPU's executable."]
    if plan.needed <= plan.available:
        return [f"fits: {(plan.available - plan.needed) / GIB:.1f} GiB a chip are left"]
    out = [f"does not fit: {(plan.needed - plan.available) / GIB:.1f} GiB a chip too much. In this order:"]
    largest = max(plan.memory, key=lambda kind: plan.memory[kind])
    if largest == "temporaries":
        if config.step.remat != "full":
            out.append("  step.remat=full (activations are computed again)")
        if config.data.batch_size > plan.devices // plan.mesh["tensor"] * config.step.accumulate:
            out.append(f"  step.accumulate={config.step.accumulate * 2} (the same batch in smaller parts)")
        out.append(f"  data.length={config.data.length // 2}")
    else:
        if plan.mesh["data"] > 1:
            out.append("  mesh.data=1 mesh.fsdp=-1 (every chip holds a share of every weight)")
        if isinstance(config, SftConfig) and config.base_dtype == "float32" and config.adapter != "none":
            out.append("  base_dtype=bfloat16 (half the memory for the frozen base)")
        if isinstance(config, SftConfig) and config.adapter == "none":
            out.append("  adapter=loramoe (no optimizer state for the base)")
    out.append("  more chips")
    return out


def to_json(plan: StepPlan, config: Any) -> dict[str, Any]:
    """The plan for a file."""
    out = plan._asdict()
    out["flops"] = plan.flops._asdict()
    out["needed"] = plan.needed
    out["config"] = dataclasses.asdict(config)
    return out
