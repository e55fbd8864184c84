"""Names on the hub: a run writes down the commit and reads the same bytes, whatever main becomes."""

import shutil
from pathlib import Path

import huggingface_hub.constants
import jax
import pytest

import jaxmoe
from jaxmoe.base_folder import is_hub_id, local_folder, pinned
from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params
from jaxmoe.model.config import ModelConfig
from jaxmoe.tokenizer import load_tokenizer, train_bpe
from training.commands.export import load_run, read_run
from training.runtime import config as configs
from training.runtime.checkpoint import Checkpoints
from training.runtime.pinned import pin
from training.suites.config import EvalConfig
from training.supervised import sft

FIRST, SECOND = "1" * 40, "2" * 40
FULL = {"hidden_size": 16, "intermediate_size": 24, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1}


def publish(cache: Path, commit: str, seed: int) -> None:
    """A model as the hub's client keeps it; main names this commit from now on."""
    tokenizer = train_bpe(["one two three"] * 9, 262)
    config = ModelConfig(
        vocab_size=300,
        head_dim=8,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **FULL,
    )
    mesh = params.single_device_mesh()
    lm = LanguageModel(config, params.split(params.build(config, seed=seed), "all"), mesh)
    repository = cache / "models--org--tiny"
    jaxmoe.save(lm, repository / "snapshots" / commit, "hf", tokenizer=tokenizer)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A cache of the hub's client, without a network."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    publish(cache, FIRST, 0)
    return cache


def settings(tmp_path: Path, base: str = "org/tiny", **more) -> sft.SftConfig:
    (tmp_path / "rows.jsonl").write_text('{"instruction": "one", "output": "two"}\n' * 8)
    values = {
        "output": str(tmp_path / "run"),
        "base": base,
        "steps": 2,
        "experts": {"num_experts": 2, "rank": 2},
        "data": {"sources": [{"path": str(tmp_path / "rows.jsonl")}], "batch_size": 8, "length": 16},
        "watch": {"tensorboard": False, "plots": False, "progress": False},
        "export": False,
    }
    return configs.parse(sft.SftConfig, values | more)


def test_a_run_keeps_its_commit_when_main_moves_on(hub, tmp_path):
    sft.main(settings(tmp_path))
    assert configs.read(tmp_path / "run" / "config.yaml")["base"] == f"org/tiny@{FIRST}"
    publish(hub, SECOND, 1)
    assert local_folder("org/tiny").name == SECOND
    sft.main(settings(tmp_path))  # resumes, and does not see the new commit
    saved = read_run(tmp_path / "run")
    assert (saved.source.base, saved.tokenizer) == (f"org/tiny@{FIRST}", f"org/tiny@{FIRST}")
    lm, _ = load_run(tmp_path / "run", params.single_device_mesh())
    assert lm.source is not None
    assert lm.source.name == FIRST
    first, second = (
        jaxmoe.load("org/tiny", experts=lm.experts, revision=commit) for commit in (FIRST, SECOND)
    )
    kept, first, second = (jax.tree.leaves(one.weights.frozen) for one in (lm, first, second))
    assert all((a == b).all() for a, b in zip(kept, first, strict=True))
    assert any((a != b).any() for a, b in zip(kept, second, strict=True))


def test_a_revision_that_is_asked_for_is_another_base(hub, tmp_path):
    sft.main(settings(tmp_path))
    publish(hub, SECOND, 1)
    with pytest.raises(ValueError, match=f"base was 'org/tiny@{FIRST}', is now 'org/tiny@{SECOND}'"):
        sft.main(settings(tmp_path, "org/tiny@main"))
    sft.main(settings(tmp_path, f"org/tiny@{FIRST}"))
    shutil.rmtree(hub / "models--org--tiny" / "snapshots" / FIRST)
    with pytest.raises(ValueError, match=f"there is no folder org/tiny@{FIRST}, and as a hub id"):
        sft.main(settings(tmp_path))


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_a_base_that_was_trained_anew_is_refused_where_it_counts(hub, tmp_path, monkeypatch, adapter):
    """An adapter is for its own base alone; a run that trained every weight needs none of the base's."""
    folder = hub / "models--org--tiny" / "snapshots" / FIRST
    mesh = params.single_device_mesh()
    sft.main(settings(tmp_path, str(folder), adapter=adapter))
    before, _ = load_run(tmp_path / "run", mesh)
    shutil.rmtree(folder)
    publish(hub, FIRST, 7)
    if adapter == "none":
        after, _ = load_run(tmp_path / "run", mesh)
        pairs = zip(*(jax.tree.leaves(one.weights.trainable) for one in (before, after)), strict=True)
        assert all((a == b).all() for a, b in pairs)
        with pytest.raises(ValueError, match="was trained on other weights"):
            load_run(tmp_path / "run", mesh, average=0.5)
    else:
        with pytest.raises(ValueError, match=rf"run was trained on other weights than {folder} holds now"):
            load_run(tmp_path / "run", mesh)
        monkeypatch.setattr(Checkpoints, "meta", lambda self, step: {"step": step})  # as early ones were
        load_run(tmp_path / "run", mesh)


def test_an_evaluation_writes_down_what_it_measures(hub):
    config = EvalConfig(output="x", base="org/tiny", adapter="org/tiny", tokenizer="org/tiny@main")
    found = pin(config)
    assert {found.base, found.adapter, found.tokenizer} == {f"org/tiny@{FIRST}"}


def test_the_tokenizer_of_a_commit_is_its_own(hub):
    assert load_tokenizer(f"org/tiny@{FIRST}").name_or_path.endswith(FIRST)


@pytest.mark.parametrize("name", ["loramoe", "smollm2-135m-instruct", "runs/base.gguf"])
def test_other_names_stay_as_they_are(hub, name):
    assert pinned(name) == name


def test_a_folder_goes_before_a_hub_id(hub, tmp_path, monkeypatch):
    (tmp_path / "org" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert pinned("org/tiny") == "org/tiny"


def test_two_revisions_are_refused(hub):
    assert is_hub_id("org/tiny@main")
    assert not is_hub_id("org/tiny@")
    with pytest.raises(ValueError, match="names a revision; got 'other' besides"):
        local_folder("org/tiny@main", "other")
