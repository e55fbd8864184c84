"""Many described people: names, texts, traits that spread and do not correlate."""

import numpy as np
import pytest

from evals.faithfulness import assess
from evals.questionnaires import Design, administer, graded_personas, load_instrument, simulated_respondent
from evals.questionnaires.wording import CONSTRUCTS, chosen_personas


def traits(people):
    return np.array([[one.traits[name] for name in CONSTRUCTS] for one in people])


@pytest.mark.parametrize(
    ("count", "largest_r"), [(32, 0.15), (64, 0.1), (100, 0.06), (200, 0.06), (512, 0.06)]
)
def test_described_traits_spread_and_hardly_correlate(count, largest_r):
    people = graded_personas(count)
    assert len({one.name for one in people}) == len({one.text for one in people}) == count
    table = traits(people)
    assert set(np.unique(table)) == {n / 2 for n in range(-4, 5)}
    assert np.abs(np.corrcoef(table.T) - np.eye(5)).max() < largest_r
    # nine equally frequent steps of half an SD
    assert table.std(axis=0) == pytest.approx(np.full(5, np.sqrt(80 / 12) / 2), abs=0.07)


def test_more_people_begin_with_the_same_ones():
    assert graded_personas(300)[:64] == graded_personas(64) == list(chosen_personas("graded-64"))


def test_text_tells_the_degree_and_nothing_else_differs_with_it():
    by_degree = {}
    for one in graded_personas(512):
        sentences = one.text.split(". ")
        for name, sentence in zip(CONSTRUCTS, sentences[1:], strict=True):
            by_degree.setdefault((name, one.traits[name]), set()).add(sentence.rstrip("."))
    assert len(by_degree) == 5 * 9
    assert all(len(told) == 1 for told in by_degree.values())
    assert by_degree["neuroticism", 2.0].pop().startswith("You are extremely anxious")
    assert by_degree["neuroticism", -0.5].pop().startswith("You are slightly calm")


def test_twins_share_their_traits_and_not_their_biographies():
    people = chosen_personas("twins-64")
    assert len({one.name for one in people}) == len({one.text for one in people}) == 64
    for first, second in zip(people[::2], people[1::2], strict=True):
        assert first.traits == second.traits
        assert first.text.split(". ")[1:] == second.text.split(". ")[1:]
    assert [one.traits for one in people[::2]] == [one.traits for one in graded_personas(32)]


@pytest.mark.parametrize(
    "choice", ["twins-62", "twins-65", "graded-31", "graded-513", "33", "graded-", "graded-x"]
)
def test_other_numbers_are_refused_with_the_remedy(choice):
    with pytest.raises(ValueError, match=r"(32|64) to 512|graded-"):
        chosen_personas(choice)


def test_verdicts_follow_the_declared_degrees():
    mini = load_instrument("mini_ipip")
    design = Design(option_orders=("forward", "reversed"), personas=tuple(graded_personas(64)))
    found = {
        name: assess(administer(simulated_respondent(name), mini, design), mini)
        for name in ("faithful", "inverted", "other trait", "parrot")
    }
    for construct in CONSTRUCTS[1:2]:
        assert found["faithful"].of(construct, "validity") == "faithful"
        assert found["inverted"].of(construct, "validity") == "not faithful"
        assert found["other trait"].of(construct, "validity") == "not faithful"
        assert found["parrot"].of(construct, "validity") != "faithful"
