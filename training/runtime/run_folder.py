"""The folder of a run: whose it is, what is in it, and how processes take turns with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
from jax.experimental import multihost_utils

from jaxmoe.language_model import LanguageModel
from training.runtime import checkpoint, distributed
from training.runtime import config as configs

# Settings that may change from one part of a run to the next: they do not change what is computed.
FREE = ("output", "resume", "mesh.", "distributed.", "checkpoint.", "watch.", "valid_every", "data.prefetch")


FREE += ("data.valid", "data.data_dir", "step.remat", "step.scan_layers", "step.loss_chunk", "export")


FREE += ("evaluation.", "sandbox.workers", "step.most_targets")


# What a run puts into its folder.
OURS = {
    "config.yaml",
    "tokenizer",
    "checkpoints",
    "metrics.jsonl",
    "routing.jsonl",
    "samples.jsonl",
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


def open_folder(config: Any) -> Path:
    """The run folder of a config with `output` and `resume`; nothing is written yet.

    Raises: ValueError if it holds another run, or something else.
    """
    folder = Path(config.output)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output must be a folder; {folder} is a file")
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if foreign := sorted(present - OURS):
        raise ValueError(f"{folder} holds {foreign[0]}, which is of no run; choose another output=...")
    if begun(folder):
        if config.resume == "never":
            raise ValueError(
                f"{folder} holds a run already; choose another output=..., or go on with it by resume=same"
            )
        if config.resume == "same":
            found = configs.differences(_saved_config(folder, type(config)), configs.to_dict(config))
            found = {key: pair for key, pair in found.items() if not key.startswith(FREE)}
            checkpoint.refuse_another_run(folder, found)
    barrier("folder")
    return folder


def _saved_config(folder: Path, schema: type[Any]) -> dict[str, Any]:
    """The folder's config as plain values; keys that are newer than the run have their defaults."""
    values = configs.read(folder / "config.yaml")
    try:
        return configs.to_dict(configs.parse(schema, values))
    except ValueError:  # of another command: the differences will tell
        return values


def begun(folder: Path) -> bool:
    """Whether the folder has a checkpoint to go on from."""
    saved = folder / "checkpoints"
    return saved.is_dir() and any(path.name.isdigit() for path in saved.iterdir())


def barrier(name: str) -> None:
    """Waits for every process."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


Made = TypeVar("Made")


def main_first(name: str, make: Callable[[], Made]) -> Made:
    """Lets process 0 make something (and leave files) before the others make it (and find them)."""
    if not distributed.is_main():
        barrier(name)
    made = make()
    if distributed.is_main():
        barrier(name)
    return made


def claim(config: Any, folder: Path) -> None:
    """Makes the folder this run's, once nothing can go wrong any more with what the user gave."""
    if distributed.is_main():
        with checkpoint.disk_full_explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            configs.save(config, folder / "config.yaml")
    barrier("claimed")
