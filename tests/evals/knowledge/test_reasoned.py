"""Answers after reasoning: what is asked, and what counts as the answer."""

import pytest

from evals.knowledge.final_answers import chosen, final_answer
from evals.knowledge.prompts import reasoning_template
from evals.knowledge.questions import ChoiceQuestion, ClosedBookQuestion
from evals.knowledge.reasoned import reasoned_records, reasoned_result

LIMA = ClosedBookQuestion("1", "Capital of Peru?", ("Lima",), solution="It lies on the Rimac.")
PICK = ChoiceQuestion("2", "Capital of Peru?", ("Quito", "Lima", "Cusco"), 1)


class Saying:
    """A model with one response to everything."""

    def __init__(self, response):
        self.response, self.prompts = response, []

    def generate(self, prompts, max_new_tokens, stop=(), **_):
        self.prompts += prompts
        return [self.response] * len(prompts)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("It lies there.\n#### Lima", "Lima"),
        ("#### Quito\nno:\n####  **Lima**.\nDone.", "Lima"),
        ("So the answer is Lima.", "Lima"),
        ("The answer is: Quito. Or rather, the Answer is Lima.", "Lima"),
        ("Final answer: Lima\nBecause ...", "Lima"),
        ("Answers: many. I cannot answer.", None),
        ("Lima", None),
        ("<think>the answer is Quito</think>\nThe answer is Lima", "Lima"),
        ("the template opened it; the answer is Quito</think>#### Lima", "Lima"),
        ("<think>the answer is Quito", None),
        ("####", None),
        ("", None),
    ],
)
def test_the_final_answer_by_its_rule(response, answer):
    assert final_answer(response) == answer


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("B", 1),
        ("(b)", 1),
        ("B. Lima", 1),
        ("(C): Cusco", 2),
        ("lima", 1),
        ("D", None),
        ("Lima or Quito", None),
        ("A dog", None),
    ],
)
def test_a_choice_by_letter_or_text(answer, index):
    assert chosen(answer, PICK.choices) == index


def test_questions_are_answered_in_words():
    model = Saying("It lies on the Rimac.\n#### Lima")
    [record] = reasoned_records(model, [LIMA], reasoning_template("chat"))
    assert model.prompts == [
        "Capital of Peru?\nThink step by step. End with a line of #### and the answer alone."
    ]
    assert record.prediction == "Lima"
    assert record.scores == {"exact_match": 1.0, "f1": 1.0, "contains": 1.0, "answered": 1.0}
    [silent] = reasoned_records(Saying("Lima, Lima"), [LIMA], reasoning_template("chat"))
    assert set(silent.scores.values()) == {0.0}
    assert reasoned_result([record, silent], 0.95).scores["exact_match"].value == 0.5


def test_choices_are_listed_and_answered_by_letter():
    model = Saying("Quito is in Ecuador. The answer is (B).")
    [record] = reasoned_records(model, [PICK], reasoning_template("qa", choices=True), shots=[PICK])
    listed = "Q: Capital of Peru?\nA. Quito\nB. Lima\nC. Cusco\nA: Let's think step by step."
    assert model.prompts == [f"{listed} #### B\n\n{listed}"]
    assert record.scores == {"acc": 1.0, "answered": 1.0}
    [wrong] = reasoned_records(Saying("#### D"), [PICK], reasoning_template("chat", choices=True))
    assert wrong.scores == {"acc": 0.0, "answered": 0.0}


def test_examples_show_their_solution():
    model = Saying("")
    reasoned_records(model, [PICK], reasoning_template("qa", choices=True), shots=[PICK])
    reasoned_records(model, [LIMA], reasoning_template("qa"), shots=[LIMA])
    assert "step by step. It lies on the Rimac.\n#### Lima\n\nQ: Capital" in model.prompts[1]


@pytest.mark.parametrize("name", ["completion", "lm_eval"])
def test_some_forms_leave_no_room(name):
    with pytest.raises(ValueError, match=f"template {name} leaves no room to reason .* take qa, instruction"):
        reasoning_template(name, "mmlu")
