"""Items as they arrive, in a file of their own until the command is done, so that a killed one can resume.

    NAME.partial.jsonl   the settings in the first line, then one item per line

Items are asked in blocks that are always the same, and a block with an item missing is asked again as a
whole. So a resumed command makes exactly the calls that were left, and ends with the same results.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TextIO

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxmoe.datasets.json_rows import dump_json
from jaxmoe.json_values import JsonObject, shown
from jaxmoe.progress import say
from training.runtime import distributed


class ItemJournal:
    """The items of a command that is not done yet.

    Args:
      path: of the file.
      settings: on which items depend, as plain values.
      remedy: what a user can do where the file holds items of other settings.
      overwrite: whether items of other settings may be thrown away.
    Raises: ValueError if the file holds items of other settings, or is damaged.
    """

    def __init__(self, path: Path, settings: Mapping[str, object], *, remedy: str, overwrite: bool = False):
        self._path, self._overwrite, self._remedy = path, overwrite, remedy
        self._settings: JsonObject = {"config": settings}
        self._rows: dict[str, list[JsonObject]] = {}
        self._ends: list[int] = []
        self._header: JsonObject = {}
        self._start = self._kept = 0
        self._file: TextIO | None = None
        if self._path.is_file():
            self._read()
        if self._ends:
            self._check(self._settings)
        if jax.process_count() > 1:
            found = multihost_utils.process_allgather(np.int32(len(self._ends)))
            if len(set(np.ravel(found).tolist())) > 1:
                raise ValueError(
                    f"{self._path} is not the same file on every process; resume with an output folder that "
                    "they all share, or remove the file"
                )

    @property
    def found(self) -> int:
        """Items of an earlier run."""
        return len(self._ends)

    def begin(self, weights: str, asked: object) -> None:
        """Makes the file ready for new items.

        Args:
          weights: identifies the model under test (`evals.models.model_identity`).
          asked: what it is asked, identified by its `repr`.
        Raises: ValueError if the items are of other weights or questions.
        """
        digest = hashlib.sha256(repr(asked).encode("utf-8", "replace")).hexdigest()[:16]
        self._settings |= {"questions": digest, "weights": weights}
        if self._ends:
            self._check(self._settings)
        if not distributed.is_main():
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._ends:
            self._path.write_text(dump_json(self._settings) + "\n", encoding="utf-8")
        self._file = self._path.open("r+", encoding="utf-8", newline="\n")
        self._file.seek(0, os.SEEK_END)

    def known(self, name: str, start: int, count: int) -> list[JsonObject] | None:
        """The items of a block; None if one of them is missing.

        Args:
          name: of the set.
          start: first item of the block.
          count: of items.
        Returns: the items as they stand in the file.
        """
        rows = self._rows.get(name, [])[start : start + count]
        if len(rows) < count:
            return None
        self._kept += count
        return rows

    def add(self, lines: Iterable[Mapping[str, object]]) -> None:
        """Keeps the items of a block; drops items of this or later blocks that an earlier run left."""
        if self._file is None:
            return
        if self._kept < len(self._ends):
            self._file.flush()
            self._file.truncate(self._ends[self._kept - 1] if self._kept else self._start)
            self._file.seek(0, os.SEEK_END)
            del self._ends[self._kept :]
        self._file.write("".join(f"{dump_json(line)}\n" for line in lines))
        self._file.flush()

    def done(self) -> None:
        """Removes the file: the items are where they belong."""
        self.close()
        if distributed.is_main():
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the file and leaves it."""
        if self._file is not None:
            file, self._file = self._file, None
            with file:  # closed even where the disk is full
                file.flush()
                os.fsync(file.fileno())

    def __enter__(self) -> "ItemJournal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> None:
        text = self._path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]  # a run may be killed while it writes a line
        place = 0
        for number, line in enumerate(whole.split(b"\n")[:-1]):
            place += len(line) + 1
            try:
                row = json.loads(line)
                if number == 0:
                    self._header, self._start = row, place
                    continue
                self._rows.setdefault(row["set"], []).append(row)
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{self._path}:{number + 1} is damaged ({error!r}); remove the file to begin anew"
                ) from error
            self._ends.append(place)

    def _check(self, settings: Mapping[str, object]) -> None:
        changed = next(_changed(self._header, settings), None)
        if changed is None:
            return
        if not self._overwrite:
            raise ValueError(
                f"{self._path} holds unfinished items, of other settings: {changed}; {self._remedy}"
            )
        if distributed.is_main():
            say(f"{self._path}: unfinished items are thrown away: {changed}")
        self._rows, self._ends = {}, []


def _changed(old: Mapping[str, object], new: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    """What differs, in words, section by section."""
    for name, value in new.items():
        before, key = old.get(name), f"{prefix}{name}".removeprefix("config.")
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            yield from _changed(before, value, f"{prefix}{name}.")
        elif json.loads(dump_json(value)) != before:
            told = f"{key} is {shown(before)} there, {shown(value)} here"
            yield told if prefix else f"the {key} are not the same"
