"""From a config to a finished run: what pretraining and fine-tuning share."""

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from jaxmoe.json_values import JsonObject
from jaxmoe.language_model import layer_experts
from jaxmoe.model import params
from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.transformer import Decoder
from training.data import sources
from training.data.batches import Batches
from training.data.sources import DataConfig, Feed
from training.runtime import distributed
from training.runtime.checkpoint import (
    CheckpointConfig,
    Checkpoints,
    changed_content,
    refuse_another_run,
    structure,
)
from training.runtime.metrics import Recorder, WatchConfig
from training.runtime.model import ModelSource, TrainableModel, make_model, report
from training.runtime.optimizer import OptimizerConfig, decayed, make_optimizer, schedule
from training.runtime.run_folder import Finished, RunFolder, begun, main_first
from training.supervised import telemetry
from training.supervised.loop import Loop
from training.supervised.step import (
    StepConfig,
    TrainState,
    TrainStep,
    init_state,
    make_train_step,
    state_shardings,
)
from training.supervised.validation import held_out_samples, make_validation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def run_tokenizer(folder: Path, data: DataConfig, base: str | None) -> "PreTrainedTokenizerBase":
    """The run's tokenizer; a new one is trained once, and again only while the run has no checkpoint.

    Args:
      folder: of the run.
      data: says which tokenizer, or what to train it on.
      base: whose tokenizer is used if the config names none; None for a new model.
    Returns: the tokenizer, the same on every process.
    """
    kept = folder / "tokenizer"

    def make() -> "PreTrainedTokenizerBase":
        if distributed.is_main() and not begun(folder):
            (kept / "tokenizer.json").unlink(missing_ok=True)
        return sources.make_tokenizer(data, base, kept)

    return main_first("tokenizer", make)


class Machinery(NamedTuple):
    """The compiled side of a run; made from the model's structure alone, so it serves planning too."""

    optimizer: optax.GradientTransformation
    shardings: TrainState
    step_fn: TrainStep


def make_machinery(
    model: Decoder,
    train: params.Train,
    mesh: Mesh,
    optimizer: OptimizerConfig,
    step: StepConfig,
    balance: BalanceConfig,
    *,
    steps: int,
    seed: int,
) -> Machinery:
    """Optimizer, shardings and train step for an abstract model.

    Args:
      train: which part of the weights is trained.
      steps: of the whole run, for the learning rate.
      seed: of dropout.
    Returns: all three; nothing is compiled yet.
    """
    tx = make_optimizer(optimizer, steps, decayed(model, optimizer, train))
    shardings = state_shardings(model, tx, mesh, train)
    _, frozen = params.shardings(model, mesh, train)
    step_fn = make_train_step(
        model,
        params.split(model, train).definition,
        tx,
        schedule(optimizer, steps),
        step,
        balance,
        shardings,
        frozen,
        seed=seed,
    )
    return Machinery(tx, shardings, step_fn)


