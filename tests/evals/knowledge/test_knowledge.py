"""Closed-book questions and multiple choice against models whose answers are known."""

import json
import math

import pytest

from evals.knowledge.closed_book import closed_book
from evals.knowledge.multiple_choice import multiple_choice
from evals.knowledge.prompts import TEMPLATES, PromptTemplate, draw_shots, template
from evals.knowledge.questions import ChoiceQuestion, ClosedBookQuestion
from evals.knowledge.results import compare_results
from evals.models.text_model import ContinuationScores


class TableModel:
    """Answers from a table; log p of a continuation is −1 a character, or as the table says."""

    def __init__(self, responses=None, logprobs=None):
        self.responses, self.logprobs = responses or {}, logprobs or {}
        self.asked: list[str] = []
        self.calls = 0

    def generate(self, prompts, max_new_tokens, stop=(), *, temperature=0.0, top_p=1.0, samples=1, seed=0):
        assert (temperature, samples) == (0.0, 1)
        self.asked += prompts
        self.calls += 1
        return [next((r for key, r in self.responses.items() if key in p), "") for p in prompts]

    def logprob(self, prompts, continuations):
        pairs = list(zip(prompts, continuations, strict=True))
        sums = [self.logprobs.get(pair, -float(len(pair[1]))) for pair in pairs]
        return ContinuationScores(sums, [len(c.split()) for _, c in pairs])


QUESTIONS = [
    ClosedBookQuestion("1", "capital of Peru", ("Lima",), "The capital of Peru is", "peru", "place"),
    ClosedBookQuestion(
        "2", "who wrote Emma", ("Jane Austen", "Austen"), "Emma was written by", "emma", "book"
    ),
    ClosedBookQuestion("3", "Peru's capital?", ("Lima",), "Peru is ruled from", "peru", "place"),
]
RESPONSES = {"capital of Peru": " Lima\nQ: more", "Emma": " Austen, Jane", "Peru's": " Cusco\nLima"}


def test_scores_by_hand():
    result = closed_book(TableModel(RESPONSES), QUESTIONS, TEMPLATES["qa"])
    assert [record.exact_match for record in result.records] == [1.0, 0.0, 0.0]
    # "austen jane" has the words of "jane austen": F1 1
    assert [record.f1 for record in result.records] == [1.0, 1.0, 0.0]
    assert result.scores["exact_match"].value == pytest.approx(1 / 3)
    assert result.scores["exact_match"].clusters == 2
    assert result.by_category["book"]["f1"].value == 1.0
    # −1 a character over one word: " Lima" 5, " Jane Austen" 12 over two words
    assert result.scores["answer_nats"].value == pytest.approx((5 + 6 + 5) / 3)


def test_only_the_first_line_counts_and_the_stop_is_applied_again():
    """A model that ignores the stop strings gets no credit for what stands after them."""
    result = closed_book(TableModel(RESPONSES), QUESTIONS, TEMPLATES["qa"])
    assert [record.prediction for record in result.records] == ["Lima", "Austen, Jane", "Cusco"]


def test_an_answer_inside_a_response_is_contained_but_no_exact_match():
    said = {
        "Peru?": "It is Lima, I think.",
        "Emma": "Charlotte Bronte or Jane Austen\nQ: Lima",
        "Peru's": "Limassol",
    }
    result = closed_book(TableModel(said), QUESTIONS, TEMPLATES["qa"])
    assert [record.exact_match for record in result.records] == [0.0, 0.0, 0.0]
    assert [record.contains for record in result.records] == [1.0, 1.0, 0.0]
    assert result.scores["contains"].value == pytest.approx(2 / 3)
    assert result.by_category["book"]["contains"].value == 1.0
    # what stands behind the stop string does not count, nor does a word of two
    asked = [
        ClosedBookQuestion("1", "who wrote Emma", ("Lima",)),
        ClosedBookQuestion("2", "Emma", ("Charlotte Jane",)),
    ]
    assert [r.contains for r in closed_book(TableModel(said), asked, TEMPLATES["qa"]).records] == [0.0, 0.0]


