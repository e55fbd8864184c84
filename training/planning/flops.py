"""Floating-point operations of a training step, by arithmetic: XLA counts the body of a scan once.

A product of [n, i] with [i, o] counts 2 n i o. Attention is counted over the causal half.
"""

from typing import NamedTuple

from jaxmoe.adapters.record import projection_sizes
from jaxmoe.model.config import EXPERT_BLOCK, ExpertConfig, ModelConfig
from jaxmoe.model.params import Train
from jaxmoe.model.transformer import Remat


class Flops(NamedTuple):
    """Operations of one step over the whole batch.

    Attributes:
      model: forward and backward, each done once: what model FLOPs utilisation (MFU) counts.
      recomputed: what the backward pass does again, because that is cheaper than keeping it.
    """

    model: float
    recomputed: float


def weights_used(config: ModelConfig) -> int:
    """Weights of a layer that a token meets: in a mixture of experts, those of the experts that it uses."""
    shapes = projection_sizes(config)
    moe = config.moe
    if moe is None:
        return sum(i * o for i, o in shapes.values())
    attention = sum(i * o for name, (i, o) in shapes.items() if name != EXPERT_BLOCK)
    router = moe.num_experts + (1 if moe.shared_size else 0)
    inner = 3 * (moe.experts_per_token * moe.expert_size + moe.shared_size)
    return attention + config.hidden_size * (router + inner)


def step_flops(
    config: ModelConfig, experts: ExpertConfig | None, train: Train, batch: int, length: int, remat: Remat
) -> Flops:
    """Operations of a step over `batch` rows of `length` tokens.

    Backward passes of frozen products cost one product (to the input), of trained ones two.

    Args:
      experts: added to the base; None for none.
      train: whether all weights are trained or the experts alone.
      batch: rows of the global batch.
      remat: what the backward pass recomputes.
    Returns: floating-point operations on all devices together.
    """
    tokens, layers = batch * length, config.num_layers
    shapes = projection_sizes(config)
    products = 2.0 * tokens * layers * weights_used(config)
    head = 2.0 * tokens * config.hidden_size * config.vocab_size
    attention = (
        layers * 2.0 * tokens * length * config.num_heads * config.head_dim
    )  # q kᵀ and p v, causal half
    low_rank = 0.0
    if experts is not None:
        for name, (i, o) in shapes.items():
            counts, ranks = experts.layer_counts(layers), experts.layer_ranks(layers)
            present = experts.layers_with(name, layers)
            for count, rank, here in zip(counts, ranks, present, strict=True):
                low_rank += here * 2.0 * tokens * count * (rank * (i + o) + i)
    factor = 3 if train == "all" else 2
    model = factor * (products + head) + 3 * (attention + low_rank)
    block = {"none": 0.0, "dots": attention, "full": products + attention + low_rank}[remat]
    return Flops(model, block)
