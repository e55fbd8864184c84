"""Published formats of competitive programming and of reinforcement learning: rows as they are published."""

import base64
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from rl.feedback.pool import Limits, Pool
from rl.feedback.problems import Problem
from rl.feedback.readers import load_problems
from tests.fuzz import INPUTS, check, damaged

ECHO = [{"input": "3\n", "output": "6\n", "testtype": "stdin"}]
CALLS = [{"input": "[1, 2]\n3", "output": "6", "testtype": "functional"}]


def packed(value: object) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def live(tests: list[dict[str, Any]], private: str, **more: Any) -> dict[str, Any]:
    return {
        "question_id": "1873_A",
        "question_content": "Double it.",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps(tests),
        "private_test_cases": private,
        "metadata": "{}",
        **more,
    }


METHOD = {"metadata": json.dumps({"func_name": "total"}), "starter_code": "class Solution:\n    def total"}
CONTEST = {
    "name": "1_A. Double",
    "description": "Double it.",
    "public_tests": {"input": ["3\n"], "output": ["6\n"]},
    "private_tests": {"input": [], "output": []},
    "generated_tests": {"input": ["4\n", "5\n"], "output": ["8\n", "10\n"]},
    "difficulty": 7,
    "solutions": {"language": [2, 3], "solution": ["int main() {}", "print(2 * int(input()))"]},
    "time_limit": {"seconds": 1, "nanos": 500_000_000},
}
CODEFORCES = {
    "id": "1/A",
    "description": "Double it.",
    "input_format": "One number.",
    "output_format": "Its double.",
    "interaction_format": None,
    "note": None,
    "examples": [{"input": "3", "output": "6"}],
    "official_tests": [{"input": "3", "output": "6"}, {"input": "4", "output": "8"}],
    "generated_checker": None,
    "input_mode": "stdio",
    "time_limit": 2.0,
    "rating": 800,
}
KODCODE = {
    "question_id": "Prefill_1_I",
    "question": "Write double(n).",
    "solution": "def double(n):\n    return 2 * n\n",
    "test": "from solution import double\n\nBIG = 10**6\n\ndef test_small():\n    assert double(3) == 6\n\n"
    "def test_big():\n    for n in (BIG, 2 * BIG):\n        assert double(n) == n + n\n",
    "test_info": [{"function_name": "double"}],
    "gpt_difficulty": "easy",
}
TACO = {"inputs": ["3\n"], "outputs": ["6\n"]}
DEEPCODER = {"problem": "Double it.", "tests": json.dumps(TACO), "solutions": ["print(2 * int(input()))"]}
PRIMEINTELLECT = json.dumps([{"type": "stdin_stdout", "input": "4", "output": "8"}])
FENCED = "```python\nprint(2 * int(input()))\n```"
PRIME = {
    "data_source": "codecontests",
    "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": "Double it."}],
    "ability": "code",
    "reward_model": {"style": "rule", "ground_truth": json.dumps(TACO)},
    "extra_info": {"split": "train", "index": 7},
}

DOUBLE = "print(2 * int(input()))"
SOLVED: dict[str, tuple[dict[str, Any], str, str, str]] = {  # row, its id, right program, wrong program
    "LiveCodeBench, private tests as JSON": (
        live(ECHO, json.dumps([{"input": "5\n", "output": "10\n"}])),
        "LiveCodeBench/1873_A",
        DOUBLE,
        "print(6)",
    ),
    "LiveCodeBench, private tests packed": (
        live(ECHO, packed(json.dumps([{"input": "5\n", "output": "10\n", "testtype": "stdin"}]))),
        "LiveCodeBench/1873_A",
        DOUBLE,
        "print(6)",
    ),
    "LiveCodeBench, a method": (
        live(CALLS, json.dumps([{"input": "[]\n4", "output": "4", "testtype": "functional"}]), **METHOD),
        "LiveCodeBench/1873_A",
        "class Solution:\n    def total(self, xs: List[int], n: int) -> int:\n        return sum(xs) + n\n",
        "class Solution:\n    def total(self, xs: List[int], n: int) -> int:\n        return 6\n",
    ),
    "CodeContests": (CONTEST, "CodeContests/1_A. Double", DOUBLE, "print(6)"),
    "Codeforces": (CODEFORCES, "Codeforces/1/A", DOUBLE, "print(6)"),
    "KodCode": (KODCODE, "KodCode/Prefill_1_I", KODCODE["solution"], "def double(n):\n    return 6\n"),
    "DeepCoder, TACO's tests": (DEEPCODER, "p.json:0", DOUBLE, "print(7)"),
    "DeepCoder, PrimeIntellect's tests": (
        DEEPCODER
        | {
            "tests": json.dumps([{"type": "stdin_stdout", "input": "4", "output": "8"}]),
            "solutions": [FENCED],
        },
        "p.json:0",
        DOUBLE,
        "print(7)",
    ),
    "verl": (PRIME, "codecontests/7", DOUBLE, "print(7)"),
}


