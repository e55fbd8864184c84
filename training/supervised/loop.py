"""The training loop: steps, metrics one step late, checkpoints, stopping, the guard against NaN."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import jax
import numpy as np

from jaxmoe.json_values import JsonObject
from jaxmoe.model.shapes import PyTree
from training.data.batches import Batch
from training.runtime.allocator import keep_memory, release_memory
from training.runtime.checkpoint import CheckpointConfig, Checkpoints, Saved
from training.runtime.distributed import fetch
from training.runtime.metrics import Recorder, WatchConfig
from training.runtime.stop import StopRequest
from training.supervised import telemetry
from training.supervised.step import StepMetrics, TrainState, TrainStep, leaf_names


class ResumableBatches(Iterator[Batch], Protocol):
    """What the loop needs from the data."""

    def state(self) -> JsonObject:
        """The place after the last batch that was handed out, as plain JSON."""
        ...


class DivergedError(RuntimeError):
    """A loss or gradient was not finite; the state before that step has been saved."""


class LoopEnd(NamedTuple):
    """How a run ended: after how many steps, whether all were done, and the state."""

    step: int
    finished: bool
    state: TrainState


class _Pending(NamedTuple):
    """A step whose metrics are still on the device, and the data position before it."""

    step: int
    metrics: StepMetrics
    data: JsonObject


@dataclass
class Loop:
    """Everything that stays the same from step to step.

    Attributes:
      step_fn: from `training.supervised.step.make_train_step`.
      place: puts this process's rows on the mesh.
      meta: what a checkpoint records about the run.
      layer_experts: by projection, experts in each layer, for telemetry.
      validate: held-out metrics, called with the state before the first step and every `valid_every` steps.
    """

    step_fn: TrainStep
    frozen: PyTree
    place: Callable[[Batch], Batch]
    checkpoints: Checkpoints
    recorder: Recorder
    meta: JsonObject
    layer_experts: dict[str, tuple[int, ...]]
    checkpoint: CheckpointConfig
    watch: WatchConfig
    folder: Path
    validate: Callable[[TrainState], dict[str, float]] | None = None
    valid_every: int = 0

    def run(self, state: TrainState, batches: ResumableBatches, first: int, steps: int) -> LoopEnd:
        """Runs from step `first` to `steps`, to the end of the data, or until told to stop.

        Args:
          state: on the mesh; its arrays are donated to the first step.
          batches: this process's rows, placed before the batch of step `first`.
          first: steps done before.
          steps: of the whole run.
        Returns: steps done, whether the run is finished, and the state, which has been saved.
        Raises: DivergedError after saving the state before the first step that was not finite.
        """
        step, pending = first, None
        more = True
        if first == 0 and self.validate:
            # what training starts from
            self.recorder.event(0, "valid", self.validate(state))
            self.recorder.between_steps()
        with StopRequest(self.checkpoints.preempted) as stop:
            while step < steps:
                before = batches.state()
                batch = next(batches, None)
                if batch is None:
                    more = False
                    break
                state, metrics = self.step_fn(state, self.frozen, self.place(batch), np.int32(step))
                if step == first:
                    jax.block_until_ready(metrics)
                    keep_memory()
                step += 1
                # the device works on this step while the host looks at the one before
                self._finish(pending, state)
                pending = _Pending(step, metrics, before)
                if self._due(step, steps):
                    self._finish(pending, state)
                    pending = None
                    state = self._between_steps(step, state, batches)
                    self.recorder.between_steps()
                if stop.granted(step):
                    break
            self._finish(pending, state)
            self._save(step, state, batches.state())
            self.checkpoints.wait()
        release_memory()
        return LoopEnd(step, step >= steps or not more, state)

    def _due(self, step: int, steps: int) -> bool:
        intervals = (
            self.checkpoint.every,
            self.watch.routing_every,
            self.valid_every if self.validate else 0,
        )
        return step == steps or any(every and step % every == 0 for every in intervals)

    def _between_steps(self, step: int, state: TrainState, batches) -> TrainState:
        if self.watch.routing_every and step % self.watch.routing_every == 0:
            state = self._report_routing(step, state)
        if self.validate and self.valid_every and step % self.valid_every == 0:
            self.recorder.event(step, "valid", self.validate(state))
        if step % self.checkpoint.every == 0:
            self._save(step, state, batches.state())
        return state

    def _report_routing(self, step: int, state: TrainState) -> TrainState:
        rows = telemetry.report(fetch(state.routing), self.layer_experts)
        self.recorder.routing(step, rows, telemetry.summary(rows))
        empty = jax.tree.map(
            lambda a: jax.make_array_from_callback(
                a.shape, a.sharding, lambda i: np.zeros(a.shape, a.dtype)[i]
            ),
            state.routing,
        )
        return state._replace(routing=empty)

    def _save(self, step: int, state: TrainState, data: JsonObject) -> None:
        optimizer = {"optimizer": state.optimizer, "routing": state.routing}
        self.checkpoints.save(step, Saved(state.trainable, optimizer, data, self.meta | {"step": step}))

    def _finish(self, pending: _Pending | None, state: TrainState) -> None:
        """Fetches and records a step's metrics; stops the run if they are not finite."""
        if pending is None:
            return
        metrics = fetch(pending.metrics)
        self.recorder.step(pending.step, {name: float(value) for name, value in metrics.scalars.items()})
        if not metrics.failed:
            return
        self._save(pending.step - 1, state._replace(failed=np.int32(0)), pending.data)
        self.checkpoints.wait()
        raise DivergedError(_describe_failure(pending.step, metrics, state, self.folder))


def _describe_failure(step: int, metrics: StepMetrics, state: TrainState, folder: Path) -> str:
    bad = [name for name, value in metrics.scalars.items() if not np.isfinite(value)]
    names = leaf_names(state.trainable)
    leaves = [name for name, square in zip(names, metrics.squares, strict=True) if not np.isfinite(square)]
    where = f"{', '.join(bad)} not finite"
    if leaves:
        where += f"; gradient not finite in {leaves[0]}"
        where += f" and {len(leaves) - 1} more of {len(names)} weights" if len(leaves) > 1 else ""
    return (
        f"step {step}: {where}. Checkpoint {step - 1} in {folder} holds the state before it; to go on from "
        "there with other settings (lower optimizer.lr or optimizer.clip_norm), run again with resume=changed"
    )
