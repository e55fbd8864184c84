"""Checkpoints: every flipped bit and lost file is found, and the checkpoint before is taken, with a word."""

import asyncio
import errno
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from training.runtime import checksums
from training.runtime.checkpoint import (
    Checkpoints,
    DiskFullError,
    Saved,
    changed_content,
    disk_full_explained,
    fingerprint,
    quiet_late_callbacks,
    structure,
)


def saved_at(step: int) -> Saved:
    weights = {"w": jax.numpy.arange(600, dtype=np.float32) + step}
    return Saved(weights, {"m": weights["w"] * 2}, {"next": step}, {"step": step})


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Path:
    """A run with three checkpoints."""
    run = tmp_path_factory.mktemp("three")
    checkpoints = Checkpoints(run / "checkpoints", keep=3)
    for step in (10, 20, 30):
        checkpoints.save(step, saved_at(step))
    checkpoints.wait()
    checkpoints.close()
    return run


@pytest.fixture
def run(three, tmp_path) -> Path:
    """A copy to spoil."""
    shutil.copytree(three, tmp_path / "run")
    return tmp_path / "run"


def restored(run: Path, **how) -> tuple[int | None, float]:
    """Newest step, and the first weight there."""
    checkpoints = Checkpoints(run / "checkpoints", keep=3, **how)
    step = checkpoints.latest()
    assert step is not None
    like = saved_at(0)
    everywhere = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = [
        structure(part, jax.tree.map(lambda _: everywhere, part)) for part in (like.trainable, like.optimizer)
    ]
    found = checkpoints.restore(step, *shapes)
    checkpoints.close()
    assert found.meta["step"] == found.data["next"] == step
    return step, float(found.trainable["w"][0])


def files(run: Path, step: int) -> list[Path]:
    return sorted(p for p in (run / "checkpoints" / str(step)).rglob("*") if p.is_file())


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_a_whole_checkpoint_is_restored_without_a_word(run, capsys):
    assert restored(run) == (30, 30.0)
    assert capsys.readouterr().err == ""


