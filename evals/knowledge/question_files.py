"""Rows of question files: JSON or JSON lines (also gzipped), Parquet, MMLU's CSV, a folder of CSV files, or a
folder prepared by TFDS.

Not covered: what the rows mean (evals.knowledge.questions), downloading.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from evals.knowledge.published_rows import from_csv
from jaxmoe.datasets.parquet_rows import read_parquet_rows
from jaxmoe.gzip_files import open_gzip
from jaxmoe.json_values import JsonObject

QuestionRow = JsonObject


def rows(path: str | Path, split: str | None = None) -> Iterator[tuple[str, QuestionRow]]:
    """Each row with its place, for messages: `file:line` or `file[index]`.

    JSON lines are streamed; a JSON list, or an object whose `Data` or `data` is one, is read whole. CSV is
    MMLU's, without a header; a folder of such files (one a subject) is read in the order of their names. A
    folder with dataset_info.json is opened by TFDS as random-access data (array_record), without TensorFlow;
    text becomes str.

    Args:
      path: of a file or folder.
      split: for a TFDS folder only; may be left out if it has a single one.
    Returns: pairs of place and row.
    Raises: ValueError for a missing, empty or malformed file (with line), a folder that TFDS did not prepare,
      or an unknown split.
    """
    path = Path(path)
    if path.is_dir():
        tables = sorted(path.glob("*.csv"))
        if tables and not (path / "dataset_info.json").is_file():
            for table in tables:
                yield from rows(table)
            return
        yield from _prepared_rows(path, split)
        return
    if not path.is_file():
        raise ValueError(
            f"no question file at {path} (a .json, .jsonl or .csv, their .gz, a .parquet, a folder of .csv "
            "files, or a folder prepared by TFDS)"
        )
    if path.suffix == ".parquet":
        for place, row in read_parquet_rows(path):
            yield f"{path}: {place}", _checked(row, f"{path}: {place}")
        return
    with _opened(path) as file:
        try:
            yield from _csv_rows(file, path) if ".csv" in path.suffixes else _json_rows(file, path)
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read ({error}); is it complete, and UTF-8?") from error


def _opened(path: Path) -> TextIO:
    # line ends within quotes in a CSV file are part of its text
    newline = "" if ".csv" in path.suffixes else None
    if path.suffix == ".gz":
        return io.TextIOWrapper(open_gzip(path), encoding="utf-8-sig", newline=newline)
    return path.open(encoding="utf-8-sig", newline=newline)


def _csv_rows(file: TextIO, path: Path) -> Iterator[tuple[str, QuestionRow]]:
    reader = csv.reader(file)
    empty = True
    try:
        for cells in reader:
            if any(cells):
                empty = False
                try:
                    yield f"{path}:{reader.line_num}", from_csv(cells, path)
                except ValueError as error:
                    raise ValueError(f"{path}:{reader.line_num}: {error}") from None
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num} is not valid CSV: {error}") from None
    if empty:
        raise ValueError(f"{path} is empty; a question file needs at least one row")


def _json_rows(file: TextIO, path: Path) -> Iterator[tuple[str, QuestionRow]]:
    head, number = "", 0
    for number, line in enumerate(file, 1):  # noqa: B007 - the number of the first line that is not blank
        head += line
        if line.strip():
            break
    else:
        raise ValueError(f"{path} is empty; a question file needs at least one row")
    try:
        first = json.loads(head)
    except (ValueError, RecursionError):
        first = None  # a document over several lines, or a broken first line: told apart below
    if isinstance(first, dict) and not isinstance(first.get("Data", first.get("data")), list):
        yield f"{path}:{number}", first
        yield from _later_lines(file, path, number + 1)
        return
    text = head + file.read()
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is neither JSON nor JSON lines: {error}") from None
    found = document.get("Data", document.get("data")) if isinstance(document, dict) else document
    if not isinstance(found, list):
        found = [document]
    if not found:
        raise ValueError(f"{path} is empty; a question file needs at least one row")
    for index, row in enumerate(found):
        yield f"{path}[{index}]", _checked(row, f"{path}[{index}]")


def _later_lines(file: TextIO, path: Path, start: int) -> Iterator[tuple[str, QuestionRow]]:
    for number, line in enumerate(file, start):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is not valid JSON: {error}") from None
        yield where, _checked(row, where)


def _checked(row: object, where: str) -> QuestionRow:
    if not isinstance(row, dict):
        raise ValueError(f"{where} must be an object with named fields; got {type(row).__name__}")
    return row


def _prepared_rows(path: Path, split: str | None) -> Iterator[tuple[str, QuestionRow]]:
    if not (path / "dataset_info.json").is_file():
        raise ValueError(
            f"{path} is no folder prepared by TFDS: it has no dataset_info.json (name the folder of the "
            "version, such as .../trivia_qa/1.1.0, or a file)"
        )
    import tensorflow_datasets as tfds  # slow to import, and needed for folders only

    builder: Any = tfds.builder_from_directory(str(path))  # its decorated methods have lost their signatures
    splits = sorted(builder.info.splits)
    if split is None and len(splits) == 1:
        split = splits[0]
    if split is None or split not in splits:
        raise ValueError(f"{path} has the splits {splits}; got split {split!r}")
    try:
        source: Sequence[QuestionRow] = builder.as_data_source(split)
    except NotImplementedError as error:
        raise ValueError(
            f"{path} cannot be read without TensorFlow: {error} (prepare it with file_format='array_record')"
        ) from error
    for index in range(len(source)):
        yield f"{path}/{split}[{index}]", {key: _as_text(value) for key, value in source[index].items()}


def _as_text(value: object) -> object:
    """TFDS gives bytes, arrays of bytes and numpy scalars; rows hold str, list and Python numbers."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, dict):
        return {key: _as_text(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_text(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _as_text(value.tolist())
    return value
