"""Code problems: one record, and readers for APPS, APPS+, HumanEval and MBPP files.

`python -m rl.feedback.verify FOLDER` runs every canonical solution in the sandbox and lists those
that do not pass. Formats: docs/formats.md. A file is recognised by its fields, not by its name.
"""

import gzip
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rl.feedback.assert_tests import called_function, split_check
from rl.sandbox.execution_trace import parse

log = logging.getLogger(__name__)

Kind = Literal["call", "stdin", "assert"]
_ENTRY = re.compile(r"\s*def\s+(\w+)\s*\(\s*\)\s*(->[^:]*)?:")


@dataclass(frozen=True)
class Problem:
    """One programming problem with its tests.

    A test is inputs[i] -> outputs[i]: an argument list and the value returned where there is an
    `fn_name`, else the text on standard input and the text printed. Assert-style problems (HumanEval,
    MBPP) have `asserts` instead: statements over `fn_name`, run after `setup`.

    `canonical_solution` is a whole program; `starter_code` is what a completion continues.
    `time_s` is this problem's own limit for each test (see rl.feedback.pool.reference_time_limits).
    """

    id: str
    prompt: str
    starter_code: str = ""
    canonical_solution: str = ""
    fn_name: str | None = None
    inputs: Sequence[Any] = ()
    outputs: Sequence[Any] = ()
    difficulty: str = "unknown"
    class_name: str | None = None
    asserts: tuple[str, ...] = ()
    setup: str = ""
    time_s: float | None = None
    language: str = "python"
    source: str = ""
    license: str = field(default="", repr=False)

    @property
    def kind(self) -> Kind:
        """How a test reaches the program."""
        if self.asserts:
            return "assert"
        return "stdin" if self.fn_name is None else "call"

    @property
    def entry(self) -> str | None:
        """The function without arguments that a stdin solution defines and the grader calls (APPS+)."""
        match = _ENTRY.match(self.starter_code) if self.kind == "stdin" else None
        return match[1] if match else None

    @property
    def test_count(self) -> int:
        """How many tests there are."""
        return len(self.asserts) or len(self.inputs)


def _text(value: Any) -> str:
    """Text for standard input or output: APPS has it whole or as a list of lines."""
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _tests(data: dict) -> dict[str, Any]:
    inputs, outputs = data["inputs"], data["outputs"]
    if data.get("fn_name") is None:
        return {"inputs": [_text(i) for i in inputs], "outputs": [_text(o) for o in outputs]}
    return {"inputs": inputs, "outputs": outputs, "fn_name": data["fn_name"]}


def _first_solution(value: Any) -> str:
    solutions = json.loads(value) if isinstance(value, str) and value.lstrip().startswith("[") else value
    if isinstance(solutions, list):
        return solutions[0] if solutions else ""
    return solutions or ""


def _from_apps_plus(row: dict, name: str) -> Problem:
    return Problem(
        id=str(row.get("id", name)),
        prompt=row["prompt"],
        starter_code=row.get("starter_code") or "",
        canonical_solution=row.get("canonical_solution") or "",
        difficulty=row.get("difficulty") or "unknown",
        class_name=row.get("class_name"),
        language=row.get("language") or "python",
        source=row.get("source") or "",
        license=row.get("license") or "",
        time_s=row.get("time_s"),
        **_tests(row),
    )


def _from_apps_row(row: dict, name: str) -> Problem:
    """APPS as one JSON row a problem, with JSON inside its fields."""
    tests = row["input_output"]
    return Problem(
        id=str(row.get("problem_id", row.get("id", name))),
        prompt=row["question"],
        starter_code=row.get("starter_code") or "",
        canonical_solution=_first_solution(row.get("solutions")),
        difficulty=row.get("difficulty") or "unknown",
        source="APPS",
        **_tests(
            json.loads(tests) if isinstance(tests, str) and tests else tests or {"inputs": [], "outputs": []}
        ),
    )


def _from_apps_folder(folder: Path) -> Problem:
    def read(name: str, default: str = "") -> str:
        path = folder / name
        return path.read_text() if path.exists() else default

    return _from_apps_row(
        {
            "id": folder.name,
            "question": read("question.txt"),
            "starter_code": read("starter_code.py"),
            "solutions": read("solutions.json", "[]"),
            "input_output": read("input_output.json"),
            "difficulty": json.loads(read("metadata.json", "{}")).get("difficulty"),
        },
        folder.name,
    )


def _from_humaneval(row: dict, name: str) -> Problem:
    setup, asserts = split_check(row["test"], row["entry_point"])
    return Problem(
        id=str(row.get("task_id", name)),
        prompt=row["prompt"],
        starter_code=row["prompt"],
        canonical_solution=row["prompt"] + row["canonical_solution"],
        fn_name=row["entry_point"],
        asserts=asserts,
        setup=setup,
        source="HumanEval",
    )


