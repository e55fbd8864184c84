"""Checkpoints of a run: saved in the background as separate items, found after a kill, restored on any mesh.

    RUN/checkpoints/{step}/trainable   the trained weights
                          /optimizer   optimizer state, counters, telemetry sums
                          /data        position in the data, JSON
                          /meta        step, seed, resolved config, fingerprint of the base, JSON

The frozen base is not saved: `meta` names it. Step numbers count finished steps. Every file has a checksum
(training.runtime.checksums); a damaged checkpoint is set aside, and the one before it is taken.
"""

import errno
import hashlib
import logging
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import args as ocp_args

from jaxmoe.json_values import JsonObject
from jaxmoe.model.shapes import PyTree
from jaxmoe.weights.gguf_folder import file_behind, file_fingerprint
from training.runtime import checksums

# A full disk, a used-up quota, a limit on file size.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Orbax both logs the tracebacks of a failed save and raises its error: the error is enough.
_RAISED_TOO = ("Save Finalize thread", "_SignalingThread.run()")


@dataclass(frozen=True)
class CheckpointConfig:
    """When to save.

    Attributes:
      every: steps between two checkpoints; the last step and a stopped run are saved too.
      keep: how many of the newest checkpoints to keep.
    """

    every: int = 500
    keep: int = 2

    def __post_init__(self) -> None:
        for name in ("every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"checkpoint.{name} must be at least 1; got {getattr(self, name)}")


class Saved(NamedTuple):
    """What one checkpoint holds."""

    trainable: PyTree
    optimizer: PyTree
    data: JsonObject
    meta: JsonObject


class DiskFullError(ValueError):
    """Nothing more can be written; what was saved before is intact."""


class Checkpoints:
    """The checkpoints of one run folder.

    Args:
      folder: RUN/checkpoints.
      keep: how many of the newest checkpoints to keep.
      read_only: leave everything as it is, even damaged checkpoints.
    Raises: ValueError if there are checkpoints but none is whole.
    """

    def __init__(self, folder: Path, keep: int = 2, *, read_only: bool = False):
        quiet_late_callbacks()
        self.folder, self._read_only = folder, read_only
        self._damaged = _find_damaged(folder.parent, move=not read_only)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            create=not read_only,
            cleanup_tmp_directories=not read_only,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._complete),
        )
        with disk_full_explained(folder):
            self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def latest(self) -> int | None:
        """Step of the newest checkpoint that was fully written and is whole."""
        return max(self.steps(), default=None)

    def _complete(self) -> None:
        """Runs in Orbax's thread, when a checkpoint is complete except for its name."""
        if jax.process_index() == 0:
            checksums.write_pending(self.folder.parent)

    def steps(self) -> list[int]:
        """Steps of all checkpoints but those found damaged, oldest first."""
        return sorted(set(self._manager.all_steps()) - set(self._damaged))

    def save(self, step: int, saved: Saved) -> None:
        """Copies the state from the devices and writes it in the background; a step saved before is left as
        it is.

        Args:
          step: number under which the checkpoint is kept; for PPO, the round.
          saved: arrays on the mesh, and plain JSON.
        Raises: DiskFullError, usually before anything is written, if the disk has too little room.
        """
        if step in self._manager.all_steps():
            return
        self._check_room(saved)
        self._complete_sums()
        items = ocp_args.Composite(
            trainable=ocp_args.StandardSave(saved.trainable),
            optimizer=ocp_args.StandardSave(saved.optimizer),
            data=ocp_args.JsonSave(saved.data),
            meta=ocp_args.JsonSave(saved.meta),
        )
        with disk_full_explained(self.folder):
            self._manager.save(step, args=items, force=True)

    def _check_room(self, saved: Saved) -> None:
        """Refuses to begin what cannot be finished; a write that fails halfway is noisy."""
        arrays = jax.tree.leaves((saved.trainable, saved.optimizer))
        needed = sum(array.nbytes for array in arrays) // jax.process_count()
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise DiskFullError(
                f"{_full(self.folder)} (a checkpoint takes {needed:,} bytes, {free:,} are free)"
            )

    def meta(self, step: int) -> JsonObject:
        """The `meta` item alone: cheap, and independent of the model."""
        return self._manager.restore(step, args=ocp_args.Composite(meta=ocp_args.JsonRestore()))["meta"]

    def trainable(self, step: int, like: PyTree) -> PyTree:
        """The trained weights of a checkpoint alone, without the optimizer state.

        Args:
          step: one of `steps()`.
          like: ShapeDtypeStructs with shardings, as from `structure`.
        Returns: the weights, placed as `like` says.
        Raises: ValueError if the checkpoint holds other weights.
        """
        self._check_fits(step, "trainable", like)
        items = ocp_args.Composite(trainable=ocp_args.StandardRestore(like))
        return self._manager.restore(step, args=items)["trainable"]

    def restore(self, step: int, trainable: PyTree, optimizer: PyTree) -> Saved:
        """Reads a whole checkpoint onto this run's mesh, whatever mesh saved it.

        Args:
          step: one of `steps()`.
          trainable, optimizer: ShapeDtypeStructs with shardings, as from `structure`.
        Returns: what was saved, its arrays placed as these shardings say.
        Raises: ValueError if the checkpoint holds other weights, or those of another optimizer.
        """
        self._check_fits(step, "trainable", trainable)
        self._check_fits(step, "optimizer", optimizer)
        items = ocp_args.Composite(
            trainable=ocp_args.StandardRestore(trainable),
            optimizer=ocp_args.StandardRestore(optimizer),
            data=ocp_args.JsonRestore(),
            meta=ocp_args.JsonRestore(),
        )
        restored = self._manager.restore(step, args=items)
        return Saved(*(restored[name] for name in Saved._fields))

    def _check_fits(self, step: int, item: str, like: PyTree) -> None:
        """Refuses to restore arrays of other shapes, which Orbax begins to do, and then leaves undone."""
        place = self.folder.absolute() / str(step) / item
        # annotated as a class of paths of its own
        tree = ocp.StandardCheckpointHandler().metadata(place).tree  # type: ignore[arg-type]
        found = {leaf.name: tuple(leaf.shape) for leaf in jax.tree.leaves(tree) if hasattr(leaf, "shape")}
        wanted = {
            jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape)
            for path, leaf in jax.tree_util.tree_flatten_with_path(like)[0]
        }
        differ = [name for name in wanted if found.get(name, wanted[name]) != wanted[name]]
        if differ:
            name = differ[0]
            why = f"{item} {name} has shape {found[name]} there and {wanted[name]} here"
        elif sorted(found.values()) != sorted(wanted.values()):
            why = f"{item} holds {len(found)} arrays there and {len(wanted)} here"
        else:
            return
        raise ValueError(
            f"checkpoint {step} of {self.folder.parent} does not fit these settings: {why}; take the "
            "settings that it was saved with, or choose another output=... to start anew"
        )

    def preempted(self, step: int) -> bool:
        """Whether the processes have agreed to stop after this step, because one of them was told to."""
        return self._manager.reached_preemption(step)

    def wait(self) -> None:
        """Waits until everything begun is written."""
        with disk_full_explained(self.folder):
            self._manager.wait_until_finished()
            self._complete_sums()

    def close(self) -> None:
        """Waits, then closes."""
        with disk_full_explained(self.folder):
            self._manager.wait_until_finished()
            self._complete_sums()
            self._manager.close()

    def _complete_sums(self) -> None:
        if jax.process_index() == 0 and not self._read_only:
            checksums.complete(self.folder.parent)


