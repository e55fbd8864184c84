"""A path that is no good ends a command in one line with its key, before any work is done."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import jaxmoe
from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params
from jaxmoe.model.config import ModelConfig
from jaxmoe.tokenizer import train_bpe
from training.__main__ import app

SFT = ("sft", "base=base", "output=out", "steps=1", "data.batch_size=8", "data.length=32")
ROWS = "data.sources=[{path: rows.jsonl}]"
PPO = ("ppo", "base=base", "output=out", "rounds=1")
EVAL = ("eval", "base=base", "output=out", "batch_size=8")
ASKED = "knowledge.sources=[{path: questions.jsonl}]"
BEHAVIOR = (*EVAL, "suite=behavior", "behavior.instruments=[mini_ipip]")
PLANNED = ("--command", "serve")
GENERATE = ("generate", "base=base")

BAD: list[tuple[tuple[str, ...], str]] = [
    (("sft", "--config", "no.yaml"), "--config: there is no config 'no.yaml'"),
    (("sft", "--config", "empty"), "--config: empty holds no key"),
    (("sft", "--config", "cut.json"), "--config: cut.json is not valid YAML"),
    (("plan", "--topology", "cpu:1", "--config", "no.yaml"), "--config: there is no config 'no.yaml'"),
    (("plan", "--topology", "cpu:1", "--config", "sft/tiny", "--save", "folder"), "--save: folder is"),
    (("reproduce", "loramoe", "--out", "out", "--config", "no"), "--config: there is no config 'no'"),
    (("plan", "--topology", "v5e:1x1", *PLANNED, "base=folder"), "base: folder has no config.json"),
    (("plan", "--topology", "v5e:1x1", *PLANNED, "base=base", "adapter=no"), "adapter: there is no adapter"),
    (
        ("plan", "--topology", "v5e:1x1", *PLANNED, "base=base", "adapters={a: no}"),
        "adapters.a: there is no adapter folder no",
    ),
    (("reproduce", "loramoe", "--out", "empty"), "--out: empty is a file; a folder is written there"),
    (("reproduce", "loramoe", "--out", "out", "base=no"), "base: there is no config 'no'"),
    (("reproduce", "stepcoder", "--out", "out", "base=no"), "base: there is no config 'no'"),
    (("reproduce", "stepcoder", "--out", "out", "ppo=no"), "ppo: there is no config 'no'"),
    (("reproduce", "realbehavior", "--out", "out", "loramoe=no"), "loramoe: there is no config 'no'"),
    (("reproduce", "realbehavior", "--out", "out", "stepcoder=no"), "stepcoder: there is no config 'no'"),
    ((*SFT, "data.sources=[{path: no.jsonl}]"), "data.sources.0.path: there is no file or folder no.jsonl"),
    ((*SFT, "data.sources=[{path: folder}]"), "data.sources.0.path: folder: no file of the split train"),
    ((*SFT, "data.sources=[{path: cut.json}]"), "data.sources.0.path: cut.json:1: malformed JSON"),
    ((*SFT, ROWS, "data.valid=[{path: no}]", "valid_every=1"), "data.valid.0.path: there is no file or"),
    ((*SFT, ROWS, "data.valid=[{path: cut.json}]", "valid_every=1"), "data.valid.0.path: cut.json:1: "),
    ((*SFT, ROWS, "data.tokenizer=folder"), "data.tokenizer: no tokenizer could be loaded from folder"),
    ((*SFT, ROWS, "data.data_dir=empty"), "data.data_dir: empty is a file; a folder is written there"),
    ((*SFT, ROWS, "base=no"), "no is none of them (looked for in "),
    ((*SFT, ROWS, "base=folder"), "base: folder has no config.json"),
    ((*SFT, ROWS, "output=empty/x"), "output: empty/x cannot be written: "),
    ((*PPO, "problems.path=no"), "problems.path: there is no file or folder no (looked for in "),
    ((*PPO, "problems.held_out_path=no"), "problems.held_out_path: there is no file or folder no"),
    ((*PPO, "base=folder"), "base: folder has no config.json"),
    ((*EVAL, "knowledge.sources=[{path: no}]"), "knowledge.sources.0.path: no question file at no"),
    ((*EVAL, "knowledge.sources=[{path: empty}]"), "knowledge.sources.0.path: empty is empty"),
    (
        (*EVAL, "knowledge.sources=[{path: questions.jsonl, shots: 1, shots_from: no}]"),
        "knowledge.sources.0.shots_from: no question file at no",
    ),
    ((*EVAL, ASKED, "adapter=folder"), "adapter: folder has no adapter_config.json"),
    ((*EVAL, ASKED, "tokenizer=folder"), "tokenizer: no tokenizer could be loaded from folder"),
    ((*EVAL, ASKED, "against=no"), "against: there is no folder no (looked for in "),
    ((*EVAL, ASKED, "output=empty"), "output: empty is a file; a folder is written there"),
    (("eval", "run=no", "output=out", ASKED), "run: there is no folder no (looked for in "),
    ((*EVAL, "suite=coding", "coding.paths=[no]"), "coding.paths.0: no problems at no"),
    ((*EVAL, "suite=coding", "coding.paths=[cut.json]"), "coding.paths.0: cut.json is neither JSON nor"),
    ((*BEHAVIOR, "behavior.instruments=[no.json]"), "behavior.instruments.0: no instrument or file named"),
    ((*BEHAVIOR, "behavior.personas=no.json"), "behavior.personas: personas cannot be read from no"),
    (
        (*BEHAVIOR, "behavior.step=2", "behavior.earlier=[{step: 1, output: no}]"),
        "behavior.earlier.0.output: there is no folder no",
    ),
    ((*BEHAVIOR, "behavior.beside=[{name: b, base: folder}]"), "behavior.beside.0.base: folder has no"),
    (
        (*BEHAVIOR, "behavior.beside=[{name: b, base: base, adapter: folder}]"),
        "behavior.beside.0.adapter: folder has no adapter_config.json",
    ),
    ((*GENERATE, "prompts_file=no"), "prompts_file: there is no file no (looked for in "),
    ((*GENERATE, "messages_file=folder"), "messages_file: folder is a folder; a file is needed"),
    ((*GENERATE, "messages_file=cut.json"), "messages_file: cut.json:1: malformed JSON"),
    ((*GENERATE, "prompts=[a]", "output=folder"), "output: folder is a folder; a file is written there"),
    ((*GENERATE, "prompts=[a]", "adapter=no"), "adapter: there is no adapter folder no (looked for in "),
    (("export", "run=no"), "run: there is no folder no (looked for in "),
    (("export", "base=base", "output=empty"), "output: empty is a file; a folder is written there"),
    (("serve", "base=base", "adapters={a: folder}"), "adapters.a: folder has no adapter_config.json"),
    (("plot", "no"), "RUN: there is no folder no (looked for in "),
    (("demo", "base=folder", "output=out"), "base: folder has no config.json"),
    (("demo", "base=base", "output=out", "configs=no"), "configs: there is no config 'no/full_sft'"),
    (("demo", "demo=scratch", "output=empty"), "output: empty is a file; a folder is written there"),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    tokenizer = train_bpe(["one two three"] * 9, 262)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1}
    config = ModelConfig(
        vocab_size=300,
        head_dim=8,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )
    lm = LanguageModel(config, params.split(params.build(config), "all"), params.single_device_mesh())
    jaxmoe.save(lm, folder / "base", "hf", tokenizer=tokenizer)
    (folder / "rows.jsonl").write_text('{"instruction": "one", "output": "two"}\n' * 8)
    (folder / "questions.jsonl").write_text(json.dumps({"question": "one", "answers": ["two"]}) + "\n")
    (folder / "cut.json").write_text('[{"instruction": "a", "outp')
    (folder / "empty").touch()
    (folder / "folder").mkdir()
    return folder


@pytest.mark.parametrize(("arguments", "said"), BAD, ids=[" ".join((a[0], *a[1:][-2:]))[:70] for a, _ in BAD])
def test_a_path_that_is_no_good_is_told_by_its_key(place, monkeypatch, arguments, said):
    monkeypatch.chdir(place)
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 2, done.output
    [line] = done.stderr.strip().splitlines()
    assert said in line
    assert "give another" in line
    assert "Errno" not in line
    assert not Path("out", "config.yaml").exists()


def test_what_is_wrong_in_a_config_that_another_names_is_told_by_its_key(place, monkeypatch):
    monkeypatch.chdir(place)
    done = CliRunner().invoke(app, ["reproduce", "stepcoder", "--out", "out", "ppo=sft/tiny"])
    assert done.exit_code == 2, done.output
    assert done.stderr == "error: ppo: sft/tiny: rounds is missing; it has no default\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*BEHAVIOR, "behavior.personas=64"), "composed personas: 2 to 32 can be made; got 64"),
        (("export", "run=no", "dtype=bfloat16"), "dtype goes with base; a run has its own"),
        (("export", "run=no", "adapter=a"), "adapter goes with base; a run has its own"),
        (("generate", "run=no", "adapter=a", "prompts=[a]"), "adapter goes with base; a run has its own"),
        (("serve", "run=no", "adapter=a"), "adapter goes with base; a run has its own"),
        (
            ("export", "base=base", "output=out", "step=3"),
            "step goes with run; a base has no steps (got step 3",
        ),
        (("generate", "base=base", "step=3", "prompts=[a]"), "step goes with run; a base has no steps"),
        (("serve", "base=base", "step=3"), "step goes with run; a base has no steps"),
        (("eval", "base=base", "step=3", "output=out"), "step goes with run; a base has no steps"),
        (
            ("export", "base=base", "output=out", "format=peft", "merge=true"),
            "format 'peft' holds an adapter alone, so there is nothing to merge it with: use format 'hf'",
        ),
        (
            (*SFT, ROWS, "lora.init=pissa"),
            "lora.init=pissa is a start of adapter=lora; adapter=loramoe would not",
        ),
        ((*PPO, "evaluation.limit=0"), "evaluation.limit must be at least 1, or null for all; got 0"),
        (
            ("eval", "base=base", "output=out", "suite=coding", "coding.limit=-1"),
            "coding.limit must be at least 1, or null for all; got -1",
        ),
        (("export", "base=base", "output=out", "dtype=int8"), "dtype: should be 'float32', 'bfloat16' or"),
        ((*PPO, "evaluation.top_p=0"), "evaluation.top_p must lie in (0, 1]"),
    ],
)
def test_a_setting_that_is_no_path_is_not_looked_for(place, monkeypatch, arguments, said):
    monkeypatch.chdir(place)
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 2, done.output
    [line] = done.stderr.strip().splitlines()
    assert said in line
    assert "looked for" not in line
