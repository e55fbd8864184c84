"""Reading problems: the four formats, what is wrong with bad ones, splits, --verify."""
# ruff: noqa: E501 (tables of cases read best one a line)

import gzip
import json
import logging
import re
from pathlib import Path

import pytest

from rl.feedback import problems, verify
from rl.feedback.problems import Problem, load

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
    "difficulty": "interview",
}
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": "def f(n):\n",
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


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_apps_plus(tmp_path: Path):
    double, echo = load(write(tmp_path / "p.json", [APPS_PLUS, STDIN]))
    assert (double.kind, double.fn_name, double.entry, double.test_count) == ("call", "f", None, 1)
    assert (echo.kind, echo.entry, echo.difficulty, echo.test_count) == ("stdin", "main", "interview", 2)


def test_humaneval(tmp_path: Path):
    path = tmp_path / "h.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps(HUMANEVAL) + "\n" + json.dumps(HUMANEVAL | {"task_id": "HumanEval/1"}) + "\n")
    problem = load(path)[0]
    assert problem.kind == "assert"
    assert problem.canonical_solution == "def f(n):\n    return n\n"
    assert problem.asserts == ("assert candidate(1) == 1",)
    assert problem.canonical_solution.startswith(problem.starter_code)


def test_mbpp(tmp_path: Path):
    problem = load(write(tmp_path / "m.json", [MBPP]))[0]
    assert (problem.id, problem.fn_name, problem.setup) == ("MBPP/7", "g", "x = 3\ny = 4")
    assert problem.asserts == ("assert g(x) == 3", "assert (g(y)) == 4")
    assert "\r" not in problem.canonical_solution
    assert "assert g(x) == 3" in problem.prompt


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
    first, second, third = load(tmp_path)
    assert (first.id, first.kind, first.difficulty) == ("0000", "stdin", "competition")
    assert (first.canonical_solution, first.prompt) == ("print(input())", "Why?")
    assert (second.kind, second.inputs) == ("call", [[1]])
    assert (third.inputs, third.outputs) == (["1\n2"], ["1"])
    assert load(tmp_path / "0001") == [second]


def test_bad_problems_are_named_or_left_out_with_a_count(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rows = [
        APPS_PLUS,
        APPS_PLUS,
        APPS_PLUS | {"id": "untested", "inputs": [], "outputs": []},
        APPS_PLUS | {"id": "odd", "outputs": [1, 2]},
        APPS_PLUS | {"id": "broken", "canonical_solution": "def f(n)\n"},
        APPS_PLUS | {"id": "flat", "inputs": [3]},
        {"what": 1},
    ]
    path = write(tmp_path / "bad.json", rows)
    with pytest.raises(
        ValueError, match=r"6 of 7 problems .* cannot be used: double: repeats an id"
    ) as error:
        load(path)
    for reason in (
        "untested: has no tests",
        "odd: has 1 inputs but 2 outputs",
        "broken: .* does not parse",
        "flat: .* not a list of arguments",
        r"bad.json:6: no known format: the row has what",
    ):
        assert re.search(reason, str(error.value)), reason
    with caplog.at_level(logging.WARNING):
        assert [p.id for p in load(path, bad="skip")] == ["double"]
    assert "6 of 7 problems" in caplog.text
    assert "left out" in caplog.text


def test_missing_and_empty_places(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="expected an APPS folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no problem at"):
        load(tmp_path)
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match="neither JSON nor JSON lines"):
        load(tmp_path / "x.json")


def test_split_depends_on_ids_alone():
    many = [Problem(str(i), "") for i in range(1000)]
    train, held = problems.split(many, 0.2)
    assert len(train) + len(held) == 1000
    assert 150 < len(held) < 250
    assert problems.split(many[::-1], 0.2)[1] == held[::-1]
    assert problems.split(many, 0.2, salt="other")[1] != held
    with pytest.raises(ValueError, match="must lie in"):
        problems.split(many, 1.5)


def test_verify_lists_what_does_not_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    wrong = APPS_PLUS | {"id": "wrong", "canonical_solution": "def f(n):\n    return n\n"}
    path = write(tmp_path / "p.json", [APPS_PLUS, STDIN, wrong])
    assert verify.main([str(path)]) == 1
    printed = capsys.readouterr().out
    assert "wrong: fail (0/1) got 3, expected 6" in printed
    assert "2 of 3 canonical solutions pass" in printed


@pytest.mark.parametrize(
    ("name", "count"), [("apps_plus_format.json", 448), ("HumanEval.jsonl.gz", 164), ("mbpp.jsonl", 974)]
)
def test_reference_files_are_read_whole(shared: Path, name: str, count: int):
    assert len(load(shared / "data/code" / name)) == count


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"], ids=ascii)
def test_only_a_line_feed_ends_a_row(tmp_path, separator):
    rows = [MBPP | {"task_id": i, "text": f"Write f.{separator}More."} for i in (1, 2)]
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    assert len(load(path)) == 2
