"""Compile a run's step for a slice that need not be attached; report memory, traffic, time and MFU. Or plan a
server: slots that fit and tokens per second."""

from pathlib import Path
from typing import Annotated

import typer

from jaxmoe.given_paths import check_writable


def command(
    topology: Annotated[
        str, typer.Option(help="v5e:4x4 (TPU slice; or v4, v5p, v6e), h100:8 (GPUs; or a100, h200), cpu:8.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Override keys of the file.")
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_FILE",
            help="Shipped config, YAML file or folder of a run; a server needs none.",
            show_default=False,
        ),
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Also write the plan as JSON.")] = None,
    decode: Annotated[bool, typer.Option(help="Also plan generation with the run's model.")] = True,
    kind: Annotated[
        str | None,
        typer.Option(
            "--command",
            help="serve; or pretrain, sft or ppo if the config does not tell.",
        ),
    ] = None,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error arose.")] = False,
) -> None:
    """Memory is the executable's own; times assume the chip's published peaks.

    Args: described by their annotations, which --help shows.
    Raises: ValueError, as `plan_run` and `plan_server` do; it becomes one line on the terminal.
    """
    from training.planning import plan_run, plan_serve
    from training.runtime.config import check_file

    check_file(config, overrides or [])
    if save is not None:
        check_writable("--save", save, "file")
    if kind == "serve":
        plan_serve.plan_server(overrides or [], topology, config, save)
        return
    if config is None:
        raise ValueError("--config names what is planned; only --command serve does without")
    plan_run.plan_run(config, overrides or [], topology, save, decode=decode, command=kind)
