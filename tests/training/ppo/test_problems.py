"""Problems of a run: what tells them apart, time limits that are measured once."""

import dataclasses
from types import SimpleNamespace

import pytest

from jaxmoe.tokenizer import train_bpe
from rl.feedback.problems import Problem, fingerprint
from rl.stepcoder.rollouts import RolloutConfig
from training.ppo import problems as room
from training.ppo.problems import (
    EmbeddedConfig,
    ProblemsConfig,
    TimeLimits,
    embedded_rows,
    known_limits,
    save_limits,
)

PROBLEM = Problem("p", "Double n.", "def f(n):", "def f(n):\n    return 2 * n\n", "f", [[3]], [6])


@pytest.mark.parametrize(
    "change",
    [
        {"asserts": ("assert f(1) == 2",)},
        {"setup": "import math"},
        {"fn_name": "g"},
        {"class_name": "Solution"},
        {"starter_code": "def f(n) -> int:"},
        {"outputs": [7]},
        {"language": "cpp"},
    ],
    ids=str,
)
def test_the_fingerprint_covers_all_that_is_asked_and_tested(change):
    assert fingerprint([PROBLEM]) != fingerprint([dataclasses.replace(PROBLEM, **change)])


def test_the_fingerprint_covers_neither_limits_nor_origins():
    same = dataclasses.replace(PROBLEM, time_s=3.0, source="elsewhere")
    assert fingerprint([PROBLEM]) == fingerprint([same])


def test_limits_come_back_to_the_last_bit_and_damage_is_named(tmp_path):
    assert known_limits(tmp_path) is None
    limits = TimeLimits("abc", {"p": 0.1 + 0.2, "q": None})
    save_limits(limits, tmp_path)
    again = known_limits(tmp_path)
    assert again == limits
    assert again is not None
    assert again.digest == limits.digest
    assert limits.digest != TimeLimits("abc", {"p": 0.3, "q": None}).digest
    (tmp_path / room.LIMITS).write_text("{")
    with pytest.raises(ValueError, match="is damaged; delete it to measure time limits anew"):
        known_limits(tmp_path)


def test_the_embedded_problems_are_those_that_are_named():
    rules, branches, functions = (
        embedded_rows(EmbeddedConfig(name=name, count=4, tests=3))
        for name in ("rules", "branches", "functions")
    )
    assert [row["source"] for row in rules] == ["jaxmoe.datasets.programs"] * 4
    assert all("elif" in row["canonical_solution"] for row in branches[1:3])
    assert [row["source"] for row in functions] == ["jaxmoe.datasets.small_functions"] * 4
    assert {len(row["inputs"]) for row in functions} == {3}
    with pytest.raises(ValueError, match="got count 480"):
        embedded_rows(EmbeddedConfig(name="functions"))


class Graders:
    """Solutions take .2 s, except those that fail; counts what it is asked."""

    def __init__(self):
        self.asked = []

    def grade_many(self, pairs):
        self.asked += [problem.id for problem, _ in pairs]
        test = SimpleNamespace(wall_s=0.2)
        return [
            SimpleNamespace(verdict="fail" if "wrong" in program else "pass", tests=[test])
            for _, program in pairs
        ]


def test_measured_limits_serve_the_rest_of_the_run():
    """Also those of solutions that fail, and a limit of the problem's own does not hide a failure."""
    wrong = dataclasses.replace(PROBLEM, id="w", canonical_solution="wrong", time_s=9.0)
    without = dataclasses.replace(PROBLEM, id="n", canonical_solution="")
    graders = Graders()
    limits = room._measured([PROBLEM, wrong, without], graders, "abc")  # type: ignore[arg-type]
    assert graders.asked == ["p", "w"]
    assert limits.time_s == {"p": pytest.approx(2.0), "w": None}
    kept = room._solved([PROBLEM, wrong, without], limits, "skip")
    assert [(p.id, p.time_s) for p in kept] == [("p", limits.time_s["p"]), ("n", None)]
    with pytest.raises(ValueError, match="1 of 3 canonical solutions fail their own tests: w"):
        room._solved([PROBLEM, wrong, without], limits, "error")


def test_practice_may_have_fewer_tests_than_what_is_held_out():
    rollout = RolloutConfig(form="completion", prompt_tokens=256, response_tokens=256)
    config = ProblemsConfig(held_out=0.5, practice_tests=1, embedded=EmbeddedConfig(count=12, tests=8))
    tokenizer = train_bpe([row["canonical_solution"] for row in embedded_rows(config.embedded)], 300)
    found = room.open_problems(config, Graders(), None, rollout, tokenizer)  # type: ignore[arg-type]
    assert {problem.test_count for problem in found.train} == {1}
    assert min(problem.test_count for problem in found.held_out) >= 8
    with pytest.raises(ValueError, match="practice_tests must be at least 1, or null; got 0"):
        ProblemsConfig(practice_tests=0)


def test_fewer_tests_are_nested_and_keep_their_answers():
    problem = Problem("p", "", inputs=[[n] for n in range(9)], outputs=[n * n for n in range(9)])
    one, four = (room.fewer_tests(problem, tests, seed=3) for tests in (1, 4))
    assert [given[0] ** 2 for given in four.inputs] == list(four.outputs)
    assert (len(four.inputs), list(four.inputs[:1])) == (4, list(one.inputs))
    others = {room.fewer_tests(problem, 1, seed=seed).inputs[0][0] for seed in range(9)}
    assert len(others) > 2
    asserts = Problem("p", "", fn_name="f", asserts=("assert f(1)", "assert f(2)", "assert f(3)"))
    assert len(room.fewer_tests(asserts, 2).asserts) == 2
    assert set(room.fewer_tests(asserts, 9).asserts) == set(asserts.asserts)
