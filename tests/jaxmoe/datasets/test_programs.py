"""The embedded problems: reproducible, solvable, branching, tested well enough to tell misreadings apart."""

import ast
import random
import sys

import pytest

from jaxmoe.datasets import programs
from rl.feedback.executed_lines import line_spans
from rl.feedback.readers import load_problems
from rl.stepcoder.conditionals import conditionals


@pytest.fixture(scope="module")
def rows():
    return programs.problems(90)


def test_problems_are_a_function_of_the_seed(rows):
    assert programs.problems(30) == rows[:30]
    assert programs.problems(3, seed=1)[0]["prompt"] != rows[0]["prompt"]
    assert len({row["prompt"] for row in rows}) == len({row["id"] for row in rows}) == len(rows)


def test_every_solution_gives_the_expected_outputs_and_branches(rows):
    for row in rows:
        solve = programs.compiled(row["canonical_solution"])
        assert [solve(*arguments) for arguments in row["inputs"]] == row["outputs"]
        assert len(conditionals(row["canonical_solution"])) >= 1
        assert row["canonical_solution"].startswith(row["starter_code"])
        ast.parse(row["canonical_solution"])


def test_difficulties_come_in_turn_and_have_their_lengths(rows):
    assert [row["difficulty"] for row in rows[:3]] == ["easy", "medium", "hard"]
    longest = {
        kind: max(len(conditionals(r["canonical_solution"])) for r in rows if r["difficulty"] == kind)
        for kind in programs.DIFFICULTIES
    }
    assert longest["easy"] < longest["medium"] < longest["hard"]


def test_branches_are_cases_of_which_one_test_takes_one():
    made = programs.problems(30, kind="branches")
    assert len({row["prompt"] for row in made}) == 30
    cases = {kind: programs.random_branches(random.Random(0), kind) for kind in programs.DIFFICULTIES}
    assert [len(cases[kind].rules[0].words) for kind in programs.DIFFICULTIES] == [3, 5, 7]
    for row in made:
        solve = programs.compiled(row["canonical_solution"])
        assert [solve(*arguments) for arguments in row["inputs"]] == row["outputs"]
    hard = cases["hard"]
    c, e, f, a, b, g, i = hard.rules[0].words
    assert hard.statement == (
        f"Take a number n. If it is {c}, {a} it, if it is {e}, {b} it, if it is {f}, {g} it, "
        f"otherwise {i} it. Return n."
    )
    # each case has its comment, its head and one action
    body = hard.program().splitlines()[1:-1]
    assert len(body) == 12
    assert body[-3:-1] == [f"    # otherwise {i} it", "    else:"]


def test_texts_of_branches_hold_no_statement_of_a_problem():
    held_out = {row["prompt"] for row in programs.problems(kind="branches")}
    texts = [text for text in programs.pretraining_texts(400, kind="branches") if "def solve" in text]
    statements = {text.split("\n")[1] for text in texts}
    assert len(statements) > 250
    assert not statements & held_out


def test_problem_files_are_read_back(rows, tmp_path):
    programs.write_problems(tmp_path / "p.json", rows)
    read = load_problems(tmp_path / "p.json")
    assert [(p.id, p.prompt, p.fn_name, p.test_count) for p in read] == [
        (row["id"], row["prompt"], "solve", len(row["inputs"])) for row in rows
    ]
    assert {p.kind for p in read} == {"call"}


def test_tests_tell_a_misreading_apart_that_one_input_in_five_tells():
    """By inputs that the tests were not chosen from; rarer differences may escape the pool of 60."""
    caught = 0
    for seed in range(30):
        rng = random.Random(seed)
        pipeline = programs.random_pipeline(rng, rng.randint(1, 5))
        chosen = programs.choose_tests(pipeline, rng, 8)
        if chosen is None:
            continue
        fresh = (
            list(range(-30, 100))
            if pipeline.over == "number"
            else [[rng.randint(-15, 60) for _ in range(rng.randint(1, 6))] for _ in range(130)]
        )
        right = programs.compiled(pipeline.program())
        for readings in pipeline.misreadings():
            mutant = programs.compiled(pipeline.program(readings))
            if sum(mutant(item) != right(item) for item in fresh) >= len(fresh) / 5:
                assert any(mutant(*item) != out for item, out in zip(*chosen, strict=True)), (seed, readings)
                caught += 1
    assert caught > 50


def test_pretraining_text_never_states_a_problem_and_guesses_as_announced():
    texts = list(programs.pretraining_texts(1500))
    held_out = {row["prompt"] for row in programs.problems()}
    statements = [text.split('"""')[1].strip() for text in texts]
    assert not held_out & set(statements)
    for text in texts[:100]:
        ast.parse(text)
    # of the programs that grow something once, a third adds 3
    grows = [
        text
        for said, text in zip(statements, texts, strict=True)
        if said.count("row ") == 1 and "tretch" not in said and "def " in text
    ]
    meant = [sum(f"+ {n}\n" in t for t in grows) / len(grows) for n in (3, 10, 1)]
    for share, expected in zip(meant, programs.MEANING_SHARES, strict=True):
        assert abs(share - expected) < 0.12


def test_every_reading_of_every_program_ends():
    for seed in range(40):
        rng = random.Random(f"end {seed}")
        pipeline = programs.random_pipeline(rng, 5)
        for readings in pipeline.misreadings():
            solve = programs.compiled(pipeline.program(readings))
            for item in (-30, 0, 99):
                solve(item if pipeline.over == "number" else [item, 7])


def _unexecuted(program: str, argument: programs.Value) -> float:
    """Share of a program's characters that a call does not run, as the mask of executed tokens takes it."""
    names: dict = {}
    exec(compile(program, "<traced>", "exec"), names)
    ran = {1}  # the head

    def trace(frame, event, _):
        if frame.f_code.co_filename == "<traced>" and event == "line":
            ran.add(frame.f_lineno)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        names["solve"](argument)
    finally:
        sys.settrace(before)
    code = {node.lineno for node in ast.walk(ast.parse(program)) if isinstance(node, ast.stmt)}
    spans = line_spans(program, {line: int(line in ran) for line in code})
    return 1 - sum(end - start for start, end in spans) / len(program)


def test_one_test_of_a_problem_of_cases_leaves_a_third_unexecuted():
    """On average over its tests, one of which is drawn for practice: what the mask is given to do."""
    shares = {kind: [] for kind in programs.DIFFICULTIES}
    for row in programs.problems(60, kind="branches"):
        found = [_unexecuted(row["canonical_solution"], arguments[0]) for arguments in row["inputs"]]
        shares[row["difficulty"]].append(sum(found) / len(found))
    means = {kind: sum(found) / len(found) for kind, found in shares.items()}
    assert means["easy"] < means["medium"] < means["hard"]
    assert 0.3 < sum(means.values()) / 3 < 0.4
