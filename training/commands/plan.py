"""Compile a run's step for a slice that need not be there; tell memory, traffic, time and MFU."""

import json
from pathlib import Path

from rich.console import Console

from training.planning import chips
from training.planning.plan_decode import decode_table
from training.planning.plan_step import StepPlan, advice, make_mesh, plan_generation, plan_step, table
from training.runtime import config as configs
from training.supervised.config import PretrainConfig, SftConfig


def main(
    path: Path, overrides: list[str], topology_text: str, save: Path | None = None, *, decode: bool = True
) -> StepPlan:
    """Plans the run of a config file, and generation with its model, and prints both; `save` writes JSON."""
    topology = chips.parse(topology_text)
    devices = chips.devices(topology)
    config = configs.load(schema_of(path, overrides), path, overrides)
    mesh = make_mesh(config.mesh, devices)
    plan = plan_step(
        config.source,
        topology,
        mesh,
        data=config.data,
        optimizer=config.optimizer,
        step=config.step,
        balance=config.balance,
        steps=config.steps,
    )
    console = Console()
    console.print(table(plan, f"{path} on {topology.text}"))
    for line in advice(plan, config.source, config.data, config.step):
        console.print(line, markup=False, highlight=False)
    found = plan._asdict() | {"flops": plan.flops._asdict(), "needed": plan.needed}
    found["config"] = configs.to_dict(config)
    if decode:
        generation = plan_generation(
            config.source,
            topology,
            mesh,
            rows=config.data.batch_size,
            length=config.data.length,
            dtype=config.step.precision,
        )
        console.print(decode_table(generation, f"generation with {path} on {topology.text}"))
        found["decode"] = generation._asdict() | {"needed": generation.needed}
    if save is not None:
        save.parent.mkdir(parents=True, exist_ok=True)
        save.write_text(json.dumps(found, indent=2) + "\n")
    return plan


def schema_of(path: Path, overrides: list[str]) -> type[PretrainConfig] | type[SftConfig]:
    """The kind of run that a config file is for: fine-tuning if it names an adapter or a base."""
    keys = configs.read(path).keys() | {override.partition("=")[0] for override in overrides}
    return SftConfig if {"adapter", "base"} & keys else PretrainConfig
