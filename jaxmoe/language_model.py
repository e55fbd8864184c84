"""A loaded model to call: logits, balance loss, generation."""

import dataclasses
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from numpy.typing import ArrayLike

from jaxmoe.generation.decode import (
    DecodeConfig,
    PromptBatch,
    bucket,
    check_growth,
    run,
    unroll_layers,
)
from jaxmoe.generation.sampling import Sampling
from jaxmoe.model import params
from jaxmoe.model.attention import AttentionMask
from jaxmoe.model.balance import BalanceConfig, balance_loss
from jaxmoe.model.block import projections
from jaxmoe.model.config import ExpertConfig, ModelConfig
from jaxmoe.model.lora_experts import ExpertCall
from jaxmoe.model.mesh import batch_ways
from jaxmoe.model.shapes import Array, Float, Int
from jaxmoe.model.transformer import Decoder
from jaxmoe.text.stop_tokens import checkpoint_stop_tokens


class CausalOutput(NamedTuple):
    """Next-token scores, and the balance loss with its weight applied (0 without task types or a router)."""

    logits: Float[Array, "B T V"]
    balance_loss: Float[Array, ""]


def layer_experts(model: Decoder) -> dict[str, tuple[int, ...]]:
    """How many experts each layer has, for each projection with a router."""
    return {
        name: linear.experts.counts
        for name, linear in projections(model.blocks)
        if linear.experts is not None and linear.experts.router is not None
    }


def check_ids(tokens_BT: np.ndarray, mask_BT: np.ndarray, vocab_size: int) -> None:
    """Refuses ids that the embedding has no row for: on a device they would silently read another row.

    Args:
      tokens_BT: token ids.
      mask_BT: 1 for real tokens; the others may be anything.
    Raises: ValueError, naming the first such id and its place.
    """
    outside = (mask_BT > 0) & ((tokens_BT < 0) | (tokens_BT >= vocab_size))
    if outside.any():
        row, place = (int(i) for i in np.argwhere(outside)[0])
        raise ValueError(
            f"token ids must lie between 0 and {vocab_size - 1}, the vocabulary's last; got "
            f"{int(tokens_BT[row, place])} at [{row}, {place}] of input_ids: take the model's own tokenizer, "
            "or load the model with resize_vocab"
        )


