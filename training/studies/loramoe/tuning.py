"""Fine-tunes small models one after another in one process, and yields them at several volumes on the way.

The gradient is that of `training.supervised.step`, in a loop without checkpoints or files whose compiled
program serves every run of one shape: the learning rate is an argument, as are base, seed and data.
Otherwise, a run of half a minute would spend ten seconds compiling. The rate is constant after warm-up, so a
snapshot is what a run of that volume would have ended with.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxmoe.json_values import JsonObject
from jaxmoe.language_model import LanguageModel, layer_experts
from jaxmoe.model import params
from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.config import ExpertConfig
from jaxmoe.model.shapes import PyTree
from jaxmoe.tokenizer import pad_id
from training.data.batch import Batch, BatchConfig, Sample
from training.data.batches import Batches
from training.runtime.allocator import keep_memory
from training.runtime.distributed import place_batch, share_of_batch
from training.runtime.model import AdapterKind, LoraConfig, TrainableModel, load_model
from training.runtime.optimizer import OptimizerConfig, decay, optimizer_shardings, schedule
from training.studies.cells import Stopped, StoppedError
from training.supervised import telemetry
from training.supervised.step import StepConfig, make_gradient

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Recipe:
    """What is trained on top of or instead of the base, and with which router losses."""

    adapter: AdapterKind = "loramoe"
    experts: ExpertConfig = field(default_factory=ExpertConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    balance: BalanceConfig = field(default_factory=BalanceConfig)


class Stream(NamedTuple):
    """Batches in order, and how many samples had been seen after each."""

    batches: list[Batch]
    seen: list[int]
    most_targets: int


class TunedSnapshot(NamedTuple):
    """A model during training.

    Attributes:
      volume: samples that were requested; seen: samples that it has seen, in whole batches.
      loss: mean over the batches since the previous snapshot; NaN if the run diverged.
      routing: rows of `training.supervised.telemetry.report` for the same batches; empty without routers.
    """

    volume: int
    seen: int
    lm: LanguageModel
    loss: float
    routing: list[JsonObject]


def stream(
    samples: Sequence[Sample], tokenizer: "PreTrainedTokenizerBase", config: BatchConfig, volume: int
) -> Stream:
    """Batches of at least `volume` samples, each sample at most once per epoch.

    Args:
      samples: encoded samples.
      tokenizer: its padding token fills up rows.
      config: of the batches.
      volume: samples.
    Returns: the batches.
    """
    source = Batches([samples], config, pad_id=pad_id(tokenizer))
    batches, seen, total = [], [], 0
    while total < volume:
        batch = next(source)
        total += int(batch.segment_ids.max(1).sum())
        batches.append(batch)
        seen.append(total)
    most = max(int(batch.loss_mask[:, 1:].sum(1).max()) for batch in batches)
    return Stream(batches, seen, -(-most // 8) * 8)


class Tuner:
    """Fine-tunes bases of one shape on one mesh, and keeps compiled programs."""

    def __init__(self, mesh: Mesh, step: StepConfig):
        self.mesh, self._step = mesh, step
        self._compiled: dict[Hashable, _Program] = {}

    def run(
        self,
        base: str,
        recipe: Recipe,
        data: Stream,
        optimizer: OptimizerConfig,
        volumes: Sequence[int],
        *,
        seed: int,
        stopped: Stopped,
    ) -> Iterator[TunedSnapshot]:
        """Trains, and yields the model at every volume; its weights are invalid once the run continues.

        Args:
          base: the base's folder.
          recipe: what is trained on top of it, and how it is balanced.
          data: the batches.
          optimizer: its schedule ends with the data.
          volumes: numbers of samples after which to yield the model.
          stopped: returns true to end before the next step.
          seed: seed of new weights and dropout.
        Returns: snapshots, in order of volume.
        """
        model = load_model(base, recipe.adapter, recipe.experts, recipe.lora, self.mesh, seed=seed)
        weights = model.lm.weights
        program = self._program(model, recipe, optimizer, data.most_targets)
        share = share_of_batch(self.mesh, data.batches[0].tokens.shape[0])
        rate = schedule(optimizer, len(data.batches))
        trainable, optimizer_state = weights.trainable, program.start(weights.trainable)
        counts = layer_experts(model.abstract)
        routing = program.empty()
        root, losses = jax.random.key(seed), []
        waiting = sorted(volumes)
        for number, (batch, seen) in enumerate(zip(data.batches, data.seen, strict=True)):
            if stopped():
                raise StoppedError
            now = jnp.float32(rate(number)), jax.random.fold_in(root, number)
            placed = place_batch(batch, self.mesh, share)
            trainable, optimizer_state, routing, loss = program.step(
                trainable, optimizer_state, routing, weights.frozen, placed, *now
            )
            losses.append(loss)
            if number == 0:
                keep_memory()
            if waiting and seen >= waiting[0]:
                rows = telemetry.report(jax.device_get(routing), counts)
                lm = _with(model, trainable, recipe.balance)
                yield TunedSnapshot(waiting.pop(0), seen, lm, float(np.mean(jax.device_get(losses))), rows)
                routing, losses = program.empty(), []
            if not waiting:
                return

    def _program(
        self, model: TrainableModel, recipe: Recipe, optimizer: OptimizerConfig, most_targets: int
    ) -> "_Program":
        key = (model.lm.config, model.lm.experts, recipe.balance, replace(optimizer, lr=0.0), most_targets)
        if key not in self._compiled:
            step = replace(self._step, most_targets=most_targets)
            self._compiled[key] = _make_program(model, recipe.balance, optimizer, step, self.mesh)
        return self._compiled[key]


def _directions(config: OptimizerConfig) -> optax.GradientTransformation:
    """AdamW's update directions; the caller applies the rate."""
    clip = optax.identity() if config.clip_norm is None else optax.clip_by_global_norm(config.clip_norm)
    return optax.chain(clip, optax.scale_by_adam(config.b1, config.b2, config.eps), decay(config))


