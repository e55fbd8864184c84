"""A folder of data files: which of them are read for a split, and their rows as one sequence.

A word in a file's name tells its split, or else a word in the name of the nearest folder within the one that
is read, as on the Hugging Face hub: `data/test-00000-of-00001.parquet` belongs to the test split. Files
without such a word belong to the train split.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, overload

from jaxmoe.json_values import JsonObject

SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet", ".txt")
# what the hub's own tools write next to the data
_ABOUT = ("dataset_info.json", "dataset_infos.json", "state.json")
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF = {word: split for split, words in _SPLITS.items() for word in words}


class FolderFiles(NamedTuple):
    """The files of a folder that are read, in the order of their names, and those that are not."""

    files: list[Path]
    left_out: list[Path]

    def said(self, folder: Path) -> str:
        """Both in one line, with a few names."""
        parts = [f"{len(self.files)} files ({_named(self.files, folder)})"]
        if self.left_out:
            parts.append(f"{len(self.left_out)} left out ({_named(self.left_out, folder)})")
        return ", ".join(parts)


def files_of(folder: Path, split: str) -> FolderFiles:
    """The files of a folder and the folders in it that hold rows of a split; hidden ones do not count.

    Args:
      folder: to look in.
      split: train, validation or test, or another of their usual names.
    Returns: the files to be read, and what else there is.
    Raises: ValueError for an unknown split, or one without files.
    """
    if split not in _SPLIT_OF:
        raise ValueError(f"{folder}: split of a folder must be one of {', '.join(_SPLITS)}; got {split!r}")
    wanted = _SPLIT_OF[split]
    found = FolderFiles([], [])
    for path in sorted(folder.rglob("*")):
        within = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(".") for part in within.parts):
            continue
        is_data = path.suffix.lower() in SUFFIXES and path.name not in _ABOUT
        (found.files if is_data and _split_of(within) == wanted else found.left_out).append(path)
    if not found.files:
        there = f"; there are {_named(found.left_out, folder)}" if found.left_out else ""
        raise ValueError(f"{folder}: no file of the split {wanted} ({', '.join(SUFFIXES)}){there}")
    return found


def _split_of(path: Path) -> str:
    for part in reversed(path.parts):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in _SPLIT_OF:
                return _SPLIT_OF[word]
    return "train"


def _named(paths: Sequence[Path], folder: Path) -> str:
    names = [str(path.relative_to(folder)) for path in paths]
    return ", ".join(names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"])


class Joined(Sequence[JsonObject]):
    """Several sequences of rows as one; nothing is copied."""

    def __init__(self, parts: Sequence[Sequence[JsonObject]]):
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> JsonObject: ...
    @overload
    def __getitem__(self, index: slice) -> list[JsonObject]: ...
    def __getitem__(self, index: int | slice) -> JsonObject | list[JsonObject]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        part, within = self.find(index)
        return self._parts[part][within]

    def find(self, index: int) -> tuple[int, int]:
        """Which sequence a row is in, and its index there."""
        index = range(len(self))[index]
        part = bisect_right(self._ends, index)
        return part, index - (self._ends[part - 1] if part else 0)
