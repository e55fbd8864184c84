"""Questionnaires in the files of other benchmarks; the files here are written for the test, in their "
"formats."""

import json
import math

import pytest
from typer.testing import CliRunner

from evals.import_instruments import main
from evals.questionnaires import score
from evals.questionnaires.administration import administer
from evals.questionnaires.design import battery
from evals.questionnaires.instrument import load_instrument
from evals.questionnaires.published_formats import read_published
from evals.questionnaires.respondents.simulated import simulated_respondent

PSYCHOBENCH = [
    {
        "name": "Tea-Q",
        "questions": {"1": "I like tea.", "2": "Tea is dull.", "3": "I drink at night.", "4": "Filler."},
        "inner_setting": "You can only reply numbers from 1 to 5.",
        "prompt": "You can only reply numbers from 1 to 5 in the following statements. Judge yourself. 1 "
        "denotes "
        "strongly disagree, 2 denotes a little disagree, 3 denotes neither, 4 denotes a little agree, 5 "
        "denotes strongly "
        "agree. Here are the statements, score them one by one:",
        "scale": 6,
        "reverse": [2],
        "categories": [
            {
                "cat_name": "Tea Love",
                "cat_questions": [1, 2],
                "crowd": [{"crowd_name": "Crowd", "mean": 3.5, "std": 0.5, "n": 90}],
            },
            {"cat_name": "Night", "cat_questions": [3], "compute_mode": "SUM", "crowd": []},
            {"cat_name": "Overall", "cat_questions": [1, 2, 3], "crowd": []},
        ],
    }
]
PSYBORGS = {
    "measures": {
        "TEA": {
            "user_readable_name": "Tea Inventory",
            "items": {"t1": "I like tea", "t2": "I dislike tea"},
            "scales": {
                "TEA-EXT": {
                    "user_readable_name": "Tea Extraversion",
                    "item_ids": ["t1", "t2"],
                    "reverse_keyed_item_ids": ["t2"],
                    "item_preamble_ids": ["d1"],
                    "item_postamble_ids": ["p1"],
                    "response_scale_ids": ["likert3"],
                    "response_choice_postamble_ids": ["none"],
                }
            },
        }
    },
    "item_preambles": {"d1": 'Considering the statement, "'},
    "item_postambles": {
        "p1": '", please rate how much you agree on a scale from 1 to 3 (where 1 = "no", 2 = "so so", '
        'and 3 = "yes").\n'
    },
    "response_scales": {
        "likert3": {"user_readable_name": "3", "response_choices": {"1": "1", "2": "2", "3": "3"}}
    },
    "response_choice_postambles": {"none": ""},
    "models": {},
}
TRAIT = [
    {
        "personality": "Openness",
        "situation": f"Situation {n}.",
        "query": "What should I do?",
        "response_high1": f"Try it {n}",
        "response_high2": f"Explore {n}",
        "response_low1": f"Stay {n}",
        "response_low2": f"Wait {n}",
    }
    for n in range(3)
]
INSPECT = [
    {
        "input": f"Statement {n}",
        "target": ["A", "B"],
        "choices": ["Disagree", "Agree"],
        "metadata": {"trait": "Neuroticism", "reverse": n == 1},
    }
    for n in range(2)
]


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(json.dumps(content))
    return path


EXT = ("measures", "TEA", "scales", "TEA-EXT")
CHOICES = ("response_scales", "likert3", "response_choices")


def changed(content, value, *place):
    """A copy with another value at a place."""
    copied = json.loads(json.dumps(content))
    holder = copied
    for step in place[:-1]:
        holder = holder[step]
    holder[place[-1]] = value
    return copied


def test_psychobench(tmp_path):
    found = read_published(written(tmp_path, "questionnaires.json", PSYCHOBENCH))
    assert found.benchmark == "PsychoBench"
    assert found.notes == ["Tea-Q: 1 questions of no category are left out"]
    tea, overall = found.instruments
    assert [scale.name for scale in tea.scales] == ["tea_love", "night"]
    # an item is of one scale: scales over the same items are an instrument of their own
    assert [scale.name for scale in overall.scales] == ["overall"]
    assert {item.id: item.key for item in tea.items} == {"tea_q_1": 1, "tea_q_2": -1, "tea_q_3": 1}
    assert [option.label for option in tea.options][:2] == ["strongly disagree", "a little disagree"]
    assert "You can only reply" not in tea.instruction
    assert "Judge yourself." in tea.instruction
    [norm] = tea.norms
    assert (norm.scale, norm.mean, norm.sd, norm.metric) == ("tea_love", 3.5, 0.5, "mean")


