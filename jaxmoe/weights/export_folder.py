"""Folders that appear whole or not at all, and never in place of something else."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxmoe.weights.convert import CheckpointTensor
from jaxmoe.weights.weight_files import write_safetensors

MAX_SHARD_BYTES = 5 * 10**9
# Lists what an export wrote: a later export may replace exactly that.
MARKER = "jaxmoe_export.json"


@contextmanager
def export_folder(target: str | Path, kind: str) -> Iterator[Path | None]:
    """A folder to write to, which takes the target's name when the block ends and vanishes if it fails.

    Only process 0 writes: the others get None but must run the block too, because reading sharded arrays
    takes all of them.

    Args:
      target: the folder's path; an earlier export there is replaced at the end.
      kind: what is exported, as the marker file records it.
    Returns: a context manager, whose value is the folder to write to.
    Raises: ValueError if the target exists and holds anything but an earlier export, untouched since.
    """
    target = Path(os.path.abspath(target))
    check_replaceable(target)
    if jax.process_index() != 0:
        yield None
        multihost_utils.sync_global_devices(f"export to {target}")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        folder = work / "new"
        folder.mkdir()
        yield folder
        files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
        (folder / MARKER).write_text(json.dumps({"kind": kind, "files": files}, indent=2))
        _replace(target, folder, work / "old")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"export to {target}")


def _replace(target: Path, new: Path, old: Path) -> None:
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise


def check_replaceable(target: Path) -> None:
    """Raises ValueError if writing there would destroy anything but an earlier export."""
    if not target.exists():
        return
    if not target.is_dir():
        raise ValueError(f"the output must be a folder; {target} is a file")
    present = {str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()}
    if not present:
        return
    try:
        ours = {MARKER, *json.loads((target / MARKER).read_text())["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        ours = set()
    if foreign := sorted(present - ours):
        raise ValueError(
            f"the output folder must be new, empty or an earlier export; {target} holds {foreign[0]}"
            f"{f' and {len(foreign) - 1} more files' if len(foreign) > 1 else ''}: name another folder"
        )


def write_shards(
    folder: Path | None, tensors: Iterable[CheckpointTensor], max_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Writes model.safetensors, or shards of at most `max_bytes` with an index, one in memory at a time.

    Args:
      folder: None on processes that only take part in reading.
    """
    shards: list[list[CheckpointTensor]] = [[]]
    sizes = [0]
    for tensor in tensors:
        size = int(np.prod(tensor.shape, dtype=np.int64)) * tensor.dtype.itemsize
        if shards[-1] and sizes[-1] + size > max_bytes:
            shards.append([])
            sizes.append(0)
        shards[-1].append(tensor)
        sizes[-1] += size
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    if len(shards) == 1:
        names = ["model.safetensors"]
    for name, shard in zip(names, shards, strict=True):
        arrays = {tensor.name: tensor.read() for tensor in shard}
        if folder is not None:
            write_safetensors(folder / name, arrays)
    if folder is not None and len(shards) > 1:
        where = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        index = {"metadata": {"total_size": sum(sizes)}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True))
