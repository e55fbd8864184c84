"""The decoder: embedding, scanned blocks, final norm, head.

`Decoder` defines the model. Training and serving run it as a pure function: split it once into a graph
definition and plain dictionaries (`jaxmoe.model.params`), merge inside the jitted function, call.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from jaxmoe.model import attention_kernels
from jaxmoe.model.attention import AttentionMask, soft_cap
from jaxmoe.model.attention_kernels import KernelChoice
from jaxmoe.model.block import Block, projections
from jaxmoe.model.config import ExpertConfig, ModelConfig
from jaxmoe.model.layers import BaseParam, DecoderNorm, Linear, Statistics, rotations
from jaxmoe.model.lora_experts import ExpertCall, LoraExperts
from jaxmoe.model.mesh import row_axes
from jaxmoe.model.products import product
from jaxmoe.model.shapes import Array, Float, Int
from jaxmoe.model.transposed import transposed_product

Remat = Literal["none", "dots", "full"]


class KeyValues(NamedTuple):
    """Rotated keys, and values, of S slots; with a leading [L] for all layers."""

    key_BSMH: Float[Array, "B S M H"]
    value_BSMH: Float[Array, "B S M H"]


class Head(NamedTuple):
    """The output projection D -> V, with the cap and the scale of its logits."""

    kernel_DV: Float[Array, "D V"]
    cap: float | None = None
    scale: float = 1.0

    def logits(self, hidden_BTD: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Scores of the next token, float32."""
        return self._scaled(product(hidden_BTD, self.kernel_DV, jnp.float32))

    def few_logits(self, hidden_BD: Float[Array, "B D"]) -> Float[Array, "B V"]:
        """`logits` of one token per row, by the fastest way on a CPU if the kernel is a tied embedding.

        Args:
          hidden_BD: final hidden states.
        Returns: scores of the next tokens, float32.
        """
        return self._scaled(transposed_product(hidden_BD, self.kernel_DV.T, jnp.float32))

    def _scaled(self, logits: Array) -> Array:
        return soft_cap(logits if self.scale == 1.0 else logits * self.scale, self.cap)


class DecoderOutput(NamedTuple):
    """Final hidden states (after the last norm); of all layers, router statistics and what was kept."""

    hidden_BTD: Float[Array, "B T D"]
    statistics: Statistics
    kept: KeyValues | None


