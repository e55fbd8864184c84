"""Whose a run folder is: the lock, what may lie in it, which command made it."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest

from training.runtime import config as configs
from training.runtime import run_folder
from training.runtime.atomic import write_whole
from training.runtime.lock import folder_lock

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Settings:
    """The least that a run has."""

    output: str
    resume: Literal["same", "changed", "never"] = "same"
    rate: float = 1.0


def claimed(folder: Path, command: str = "sft") -> Settings:
    """A run with a checkpoint."""
    settings = Settings(str(folder))
    with run_folder.open_run(command, settings) as run:
        run.claim()
        (folder / "checkpoints" / "3").mkdir(parents=True)
    return settings


def test_a_claimed_folder_records_its_command_and_settings(tmp_path):
    settings = claimed(tmp_path / "run")
    assert run_folder.command_of(tmp_path / "run") == "sft"
    assert configs.load(Settings, tmp_path / "run" / "config.yaml") == settings
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["checkpoints", "config.yaml", "run.json"]


def test_nothing_is_left_where_a_run_was_not_claimed(tmp_path):
    with pytest.raises(KeyError), run_folder.open_run("sft", Settings(str(tmp_path / "new"))):
        raise KeyError
    assert not (tmp_path / "new").exists()


def test_another_command_does_not_resume(tmp_path):
    settings = claimed(tmp_path, "pretrain")
    with (
        pytest.raises(ValueError, match=r"holds another run: the command was 'pretrain', is now 'sft'"),
        run_folder.open_run("sft", settings),
    ):
        pass


def test_other_settings_do_not_resume_unless_wanted(tmp_path):
    settings = replace(claimed(tmp_path), rate=2.0)
    with pytest.raises(ValueError, match=r"rate was 1.0, is now 2.0"), run_folder.open_run("sft", settings):
        pass
    with run_folder.open_run("sft", replace(settings, resume="changed")) as run:
        assert run.changed
    with pytest.raises(ValueError, match="or resume it by resume=same"):
        run_folder.open_run("sft", replace(settings, resume="never")).__enter__()


@pytest.mark.parametrize(
    "name",
    [
        ".nfs00000000035f1a5400000001",
        "config.yaml.part",
        "metrics.jsonl.part",
        ".export.k3fz",
        "export-hf",
        "export-moe-peft",
        ".lock",
        ".DS_Store",
        "plots",
        "run.json.part",
    ],
)
def test_leftovers_do_not_block_a_resume(tmp_path, name):
    settings = claimed(tmp_path)
    (tmp_path / name).mkdir() if "export" in name else (tmp_path / name).write_text("half")
    with run_folder.open_run("sft", settings) as run:
        run.claim()


def test_what_is_of_no_run_does(tmp_path):
    settings = claimed(tmp_path)
    (tmp_path / "thesis.doc").write_text("mine")
    with pytest.raises(ValueError, match=r"holds thesis.doc, which is of no run"):
        run_folder.open_run("sft", settings).__enter__()


@pytest.mark.parametrize(
    ("text", "said"), [("{", "must say which command"), ("{}", "KeyError"), ("[1]", "TypeError")]
)
def test_a_run_that_does_not_name_its_command_is_refused(tmp_path, text, said):
    claimed(tmp_path)
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        run_folder.command_of(tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match="is no run folder"):
        run_folder.command_of(tmp_path)


# -- the lock

HOLDER = """
import sys, time
from pathlib import Path
from training.runtime.lock import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path) -> subprocess.Popen:
    """A process that holds a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_one_process_at_a_time(tmp_path):
    process = holder(tmp_path)
    try:
        with pytest.raises(ValueError, match=rf"is in use by process {process.pid} on .*: wait for it"):
            run_folder.open_run("sft", Settings(str(tmp_path))).__enter__()
    finally:
        process.kill()
        process.communicate()
    # killed: its file is still there, and locks nothing
    assert (tmp_path / ".lock").exists()
    with folder_lock(tmp_path):
        assert f"process {os.getpid()} on " in (tmp_path / ".lock").read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_process_locks_itself_out_too(tmp_path):
    with folder_lock(tmp_path / "a"):
        with pytest.raises(ValueError, match="is in use"), folder_lock(tmp_path / "a"):
            pass
        assert (tmp_path / "a" / ".lock").exists()  # the refused one removed nothing
    assert not (tmp_path / "a").exists()


def test_an_ended_holder_frees_the_folder_at_once(tmp_path):
    process = holder(tmp_path)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    with folder_lock(tmp_path):
        pass


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, caplog):
    def cannot(number, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", cannot)
    with folder_lock(tmp_path):
        pass
    assert "cannot be locked (Operation not supported): start no second run there" in caplog.text


# -- files


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "a.json"
    write_whole(path, "old")

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "new and longer")
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    """A process writes two values in turn and is killed: what is read is always one of them, whole."""
    path = tmp_path / "a.json"
    code = (
        "import sys\nfrom pathlib import Path\nfrom training.runtime.atomic import write_whole\n"
        "for i in range(10**9): write_whole(Path(sys.argv[1]), str(i % 2) * 100_000)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT)
    try:
        seen = set()
        while len(seen) < 2:
            if path.exists():
                text = path.read_text()
                assert len(text) == 100_000
                seen |= set(text)
                assert len(set(text)) == 1
    finally:
        process.kill()
        process.communicate()
    assert len(path.read_text()) == 100_000


def test_versions_agree():
    from importlib import metadata

    from training.runtime.version import version

    assert version() == metadata.version("jaxmoe")
    assert json.loads(json.dumps({"jaxmoe": version()}))
