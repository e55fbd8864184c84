"""The embedded facts as questions: nothing given away, every fact asked once."""

import pytest

from evals.knowledge.embedded_questions import choice_questions, closed_book_questions
from evals.knowledge.prompts import TEMPLATES


def test_every_form_asks_for_the_same_answer_without_telling_it():
    questions = closed_book_questions("test", limit=400)
    assert len({question.id for question in questions}) == len(questions) == 400
    for question in questions:
        for template in TEMPLATES.values():
            prompt = template.prompt(question)
            assert not prompt.rstrip(".").endswith(question.answers[0]), prompt


def test_choices_hold_the_answer_once_in_any_place():
    questions = choice_questions("test", limit=400)
    places = {question.answer for question in questions}
    assert places == {0, 1, 2, 3}
    answers = {question.id: question.answers for question in closed_book_questions("test", limit=400)}
    for question in questions:
        right = [choice for choice in question.choices if choice in answers[question.id]]
        assert right == [question.choices[question.answer]]


def test_unknown_splits_and_relations_are_refused():
    with pytest.raises(ValueError, match="split"):
        closed_book_questions("valid")
    with pytest.raises(ValueError, match="unknown relations"):
        closed_book_questions("test", ["capital_of_moon"])
