"""The completion curriculum: where prefixes end, when stages move, what is saved."""

import ast
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.feedback.problems import Problem, load
from rl.stepcoder.curriculum import Curriculum, conditionals, prefixes

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
    for problem in load(shared / "data/code/apps_plus_format.json"):
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
    # ρ after rounds with pass rate 1: .2, .36 > .3, so every second round moves
    assert [curriculum.update("hard", [True, True]) for _ in range(5)] == [2, 1, 1, 0, 0]
    assert curriculum.prefix("hard") == ""
    curriculum = Curriculum(problems(), smoothing=0.2, threshold=0.3)
    # pass rate ½: ρ = .5 (1 − .8ⁿ) exceeds .3 first at n = 5
    assert [curriculum.update("hard", [True, False]) for _ in range(5)] == [2, 2, 2, 2, 1]
    assert curriculum.pass_rate("hard") == 0.0
    assert curriculum.histogram() == {0: 1, 1: 1}


def test_a_leap_moves_two_stages():
    curriculum = Curriculum(problems(), leap=0.85)
    assert curriculum.update("hard", [True] * 6 + [False]) == 0  # 6/7 > .85
    assert Curriculum(problems(), leap=0.85).update("hard", [True, False]) == 2


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
    with pytest.raises(ValueError, match="has stages 0 to 2; the saved curriculum says 7"):
        restored.load_state_dict({"stages": {"hard": 7, "easy": 0}, "pass_rates": {"hard": 0.0, "easy": 0.0}})


def test_bad_settings_are_named():
    for settings, message in (({"smoothing": 0.0}, "smoothing"), ({"threshold": 1.0}, "threshold")):
        with pytest.raises(ValueError, match=message):
            Curriculum(problems(), **settings)
    with pytest.raises(ValueError, match="at least 1 sample"):
        Curriculum(problems()).update("hard", [])


def test_every_prefix_of_a_parsing_solution_ends_where_a_statement_starts():
    for prefix in prefixes(SOLUTION, ("if", "for", "while"))[1:]:
        rest = SOLUTION[len(prefix) :]
        assert ast.parse(prefix + rest)
        assert prefix.endswith("\n")
