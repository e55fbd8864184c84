"""Whole runs of a tiny model: stopping, killing, resuming, other topologies, bad input."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from training.__main__ import app
from training.commands.export import load_run
from training.runtime import checkpoint
from training.runtime import config as configs
from training.runtime.checkpoint import Checkpoints
from training.runtime.lost_process import LOST
from training.runtime.metrics import Recorder, read_lines
from training.supervised import pretrain, sft
from training.supervised.loop import DivergedError

ROOT = Path(__file__).parents[3]
# losses on other numbers of devices: sums in another order, amplified by some AdamW steps, which divide by
# what may be nearly 0: no bound follows. tests/training/supervised/test_step.py holds one step in float64.
OTHER_TOPOLOGY = 2e-3
STEPS = 30
SHAPE = {
    "vocab_size": 280,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "num_kv_heads": 2,
    "head_dim": 8,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A few hundred short sentences."""
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("".join(f"Number {i} is followed by number {i + 1}.\n" for i in range(300)))
    return path


def settings(corpus: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """A config for a run of a second or two."""
    base: dict[str, Any] = {
        "output": str(output),
        "steps": STEPS,
        "model": dict(SHAPE),
        "data": {
            "sources": [{"path": str(corpus)}],
            "vocab_size": 280,
            "batch_size": 16,
            "length": 16,
            "packing": "concat",
        },
        "optimizer": {"lr": 3e-3, "warmup_steps": 5},
        "checkpoint": {"every": 5},
        "watch": {"tensorboard": False, "plots": False, "routing_every": 10},
        "export": False,
    }
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (base.setdefault(section, {}) if section else base)[name] = value
    return base


def run_here(values: dict[str, Any]) -> Any:
    return pretrain.main(configs.parse(pretrain.PretrainConfig, values))


def losses(folder: Path) -> dict[int, float]:
    return {r["step"]: r["loss"] for r in read_lines(folder / "metrics.jsonl") if "loss" in r}


@pytest.fixture(scope="module")
def unbroken(corpus, tmp_path_factory) -> Path:
    """A run from start to end on eight devices."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    assert run_here(settings(corpus, folder)).finished
    return folder


RUNNING: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def none_left_running():
    """A test that fails leaves no process and no open pipe to the next."""
    yield
    while RUNNING:
        process = RUNNING.pop()
        process.kill()
        with contextlib.suppress(ValueError):  # its pipes are closed: the test has read them
            process.communicate()


def started(
    values: dict[str, Any], folder: Path, *more: str, limit_kib: int | None = None
) -> subprocess.Popen:
    """The command in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(json.dumps(values))
    command = [sys.executable, "-m", "training", "pretrain", "--config", str(path), *more]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    if limit_kib is not None:  # a limit set after the fork would fork without exec, which JAX warns of
        command = ["bash", "-c", f'ulimit -f {limit_kib}; exec "$@"', "bash", *command]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    RUNNING.append(process)
    return process


def wait_for_step(process: subprocess.Popen, folder: Path, step: int) -> None:
    """Until the run has recorded a step."""
    deadline = time.monotonic() + 240
    while max(losses(folder), default=0) < step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "the run is too slow"
        time.sleep(0.02)


@pytest.mark.slow  # tests/training/test_faults.py holds the same for one device in every run
def test_killed_and_stopped_run_repeats_the_unbroken_one_bitwise(corpus, unbroken, tmp_path):
    """SIGTERM, then SIGKILL, then to the end: the same losses and weights as without any of it."""
    folder = tmp_path / "run"
    values = settings(corpus, folder, distributed__cpu_devices=8)
    process = started(values, tmp_path / "settings")
    wait_for_step(process, folder, 7)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert "the same command resumes it" in said
    stopped = max(losses(folder))
    assert stopped < STEPS
    assert (folder / "checkpoints" / str(stopped)).is_dir()

    process = started(values, tmp_path / "settings")
    wait_for_step(process, folder, stopped + 3)
    process.kill()
    process.communicate()
    assert max(losses(folder)) < STEPS

    done = run_here(settings(corpus, folder))
    assert done.finished
    assert losses(folder) == losses(unbroken)
    records = [r["step"] for r in read_lines(folder / "metrics.jsonl")]
    assert records == sorted(set(records))
    mesh = done.lm.mesh
    again, _ = load_run(unbroken, mesh)
    jax.tree.map(np.testing.assert_array_equal, again.weights.trainable, done.lm.weights.trainable)


def test_resumes_on_another_mesh(corpus, unbroken, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    stop_at(monkeypatch, 20)
    first = run_here(settings(corpus, folder))
    assert not first.finished
    assert first.step >= 20
    monkeypatch.undo()
    done = run_here(settings(corpus, folder, mesh__data=2, mesh__fsdp=2, mesh__tensor=2))
    assert done.finished
    assert dict(done.lm.mesh.shape) == {"data": 2, "fsdp": 2, "expert": 1, "tensor": 2}
    expected, got = losses(unbroken), losses(folder)
    assert list(got) == list(expected)
    np.testing.assert_allclose(list(got.values()), list(expected.values()), rtol=OTHER_TOPOLOGY)


def stop_at(monkeypatch, step: int) -> None:
    """Sends this process a SIGTERM while it records a step."""
    record = Recorder.step

    def step_and_stop(self, at, scalars):
        record(self, at, scalars)
        if at == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Recorder, "step", step_and_stop)


def free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def two_processes(values: dict[str, Any], folder: Path) -> list[subprocess.Popen]:
    port = free_port()
    shared = values | {
        "distributed": {"coordinator": f"127.0.0.1:{port}", "num_processes": 2, "cpu_devices": 4}
    }
    return [started(shared, folder / str(i), f"distributed.process_id={i}") for i in range(2)]


def test_two_processes_train_as_one_and_stop_together(corpus, unbroken, tmp_path):
    """SIGTERM to one of two stops both at the same step; one process alone then finishes the run."""
    folder = tmp_path / "run"
    values = settings(corpus, folder, mesh__data=4, mesh__fsdp=2)
    processes = two_processes(values, tmp_path / "settings")
    wait_for_step(processes[0], folder, 10)
    processes[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    together, expected = losses(folder), losses(unbroken)
    assert 10 <= max(together) < STEPS
    assert (folder / "checkpoints" / str(max(together))).is_dir()
    np.testing.assert_allclose(
        list(together.values()), [expected[step] for step in together], rtol=OTHER_TOPOLOGY
    )
    assert run_here(settings(corpus, folder)).finished
    np.testing.assert_allclose(list(losses(folder).values()), list(expected.values()), rtol=OTHER_TOPOLOGY)


# the first one is the coordinator, whose loss is the harder to see
@pytest.mark.parametrize("lost", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_lost_process_ends_the_others_with_one_line(corpus, tmp_path, lost):
    """SIGKILL to one of two: the other ends within half a minute, without a stack trace."""
    folder = tmp_path / "run"
    processes = two_processes(settings(corpus, folder, steps=10_000), tmp_path / "settings")
    wait_for_step(processes[0], folder, 6)
    processes[lost].kill()
    began = time.monotonic()
    _, said = processes[1 - lost].communicate(timeout=120)
    seconds = time.monotonic() - began
    assert processes[1 - lost].returncode != 0
    lines = [
        line for line in said.splitlines() if line.startswith(("stopped", "error", "Traceback", "    @", "F"))
    ]
    assert lines == [LOST], said
    assert said.strip().splitlines()[-1] == LOST
    assert seconds < 30
    processes[lost].communicate()


def test_not_a_number_stops_with_the_last_good_state(corpus, tmp_path):
    folder = tmp_path / "run"
    values = settings(corpus, folder, optimizer={"lr": 1e30, "schedule": "constant"}, checkpoint__every=50)
    with pytest.raises(
        DivergedError, match=r"step 2: .*loss not finite; gradient not finite in \w+.*resume=changed"
    ):
        run_here(values)
    assert losses(folder)[2] is None
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    assert checkpoints.steps() == [1]
    lm, _ = load_run(folder, jax.make_mesh((8, 1, 1), ("data", "fsdp", "tensor"), axis_types=auto()))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(lm.weights.trainable)))
    checkpoints.close()


def auto() -> tuple:
    return (jax.sharding.AxisType.Auto,) * 3


def test_goes_on_with_other_settings_when_told_to(corpus, tmp_path):
    folder = tmp_path / "run"
    run_here(settings(corpus, folder, steps=10))
    with pytest.raises(ValueError, match=r"holds another run: steps was 10, is now 20; .*resume=changed"):
        run_here(settings(corpus, folder, steps=20))
    assert run_here(settings(corpus, folder, steps=20, resume="changed")).step == 20
    assert list(losses(folder)) == list(range(1, 21))
    with pytest.raises(ValueError, match="holds a run already"):
        run_here(settings(corpus, folder, steps=20, resume="never"))


def test_settings_that_a_checkpoint_does_not_fit_leave_the_run_as_it_was(corpus, tmp_path):
    folder = tmp_path / "run"
    values = settings(corpus, folder, steps=10)
    run_here(values)
    before = (folder / "config.yaml").read_bytes()
    with pytest.raises(
        ValueError,
        match=r"checkpoint 10 of \S+run does not fit these settings: trainable .*24.* here; .*output=\.\.\.",
    ):
        run_here(settings(corpus, folder, steps=10, resume="changed", model__intermediate_size=24))
    assert (folder / "config.yaml").read_bytes() == before
    assert run_here(values).finished


def test_epochs_decide_the_steps(corpus, tmp_path):
    values = settings(corpus, tmp_path / "run", steps=None, data__epochs=2)
    done = run_here(values)
    assert done.finished
    assert done.step == max(losses(tmp_path / "run"))
    assert list(losses(tmp_path / "run")) == list(range(1, done.step + 1))


def test_full_disk_is_one_line_and_loses_nothing(corpus, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    run_here(settings(corpus, folder, steps=10))
    path = tmp_path / "more.yaml"
    path.write_text(json.dumps(settings(corpus, folder, steps=20, resume="changed", watch__progress=False)))
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0))
    result = CliRunner().invoke(app, ["pretrain", "--config", str(path)])
    assert result.exit_code == 2
    assert "resumed from step 10" in result.stderr
    assert f"error: the disk of {folder / 'checkpoints'} is full: free some space" in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("error: ")
    monkeypatch.undo()
    assert CliRunner().invoke(app, ["pretrain", "--config", str(path)]).exit_code == 0
    assert list(losses(folder)) == list(range(1, 21))