def test_psychobench_as_the_paper_used_it(tmp_path):
    old = json.loads(json.dumps(PSYCHOBENCH))
    old[0]["compute_mode"] = "SUM"
    crowd = {"crowd_sample_mean": 3.5, "crowd_sample_sd": 0.5, "crowd_sample_num": 90}
    old[0]["categories"][0]["crowd"] = [crowd]
    no_scales = {**PSYCHOBENCH[0], "name": "16P", "categories": []}
    found = read_published(written(tmp_path, "questionnaires.json", [*old, no_scales]))
    assert [(norm.group, norm.mean, norm.metric) for norm in found.instruments[0].norms] == [
        ("crowd", 3.5, "sum")
    ]
    assert "16P: no categories, so no scales; left out" in found.notes


def test_what_is_left_out_is_said(tmp_path):
    crowd = {"crowd_name": "Crowd", "mean": 3.5, "std": 0}
    without_sd = changed(PSYCHOBENCH, [crowd], 0, "categories", 0, "crowd")
    notes = read_published(written(tmp_path, "questionnaires.json", without_sd)).notes
    assert "Tea-Q: crowd Crowd of Tea Love has no SD and is left out" in notes
    endless = changed(PSYCHOBENCH, [{**crowd, "mean": math.inf, "std": 1}], 0, "categories", 0, "crowd")
    found = read_published(written(tmp_path, "questionnaires.json", endless))
    assert "Tea-Q: crowd Crowd of Tea Love has no finite mean and is left out" in found.notes
    assert found.instruments[0].norms == ()
    more = {**PSYBORGS["measures"]["TEA"]["items"], "t3": "Filler"}
    session = changed(PSYBORGS, more, "measures", "TEA", "items")
    notes = read_published(written(tmp_path, "s.json", session)).notes
    assert "TEA: 1 items of no scale are left out" in notes


def test_psyborgs(tmp_path):
    [tea] = read_published(written(tmp_path, "session.json", PSYBORGS)).instruments
    assert [(option.value, option.label) for option in tea.options] == [(1, "no"), (2, "so so"), (3, "yes")]
    assert [item.key for item in tea.items] == [1, -1]
    assert tea.instruction == "Please rate how much you agree."
    assert tea.scales[0].measures == "extraversion"


def test_choices_may_have_gaps(tmp_path):
    session = changed(PSYBORGS, {"1": "1", "3": "3"}, *CHOICES)
    [tea] = read_published(written(tmp_path, "s.json", session)).instruments
    assert [(option.value, option.label) for option in tea.options] == [(1, "no"), (3, "yes")]


def test_trait_situations_have_answers_of_their_own(tmp_path):
    double = {**TRAIT[0], "response_low2": TRAIT[0]["response_low1"]}
    found = read_published(written(tmp_path, "TRAIT.json", [*TRAIT, double]))
    assert found.notes == ["1 situations with the same answer twice are left out"]
    [trait] = found.instruments
    first = battery(trait).entries[0]
    assert [value for value, _ in first.options] == [1, 1, 0, 0]
    assert first.options[2] == (0, "Stay 0")
    # who takes the third of four answers is low, whatever they are called
    table = administer(simulated_respondent("midpoint"), trait)
    assert table["n_options"].tolist() == [4, 4, 4]
    scores = score(table.assign(respondent="one"), trait)
    assert scores["mean"].item() == pytest.approx(table["response"].mean())


def test_inspect(tmp_path):
    [bfi] = read_published(written(tmp_path, "bfi.json", INSPECT)).instruments
    assert [item.key for item in bfi.items] == [1, -1]
    assert [option.value for option in bfi.options] == [1, 2]
    assert bfi.scales[0].desirable == -1