Sums = dict[str, telemetry.RoutingSums]


class _Program(NamedTuple):
    """A compiled step, and functions that make its first optimizer state and empty routing sums."""

    step: Callable[..., tuple[params.Params, PyTree, Sums, jax.Array]]
    start: Callable[[params.Params], PyTree]
    empty: Callable[[], Sums]


def _make_program(
    model: TrainableModel, balance: BalanceConfig, optimizer: OptimizerConfig, config: StepConfig, mesh: Mesh
) -> _Program:
    """Gives every argument its sharding, so that the program compiled by the first step serves all others."""
    parts = params.split(model.abstract, model.train)
    gradient = make_gradient(model.abstract, parts.definition, config, balance, mesh)
    dropout = model.lm.experts is not None and model.lm.experts.dropout > 0
    adam = _directions(optimizer)

    def step(trainable, optimizer_state, routing, frozen, batch, rate, key):
        found, grads = gradient(trainable, frozen, batch, key if dropout else None)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes integer counters with floats
            directions, optimizer_state = adam.update(grads, optimizer_state, trainable)
        trainable = jax.tree.map(lambda w, d: w - rate * d, trainable, directions)
        loss = found.negative_logprob / jnp.maximum(batch.loss_mask[:, 1:].sum(), 1.0)
        return trainable, optimizer_state, jax.tree.map(jnp.add, routing, found.routing), loss

    everywhere = params.replicated(mesh)
    trainable, frozen = params.shardings(model.abstract, mesh, model.train)
    optimizer_state = optimizer_shardings(adam, parts.trainable, trainable, everywhere)
    zeros = telemetry.zeros(layer_experts(model.abstract))
    state = (trainable, optimizer_state, jax.tree.map(lambda _: everywhere, zeros))
    compiled = jax.jit(
        step,
        donate_argnums=(0, 1, 2),
        in_shardings=(*state, frozen, params.batch_sharding(mesh), everywhere, everywhere),
        out_shardings=(*state, everywhere),
    )
    start = jax.jit(adam.init, out_shardings=optimizer_state)
    return _Program(compiled, start, lambda: jax.device_put(zeros, everywhere))


def _with(model: TrainableModel, trainable: params.Params, balance: BalanceConfig) -> LanguageModel:
    return replace(model.lm, weights=model.lm.weights._replace(trainable=trainable), balance=balance)
