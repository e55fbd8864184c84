"""The RealBehavior study on a chat model that is there already: asked, fine-tuned, asked again, stopped."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

import jaxmoe
from evals.questionnaires.administration import administer
from evals.questionnaires.respondents.simulated import simulated_respondent
from jaxmoe.model.config import ModelConfig
from tests.jaxmoe.text.templates import tokenizer_for
from training.runtime import config as configs
from training.studies import reproduce
from training.studies.cells import StoppedError
from training.studies.realbehavior import pretrained_page
from training.studies.realbehavior import study as realbehavior
from training.studies.realbehavior.config import RealbehaviorConfig
from training.studies.realbehavior.pretrained import AskedQuestions, Stopwatch
from training.studies.realbehavior.pretrained_config import AskedWay

FILE = Path("configs/reproduce/realbehavior_smollm2.yaml")
FEW = {"instruments": ["gad_7"], "templates": ["terse"], "personas": "8", "situations": 0, "batch_size": 8}
TUNING = {
    "base": "given by the study",
    "output": "given by the study",
    "adapter": "loramoe",
    "experts": {"num_experts": 2, "rank": 2},
    "steps": 1,
    "data": {
        "sources": [{"name": "jaxmoe_instructions/demo", "limit": 40}],
        "batch_size": 8,
        "length": 512,
        "packing": "first_fit",
    },
    "watch": {"progress": False, "plots": False, "tensorboard": False},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A chat model of random weights, and a study of it in small."""
    folder = tmp_path_factory.mktemp("pretrained")
    tokenizer = tokenizer_for("smollm2")
    shape = dict(hidden_size=16, intermediate_size=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8)
    config = ModelConfig(vocab_size=len(tokenizer), max_positions=1024, tie_embeddings=True, **shape)
    jaxmoe.save(jaxmoe.LanguageModel.random(config), folder / "base", "hf", tokenizer=tokenizer)
    (folder / "loramoe.yaml").write_text(yaml.safe_dump(TUNING))
    written = FEW | {"answers": "written", "option_orders": ["forward"], "max_new_tokens": 2}
    study = {
        "base": str(folder / "base"),
        "ways": {"scored": FEW, "written": written},
        "tuned": {"loramoe": {"label": "LoRAMoE", "config": str(folder / "loramoe.yaml")}},
        "tuned_ways": {"scored": FEW | {"option_orders": ["forward"]}},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump({"pretrained": study}))
    return folder


@pytest.fixture(scope="module")
def found(folder):
    assert reproduce.reproduce("realbehavior", folder / "out", folder / "study.yaml", [])
    return json.loads((folder / "out" / "realbehavior_pretrained.json").read_text())


def test_every_model_is_asked_in_every_way(found, folder):
    cells = found["cells"]
    assert list(cells) == ["base-scored", "base-written", "loramoe-scored"]
    assert [one["questions"] for one in cells.values()] == [7 * 8 * 2, 7 * 8, 7 * 8]
    against = cells["loramoe-scored"]["against base"]
    # half of the base's questions were asked again
    assert against["questions"] == 7 * 8
    assert 0 <= against["same answer"] <= 1
    page = (folder / "out" / "realbehavior_pretrained.html").read_text()
    assert "LoRAMoE, scored" in page


def test_the_same_command_asks_nothing_again(found, folder, capsys):
    before = sorted((path, path.stat().st_mtime_ns) for path in (folder / "out" / "answers").rglob("*"))
    assert reproduce.reproduce("realbehavior", folder / "out", folder / "study.yaml", [])
    assert "3 cells are done already" in capsys.readouterr().out
    assert before == sorted(
        (path, path.stat().st_mtime_ns) for path in (folder / "out" / "answers").rglob("*")
    )


def test_a_stopped_cell_keeps_its_answers(folder, tmp_path):
    study = realbehavior.make(configs.load(RealbehaviorConfig, folder / "study.yaml"), tmp_path)
    cell = study.cells({})[0]
    asked = []

    def stopped():
        asked.append(1)
        return len(asked) == 5

    with pytest.raises(StoppedError):
        study.run(cell, stopped)
    journal = tmp_path / "answers" / cell.file.removesuffix(".json") / "answers.jsonl"
    assert len(journal.read_text().splitlines()) == 5
    study.run(cell, lambda: False)
    assert len(journal.read_text().splitlines()) == 7 * 8 * 2


