"""A stage of a demo: a command with a shipped config, whose folders and length the demo sets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from training.ppo.config import PPORunConfig
from training.runtime import config as configs
from training.runtime.run_folder import Finished


class Stage(NamedTuple):
    """A command and the class of its config, which its `main` takes."""

    schema: type
    main: Callable[[Any], Finished]  # each takes a config of its own class


def run_stage(
    stage: Stage, name: str, output: Path, stages: str, steps_scale: float, base: str | None
) -> Finished:
    """Runs a stage, or finds it finished.

    Args:
      stage: the command.
      name: of its config, and of its folder in the demo's folder.
      output: folder of the demo.
      stages: folder with a config for each stage, or the name of a shipped one.
      steps_scale: share of the steps to do, in (0, 1].
      base: what it starts from; None for a new model.
    Returns: the stage's model; `finished` is False if it was told to stop.
    """
    path = f"{stages}/{name}"
    steps = "rounds" if stage.schema is PPORunConfig else "steps"
    count = getattr(configs.load(stage.schema, path), steps)
    overrides = [f"output={output}/{name}", f"{steps}={max(1, round(count * steps_scale))}"]
    overrides += [f"base={base}"] if base is not None else []
    return stage.main(configs.load(stage.schema, path, overrides))
