"""A study is a list of cells; each leaves one file, and a cell that has left its file is not run again.

    OUT/cells/STUDY/NAME-DIGEST.json   settings, result, seconds and commit of one cell, written whole
    OUT/STUDY.json                     what all cells say together
    OUT/STUDY.html, OUT/figures/       the page, and its figures

The digest is of the settings that a result depends on: with other settings a cell is another cell, and those
that are not concerned stay valid.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jaxmoe.json_values import JsonMapping, JsonObject
from training.runtime.atomic import write_whole
from training.studies.page import Page

Result = JsonObject
# by the name of the cell
Results = Mapping[str, Result]
Stopped = Callable[[], bool]
# what the cells of a study say together, as plain JSON
StudySummary = JsonMapping


class StoppedError(Exception):
    """A cell was asked to stop before it was finished."""


@dataclass(frozen=True)
class StudyCell:
    """One piece of work.

    Attributes:
      name: unique in the study; part of a file name.
      settings: all that the result depends on, as plain JSON.
      title: for the person watching.
      cost: how long it takes, in seconds of two quiet cores; for telling the time that remains.
    """

    name: str
    settings: JsonMapping
    title: str
    cost: float = 1.0

    @property
    def file(self) -> str:
        """Name of the file that holds its result."""
        return f"{self.name}-{digest(self.settings)}.json"


# keys that settings have had since results were filed, with the value by which nothing changed
LATER: JsonObject = {
    "decay_to": "zero",
    "l2_sp": 0.0,
    "replay": 0.0,
    "average": [],
    "init": "kaiming",
}


def digest(settings: JsonMapping) -> str:
    """Eight characters that tell these settings from others; later keys count where they are used."""
    text = json.dumps(_without_later(settings), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _without_later(value: object) -> object:
    if isinstance(value, Mapping):
        kept = {key: each for key, each in value.items() if key not in LATER or each != LATER[key]}
        return {key: _without_later(each) for key, each in kept.items()}
    return [_without_later(each) for each in value] if isinstance(value, list | tuple) else value


class PaperStudy(Protocol):
    """What `reproduce` asks of a study.

    Attributes:
      name: of its command and files. title: of its page.
    """

    name: str
    title: str

    def cells(self, results: Results) -> list[StudyCell]:
        """The cells in the order in which they run, the most telling first. Later ones may depend on the
        results of earlier ones (a learning rate that was chosen) and be left out until those are there."""
        ...

    def run(self, cell: StudyCell, stopped: Stopped) -> Result:
        """Does the work of one cell; raises StoppedError soon after `stopped()` turns true.

        Args:
          cell: one of `cells`.
          stopped: returns true once the run should end.
        Returns: what is kept of the cell, as plain JSON.
        """
        ...

    def describe(self, cell: StudyCell, result: Result) -> str:
        """A finished cell's result in a few words.

        Args:
          cell: one of `cells`.
          result: what `run` returned.
        Returns: one line, for the terminal.
        """
        ...

    def summary(self, results: Results) -> JsonObject:
        """What the cells say together, as plain JSON: tables, statistics, verdicts. Some may be missing."""
        ...

    def page(self, summary: JsonMapping) -> Page:
        """Tables, figures and verdicts of a summary."""
        ...


class Store:
    """The cells' files of one study."""

    def __init__(self, folder: Path, commit: str = ""):
        self.folder = folder
        self._commit = commit  # of the code that runs cells, to be noted in their files

    def read(self, cell: StudyCell) -> Result | None:
        """A finished cell's result."""
        path = self.folder / cell.file
        if not path.exists():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))["result"]
        except (json.JSONDecodeError, KeyError) as error:
            raise ValueError(f"{path} holds no result of a cell; delete it to run the cell again") from error

    def write(self, cell: StudyCell, result: Result, seconds: float) -> None:
        """Leaves the file whole or not at all.

        Args:
          cell: a finished cell.
          result: as plain JSON.
          seconds: that it took.
        """
        record = {"name": cell.name, "settings": dict(cell.settings), "seconds": round(seconds, 2)}
        record["commit"] = self._commit
        write_whole(self.folder / cell.file, json.dumps(record | {"result": result}, indent=1) + "\n")

    def seconds(self, cells: list[StudyCell]) -> float:
        """Time that the finished ones among these cells took."""
        return sum(record["seconds"] for record in self._records(cells))

    def commits(self, cells: list[StudyCell]) -> list[str]:
        """Of the code that ran the finished ones among these cells, where their files tell it."""
        found = (record.get("commit") for record in self._records(cells))
        return list(dict.fromkeys(commit for commit in found if commit))

    def _records(self, cells: list[StudyCell]) -> list[JsonObject]:
        files = (self.folder / cell.file for cell in cells)
        return [json.loads(path.read_text(encoding="utf-8")) for path in files if path.exists()]


def finished(study: PaperStudy, store: Store) -> tuple[dict[str, Result], list[StudyCell]]:
    """Results that are there, by name, and the cells that can be told from them: until no more come up.

    Args:
      study: its cells may depend on earlier results.
      store: holds their files.
    Returns: results by name, and cells in their order.
    """
    results: dict[str, Result] = {}
    while True:
        cells = study.cells(results)
        found = {cell.name: result for cell in cells if (result := store.read(cell)) is not None}
        if found.keys() == results.keys():
            return found, cells
        results = found


def run_cells(study: PaperStudy, store: Store, say: Callable[[str], None], stopped: Stopped) -> bool:
    """Runs every cell that has no file yet; returns whether all have one now.

    Args:
      study: the study whose cells are run.
      store: holds their files.
      stopped: returns true to end before the next cell.
      say: called with one line after each cell.
    Returns: whether every cell has its file.
    """
    spent = expected = 0.0
    results, cells = finished(study, store)
    if results:
        say(f"{study.name}: {len(results)} cells are done already")
    while not stopped():
        missing = [cell for cell in cells if cell.name not in results]
        if not missing:
            return True
        cell, started = missing[0], time.perf_counter()
        say(f"[{len(results) + 1}/{len(cells)}] {cell.title} ...")
        try:
            result = study.run(cell, stopped)
        except StoppedError:
            return False
        seconds = time.perf_counter() - started
        store.write(cell, result, seconds)
        results, cells = finished(study, store)
        spent, expected = spent + seconds, expected + cell.cost
        rest = sum(cell.cost for cell in cells if cell.name not in results) * spent / expected
        say(f"    {study.describe(cell, result)} ({seconds:.0f} s; about {rest / 60:.0f} min left)")
    return False
