"""Rows of a Parquet file, as JSON would have them."""

from pathlib import Path

from pyarrow import ArrowException, parquet

from jaxmoe.datasets.json_rows import Placed, without_nulls

_ROWS = 256  # of a file turned into Python's objects at once


def read_parquet_rows(path: Path) -> list[Placed[object]]:
    """All rows of a file in its order, each placed as "row N", from 1.

    A table has every column in every row, and so null where a row has no such key: those keys are left out.

    Args:
      path: of a Parquet file.
    Raises: ValueError, in one line with the file, for a missing file and what is no whole Parquet file.
    """
    rows: list[Placed[object]] = []
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS):
                for row in batch.to_pylist():
                    rows.append(Placed(f"row {len(rows) + 1}", without_nulls(row)))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such data file") from None
    except (ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path}: no whole Parquet file ({' '.join(str(error).split())})") from None
    return rows
