"""Verdicts: intervals against thresholds, simulated respondents, and tables that cannot be judged."""

import numpy as np
import pandas as pd
import pytest

from evals.faithfulness.criteria import Setting, Thresholds, judged
from evals.faithfulness.null_study import conclusions
from evals.faithfulness.verdicts import CRITERIA, assess, worst
from evals.psychometrics.estimate import Estimate, undefined
from evals.questionnaires import behavior_scores, behaviors
from evals.questionnaires.administration import administer
from evals.questionnaires.design import Design, battery
from evals.questionnaires.instrument import load_instrument
from evals.questionnaires.respondents.simulated import NULLS, simulated_respondent
from evals.questionnaires.respondents.simulated_traits import true_traits
from evals.questionnaires.response_table import cube
from evals.questionnaires.wording import CONSTRUCTS, composed_personas, named_templates

SETTING = Setting(Thresholds())
PEOPLE = tuple(composed_personas(32))
DESIGN = Design(named_templates(["form", "terse"]), ("forward", "reversed"), personas=PEOPLE)


@pytest.fixture(scope="module")
def instruments():
    return [load_instrument("ipip_50"), load_instrument("mini_ipip")]


def table_of(name, instruments, seed=0, design=DESIGN):
    batteries = [battery(one) for one in instruments]
    return administer(simulated_respondent(name, seed), [*batteries, behaviors.battery(["conduct"])], design)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.8, 0.9, "faithful"),
        (0.6, 0.7, "not faithful"),
        (0.7, 0.8, "undetermined"),
        (0.75, 0.75, "not faithful"),
    ],
)
def test_an_interval_is_beyond_short_or_across(low, high, verdict):
    assert judged("alpha", Estimate((low + high) / 2, low, high, 20), 0.75, SETTING).verdict == verdict


def test_the_interval_of_an_upper_bound_counts_the_other_way():
    assert judged("forward-reverse r", Estimate(-0.5, -0.8, -0.1, 20), 0.0, SETTING).verdict == "faithful"
    assert judged("forward-reverse r", Estimate(0.5, 0.1, 0.8, 20), 0.0, SETTING).verdict == "not faithful"


def test_few_respondents_and_no_value_stay_undetermined():
    few = judged("alpha", Estimate(0.9, 0.85, 0.95, 7), 0.7, SETTING)
    assert few.verdict == "undetermined"
    assert "at least 8" in few.reason
    assert judged("alpha", undefined("why", 20), 0.7, SETTING).verdict == "undetermined"
    assert judged("alpha", Estimate(1.0, n=20), 0.7, SETTING).verdict == "undetermined"


def test_a_criterion_is_as_good_as_its_worst_check():
    assert worst({"faithful", "undetermined", "not faithful"}) == "not faithful"
    assert worst({"faithful", "undetermined"}) == "undetermined"
    assert worst({"faithful"}) == "faithful"
    assert worst(set()) == "undetermined"


def test_the_faithful_respondent_is_faithful_on_every_criterion(instruments):
    table = table_of("faithful", instruments)
    found = assess(table, instruments, behavior=behavior_scores.conduct_scores(table))
    ten_items = found.verdicts[found.verdicts["instrument"] == "ipip_50"]
    assert len(ten_items) == 5 * 5
    assert set(ten_items["verdict"]) == {"faithful"}
    assert set(found.verdicts["criterion"]) == set(CRITERIA)
    assert "32 (persona)" in found.respondents
    assert (found.checks["low"] <= found.checks["estimate"]).all()
    assert (found.checks["estimate"] <= found.checks["high"]).all()


@pytest.mark.parametrize("name", NULLS)
def test_no_null_respondent_is_faithful_on_any_construct(name, instruments):
    for seed in (0, 1):
        found = conclusions(simulated_respondent(name, seed), instruments, DESIGN)
        assert set(found.values()) == {"not faithful"}


def test_scores_recover_the_simulated_traits(instruments):
    table = table_of("faithful", instruments, seed=5)
    one = cube(table, instruments[0], ["persona"])
    order = {persona.name: persona for persona in PEOPLE}
    for scale in instruments[0].domains:
        people = [order[who[0]] for who in one.persons]
        traits = true_traits(5, scale.measures, [(p.name, p.traits[scale.measures]) for p in people])
        # ten items with half a point of noise each: r = .97 and more
        assert np.corrcoef(one.scores(scale).mean(axis=1), traits)[0, 1] > 0.95


