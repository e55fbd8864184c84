"""The eval command from config to files, on a tiny random model."""

import io
import json
import math
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import jaxmoe
from evals.psychometrics.uncertainty import Comparison, Score
from jaxmoe.datasets.world_knowledge import knowledge_texts, select_facts
from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params
from jaxmoe.model.config import ModelConfig
from jaxmoe.tokenizer import train_bpe
from training.__main__ import app
from training.commands.evaluate import compare_items, comparison_table, main, read_items, score_table
from training.runtime import config as configs
from training.suites.config import EvalConfig
from training.suites.evaluation import ItemSet
from training.supervised import pretrain
from training.supervised.config import PretrainConfig

QUESTIONS = [
    {
        "question": "Capital of Peru?",
        "answers": ["Lima"],
        "stem": "The capital of Peru is",
        "cluster": "peru",
    },
    {"question": "Peru is ruled from?", "answers": ["Lima"], "stem": "Peru is ruled from", "cluster": "peru"},
    {"question": "Capital of Chad?", "answers": ["N'Djamena"], "stem": "The capital of Chad is"},
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A random model of 8,000 weights with its tokenizer, as a Hugging Face folder."""
    tokenizer = train_bpe(knowledge_texts(select_facts(limit=30), 2, seed=0), 300)
    ids: Any = tokenizer.convert_tokens_to_ids(["</s>", "<pad>"])
    config = ModelConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=16,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=4,
        max_positions=128,
        eos_token_id=ids[0],
        pad_token_id=ids[1],
    )
    lm = LanguageModel(config, params.split(params.build(config, seed=1), "all"), params.single_device_mesh())
    return jaxmoe.save(lm, tmp_path_factory.mktemp("model") / "hf", format="hf", tokenizer=tokenizer)


def test_names_with_brackets_are_printed_as_they_are():
    score = Score(0.5, 0.1, 0.3, 0.7, 4, 4, "wilson")
    change = Comparison(score, 1, 2, 0.5, "mcnemar")
    found = ItemSet("held.json [chat]", {"pass@1": score}, {"list [1]": {"pass@1": score}}, [])
    console = Console(markup=False, emoji=False, width=100, record=True, file=io.StringIO())
    console.print(score_table([found], "coding", 0.95))
    console.print(comparison_table({found.name: {"pass@1": change}}, "against another", 0.95))
    shown = console.export_text()
    assert shown.count("held.json [chat] ") == 2
    assert "pass@1, list [1] " in shown
    assert "bold" not in shown


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    return path


def config(checkpoint, output, **values) -> EvalConfig:
    plain = {"base": str(checkpoint), "output": str(output), "batch_size": 8, "progress": False} | values
    return configs.parse(EvalConfig, plain)


def knowledge(path, **values):
    return {"sources": [{"path": str(path)}], "templates": ["completion"], "max_new_tokens": 4} | values


def test_a_knowledge_run_writes_scores_and_items(checkpoint, questions, tmp_path):
    out = tmp_path / "out"
    templates = ["completion", "instruction"]
    main(config(checkpoint, out, knowledge=knowledge(questions, templates=templates)))
    results = json.loads((out / "results.json").read_text())
    assert list(results["sets"]) == [f"q.jsonl, {name}" for name in templates]
    scores = results["sets"]["q.jsonl, instruction"]["scores"]
    assert scores["exact_match"]["n"] == 3
    assert scores["exact_match"]["clusters"] == 2
    assert scores["answer_nats"]["value"] > 0
    items = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]
    assert len(items) == 6
    assert items[0].keys() >= {
        "set",
        "id",
        "cluster",
        "scores",
        "prompt",
        "response",
        "prediction",
        "answers",
    }
    assert configs.parse(EvalConfig, results["config"]).base == str(checkpoint)


def test_multiple_choice_from_the_embedded_facts(checkpoint, tmp_path):
    source = {"name": "facts", "embedded": "test", "choices": 4, "limit": 12}
    results = main(config(checkpoint, tmp_path / "out", knowledge=knowledge("", sources=[source])))
    scores = results["sets"]["facts, completion"]["scores"]
    assert set(scores) == {"acc", "acc_norm", "per_token", "calibrated"}
    assert all(0 <= score.value <= 1 for score in scores.values())


def test_against_compares_item_by_item(checkpoint, questions, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    main(config(checkpoint, first, knowledge=knowledge(questions)))
    results = main(config(checkpoint, second, knowledge=knowledge(questions), against=str(first)))
    found = results["against"]["sets"]["q.jsonl, completion"]["f1"]
    assert found["difference"]["value"] == 0.0
    assert found["p_value"] == 1.0
    better = read_items(first)
    for item in better["q.jsonl, completion"]:
        item["scores"]["f1"] += 0.25
    compared = compare_items(better, read_items(first), 0.95)["q.jsonl, completion"]["f1"]
    assert compared.difference.value == pytest.approx(0.25)
    assert compared.b_better == 3
    with pytest.raises(ValueError, match="hold different items"):
        compare_items({k: v[:2] for k, v in better.items()}, better, 0.95)
    with pytest.raises(ValueError, match="no set in common"):
        compare_items({"other": []}, better, 0.95)


def test_a_coding_run_grades_in_the_sandbox(checkpoint, tmp_path):
    problem = {"prompt": "Print ok.", "starter_code": "", "inputs": [""], "outputs": ["ok\n"]}
    rows = [problem | {"id": f"a/{n}", "difficulty": level} for n, level in enumerate(["easy", "hard"])]
    path = tmp_path / "problems.json"
    path.write_text(json.dumps(rows))
    coding = {"paths": [str(path)], "samples": 3, "k": [1, 3], "max_new_tokens": 8, "workers": 1}
    out = tmp_path / "out"
    results = main(config(checkpoint, out, suite="coding", coding=coding))
    found = results["sets"]["problems.json, completion"]
    assert set(found["scores"]) == {"pass@1", "pass@3"}
    assert set(found["by_category"]) == {"easy", "hard"}
    assert sum(found["verdicts"].values()) == 6
    items = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]
    assert [item["task_id"] for item in items] == ["a/0"] * 3 + ["a/1"] * 3
    assert items[0].keys() >= {"completion", "solution", "verdict", "passed"}


def test_form_auto_is_resolved_and_named(checkpoint, questions, tmp_path):
    """The checkpoint's tokenizer has a chat template."""
    asked = {**knowledge(questions), "templates": ["auto"]}
    results = main(config(checkpoint, tmp_path / "knowledge", knowledge=asked))
    assert list(results["sets"]) == ["q.jsonl, auto (chat)"]
    problem = {"prompt": "Print ok.", "starter_code": "", "inputs": [""], "outputs": ["ok\n"], "id": "a"}
    (tmp_path / "problems.json").write_text(json.dumps([problem]))
    coding = {"paths": [str(tmp_path / "problems.json")], "form": "auto", "max_new_tokens": 4, "workers": 1}
    results = main(config(checkpoint, tmp_path / "coding", suite="coding", coding=coding))
    assert list(results["sets"]) == ["problems.json, chat"]


def broken(checkpoint, questions, tmp_path):
    """Settings that must end in one line and exit code 2, with what that line says."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    plain = [f"base={checkpoint}", f"output={tmp_path / 'out'}", "batch_size=8"]
    source = f"knowledge.sources=[{{path: {questions}}}]"
    return {
        "unknown key nowledge": [*plain, "nowledge.limit=3"],
        "no question file at": [*plain, "knowledge.sources=[{path: absent.jsonl}]"],
        "needs path or embedded": [*plain, "knowledge.sources=[{}]"],
        "need shots_from": [*plain, f"knowledge.sources=[{{path: {questions}, shots: 2}}]"],
        "is not empty and holds no evaluation": [*plain, source, f"output={tmp_path / 'full'}"],
        "multiple of mesh data x fsdp x expert": [*plain, source, "batch_size=3"],
        "has no items.jsonl": [*plain, source, f"against={tmp_path}"],
        "coding.paths must name at least one": [*plain, "suite=coding"],
        "coding.k must lie between 1 and coding.samples = 1; got": [*plain, "suite=coding", "coding.k=[5]"],
        "absent": [*plain, source, "base=absent"],
    }


def test_bad_input_ends_in_one_line_and_loses_nothing(checkpoint, questions, tmp_path):
    empty = tmp_path / "empty.yaml"
    empty.write_text("")
    for message, overrides in broken(checkpoint, questions, tmp_path).items():
        result = CliRunner().invoke(app, ["eval", "--config", str(empty), *overrides])
        assert result.exit_code == 2, (message, result.output)
        assert message in " ".join(result.stderr.split()), result.stderr
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "full" / "notes").read_text() == "mine"


def test_results_are_not_replaced_unasked(checkpoint, questions, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.json").write_text("{}")
    with pytest.raises(ValueError, match="holds results already"):
        main(config(checkpoint, out, knowledge=knowledge(questions)))
    main(config(checkpoint, out, knowledge=knowledge(questions), overwrite=True))
    assert json.loads((out / "results.json").read_text())["suite"] == "knowledge"


def test_numbers_that_are_not_finite_are_null(checkpoint, questions, tmp_path):
    source = {"path": str(questions), "limit": 1}
    out = tmp_path / "out"
    results = main(config(checkpoint, out, knowledge=knowledge("", sources=[source])))
    assert math.isnan(results["sets"]["q.jsonl, completion"]["scores"]["f1"].standard_error)
    text = (out / "results.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["sets"]["q.jsonl, completion"]["scores"]["f1"]["standard_error"] is None


def test_shipped_configs_are_valid(request):
    folder = request.config.rootpath / "configs" / "eval"
    for path in folder.glob("*.yaml"):
        assert isinstance(configs.load(EvalConfig, path), EvalConfig)


def test_the_model_of_a_run_folder_is_measured(checkpoint, questions, tmp_path):
    """The same scores as those of what the run exported; a run folder given as base is sent to `run`."""
    (tmp_path / "text.txt").write_text("The capital of Peru is Lima.\n" * 40)
    values = {
        "output": str(tmp_path / "run"),
        "base": str(checkpoint),
        "steps": 2,
        "data": {"sources": [{"path": str(tmp_path / "text.txt")}], "length": 16, "packing": "concat"},
        "watch": {"tensorboard": False, "plots": False, "progress": False},
    }
    assert pretrain.main(configs.parse(PretrainConfig, values)).finished
    asked = {"knowledge": knowledge(questions)}
    of_run = main(config(None, tmp_path / "a", base=None, run=str(tmp_path / "run"), **asked))
    of_export = main(config(tmp_path / "run" / "export", tmp_path / "b", **asked))
    assert of_run["sets"] == of_export["sets"]
    assert of_run["run"] == str(tmp_path / "run")
    with pytest.raises(ValueError, match="is the folder of a run, no checkpoint: give run="):
        main(config(tmp_path / "run", tmp_path / "c", **asked))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"run": "r"}, "give either run"),
        ({"base": None}, "give either run"),
        ({"base": None, "run": "r", "adapter": "a"}, "adapter goes with base"),
    ],
)
def test_run_and_base_exclude_each_other(values, said):
    with pytest.raises(ValueError, match=said):
        config("b", "o", **values)
