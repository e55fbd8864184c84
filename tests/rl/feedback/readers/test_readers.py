"""Reading problems: the published formats, bad rows and files, and whatever bytes there may be."""
# ruff: noqa: E501 (tables of cases read best one a line)

import gzip
import json
import logging
import random
import re
from pathlib import Path

import pytest

from rl.feedback.pool import Limits, Pool
from rl.feedback.problems import Problem
from rl.feedback.readers import FORMATS, load_problems
from rl.feedback.readers.row_format import long_int, read_json, text_of
from tests.fuzz import INPUTS, SEED

APPS_PLUS = {
    "id": "double",
    "prompt": "Double.",
    "canonical_solution": "def f(n):\n    return n * 2\n",
    "fn_name": "f",
    "starter_code": "def f(n):",
    "inputs": [[3]],
    "outputs": [6],
    "difficulty": "introductory",
}
STDIN = {
    "id": "echo",
    "prompt": "Echo.",
    "canonical_solution": "def main():\n    print(input())\n",
    "fn_name": None,
    "starter_code": "def main():",
    "inputs": ["a\n", "b\n"],
    "outputs": ["a\n", "b\n"],
}
APPS = {
    "problem_id": 7,
    "question": "Sum.",
    "starter_code": "class Solution:\n    def f(self, x: List[int]) -> int:\n",
    "solutions": json.dumps(
        ["class Solution:\n    def f(self, x: List[int]) -> int:\n        return sum(x)\n", "x"]
    ),
    "input_output": json.dumps({"fn_name": "f", "inputs": [[[1, 2]]], "outputs": [3]}),
    "difficulty": "interview",
}
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": "import math\n\ndef half(n):\n    return n / 2\n\ndef f(n):\n",
    "entry_point": "f",
    "canonical_solution": "    return n\n",
    "test": "METADATA = {}\ndef check(candidate):\n    assert candidate(1) == 1\n    assert True, 'this prints'\n",
}
MBPP = {
    "task_id": 7,
    "text": "Return it.",
    "code": "def g(n):\r\n    return n",
    "test_setup_code": "x = 3\r\ny = 4",
    "test_list": ["assert g(x) == 3", "assert (g(y)) == 4 "],
    "challenge_test_list": [],
}
LOOP = """\
import numpy as np

def assertion(out, exp, atol):
    assert np.allclose(out, exp, rtol=1e-07, atol=atol)

"""
PLUS_CHECK = (
    LOOP
    + """\
def check(candidate):
    inputs = [[1], [2.5]]
    results = [1, 2.5]
    for i, (inp, exp) in enumerate(zip(inputs, results)):
        assertion(candidate(*inp), exp, 1e-06)
"""
)
PLUS_SCRIPT = (
    LOOP
    + """\
inputs = [[1], [2.5]]
results = [1, 2.5]
for i, (inp, exp) in enumerate(zip(inputs, results)):
    assertion(g(*inp), exp, 0)
"""
)


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def the_one(path: Path, row: dict) -> Problem:
    [problem] = load_problems(write(path / "p.json", [row]))
    return problem


def test_apps_plus(tmp_path: Path):
    double, echo = load_problems(write(tmp_path / "p.json", [APPS_PLUS, STDIN]))
    assert (double.kind, double.fn_name, double.entry, double.test_count) == ("call", "f", None, 1)
    assert (echo.kind, echo.entry, echo.difficulty, echo.test_count) == ("stdin", "main", "unknown", 2)
    assert (double.compare, double.tolerance, double.checker) == ("numeric", None, "")
    own = {
        "compare": "strict",
        "tolerance": 0.01,
        "preamble": "",
        "checker": "def check(a, b, c): return True",
    }
    other = the_one(tmp_path, APPS_PLUS | own)
    assert {name: getattr(other, name) for name in own} == own


def test_apps_rows_and_taco(tmp_path: Path):
    problem = the_one(tmp_path, APPS)
    assert (problem.id, problem.kind, problem.difficulty, problem.compare) == (
        "7",
        "call",
        "interview",
        "numeric",
    )
    assert problem.canonical_solution.startswith("class Solution")
    assert "from typing import List" in problem.preamble
    keys = json.dumps({"fn_name": "f", "inputs": [[{"1": 5}, {"2": 6}], [{"a": 5}]], "outputs": [5, 5]})
    assert the_one(tmp_path, APPS | {"input_output": keys}).inputs == [[{1: 5}, {"2": 6}], [{"a": 5}]]


def test_apps_folders(tmp_path: Path):
    for name, tests in {
        "0000": {"inputs": ["1\n"], "outputs": ["1\n"]},
        "0001": {"inputs": [[1]], "outputs": [[1]], "fn_name": "f"},
        "0002": {"inputs": [["1", "2"]], "outputs": [["1"]]},
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "question.txt").write_text("Why?")
        write(folder / "input_output.json", tests)
        write(folder / "solutions.json", ["print(input())", "other"])
        write(folder / "metadata.json", {"difficulty": "competition"})
    first, second, third = load_problems(tmp_path)
    assert (first.id, first.kind, first.difficulty) == ("0000", "stdin", "competition")
    assert (first.canonical_solution, first.prompt) == ("print(input())", "Why?")
    assert (second.kind, second.inputs) == ("call", [[1]])
    assert (third.inputs, third.outputs) == (["1\n2"], ["1"])
    assert load_problems(tmp_path / "0001") == [second]