def test_solved_examples_as_turns():
    assert template("chat").turns(QUESTIONS[1:2], "Be brief.") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": template("chat").prompt(QUESTIONS[1])},
        {"role": "assistant", "content": "Jane Austen"},
    ]
    assert template("auto").turns([]) == []


def test_completion_form_reads_as_many_words_as_the_answer_has():
    model = TableModel({"capital of Peru is": " Lima, on the coast.", "written by": " the late Jane Austen"})
    result = closed_book(model, QUESTIONS[:2], TEMPLATES["completion"])
    # "the" is an article; "late jane" is not "jane austen", nor "austen"
    assert [record.exact_match for record in result.records] == [1.0, 0.0]
    assert model.asked == ["The capital of Peru is", "Emma was written by"]


def test_prompts_carry_solved_examples():
    model = TableModel()
    closed_book(model, QUESTIONS[:1], TEMPLATES["qa"], shots=[QUESTIONS[1]])
    assert model.asked == ["Q: who wrote Emma?\nA: Jane Austen\n\nQ: capital of Peru?\nA:"]


def test_chunks_change_nothing_but_the_number_of_calls():
    whole, parts = TableModel(RESPONSES), TableModel(RESPONSES)
    done = []
    one = closed_book(whole, QUESTIONS, TEMPLATES["qa"])
    two = closed_book(parts, QUESTIONS, TEMPLATES["qa"], chunk=2, progress=lambda n, of: done.append((n, of)))
    assert one == two
    assert (whole.calls, parts.calls, done) == (1, 2, [(2, 3), (3, 3)])


def test_answers_need_not_be_scored():
    result = closed_book(TableModel(RESPONSES), QUESTIONS, TEMPLATES["qa"], score_answers=False)
    assert set(result.scores) == {"exact_match", "f1", "contains"}
    assert result.records[0].answer_logprob is None


def test_results_are_plain_json():
    result = closed_book(TableModel(RESPONSES), QUESTIONS, TEMPLATES["qa"])
    assert json.loads(json.dumps(result.summary()))["scores"]["f1"]["n"] == 3
    assert [json.loads(json.dumps(item))["id"] for item in result.items()] == ["1", "2", "3"]


CHOICES = ChoiceQuestion("c", "2 + 2", ("four", "a large fish", "no"), 0)


def test_each_rule_ranks_by_its_own_quantity():
    prompt = "Q: 2 + 2?\nA:"
    logprobs = {
        (prompt, " four"): -4.0,
        (prompt, " a large fish"): -4.5,
        (prompt, " no"): -3.0,
        ("A:", " four"): -9.0,
        ("A:", " a large fish"): -9.0,
        ("A:", " no"): -3.5,
    }
    [record] = multiple_choice(TableModel(logprobs=logprobs), [CHOICES], TEMPLATES["qa"]).records
    # acc: no −3; per token: fish −4.5/3; acc_norm: fish −4.5/12 against −4/4 and −3/2;
    # calibrated: four 5, fish 4.5, no 0.5
    assert record.correct == {"acc": 0.0, "per_token": 0.0, "acc_norm": 0.0, "calibrated": 1.0}
    assert record.unconditional == (-9.0, -9.0, -3.5)
    by_rule = {
        rule: multiple_choice(
            TableModel(logprobs=logprobs), [ChoiceQuestion("c", "2 + 2", CHOICES.choices, i)], TEMPLATES["qa"]
        )
        .records[0]
        .correct[rule]
        for rule, i in {"acc": 2, "per_token": 1, "acc_norm": 1, "calibrated": 0}.items()
    }
    assert set(by_rule.values()) == {1.0}


