"""Shipped configs by short name, wherever one stands; a path goes before a name."""

from pathlib import Path

import pytest

from training.runtime import config as configs
from training.runtime import shipped
from training.supervised.config import SftConfig

ROOT = Path(__file__).parents[3]


def test_every_config_is_found_by_its_short_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # nothing here
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    assert [f.relative_to(ROOT / "configs").with_suffix("").as_posix() for f in files] == shipped.names()
    assert [shipped.find(name) for name in shipped.names()] == files
    assert len(files) > 20


def test_a_config_by_name_is_the_one_by_path(tmp_path, monkeypatch):
    by_path = configs.load(SftConfig, ROOT / "configs" / "sft" / "tiny.yaml", ["steps=7"])
    monkeypatch.chdir(tmp_path)
    assert configs.load(SftConfig, "sft/tiny", ["steps=7"]) == by_path


def test_a_path_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "tiny.yaml").write_text("base: mine\n")
    assert configs.read("sft/tiny") == {"base": "mine"}
    assert configs.read("sft/tiny.yaml") == {"base": "mine"}


def test_a_run_folder_is_its_config(tmp_path):
    (tmp_path / "config.yaml").write_text("base: mine\n")
    assert configs.read(tmp_path) == {"base": "mine"}


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("sft/tinny", "sft/tiny"),
        ("tiny", "sft/tiny"),
        ("configs/sft/tiny.yaml", "sft/tiny"),
        ("quickstart", "ppo/quickstart"),
        ("zzz", "demo/demo"),
        ("", "demo/demo"),
    ],
)
def test_an_unknown_name_lists_the_near_ones(tmp_path, monkeypatch, name, near):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="there is no config") as error:
        configs.read(name)
    assert near in str(error.value)
    assert "\n" not in str(error.value)
