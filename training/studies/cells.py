"""A study is a list of cells; each writes one file, and a cell that has its file is not run again.

    OUT/cells/STUDY/NAME-DIGEST.json   settings, result, seconds and commit of one cell, written atomically
    OUT/STUDY.json                     the summary of all cells
    OUT/STUDY.html, OUT/figures/       the page, and its figures

The digest covers the settings that a result depends on: a cell with other settings is a different cell, and
cells that a change does not affect stay valid.
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
# by cell name
Results = Mapping[str, Result]
Stopped = Callable[[], bool]
# the summary of a study's cells, as plain JSON
StudySummary = JsonMapping


class StoppedError(Exception):
    """A cell was asked to stop before it was finished."""


@dataclass(frozen=True)
class StudyCell:
    """One piece of work.

    Attributes:
      name: unique in the study; part of a file name.
      settings: everything that the result depends on, as plain JSON.
      title: shown to the person watching.
      cost: how long it takes, in seconds on two idle cores; used to estimate the remaining time.
    """

    name: str
    settings: JsonMapping
    title: str
    cost: float = 1.0

    @property
    def file(self) -> str:
        """Name of the file that holds its result."""
        return f"{self.name}-{digest(self.settings)}.json"


# keys added to settings after results were filed, with the value that changes nothing
LATER: JsonObject = {
    "decay_to": "zero",
    "l2_sp": 0.0,
    "replay": 0.0,
    "average": [],
    "init": "kaiming",
}


def digest(settings: JsonMapping) -> str:
    """Eight characters that identify these settings; keys added later count only where they are used."""
    text = json.dumps(_without_later(settings), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _without_later(value: object) -> object:
    if isinstance(value, Mapping):
        kept = {key: each for key, each in value.items() if key not in LATER or each != LATER[key]}
        return {key: _without_later(each) for key, each in kept.items()}
    return [_without_later(each) for each in value] if isinstance(value, list | tuple) else value


class PaperStudy(Protocol):
    """What `reproduce` needs from a study.

    Attributes:
      name: name of its command and files. title: title of its page.
    """

    name: str
    title: str

    def cells(self, results: Results) -> list[StudyCell]:
        """The cells in the order in which they run, the most informative first. Later cells may depend on the
        results of earlier ones (such as a chosen learning rate) and are left out until those exist."""
        ...

    def run(self, cell: StudyCell, stopped: Stopped) -> Result:
        """Does the work of one cell; raises StoppedError soon after `stopped()` becomes true.

        Args:
          cell: one of `cells`.
          stopped: returns true once the run should end.
        Returns: what is kept from the cell, as plain JSON.
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
        """The cells' joint results as plain JSON: tables, statistics, verdicts. Some cells may be missing."""
        ...

    def page(self, summary: JsonMapping) -> Page:
        """Tables, figures and verdicts of a summary."""
        ...


class Store:
    """The cell files of one study."""

    def __init__(self, folder: Path, commit: str = ""):
        self.folder = folder
        self._commit = commit  # of the code that runs cells; recorded in their files

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
        """Writes the file atomically.

        Args:
          cell: a finished cell.
          result: its result, as plain JSON.
          seconds: how long it took.
        """
        record = {"name": cell.name, "settings": dict(cell.settings), "seconds": round(seconds, 2)}
        record["commit"] = self._commit
        write_whole(self.folder / cell.file, json.dumps(record | {"result": result}, indent=1) + "\n")

    def seconds(self, cells: list[StudyCell]) -> float:
        """How long the finished cells among these took."""
        return sum(record["seconds"] for record in self._records(cells))

    def commits(self, cells: list[StudyCell]) -> list[str]:
        """Commits of the code that ran the finished cells among these, where their files record it."""
        found = (record.get("commit") for record in self._records(cells))
        return list(dict.fromkeys(commit for commit in found if commit))

    def _records(self, cells: list[StudyCell]) -> list[JsonObject]:
        files = (self.folder / cell.file for cell in cells)
        return [json.loads(path.read_text(encoding="utf-8")) for path in files if path.exists()]


def finished(study: PaperStudy, store: Store) -> tuple[dict[str, Result], list[StudyCell]]:
    """The existing results by name, and all cells that can be determined from them.

    Args:
      study: its cells may depend on earlier results.
      store: holds their files.
    Returns: results by name, and cells in order.
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
