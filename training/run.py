"""From a config to a finished run: what pretraining and fine-tuning share."""

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxmoe import params
from jaxmoe.config import ModelConfig
from jaxmoe.language_model import LanguageModel, layer_experts
from jaxmoe.losses import BalanceConfig
from jaxmoe.transformer import Decoder
from training import checkpoint, distributed, sources, telemetry
from training import config as configs
from training.checkpoint import CheckpointConfig, Checkpoints
from training.data import Batches
from training.distributed import DistributedConfig, MeshConfig
from training.loop import Loop
from training.metrics import Recorder, WatchConfig
from training.model import Model, report
from training.optimizer import OptimizerConfig, decayed, make_optimizer, schedule
from training.sources import DataConfig, Feed
from training.step import StepConfig, TrainState, TrainStep, init_state, make_train_step, state_shardings
from training.validation import make_validation

# Settings that may change from one part of a run to the next: they do not change what is computed.
FREE = ("output", "resume", "mesh.", "distributed.", "checkpoint.", "watch.", "valid_every", "data.prefetch")
FREE += ("data.valid", "data.data_dir", "step.remat", "step.scan_layers", "step.loss_chunk", "export")
FREE += ("evaluation.", "sandbox.workers", "step.most_targets")
# What a run puts into its folder.
OURS = {
    "config.yaml",
    "tokenizer",
    "checkpoints",
    "metrics.jsonl",
    "routing.jsonl",
    "samples.jsonl",
    "tensorboard",
    "plots",
    "export",
}


@dataclass(frozen=True)
class RunConfig:
    """What every training run has.

    Attributes:
      output: folder of the run; the same command goes on with what it finds there.
      steps: optimizer steps; null trains for data.epochs.
      seed: of new weights and dropout.
      resume: same goes on with a run of the same settings and refuses another; changed goes on with new
        settings; never wants a new folder.
      base: checkpoint to start from, a local folder or hub id; null makes a new model.
      model: shape of a new model; beside a base, the shape it must have, so that `plan` need not read it.
      valid_every: steps between two held-out losses on data.valid; 0 for none.
      export: write what was trained to OUTPUT/export when the run is finished.
    """

    __pydantic_config__ = configs.STRICT

    output: str
    steps: int | None = None
    seed: int = 0
    resume: Literal["same", "changed", "never"] = "same"
    base: str | None = None
    model: ModelConfig | None = None
    valid_every: int = 0
    export: bool = True
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    step: StepConfig = field(default_factory=StepConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)

    def __post_init__(self) -> None:
        if self.base is None and self.model is None:
            raise ValueError("give base (a checkpoint to start from) or model (the shape of a new one)")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1; got {self.steps}")
        if self.steps is None and self.data.epochs is None:
            raise ValueError("a run needs an end: give steps or data.epochs")
        if self.valid_every and not self.data.valid:
            raise ValueError(f"valid_every is {self.valid_every}, but data.valid names no data set")


class Finished(NamedTuple):
    """What a run leaves: the model as trained so far, and whether all steps were done."""

    lm: LanguageModel
    step: int
    finished: bool
    folder: Path


def open_folder(config: Any) -> Path:
    """The run folder of a config with `output` and `resume`; nothing is written yet.

    Raises: ValueError if it holds another run, or something else.
    """
    folder = Path(config.output)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output must be a folder; {folder} is a file")
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if foreign := sorted(present - OURS):
        raise ValueError(f"{folder} holds {foreign[0]}, which is of no run; choose another output=...")
    if begun(folder):
        if config.resume == "never":
            raise ValueError(
                f"{folder} holds a run already; choose another output=..., or go on with it by resume=same"
            )
        if config.resume == "same":
            found = configs.differences(_saved_config(folder, type(config)), configs.to_dict(config))
            found = {key: pair for key, pair in found.items() if not key.startswith(FREE)}
            checkpoint.refuse_another_run(folder, found)
    barrier("folder")
    return folder


def _saved_config(folder: Path, schema: type[RunConfig]) -> dict[str, Any]:
    """The folder's config as plain values; keys that are newer than the run have their defaults."""
    values = configs.read(folder / "config.yaml")
    try:
        return configs.to_dict(configs.parse(schema, values))
    except ValueError:  # of another command: the differences will tell
        return values


def begun(folder: Path) -> bool:
    """Whether the folder has a checkpoint to go on from."""
    saved = folder / "checkpoints"
    return saved.is_dir() and any(path.name.isdigit() for path in saved.iterdir())


def barrier(name: str) -> None:
    """Waits for every process."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


Made = TypeVar("Made")


def main_first(name: str, make: Callable[[], Made]) -> Made:
    """Lets process 0 make something (and leave files) before the others make it (and find them)."""
    if not distributed.is_main():
        barrier(name)
    made = make()
    if distributed.is_main():
        barrier(name)
    return made


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
    config: RunConfig, folder: Path, model: Model, tokenizer: Any, balance: BalanceConfig, title: str
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


def claim(config: Any, folder: Path) -> None:
    """Makes the folder this run's, once nothing can go wrong any more with what the user gave."""
    if distributed.is_main():
        with checkpoint.disk_full_explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            configs.save(config, folder / "config.yaml")
    barrier("claimed")


def starting_state(
    config: RunConfig,
    model: Model,
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
