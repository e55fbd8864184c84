"""The crossed design, wording, simulated respondents, and a killed administration that resumes."""

import collections
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from evals.questionnaires import wording
from evals.questionnaires.administration import administer
from evals.questionnaires.design import KEY, Battery, BatteryItem, Design, battery, questions
from evals.questionnaires.instrument import load_instrument
from evals.questionnaires.reading import parse
from evals.questionnaires.respondent import Answer, chosen
from evals.questionnaires.respondents.simulated import RULES, simulated_respondent
from evals.questionnaires.wording import composed_personas, named_templates, option_order


class Counting:
    """Takes the first option, counts what it is asked, and stops after a while if told to."""

    name, repeats_itself = "counting", True

    def __init__(self, limit=None):
        self.asked, self.limit = collections.Counter(), limit

    def answer(self, questions):
        for number, question in enumerate(questions):
            if self.limit is not None and sum(self.asked.values()) >= self.limit:
                raise KeyboardInterrupt
            self.asked[question.key] += 1
            yield number, chosen(question, 0, "naïve\ntext")


@pytest.fixture(scope="module")
def mini():
    return battery(load_instrument("mini_ipip"))


DESIGN = Design(
    named_templates(["form", "terse"]), ("forward", "reversed"), personas=tuple(composed_personas(2))
)


def test_every_question_of_the_design_is_asked_once(mini):
    respondent = Counting()
    table = administer(respondent, [mini], DESIGN)
    assert len(table) == len(respondent.asked) == 20 * 2 * 2 * 2 == 20 * DESIGN.conditions
    assert set(respondent.asked.values()) == {1}
    assert not table.duplicated(list(KEY)).any()


def test_the_first_option_is_the_lowest_forward_and_the_highest_reversed(mini):
    table = administer(Counting(), [mini], DESIGN)
    assert table.groupby("option_order")["response"].unique().map(list).to_dict() == {
        "forward": [1.0],
        "reversed": [5.0],
    }
    assert (table["position"] == 0).all()


def test_a_killed_administration_goes_on_without_asking_twice(tmp_path, mini):
    first, second = Counting(limit=57), Counting()
    with pytest.raises(KeyboardInterrupt):
        administer(first, [mini], DESIGN, tmp_path)
    assert not (tmp_path / "responses.parquet").exists()
    # killed in the middle of a line
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write('{"key": ["mini')
    table = administer(second, [mini], DESIGN, tmp_path)
    assert sum(first.asked.values()) == 57
    assert not first.asked.keys() & second.asked.keys()
    assert len(first.asked) + len(second.asked) == 160 == len(table)
    whole = administer(Counting(), [mini], DESIGN)
    pd.testing.assert_frame_equal(table, whole)
    read = pd.read_parquet(tmp_path / "responses.parquet")
    np.testing.assert_array_equal(read["response"], whole["response"])
    assert read["text"].iloc[0] == "naïve\ntext"
    third = Counting()
    administer(third, [mini], DESIGN, tmp_path)
    assert not third.asked


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("design.json", None, "answers.jsonl holds answers, and no design.json beside it"),
        ("design.json", "{", "design.json is damaged, so that nothing says what was asked"),
        ("answers.jsonl", '{"key": 1}\n', "answers.jsonl:1 is damaged and holds no answer; delete the line"),
        ("answers.jsonl", "\udc80\n", "answers.jsonl:1 is damaged"),
        ("design.json", "[" * 100_000, "design.json is damaged"),
        ("answers.jsonl", "[" * 100_000 + "\n", "answers.jsonl:1 is damaged"),
    ],
)
def test_a_folder_that_lacks_what_was_asked_is_refused_by_name(tmp_path, mini, file, content, said):
    """Else answers to other questions would be counted in, or all be asked and paid for again."""
    administer(Counting(), [mini], DESIGN, tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content.encode("utf-8", "surrogateescape"))
    asked = Counting()
    with pytest.raises(ValueError, match=said):
        administer(asked, [mini], DESIGN, tmp_path)
    assert not asked.asked


def test_another_design_in_the_same_folder_is_refused(tmp_path, mini):
    administer(Counting(), [mini], Design(), tmp_path)
    with pytest.raises(ValueError, match="option_orders is"):
        administer(Counting(), [mini], Design(option_orders=("reversed",)), tmp_path)


def test_failed_questions_are_asked_again(tmp_path, mini):
    class Failing(Counting):
        def answer(self, questions):
            for number, question in enumerate(questions):
                self.asked[question.key] += 1
                yield number, Answer(float("nan"), -1, "error", "server down")

    table = administer(Failing(), [mini], Design(), tmp_path)
    assert table["response"].isna().all()
    again = Counting()
    assert administer(again, [mini], Design(), tmp_path)["response"].notna().all()
    assert len(again.asked) == 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"item_orders": ("forward", "reversed")}, "raise items_per_prompt"),
        ({"option_orders": ("backwards",)}, "forward, reversed or shuffled-N"),
        ({"seeds": (1, 1)}, "'1' is repeated"),
        ({"personas": ()}, "at least one persona"),
    ],
)
def test_designs_that_make_no_sense_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Design(**settings)