def test_humaneval(tmp_path: Path):
    path = tmp_path / "h.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps(HUMANEVAL) + "\n\n" + json.dumps(HUMANEVAL | {"task_id": "HumanEval/1"}) + "\n")
    problem = load_problems(path)[0]
    assert (problem.kind, problem.compare) == ("assert", "python")
    assert problem.canonical_solution == HUMANEVAL["prompt"] + "    return n\n"
    assert problem.asserts == ("assert candidate(1) == 1",)
    assert problem.canonical_solution.startswith(problem.starter_code)
    # what the prompt gives besides the function to write, for tests that use it
    assert problem.setup == "import math\n\ndef half(n):\n    return n / 2"


def test_mbpp(tmp_path: Path):
    problem = the_one(tmp_path, MBPP)
    assert (problem.id, problem.fn_name, problem.setup, problem.compare) == (
        "MBPP/7",
        "g",
        "x = 3\ny = 4",
        "python",
    )
    assert problem.asserts == ("assert g(x) == 3", "assert (g(y)) == 4")
    assert "\r" not in problem.canonical_solution
    assert "assert g(x) == 3" in problem.prompt


RELEASED = {"base_input": [[1], [2]], "plus_input": [[2.5], [-1]], "atol": 1e-6}
PLUS = {
    "HumanEval+ with a check": HUMANEVAL | {"test": PLUS_CHECK},
    "HumanEval+ as released": {k: v for k, v in HUMANEVAL.items() if k != "test"} | RELEASED,
    "MBPP+": MBPP | {"test": PLUS_SCRIPT, "test_imports": ["import math"]},
}


def test_plus_tests_are_run(tmp_path: Path):
    """The solution passes them; a program that is right for the base inputs alone does not."""
    problems = {name: the_one(tmp_path, row) for name, row in PLUS.items()}
    with Pool(1, Limits(time_s=20)) as pool:
        for name, problem in problems.items():
            assert pool.grade(problem, problem.canonical_solution).verdict == "pass", name
            source = f"def {problem.fn_name}(n):\n    return n if n == int(n) and n > 0 else 0\n"
            assert pool.grade(problem, source).verdict == "fail", name
    assert [p.test_count for p in problems.values()] == [1, 2, 3]


def test_bad_problems_are_named_or_left_out_with_a_count(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rows = [
        APPS_PLUS,
        APPS_PLUS,
        APPS_PLUS | {"id": "untested", "inputs": [], "outputs": []},
        APPS_PLUS | {"id": "broken", "canonical_solution": "def f(n)\n"},
        {"what": 1},
        [3],
        APPS_PLUS | {"inputs": 3},
        MBPP | {"test_list": [3]},
        HUMANEVAL | {"test": "x = 1"},
    ]
    path = write(tmp_path / "bad.json", rows)
    with pytest.raises(
        ValueError, match=r"8 of 9 problems .* cannot be used: double: repeats an id"
    ) as error:
        load_problems(path)
    for reason in (
        "untested: has no tests",
        "broken: .* does not parse",
        r"bad.json:4: no known format: the row has what; need the fields of HumanEval, MBPP, APPS, APPS\+",
        "bad.json:5: no known format: the row is a list",
        "bad.json:6: inputs and outputs must be lists",
        "bad.json:8: the test defines no function `check`",
    ):
        assert re.search(reason, str(error.value)), reason
    assert "\n" not in str(error.value)
    with caplog.at_level(logging.WARNING):
        assert [p.id for p in load_problems(path, bad="skip")] == ["double"]
    assert "8 of 9 problems" in caplog.text
    assert "left out" in caplog.text


# content of a file: what is said of it
BAD_FILES = {
    b"{": "neither JSON nor JSON lines",
    b"": "neither JSON nor JSON lines",
    b'{"a": 1}\n{"b"': "line 2, is no JSON",
    b"[" * 100_000: "nested too deep",
    b"1" * 200_000: "numbers may have 100,000 digits; got one of 200,000",
    b"[]": "no problem at",
    b"\xff\xfe\x00": "neither JSON nor JSON lines",
}


@pytest.mark.parametrize("content", BAD_FILES, ids=range(len(BAD_FILES)))
def test_files_that_cannot_be_read_are_named(content: bytes, tmp_path: Path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=BAD_FILES[content]) as error:
        load_problems(tmp_path / "x.json")
    assert "\n" not in str(error.value)


def test_missing_places_and_other_files(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="expected an APPS folder"):
        load_problems(tmp_path / "nowhere")
    (tmp_path / "x.arrow").write_bytes(b"ARROW1")
    with pytest.raises(ValueError, match="no problem at"):
        load_problems(tmp_path)


def test_gzip_bombs_and_broken_gzip_files_are_refused(tmp_path: Path):
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(b" " * (80 << 20)))
    with pytest.raises(ValueError, match="unpacks to more than 67,108,864 bytes"):
        load_problems(path)
    path.write_bytes(gzip.compress(json.dumps([APPS_PLUS]).encode())[:-6])
    with pytest.raises(ValueError, match="no whole gzip file"):
        load_problems(path)


