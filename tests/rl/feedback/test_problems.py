"""Problems: what is wrong with bad ones, splits, fingerprints, --verify."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rl.feedback import verify
from rl.feedback.problems import Problem, fault_of, fingerprint, split_problems

CALL = Problem("double", "Double.", "def f(n):", "def f(n):\n    return n * 2\n", "f", [[3]], [6])
STDIN = Problem("echo", "Echo.", "", "print(input())\n", None, ["a\n"], ["a\n"])
ASSERT = Problem("a", "Double.", fn_name="f", asserts=("assert f(1) == 2",), setup="import math")

# name: (problem, what is said)
FAULTS = {
    "untested": (replace(CALL, inputs=[], outputs=[]), "has no tests"),
    "odd": (replace(CALL, outputs=[1, 2]), "has 1 inputs but 2 outputs"),
    "flat": (replace(CALL, inputs=[3]), "not a list of arguments"),
    "broken solution": (
        replace(CALL, canonical_solution="def f(n)"),
        "canonical solution that does not parse",
    ),
    "broken setup": (replace(ASSERT, setup="import ("), "setup that does not parse"),
    "broken test": (replace(ASSERT, asserts=("assert f(1) ==",)), "test 0 that does not parse"),
    "NUL": (replace(CALL, canonical_solution="x = 1\0"), "canonical solution that does not parse"),
    "deep": (
        replace(CALL, canonical_solution="(" * 500 + ")" * 500),
        "canonical solution that does not parse",
    ),
    "broken checker": (replace(CALL, checker="def check("), "checker that does not parse"),
    "no checker": (replace(CALL, checker="def chek(a, b, c): ..."), "defines no function check"),
    "broken preamble": (replace(CALL, preamble="import"), "preamble that does not parse"),
    "comparison": (replace(CALL, compare="exact"), "must be one of strict, python, numeric"),  # pyright: ignore
    "tolerance": (replace(CALL, tolerance=2.0), "tolerance 2.0; must lie in"),
    "time": (replace(CALL, time_s=0.0), "time limit 0.0; must be positive"),
    "prompt": (replace(CALL, prompt=3), "prompt that is no text but a int"),  # pyright: ignore
    "name": (replace(CALL, fn_name="f(x"), "which is no name"),
    "inputs": (replace(CALL, inputs="ab"), "inputs that are no list"),
    "numbers as text": (replace(STDIN, inputs=[3]), "a test that is no text"),
    "time as text": (replace(CALL, time_s="2"), "time_s that is no number"),  # pyright: ignore
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named(name: str):
    problem, said = FAULTS[name]
    assert said in str(fault_of(problem))


@pytest.mark.parametrize(
    "problem",
    [
        CALL,
        STDIN,
        ASSERT,
        replace(CALL, language="cpp", canonical_solution="int main() {}"),
        replace(ASSERT, asserts=("assert f(1) == 1" + "0" * 5000,)),
        replace(CALL, canonical_solution="\ufeff" + CALL.canonical_solution),
    ],
)
def test_good_problems_have_none(problem: Problem):
    assert fault_of(problem) is None


def test_split_depends_on_ids_alone():
    many = [Problem(str(i), "") for i in range(1000)]
    train, held = split_problems(many, 0.2)
    assert len(train) + len(held) == 1000
    assert 150 < len(held) < 250
    assert split_problems(many[::-1], 0.2)[1] == held[::-1]
    assert split_problems(many, 0.2, salt="other")[1] != held
    with pytest.raises(ValueError, match="must lie in"):
        split_problems(many, 1.5)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "other"},
        {"prompt": "Triple."},
        {"canonical_solution": "def f(n): return 2"},
        {"starter_code": "def f(m):"},
        {"fn_name": "g"},
        {"class_name": "Solution"},
        {"asserts": ("assert f(1) == 3",)},
        {"setup": "import os"},
        {"inputs": [[4]]},
        {"outputs": [7]},
        {"outputs": [6.0]},
        {"language": "cpp"},
        {"compare": "strict"},
        {"tolerance": 0.1},
        {"checker": "def check(a, b, c): return True"},
        {"preamble": "import math"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_fingerprint_covers_what_is_asked_and_how_it_is_graded(change: dict):
    for problem in (CALL, ASSERT):
        assert fingerprint([problem]) != fingerprint([replace(problem, **change)])


def test_the_fingerprint_is_of_the_order_and_not_of_what_is_measured():
    assert fingerprint([CALL, ASSERT]) != fingerprint([ASSERT, CALL])
    told = {"difficulty": "hard", "source": "x", "license": "MIT", "time_s": 9.0}
    assert fingerprint([CALL]) == fingerprint([replace(CALL, **told)])
    assert fingerprint([CALL]) == fingerprint([replace(CALL, inputs=((3,),) and [[3]], outputs=(6,))])
    assert fingerprint([replace(CALL, outputs=[10**5000])]) != fingerprint([CALL])


def test_verify_lists_what_does_not_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [
        {"id": p.id, "prompt": "", "canonical_solution": p.canonical_solution, "fn_name": p.fn_name}
        | {"inputs": p.inputs, "outputs": p.outputs}
        for p in (CALL, STDIN, replace(CALL, id="wrong", canonical_solution="def f(n):\n    return n\n"))
    ]
    path = tmp_path / "p.json"
    path.write_text(json.dumps(rows))
    assert verify.main([str(path)]) == 1
    printed = capsys.readouterr().out
    assert "wrong: fail (0/1) got 3, expected 6" in printed
    assert "2 of 3 canonical solutions pass" in printed


def test_unreadable_problems_are_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "notes.json").write_text("[tool")
    for name, said in (("absent", "PATH: no problems at"), ("notes.json", "notes.json is neither JSON nor")):
        assert verify.main([str(tmp_path / name)]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert said in line