def _from_mbpp(row: dict, name: str) -> Problem:
    tests = tuple(test.replace("\r\n", "\n").strip() for test in row["test_list"])
    code = row["code"].replace("\r\n", "\n")
    text = row.get("text") or row["prompt"]
    setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or [])
    return Problem(
        id=f"MBPP/{row.get('task_id', name)}",
        prompt="\n".join([text, "Your code should pass these tests:", *tests]),
        canonical_solution=code,
        fn_name=called_function(tests, code),
        asserts=tests,
        setup=setup.replace("\r\n", "\n"),
        source="MBPP",
    )


_READERS: list[tuple[frozenset[str], Callable[[dict, str], Problem]]] = [
    (frozenset(("entry_point", "test", "prompt")), _from_humaneval),
    (frozenset(("test_list", "code")), _from_mbpp),
    (frozenset(("question", "input_output")), _from_apps_row),
    (frozenset(("prompt", "inputs", "outputs")), _from_apps_plus),
]


def _from_row(row: Any, name: str) -> Problem:
    if isinstance(row, dict):
        for fields, reader in _READERS:
            if fields <= row.keys():
                return reader(row, name)
    has = f"has {', '.join(sorted(row))}" if isinstance(row, dict) else f"is a {type(row).__name__}"
    raise ValueError(f"no known format: the row {has}; need the fields of APPS, APPS+, HumanEval or MBPP")


def _rows(path: Path) -> list[Any]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        text = file.read()
    try:
        whole = json.loads(text)
        return whole if isinstance(whole, list) else [whole]
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise ValueError(f"{path} is neither JSON nor JSON lines: {error}") from error
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def _readings(path: Path) -> Iterator[tuple[str, Callable[[], Problem]]]:
    """A name and a reading function for each problem at a path."""
    if (path / "question.txt").exists():
        yield path.name, lambda: _from_apps_folder(path)
    elif path.is_dir():
        for entry in sorted(path.iterdir()):
            if entry.is_dir() or re.search(r"\.jsonl?(\.gz)?$", entry.name):
                yield from _readings(entry)
    else:
        for i, row in enumerate(_rows(path)):
            yield f"{path.name}:{i}", lambda row=row, i=i: _from_row(row, f"{path.name}:{i}")


def fault(problem: Problem) -> str | None:
    """What is wrong with a problem as read, in words; None if nothing is."""
    if problem.test_count == 0:
        return "has no tests"
    if len(problem.inputs) != len(problem.outputs):
        return f"has {len(problem.inputs)} inputs but {len(problem.outputs)} outputs"
    if problem.kind == "call" and not all(isinstance(arguments, list) for arguments in problem.inputs):
        return "is call-based, but an input is not a list of arguments"
    if problem.language == "python" and problem.canonical_solution:
        try:
            parse(problem.canonical_solution)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            return f"has a canonical solution that does not parse ({error})"
    return None


def load(path: str | Path, *, bad: Literal["error", "skip"] = "error") -> list[Problem]:
    """Reads all problems at a path: an APPS folder, a folder of those, a JSON or JSON lines file (or .gz).

    Args:
      bad: what to do about problems without tests, with a solution that does not parse, of unknown
        format, or with an id seen before: raise, or leave them out with one logged line that names them.
    Raises: FileNotFoundError; ValueError naming up to ten bad problems, or if no problem is left.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"no problems at {path}; expected an APPS folder, a .json or a .jsonl[.gz] file"
        )
    problems: dict[str, Problem] = {}
    faults: list[str] = []
    for name, reading in _readings(path):
        try:
            problem = reading()
        except (KeyError, ValueError, TypeError, SyntaxError) as error:
            faults.append(f"{name}: {error}")
            continue
        wrong = "repeats an id" if problem.id in problems else fault(problem)
        if wrong:
            faults.append(f"{problem.id}: {wrong}")
        else:
            problems[problem.id] = problem
    if faults:
        shown = "; ".join(faults[:10]) + (f"; and {len(faults) - 10} more" if len(faults) > 10 else "")
        message = f"{len(faults)} of {len(faults) + len(problems)} problems at {path} cannot be used: {shown}"
        if bad == "error":
            raise ValueError(f"{message} (bad='skip' leaves them out)")
        log.warning("%s; left out", message)
    if not problems:
        raise ValueError(f"no problem at {path}; expected APPS, APPS+, HumanEval or MBPP data")
    return list(problems.values())


def split(
    problems: Sequence[Problem], held_out: float, *, salt: str = ""
) -> tuple[list[Problem], list[Problem]]:
    """(training, held-out) problems; which side one falls on depends on its id and the salt alone.

    Raises: ValueError if the share lies outside [0, 1].
    """
    if not 0.0 <= held_out <= 1.0:
        raise ValueError(f"the held-out share must lie in [0, 1]; got {held_out}")

    def position(problem: Problem) -> float:
        digest = hashlib.sha256(f"{salt}\0{problem.id}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    sides: tuple[list[Problem], list[Problem]] = ([], [])
    for problem in problems:
        sides[position(problem) < held_out].append(problem)
    return sides


def without_solution(problem: Problem) -> Problem:
    """The problem without its canonical solution."""
    return replace(problem, canonical_solution="")
