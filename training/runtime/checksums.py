"""Checksums of checkpoints: a flipped bit or a lost file is found before anything is restored.

    RUN/checksums/{step}.sha256   of every file of RUN/checkpoints/{step}; `cd RUN && sha256sum -c` reads it
    RUN/damaged/{step}            a damaged checkpoint, moved out of the way

The sums are written just before a checkpoint is committed. A checkpoint that came without them, such as one
from elsewhere, is accepted if it is complete, with a line that says so.
"""

import hashlib
import re
from pathlib import Path

from training.runtime.atomic import write_whole

# what every checkpoint has, with or without checksums
PARTS = ("trainable/_METADATA", "optimizer/_METADATA", "data/metadata", "meta/metadata")
# Orbax writes the time of the commit into this one, last of all
LAST = "_CHECKPOINT_METADATA"


def sums_file(run: Path, step: int) -> Path:
    """Where a checkpoint's sums are.

    Args:
      run: the run's folder.
      step: of the checkpoint.
    Returns: RUN/checksums/STEP.sha256, whether or not it exists.
    """
    return run / "checksums" / f"{step}.sha256"


def steps_of(run: Path) -> list[int]:
    """Steps of the committed checkpoints of a run, oldest first."""
    folder = run / "checkpoints"
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


def write_pending(run: Path) -> None:
    """Writes the sums of checkpoints that are complete except for their name.

    Orbax writes `{step}.orbax-checkpoint-tmp`, calls this and then renames the folder, so that every
    committed checkpoint has sums.
    """
    for step, folder in _pending(run).items():
        names = [name for name in _names(folder) if name != LAST]
        lines = [f"{_digest(folder / name)}  checkpoints/{step}/{name}\n" for name in names]
        write_whole(sums_file(run, step), "".join(lines))


def complete(run: Path) -> None:
    """Adds the sums of what Orbax writes at the commit itself, for committed checkpoints that have sums;
    deletes the sums of deleted checkpoints."""
    for step in steps_of(run):
        path, folder = sums_file(run, step), run / "checkpoints" / str(step)
        text = path.read_text(encoding="utf-8") if path.is_file() else None
        if text is None or f"/{LAST}\n" in text:
            continue
        named = {name: f"checkpoints/{step}/{name}\n" for name in _names(folder)}
        more = [f"{_digest(folder / name)}  {line}" for name, line in named.items() if line not in text]
        write_whole(path, text + "".join(more))
    there = {*steps_of(run), *_pending(run)}
    for path in (run / "checksums").glob("*.sha256"):
        if path.stem.isdigit() and int(path.stem) not in there:
            path.unlink(missing_ok=True)


def _pending(run: Path) -> dict[int, Path]:
    return {int(p.name.split(".")[0]): p for p in (run / "checkpoints").glob("*.orbax-checkpoint-tmp*")}


def damage(run: Path, step: int) -> str | None:
    """Looks for missing and changed files of a checkpoint; reads every file.

    Args:
      run: the run's folder.
      step: of a committed checkpoint.
    Returns: what is wrong, in a few words; None if the checkpoint is whole, or complete and without sums.
    """
    folder = run / "checkpoints" / str(step)
    path = sums_file(run, step)
    missing = [part for part in (*PARTS, LAST) if not (folder / part).is_file()]
    if missing:
        return f"{missing[0]} is missing"
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    listed = re.findall(r"^([0-9a-f]{64})  (.+)$", text, re.MULTILINE)
    for expected, name in listed:
        if not (run / name).is_file():
            return f"{name} is missing"
        if _digest(run / name) != expected:
            return f"{name} is not what was written"
    names = {name for _, name in listed}
    if not all(f"checkpoints/{step}/{part}" in names for part in PARTS):
        return f"{path.name} does not list all of its files"
    return None


def set_aside(run: Path, step: int) -> Path:
    """Moves a damaged checkpoint to RUN/damaged, so that its step can be saved again, and deletes its sums.

    Args:
      run: the run's folder.
      step: of the checkpoint.
    Returns: its new folder: RUN/damaged/STEP, or STEP.1, STEP.2, ... where that is taken.
    """
    folder = run / "damaged"
    folder.mkdir(exist_ok=True)
    count = sum(1 for path in folder.iterdir() if path.name.split(".")[0] == str(step))
    place = folder / (f"{step}.{count}" if count else str(step))
    (run / "checkpoints" / str(step)).rename(place)
    sums_file(run, step).unlink(missing_ok=True)
    return place


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
