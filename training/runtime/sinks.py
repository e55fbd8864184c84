"""Where the numbers of a run go besides its own files: TensorBoard, Weights & Biases, MLflow.

A sink takes numbers by step until it is closed. Its library is imported only if the sink is chosen. A resumed
run continues the same run of the service: `tracking.json` in the run folder holds its id. Not covered: files,
pictures and models.
"""

import json
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Literal, Protocol

from jaxmoe.json_values import JsonMapping
from training.runtime.atomic import write_whole

_NOT_IN_NAMES = re.compile(r"[^\w\-./: ]")
# what MLflow takes: parameters and metrics in one call, characters of a parameter
PARAMS_AT_ONCE, METRICS_AT_ONCE, PARAM_LENGTH = 100, 500, 500


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases, with the package wandb (`pip install jaxmoe[wandb]`).

    Attributes:
      project: project of the run; null logs nothing there.
      entity: user or team; null takes the account's own.
      mode: online sends during the run, offline writes to OUTPUT/wandb, for `wandb sync`.
    """

    project: str | None = None
    entity: str | None = None
    mode: Literal["online", "offline"] = "online"


@dataclass(frozen=True)
class MlflowConfig:
    """MLflow, with the package mlflow or mlflow-skinny (`pip install jaxmoe[mlflow]`).

    Attributes:
      experiment: experiment of the run; null logs nothing there.
      uri: of the tracking server or database; null takes MLFLOW_TRACKING_URI, else OUTPUT/mlflow.db.
    """

    experiment: str | None = None
    uri: str | None = None

    def __post_init__(self) -> None:
        if self.uri is not None and "@" in self.uri.partition("://")[2].partition("/")[0]:
            raise ValueError(
                "watch.mlflow.uri must not hold a user or password, since configs are saved; set "
                "MLFLOW_TRACKING_URI, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )


class Sink(Protocol):
    """What takes the numbers of a run."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Takes numbers of one step.

        Args:
          step: steps done so far.
          values: by name, with the kind before a slash: train/loss.
        """
        ...

    def close(self, *, failed: bool) -> None:
        """Sends what is left; nothing more follows.

        Args:
          failed: whether the run ended with an error.
        """
        ...


@dataclass(frozen=True)
class TrackedRun:
    """What a sink is told about a run.

    Attributes:
      folder: of the run.
      settings: the resolved config; it holds no keys to services.
      resume_at: step from which the run resumes, 0 for a new one.
    """

    folder: Path
    settings: JsonMapping
    resume_at: int

    def service_id(self, service: str, make: Callable[[], str]) -> str:
        """The id of this run at a service: the recorded one, else a new one, which is recorded.

        Args:
          service: its name in tracking.json.
          make: gives a new id.
        Returns: the id.
        """
        path = self.folder / "tracking.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if service not in known:
            known[service] = make()
            write_whole(path, json.dumps(known) + "\n")
        return known[service]


class TensorBoardSink:
    """Event files in OUTPUT/tensorboard."""

    def __init__(self, run: TrackedRun):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.resume_at + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See Sink.

        Args:
          step: steps done so far.
          values: by name.
        """
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, *, failed: bool) -> None:
        """See Sink."""
        del failed  # event files have no such mark
        self._writer.close()


