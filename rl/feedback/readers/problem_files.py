"""Rows of problem files: JSON, JSON lines, either compressed by gzip, and Parquet.

Memory is bounded by the file's own size and what jaxmoe.gzip_files allows.
"""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyarrow import ArrowException, parquet

from jaxmoe.gzip_files import open_gzip
from rl.feedback.readers.row_format import read_json

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".parquet")
_ROWS = 256  # of a Parquet file held at once


def is_problem_file(path: Path) -> bool:
    """Whether a file is one of these, by its name."""
    return path.name.endswith(SUFFIXES)


def rows_of(path: Path) -> Iterator[tuple[int, Any]]:
    """(number, row) of a file: the items of one JSON list, one JSON object, or one object per line.

    Only a line feed ends a line: JSON text may contain any other separator.

    Raises: ValueError naming the file, and the line, that is not JSON.
    """
    if path.suffix == ".parquet":
        yield from enumerate(_rows_of_parquet(path))
        return
    text = _text_of(path)
    try:
        whole = read_json(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise ValueError(f"{path.name} is neither JSON nor JSON lines: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} cannot be read: {_reason(error)}") from error
    else:
        yield from enumerate(whole if isinstance(whole, list) else [whole])
        return
    number = 0
    for place, line in enumerate(io.StringIO(text, newline="\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, read_json(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path.name}, line {place}, is no JSON: {_reason(error)}") from error
        number += 1


def _rows_of_parquet(path: Path) -> Iterator[object]:
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS):
                yield from batch.to_pylist()
    except (ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path.name} is no whole Parquet file: {' '.join(str(error).split())}") from error


def _reason(error: Exception) -> str:
    return "nested too deep" if isinstance(error, RecursionError) else str(error)


def _text_of(path: Path) -> str:
    """The text of a file; bytes that are not UTF-8 survive as surrogates. Raises: ValueError for a gzip
    file that is damaged, or a bomb.
    """
    if path.suffix != ".gz":
        return path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    with open_gzip(path) as file:
        return file.read().decode("utf-8-sig", errors="surrogateescape")
