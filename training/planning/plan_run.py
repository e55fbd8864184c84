"""The plan of a config: its train step, and generation with its model, as tables and as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from training.planning import chips
from training.planning.chips import Topology
from training.planning.plan_decode import decode_table
from training.planning.plan_step import StepPlan, advice, make_mesh, plan_generation, plan_step, table
from training.ppo.config import PPORunConfig
from training.runtime import config as configs
from training.runtime import run_folder, shipped
from training.supervised.config import PretrainConfig, SftConfig

if TYPE_CHECKING:
    import jax

SCHEMAS = {"pretrain": PretrainConfig, "sft": SftConfig}
PLANNED = (*SCHEMAS, "ppo")


def plan_run(
    name: str | Path,
    overrides: Sequence[str],
    topology_text: str,
    save: Path | None = None,
    *,
    decode: bool = True,
    command: str | None = None,
) -> StepPlan | None:
    """Plans a run and prints what it found.

    For a PPO run generation is planned, which takes most of its time; its learning step is not.

    Args:
      name: of a shipped config, YAML file or run folder.
      overrides: key=value.
      topology_text: as training.planning.chips.parse reads it.
      save: file for the plan as JSON; None writes none.
      decode: plan generation with the run's model too.
      command: which the config is for; None infers it.
    Returns: the plan of the train step; None for PPO.
    Raises: ValueError for an invalid config, command or topology.
    """
    topology = chips.parse(topology_text)
    devices = chips.devices(topology)
    console = Console(markup=False, emoji=False)
    chosen, reason = command_for(name, overrides, command)
    if reason:
        console.print(f"planned as {chosen}: {reason} (--command says otherwise)", highlight=False)
    if chosen == "ppo":
        _plan_rollouts(name, overrides, topology, devices, save)
        return None
    config = configs.load(SCHEMAS[chosen], name, overrides)
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
    console.print(table(plan, f"{name} on {topology.text}"))
    for line in advice(plan, config.source, config.data, config.step):
        console.print(line, markup=False, highlight=False)
    found = plan._asdict() | {"flops": plan.flops._asdict(), "needed": plan.needed}
    found |= {"command": chosen, "config": configs.to_dict(config)}
    if decode:
        generation = plan_generation(
            config.source,
            topology,
            mesh,
            rows=config.data.batch_size,
            length=config.data.length,
            dtype=config.step.precision,
        )
        console.print(decode_table(generation, f"generation with {name} on {topology.text}"))
        found["decode"] = generation._asdict() | {"needed": generation.needed}
    if save is not None:
        save.parent.mkdir(parents=True, exist_ok=True)
        save.write_text(json.dumps(found, indent=2) + "\n")
    return plan


def _plan_rollouts(
    name: str | Path,
    overrides: Sequence[str],
    topology: Topology,
    devices: "list[jax.Device]",
    save: Path | None,
) -> None:
    """The rollouts of a PPO run: one row per sample, its prompt and response at their longest."""
    config = configs.load(PPORunConfig, name, overrides)
    generation = plan_generation(
        config.source,
        topology,
        make_mesh(config.mesh, devices),
        rows=config.rollout.prompts * config.rollout.samples,
        length=config.rollout.prompt_tokens + config.rollout.response_tokens,
        dtype=config.forward.precision,
    )
    console = Console(markup=False, emoji=False)
    console.print(decode_table(generation, f"rollouts of {name} on {topology.text}"))
    console.print("of a PPO run the rollouts are planned; the learning step is not", highlight=False)
    if save is not None:
        found = {"command": "ppo", "config": configs.to_dict(config)}
        found["decode"] = generation._asdict() | {"needed": generation.needed}
        save.parent.mkdir(parents=True, exist_ok=True)
        save.write_text(json.dumps(found, indent=2) + "\n")


def command_for(
    name: str | Path, overrides: Sequence[str], wanted: str | None = None
) -> tuple[str, str | None]:
    """The command that a config is for, and why, where neither the user nor a run folder says so.

    A run folder records it, and shipped configs are in folders of that name. Otherwise the keys tell:
    fine-tuning names an adapter or a base.

    Args:
      name: YAML file, run folder or name of a shipped config.
      overrides: `key=value`; their keys count as the config's.
      wanted: what the user asked for; takes precedence.
    Returns: pretrain, sft or ppo, and the reason if it was guessed from the keys, else None.
    Raises: ValueError if `wanted` is no command that can be planned, or there is no such config.
    """
    if wanted is not None:
        if wanted not in PLANNED:
            raise ValueError(f"--command must be one of {', '.join(PLANNED)}; got {wanted!r}")
        return wanted, None
    path = shipped.find(name)
    if (path.parent / "run.json").is_file():
        return run_folder.command_of(path.parent), None
    if (folder := path.parent.name) in PLANNED:
        return folder, None
    keys = configs.read(path).keys() | {override.partition("=")[0] for override in overrides}
    if "rounds" in keys:
        return "ppo", "the config has the key rounds"
    named = [key for key in ("adapter", "base") if key in keys]
    if named:
        return "sft", f"the config has the key {named[0]}"
    return "pretrain", "the config has neither base nor adapter"
