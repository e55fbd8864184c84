"""The folder of a run: whose it is, what is in it, and how processes take turns with it.

    RUN/run.json         the command that made it, and the version of this library
    RUN/config.yaml      the resolved config of that command
    RUN/checkpoints/     see training.runtime.checkpoint
    RUN/metrics.jsonl ...
    RUN/.lock            held while a process works in the folder

A folder is locked from `open_run` to the end of the run, and belongs to the run once it is claimed. Until
then none of the user's input is known to be right, and none of it is written.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxmoe.given_paths import check_writable
from jaxmoe.json_values import JsonObject
from jaxmoe.language_model import LanguageModel
from training.runtime import checkpoint, distributed
from training.runtime import config as configs
from training.runtime.atomic import write_whole
from training.runtime.lock import folder_lock
from training.runtime.version import version

# Settings that may change from one part of a run to the next: they do not change what is computed.
FREE = (
    "output",
    "resume",
    "mesh.",
    "distributed.",
    "checkpoint.",
    "watch.",
    "valid_every",
    "data.prefetch",
    "data.valid",
    "data.data_dir",
    "step.remat",
    "step.scan_layers",
    "step.loss_chunk",
    "step.most_targets",
    "forward.remat",
    "forward.scan_layers",
    "forward.loss_chunk",
    "export",
    "evaluation.",
    "sandbox.hosts",
    "sandbox.workers",
)
# What a run, and the commands that read one, put into its folder.
OURS = {
    "run.json",
    "config.yaml",
    "tokenizer",
    "checkpoints",
    "checksums",
    "damaged",
    "metrics.jsonl",
    "routing.jsonl",
    "samples.jsonl",
    "samples.html",
    "tracking.json",
    "wandb",
    "mlflow.db",
    "time_limits.json",
    "tensorboard",
    "plots",
    "export",
}


class Finished(NamedTuple):
    """What a run leaves: the model as trained so far, and whether all steps were done."""

    lm: LanguageModel
    step: int
    finished: bool
    folder: Path


class RunSettings(Protocol):
    """What the run folder needs from a run's config; any dataclass with these keys."""

    __dataclass_fields__: ClassVar[dict[str, Any]]  # dataclasses' own annotation

    @property
    def output(self) -> str: ...

    @property
    def resume(self) -> Literal["same", "changed", "never"]: ...


@dataclass(frozen=True)
class RunFolder:
    """A run's folder while the run holds it.

    Attributes:
      settings: the resolved config as plain values.
      changed: resume even though settings or data differ from those of the run in the folder.
    """

    path: Path
    command: str
    settings: JsonObject
    changed: bool

    def claim(self) -> None:
        """Claims the folder for this run, once nothing can go wrong any more with the user's input."""
        if distributed.is_main():
            record = {"command": self.command, "jaxmoe": version()}
            write_whole(self.path / "run.json", json.dumps(record, indent=2) + "\n")
            configs.save(self.settings, self.path / "config.yaml")
        barrier("claimed")


@contextmanager
def open_run(command: str, config: RunSettings) -> Iterator[RunFolder]:
    """The run folder of a config, locked while the block runs; nothing of the run is written yet.

    A full disk ends the block with a DiskFullError.

    Args:
      command: name of the command, which the folder records when it is claimed.
      config: its `output` is the folder; its `resume` says which run may be there already.
    Returns: a context manager that gives the run folder.
    Raises: ValueError if another process works in the folder, or it holds another run or something else.
    """
    folder = Path(config.output)
    check_writable("output", folder, "folder")
    with _held(folder):
        _check_content(folder)
        if begun(folder):
            _check_run(folder, command, config)
        barrier("folder")
        settings = configs.to_dict(config)
        with checkpoint.disk_full_explained(folder):
            yield RunFolder(folder, command, settings, config.resume == "changed")


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Process 0 locks the folder for all of them."""
    if not distributed.is_main():
        if not _told(True):
            raise ValueError(f"process 0 cannot work in {folder}; its own message says why")
        yield
        return
    with ExitStack() as stack:
        try:
            with checkpoint.disk_full_explained(folder):
                stack.enter_context(folder_lock(folder))
        except (ValueError, OSError):
            _told(False)
            raise
        _told(True)
        yield


def _told(well: bool) -> bool:
    """What process 0 says, on every process."""
    if jax.process_count() == 1:
        return well
    return bool(multihost_utils.broadcast_one_to_all(np.bool_(well)))


def _check_content(folder: Path) -> None:
    """Raises ValueError if the folder holds anything that no run has put there."""
    if foreign := sorted(path.name for path in folder.iterdir() if not _is_ours(path.name)):
        raise ValueError(f"{folder} holds {foreign[0]}, which is of no run; choose another output=...")


def _is_ours(name: str) -> bool:
    """True also for what killed processes and file systems leave: .export.k3fz, .nfs0000,
    config.yaml.part."""
    return name in OURS or name.startswith((".", "export-")) or name.endswith(".part")


def _check_run(folder: Path, command: str, config: RunSettings) -> None:
    """Raises ValueError if a run in the folder is not to be resumed, or not with these settings."""
    if config.resume == "never":
        raise ValueError(
            f"{folder} holds a run already; choose another output=..., or resume it by resume=same"
        )
    if config.resume == "same":
        found = configs.differences(_saved_config(folder, type(config)), configs.to_dict(config))
        found = {key: pair for key, pair in found.items() if not key.startswith(FREE)}
        before = command_of(folder)
        if before != command:
            found = {"the command": (before, command)}
        checkpoint.refuse_another_run(folder, found)


def command_of(folder: Path) -> str:
    """The command that made a run folder, as the folder records it.

    Raises: ValueError if the folder holds no run.
    """
    path = folder / "run.json"
    if not (folder / "config.yaml").is_file() or not path.is_file():
        raise ValueError(f"{folder} is no run folder: it needs run.json, config.yaml and checkpoints/")
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["command"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path} must say which command made the run, as in {{"command": "sft"}}; got {error!r}'
        ) from error


def _saved_config(folder: Path, schema: type[RunSettings]) -> JsonObject:
    """The folder's config as plain values; keys newer than the run have their defaults."""
    values = configs.read(folder / "config.yaml")
    try:
        return configs.to_dict(configs.parse(schema, values))
    except ValueError:  # of another command or version: the differences will tell
        return values


def begun(folder: Path) -> bool:
    """Whether the folder has a checkpoint to resume from."""
    saved = folder / "checkpoints"
    return saved.is_dir() and any(path.name.isdigit() for path in saved.iterdir())


def barrier(name: str) -> None:
    """Waits for every process."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


Made = TypeVar("Made")


def main_first(name: str, make: Callable[[], Made]) -> Made:
    """Lets process 0 make something (and leave files) before the others make it (and find them).

    Args:
      name: of the barrier, the same on every process.
      make: called once on each process.
    Returns: what `make` returned on this process.
    """
    if not distributed.is_main():
        barrier(name)
    made = make()
    if distributed.is_main():
        barrier(name)
    return made