def test_only_a_line_feed_ends_a_line_and_text_survives(tmp_path: Path):
    odd = "a\u2028b\u0085c\x0cd\ud800"
    lines = [
        json.dumps(APPS_PLUS | {"id": f"{i}{odd}", "prompt": odd}, ensure_ascii=i == 1) for i in range(2)
    ]
    path = tmp_path / "x.jsonl"
    path.write_bytes("\n".join(lines).encode("utf-8", errors="surrogatepass"))
    first, second = load_problems(path)
    assert second.prompt == odd
    assert first.prompt[:7] == odd[:7]


def test_numbers_of_any_length_are_read(tmp_path: Path):
    tests = '{"fn_name": "f", "inputs": [[1]], "outputs": [1' + "0" * 5000 + "]}"
    assert the_one(tmp_path, APPS | {"input_output": tests}).outputs == [10**5000]
    folder = tmp_path / "0000"
    folder.mkdir()
    (folder / "question.txt").write_text("q")
    (folder / "input_output.json").write_text(tests)
    assert load_problems(folder)[0].outputs == [10**5000]
    assert long_int("-" + "9" * 9001) == 1 - 10**9001
    assert read_json("[1, -2.5, 1e3]") == [1, -2.5, 1000.0]


def test_lines_of_input_may_be_a_list():
    assert text_of(["1 2", 3, ["x", "y"]]) == "1 2\n3\nx\ny"


def test_every_format_is_named_once():
    assert len({form.name for form in FORMATS}) == len(FORMATS)
    assert len({form.fields for form in FORMATS}) == len(FORMATS)


JUNK = (
    None,
    True,
    0,
    -1,
    1.5,
    1e400,
    "",
    "x",
    "\0",
    "\ud800",
    "assert",
    "def f(",
    "(" * 300,
    [],
    {},
    [[]],
    [None],
    {"fn_name": 3},
    {"inputs": [1], "outputs": {}},
    "{",
    "[" * 50,
    10**4200,
)


def mutated(rng: random.Random) -> bytes:
    """A file of one to three rows in which fields, or bytes, are something else."""
    rows = []
    for _ in range(rng.randint(1, 3)):
        row = dict(rng.choice((APPS_PLUS, STDIN, APPS, HUMANEVAL, MBPP, *PLUS.values())))
        for _ in range(rng.randint(0, 3)):
            name = rng.choice(list(row) or ["x"])
            if rng.random() < 0.3:
                row.pop(name, None)
            else:
                row[name] = rng.choice(JUNK)
        rows.append(row if rng.random() < 0.95 else rng.choice(JUNK))
    lines = rng.random() < 0.5
    content = ("\n" if lines else "").join(
        json.dumps(row if lines else rows) for row in (rows if lines else [0])
    )
    data = bytearray(content.encode())
    for _ in range(rng.choice((0, 0, 1, 5))):
        if data:
            data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data[: rng.randrange(len(data) + 1)] if rng.random() < 0.1 else data)


def outcome(path: Path, bad) -> tuple[int, str]:
    """How many problems were read, or what was said instead."""
    try:
        return len(load_problems(path, bad=bad)), ""
    except ValueError as error:
        return 0, str(error)


def test_what_is_said_of_a_row_can_be_printed(tmp_path: Path, caplog):
    """An id with half a surrogate pair would end the run in the stream that the line is written to."""
    path = tmp_path / "f.jsonl"
    rows = [APPS_PLUS, APPS_PLUS | {"id": "\udc9b", "inputs": []}]
    path.write_text("\n".join(map(json.dumps, rows)))
    load_problems(path, bad="skip")
    assert "\\udc9b: has" in caplog.text.encode().decode()


def test_any_file_gives_problems_or_one_line(tmp_path: Path):
    rng = random.Random(f"{SEED} 6")
    path = tmp_path / "f.jsonl"
    read = 0
    for _ in range(INPUTS):
        path.write_bytes(mutated(rng))
        count, said = outcome(path, rng.choice(("error", "skip")))
        read += count
        assert "\n" not in said
        assert len(said.encode()) < 8000
    assert read > INPUTS // 10


@pytest.mark.parametrize(
    ("name", "count"), [("apps_plus_format.json", 448), ("HumanEval.jsonl.gz", 164), ("mbpp.jsonl", 974)]
)
def test_reference_files_are_read_whole(shared: Path, name: str, count: int):
    assert len(load_problems(shared / "data/code" / name)) == count
