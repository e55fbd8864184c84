"""Readers of published problem sets: one file and one line of FORMATS each. A row is recognized by its
fields.

| data set        | compared | as its own grader, except                                                  |
|-----------------|----------|----------------------------------------------------------------------------|
| APPS, TACO      | numeric  | printed lines count in their order; floats returned may differ by 1e-6      |
| APPS+           | numeric  | as APPS; a row may name compare, tolerance, checker, preamble                |
| HumanEval, MBPP | python   | the tests' own operators decide; numpy arrays count as lists               |
| HumanEval+, MBPP+ | python | as above; every test of the row is run                                     |
| LiveCodeBench, DeepCoder, verl | numeric | as APPS                                                      |
| CodeContests    | numeric  | lines count, where its own grader compares words                            |
| Codeforces      | numeric  | problems with a checker program or a judge are refused                       |
| KodCode         | python   | tests that use pytest itself are refused                                     |
"""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from rl.feedback.judging import in_one_line
from rl.feedback.problems import Problem, fault_of
from rl.feedback.readers import (
    apps,
    apps_plus,
    code_contests,
    codeforces,
    deepcoder,
    humaneval,
    kodcode,
    livecodebench,
    mbpp,
    verl,
)
from rl.feedback.readers.problem_files import SUFFIXES, is_problem_file, rows_of
from rl.feedback.readers.row_format import RowFormat

log = logging.getLogger(__name__)

# A row is read by the first format whose fields it has.
FORMATS: tuple[RowFormat, ...] = (
    humaneval.FORMAT,
    mbpp.FORMAT,
    apps.FORMAT,
    apps_plus.FORMAT,
    livecodebench.FORMAT,
    code_contests.FORMAT,
    codeforces.FORMAT,
    deepcoder.FORMAT,
    kodcode.FORMAT,
    verl.FORMAT,
)
_NAMES = ", ".join(form.name for form in FORMATS)
_BAD_ROW = (
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    SyntaxError,
    RecursionError,
    MemoryError,
)


def problem_of_row(row: object, name: str) -> Problem:
    """The problem of one row.

    Args:
      row: as JSON gives it.
      name: its id, if it has none of its own.
    Returns: the problem, read by the first format whose fields the row has.
    Raises: ValueError for a row of no known format; what RowFormat.read raises for a bad one.
    """
    if isinstance(row, dict):
        for form in FORMATS:
            if form.fields <= row.keys():
                return form.read(row, name)
    has = (
        f"has {', '.join(sorted(map(str, row)))[:200] or 'no fields'}"
        if isinstance(row, dict)
        else f"is a {type(row).__name__}"
    )
    raise ValueError(f"no known format: the row {has}; need the fields of {_NAMES}")


def _readings(path: Path) -> Iterator[tuple[str, Callable[[], Problem]]]:
    """A name and a reading function for each problem at a path."""
    if (path / "question.txt").exists():
        yield path.name, lambda: apps.read_folder(path)
    elif path.is_dir():
        for entry in sorted(path.iterdir()):
            if entry.is_dir() or is_problem_file(entry):
                yield from _readings(entry)
    else:
        for number, row in rows_of(path):
            name = f"{path.name}:{number}"
            yield name, lambda row=row, name=name: problem_of_row(row, name)


def load_problems(path: str | Path, *, bad: Literal["error", "skip"] = "error") -> list[Problem]:
    """Reads all problems at a path: an APPS folder, a folder of those, a JSON or JSON lines
    file (or .gz), or a Parquet file.

    Args:
      path: the folder or file.
      bad: what to do about problems without tests, with code that does not parse, of unknown format, or
        with an id seen before: raise, or leave them out with one logged line that names them.
    Returns: the problems in the order of the files.
    Raises: FileNotFoundError; ValueError for a file that cannot be read, naming up to ten bad problems, or
      if no problem is left.

    >>> import json, pathlib, tempfile
    >>> row = {"prompt": "Double.", "fn_name": "f", "inputs": [[3]], "outputs": [6]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "problems.json")
    ...     written = file.write_text(json.dumps([row]))
    ...     [problem] = load_problems(file)
    >>> problem.id, problem.kind
    ('problems.json:0', 'call')
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"no problems at {path}; expected an APPS folder or a file {', '.join(SUFFIXES)}"
        )
    problems: dict[str, Problem] = {}
    faults: list[str] = []
    for name, reading in _readings(path):
        try:
            problem = reading()
            wrong = fault_of(problem) or ("repeats an id" if problem.id in problems else None)
        except _BAD_ROW as error:
            faults.append(f"{name}: {_told(error)}")
            continue
        if wrong:
            faults.append(f"{_told(problem.id)}: {_told(wrong)}")
        else:
            problems[problem.id] = problem
    if faults:
        shown = "; ".join(faults[:10]) + (f"; and {len(faults) - 10} more" if len(faults) > 10 else "")
        message = f"{len(faults)} of {len(faults) + len(problems)} problems at {path} cannot be used: {shown}"
        if bad == "error":
            raise ValueError(f"{message} (bad='skip' leaves them out)")
        log.warning("%s; left out", message)
    if not problems:
        raise ValueError(f"no problem at {path}; expected {_NAMES} data")
    return list(problems.values())


def _told(said: object) -> str:
    if isinstance(said, KeyError):
        return f"lacks the field {said}"
    if isinstance(said, (RecursionError, MemoryError)):
        return "is nested too deep"
    return in_one_line(said, 300)
