"""What a run reports: metrics.jsonl and routing.jsonl always, sinks by choice, a progress bar.

Only process 0 writes. A resumed run drops the records of steps after its checkpoint and appends.
"""

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TextIO

from jaxmoe.json_values import JsonMapping, JsonObject
from jaxmoe.progress import ProgressDisplay, say
from training.runtime.atomic import write_whole
from training.runtime.sinks import (
    MlflowConfig,
    MlflowSink,
    Sink,
    Sinks,
    TensorBoardSink,
    TrackedRun,
    WandbConfig,
    WandbSink,
)


@dataclass(frozen=True)
class WatchConfig:
    """What is recorded, and how often.

    Attributes:
      every: steps between two records in metrics.jsonl and in the sinks.
      routing_every: steps over which routing telemetry is summed before it is written; 0 writes none.
      tensorboard: also write event files for TensorBoard.
      progress: show progress: a bar on a terminal, elsewhere one line a minute.
      plots: draw curves into OUTPUT/plots when the run finishes.
      wandb: Weights & Biases; off without a project.
      mlflow: MLflow; off without an experiment.
    """

    every: int = 1
    routing_every: int = 100
    tensorboard: bool = True
    progress: bool = True
    plots: bool = True
    wandb: WandbConfig = field(default_factory=WandbConfig)
    mlflow: MlflowConfig = field(default_factory=MlflowConfig)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"watch.every must be at least 1; got {self.every}")
        if self.routing_every < 0:
            raise ValueError(f"watch.routing_every must not be negative; got {self.routing_every}")


class JsonLines:
    """A file with one JSON object per line, each with a `step`; records up to step `resume_at` are kept."""

    def __init__(self, path: Path, resume_at: int):
        kept = [line for line, record in _records(path) if record["step"] <= resume_at]
        write_whole(path, "".join(kept))
        self._file: TextIO = path.open("a", encoding="utf-8")

    def write(self, record: JsonMapping) -> None:
        """Appends one record; numbers that are not finite become null."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self._file.write(json.dumps(clean) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file; no more records can be written."""
        self._file.close()


def read_lines(path: Path) -> list[JsonObject]:
    """The records of a JSON lines file; none if there is no file."""
    return [record for _, record in _records(path)]


def _records(path: Path) -> list[tuple[str, JsonObject]]:
    """Lines that were written to their end, and what they hold.

    A killed run may leave half a line, a machine that lost power a damaged one, which is said and left out.
    """
    if not path.exists():
        return []
    # only a line feed ends a line of JSON
    *whole, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    found = [(f"{line}\n", _record(line)) for line in whole]
    if damaged := sum(record is None for _, record in found):
        say(f"{path}: {damaged} damaged of {len(whole)} lines left out; the run itself is not affected")
    return [(line, record) for line, record in found if record is not None]


def _record(line: str) -> JsonObject | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "step" in record else None


def chosen_sinks(config: WatchConfig, run: TrackedRun) -> dict[str, Sink]:
    """The sinks that the settings ask for, ready to take numbers.

    Args:
      config: TensorBoard if asked for, Weights & Biases with a project, MLflow with an experiment.
      run: whose numbers they are.
    Returns: sinks by the name shown to users.
    Raises: ValueError if a package is missing or a service refuses.
    """
    sinks: dict[str, Sink] = {}
    if config.tensorboard:
        sinks["TensorBoard"] = TensorBoardSink(run)
    if config.wandb.project is not None:
        sinks["Weights & Biases"] = WandbSink(run, config.wandb)
    if config.mlflow.experiment is not None:
        sinks["MLflow"] = MlflowSink(run, config.mlflow, os.environ.get("MLFLOW_TRACKING_URI"))
    return sinks


class Recorder:
    """Writes metrics and shows progress; on every process but the first it does nothing.

    Args:
      resume_at: step from which the run resumes, 0 for a new one.
      steps: steps of the whole run, for the time remaining.
      settings: the run's resolved config, for the sinks.
    """

    def __init__(
        self,
        folder: Path,
        config: WatchConfig,
        *,
        steps: int,
        resume_at: int,
        main: bool,
        title: str,
        settings: JsonMapping | None = None,
    ):
        self._config, self._main, self._steps = config, main, steps
        self._last_time, self._tokens = time.perf_counter(), 0.0
        if not main:
            return
        # first, as a sink that fails is reported there
        self._display = ProgressDisplay(config.progress)
        self._shown = self._display.task(title, steps, resume_at, "compiling")
        sinks = chosen_sinks(config, TrackedRun(folder, settings or {}, resume_at))
        self._sinks = Sinks(sinks, self.say)
        self._metrics = JsonLines(folder / "metrics.jsonl", resume_at)
        self._routing = JsonLines(folder / "routing.jsonl", resume_at)

    def __enter__(self) -> "Recorder":
        if self._main:
            self._display.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._main:
            self._display.__exit__(kind, error, trace)
            self._metrics.close()
            self._routing.close()
            self._sinks.close(failed=error is not None)

    def step(self, step: int, scalars: Mapping[str, float]) -> None:
        """Takes the metrics of a finished step, in order; every watch.every-th step and the last are written.

        Args:
          step: steps done so far.
          scalars: metrics by name; the seconds of the step and, from `tokens`, tokens per second are added.
        """
        now = time.perf_counter()
        seconds, self._last_time = now - self._last_time, now
        if not self._main:
            return
        record = {"step": step, **scalars, "seconds": round(seconds, 6)}
        if "tokens" in scalars and seconds > 0:
            record["tokens_per_s"] = round(scalars["tokens"] / seconds, 1)
        if step % self._config.every == 0 or step == self._steps:
            self._metrics.write(record)
            self._sinks.scalars(step, {f"train/{k}": v for k, v in record.items() if k != "step"})
        self._show(step, record)

    def _show(self, step: int, record: Mapping[str, float]) -> None:
        status = f"loss {record['loss']:.4f}" if "loss" in record else ""
        if "reward" in record:
            status = f"reward {record['reward']:+.3f}  pass {record['pass_rate']:.0%}"
        if "tokens_per_s" in record:
            status += f"  {record['tokens_per_s']:,.0f} tokens/s"
        self._shown(step, self._steps, status)

    def between_steps(self) -> None:
        """Notes that the time since the last step was spent on something other than the next one."""
        self._last_time = time.perf_counter()

    def event(self, step: int, kind: str, values: JsonMapping) -> None:
        """Writes another kind of record to metrics.jsonl, such as a held-out loss.

        Args:
          step: steps done so far.
          kind: put before each name: kind "valid" and value "loss" give `valid_loss`.
          values: measurements by name.
        """
        if not self._main:
            return
        self._metrics.write({"step": step, **{f"{kind}_{k}": v for k, v in values.items()}})
        self._sinks.scalars(step, {f"{kind}/{name}": value for name, value in values.items()})

    def routing(self, step: int, rows: list[JsonObject], summary: Mapping[str, float]) -> None:
        """Writes the routing telemetry since the last report; nothing if there are no rows.

        Args:
          step: steps done so far.
          rows: from `telemetry.report`, for routing.jsonl.
          summary: from `telemetry.summary`, for the sinks.
        """
        if not self._main or not rows:
            return
        self._routing.write({"step": step, "rows": rows})
        self._sinks.scalars(step, {f"routing/{name}": value for name, value in summary.items()})

    def say(self, text: str) -> None:
        """Prints one line for the person watching."""
        if self._main:
            self._display.console.print(text, highlight=False, soft_wrap=True)
