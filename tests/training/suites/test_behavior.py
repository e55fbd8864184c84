"""python -m training eval suite=behavior on a tiny checkpoint, and what it refuses."""

import json
import math

import pytest

import jaxmoe
from jaxmoe.tokenizer import load_tokenizer, train_bpe
from tests.tiny_checkpoints import write_checkpoint
from training.commands.evaluate import main
from training.demo.questionnaires import questionnaire
from training.runtime import config as configs
from training.runtime import pinned
from training.suites.config import EvalConfig

SETTINGS = [
    "suite=behavior",
    "batch_size=8",
    "progress=false",
    "behavior.instruments=[mini_ipip]",
    "behavior.templates=[terse]",
    "behavior.personas='2'",
    "behavior.tasks=[conduct]",
    "behavior.task_count=1",
    "behavior.nulls=[random]",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tokenizer = train_bpe(["You stay calm. Statement: Am the life of the party. Answers A B C"] * 4, 300)
    write_checkpoint(folder, model_type="llama", vocab_size=len(tokenizer), max_position_embeddings=768)
    tokenizer.save_pretrained(folder)
    return folder


def config(checkpoint, out, *more):
    return configs.load(EvalConfig, None, [f"output={out}", f"base={checkpoint}", *SETTINGS, *more])


def test_a_model_is_tested_and_reported_and_compared(checkpoint, tmp_path):
    first = main(config(checkpoint, tmp_path / "first"))
    folder = tmp_path / "first" / "behavior"
    assert (folder / "report.html").is_file()
    assert (folder / "responses.parquet").is_file()
    verdicts = first["sets"]["mini_ipip"]["verdicts"]
    assert len(verdicts) == 5 * 5
    # two people are too few to judge by
    assert {row["verdict"] for row in verdicts} == {"undetermined"}
    # a kill while results were written left the answers, the items and no more
    (tmp_path / "first" / "results.json").rename(tmp_path / "first" / "results.json.part")
    assert "no revision, weights " in (folder / "design.json").read_text()
    lines = (folder / "answers.jsonl").read_text()
    again = main(config(checkpoint, tmp_path / "first"))
    assert (folder / "answers.jsonl").read_text() == lines
    assert again["sets"]["mini_ipip"]["scores"] == first["sets"]["mini_ipip"]["scores"]
    beside = f"behavior.beside=[{{name: a/twin, base: {checkpoint}, form: instruction}}]"
    second = main(config(checkpoint, tmp_path / "second", f"against={tmp_path / 'first'}", beside))
    difference = second["against"]["sets"]["mini_ipip"]["E"]["difference"]
    assert difference["value"] == 0
    tables = json.loads((tmp_path / "second" / "behavior" / "tables.json").read_text())["tables"]
    card = json.loads((tmp_path / "second" / "behavior" / "tables.json").read_text())["card"]
    assert str(card["base and revision"]).endswith("no revision")
    rows = tables["comparison_mini_ipip"]
    assert [row["model"] for row in rows] == ["this model"] * 5 + ["a/twin"] * 5
    assert [row["tuned"] - row["base"] for row in rows[:5]] == [0] * 5
    assert set(second["sets"]) == {"mini_ipip", "mini_ipip, a/twin"}
    assert (tmp_path / "second" / "behavior" / "a_twin" / "responses.parquet").is_file()


def test_a_model_that_answers_nothing_readable_is_reported_and_compared_all_the_same(checkpoint, tmp_path):
    written = ["behavior.answers=written", "behavior.tasks=[]"]
    first = main(config(checkpoint, tmp_path / "first", *written))
    found = first["sets"]["mini_ipip"]
    assert found["refused"] > 0.5
    assert any(math.isnan(score.value) for score in found["scores"].values())
    second = main(config(checkpoint, tmp_path / "second", *written, f"against={tmp_path / 'first'}"))
    assert set(second["against"]["sets"]["mini_ipip"]) == set(found["scores"])


def test_the_demo_asks_models_that_it_has_in_memory(checkpoint, tmp_path):
    settings = [
        f"  {line.partition('.')[2].replace('=', ': ', 1)}" for line in SETTINGS if "behavior." in line
    ]
    lines = ["output: unused", "base: unused", "suite: behavior", "batch_size: 8", "behavior:", *settings]
    (tmp_path / "small.yaml").write_text("\n".join(lines) + "\n")
    lm = jaxmoe.load(checkpoint)
    models = {"base": lm, "tuned": lm}
    tokenizer = load_tokenizer(checkpoint)
    page = questionnaire(models, tokenizer, tmp_path / "asked", tmp_path / "small.yaml")
    assert "Verdicts on tuned" in page.read_text()
    comparison = json.loads((tmp_path / "asked" / "tables.json").read_text())["tables"][
        "comparison_mini_ipip"
    ]
    assert [row["tuned"] - row["base"] for row in comparison] == [0] * 5
    assert {row["model"] for row in comparison} == {"tuned"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["behavior.instruments=[mini_ipp]"], "did you mean 'mini_ipip'"),
        (["behavior.templates=[forms]"], "template must be one of"),
        (["behavior.tasks=[gambling]"], "family of tasks is one of"),
        (["behavior.personas=some"], "personas must be none, people"),
        (["behavior.item_wordings=[foo]"], "behavior.item_wordings must be .* or both; got foo"),
        (["behavior.item_wordings=[]"], "behavior.item_wordings must be .* or both; got none"),
        (["behavior.norm_group=women"], "norm_group must be left out, as these instruments have no norms"),
        (["behavior.nulls=[random, robot]"], "behavior.nulls must be among .*; got robot"),
        (["behavior.name=random"], "every model needs a name of its own; 'random' is repeated"),
        (["behavior.beside=[{name: a b, base: x}, {name: A/B, base: x}]"], "'a b' and 'A/B' would keep"),
        (["behavior.beside=[{name: Tables, base: x}]"], "folder 'Tables' of the evaluation"),
        (["behavior.beside=[{name: .., base: x}]"], r"folder '\.\.' of the evaluation"),
    ],
)
def test_wrong_settings_are_named_before_a_model_is_loaded(tmp_path, monkeypatch, more, message):
    monkeypatch.setattr(pinned, "check_base", lambda key, base: None)  # there is none to load
    with pytest.raises(ValueError, match=message):
        main(config(tmp_path / "nowhere", tmp_path / "out", *more))


def test_several_processes_are_refused_before_anything_is_asked(tmp_path, monkeypatch):
    """Each would write the same files of answers."""
    monkeypatch.setattr(pinned, "check_base", lambda key, base: None)
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"^suite=behavior runs in one process; got 2: start one alone"):
        main(config(tmp_path / "nowhere", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