def the_one(path: Path, row: dict[str, Any]) -> Problem:
    path.write_text(json.dumps([row]))
    [problem] = load_problems(path)
    return problem


@pytest.fixture(scope="module")
def pool():
    with Pool(1, Limits(time_s=10)) as pool:
        yield pool


@pytest.mark.parametrize("name", SOLVED)
def test_right_programs_pass_and_wrong_ones_fail(name: str, pool: Pool, tmp_path: Path):
    row, told, right, wrong = SOLVED[name]
    problem = the_one(tmp_path / "p.json", row)
    assert problem.id == told
    assert pool.grade(problem, right).verdict == "pass"
    assert pool.grade(problem, wrong).verdict == "fail"
    if problem.canonical_solution:
        assert pool.grade(problem, problem.canonical_solution).verdict == "pass"


def test_what_else_a_row_says(tmp_path: Path):
    contest = the_one(tmp_path / "p.json", CONTEST)
    assert (contest.test_count, contest.time_s, contest.tolerance) == (3, 1.5, 1e-5)
    in_cpp = CONTEST | {"solutions": {"language": [1, 2], "solution": ["print 1", "int main() {}"]}}
    assert the_one(tmp_path / "p.json", in_cpp).language == "cpp"
    prompt = the_one(tmp_path / "p.json", CODEFORCES).prompt
    assert prompt.startswith("Double it.\n\nInput\nOne number.")
    assert prompt.endswith("Example input\n3\nExample output\n6")
    assert the_one(tmp_path / "p.json", PRIME).prompt == "Double it."
    assert the_one(tmp_path / "p.json", KODCODE).setup == "BIG = 10 ** 6"


class Harmful:
    def __reduce__(self):
        return print, ("run",)


REFUSED = {
    "a pickle that runs something": (
        live(ECHO, packed(Harmful())),
        "hold a pickle of more than text",
    ),
    "no base64": (live(ECHO, "%%%"), "neither JSON nor zlib in base64"),
    "calls and texts": (live(ECHO + CALLS, "[]"), "some tests call a function and some read standard input"),
    "no function": (live(CALLS, "[]"), "functional tests must name one function"),
    "a file of its own": (CONTEST | {"input_file": "a.in"}, "read or write a file of their own"),
    "a checker": (CODEFORCES | {"generated_checker": "print(1)"}, "need a checker program"),
    "a judge": (CODEFORCES | {"interaction_format": "Ask."}, "talk to a judge"),
    "no code": (PRIME | {"ability": "math"}, "its ability is 'math'; only code can be graded by tests"),
    "pytest": (KODCODE | {"test": "import pytest\n" + KODCODE["test"]}, "its tests use pytest"),
    "fixtures": (
        KODCODE | {"test": "from solution import f\ndef test_a(tmp_path):\n    assert f(1)\n"},
        "test_a takes fixtures",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_graded_is_refused_by_name(name: str, tmp_path: Path, capsys):
    row, said = REFUSED[name]
    with pytest.raises(ValueError, match=said) as error:
        the_one(tmp_path / "p.json", row)
    assert "\n" not in str(error.value)
    assert capsys.readouterr().out == ""


def test_private_tests_that_unpack_without_end_are_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("rl.feedback.readers.livecodebench._MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="unpack to more than 1,000 bytes"):
        the_one(tmp_path / "p.json", live(ECHO, packed(" " * 2000)))


def test_parquet_files_hold_the_same_rows(tmp_path: Path):
    path = tmp_path / "p.parquet"
    parquet.write_table(pa.Table.from_pylist([PRIME]), path)
    [problem] = load_problems(path)
    assert problem == the_one(tmp_path / "p.json", PRIME)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"p\.parquet is no whole Parquet file") as error:
        load_problems(path)
    assert "\n" not in str(error.value)


def test_damaged_files_of_these_formats(tmp_path: Path):
    rows = [row for row, *_ in SOLVED.values()]
    path = tmp_path / "p.jsonl"

    def read(data: bytes) -> object:
        path.write_bytes(data)
        return load_problems(path, bad="skip")

    assert check(read, damaged(rows, INPUTS, seed=7), (ValueError,)) > INPUTS // 10
