"""Answer comparison: values by hand, and what normalization must and must not do."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evals.knowledge.answers import first_line, match, normalize, token_f1
from evals.models.text_model import cut_at


@pytest.mark.parametrize(
    ("text", "squad", "triviaqa"),
    [
        ("The  U.S.\tArmy", "us army", "u s army"),
        ("An apple, a day!", "apple day", "apple day"),
        ("Rock ‘n’ roll", "rock ‘n’ roll", "rock n roll"),
        ("new_york", "newyork", "new york"),
        ("Theatre", "theatre", "theatre"),
        ("May\u00a024,\u00a01989", "may 24 1989", "may 24 1989"),
    ],
)
def test_normalizations_by_hand(text, squad, triviaqa):
    assert normalize(text) == squad
    assert normalize(text, "triviaqa") == triviaqa


def test_answers_of_articles_or_marks_alone_do_not_match_silence():
    for answer in ("A", "!!!", "The"):
        assert match("", [answer]).exact == 0.0
        assert match(answer.lower(), [answer]).exact == 1.0


@given(st.text())
@example("C:\u0327")
def test_normalizing_twice_changes_nothing(text):
    for style in ("squad", "triviaqa"):
        once = normalize(text, style)
        # a fall-back (nothing but articles and marks) may still hold marks that lower-casing kept
        assert normalize(once, style) == once


def test_f1_by_hand():
    # P = 2/3, R = 2/2: F1 = 4/5
    assert match("the big red dog", ["big dog"]).f1 == pytest.approx(0.8)
    # multiplicity counts: one "new" of two is shared
    assert token_f1(["new", "new"], ["new", "york"]) == pytest.approx(0.5)
    assert token_f1([], []) == 1.0
    assert token_f1([], ["x"]) == 0.0


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")))
def test_f1_is_symmetric_and_one_only_for_the_same_words(left, right):
    assert token_f1(left, right) == token_f1(right, left)
    assert (token_f1(left, right) == 1.0) == (sorted(left) == sorted(right))


def test_best_answer_counts_for_each_measure():
    found = match("Mount Everest", ["Everest", "Sagarmatha", "mount everest peak"])
    assert found.exact == 0.0
    assert found.f1 == pytest.approx(0.8)
    assert match("mount everest", ["K2", "The Mount Everest."]) == (1.0, 1.0)


def test_prefix_extent_ignores_what_follows_the_answer():
    response = " Paris, which lies on the Seine"
    assert match(response, ["Paris"], extent="prefix") == (1.0, 1.0)
    assert match(response, ["Paris"]).exact == 0.0
    assert match("Lima or Paris", ["Paris"], extent="prefix").exact == 0.0
    # shorter than the answer is not the answer
    assert match("New", ["New York"], extent="prefix").exact == 0.0


def test_answers_are_required_and_normalizations_known():
    with pytest.raises(ValueError, match="at least one gold answer"):
        match("x", [])
    with pytest.raises(ValueError, match="squad or triviaqa; got 'nq'"):
        match("x", ["x"], normalization="nq")  # type: ignore[arg-type]


def test_first_line_and_cut():
    assert first_line("\n\n  Paris \nQ: next") == "Paris"
    assert first_line("  \n") == ""
    assert cut_at("ab\nc;d", [";", "\n"]) == "ab"
    assert cut_at("abc", ["x"]) == "abc"


@pytest.mark.parametrize("style", ["squad", "triviaqa"])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Pele\u0301", "Pel\u00e9"),
        ("\uff21\uff22\uff23 \uff11\uff12", "abc 12"),
        ("Rubik\u2019s Cube", "Rubik's Cube"),
        ("\u201cHamlet\u201d", '"Hamlet"'),
        ("1914\u20131918", "1914-1918"),
        ("\ufb01re", "fire"),
        ("New\u00a0York", "New York"),
        ("\u0130zmir", "I\u0307ZMIR"),
        ("H\u2082O", "H2O"),
        ("\u212b", "\u00c5"),
        ("\u30ab\u3099", "\u30ac"),
    ],
)
def test_forms_of_one_text_compare_equal(style, one, other):
    assert match(one, [other], normalization=style) == match(other, [one], normalization=style) == (1.0, 1.0)


def test_accents_still_tell_answers_apart():
    assert match("Pele", ["Pel\u00e9"]).exact == 0


def test_the_first_line_of_a_response_ends_at_line_ends_only():
    assert first_line("\n  one\u2028still one\x0c \r\ntwo") == "one\u2028still one"
