"""Paths that a user gave: what is wrong with one is said with its key or option, its folder and a remedy.

A key of a config is written as in an override (`data.sources.0.path`), an option with its dashes
(`--instrument`), an argument in capitals (`RESPONSES`).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

Needed = Literal["file", "folder", "file or folder"]


@contextmanager
def given(key: str, path: str | Path, needs: Needed | None = None) -> Iterator[None]:
    """Explains what goes wrong in the block with the path that a user gave.

    Args:
      key: key, option or argument by which it was given.
      path: as it was given.
      needs: what must be there before the block runs; None leaves that to the block, as for a name that may
        also stand for something on the hub.
    Returns: a context manager.
    Raises: ValueError, in one line with key, path, reason and remedy, in place of a ValueError or OSError of
      the block.

    >>> with given("data.path", "/none.json"):
    ...     raise ValueError("line 3 is no JSON")
    Traceback (most recent call last):
    ValueError: data.path: /none.json: line 3 is no JSON; put it there or give another: data.path=...
    """
    try:
        if needs is not None:
            _check(Path(path), needs)
        yield
    except (ValueError, OSError) as error:
        raise ValueError(_told(key, path, error)) from error


def check_given(key: str, path: str | Path, needs: Needed) -> None:
    """Checks that what a path should lead to is there and may be read, before any work is done with it.

    Args:
      key: key, option or argument by which it was given.
      path: as it was given.
      needs: what must be there.
    Raises: ValueError, in one line with key, path, reason and remedy.

    >>> check_given("data.path", "/none.json", "file")
    Traceback (most recent call last):
    ValueError: data.path: there is no file /none.json; put it there or give another: data.path=...
    """
    with given(key, path, needs):
        pass


def check_writable(key: str, path: str | Path, kind: Literal["file", "folder"]) -> None:
    """Checks that something can be written at a path, before any work is done for it.

    Args:
      key: key, option or argument by which it was given.
      path: as it was given; folders that are missing on the way to it are no fault.
      kind: of what is to be written.
    Raises: ValueError, in one line with key, path, reason and remedy.
    """
    place = Path(path)
    try:
        if kind == "file" and place.is_dir():
            raise ValueError(f"{path} is a folder; a file is written there")
        if kind == "folder" and place.exists() and not place.is_dir():
            raise ValueError(f"{path} is a file; a folder is written there")
        there = next(one for one in (place, *place.absolute().parents) if one.exists())
        if there != place and not there.is_dir():
            raise ValueError(f"{path} cannot be written: {there} is a file, no folder")
        if not os.access(there, os.W_OK):
            raise ValueError(f"{path} cannot be written: {there} is protected")
    except (ValueError, OSError) as error:
        raise ValueError(f"{key}: {_reason(path, error)}; {_another(key)}") from error


def _check(path: Path, needs: Needed) -> None:
    if not path.exists():
        raise ValueError(f"there is no {needs} {path}")
    if needs == "file" and not path.is_file():
        raise ValueError(f"{path} is a folder; a file is needed" if path.is_dir() else f"{path} is no file")
    if needs == "folder" and not path.is_dir():
        raise ValueError(f"{path} is a file; a folder is needed")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{path} cannot be read (Permission denied)")


def _told(key: str, path: str | Path, error: ValueError | OSError) -> str:
    said = _reason(path, error)
    if said.startswith(f"{key}:"):
        return said
    said = said if str(path) in said else f"{path}: {said}"
    missing = not Path(path).exists()
    where = f" (looked for in {Path.cwd()})" if missing and not Path(path).is_absolute() else ""
    remedy = "put it there or " if missing else ""
    return f"{key}: {said.rstrip('.:')}{where}; {remedy}{_another(key)}"


def _reason(path: str | Path, error: ValueError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror is not None:
        return f"{path} cannot be read ({error.strerror})"
    return " ".join(str(error).split())


def _another(key: str) -> str:
    if key.startswith("--"):
        return f"give another: {key} PATH"
    return f"give another {key}" if key.isupper() else f"give another: {key}=..."