def _find_damaged(run: Path, *, move: bool) -> list[int]:
    """Steps of the damaged checkpoints that are newer than the newest whole one; process 0 looks.

    Args:
      move: set them aside, so that their steps can be saved again.
    """
    found: list[int] = []
    failure = ""
    if jax.process_index() == 0:
        try:
            found = _look_for_damage(run, move=move)
        except ValueError as error:
            failure = str(error)
    if jax.process_count() > 1:
        # first the number of steps, or -1 if none is whole, then the steps
        told = np.full(64, 0, np.int64)
        told[0] = -1 if failure else len(found)
        told[1 : 1 + len(found[:63])] = found[:63]
        told = multihost_utils.broadcast_one_to_all(told)
        failure = failure or ("process 0 found no whole checkpoint" if told[0] < 0 else "")
        found = [int(step) for step in told[1 : 1 + max(int(told[0]), 0)]]
    if failure:
        raise ValueError(failure)
    return [] if move else found


def _look_for_damage(run: Path, *, move: bool) -> list[int]:
    found: dict[int, str] = {}
    steps = checksums.steps_of(run)
    for step in reversed(steps):
        wrong = checksums.damage(run, step)
        if wrong is None:
            if not checksums.sums_file(run, step).exists():
                _warn(f"checkpoint {step} of {run} has no checksums: not verified")
            break
        found[step] = wrong
    if steps and len(found) == len(steps):
        first, wrong = next(iter(found.items()))
        raise ValueError(
            f"no checkpoint of {run} is whole (checkpoint {first}: {wrong}); restore {run / 'checkpoints'} "
            "from a backup, or choose another output=... to start anew"
        )
    for step, wrong in found.items():
        where = f"; it is in {checksums.set_aside(run, step)} now" if move else ""
        _warn(f"checkpoint {step} of {run} is damaged ({wrong}): the one before it is taken{where}")
    return list(found)