def test_one_person_leaves_everything_undetermined_and_nothing_is_one(instruments):
    alone = Design(DESIGN.templates, DESIGN.option_orders)
    found = assess(table_of("constant", instruments, design=alone), instruments)
    assert set(found.verdicts["verdict"]) == {"undetermined"}
    assert found.verdicts["estimate"].isna().all()
    assert (found.verdicts["reason"] != "").all()


def test_a_scale_keyed_one_way_cannot_be_told_from_agreement():
    gad = load_instrument("gad_7")
    table = administer(simulated_respondent("acquiescent"), [battery(gad)], DESIGN)
    found = assess(table, gad)
    checks = found.checks[found.checks["statistic"] == "forward-reverse r"]
    assert checks["verdict"].tolist() == ["undetermined"]
    assert "keyed one way" in checks["reason"].iloc[0]
    assert found.of("anxiety", "internal consistency") != "faithful"


def test_the_anxiety_facet_is_held_against_another_test_of_anxiety():
    both = [load_instrument("ipip_neo_120"), load_instrument("gad_7")]
    table = administer(simulated_respondent("faithful"), [battery(one) for one in both], DESIGN)
    checks = assess(table, both).checks
    partner = checks[(checks["scale"] == "Anxiety") & (checks["criterion"] == "external consistency")]
    assert any("with gad_7" in statistic for statistic in partner["statistic"])


def test_all_refusals_are_named_and_judge_nothing(instruments):
    table = table_of("faithful", instruments)
    found = assess(table.assign(response=np.nan), instruments)
    assert set(found.verdicts["verdict"]) == {"undetermined"}
    assert found.verdicts["estimate"].isna().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="template"), "'template' is missing"),
        (lambda t: pd.concat([t, t.head(1)]), "twice"),
        (lambda t: t.assign(response=9.0), "none of its answers"),
        (lambda t: t[t["instrument"] == "mini_ipip"], "no answers to ipip_50"),
        (lambda t: pd.concat([t, t.assign(model="other")]), "2 models"),
        (lambda t: t.assign(item="nonsense"), "unknown item"),
    ],
)
def test_bad_tables_are_named(instruments, change, message):
    table = administer(simulated_respondent("random"), [battery(one) for one in instruments], Design())
    with pytest.raises(ValueError, match=message):
        assess(change(table), instruments)


def test_behavioral_batteries_hold_versions_and_controls():
    tasks = {name: make(4, 0) for name, make in behaviors.FAMILIES.items()}
    for name, made in tasks.items():
        if name != "conduct":
            assert "control" in {task.version for task in made}, name
        assert len({task.entry.id for task in made}) == len(made)
    assert {task.version for task in tasks["conduct"]} == set(CONSTRUCTS)
    other = behaviors.framing(4, 1)
    assert [t.entry.text for t in other] != [t.entry.text for t in tasks["framing"]]


def test_right_answers_of_reflection_problems_are_right():
    for task in behaviors.reflection(30, 2):
        options = {value: float(words) for value, words in task.entry.options}
        assert len(set(options.values())) == 3, task
    for task in behaviors.reflection(30, 3)[::6]:  # kettle and cup
        numbers = [int(word.rstrip(".")) for word in task.entry.text.split() if word.rstrip(".").isdigit()]
        right = next(int(words) for value, words in task.entry.options if value == 1)
        assert right + (right + numbers[1]) == numbers[0]


def test_effects_of_a_made_up_respondent():
    class Framed:
        name, repeats_itself = "framed", True

        def answer(self, asked):
            from evals.questionnaires.respondent import chosen

            for number, question in enumerate(asked):
                yes = question.item.split("/")[2] in ("loss", "50", "control")
                yield number, chosen(question, 1 if yes else 0)

    table = administer(Framed(), [behaviors.battery(["framing", "ultimatum"], 5)], Design())
    found = behavior_scores.effects(table).set_index("family")
    assert found.loc["framing", "value"] == found.loc["ultimatum", "value"] == 1.0
    assert found.loc["framing", "control"] == 1.0
    assert found.loc["framing", "n"] == 5
