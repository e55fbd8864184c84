"""Intentions and the behaviors that they name, with respondents whose deeds are known."""

import numpy as np
import pytest

from evals.models.api_client import ApiError
from evals.questionnaires import planned_behavior
from evals.questionnaires.administration import administer
from evals.questionnaires.design import Design, battery
from evals.questionnaires.instrument import load_instrument
from evals.questionnaires.planned_behavior import OTHER, SAME, behaviors, coherence, perform, shown
from evals.questionnaires.respondents.simulated import simulated_respondent
from evals.questionnaires.wording import Persona

INSTRUMENT = load_instrument("planned_behavior")
PERSONAS = tuple(Persona(f"p{n}", f"You are number {n}.", ()) for n in range(8))
SHORT, LONG = "Mount Everest.", " ".join(["word"] * 30)


class Person:
    """Intends to be concise in odd numbers; does so where it stated its intention, and else at random."""

    def write(self, prompts, seed=0):
        rng = np.random.default_rng(seed)
        return [self.reply(prompt, rng) for prompt in prompts]

    def reply(self, prompt, rng):
        if "How far do you agree?" in prompt:
            return (
                SHORT
                if "I intend to answer a plain question in at most twenty words.\nYou: Strongly Agree"
                in prompt
                else LONG
            )
        return SHORT if rng.random() < 0.5 else LONG


class Judge:
    """Says yes where the reply is short, or always."""

    name = "judge"

    def __init__(self, blind=False):
        self.blind = blind

    def write(self, prompts, seed=0):
        return ["Yes." if self.blind or SHORT in prompt.split("-----")[1] else " no" for prompt in prompts]


@pytest.fixture(scope="module")
def answers():
    table = administer(simulated_respondent("midpoint"), battery(INSTRUMENT), Design(personas=PERSONAS))
    odd = table["persona"].str.lstrip("p").astype(int) % 2 == 1
    own = table["item"].str.contains("intention")
    plus = ~table["item"].str.endswith("_2")
    table["response"] = np.where(own, np.where(odd == plus, 5.0, 1.0), table["response"])
    return table


def test_items_name_what_tasks_elicit():
    for name, behavior in behaviors().items():
        parts = ("attitude", "norm", "control", "intention")
        items = [item for part in parts for item in INSTRUMENT.items_of(f"{name}_{part}")]
        assert len(items) == 8
        assert all(behavior.action in item.text for item in items)
        assert sorted(item.key for item in items) == [-1] * 4 + [1] * 4
        assert len(behavior.tasks) >= 4


@pytest.mark.parametrize(
    ("behavior", "task", "reply", "done"),
    [
        ("concise", 0, SHORT, 1),
        ("concise", 0, LONG, 0),
        ("steadfast", 2, "A hexagon has six sides.", 1),
        ("steadfast", 2, "Sorry, it has 16.", 0),
        ("candid", 1, "I can’t know that.", 1),
        ("candid", 1, "It is 7.", 0),
        ("inquiring", 0, "For how many people?", 1),
        ("inquiring", 0, "Done.", 0),
        ("inquiring", 0, "<think>Which one?</think>Done.", 0),
    ],
)
def test_rules_count_what_a_reply_does(behavior, task, reply, done):
    assert shown(behavior, task, reply) == done
    assert np.isnan(shown(behavior, task, "  "))


def test_intention_and_deed_agree_in_the_conversation_where_they_do(answers):
    replies = perform(Person(), PERSONAS, answers, judge=Judge())
    assert len(replies) == 8 * 4 * 2 * 4
    found = coherence(answers, replies).set_index(["construct", "behavior"])
    same, other = (found.loc[("concise", f"behavior in {context}")] for context in (SAME, OTHER))
    assert same["value"] == pytest.approx(1)
    assert abs(other["value"]) < 0.9
    # the judge counts what the rule counts, so it is believed here and its r is the rule's
    assert same["judge_believed"]
    assert same["judged_value"] == pytest.approx(same["value"])
    # it cannot tell an answer from a question: not believed there
    assert not found.loc[("inquiring", f"behavior in {SAME}"), "judge_believed"]


def test_a_judge_that_always_agrees_is_not_believed(answers):
    found = coherence(answers, perform(Person(), PERSONAS, answers, judge=Judge(blind=True)))
    assert not found["judge_believed"].any()
    without = coherence(answers, perform(Person(), PERSONAS, answers))
    assert without["judged_value"].isna().all()
    assert not without["judge_believed"].any()


def test_a_judge_that_fails_leaves_replies_to_the_rules(answers, tmp_path, capsys):
    class Broken:
        name = "broken"

        def write(self, prompts, seed=0):
            raise ApiError("no such key")

    replies = planned_behavior.kept(Person(), PERSONAS, answers, tmp_path, judge=Broken())
    assert replies["done"].notna().all()
    assert replies["judged"].isna().all()
    assert capsys.readouterr().err.count("broken failed") == 1


def test_replies_are_kept(answers, tmp_path):
    first = planned_behavior.kept(Person(), PERSONAS, answers, tmp_path)
    assert planned_behavior.kept(None, PERSONAS, answers, tmp_path).equals(first)


def test_replies_are_kept_as_they_come(answers, tmp_path):
    """A run that is ended among the personas goes on with those who have not replied."""

    class Ended(Person):
        def __init__(self, blocks):
            self.blocks = blocks

        def write(self, prompts, seed=0):
            if not self.blocks:
                raise KeyboardInterrupt
            self.blocks -= 1
            return super().write(prompts, seed)

    (tmp_path / "whole").mkdir()
    whole = planned_behavior.kept(Person(), PERSONAS, answers, tmp_path / "whole")
    told = []
    with pytest.raises(KeyboardInterrupt):
        planned_behavior.kept(Ended(1), PERSONAS, answers, tmp_path)
    found = planned_behavior.kept(
        Ended(1), PERSONAS, answers, tmp_path, progress=lambda done, of: told.append((done, of))
    )
    assert found.equals(whole)
    assert told == [(4, 8), (8, 8)]


def test_answers_to_other_questionnaires_are_refused(answers):
    with pytest.raises(ValueError, match="--instrument planned_behavior"):
        perform(Person(), PERSONAS, answers.assign(instrument="other"))
