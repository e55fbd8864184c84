"""The long table of an administration, laid out for statistics: persons x conditions x items.

The caller's choice of columns decides what the "respondents" of a statistic are: persons are described people
or models, conditions everything that should not matter to them. Not covered: the statistics.
"""

import csv
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from evals.questionnaires.design import FACETS, PUBLISHED, WORDING
from evals.questionnaires.instrument import Instrument, Scale
from evals.questionnaires.scoring import refuse_nested, tabulate

NEEDED = ("instrument", "item", "response", *(name for name in FACETS if name != WORDING))


@dataclass(frozen=True)
class ResponseCube:
    """One instrument's answers, as given.

    Attributes:
      raw: [P persons, C conditions, J items], NaN where there is no answer.
      persons: what identifies each person, in the order of the first axis.
      conditions: a row for each condition, a column for each facet that varies.
      refused: share of questions without a readable answer.
    """

    instrument: Instrument
    raw: np.ndarray
    persons: pd.Index
    conditions: pd.DataFrame
    refused: float

    @property
    def keys(self) -> np.ndarray:
        """1 or −1 for each item."""
        return np.array([item.key for item in self.instrument.items])

    @property
    def keyed(self) -> np.ndarray:
        """Answers in the direction of their scales."""
        flipped = self.instrument.low + self.instrument.high - self.raw
        return np.where(self.keys == -1, flipped, self.raw)

    def columns(self, scale: str) -> np.ndarray:
        """The places of a scale's items on the last axis."""
        wanted = {item.id for item in self.instrument.items_of(scale)}
        return np.array([n for n, item in enumerate(self.instrument.items) if item.id in wanted], int)

    def wordings(self) -> dict[str, np.ndarray]:
        """The conditions with published and those with paraphrased items, if there are both."""
        if WORDING not in self.conditions.columns:
            return {"": np.arange(self.raw.shape[1])}
        names = self.conditions[WORDING].astype(str).to_numpy()
        return {str(name): np.flatnonzero(names == name) for name in dict.fromkeys(names.tolist())}

    def scores(self, scale: Scale, without: Collection[str] = ()) -> np.ndarray:
        """Scale means in the direction of the construct.

        Args:
          without: ids of items to leave out.
        Returns: [persons, conditions], in the unit of the answers; NaN where an answer is missing or no item
          is left.
        """
        items = self.instrument.items
        places = np.array([n for n in self.columns(scale.name) if items[n].id not in without], int)
        if not len(places):
            return np.full(self.raw.shape[:2], np.nan)
        mean = self.keyed[:, :, places].mean(axis=-1)
        return mean if scale.direction == 1 else self.instrument.low + self.instrument.high - mean


def cube(long_table: pd.DataFrame, instrument: Instrument, persons: Sequence[str]) -> ResponseCube:
    """The answers to one instrument.

    Args:
      long_table: as `administer` returns it; rows of other instruments are ignored.
      persons: the columns that tell persons apart; all other facets are conditions.
    Returns: the cube; NaN where a person was not asked in a condition, or there is no readable answer.
    Raises: ValueError for a missing column, several models that are not told apart, no rows for the
      instrument, and whatever `evals.questionnaires.scoring.tabulate` refuses.
    """
    frame = pd.DataFrame(long_table)
    if missing := [name for name in (*NEEDED, *persons) if name not in frame.columns]:
        raise ValueError(f"a long table needs the columns {', '.join(NEEDED)}; {missing[0]!r} is missing")
    frame = pd.DataFrame(frame[frame["instrument"] == instrument.name])
    if WORDING not in frame.columns:
        frame = frame.assign(**{WORDING: PUBLISHED})
    if frame.empty:
        raise ValueError(f"the table has no answers to {instrument.name}")
    models = frame["model"].unique().tolist() if "model" in frame.columns else []
    if "model" not in persons and len(models) > 1:
        raise ValueError(
            f"the table holds {len(models)} models; assess each alone, or make the model part of persons"
        )
    facets = [facet for facet in FACETS if facet not in persons]
    kept = pd.DataFrame(frame, columns=pd.Index([*persons, *facets, "item", "response"]))
    answers = tabulate(kept, instrument, respondent=[*persons, *facets])
    table = answers.table
    who = _labels(table.index, list(persons))
    under = _labels(table.index, facets)
    people, conditions = who.unique(), under.unique()
    raw = np.full((len(people), len(conditions), len(instrument.items)), np.nan)
    raw[people.get_indexer(who), conditions.get_indexer(under)] = table.to_numpy(np.float64)
    varying = pd.DataFrame(list(conditions), columns=pd.Index(facets))
    varying = varying.loc[:, [len(set(varying[f])) > 1 for f in facets]]
    refused = float(np.isnan(np.asarray(frame["response"], np.float64)).mean())
    return ResponseCube(instrument, raw, people, pd.DataFrame(varying), refused)


def _labels(index: pd.Index, names: list[str]) -> pd.Index:
    """The index reduced to some of its levels, as tuples."""
    columns = [index.get_level_values(name) for name in names]
    return pd.Index(list(zip(*columns, strict=True)), tupleize_cols=False)


def read_responses(path: Path) -> pd.DataFrame:
    r"""Reads a table of responses, long or wide, from CSV, TSV, JSON or Parquet.

    Args:
      path: of the file; its suffix gives the format.
    Returns: the table as it is in the file; only empty cells, NA and NaN are missing.
    Raises: ValueError, in one line that names the file, for other files, one without rows, text that is not
      UTF-8, rows with more cells than the header, and cells that hold lists or objects.

    Example:
      >>> import tempfile, pathlib
      >>> from evals.questionnaires import read_responses
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     table = pathlib.Path(folder) / "answers.csv"
      ...     _ = table.write_text("respondent,item,response\nann,gad_1,2\n")
      ...     read_responses(table)["response"].tolist()
      [2]
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    readers = {
        ".csv": lambda p: _read_separated(p, ","),
        ".tsv": lambda p: _read_separated(p, "\t"),
        ".json": _read_json_table,
        ".parquet": pd.read_parquet,
    }
    if path.suffix not in readers:
        raise ValueError(f"responses must be .csv, .tsv, .json or .parquet; got {path.name}")
    try:
        frame = readers[path.suffix](path)
        refuse_nested(frame)
    except (ValueError, OSError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if frame.empty:
        raise ValueError(f"{path} holds no responses")
    return frame


def _read_separated(path: Path, separator: str) -> pd.DataFrame:
    _refuse_longer_rows(path, separator)
    # only empty cells are missing: "None" may be an answer; without index_col, pandas may make ids an index
    return pd.read_csv(
        path, sep=separator, index_col=False, keep_default_na=False, na_values=["", "NA", "NaN"]
    )


def _refuse_longer_rows(path: Path, separator: str) -> None:
    """Refuses what pandas accepts: a first row longer than the header would shift every answer."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file, delimiter=separator)
        header = next((row for row in rows if len(row) > 1 or "".join(row).strip()), [])
        for row in rows:
            if len(row) > len(header):
                raise ValueError(
                    f"no row may have more cells than the header, which has {len(header)}; "
                    f"line {rows.line_num} has {len(row)} "
                    "(is there a separator at its end, or is the header cut off?)"
                )


def _read_json_table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_json(path)
    except (TypeError, AttributeError, OverflowError) as error:  # what pandas does not check
        raise ValueError(f"a JSON table must be a list of objects, one for each row ({error})") from None
