"""Written answers against the labels that a person gave them."""

import time
from pathlib import Path

import pytest

from evals.questionnaires.answer_text import plain, without_thoughts
from evals.questionnaires.reading import parse
from evals.questionnaires.reading_accuracy import accuracy, labeled_answers, read_label
from evals.questionnaires.respondent import Question
from evals.questionnaires.wording import Choice, named_templates

GOLDEN = Path(__file__).parents[2] / "goldens" / "answers.jsonl"
ANSWERS = labeled_answers(GOLDEN)


def test_the_corpus_is_large_varied_and_half_of_it_names_no_option():
    assert len(ANSWERS) >= 300
    assert len({(one.answer, one.labels, tuple(one.words)) for one in ANSWERS}) == len(ANSWERS)
    assert sum(one.reads is None for one in ANSWERS) >= 200
    assert len({tuple(one.words) for one in ANSWERS}) >= 6


@pytest.mark.parametrize("part", sorted({one.part for one in ANSWERS}))
def test_answers_are_read_right_or_not_at_all(part):
    rows = [one for one in ANSWERS if one.part == part]
    found = accuracy(rows)
    wrong = [(one.answer, read_label(one), one.reads) for one in rows if read_label(one) != one.reads]
    assert found.precision >= 0.995, wrong
    assert found.recall >= 0.97, wrong


def asked(words, labels):
    choices = tuple(Choice(float(n), w, x) for n, (w, x) in enumerate(zip(words, labels, strict=True)))
    return Question("i", "Like parties.", "", choices, named_templates(["form"])[0])


def test_numbers_in_the_words_of_options_are_words():
    question = asked(["42 coins for certain", "60 coins with a chance of 20 percent"], "12")
    assert parse(question, "60 coins with a chance of 20 percent").position == 1
    assert parse(question, "2").position == 1
    assert parse(question, "60").position == -1


def test_an_option_that_reads_like_another_label_is_not_guessed():
    # under numbers as labels, "2" is the second label and the words of the first option
    assert parse(asked(["2", "1"], "12"), "2").refusal == "unreadable"


def test_why_nothing_was_read_is_said():
    question = asked(["Inaccurate", "Accurate"], "AB")
    assert parse(question, "<think>A</think>").refusal == "empty"
    assert parse(question, "As an AI, I have no such traits.").refusal == "refused"
    assert parse(question, "A or B").refusal == "unreadable"
    # what was written is kept as it was
    assert parse(question, "<think>A</think> B").text == "<think>A</think> B"


def test_of_a_long_text_its_first_line_and_its_end_are_read():
    question = asked(["Inaccurate", "Accurate"], "AB")
    prose = "I like a party.\n\n" * 1000
    assert parse(question, f"A\n\n{prose}").position == 0
    assert parse(question, f"Let me think.\n\n{prose}So my answer is B.").position == 1
    assert parse(question, f"A\n\n{prose}B").refusal == "unreadable"
    # a sentence without an end may have begun with "not"
    assert parse(question, "not " + "very " * 1000 + "B").refusal == "unreadable"


@pytest.mark.parametrize(
    "unit",
    ["B? ", "not A, B, ", "A person like me is accurate, hmm. ", "B\n", "\n", "(", "~ B, ", "<a", "any of "],
)
def test_a_long_text_takes_no_longer_than_its_length_asks(unit):
    before = time.process_time()
    parse(asked(["Inaccurate", "Accurate"], "AB"), "A" + unit * (65536 // len(unit)) + "B")
    assert time.process_time() - before < 3  # 0.1 to 0.4 s; minutes where time grows with the square


def test_a_statement_that_is_agreed_to_is_the_one_asked():
    question = asked(["Disagree", "Agree"], "AB")
    said = (
        "I agree that I like parties.",
        "I agree that I don't like parties.",
        "I agree that I hate parties.",
    )
    assert [parse(question, text).position for text in said] == [1, -1, -1]


def test_text_is_reduced_to_words():
    assert without_thoughts("so B? </think> C") == "C"
    assert plain("４½").split() == ["4", "1⁄2"]
    assert plain("B\nStatement: x\nAnswer: C") == "B"
    assert plain("\ud800B\u2028") == "B"


OWN_WORDS = ("{} ({})", "**{}** ({})", "{} [{}]", "{} <{}>", "{}\n({})", "{}) {}", "({}) {}", "{} - {}")
# in which an own label and its own words may be left unread, too
RARER = (
    *("{}, {}", "{} {{{}}}", "{} 【{}】", "{} | {}", "{} ~ {}", "{}/{}", "{} … {}", "{}, so {}", "{} is {}"),
    *("{}, which is {}", "{} (i.e. {})", "{} (meaning {})", "{} (that is, {})", "{} as I am {}"),
)


@pytest.mark.parametrize(
    ("labels", "words"), sorted({(one.labels, tuple(one.words)) for one in ANSWERS}), ids=" ".join
)
@pytest.mark.parametrize("form", [*OWN_WORDS, *RARER])
def test_a_label_is_read_with_its_own_words_and_not_with_anothers(form, labels, words):
    question = asked(words, labels)
    for place, label in enumerate(labels):
        read = [parse(question, form.format(label, said)).position for said in words]
        right = [place if i == place else -1 for i in range(len(words))]
        assert read == right or (form in RARER and read == [-1] * len(words))


def test_a_reason_may_have_another_options_words_where_the_label_has_its_own():
    question = asked(["Not like me", "A little like me", "Like me"], "ABC")
    assert parse(question, "A. Not like me. People like me prefer a book.").position == 0
    assert parse(question, "A. This is how people like me are.").refusal == "unreadable"
    often = asked(["Rarely", "Sometimes", "Often"], "123")
    assert parse(often, "2\n\nSometimes I enjoy a party, but I often prefer a book.").position == 1
    assert parse(often, "2, that is, I often do").refusal == "unreadable"


SIGNS = ("~", " ~ ", "～", "-", "–", "−", "‑", "..", "...", " … ", " | ", "/", ") ", " or ", " to ", " vs. ")


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize(("one", "two"), [("2", "3"), ("4", "2"), ("two", "three"), ("1", "four")])
def test_of_two_numbers_none_is_read(one, sign, two):
    question = asked(["Never", "Rarely", "Sometimes", "Often", "Always"], "12345")
    for said in (f"{one}{sign}{two}", f"I'd say {one}{sign}{two}.", f"Answer: {one}{sign}{two}"):
        assert parse(question, said).refusal == "unreadable", said


def test_words_in_angle_brackets_are_no_markup():
    assert plain("E <Very Accurate>") == "E <Very Accurate>"
    for said in ("<b>D</b>", "D<br/>", "D</s>", "<answer>D", "D<end_of_turn>", '<span class="x">D</span>'):
        assert plain(said) == "D"


def test_labeled_answers_that_make_no_sense_are_named(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"part": "x", "labels": "AB", "words": ["a", "b"], "answer": "C", "reads": "C"}\n')
    with pytest.raises(ValueError, match=r"a.jsonl:1: as many labels as words"):
        labeled_answers(file)
    file.write_text('\n{"part": "x"}\n')
    with pytest.raises(ValueError, match=r"a.jsonl:2 is no labeled answer"):
        labeled_answers(file)