def test_disk_that_fills_up_while_writing_is_explained(corpus, tmp_path):
    """A limit on file size makes the kernel refuse to write, as it does on a full disk or over a quota."""
    folder = tmp_path / "run"
    process = started(settings(corpus, folder), tmp_path / "settings", limit_kib=8)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 2, said
    assert any(line.startswith(f"error: the disk of {folder}") for line in said.splitlines()), said
    assert Checkpoints(folder / "checkpoints", read_only=True).latest() is None


# -- fine-tuning


@pytest.fixture(scope="module")
def base(corpus, tmp_path_factory) -> Path:
    """A base checkpoint in Hugging Face's format."""
    folder = tmp_path_factory.mktemp("base") / "run"
    run_here(settings(corpus, folder, steps=2, export=True, optimizer__warmup_steps=0))
    return folder / "export"


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "rows.jsonl"
    rows = [
        {"instruction": f"What follows {i}?", "input": "", "output": f"{i + 1}", "task_type": i % 2}
        for i in range(64)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sft_settings(base: Path, questions: Path, output: Path, **changes: Any) -> dict[str, Any]:
    values = settings(questions, output, **changes)
    del values["model"]
    data = values["data"] | {"packing": "first_fit", "length": 64, "data_dir": str(questions.parent / "tfds")}
    del data["vocab_size"]
    return values | {"base": str(base), "data": data}


@pytest.mark.parametrize(
    ("adapter", "exported"),
    [("loramoe", "adapter_model.bin"), ("lora", "adapter_model.safetensors"), ("none", "model.safetensors")],
)
def test_three_ways_to_fine_tune(base, questions, tmp_path, adapter, exported):
    values = sft_settings(
        base, questions, tmp_path / "run", steps=12, adapter=adapter, export=True, valid_every=6
    )
    values["data"]["valid"] = [{"path": str(questions), "limit": 8}]
    values["watch"]["plots"] = True
    values["watch"]["tensorboard"] = True
    done = sft.main(configs.parse(sft.SftConfig, values))
    folder = done.folder
    assert (folder / "export" / exported).exists()
    assert losses(folder)[12] < losses(folder)[1]
    held_out = {r["step"]: r["valid_loss"] for r in read_lines(folder / "metrics.jsonl") if "valid_loss" in r}
    assert held_out.keys() == {0, 6, 12}
    assert held_out[12] < held_out[0]
    assert (folder / "plots" / "loss.png").stat().st_size > 1000
    assert list((folder / "tensorboard").iterdir())
    routing = read_lines(folder / "routing.jsonl")
    assert bool(routing) == (adapter == "loramoe")
    assert (folder / "plots" / "expert_share.png").exists() == (adapter == "loramoe")
    if routing:
        assert {row["task"] for row in routing[0]["rows"]} == {"knowledge", "other"}
        # five decimals of three shares
        assert all(sum(row["share"]) == pytest.approx(1.0, abs=1e-4) for row in routing[0]["rows"])
    lm, tokenizer = load_run(folder, done.lm.mesh)
    jax.tree.map(np.testing.assert_array_equal, lm.weights.trainable, done.lm.weights.trainable)
    assert len(tokenizer) == 280


BAD: list[tuple[str, list[str], str]] = [
    ("pretrain", ["optimizer.learning_rate=1"], "unknown key optimizer.learning_rate"),
    ("pretrain", ["mesh.data=3"], "mesh axes data x fsdp x expert x tensor must multiply to the 8 devices"),
    ("pretrain", ["data.batch_size=12"], "data.batch_size must be divisible by"),
    ("pretrain", ["data.sources.0.path=nowhere.txt"], "there is no file or folder nowhere.txt"),
    ("pretrain", ["data.sources.0.path=EMPTY"], "is empty"),
    ("pretrain", ["model.vocab_size=100"], "model.vocab_size must hold the tokenizer's 280 tokens; got 100"),
    ("pretrain", ["output=FOREIGN"], "which is of no run"),
    ("pretrain", ["steps=0"], "steps must be at least 1"),
    ("sft", ["experts.rank=0"], "rank must be at least 1; got 0"),
    ("sft", ["base=nowhere"], "nowhere is none of them"),
    ("sft", ["experts.targets=[gait_proj]"], "'gait_proj' matches none of"),
    ("sft", ["data.sources.0.path=BROKEN"], "broken.jsonl:2"),
    ("sft", ["base=TRUNCATED"], "model.safetensors"),
    ("sft", ["base=OTHER"], "model_type must be one of"),
]


@pytest.mark.parametrize(("command", "overrides", "said"), BAD, ids=[f"{c[0]}-{c[1][0]}" for c in BAD])
def test_bad_input_is_one_line_and_exit_code_two(corpus, base, questions, tmp_path, command, overrides, said):
    places = bad_places(base, tmp_path)
    overrides = [
        o.replace(name, str(path)) for o in overrides for name, path in places.items() if name in o
    ] or (overrides)
    output = tmp_path / "run"
    values = settings(corpus, output) if command == "pretrain" else sft_settings(base, questions, output)
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(values))
    result = CliRunner().invoke(app, [command, "--config", str(path), *overrides])
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (output / "checkpoints").exists()
    assert not (output / "config.yaml").exists()  # so that the corrected command is not refused


def bad_places(base: Path, tmp_path: Path) -> dict[str, Path]:
    """Things that are wrong in one way each."""
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "broken.jsonl").write_text('{"instruction": "a", "output": "b"}\n{"instruction": \n')
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.doc").write_text("mine")
    for name in ("truncated", "other"):
        (tmp_path / name).mkdir()
        for file in base.iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "truncated" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    config = tmp_path / "other" / "config.json"
    config.write_text(config.read_text().replace('"model_type": "llama"', '"model_type": "gpt2"'))
    names = {"EMPTY": "empty.txt", "BROKEN": "broken.jsonl", "FOREIGN": "foreign"}
    names |= {"TRUNCATED": "truncated", "OTHER": "other"}
    return {key: tmp_path / name for key, name in names.items()}
