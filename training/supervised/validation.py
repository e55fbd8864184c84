"""The loss on held-out data, in order, unpacked, without dropout or balance losses."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxmoe.model import params
from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.shapes import Array, PyTree
from jaxmoe.tokenizer import pad_id
from training.data.batches import Batch, Sample, in_order
from training.data.sources import DataConfig, encode_sources
from training.runtime.distributed import Share, fetch, place_batch
from training.runtime.model import TrainableModel
from training.supervised.step import StepConfig, TrainState, make_loss

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def held_out_samples(data: DataConfig, tokenizer: "PreTrainedTokenizerBase") -> list[Sample]:
    """The samples of data.valid, read and encoded now.

    Args:
      data: its `valid` names the data sets.
      tokenizer: of the run.
    Returns: the samples in their order.
    Raises: ValueError for data that cannot be read or encoded.
    """
    encoded = encode_sources(data.valid, data, tokenizer)
    return [sample for source in encoded for sample in source if sample is not None]


def make_validation(
    samples: list[Sample],
    data: DataConfig,
    step: StepConfig,
    tokenizer: "PreTrainedTokenizerBase",
    model: TrainableModel,
    share: Share,
) -> Callable[[TrainState], dict[str, float]]:
    """Builds the function that measures the held-out loss.

    Args:
      samples: from `held_out_samples`.
      data: how they become batches.
      share: which rows of each batch this process feeds.
    Returns: state -> {"loss": mean −log p of a target token (nats), "targets": their number}.
    """
    mesh, weights = model.lm.mesh, model.lm.weights
    loss = make_loss(model.abstract, step, BalanceConfig(weight=0.0), model.lm.mesh)

    @jax.jit
    def score(trainable: PyTree, frozen: PyTree, batch: PyTree) -> Array:
        parts = loss(weights.definition, trainable, frozen, batch, None)
        sums = jnp.stack([parts.negative_logprob, batch.loss_mask[:, 1:].sum()])
        return jax.lax.with_sharding_constraint(sums, params.replicated(mesh))

    def validate(state: TrainState) -> dict[str, float]:
        pad = pad_id(tokenizer)
        scores = []
        for batch in in_order(samples, data.batch_size, data.lengths, pad_id=pad):
            rows = batch.tokens.shape[0] // share.count
            mine = Batch(*(array[share.index * rows : (share.index + 1) * rows] for array in batch))
            scores.append(score(state.trainable, weights.frozen, place_batch(mine, mesh, share)))
        total, targets = np.sum(fetch(scores), axis=0)
        return {"loss": float(total / max(targets, 1.0)), "targets": float(targets)}

    return validate
