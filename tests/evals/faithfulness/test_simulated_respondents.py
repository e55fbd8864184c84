"""Each simulated respondent is judged as it should be; the rates over 100 seeds are filed (null_study)."""

import pandas as pd
import pytest

from evals.faithfulness.criteria import CARELESS, HALO
from evals.faithfulness.null_study import INSTRUMENTS, conclusions, curve, design_for, study
from evals.faithfulness.validity import BEYOND, TRAIT_LEAD, WITH_TRAIT
from evals.faithfulness.verdicts import assess
from evals.questionnaires.administration import administer
from evals.questionnaires.behavior_scores import conduct_scores
from evals.questionnaires.behaviors import battery
from evals.questionnaires.design import Design
from evals.questionnaires.instrument import load_instrument
from evals.questionnaires.respondents.simulated import RULES, simulated_respondent
from evals.questionnaires.respondents.simulated_traits import graded


@pytest.fixture(scope="module")
def instruments():
    return [load_instrument(name) for name in INSTRUMENTS]


def fewer_people(name: str) -> Design:
    """The study's design with half of its people, which costs half; of twins there must be 64."""
    return design_for(RULES[name], 64 if RULES[name].needs == "twins" else 32)


def checks_of(name: str, instruments, seed: int = 0) -> pd.DataFrame:
    """The checks of the first instrument."""
    asked = [*instruments, battery(["conduct"])]
    table = administer(simulated_respondent(name, seed), asked, fewer_people(name))
    found = assess(table, instruments, behavior=conduct_scores(table)).checks
    return pd.DataFrame(found[found["instrument"] == instruments[0].name])


def verdicts_on(checks: pd.DataFrame, statistic: str) -> set[str]:
    return set(checks.loc[checks["statistic"].str.startswith(statistic), "verdict"])


@pytest.mark.parametrize("name", RULES)
def test_the_conclusion_is_right(name, instruments):
    found = conclusions(simulated_respondent(name, 1), instruments, design_for(RULES[name]))
    assert len(found) == 5
    wrong = {c: verdict for c, verdict in found.items() if verdict not in RULES[name].rights(c)}
    assert wrong == {}


@pytest.mark.parametrize(
    ("name", "statistic"),
    [
        ("inverted", WITH_TRAIT),
        ("other trait", WITH_TRAIT),
        ("other trait", TRAIT_LEAD),
        ("unrelated traits", WITH_TRAIT),
        ("parrot", BEYOND),
        ("half halo", HALO),
        ("halo", HALO),
        ("careless answers", "ICC(A,1) of single answers"),
        ("careless persons", CARELESS),
        ("memorized", "alpha, paraphrased"),
        ("sycophantic", "ICC(A,1) over conditions"),
        ("text-bound", "alpha"),
    ],
)
def test_each_is_found_by_the_check_that_is_meant_for_it(name, statistic, instruments):
    assert verdicts_on(checks_of(name, instruments), statistic) == {"not faithful"}


def test_a_mixture_of_described_traits_is_told_by_twins_alone(instruments):
    """People who all differ show something that no trait explains, which twins do not."""
    rule, asked = RULES["mixture"], [*instruments, battery(["conduct"])]
    verdicts = {}
    for needs in ("", "twins"):
        design = design_for(rule._replace(needs=needs))
        table = administer(simulated_respondent("mixture"), asked, design)
        found = assess(table, instruments, behavior=conduct_scores(table)).checks
        verdicts[needs] = list(found.loc[found["statistic"] == BEYOND, "verdict"])
    assert verdicts[""].count("faithful") > 5
    assert verdicts["twins"].count("faithful") <= 1


def test_memorized_items_pass_in_their_published_words(instruments):
    checks = checks_of("memorized", instruments)
    assert verdicts_on(checks, "alpha, published") == {"faithful"}


def test_without_a_described_trait_nothing_is_faithful_outright(instruments):
    table = administer(
        simulated_respondent("faithful"), [*instruments, battery(["conduct"])], fewer_people("faithful")
    )
    blind = table.drop(columns=[c for c in table.columns if c.startswith("described_")])
    found = assess(blind, instruments, behavior=conduct_scores(blind))
    validity = found.verdicts[found.verdicts["criterion"] == "validity"]
    assert set(validity["verdict"]) == {"undetermined"}
    assert validity["reason"].str.contains("not established").all()
    others = found.verdicts[
        (found.verdicts["criterion"] != "validity") & (found.verdicts["instrument"] == "ipip_50")
    ]
    assert set(others["verdict"]) == {"faithful"}


def test_known_traits_stand_in_for_described_ones(instruments):
    """A trait that the respondent was not told cannot be repeated: a perfect measure is no parrot."""
    table = administer(
        simulated_respondent("parrot"), [*instruments, battery(["conduct"])], fewer_people("parrot")
    )
    columns = [c for c in table.columns if c.startswith("described_")]
    known = table.groupby("persona")[columns].first()
    known.columns = pd.Index([c.removeprefix("described_") for c in columns])
    found = assess(table, instruments, behavior=conduct_scores(table), traits=known)
    assert found.of("extraversion", "validity") == "faithful"
    assert BEYOND not in set(found.checks["statistic"])
    shuffled = known.set_axis(known.index[::-1])
    assert assess(table, instruments, traits=shuffled).of("extraversion", "validity") == "not faithful"


def test_the_study_counts_verdicts_and_wrong_ones():
    (row,) = study(2, ["constant"])
    assert (row["not faithful"], row["wrong"], row["right"]) == (10, 0.0, "not faithful")


def test_the_operating_curve_rises_with_reliability():
    low, high = curve(2, steps=[0.3, 0.95], people=32)
    assert low["faithful"] == 0
    assert low["not faithful"] > 0
    assert high["faithful"] > 5


def test_a_reliability_is_below_one():
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        graded(1.0)
