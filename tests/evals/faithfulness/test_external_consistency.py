"""Items that two instruments share count once; halo is what scores have in common beyond the description."""

import numpy as np
import pytest

from evals.faithfulness.criteria import Setting, Thresholds
from evals.faithfulness.external_consistency import external_consistency, shared_items
from evals.questionnaires.administration import administer
from evals.questionnaires.design import Design
from evals.questionnaires.instrument import load_instrument
from evals.questionnaires.respondents.simulated import Simulated
from evals.questionnaires.respondents.simulated_draws import agreeing, stable
from evals.questionnaires.response_table import cube
from evals.questionnaires.wording import composed_personas

SETTING = Setting(Thresholds())


def test_shared_items_are_found_whatever_their_case_and_punctuation():
    big, mini, neo = (load_instrument(name) for name in ("ipip_50", "mini_ipip", "ipip_neo_120"))
    found = shared_items([big, mini])
    assert len(found["ipip_50"]) == 20
    assert found["mini_ipip"] == frozenset()
    # 14 with ipip_50, one of them not in mini_ipip's 20
    assert len(shared_items([big, neo])["ipip_neo_120"]) == 14
    loud = mini.model_copy(
        update={
            "name": "loud",
            "items": tuple(i.model_copy(update={"text": f"I {i.text.upper()}!"}) for i in mini.items),
        }
    )
    assert len(shared_items([mini, loud])["loud"]) == 20


def test_an_item_does_not_agree_with_itself():
    """Answers by the words alone: all 20 items of mini_ipip stand in ipip_50, and r would be .6 with them."""
    people = tuple(composed_personas(32))
    bound = Simulated("bound", lambda s, q: agreeing(q, stable(s, q.text, q.persona.name)), 4)
    both = [load_instrument("ipip_50"), load_instrument("mini_ipip")]
    table = administer(bound, both, Design(personas=people))
    cubes = [cube(table, one, ["persona"]) for one in both]
    pairs = [(one, scale) for one in cubes for scale in one.instrument.domains]
    found = external_consistency(pairs, SETTING)
    values = [
        check.estimate.value
        for checks in found.values()
        for check in checks
        if check.statistic.startswith("convergent r with")
    ]
    assert len(values) == 10
    assert abs(np.mean(values)) < 0.25


def test_a_pair_of_the_same_items_is_refused():
    mini = load_instrument("mini_ipip")
    twin = mini.model_copy(update={"name": "twin"})
    people = tuple(composed_personas(8))
    table = administer(
        Simulated("any", lambda s, q: agreeing(q, stable(s, q.text, q.persona.name))),
        [mini, twin],
        Design(personas=people),
    )
    cubes = [cube(table, one, ["persona"]) for one in (mini, twin)]
    found = external_consistency([(one, s) for one in cubes for s in one.instrument.domains], SETTING)
    assert {check.verdict for checks in found.values() for check in checks} == {"undetermined"}
    assert all("share these items" in check.estimate.reason for checks in found.values() for check in checks)


@pytest.mark.parametrize("pair", [("ipip_50", "ipip_neo_120"), ("mini_ipip", "ipip_neo_120")])
def test_enough_is_left_of_the_usual_pairs(pair):
    both = [load_instrument(name) for name in pair]
    left = shared_items(both)
    for one in both:
        for scale in one.domains:
            assert sum(item.id not in left[one.name] for item in one.items_of(scale.name)) >= 4