def test_sums_are_those_of_sha256sum(run):
    said = subprocess.run(["sha256sum", "-c", "checksums/30.sha256"], cwd=run, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout
    assert len(said.stdout.splitlines()) == len(files(run, 30))


def test_every_flipped_bit_is_found(three):
    """One bit in each file of a checkpoint, at places drawn at random."""
    rng = np.random.default_rng(0)
    for path in (p for p in files(three, 30) if p.stat().st_size):
        bit = int(rng.integers(8 * path.stat().st_size))
        flip(path, bit)
        assert "is not what was written" in str(checksums.damage(three, 30))
        flip(path, bit)
    assert checksums.damage(three, 30) is None


@pytest.mark.parametrize("how", ["flipped", "lost", "cut", "sums"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(run, capsys, how):
    largest = max(files(run, 30), key=lambda p: p.stat().st_size)
    match how:
        case "flipped":
            flip(largest, 8 * largest.stat().st_size // 2)
        case "lost":
            largest.unlink()
        case "cut":
            largest.write_bytes(largest.read_bytes()[:-3])
        case "sums":
            checksums.sums_file(run, 30).write_text("nothing")
    assert restored(run) == (20, 20.0)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"checkpoint 30 of {run} is damaged (")
    assert f"the one before it is taken; it is in {run / 'damaged' / '30'} now" in said[0]
    # the step can be saved again, and damaged again
    checkpoints = Checkpoints(run / "checkpoints", keep=3)
    checkpoints.save(30, saved_at(30))
    checkpoints.close()
    assert restored(run) == (30, 30.0)
    files(run, 30)[0].write_text("x")
    assert restored(run) == (20, 20.0)
    assert {p.name for p in (run / "damaged").iterdir()} == {"30", "30.1"}


def test_two_damaged_ones_give_way_too(run, capsys):
    for step in (20, 30):
        flip(files(run, step)[0], 3)
    assert restored(run) == (10, 10.0)
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_none_whole_is_an_error_and_moves_nothing(run):
    for step in (10, 20, 30):
        flip(files(run, step)[0], 3)
    with pytest.raises(
        ValueError, match=r"no checkpoint of .* is whole \(checkpoint 30: .*choose another output"
    ):
        Checkpoints(run / "checkpoints")
    assert checksums.steps_of(run) == [10, 20, 30]


def test_a_reader_moves_nothing(run, capsys):
    flip(files(run, 30)[0], 3)
    assert restored(run, read_only=True) == (20, 20.0)
    assert checksums.steps_of(run) == [10, 20, 30]
    assert "the one before it is taken" in capsys.readouterr().err


def test_without_sums_a_complete_checkpoint_is_taken_and_an_incomplete_one_is_not(run, capsys):
    checksums.sums_file(run, 30).unlink()
    assert restored(run) == (30, 30.0)
    assert "has no checksums: not verified" in capsys.readouterr().err
    (run / "checkpoints" / "30" / "data" / "metadata").unlink()
    assert restored(run) == (20, 20.0)


def test_sums_go_with_their_checkpoints(run):
    checkpoints = Checkpoints(run / "checkpoints", keep=2)
    checkpoints.save(40, saved_at(40))
    checkpoints.close()
    assert checksums.steps_of(run) == [30, 40]
    assert {p.stem for p in (run / "checksums").iterdir()} == {"30", "40"}


def test_a_full_disk_is_raised_and_not_logged_as_well(caplog):
    """Orbax logs the traceback of what it raises too."""
    log = logging.getLogger("absl")
    log.error("commit failed", exc_info=OSError(errno.ENOSPC, "No space left on device"))
    log.error("commit failed", exc_info=OSError(errno.EIO, "Input/output error"))
    assert [str(record.exc_info[1]) for record in caplog.records] == ["[Errno 5] Input/output error"]


def test_the_folder_named_is_that_of_the_first_who_met_the_full_disk(tmp_path):
    def write() -> None:
        with disk_full_explained(tmp_path), disk_full_explained(tmp_path / "checkpoints"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFullError, match=f"^the disk of {tmp_path / 'checkpoints'} is full"):
        write()


def test_reports_to_a_closed_loop_are_dropped_and_nothing_else(monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)
    quiet_late_callbacks()
    quiet_late_callbacks()
    loop = asyncio.new_event_loop()
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed") as caught:
        loop.call_soon_threadsafe(print)
    here = caught.value.__traceback__
    assert here is not None
    from_python, from_cpp = (SimpleNamespace(exc_traceback=trace) for trace in (here, here.tb_next))
    sys.unraisablehook(from_python)
    sys.unraisablehook(from_cpp)
    sys.unraisablehook(SimpleNamespace(exc_traceback=None))
    assert shown == [from_python, SimpleNamespace(exc_traceback=None)]


def gguf_stand_in(folder: Path, file: Path) -> Path:
    """A folder that stands for a GGUF file, as gguf_folder makes it."""
    folder.mkdir()
    (folder / "config.json").write_text('{"hidden_size": 8}')
    (folder / "gguf.json").write_text(json.dumps({"file": str(file), "bytes": file.stat().st_size}))
    return folder


def test_gguf_files_of_one_shape_are_told_apart(tmp_path):
    for name, content in {"a": b"weights 1", "b": b"weights 2", "moved": b"weights 1"}.items():
        (tmp_path / f"{name}.gguf").write_bytes(content)
    a, b, moved = (
        fingerprint(gguf_stand_in(tmp_path / name, tmp_path / f"{name}.gguf")) for name in ("a", "b", "moved")
    )
    assert a != b
    assert a == moved
    assert changed_content({"base": a}, {"base": b}) == {"the content of base": (a, b)}


def test_a_gguf_base_saved_by_its_config_alone_is_still_taken(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"weights")
    folder = gguf_stand_in(tmp_path / "a", tmp_path / "a.gguf")
    now = fingerprint(folder)
    (folder / "gguf.json").unlink()
    before = fingerprint(folder)  # what earlier versions saved
    saved, data = {"base": before, "data": ["x"]}, {"data": ["x"]}
    assert changed_content(saved, {"base": now} | data) == {}
    assert changed_content(saved, {"base": "f" * 64} | data) == {"the content of base": (before, "f" * 64)}
    assert changed_content(saved, {"base": now, "data": ["y"]}) == {"the content of data": (["x"], ["y"])}


def test_the_fingerprint_of_safetensors_stays_as_it_was_saved(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(bytes(range(256)) * 9000)
    assert fingerprint(tmp_path) == "51b57833d033f6a28e9572cabc7a13ea0f5d50716a4ffe42f7dfbd2d50b8cdf2"
