"""Results of analyses as tables, and the tables as Markdown, CSV or JSON.

Not covered: computing them.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class ResultTable:
    """A table of an analysis.

    Attributes:
      name: for files.
      title: for readers.
      table: all columns are shown; the index is not.
      note: how to read it, and what went wrong.
      most_rows: longer tables are cut in Markdown, which people read.
    """

    name: str
    title: str
    table: pd.DataFrame
    note: str = ""
    most_rows: int = 60


def markdown(results: Sequence[ResultTable]) -> str:
    """Results for a reader: three decimals, long tables cut.

    Args:
      results: in the order shown.
    Returns: Markdown with a heading, a note and a table for each result.
    """
    return "\n".join(_section(one) for one in results)


def _section(one: ResultTable) -> str:
    lines = [f"## {one.title}", ""]
    lines += [one.note, ""] if one.note else []
    table = one.table.iloc[: one.most_rows]
    heads = [str(name).replace("_", " ") for name in table.columns]
    numeric = [pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]
    rows = [[_cell(value) for value in row] for row in table.itertuples(index=False, name=None)]
    widths = [max(3, *(len(row[i]) for row in [heads, *rows])) for i in range(len(heads))]

    def line(cells: Sequence[str]) -> str:
        placed = zip(cells, widths, numeric, strict=True)
        return "| " + " | ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in placed) + " |"

    rule = [f"{'-' * (w - 1)}:" if right else "-" * w for w, right in zip(widths, numeric, strict=True)]
    lines += [line(heads), line(rule), *map(line, rows), ""]
    if len(one.table) > one.most_rows:
        lines += [f"{len(one.table) - one.most_rows} more rows are in the CSV and JSON (--output).", ""]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        number = float(value)
        if not math.isfinite(number):
            return "–"
        if 0 < abs(number) < 0.0005:
            return f"{number:.0e}"
        return f"{number:.3f}" if abs(number) < 1000 else f"{number:.1f}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def as_json(results: Sequence[ResultTable], card: Mapping[str, object]) -> str:
    """Results with all digits, NaN as null.

    Args:
      results: in the order written.
      card: what was analyzed, and how.
    Returns: one JSON object: card, and tables by name with title, note and rows.
    """
    tables = {
        one.name: {
            "title": one.title,
            "note": one.note,
            "rows": json.loads(str(one.table.to_json(orient="records", double_precision=15))),
        }
        for one in results
    }
    return (
        json.dumps({"card": dict(card), "tables": tables}, indent=1, ensure_ascii=False, default=str) + "\n"
    )


def write(results: Sequence[ResultTable], output: Path, card: Mapping[str, object]) -> str:
    """Writes results in the form that the output's name asks for: a .json or .md file, or a folder of CSVs.

    Args:
      results: what to write.
      output: a .json or .md file, or a folder (no suffix).
      card: goes into the JSON file, or into the folder as card.json.
    Returns: a sentence that says what was written.
    Raises: ValueError for another suffix.
    """
    if output.suffix not in (".json", ".md", ""):
        raise ValueError(
            f"--output must be a .json or .md file, or a folder for CSV files; got {output.name}"
        )
    tables = "1 table is" if len(results) == 1 else f"{len(results)} tables are"
    if output.suffix:
        output.parent.mkdir(parents=True, exist_ok=True)
        text = as_json(results, card) if output.suffix == ".json" else markdown(results)
        output.write_text(text, encoding="utf-8")
        return f"{tables} in {output}"
    output.mkdir(parents=True, exist_ok=True)
    for one in results:
        one.table.to_csv(output / f"{one.name}.csv", index=False)
    notes = {one.name: {"title": one.title, "note": one.note} for one in results}
    text = json.dumps({"card": dict(card), "tables": notes}, indent=1, ensure_ascii=False, default=str)
    (output / "card.json").write_text(text + "\n", encoding="utf-8")
    return f"{tables} in {output}{'' if str(output).endswith('/') else '/'}"
