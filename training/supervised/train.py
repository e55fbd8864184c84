"""From a config to a finished run: what pretraining and fine-tuning share."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from jaxmoe.language_model import layer_experts
from jaxmoe.model import params
from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.config import ModelConfig
from jaxmoe.model.transformer import Decoder
from training.data import sources
from training.data.batches import Batches
from training.data.sources import Feed
from training.runtime import checkpoint, distributed
from training.runtime import config as configs
from training.runtime.checkpoint import Checkpoints
from training.runtime.metrics import Recorder
from training.runtime.model import TrainableModel, report
from training.runtime.optimizer import decayed, make_optimizer, schedule
from training.runtime.run_folder import Finished, begun, claim, main_first
from training.supervised import telemetry
from training.supervised.config import RunConfig
from training.supervised.loop import Loop
from training.supervised.step import (
    TrainState,
    TrainStep,
    init_state,
    make_train_step,
    state_shardings,
)
from training.supervised.validation import make_validation


def tokenizer(config: RunConfig, folder: Path) -> Any:
    """The run's tokenizer; a new one is trained once, and again only while the run has no checkpoint."""
    kept = folder / "tokenizer"

    def make() -> Any:
        if distributed.is_main() and not begun(folder):
            (kept / "tokenizer.json").unlink(missing_ok=True)
        with checkpoint.disk_full_explained(folder):
            return sources.make_tokenizer(config.data, config.base, kept)

    return main_first("tokenizer", make)


class Machinery(NamedTuple):
    """The compiled side of a run; made from the model's structure alone, so it serves planning too."""

    optimizer: optax.GradientTransformation
    shardings: TrainState
    step_fn: TrainStep


def make_machinery(
    config: RunConfig, model: Decoder, train: params.Train, mesh: Mesh, steps: int, balance: BalanceConfig
) -> Machinery:
    """Optimizer, shardings and train step for an abstract model."""
    optimizer = make_optimizer(config.optimizer, steps, decayed(model, config.optimizer, train))
    shardings = state_shardings(model, optimizer, mesh, train)
    _, frozen = params.shardings(model, mesh, train)
    step_fn = make_train_step(
        model,
        params.split(model, train).definition,
        optimizer,
        schedule(config.optimizer, steps),
        config.step,
        balance,
        shardings,
        frozen,
        seed=config.seed,
    )
    return Machinery(optimizer, shardings, step_fn)


def train(
    config: RunConfig, folder: Path, model: TrainableModel, tokenizer: Any, balance: BalanceConfig, title: str
) -> Finished:
    """Trains a model, from its last checkpoint if the run folder has one."""
    mesh, weights = model.lm.mesh, model.lm.weights
    share = distributed.share_of_batch(mesh, config.data.batch_size, config.step.accumulate)
    feed = main_first("data", lambda: Feed(config.data, tokenizer))
    steps = feed.count() if config.steps is None else config.steps
    parts = make_machinery(config, model.abstract, model.train, mesh, steps, balance)
    batches = feed.batches(share.index, share.count)
    validate = make_validation(config, tokenizer, model, share) if config.valid_every else None
    claim(config, folder)
    identity = {"base": model.fingerprint, "data": sources.identity(config.data)}
    meta = {"seed": config.seed, "config": configs.to_dict(config), "identity": identity}
    main = distributed.is_main()
    with contextlib.ExitStack() as stack:
        stack.enter_context(checkpoint.disk_full_explained(folder))
        checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint.keep)
        stack.callback(checkpoints.close)
        state, first = starting_state(config, model, parts, checkpoints, batches, identity)
        recorder = stack.enter_context(
            Recorder(folder, config.watch, steps=steps, resume_at=first, main=main, title=title)
        )
        recorder.say(f"{title}: {report(model)}; {steps} steps on {mesh.size} device(s); {folder}")
        if first:
            recorder.say(f"going on from step {first}")
        loop = Loop(
            step_fn=parts.step_fn,
            frozen=weights.frozen,
            place=lambda batch: distributed.place_batch(batch, mesh, share),
            checkpoints=checkpoints,
            recorder=recorder,
            meta=meta,
            layer_experts=layer_experts(model.abstract),
            checkpoint=config.checkpoint,
            watch=config.watch,
            folder=folder,
            validate=validate,
            valid_every=config.valid_every,
        )
        outcome = loop.run(state, batches, first, steps)
        end = "finished" if outcome.finished else "stopped; the same command goes on"
        recorder.say(f"{title}: {end} at step {outcome.step}")
    trained = weights._replace(trainable=outcome.state.trainable)
    lm = dataclasses.replace(model.lm, weights=trained, balance=balance)
    return Finished(lm, outcome.step, outcome.finished, folder)


def starting_state(
    config: RunConfig,
    model: TrainableModel,
    parts: Machinery,
    checkpoints: Checkpoints,
    batches: Batches,
    identity: dict[str, Any],
) -> tuple[TrainState, int]:
    """A new state at step 0, or that of the newest checkpoint on this run's mesh; the data then go on.

    Raises: ValueError if the checkpoint is of another base or other data.
    """
    trainable = model.lm.weights.trainable
    step = checkpoints.latest()
    if step is None:
        return init_state(trainable, model.abstract, parts.optimizer, parts.shardings), 0
    if config.resume == "same":
        found = configs.differences(checkpoints.meta(step)["identity"], identity)
        pairs = {f"the content of {key}": pair for key, pair in found.items()}
        checkpoint.refuse_another_run(checkpoints.folder.parent, pairs)
    like = {
        "moments": jax.eval_shape(parts.optimizer.init, trainable),
        "routing": telemetry.zeros(layer_experts(model.abstract)),
    }
    places = {"moments": parts.shardings.optimizer, "routing": parts.shardings.routing}
    weights = checkpoint.structure(trainable, parts.shardings.trainable)
    for leaf in jax.tree.leaves(trainable):  # new weights, in the way of the saved ones
        leaf.delete()
    saved = checkpoints.restore(step, weights, checkpoint.structure(like, places))
    batches.restore(saved.data)
    failed = jax.device_put(np.int32(0), parts.shardings.failed)
    return TrainState(saved.trainable, saved.optimizer["moments"], saved.optimizer["routing"], failed), step


def shaped_for(tokenizer: Any, model: ModelConfig) -> ModelConfig:
    """A new model's shape with the tokenizer's special tokens.

    Raises: ValueError if the vocabulary is too small for the tokenizer.
    """
    if len(tokenizer) > model.vocab_size:
        raise ValueError(
            f"model.vocab_size must hold the tokenizer's {len(tokenizer)} tokens; got {model.vocab_size}"
        )
    return dataclasses.replace(
        model,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