def train(
    run: RunFolder,
    source: ModelSource,
    mesh: Mesh,
    *,
    data: DataConfig,
    optimizer: OptimizerConfig,
    step: StepConfig,
    balance: BalanceConfig,
    checkpoint: CheckpointConfig,
    watch: WatchConfig,
    steps: int | None,
    valid_every: int,
    title: str,
) -> tuple[Finished, "PreTrainedTokenizerBase"]:
    """Trains a model in its run folder, from the last checkpoint if the folder has one.

    Args:
      steps: of the whole run; None takes data.epochs.
      valid_every: steps between two held-out losses on data.valid; 0 for none.
      title: for the person watching.
    Returns: the model as trained so far, and its tokenizer.
    """
    tokenizer = run_tokenizer(run.path, data, source.base)
    share = distributed.share_of_batch(mesh, data.batch_size, step.accumulate)
    # before the base is loaded, which may take minutes: a file that cannot be read is told at once
    feed = main_first("data", lambda: Feed(data, tokenizer))
    held_out = held_out_samples(data, tokenizer) if valid_every else []
    model = make_model(source, tokenizer, mesh)
    steps = feed.count() if steps is None else steps
    parts = make_machinery(
        model.abstract, model.train, mesh, optimizer, step, balance, steps=steps, seed=source.seed
    )
    batches = feed.batches(share.index, share.count)
    validate = make_validation(held_out, data, step, tokenizer, model, share) if valid_every else None
    identity = {"base": model.fingerprint, "data": sources.identity(data)}
    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(run.path / "checkpoints", checkpoint.keep)
        stack.callback(checkpoints.close)
        state, first = starting_state(model, parts, checkpoints, batches, None if run.changed else identity)
        run.claim()  # only now is it known that what is in the folder can be resumed with these settings
        main = distributed.is_main()
        recorder = stack.enter_context(
            Recorder(
                run.path,
                watch,
                steps=steps,
                resume_at=first,
                main=main,
                title=title,
                settings=run.settings,
            )
        )
        work = f"{steps} step{'s' * (steps != 1)} on {mesh.size} device{'s' * (mesh.size != 1)}"
        work += f", lr {optimizer.lr:g}"
        recorder.say(f"{title}: {report(model)}; {work}; {run.path}")
        for line in feed.report():
            recorder.say(line)
        if first:
            recorder.say(f"resumed from step {first}")
        loop = Loop(
            step_fn=parts.step_fn,
            frozen=model.lm.weights.frozen,
            place=lambda batch: distributed.place_batch(batch, mesh, share),
            checkpoints=checkpoints,
            recorder=recorder,
            meta={"seed": source.seed, "config": run.settings, "identity": identity},
            layer_experts=layer_experts(model.abstract),
            checkpoint=checkpoint,
            watch=watch,
            folder=run.path,
            validate=validate,
            valid_every=valid_every,
        )
        end = loop.run(state, batches, first, steps)
        how = "finished" if end.finished else "stopped; the same command resumes it"
        recorder.say(f"{title}: {how} at step {end.step}")
    trained = model.lm.weights._replace(trainable=end.state.trainable)
    lm = dataclasses.replace(model.lm, weights=trained, balance=balance)
    return Finished(lm, end.step, end.finished, run.path), tokenizer


def starting_state(
    model: TrainableModel,
    parts: Machinery,
    checkpoints: Checkpoints,
    batches: Batches,
    identity: JsonObject | None,
) -> tuple[TrainState, int]:
    """A new state at step 0, or that of the newest checkpoint on this run's mesh; the data then follow it.

    Args:
      model: its new weights are deleted where saved ones take their place.
      batches: set to the position of the checkpoint.
      identity: of base and data, which the checkpoint must share; None takes any checkpoint.
    Returns: the state, and the number of steps done.
    Raises: ValueError if the checkpoint is of another base or other data.
    """
    trainable = model.lm.weights.trainable
    step = checkpoints.latest()
    if step is None:
        return init_state(trainable, model.abstract, parts.optimizer, parts.shardings), 0
    if identity is not None:
        changed = changed_content(checkpoints.meta(step)["identity"], identity)
        refuse_another_run(checkpoints.folder.parent, changed)
    like = {
        "optimizer": jax.eval_shape(parts.optimizer.init, trainable),
        "routing": telemetry.zeros(layer_experts(model.abstract)),
    }
    shardings = {"optimizer": parts.shardings.optimizer, "routing": parts.shardings.routing}
    weights = structure(trainable, parts.shardings.trainable)
    for leaf in jax.tree.leaves(trainable):  # new weights, which would take the room of the saved ones
        leaf.delete()
    saved = checkpoints.restore(step, weights, structure(like, shardings))
    batches.restore(saved.data)
    failed = jax.device_put(np.int32(0), parts.shardings.failed)
    state = TrainState(saved.trainable, saved.optimizer["optimizer"], saved.optimizer["routing"], failed)
    return state, step
