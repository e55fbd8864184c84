"""Easy functions in plain English: reproducible, solvable, no two of the same pieces, told apart by tests."""

import random
import re

import pytest

from jaxmoe.datasets import small_functions
from jaxmoe.datasets.programs import write_problems
from rl.feedback.readers import load_problems
from rl.stepcoder.conditionals import conditionals


@pytest.fixture(scope="module")
def rows():
    return small_functions.problems(240)


def test_problems_are_a_function_of_the_seed(rows):
    assert small_functions.problems(30) == rows[:30]
    assert small_functions.problems(3, seed=1) != rows[:3]


def test_no_two_problems_are_the_same_with_other_numbers_or_letters_in_it(rows):
    def without_fillings(row):
        # {k} and {m} are the numbers from 2 on, but "0" and "from 1 to n" are words of a statement
        return re.sub(r"'[a-z]'|\b[1-9]?[2-9]\b|\b1\d\b", "_", row["prompt"])

    assert len({without_fillings(row) for row in rows}) == len(rows)
    assert len({row["canonical_solution"] for row in rows}) == len(rows)
    assert len({row["id"] for row in rows}) == len(rows)


def test_every_solution_gives_the_expected_outputs_and_no_constant_does(rows):
    for row in rows:
        names = {}
        exec(row["canonical_solution"], names)
        assert [names["solve"](*arguments) for arguments in row["inputs"]] == row["outputs"]
        assert row["canonical_solution"].startswith(row["starter_code"])
        assert any(output != row["outputs"][0] for output in row["outputs"])


def test_a_question_is_tested_where_the_answer_is_yes_and_where_it_is_no(rows):
    for row in rows:
        if row["difficulty"] == "question" and "it is empty" not in row["prompt"]:  # one list is
            assert 2 <= sum(row["outputs"]) <= len(row["outputs"]) - 2, row["prompt"]


def test_the_curriculum_finds_conditionals_in_most(rows):
    assert sum(bool(conditionals(row["canonical_solution"])) for row in rows) > len(rows) / 2


def test_pieces_in_words_and_code_have_the_same_numbers():
    for function in small_functions.functions(random.Random(5)):
        if function.kind == "list":
            said = re.findall(r"\d+", function.statement)
            assert all(number in function.program for number in said), function.statement


def test_problem_files_are_read_back(rows, tmp_path):
    write_problems(tmp_path / "p.json", rows)
    read = load_problems(tmp_path / "p.json")
    assert [(p.id, p.prompt, p.fn_name, p.kind) for p in read] == [
        (row["id"], row["prompt"], "solve", "call") for row in rows
    ]


def test_more_problems_than_there_are_is_an_error():
    with pytest.raises(ValueError, match=r"small functions with 8 tests each; got count 1000"):
        small_functions.problems(1000)
