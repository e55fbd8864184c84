"""One decoder block, in all layers: attention and feed-forward with their norms."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import nnx

from jaxmoe.model.config import ATTENTION_PROJECTIONS, EXPERT_BLOCK, MLP_PROJECTIONS, ModelConfig, NormPlaces
from jaxmoe.model.layers import Attention, DecoderNorm, FeedForward, Linear, Rotation, Statistics
from jaxmoe.model.lora_experts import ExpertCall
from jaxmoe.model.moe import ExpertGroup, MoeFeedForward
from jaxmoe.model.shapes import Array, Float, PyTree

# Queries [B, T, N, H], keys and values [B, T, M, H], sinks [N] or None -> attention's output [B, T, N, H],
# and what to keep
Mixer = Callable[[Array, Array, Array, Array | None], tuple[Array, PyTree]]


class Block(nnx.Module):
    """x + attention(norm x), then x + feed_forward(norm x); the norms also, or instead, after both parts.

    `input_norm` and `post_norm` come before attention and feed-forward, `attention_norm` and `mlp_norm` after
    them. A parallel block has only `input_norm`.
    """

    def __init__(self, config: ModelConfig, std: float, *, rngs: nnx.Rngs):
        def norm(place: NormPlaces) -> DecoderNorm | None:
            return (
                DecoderNorm(config, config.hidden_size, config.num_layers) if config.norms != place else None
            )

        self.input_norm = norm("output")
        self.self_attn = Attention(config, std, rngs=rngs)
        self.attention_norm = norm("input")
        self.post_norm = None if config.parallel else norm("output")
        self.parallel, self.scale = config.parallel, config.residual_scale
        self.mlp = (
            FeedForward(config, std, rngs=rngs)
            if config.moe is None
            else MoeFeedForward(config, config.moe, std, rngs=rngs)
        )
        self.mlp_norm = norm("input")

    def __call__(
        self, x_BTD: Float[Array, "B T D"], turn: Rotation, mixer: Mixer, call: ExpertCall
    ) -> tuple[Float[Array, "B T D"], Statistics, PyTree]:
        """The block's output, its routers' statistics, and what the mixer keeps of keys and values."""
        normed = _normed(self.input_norm, x_BTD)
        query, key, value, collected = self.self_attn.heads(normed, turn, call)
        sinks = self.self_attn.sinks
        mixed, kept = mixer(query, key, value, None if sinks is None else sinks[...])
        mixed, more = self.self_attn.output(mixed, call)
        mixed = self._scaled(_normed(self.attention_norm, mixed))
        after = x_BTD + mixed
        out, last = self.mlp(normed if self.parallel else _normed(self.post_norm, after), call)
        out = self._scaled(_normed(self.mlp_norm, out))
        return after + out, collected | more | last, kept

    def _scaled(self, added: Array) -> Array:
        return added if self.scale == 1.0 else added * jnp.asarray(self.scale, added.dtype)


def _normed(norm: DecoderNorm | None, x: Array) -> Array:
    return x if norm is None else norm(x)


def projections(block: Block) -> Sequence[tuple[str, Linear | ExpertGroup]]:
    """Everything in a block to which experts can be attached, by name."""
    parts = [(name, getattr(block.self_attn, name)) for name in ATTENTION_PROJECTIONS]
    if isinstance(block.mlp, MoeFeedForward):
        return [*parts, (EXPERT_BLOCK, block.mlp.group)]
    return [*parts, *((name, getattr(block.mlp, name)) for name in MLP_PROJECTIONS)]