def test_time_is_counted_over_sessions(tmp_path, monkeypatch):
    now = iter([0.0, 7.0, 100.0, 103.0, 109.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    watch = Stopwatch(tmp_path / "seconds.json")
    watch.note()
    again = Stopwatch(tmp_path / "seconds.json")  # 93 seconds between the sessions are nobody's
    again.note()
    again.note()
    assert again.seconds == 16
    assert json.loads((tmp_path / "seconds.json").read_text()) == 16


def summary():
    """A study whose base has the described traits, and whose fine-tuned model answers for another trait."""
    config = configs.load(RealbehaviorConfig, FILE, ["pretrained.tuned_ways.scored.personas=16"])
    study = realbehavior.make(config, Path("unused"))
    way = AskedWay(instruments=("mini_ipip",), templates=("form",), personas="16")
    asked = AskedQuestions(way)
    tables = [
        administer(simulated_respondent(name), asked.batteries, asked.design)
        for name in ("faithful", "other trait")
    ]
    thresholds = config.pretrained.thresholds
    base, tuned = (asked.judged(table, thresholds) | {"seconds": 60.0} for table in tables)
    tuned |= {"against base": asked.against(*tables)}
    results = {"base-scored": base, "loramoe-scored": tuned}
    return json.loads(json.dumps({"run": {"commit": "c"}, **study.summary(results)}))


def test_a_page_says_what_was_found():
    made = summary()
    page = pretrained_page.page("title", made)
    assert [section.title for section in page.sections] == [
        "Verdicts",
        "Design",
        "What the verdicts rest on",
        "What fine-tuning changed",
    ]
    (text,) = page.sections[0].text
    # a single questionnaire agrees with no other: nothing can be faithful on every criterion
    assert "can be believed for 0 of 5 constructs" in text
    assert text.count(". ") == 1
    assert text.endswith("say nothing about others.")
    own = [
        row["value"] for row in made["cells"]["base-scored"]["described"] if row["construct"] == row["trait"]
    ]
    assert min(own) > 0.6
    other = made["cells"]["loramoe-scored"]["described"]
    assert max(row["value"] for row in other if row["construct"] == row["trait"]) < 0.4
    assert np.isfinite(own).all()


def test_ways_of_the_fine_tuned_are_the_bases():
    with pytest.raises(
        ValueError,
        match=r"tuned_ways must be of scored, written, written_conditions, the base's; got 'asked'",
    ):
        configs.load(RealbehaviorConfig, FILE, ["pretrained.tuned_ways.asked={}"])
    with pytest.raises(ValueError, match="scale has no part in a pretrained model's study"):
        configs.load(RealbehaviorConfig, FILE, ["scale=0.5"])
    with pytest.raises(ValueError, match="tuned must name rows of the LoRAMoE study, or pretrained a model"):
        RealbehaviorConfig()


def test_the_small_study_keeps_its_cells():
    """What it asks has no part in the pretrained model's study: its files are found under their old names."""
    study = realbehavior.make(
        configs.load(RealbehaviorConfig, Path("configs/reproduce/realbehavior.yaml")), Path(".")
    )
    cells = {cell.name: cell for cell in study.cells({})}
    assert set(cells["null-midpoint"].settings) == {"respondent", "seeds", "asked"}
    assert "pretrained" not in json.dumps([dict(cell.settings) for cell in cells.values()])


def test_no_two_cells_are_drawn_alike():
    names = [f"base-way{number}" for number in range(9)]
    summary = {"cells": {name: {"described": []} for name in names}, "labels": {"base": "base"}}
    (legend,) = pretrained_page.described(summary).figure.legends
    looks = [(line.get_color(), line.get_marker()) for line in legend.legend_handles]
    assert len(set(looks)) == len(names) + 1  # the crosses too
