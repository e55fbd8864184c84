"""The completion curriculum: where prefixes end, when stages move, what is saved."""

import ast
import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.feedback.problems import Problem
from rl.feedback.readers import load_problems
from rl.stepcoder.conditionals import conditionals, prefixes
from rl.stepcoder.curriculum import Curriculum
from rl.stepcoder.expected_stages import describe, expected_stages

SOLUTION = """\
def f(xs):
    total = 0
    for x in xs:
        if x > 0:
            total += x
        elif x < 0:
            total -= x
    while total > 100:
        total //= 2
    return total if total else None
"""


def test_prefixes_of_a_known_solution():
    # for, if, elif, while: E = 4, ⌈√4⌉ = 2 stages, stride 2, so stage 1 starts at conditional 2, the elif
    assert prefixes(SOLUTION) == ["", SOLUTION[: SOLUTION.index("        elif")]]
    # without loops E = 2: stride 1, stage 1 starts at conditional 1
    assert prefixes(SOLUTION, ("if",)) == ["", SOLUTION[: SOLUTION.index("        elif")]]
    assert prefixes(SOLUTION, ("ternary",)) == [""]
    assert prefixes("x = 1\n") == [""]


@given(st.integers(1, 60))
def test_number_of_stages_and_stride(e: int):
    solution = "".join(f"if x == {i}:\n    y = {i}\n" for i in range(e))
    given_parts = prefixes(solution)
    stages = math.ceil(math.sqrt(e))
    stride = math.ceil(e / stages)
    assert len(given_parts) == stages
    for c, prefix in enumerate(given_parts):
        assert solution[len(prefix) :].startswith(f"if x == {c * stride}:")


def test_prefixes_cut_real_solutions_at_the_ends_of_lines(shared: Path):
    lengths = []
    for problem in load_problems(shared / "data/code/apps_plus_format.json"):
        solution = problem.canonical_solution
        parts = prefixes(solution, ("if", "for", "while", "try", "match", "ternary"))
        lengths.append(len(parts))
        assert parts[0] == ""
        assert all(a < b for a, b in zip(map(len, parts), list(map(len, parts))[1:], strict=False))
        for prefix in parts:
            assert solution.startswith(prefix)
            assert prefix == prefix.rstrip(" \t")
        assert len(parts) == max(
            1,
            math.ceil(
                math.sqrt(
                    len(conditionals(solution, tuple(("if", "for", "while", "try", "match", "ternary"))))
                )
            ),
        )
    assert max(lengths) > 3


def test_offsets_are_characters_not_bytes():
    solution = "é = 'ü→'; y = 1\nif é: pass\nif y: pass\n"
    assert [solution[i:][:4] for i in conditionals(solution)] == ["if é", "if y"]


def test_kinds():
    source = "try:\n    x = 1\nexcept E:\n    x = 2\nmatch x:\n    case 1: y = 1 if x else 2\n"
    assert len(conditionals(source, ("try",))) == 1
    assert len(conditionals(source, ("match",))) == 1
    assert [source[i:][:3] for i in conditionals(source, ("ternary",))] == ["y ="]
    with pytest.raises(ValueError, match="got until"):
        conditionals(source, ("until",))
    with pytest.raises(ValueError, match="does not parse"):
        prefixes("if x\n")


def problems() -> list[Problem]:
    hard = "".join(f"if x == {i}:\n    y = {i}\n" for i in range(9))  # three stages
    return [Problem("hard", "", canonical_solution=hard), Problem("easy", "", canonical_solution="x = 1\n")]


def test_stages_move_down_when_the_moving_pass_rate_exceeds_the_threshold():
    curriculum = Curriculum(problems(), smoothing=0.2, threshold=0.3)
    assert (curriculum.stage("hard"), curriculum.stage("easy")) == (2, 0)
    # a first round with pass rate 1 is all that is known: 1 > .3
    assert [curriculum.update("hard", [True, True]) for _ in range(3)] == [1, 0, 0]
    assert curriculum.prefix("hard") == ""
    assert curriculum.histogram() == {0: 2}


def test_the_moving_pass_rate_is_a_weighted_mean_of_the_rounds():
    """Weights (1 − α)^(n − i), as Adam's corrected moment; α = ½ of 0, 0, 1: (0 + 0 + 4) / (1 + 2 + 4)."""
    curriculum = Curriculum(problems(), smoothing=0.5, threshold=0.6)
    assert curriculum.pass_rate("hard") == 0.0
    for passed in (False, False, True):
        assert curriculum.update("hard", [passed]) == 2
    assert curriculum.pass_rate("hard") == pytest.approx(4 / 7)
    assert curriculum.update("hard", [True]) == 1  # (8 + 4) / 15 = .8
    assert curriculum.pass_rate("hard") == 0.0  # a new stage begins anew
    # a constant rate is that rate at once, and with α = 1 the last round alone counts
    steady = Curriculum(problems(), smoothing=0.2, threshold=0.5)
    for _ in range(4):
        steady.update("hard", [True, False, False, False])
        assert steady.pass_rate("hard") == pytest.approx(0.25)


