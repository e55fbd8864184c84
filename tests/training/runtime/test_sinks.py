"""Sinks: what each library is told; the real ones offline where they are installed, else small stand-ins."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from training.runtime.metrics import Recorder, WatchConfig, read_lines
from training.runtime.sinks import MlflowConfig, Sinks, TrackedRun, WandbConfig

ROOT = Path(__file__).parents[3]
SETTINGS = {"ppo": {"epochs": 2}, "seed": 0}


def record(folder, watch, *, resume_at=0, steps=(1, 2)):
    with Recorder(
        folder, watch, steps=steps[-1], resume_at=resume_at, main=True, title="t", settings=SETTINGS
    ) as told:
        for step in steps:
            told.step(step, {"loss": 1.0 / step, "tokens": 4.0})
        told.event(steps[-1], "held_out", {"pass_at_1_very hard!": 0.25})


class Stub:
    """Notes every call; attributes are calls again."""

    def __init__(self, calls, name=""):
        self._calls, self._name = calls, name

    def __getattr__(self, name):
        return Stub(self._calls, f"{self._name}.{name}" if self._name else name)

    def __call__(self, *args, **kwargs):
        self._calls.append((self._name, args, kwargs))
        return Stub(self._calls, f"{self._name}()")


@pytest.fixture
def wandb(monkeypatch):
    calls = []
    module = ModuleType("wandb")
    for name in ("init", "Settings"):
        setattr(module, name, Stub(calls, name))
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def test_wandb_is_told_settings_and_numbers_and_resumes_its_run(tmp_path, wandb):
    watch = WatchConfig(
        tensorboard=False, progress=False, wandb=WandbConfig(project="p", entity="team", mode="offline")
    )
    record(tmp_path, watch)
    record(tmp_path, watch, resume_at=1, steps=(2, 3))
    starts = [kwargs for name, _, kwargs in wandb if name == "init"]
    assert starts[0]["id"] == starts[1]["id"] == json.loads((tmp_path / "tracking.json").read_text())["wandb"]
    assert starts[0]["config"] == SETTINGS
    assert (starts[0]["project"], starts[0]["entity"], starts[0]["mode"]) == ("p", "team", "offline")
    logged = [args[0] for name, args, _ in wandb if name == "init().log"]
    assert [one["step"] for one in logged] == [1, 2, 2, 2, 3, 3]
    assert logged[0]["train/loss"] == 1.0
    assert logged[2] == {"step": 2, "held_out/pass_at_1_very hard!": 0.25}
    assert [kwargs for name, _, kwargs in wandb if name == "init().finish"] == [{"exit_code": 0}] * 2


class Client(Stub):
    def get_experiment_by_name(self, name):
        self._calls.append(("get_experiment_by_name", (name,), {}))

    def create_run(self, number, run_name):
        self._calls.append(("create_run", (run_name,), {}))
        return SimpleNamespace(info=SimpleNamespace(run_id="m1"))


@pytest.fixture
def mlflow(monkeypatch):
    calls = []
    module, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    module.MlflowClient = lambda uri: calls.append(("uri", (uri,), {})) or Client(calls)
    entities.Param = lambda key, value: (key, value)
    entities.Metric = lambda key, value, timestamp, step: (key, value, step)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return calls


def test_mlflow_is_told_settings_once_and_numbers_under_names_that_it_takes(tmp_path, mlflow, monkeypatch):
    watch = WatchConfig(tensorboard=False, progress=False, mlflow=MlflowConfig(experiment="e"))
    record(tmp_path, watch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere")
    record(tmp_path, watch, resume_at=2, steps=(3,))
    assert [args[0] for name, args, _ in mlflow if name == "uri"] == [
        f"sqlite:///{tmp_path / 'mlflow.db'}",
        "http://somewhere",
    ]
    assert len([1 for name, _, _ in mlflow if name == "create_run"]) == 1
    batches = [(args[0], kwargs) for name, args, kwargs in mlflow if name == "log_batch"]
    assert {run for run, _ in batches} == {"m1"}
    params = [kwargs["params"] for _, kwargs in batches if "params" in kwargs]
    assert params == [[("ppo.epochs", "2"), ("seed", "0")]]
    metrics = [one for _, kwargs in batches for one in kwargs.get("metrics", ())]
    assert ("train/loss", 1.0, 1) in metrics
    assert ("held_out/pass_at_1_very hard_", 0.25, 2) in metrics
    assert ("set_terminated", ("m1",), {"status": "FINISHED"}) in mlflow


@pytest.mark.parametrize(
    ("watch", "message"),
    [
        ({"wandb": WandbConfig(project="p")}, r"watch\.wandb\.project needs the package wandb: pip install"),
        ({"mlflow": MlflowConfig(experiment="e")}, r"watch\.mlflow\.experiment needs the package mlflow"),
    ],
)
def test_a_missing_package_is_named_before_anything_is_written(tmp_path, monkeypatch, watch, message):
    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=message):
        record(tmp_path, WatchConfig(tensorboard=False, progress=False, **watch))
    assert not list(tmp_path.iterdir())


def test_a_service_that_refuses_is_one_line(tmp_path, wandb, monkeypatch):
    def refuse(**_):
        raise RuntimeError("no account\nsecond line")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    with pytest.raises(ValueError, match=r"refuses \(RuntimeError: no account\); run `wandb login`"):
        record(tmp_path, WatchConfig(tensorboard=False, progress=False, wandb=WandbConfig(project="p")))


def test_an_address_with_a_password_is_refused():
    with pytest.raises(ValueError, match=r"watch\.mlflow\.uri must not hold a user or password"):
        MlflowConfig("e", "https://me:secret@host/path")
    assert MlflowConfig("e", "https://host/@path").uri


def test_a_failing_sink_is_dropped_said_once_and_ends_no_run():
    class Broken:
        def scalars(self, step, values):
            raise OSError("the server is gone")

        def close(self, *, failed):
            raise AssertionError("dropped already")

    got, said = [], []
    good = SimpleNamespace(
        scalars=lambda step, values: got.append(step), close=lambda failed: got.append(failed)
    )
    sinks = Sinks({"MLflow": Broken(), "TensorBoard": good}, said.append)
    for step in (1, 2):
        sinks.scalars(step, {"a": 1.0})
    sinks.close(failed=True)
    assert got == [1, 2, True]
    assert said == [
        "MLflow failed (OSError: the server is gone): step 1 and what follows is not sent there; "
        "metrics.jsonl has everything"
    ]


def test_no_library_is_imported_unless_chosen():
    """In a process of its own: the suite's may have one loaded."""
    script = (
        "import sys, training.runtime.metrics; "
        "print([n for n in ('wandb', 'mlflow', 'tensorboardX') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_ids_of_services_are_kept_apart(tmp_path):
    run = TrackedRun(tmp_path, {}, 0)
    assert [run.service_id("a", lambda: "1"), run.service_id("b", lambda: "2")] == ["1", "2"]
    assert run.service_id("a", lambda: "3") == "1"
    assert json.loads((tmp_path / "tracking.json").read_text()) == {"a": "1", "b": "2"}


REAL = """
import sys, pathlib
sys.path.insert(0, {root!r})
from tests.training.runtime.test_sinks import record, WatchConfig, WandbConfig, MlflowConfig
watch = WatchConfig(tensorboard=False, progress=False, {chosen})
record(pathlib.Path({folder!r}), watch)
record(pathlib.Path({folder!r}), watch, resume_at=1, steps=(2, 3))
"""


def run_really(folder: Path, chosen: str) -> subprocess.CompletedProcess:
    script = REAL.format(root=str(ROOT), chosen=chosen, folder=str(folder))
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_the_real_wandb_writes_offline_runs_and_says_nothing(tmp_path):
    done = run_really(tmp_path, "wandb=WandbConfig(project='p', mode='offline')")
    assert "wandb" not in done.stderr + done.stdout
    number = json.loads((tmp_path / "tracking.json").read_text())["wandb"]
    runs = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert runs
    assert {run.name for run in runs} == {f"run-{number}.wandb"}
    assert b"train/loss" in b"".join(run.read_bytes() for run in runs)


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed")
def test_the_real_mlflow_keeps_one_run_in_the_folder(tmp_path):
    run_really(tmp_path, "mlflow=MlflowConfig(experiment='e')")
    script = (
        "import mlflow, json; c = mlflow.MlflowClient('sqlite:///mlflow.db'); "
        "r = json.load(open('tracking.json'))['mlflow']; m = c.get_metric_history(r, 'train/loss'); "
        "d = c.get_run(r); print(json.dumps([[x.step for x in m], d.data.params, d.info.status]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    steps, params, status = json.loads(done.stdout.strip().splitlines()[-1])
    assert sorted(steps) == [1, 2, 2, 3]
    assert params == {"ppo.epochs": "2", "seed": "0"}
    assert status == "FINISHED"
    assert [r["step"] for r in read_lines(tmp_path / "metrics.jsonl") if "loss" in r] == [1, 2, 3]