def _warn(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def structure(tree: PyTree, shardings: PyTree) -> PyTree:
    """Shapes and dtypes of a tree with the shardings under which it is to be restored.

    Args:
      tree: arrays or ShapeDtypeStructs.
      shardings: one for each leaf, in the same structure.
    Returns: ShapeDtypeStructs, which need no memory.
    """
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), tree, shardings)


@contextmanager
def disk_full_explained(folder: Path) -> Iterator[None]:
    """Turns the many errors of a full disk into one that says where and what to do."""
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskFullError) or not _is_full(error):
            raise
        raise DiskFullError(_full(folder)) from error


def _full(folder: Path) -> str:
    return (
        f"the disk of {folder} is full: free some space (or lower checkpoint.keep) and run the same command "
        "again; it goes on from the last checkpoint written"
    )


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        text = str(error)
        if any(word in text for word in ("No space left", "Disk quota exceeded", "File too large", "ENOSPC")):
            return True
        error = error.__cause__ or error.__context__
    return False


def _worth_logging(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not (_is_full(error) or any(text in record.getMessage() for text in _RAISED_TOO))


logging.getLogger("absl").addFilter(_worth_logging)


def quiet_late_callbacks() -> None:
    """From now on, drops what TensorStore reports to an event loop that Orbax has closed.

    After a failed save its C++ threads still report to the loop. The error has nowhere to go, and Python
    prints a traceback that begins in the loop's own method, as no Python code called it.
    """
    shown = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        trace = unraisable.exc_traceback
        if trace is None or trace.tb_frame.f_code.co_name != "call_soon_threadsafe":
            shown(unraisable)

    if getattr(shown, "__module__", "") != __name__:
        sys.unraisablehook = hook


def fingerprint(folder: Path) -> str:
    """Identifies a base checkpoint: sha256 over names, sizes and both ends of the weight files.

    Reading 13 GB whole would hold up every start; weights that differ only in the middle are not told apart.
    The folder of a GGUF file has no weight files, so that file's own, wherever it lies, follows a dot.
    """
    digest = hashlib.sha256()
    edge = 1 << 20
    for path in sorted(
        p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin") or p.name == "config.json"
    ):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            digest.update(file.read(edge))
            file.seek(max(size - edge, 0))
            digest.update(file.read(edge))
    file = file_behind(folder)
    return digest.hexdigest() + ("" if file is None else f".{file_fingerprint(file)}")


def is_same_base(saved: str | None, now: str | None) -> bool:
    """Whether two fingerprints are of one base, as far as they say.

    Args:
      saved: from a checkpoint; earlier versions saved that of a GGUF file without the part after the dot.
      now: of the base as it is.
    Returns: whether they agree.

    >>> is_same_base("c1", "c1.f1"), is_same_base("c1.f1", "c1.f2")
    (True, False)
    """
    return saved == now or (saved is not None and now is not None and saved == now.partition(".")[0])


def changed_content(saved: JsonObject, now: JsonObject) -> dict[str, tuple[object, object]]:
    """What a run was made from that is no longer as it was, for `refuse_another_run`.

    Args:
      saved: `identity` in the meta of a checkpoint.
      now: that of this run.
    Returns: by "the content of NAME", what it was then and what it is now.
    """
    same = {"base"} if is_same_base(saved.get("base"), now.get("base")) else set[str]()
    return {
        f"the content of {key}": (saved.get(key), now.get(key))
        for key in now
        if key not in same and saved.get(key) != now.get(key)
    }


def refuse_another_run(folder: Path, differences: Mapping[str, tuple[object, object]]) -> None:
    """Raises ValueError naming the first settings in which the run in the folder differs from this one.

    Args:
      folder: of the run.
      differences: by dotted key, the value then and the value now; empty if the run may be resumed.
    """
    if differences:
        shown = "; ".join(
            f"{key} was {old!r}, is now {new!r}" for key, (old, new) in [*differences.items()][:3]
        )
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise ValueError(
            f"{folder} holds another run: {shown}{more}; choose another output=..., or go on with the new "
            "settings by resume=changed"
        )
