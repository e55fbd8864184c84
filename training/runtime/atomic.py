"""Files that are written whole or not at all, whatever happens meanwhile."""

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Writes a text file next to its final place, syncs it to the disk and moves it there.

    A reader finds the old content or the new one; a killed process leaves at most `NAME.part` behind.

    Args:
      path: of the file; its folder is created if there is none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:  # half a file is of no use, and takes up room on a full disk
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes sure that names in a folder, not just the files' contents, are on the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