def test_every_problem_comes_once_before_one_comes_twice_and_then_the_unfinished_more_often():
    many = [replace(problem, id=f"{problem.id}{i}") for problem in problems() for i in range(10)]
    curriculum = Curriculum(many, threshold=0.9, unfinished_weight=3.0)
    visits: Counter[str] = Counter()
    for number in range(45):
        chosen = curriculum.choose(4, round_number=number, seed=0)
        assert len(set(chosen)) == 4
        visits.update(chosen)
        for name in chosen:
            curriculum.update(name, [False])
        if number == 4:
            assert sorted(visits) == sorted(problem.id for problem in many)
    # 180 places: the hard ones three times as often, to within one
    hard, easy = ([visits[f"{kind}{i}"] for i in range(10)] for kind in ("hard", "easy"))
    assert max(hard) - min(hard) <= 1
    assert max(easy) - min(easy) <= 1
    assert sum(hard) == pytest.approx(3 * sum(easy), abs=20)
    # once it has reached its whole task a problem comes as often as any other
    curriculum.load_state_dict(curriculum.state_dict() | {"stages": dict.fromkeys(visits, 0)})
    later: Counter[str] = Counter()
    for number in range(45, 145):
        for name in curriculum.choose(4, round_number=number, seed=0):
            later[name] += 1
            curriculum.update(name, [False])
    assert max(later.values()) - min(later.values()) <= 2


def test_a_choice_depends_on_the_state_the_round_and_the_seed_alone():
    many = [replace(problem, id=f"{problem.id}{i}") for problem in problems() for i in range(10)]
    curriculum = Curriculum(many)
    first = curriculum.choose(5, round_number=3, seed=1)
    assert curriculum.choose(5, round_number=3, seed=1) == first
    assert curriculum.choose(5, round_number=4, seed=1) != first
    assert curriculum.choose(5, round_number=3, seed=2) != first
    # fewer problems than places: all come again
    assert Counter(Curriculum(problems()).choose(6, round_number=0, seed=0)) == {"hard": 3, "easy": 3}


@pytest.mark.parametrize(("pass_rate", "least"), [(0.3, 0.75), (0.5, 0.97), (0.8, 0.99)])
def test_in_the_papers_setting_most_problems_reach_the_whole_task(pass_rate: float, least: float):
    """6,672 problems, 1000 rounds of 32 problems x 16 samples: 4.8 visits a problem.

    Stages as in APPS+: of the problems with more than one 82 % have two, 13 % three, the others four or five.
    Without the correction for the start of the average a pass rate of .3 brings none of them there.
    """
    conditionals_of = [1] * 53 + [2] * 38 + [5] * 6 + [10] * 2 + [17]
    table = {e: "".join(f"if x == {i}:\n    y = {i}\n" for i in range(e)) for e in set(conditionals_of)}
    many = [Problem(str(i), "", canonical_solution=table[conditionals_of[i % 100]]) for i in range(6672)]
    curriculum = Curriculum(many)
    before = curriculum.state_dict()
    curve = expected_stages(curriculum, rounds=1000, prompts=32, samples=16, pass_rate=pass_rate)
    assert curve.finished == sorted(curve.finished)
    assert curve.finished[-1] > least
    assert curriculum.state_dict() == before
    never = expected_stages(curriculum, rounds=1000, prompts=32, samples=16, pass_rate=0.0)
    assert never.finished[-1] == 0.0


def test_what_to_expect_is_said_in_one_line():
    line = describe(Curriculum(problems()), rounds=10, prompts=2, samples=4)
    assert line.startswith("curriculum: 1 of 2 problems have 2 to 3 stages, 10.0 rounds a problem")
    assert line.endswith("80%: 100% 100% 100% 100%")
    assert "none of 1 problems" in describe(Curriculum(problems()[1:]), rounds=1, prompts=1, samples=1)


def test_a_leap_moves_two_stages():
    curriculum = Curriculum(problems(), leap=0.85)
    assert curriculum.update("hard", [True] * 6 + [False]) == 0  # 6/7 > .85
    assert Curriculum(problems(), leap=0.85).update("hard", [True, False]) == 1  # above .3, below .85


def test_state_survives_json_and_is_checked():
    curriculum = Curriculum(problems())
    for _ in range(3):
        curriculum.update("hard", [True])
    state = json.loads(json.dumps(curriculum.state_dict()))
    restored = Curriculum(problems())
    restored.load_state_dict(state)
    assert restored.state_dict() == curriculum.state_dict()
    assert [restored.update("hard", [True]) for _ in range(2)] == [
        curriculum.update("hard", [True]) for _ in range(2)
    ]
    with pytest.raises(ValueError, match=r"differ in 1: \['easy'\]"):
        Curriculum(problems()[:1]).load_state_dict(state)
    assert restored.choose(2, round_number=1, seed=0) == curriculum.choose(2, round_number=1, seed=0)
    with pytest.raises(ValueError, match="has stages 0 to 2; the saved curriculum says 7"):
        restored.load_state_dict(state | {"stages": {"hard": 7, "easy": 0}})
    with pytest.raises(ValueError, match="has no averages: it was written by an earlier version"):
        restored.load_state_dict({"stages": {"hard": 1, "easy": 0}, "pass_rates": {}})


def test_bad_settings_are_named():
    for settings, message in (
        ({"smoothing": 0.0}, "smoothing"),
        ({"threshold": 1.0}, "threshold"),
        ({"unfinished_weight": 0.5}, "unfinished_weight must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            Curriculum(problems(), **settings)
    with pytest.raises(ValueError, match="at least 1 sample"):
        Curriculum(problems()).update("hard", [])


def test_every_prefix_of_a_parsing_solution_ends_where_a_statement_starts():
    for prefix in prefixes(SOLUTION, ("if", "for", "while"))[1:]:
        rest = SOLUTION[len(prefix) :]
        assert ast.parse(prefix + rest)
        assert prefix.endswith("\n")
