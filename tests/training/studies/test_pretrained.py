"""The LoRAMoE study on a base pretrained elsewhere: what is asked, the names of cells, replay."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from evals.knowledge.prompts import template
from evals.knowledge.questions import ChoiceQuestion, ClosedBookQuestion
from evals.models.local_model import LocalModel
from jaxmoe.model import params
from tests.training.studies.tiny_base import ABSTRACT, SAME, TEXTS, moved
from training.data.batch import BatchConfig
from training.data.encode import encode_samples
from training.runtime.model import TrainableModel
from training.studies import reproduce
from training.studies.cells import digest
from training.studies.loramoe import replay, tuning
from training.studies.loramoe.config import LoramoeConfig, PretrainedConfig, TuningRow
from training.studies.loramoe.instruction_file import read_instructions
from training.studies.loramoe.pretrained import PretrainedExams, pretrained_settings
from training.studies.loramoe.replay import base_texts, replay_sample, with_replay
from training.studies.loramoe.study import LoramoeStudy, middle_first


@pytest.fixture(scope="module")
def exams(tokenizer, base):
    """Some facts, of which the base completes all but the first two, being asked for what it says."""
    pretrained = PretrainedConfig(
        divergence_tasks=7, plain_facts=3, own_tokens=6, choices=4, few_shot=4, rows=4
    )
    rows = {"full": TuningRow("full SFT", "none", (1e-3,))}
    config = LoramoeConfig(rows, checkpoints=("x",), bases=1, pretrained=pretrained, tasks=7, dev_tasks=7)
    found = PretrainedExams(config.exam, pretrained, tokenizer, base, None)
    stems = ["Lima is", "who", "the red", "Quito lies", "me and", "the capital"]
    said = LocalModel(base, tokenizer, "text", 8).generate(
        [template("completion").prompt(ClosedBookQuestion("", "", ("",), stem=stem)) for stem in stems], 3
    )
    answers = [*("lamp lamp lamp", "you you you"), *(text.strip() for text in said[2:])]
    found.__dict__["_facts"] = found.__dict__["_stated"] = [
        ClosedBookQuestion(stem, stem, (answer,), stem=stem)
        for stem, answer in zip(stems, answers, strict=True)
        if answer
    ]
    found.__dict__["_choices"] = [
        ChoiceQuestion(s, s, (a, "lamp lamp"), 0, stem=s) for s, a in zip(stems, answers, strict=True) if a
    ]
    return found


def test_the_base_keeps_all_that_it_knows_and_is_nowhere_else(exams, base):
    found = exams.of_base(base)
    known = found["known"]["facts"]
    assert 0 < len(known) < found["asked"]["facts"]
    assert 0 not in known
    assert len(found["answers"]) == 7
    json.dumps(found)
    again = exams.of_snapshot(base, last=True)
    assert again["completed"] == again["choices"] == again["few_shot"] == 1.0
    assert again["kept"] == "1" * len(known)
    for where in ("answers", "prompts", "own", "plain"):
        assert again["kl"][where] == pytest.approx({"forward": 0, "backward": 0}, abs=SAME)
    assert [again[name] for name in ("tasks", "tasks_said")] == [
        found["test"][name] for name in ("tasks", "tasks_said")
    ]


def test_a_model_that_moved_is_somewhere_else(exams, base):
    exams.of_base(base)
    near, far = (exams.of_snapshot(moved(base, size), last=False) for size in (0.01, 0.1))
    for where in ("answers", "prompts", "own", "plain"):
        assert 0 < near["kl"][where]["forward"] < far["kl"][where]["forward"]
    assert "choices" not in far
    assert set(far["kept"]) <= {"0", "1"}
    assert 0 <= exams.dev_accuracy(moved(base, 0.1)) <= 1


def test_a_run_with_replay_and_decay_is_looked_at_between_base_and_end(
    exams, base, tokenizer, tmp_path, monkeypatch
):
    """At share 0 of the update stands the base; no snapshot is taken on the way."""
    copied = replace(base, weights=jax.tree.map(jnp.copy, base.weights))  # training donates what it is given
    monkeypatch.setattr(tuning, "load_model", lambda *a, seed: TrainableModel(copied, "all", ABSTRACT))
    row = TuningRow("WiSE-FT", "none", (1e-2,), l2_sp=1.0, replay=0.25, average=(0.0, 1.0))
    config = LoramoeConfig(
        {"full": row},
        checkpoints=("x",),
        bases=1,
        pretrained=PretrainedConfig(),
        samples=6,
        volumes=(1, 2),
        data=BatchConfig(4, 256, "first_fit"),
        warmup_steps=1,
    )
    study = LoramoeStudy(config, tmp_path)
    monkeypatch.setattr(
        "training.runtime.distributed.MeshConfig.make", lambda self: params.single_device_mesh()
    )
    study._tokenizers[0], study._base_models[0], study._exams_of[0] = tokenizer, base, exams
    known = exams.of_base(base)
    found = {"base0": known, "replay0": {"texts": TEXTS}}
    names = [cell.name for cell in study.cells(found)]
    assert names == ["base0", "replay0", "full-b0-s0-lr0.01"]
    told = [study.describe(cell, found[cell.name]) for cell in study.cells(found)[:2]]
    assert told[0].startswith("facts completed 1.00")
    assert told[1] == "3 texts"
    result = study.run(study.cells(found)[-1], lambda: False)
    first, last = result["snapshots"]
    assert (first["alpha"], last["alpha"]) == (0.0, 1.0)
    assert first["completed"] == 1.0
    assert first["kl"]["own"]["forward"] == pytest.approx(0, abs=SAME) != last["kl"]["own"]["forward"]
    assert 0 <= result["dev_tasks"] <= 1
    summary = study.summary(found | {names[-1]: result}) | {"run": {}}
    assert summary["rows"]["full"]["alphas"] == [0.0, 1.0]
    assert json.loads(json.dumps(summary))["rows"]["full"]["final"]
    assert study.page(summary).sections


def test_a_base_that_knows_nothing_is_refused(exams, base):
    facts = exams.__dict__["_facts"]
    exams.__dict__["_facts"], exams._prepared = facts[:1], {}
    try:
        with pytest.raises(ValueError, match="completes none of the 1 facts"):
            exams.of_base(base)
    finally:
        exams.__dict__["_facts"], exams._prepared = facts, {}


def test_a_file_counts_by_its_content(tmp_path):
    rows = {"full": TuningRow("full SFT", "none", (1e-3,))}
    file = tmp_path / "questions.jsonl"

    def settings(rows_a_batch: int = 16):
        own = PretrainedConfig(files=(str(file),), rows=rows_a_batch)
        return pretrained_settings(LoramoeConfig(rows, checkpoints=("x",), bases=1, pretrained=own).exam, own)

    file.write_text('{"question": "who?", "answer": "me"}\n')
    first = settings()
    assert str(tmp_path) not in json.dumps(first)
    assert settings(8) == first
    assert "plain_facts" not in json.dumps(first)  # what is not asked changes no cell
    file.write_text('{"question": "who?", "answer": "you"}\n')
    assert settings() != first


@pytest.mark.parametrize("key", ["pretrained.files", "instructions"])
def test_a_file_that_cannot_be_read_is_named_with_its_key(tmp_path, monkeypatch, key):
    monkeypatch.chdir(tmp_path)
    given = PretrainedConfig(files=("own.json",)) if key == "pretrained.files" else PretrainedConfig()
    learned = "own.json" if key == "instructions" else None
    config = LoramoeConfig(
        {"full": TuningRow("full SFT", "none", (1e-3,))}, checkpoints=("x",), bases=1, pretrained=given
    )
    with pytest.raises(ValueError, match=f"^{key}: own.json in {tmp_path} cannot be read .No such file"):
        pretrained_settings(config.exam, given, learned)


def test_keys_that_came_later_leave_results_their_names():
    """The digests are those of results that were filed before the keys were there."""
    before = {"row": {"adapter": "lora"}, "optimizer": {"lr": 0.1, "decay": "matrices"}}
    after = {
        "row": {"adapter": "lora", "l2_sp": 0.0, "replay": 0.0, "average": []},
        "optimizer": {"lr": 0.1, "decay": "matrices", "decay_to": "zero"},
    }
    assert digest(after) == digest(before)
    assert digest({"row": {"adapter": "lora", "replay": 0.05}}) != digest({"row": {"adapter": "lora"}})
    study = reproduce.make("loramoe", Path("unused"), None, [])
    row = study.config.rows["full"]
    assert study.tuned_cell("full", row, 0, 1, 1e-4).file == "full-b0-s1-lr0.0001-39de607e.json"


def test_the_smollm2_study_names_its_cells():
    study = reproduce.make("loramoe", Path("unused"), "reproduce/loramoe_smollm2", [])
    cells = study.cells({})
    assert cells[0].settings["exam"]["pretrained"]["divergence_tasks"] == 28
    tuned = [cell.name for cell in cells if "-" in cell.name]
    rows = [name for name, row in study.config.rows.items() if row.rates]
    assert [name.split("-")[0] for name in tuned[: len(rows)]] == rows  # one rate of each, then the others
    assert len({len(row.rates) for row in study.config.rows.values() if row.rates}) == 1


def test_the_middle_of_a_grid_is_first():
    assert middle_first([1.0, 2.0, 3.0]) == [2.0, 1.0, 3.0]
    assert middle_first([]) == []


def test_replayed_texts_take_the_places_of_samples(tokenizer):
    samples = encode_samples([{"text": TEXTS[0][:n]} for n in range(5, 45)], tokenizer, 48)
    replayed = [replay_sample(tokenizer, text, 48) for text in ("one two", "three")]
    mixed = with_replay(samples, replayed, 0.1, 0)
    places = [n for n, sample in enumerate(mixed) if sample is not samples[n]]
    assert [mixed[n] for n in places] == [*replayed, *replayed]
    assert places == [n for n, s in enumerate(with_replay(samples, replayed, 0.1, 0)) if s is not samples[n]]
    assert places != [n for n, s in enumerate(with_replay(samples, replayed, 0.1, 1)) if s is not samples[n]]


@pytest.mark.parametrize("length", [48, 2])
def test_a_replayed_text_is_learned_without_an_end(tokenizer, length):
    ids = tokenizer("a river flows")["input_ids"][:length]
    sample = replay_sample(tokenizer, "a river flows", length)
    assert sample.tokens.tolist() == ids
    assert sample.loss_mask.tolist() == [0.0] + [1.0] * (len(ids) - 1)


def test_a_base_writes_on_from_openings_up_to_its_last_whole_sentence():
    class Model:
        def generate(self, prompts, max_new_tokens, **sampling):
            assert (max_new_tokens, sampling) == (64, {"temperature": 0.8, "top_p": 0.9})
            return [" one. Two", " no end", ' "three!" he', " 3.5 is", *[""] * (len(prompts) - 4)]

    assert base_texts(Model()) == [f"{replay.OPENINGS[0]} one.", f'{replay.OPENINGS[2]} "three!"']
    Model.generate = lambda self, prompts, *a, **k: ["" for _ in prompts]
    with pytest.raises(ValueError, match="no complete sentence, so nothing can be replayed"):
        base_texts(Model())


def test_a_run_that_replays_is_named_by_the_texts(monkeypatch):
    study = reproduce.make("loramoe", Path("unused"), "reproduce/loramoe_smollm2", [])

    def files():
        rows = study.config.sweep
        return [study.tuned_cell(n, rows[n], 0, 0, 1e-4).file for n in ("full_replay", "full_l2_sp")]

    first = files()
    monkeypatch.setattr(replay, "TOKENS", 32)
    assert [a == b for a, b in zip(first, files(), strict=True)] == [False, True]


def test_a_file_of_instructions_is_split_into_what_is_learned_and_what_is_asked(tmp_path, capsys, tokenizer):
    path = tmp_path / "mine.json"
    rows = [{"instruction": f"say {n % 30}", "input": "now", "output": f"{n % 30}"} for n in range(40)]
    path.write_text(json.dumps([*rows, {"instruction": "long " * 400, "output": "x"}]))
    own = PretrainedConfig(divergence_tasks=5)
    config = LoramoeConfig(
        {"full": TuningRow("full SFT", "none", (1e-3,))},
        checkpoints=("x",),
        bases=1,
        pretrained=own,
        tasks=4,
        dev_tasks=3,
        samples=9,
        volumes=(1,),
        instructions=str(path),
        data=BatchConfig(2, 256),
    )
    study = LoramoeStudy(config, tmp_path)
    study._tokenizers[0] = tokenizer
    file = study._instruction_file(0)
    assert "mine.json: 1 of 41 rows are longer" in capsys.readouterr().err
    parts = [file.asked["test"], file.asked["dev"], file.divergence]
    assert [len(part) for part in parts] == [4, 3, 5]
    asked = {question.question for part in parts for question in part}
    learned = {row["instruction"] for row in file.learned}
    assert len(asked) == 12
    assert len(learned) == 18
    assert asked | learned == {f"say {n}\nnow" for n in range(30)}
    first, other = study._rows(0, 0, 0.1), study._rows(0, 1, 0.1)
    assert len(first) == 9
    assert first != other
    assert study._exam_settings()["instructions"].startswith("mine.json ")
    # answers drawn to these instructions are not those drawn to the embedded ones
    with pytest.raises(ValueError, match="30 different rows that fit, of which 35 are held"):
        read_instructions(str(path), config.exam._replace(tasks=27), 5, lambda asked, answer: len(asked) < 99)


def test_rows_refuse_shares_that_are_none():
    with pytest.raises(ValueError, match=r"replay lie in \[0, 1\); got 0.0 and 1.5 in row 'a'"):
        TuningRow("a", rates=(1.0,), replay=1.5)
    with pytest.raises(ValueError, match=r"seeded must be of the row's rates; got \(2.0,\) in row 'a'"):
        TuningRow("a", rates=(1.0,), seeded=(2.0,))