def test_a_model_without_preference_scores_chance_wherever_the_answer_stands():
    flat = {("Q: x?\nA:", f" {c}"): -2.0 for c in "abcd"} | {("A:", f" {c}"): -2.0 for c in "abcd"}
    questions = [ChoiceQuestion(str(i), "x", ("a", "b", "c", "d"), 0) for i in range(8)]
    result = multiple_choice(TableModel(logprobs=flat), questions, TEMPLATES["qa"])
    assert {score.value for score in result.scores.values()} == {0.25}


def test_unconditional_scores_are_computed_once_a_choice():
    class Counting(TableModel):
        unconditional = 0

        def logprob(self, prompts, continuations):
            self.unconditional += sum(p == "A:" for p in prompts)
            return super().logprob(prompts, continuations)

    model = Counting()
    questions = [ChoiceQuestion(str(i), f"q{i}", ("yes", "no"), i % 2) for i in range(10)]
    multiple_choice(model, questions, TEMPLATES["qa"], chunk=3)
    assert model.unconditional == 2


def test_paired_comparison_of_two_results():
    worse = closed_book(TableModel({}), QUESTIONS, TEMPLATES["qa"])
    better = closed_book(TableModel(RESPONSES), QUESTIONS, TEMPLATES["qa"])
    result = compare_results(worse, better, "exact_match")
    assert (result.a_better, result.b_better) == (0, 1)
    assert result.difference.value == pytest.approx(1 / 3)
    assert result.test == "sign-flip"
    with pytest.raises(ValueError, match="same questions"):
        compare_results(worse, closed_book(TableModel(), QUESTIONS[:2], TEMPLATES["qa"]), "f1")
    with pytest.raises(ValueError, match="one of exact_match, f1, contains, answer_nats; got 'acc'"):
        compare_results(worse, better, "acc")


def test_shots_are_never_what_is_asked():
    pool = [*QUESTIONS, ClosedBookQuestion("4", "Capital of Chad", ("N'Djamena",))]
    # question 1 shares its fact with 3, and 2 is asked in other letters
    asked = [QUESTIONS[2], ClosedBookQuestion("x", "Who wrote EMMA ", ("?",))]
    assert [q.id for q in draw_shots(pool, 1, against=asked)] == ["4"]
    with pytest.raises(ValueError, match="2 examples are wanted, but 1 of the 4"):
        draw_shots(pool, 2, against=asked)


def test_templates_say_what_is_wrong():
    with pytest.raises(ValueError, match="question 4 has no stem"):
        TEMPLATES["completion"].prompt(ClosedBookQuestion("4", "Capital of Chad", ("N'Djamena",)))
    with pytest.raises(ValueError, match=r"may hold \{question\}"):
        PromptTemplate("Q: {query}")
    with pytest.raises(ValueError, match="qa, completion, instruction, auto, chat, lm_eval; got 'q'"):
        template("q")
    with pytest.raises(ValueError, match="at least one question"):
        closed_book(TableModel(), [], TEMPLATES["qa"])


def test_braces_in_questions_are_text():
    question = ClosedBookQuestion("1", "what is {x} in {}", ("a set",))
    assert TEMPLATES["qa"].prompt(question) == "Q: what is {x} in {}?\nA:"


def test_wilson_interval_shrinks_with_questions():
    few = closed_book(TableModel(), QUESTIONS[1:2] * 1, TEMPLATES["qa"]).scores["exact_match"]
    many = closed_book(
        TableModel(), [ClosedBookQuestion(str(i), "q", ("a",)) for i in range(100)], TEMPLATES["qa"]
    ).scores["exact_match"]
    # none right of n: the upper bound is z² / (n + z²)
    assert few.high == pytest.approx(1.959964**2 / (1 + 1.959964**2), abs=1e-6)
    assert many.high == pytest.approx(1.959964**2 / (100 + 1.959964**2), abs=1e-6)
    assert math.isnan(few.standard_error)