def positions_from_mask(mask_BT: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Text positions: the first real token and any padding before it are 0; padding after the text counts on.

    So right-padded rows have positions 0, 1, .. T-1, as in Hugging Face's models when none are given.
    """
    first_B = jnp.argmax(mask_BT > 0, axis=1)
    return jnp.maximum(jnp.arange(mask_BT.shape[1])[None, :] - first_B[:, None], 0)


class Generation(NamedTuple):
    """Prompts with their continuations; P prompts times G samples make B rows, a prompt's samples adjacent.

    Attributes:
      tokens: [B, T + N] int32: the prompt as given, the new tokens (N in the longest row), then padding.
      logprobs: [B, N] log-probability of each new token under the model as it is (temperature 1, whole
        vocabulary, regardless of the sampling); 0 after a row's end.
      lengths: [B] number of new tokens in each row, its stop token included.
    """

    tokens: np.ndarray
    logprobs: np.ndarray
    lengths: np.ndarray


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A causal language model with or without LoRA experts, its weights placed on a mesh.

    Attributes:
      weights: the definition, the trainable part and the frozen part (`jaxmoe.model.params`).
      dtype: of activations and products.
      source: folder of the base checkpoint; its tokenizer and generation config are included in exports.
      replaced: checkpoint names of the base weights that differ from the checkpoint, because an adapter
        replaced them or the vocabulary was resized; a saved adapter includes them.
    """

    config: ModelConfig
    weights: params.ModelParams
    mesh: Mesh
    experts: ExpertConfig | None = None
    balance: BalanceConfig = dataclasses.field(default_factory=BalanceConfig)
    dtype: DTypeLike = jnp.float32
    source: Path | None = None
    replaced: tuple[str, ...] = ()

    @cached_property
    def stop_tokens(self) -> tuple[int, ...]:
        """The end tokens that config.json and generation_config.json name, in ascending order."""
        return checkpoint_stop_tokens(self.source, self.config.eos_token_id)

    def __call__(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        task_types: ArrayLike | None = None,
    ) -> CausalOutput:
        """Scores of every next token.

        Args:
          input_ids: [B, T] token ids.
          attention_mask: [B, T], 1 for real tokens; padding may be on either side.
          task_types: [B], 1 for closed-book questions, 0 for other tasks; without it the balance loss is 0.
        Returns: logits [B, T, V] in float32, and the balance loss with its weight applied.
        Raises: ValueError if the shapes disagree, or an id lies outside the vocabulary.
        """
        tokens, mask = _ids_and_mask(input_ids, attention_mask, self.config.vocab_size)
        types = None if task_types is None else np.asarray(task_types, np.int32)
        if types is not None and types.shape != tokens.shape[:1]:
            raise ValueError(f"task_types must have one entry a row ({tokens.shape[0]}); got {types.shape}")
        run = partial(_forward, self.weights.definition, self.dtype, self.balance)
        return run(self.weights.trainable, self.weights.frozen, tokens, mask, types)

    def generate(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        max_new_tokens: int | np.ndarray = 32,
        temperature: float = 0.0,
        top_p: float = 1.0,
        key: Array | None = None,
        *,
        top_k: int = 0,
        samples_per_prompt: int = 1,
        stop_tokens: tuple[int, ...] | None = None,
        experts: bool = True,
    ) -> Generation:
        """Continues each row of `input_ids` until a stop token or `max_new_tokens`.

        Args:
          input_ids: [P, T] prompts, padded on the left.
          attention_mask: [P, T], 1 for real tokens; None if there is no padding.
          max_new_tokens: a number, or one for each prompt.
          temperature, top_k, top_p: see `Sampling`; 0 is greedy and needs no key.
          key: the same key and prompts give the same tokens; another key gives others.
          samples_per_prompt: G continuations of each prompt, which is read once; those of prompt p are rows
            p·G .. p·G + G - 1.
          stop_tokens: None takes the model's (`LanguageModel.stop_tokens`), () never stops early.
          experts: False generates with the base model alone.
        Returns: prompts with their continuations, log-probabilities and lengths.
        Raises: ValueError for shapes that disagree, padding on the right, ids outside the vocabulary,
          settings out of range, a missing key, a text that would grow past LongRoPE's original length.
        """
        tokens, mask = _ids_and_mask(input_ids, attention_mask, self.config.vocab_size)
        _check_prompts(tokens, mask, samples_per_prompt)
        limits = np.broadcast_to(np.asarray(max_new_tokens, np.int32), tokens.shape[:1])
        if limits.min() < 1:
            raise ValueError(f"max_new_tokens must be at least 1; got {max_new_tokens}")
        check_growth(self.config, int((mask > 0).sum(1).max()), int(limits.max()))
        ends = self.stop_tokens
        pad = self.config.pad_token_id
        config = DecodeConfig(
            slots=bucket(int(limits.max()), 16),
            sampling=Sampling(temperature, top_k, top_p),
            samples=samples_per_prompt,
            stop_tokens=ends if stop_tokens is None else tuple(stop_tokens),
            pad_token=pad if pad is not None else ends[0] if ends else 0,
            unrolled=unroll_layers(self.mesh),
            enabled=experts,
            dtype=self.dtype,
        )
        prompts = _padded(self.mesh, tokens, mask, limits, samples_per_prompt)
        done = jax.device_get(run(self.weights, prompts, key, config=config, mesh=self.mesh))
        kept = len(tokens) * samples_per_prompt
        lengths = done.lengths_B[:kept]
        steps = int(lengths.max())
        given = np.repeat(tokens, samples_per_prompt, axis=0)
        return Generation(
            np.concatenate([given, done.tokens_BW[:kept, :steps]], axis=1),
            done.logprobs_BW[:kept, :steps],
            lengths,
        )

    @classmethod
    def random(
        cls,
        config: ModelConfig,
        experts: ExpertConfig | None = None,
        mesh: Mesh | None = None,
        *,
        train: params.Train = "experts",
        seed: int = 0,
    ) -> "LanguageModel":
        """A model with random weights, for trying things out.

        Args:
          config: its shape.
          experts: to attach; none if not given.
          mesh: where the weights go; one device if not given.
          train: which part of the weights becomes `weights.trainable`.
          seed: of the weights.
        Returns: the model, float32 throughout.
        Raises: ValueError for an expert target that matches nothing, and for a mesh whose axis expert does
          not divide the base's experts.
        """
        mesh = params.single_device_mesh() if mesh is None else mesh
        params.check_expert_axis(config, mesh)
        abstract = params.abstract(config, experts)
        placed = params.shardings(abstract, mesh, train)

        def weights() -> tuple[params.Params, params.Params]:
            parts = params.split(params.build(config, experts, seed=seed), train)
            return parts.trainable, parts.frozen

        parts = jax.jit(weights, out_shardings=placed)()
        definition = params.split(abstract, train).definition
        return cls(config, params.ModelParams(definition, *parts), mesh, experts)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _forward(definition, dtype, balance, trainable, frozen, tokens_BT, mask_BT, task_types_B) -> CausalOutput:
    model = params.merge(params.ModelParams(definition, trainable, frozen))
    counted = jnp.ones_like(mask_BT) if balance.count_padding else mask_BT
    samples_BTZ = counted[..., None].astype(jnp.float32)
    call = ExpertCall(samples_BTZ=None if task_types_B is None else samples_BTZ)
    # every query attends, padding keys are never attended to: as in the original's padded batches
    attention = AttentionMask(jnp.ones_like(mask_BT), mask_BT)
    out = model(tokens_BT, positions_from_mask(mask_BT), attention, dtype=dtype, call=call)
    loss = jnp.zeros(())
    if task_types_B is not None and out.statistics:
        loss = balance_loss(
            out.statistics, task_types_B[:, None], samples_BTZ.sum(1), layer_experts(model), balance
        ).total
    return CausalOutput(model.logits(out.hidden_BTD), loss)


def _ids_and_mask(
    input_ids: ArrayLike, attention_mask: ArrayLike | None, vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both as int32 [B, T]; raises ValueError if the shapes disagree or an entry is not a token id."""
    try:
        given = np.asarray(input_ids)
    except ValueError as error:  # numpy's, for rows of different lengths
        raise ValueError(
            "input_ids must be rows of one length: pad shorter ones on the left and give attention_mask "
            "(tokenizer(texts, padding=True, padding_side='left'))"
        ) from error
    if given.ndim != 2 or 0 in given.shape:
        raise ValueError(f"input_ids must be [rows, length], neither 0; got shape {given.shape}")
    if given.dtype.kind not in "iu":
        raise ValueError(f"input_ids must be whole numbers; got {given.dtype}")
    mask = np.ones(given.shape, np.int32) if attention_mask is None else np.asarray(attention_mask, np.int32)
    if mask.shape != given.shape:
        raise ValueError(f"attention_mask must have input_ids' shape {given.shape}; got {mask.shape}")
    check_ids(given, mask, vocab_size)
    return given.astype(np.int32), mask


def _check_prompts(tokens: np.ndarray, mask: np.ndarray, samples: int) -> None:
    if not mask[:, -1].all():
        row = int(np.argmin(mask[:, -1]))
        raise ValueError(f"prompts must be padded on the left; row {row} of attention_mask ends in 0")
    if samples < 1:
        raise ValueError(f"samples_per_prompt must be at least 1; got {samples}")


def _padded(
    mesh: Mesh, tokens: np.ndarray, mask: np.ndarray, limits: np.ndarray, samples: int
) -> PromptBatch:
    """Prompts and limits on the mesh, padded to bucketed sizes; padding rows may generate nothing."""
    ways = batch_ways(mesh)
    more = ways * bucket(-(-len(tokens) // ways)) - len(tokens)
    left = bucket(tokens.shape[1], 16) - tokens.shape[1]
    tokens, mask = (np.pad(x, ((0, more), (left, 0))) for x in (tokens, mask))
    limits = np.repeat(np.pad(limits, (0, more)), samples)
    return PromptBatch(*(jax.device_put(x, params.batch_sharding(mesh)) for x in (tokens, mask, limits)))