def test_seeds_of_a_respondent_that_repeats_itself_are_refused(mini):
    with pytest.raises(ValueError, match="same answers for each of 2 seeds"):
        administer(Counting(), [mini], Design(seeds=(0, 1)))


def test_items_of_a_batch_stand_in_each_prompt(mini):
    design = Design(items_per_prompt=5, item_orders=("forward", "shuffled-1"))
    asked = list(questions(mini, design))
    assert len(asked) == 40
    for question in asked:
        assert question.listing.count("\n- ") == 5
        assert f"- {question.text}\n" in question.head
    # five questions share a head: that is what is computed once
    assert set(collections.Counter(q.head for q in asked).values()) == {5}


def test_questions_alone_share_their_head_with_the_whole_questionnaire(mini):
    assert len({q.head for q in questions(mini, Design())}) == 1


def test_composed_personas_describe_uncorrelated_traits():
    for count in (8, 16, 32):
        people = composed_personas(count)
        assert len({p.name for p in people}) == len({p.text for p in people}) == count
        traits = np.array([[p.traits[c] for c in wording.CONSTRUCTS] for p in people])
        np.testing.assert_allclose(traits.T @ traits, count * np.eye(5), atol=1e-9)


def test_enough_wordings_are_shipped():
    assert len(wording.templates()) >= 5
    assert len(wording.personas()) >= 5


def test_orders_are_permutations_and_repeat():
    assert option_order("reversed", 4) == [3, 2, 1, 0]
    assert option_order("shuffled-3", 9) == option_order("shuffled-3", 9) != option_order("shuffled-4", 9)
    assert sorted(option_order("shuffled-3", 9)) == list(range(9))


@pytest.mark.parametrize(
    ("text", "value", "refusal"),
    [
        (" B", 2, ""),
        ("(d) Moderately Accurate", 4, ""),
        ("Answer: E.", 5, ""),
        ("I'd say moderately inaccurate.", 2, ""),
        ("Neither accurate nor inaccurate, I think", 3, ""),
        ("Very Accurate or Moderately Accurate", None, "unreadable"),
        ("A person like me would rather not", None, "unreadable"),
        ("As an AI, I do not have feelings.", None, "refused"),
        ("I'm sorry, but very inaccurate.", 1, ""),
        ("   ", None, "empty"),
    ],
)
def test_written_answers_are_read_or_refused_but_never_guessed(mini, text, value, refusal):
    question = next(questions(mini, Design()))
    answer = parse(question, text)
    assert answer.refusal == refusal
    assert np.isnan(answer.value) if value is None else answer.value == value


@pytest.mark.parametrize("name", RULES)
def test_simulated_answers_depend_on_the_question_alone(mini, name):
    asked = list(questions(mini, DESIGN))
    forward = dict(simulated_respondent(name, 3).answer(asked))
    backward = dict(simulated_respondent(name, 3).answer(asked[::-1]))
    assert all(forward[n] == backward[len(asked) - 1 - n] for n in forward)


def test_simulated_styles_are_what_they_are_called(mini):
    table = {name: administer(simulated_respondent(name), [mini], DESIGN) for name in RULES}
    assert set(table["constant"]["response"]) == {4.0}
    assert set(table["midpoint"]["response"]) == {3.0}
    assert set(table["extreme"]["response"]) == {1.0, 5.0}
    assert table["acquiescent"]["response"].mean() > 3.8
    flattering = {e.id: e.asked.desirable for e in mini.entries}
    wishes = table["desirable"].assign(sign=table["desirable"]["item"].map(flattering))
    means = wishes.groupby("sign")["response"].mean()
    assert means[1] > 3.5 > 2.5 > means[-1]


def test_a_template_with_a_misspelled_place_is_named():
    with pytest.raises(ValueError, match="must hold"):
        wording.Template("t", "{persona}{instruction}{options}{listing}", "{items}", "{label}{words}")


def test_batteries_may_mix_numbers_of_options():
    asked = Battery(
        "mixed",
        "Choose.",
        (
            BatteryItem("a", "?", ((0.0, "no"), (1.0, "yes"))),
            BatteryItem("b", "?", ((0.0, "x"), (1.0, "y"), (2.0, "z"))),
        ),
    )
    table = administer(simulated_respondent("random"), [asked], Design())
    assert table["n_options"].tolist() == [2, 3]


def test_jax_is_loaded_for_a_model_alone():
    """The command asks servers and simulated respondents, and reads --help, without a second of start-up."""
    code = "import sys, evals.administer; print(sorted({'jax', 'transformers'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
