"""MMLU, ARC, HellaSwag and GSM8K as they are published."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from evals.knowledge.prompts import template
from evals.knowledge.questions import ChoiceQuestion, load_questions

ARC = {
    "id": "r1",
    "question": "What is wet? ",
    "choices": {"text": ["sand", "rain "], "label": ["A", "B"]},
    "answerKey": "B",
}
MMLU = {
    "question": " Which is odd?\n",
    "subject": "number_theory",
    "choices": ["2", "3", "4", "6"],
    "answer": 1,
}
HELLASWAG = {
    "ind": 7,
    "activity_label": "Fishing",
    "ctx_a": "[header] How to fish [title] Find a lake.",
    "ctx_b": "then you",
    "ctx": "unused",
    "endings": ["cast [step] the line.", "eat the  rod."],
    "source_id": "wikihow~7",
    "split": "val",
    "split_type": "zeroshot",
    "label": "0",
}
GSM8K = {"question": "Two of 3?", "answer": "2*3 = <<2*3=6>>6\nso\n#### 1,006"}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_arc_keeps_its_blanks(tmp_path):
    found = load_questions(write(tmp_path / "arc.jsonl", ARC, ARC | {"answerKey": ""}))
    assert found.choice_questions == [ChoiceQuestion("r1", "What is wet? ", ("sand", "rain "), 1)]
    assert found.skipped == 1  # some test parts withhold the answer


def test_mmlu_rows_and_csv_are_the_same_questions(tmp_path):
    [row] = load_questions(write(tmp_path / "mmlu.jsonl", MMLU)).choice_questions
    assert row == ChoiceQuestion(
        "0", "Which is odd?", ("2", "3", "4", "6"), 1, category="number_theory", suite="mmlu"
    )
    (tmp_path / "number_theory_test.csv").write_text('" Which is odd?\n",2,3,4,6,B\n')
    assert load_questions(tmp_path / "number_theory_test.csv").choice_questions == [row]
    with gzip.open(tmp_path / "number_theory_dev.csv.gz", "wt") as file:
        file.write('"Which is odd?",2,3,4,6,B\n')
    assert load_questions(tmp_path / "number_theory_dev.csv.gz").choice_questions == [row]


def test_a_letter_is_a_letter_where_choices_are_letters_too(tmp_path):
    row = MMLU | {"choices": ["D", "C", "B", "A"], "answer": "D"}
    [question] = load_questions(write(tmp_path / "mmlu.jsonl", row)).choice_questions
    assert question.choices[question.answer] == "A"


def test_a_folder_of_csv_files_holds_a_subject_each(tmp_path):
    for subject in ("virology", "anatomy"):
        (tmp_path / f"{subject}_test.csv").write_text('"a, b?",1,2,3,4,A\n"c?",1,2,3,4,D\n')
    found = load_questions(tmp_path).choice_questions
    assert [(q.category, q.question, q.answer) for q in found] == [
        ("anatomy", "a, b?", 0),
        ("anatomy", "c?", 3),
        ("virology", "a, b?", 0),
        ("virology", "c?", 3),
    ]
    heading = "The following are multiple choice questions (with answers) about virology.\n\n"
    listed = "a, b?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:"
    assert template("lm_eval", "mmlu").prompt(found[2]) == heading + listed


def test_parquet_of_the_hub(tmp_path):
    pa.parquet.write_table(pa.Table.from_pylist([MMLU, MMLU]), tmp_path / "test.parquet")
    assert len(load_questions(tmp_path / "test.parquet").choice_questions) == 2


def test_hellaswag_is_read_as_the_harness_does(tmp_path):
    found = load_questions(write(tmp_path / "h.jsonl", HELLASWAG, HELLASWAG | {"label": ""}))
    text = "Fishing: How to fish. Find a lake. Then you"
    assert found.choice_questions == [
        ChoiceQuestion(
            "7",
            text,
            ("cast the line.", "eat the rod."),
            0,
            text,
            "wikihow~7",
            "zeroshot",
            suite="hellaswag",
        )
    ]
    assert found.skipped == 1


def test_gsm8k_has_a_number_and_its_solution(tmp_path):
    [question] = load_questions(write(tmp_path / "g.jsonl", GSM8K)).questions
    assert (question.answers, question.solution, question.suite) == (("1,006",), GSM8K["answer"], "gsm8k")
    assert template("lm_eval", "gsm8k").prompt(question, [question]) == (
        f"Question: Two of 3?\nAnswer: {GSM8K['answer']}\n\nQuestion: Two of 3?\nAnswer:"
    )


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a_test.csv", "q,1,2,3,A\n", r"a_test.csv:1: a line of MMLU's CSV has 6 cells .* this one has 5"),
        ("a_test.csv", "q,1,2,3,4,E\n", r"a_test.csv:1: answer must be an index"),
        ("a_test.csv", "\n", r"a_test.csv is empty"),
        (
            "h.jsonl",
            json.dumps(HELLASWAG | {"label": "x"}),
            r"h.jsonl:1: a field of hellaswag has a wrong value",
        ),
        ("h.jsonl", json.dumps(HELLASWAG | {"endings": 3}), r"h.jsonl:1: a field .* of the wrong type"),
        ("m.jsonl", json.dumps(MMLU | {"choices": 3}), r"m.jsonl:1: a field .* of the wrong type"),
    ],
)
def test_broken_rows_are_named(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=said):
        load_questions(tmp_path / name)
