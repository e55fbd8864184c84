"""Reading files of training rows and of closed-book questions, with errors that name file and line.

Accepted are a JSON list, JSON lines or a Parquet file, of any mixture of the formats of
`jaxmoe.datasets.formats`; and for closed-book questions rows of `question` with `answers` (a list, the first
canonical) or `answer`.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

from jaxmoe.datasets.formats import read_row
from jaxmoe.datasets.formats.fields import Row, brief, string
from jaxmoe.datasets.json_rows import Placed, read_json_rows
from jaxmoe.datasets.parquet_rows import read_parquet_rows


def read_instructions(path: str | Path) -> list[Row]:
    """Rows of a file, each with task_type and either instruction, input, output, or messages, or text.

    Raises: ValueError, in one line with file and line (for a list: row), if anything is malformed or nothing
      is there.
    """
    return [row.value for row in placed_instructions(path)]


def placed_instructions(path: str | Path) -> list[Placed[Row]]:
    """As read_instructions, each row with its place in the file."""
    return _read(Path(path), read_row)


def read_questions(path: str | Path) -> list[Row]:
    """Rows of a closed-book question file: question, answers (the first canonical).

    Raises: as read_instructions.
    """
    return [row.value for row in _read(Path(path), _question)]


def content_hash(path: str | Path) -> str:
    """Short hash of a file's bytes: prepared data is named by it, so that a changed file is never served
    from what was prepared before."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def _read(path: Path, check: Callable[[object], Row]) -> list[Placed[Row]]:
    rows: list[Placed[Row]] = []
    read_rows = read_parquet_rows if path.suffix.lower() == ".parquet" else read_json_rows
    for place, value in read_rows(path):
        try:
            rows.append(Placed(place, check(value)))
        except ValueError as error:
            raise ValueError(f"{path}:{place}: {error}") from None
    if not rows:
        raise ValueError(f"{path}: the data set is empty; it needs at least one row")
    return rows


def _question(value: object) -> Row:
    if not isinstance(value, dict):
        raise ValueError(f"a row must be a JSON object; got {type(value).__name__}")
    answers = value.get("answers", value.get("answer"))
    answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a for a in answers):
        raise ValueError(
            f"answers must be a non-empty list of strings (or answer: a string); got {brief(answers)}"
        )
    return {"question": string(value, "question"), "answers": answers}