def test_the_command_writes_instruments_that_load(tmp_path):
    import typer

    app = typer.Typer()
    app.command()(main)
    for name, content in (
        ("q.json", PSYCHOBENCH),
        ("s.json", PSYBORGS),
        ("TRAIT.json", TRAIT),
        ("bfi.json", INSPECT),
    ):
        done = CliRunner().invoke(app, [str(written(tmp_path, name, content)), str(tmp_path / "out")])
        assert done.exit_code == 0, done.stderr
    files = sorted((tmp_path / "out").glob("*.json"))
    assert [file.stem for file in files] == [
        "inspect_bfi",
        "psyborgs_tea",
        "psychobench_tea_q",
        "psychobench_tea_q_2",
        "trait",
    ]
    for file in files:
        assert load_instrument(file).license.startswith("not told by the file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "is no file of PsychoBench"),
        ([{**PSYCHOBENCH[0], "scale": 9}], "Tea-Q: its prompt names no range of answers"),
        ([{**PSYCHOBENCH[0], "reverse": None}], "0.reverse: Input should be a valid list"),
        (
            changed(PSYCHOBENCH, [2, 99], 0, "reverse"),
            "Tea-Q: reverse names question '99', which there is not",
        ),
        (
            changed(PSYCHOBENCH, [1, 2, 99], 0, "categories", 0, "cat_questions"),
            "Tea-Q: category Tea Love names question '99', which there is not",
        ),
        (
            changed(PSYCHOBENCH, [1, 2, 2], 0, "categories", 0, "cat_questions"),
            "Tea-Q: category Tea Love names question '2' twice",
        ),
        (changed(PSYCHOBENCH, "Night", 0, "categories", 0, "cat_name"), "Tea-Q names category 'Night' twice"),
        ([*PSYCHOBENCH, *PSYCHOBENCH], "two questionnaires would be psychobench_tea_q"),
        ([{**PSYCHOBENCH[0], "categories": []}], "no questionnaire with scales (Tea-Q: no categories"),
        (
            changed(PSYCHOBENCH, [], 0, "categories", 0, "cat_questions"),
            "Tea-Q: category Tea Love names no question; give it some, or take it out of the file",
        ),
        (
            changed(PSYBORGS, [], *EXT, "item_ids"),
            "TEA: scale TEA-EXT names no item; give it some, or take it out of the file",
        ),
        (changed(PSYBORGS, {}, "measures"), "other.json holds no questionnaire with scales"),
        (changed(PSYBORGS, {}, "measures", "TEA", "scales"), "TEA: no scales; left out"),
        (changed(PSYBORGS, ["t1", "zz"], *EXT, "item_ids"), "TEA-EXT names item 'zz', which there is not"),
        (changed(PSYBORGS, ["t1", "t1"], *EXT, "item_ids"), "TEA-EXT names item 't1' twice"),
        (
            changed(PSYBORGS, ["zz"], *EXT, "reverse_keyed_item_ids"),
            "TEA-EXT: reverse names item 'zz', which",
        ),
        (changed(PSYBORGS, [], *EXT, "item_postamble_ids"), "TEA-EXT names no item postamble"),
        (
            changed(PSYBORGS, ["p9"], *EXT, "item_postamble_ids"),
            "names item postamble 'p9', which there is not",
        ),
        (changed(PSYBORGS, [], *EXT, "response_scale_ids"), "TEA-EXT names no response scale"),
        (
            changed(PSYBORGS, ["r9"], *EXT, "response_scale_ids"),
            "names response scale 'r9', which there is not",
        ),
        (
            changed(PSYBORGS, {"1": "1"}, *CHOICES),
            "response scale likert3 must have at least 2 choices; got 1",
        ),
    ],
)
def test_what_is_refused_is_said_in_one_line(tmp_path, content, message):
    with pytest.raises(ValueError, match=r"^other.json: |^other.json (is no|holds)") as error:
        read_published(written(tmp_path, "other.json", content))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_items_own_options_are_checked(tmp_path):
    wrong = {
        "name": "x", "title": "x", "source": "x", "license": "x", "validated": False,
        "options": [{"value": 0, "label": "low"}, {"value": 1, "label": "high"}],
        "scales": [{"name": "s"}],
        "items": [
            {"id": "a", "text": "a", "scale": "s",
             "options": [{"value": 1, "label": "b"}, {"value": 2, "label": "c"}]},
        ],
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"options of item a have values 0, 1; got 2"):
        load_instrument(written(tmp_path, "x.json", wrong))