class Decoder(nnx.Module):
    """A Llama-like causal language model.

    Args:
      std: standard deviation of the initial weights; residual outputs start smaller by √(2L) (GPT-2).
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs, std: float = 0.02):
        self.config = config
        shape = (config.vocab_size, config.hidden_size)
        self.embedding = BaseParam(jax.random.normal(rngs.params(), shape) * std, axes=("vocab", "embed"))
        self.blocks = Block(config, std, rngs=rngs)
        self.norm = DecoderNorm(config, config.hidden_size, None)
        self.head = (
            None
            if config.tie_embeddings
            else BaseParam(jax.random.normal(rngs.params(), shape[::-1]) * std, axes=("embed", "vocab"))
        )

    def __call__(
        self,
        tokens_BT: Int[Array, "B T"],
        positions_BT: Int[Array, "B T"],
        mask: AttentionMask | attention_kernels.Attend,
        *,
        dtype: DTypeLike = jnp.float32,
        call: ExpertCall = ExpertCall(),  # noqa: B008 - an immutable tuple
        keep: bool = False,
        attention: KernelChoice = "auto",
        mesh: Mesh | None = None,
        remat: Remat = "none",
        scan_layers: bool = True,
    ) -> DecoderOutput:
        """Runs the blocks over T tokens.

        Args:
          positions_BT: position in the text, for the rotary embedding.
          mask: who sees whom; or a function that mixes, replacing `attention`'s kernels.
          dtype: of activations and products.
          keep: return every layer's keys and values, from which decoding continues.
          attention: the kernel; "auto" takes the fastest for the mesh's platform (see `attention_kernels`).
          remat: what the backward pass recomputes: nothing, all but matrix products, or whole blocks.
          mesh: where this will run; None is a single device of the default backend. Activations are kept
            split by rows, so that weights are gathered layer by layer (FSDP); otherwise XLA may split the
            model width and add up activations of the whole batch instead.
        """
        config, count = self.config, self.config.num_layers
        turns = rotations(config, positions_BT, dtype)
        hidden = by_rows(self.embed(tokens_BT, dtype), mesh)
        if callable(mask):
            attend = mask
        else:
            length, cap = tokens_BT.shape[1], config.attention_cap
            kernel = attention_kernels.choose(
                attention, mesh, dtype, config.head_dim, length, cap, config.attention_sinks
            )
            attend = attention_kernels.by_layer(kernel, mask, config.layer_windows, mesh, cap)
        definition, blocks = nnx.split(self.blocks)

        def layer(hidden, inputs):
            index, state = inputs
            block = nnx.merge(definition, state)
            key = None if call.dropout_key is None else jax.random.fold_in(call.dropout_key, index)

            def mixer(query, key, value, sinks):
                return attend(index, query, key, value, sinks), KeyValues(key, value) if keep else None

            hidden, collected, kept = block(
                hidden, turns(index), mixer, dataclasses.replace(call, dropout_key=key, mesh=mesh)
            )
            return by_rows(hidden, mesh), (collected, kept)

        if remat != "none":
            policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "dots" else None
            layer = jax.checkpoint(layer, policy=policy, prevent_cse=not scan_layers)
        inputs = (jnp.arange(count), blocks)
        hidden, (collected, kept) = jax.lax.scan(layer, hidden, inputs, unroll=1 if scan_layers else count)
        return DecoderOutput(self.norm(hidden), collected, kept)

    def embed(self, tokens: Int[Array, "*L"], dtype: DTypeLike) -> Float[Array, "*L D"]:
        """The first hidden states of tokens, for training and decoding alike.

        Args:
          dtype: of activations.
        Returns: rows of the embedding.
        """
        rows = self.embedding[...].astype(dtype)[tokens]
        scale = self.config.embedding_scale
        return rows if scale == 1.0 else rows * jnp.asarray(scale, dtype)

    def output_head(self, dtype: DTypeLike = jnp.float32, mesh: Mesh | None = None) -> Head:
        """The output projection; the embedding's transpose if tied. On a mesh it is gathered once over fsdp.

        Args:
          dtype: of the kernel.
          mesh: None on one device.
        Returns: the projection, its kernel an array.
        """
        kernel = self.embedding[...].astype(dtype).T if self.head is None else self.head[...].astype(dtype)
        if mesh is not None and kernel.shape[1] % mesh.shape["tensor"] == 0:
            columns = NamedSharding(mesh, PartitionSpec(None, "tensor"))
            kernel = jax.lax.with_sharding_constraint(kernel, columns)
        return Head(kernel, self.config.logit_cap, self.config.logit_scale)

    def logits(self, hidden_BTD: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Scores of the next token, float32."""
        return self.output_head(hidden_BTD.dtype).logits(hidden_BTD)


def by_rows(hidden_BTD: Float[Array, "B T D"], mesh: Mesh | None) -> Float[Array, "B T D"]:
    """Activations split along the batch over the axes of batches, if they divide it.

    Args:
      hidden_BTD: activations.
      mesh: None leaves them as they are.
    Returns: the same values.
    """
    axes = None if mesh is None else row_axes(mesh, hidden_BTD.shape[0])
    if mesh is None or axes is None:
        return hidden_BTD
    return jax.lax.with_sharding_constraint(hidden_BTD, NamedSharding(mesh, PartitionSpec(axes)))


def attach_experts(model: Decoder, config: ExpertConfig, *, rngs: nnx.Rngs) -> None:
    """Puts LoRA experts on every projection that `config.targets` names.

    Before: blocks.mlp.up_proj {kernel}. After: blocks.mlp.up_proj {kernel, experts {a, b, router, scale}};
    with DoRA also `magnitude`.

    Args:
      model: changed in place.
      config: of the experts.
      rngs: whose `params` stream draws A and the router; B is zero.
    Raises: ValueError for a target that matches nothing.
    """
    layers = model.config.num_layers
    config.check_targets(model.config)
    for name, linear in projections(model.blocks):
        present = config.layers_with(name, layers)
        if any(present):
            kernel = linear.kernel.get_raw_value() if isinstance(linear, Linear) else None
            linear.experts = LoraExperts(linear.shape, linear.axes, config, present, rngs=rngs, kernel=kernel)