class WandbSink:
    """A run of Weights & Biases; after a resume, steps since the checkpoint appear there twice.

    It prints nothing, reads no git state and does not monitor the machine.
    """

    def __init__(self, run: TrackedRun, config: WandbConfig):
        wandb = _library("wandb", "watch.wandb.project")
        settings = wandb.Settings(
            console="off", silent=True, disable_git=True, x_disable_stats=True, x_disable_meta=True
        )
        try:
            self._run = wandb.init(
                project=config.project,
                entity=config.entity,
                mode=config.mode,
                id=run.service_id("wandb", lambda: secrets.token_hex(4)),
                resume="allow",
                name=run.folder.name,
                dir=str(run.folder),
                config=dict(run.settings),
                settings=settings,
            )
        except (
            Exception
        ) as error:  # no account, no network, a refused project: each library release has its own
            raise ValueError(
                f"watch.wandb: Weights & Biases cannot be reached or refuses ({_line(error)}); run "
                "`wandb login`, or set watch.wandb.mode=offline"
            ) from error
        # our own steps, so that a resumed run may go back to its checkpoint
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See Sink.

        Args:
          step: steps done so far.
          values: by name.
        """
        self._run.log({"step": step, **values})

    def close(self, *, failed: bool) -> None:
        """See Sink."""
        self._run.finish(exit_code=int(failed))


class MlflowSink:
    """A run of MLflow, with the settings of the config as parameters."""

    def __init__(self, run: TrackedRun, config: MlflowConfig, environment_uri: str | None = None):
        mlflow = _library("mlflow", "watch.mlflow.experiment")
        self._entities = import_module("mlflow.entities")
        uri = config.uri or environment_uri or f"sqlite:///{(run.folder / 'mlflow.db').resolve()}"
        shown = config.uri or ("MLFLOW_TRACKING_URI" if environment_uri else uri)
        try:
            self._client = mlflow.MlflowClient(uri)
            self._id = run.service_id("mlflow", lambda: self._new_run(run, config.experiment))
            self._client.update_run(self._id, status="RUNNING")
            if not run.resume_at:
                self._settings(run.settings)
        except Exception as error:  # likewise
            raise ValueError(
                f"watch.mlflow: {shown} cannot be reached or refuses ({_line(error)}); see watch.mlflow.uri"
            ) from error

    def _new_run(self, run: TrackedRun, experiment: str | None) -> str:
        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self._client.create_experiment(experiment)
        return self._client.create_run(number, run_name=run.folder.name).info.run_id

    def _settings(self, settings: JsonMapping) -> None:
        params = [self._entities.Param(k, v[:PARAM_LENGTH]) for k, v in flat(settings).items()]
        for first in range(0, len(params), PARAMS_AT_ONCE):
            self._client.log_batch(self._id, params=params[first : first + PARAMS_AT_ONCE])

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See Sink.

        Args:
          step: steps done so far.
          values: by name; characters that MLflow does not take in a name become `_`.
        """
        now = int(time.time() * 1000)
        metrics = [
            self._entities.Metric(_NOT_IN_NAMES.sub("_", name), float(value), now, step)
            for name, value in values.items()
        ]
        for first in range(0, len(metrics), METRICS_AT_ONCE):
            self._client.log_batch(self._id, metrics=metrics[first : first + METRICS_AT_ONCE])

    def close(self, *, failed: bool) -> None:
        """See Sink."""
        self._client.set_terminated(self._id, status="FAILED" if failed else "FINISHED")


def flat(settings: JsonMapping, before: str = "") -> dict[str, str]:
    """Nested settings as one level of texts, with dots between the keys.

    Args:
      settings: sections and values.
      before: the keys above, with a dot at the end.
    Returns: texts by dotted key.

    >>> flat({"ppo": {"epochs": 2}, "seed": 0})
    {'ppo.epochs': '2', 'seed': '0'}
    """
    found: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = str(value)
    return found


def _library(name: str, setting: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(
            f"{setting} needs the package {name}: pip install 'jaxmoe[{name}]', or leave the setting out"
        ) from error


def _line(error: Exception) -> str:
    """The first line of a library's message."""
    return f"{type(error).__name__}: {(str(error).strip() or '?').splitlines()[0][:200]}"


class Sinks:
    """All sinks of a run. One that fails is dropped and reported once: no run ends because of a dashboard.

    Args:
      sinks: by the name shown to users.
      say: takes a line for the person watching.
    """

    def __init__(self, sinks: Mapping[str, Sink], say: Callable[[str], None]):
        self._sinks, self._say = dict(sinks), say

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Hands numbers to every sink.

        Args:
          step: steps done so far.
          values: by name.
        """
        self._each(lambda sink: sink.scalars(step, values), f"step {step} and what follows is not sent there")

    def close(self, *, failed: bool) -> None:
        """Closes every sink.

        Args:
          failed: whether the run ended with an error.
        """
        self._each(lambda sink: sink.close(failed=failed), "its run was not closed")

    def _each(self, act: Callable[[Sink], None], lost: str) -> None:
        for name, sink in list(self._sinks.items()):
            try:
                act(sink)
            except Exception as error:  # whatever a service's library raises: the run goes on
                del self._sinks[name]
                self._say(f"{name} failed ({_line(error)}): {lost}; metrics.jsonl has everything")
