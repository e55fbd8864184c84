"""The device side of an engine: a model's weights, the cache of its slots, and the programs that use them.

Inputs and outputs are in the host's memory.
"""

from typing import NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike

from jaxmoe.generation import engine_programs, slot_cache
from jaxmoe.generation.decode import unroll_layers
from jaxmoe.generation.engine_programs import Alternatives, PromptChunk, StepRows
from jaxmoe.generation.kv_cache import Blocks
from jaxmoe.generation.requests import MOST_ALTERNATIVES, NewToken
from jaxmoe.model import params
from jaxmoe.model.config import ModelConfig

_LEAST_ROWS = 8


class Served(Protocol):
    """What an engine needs from a model; `jaxmoe.LanguageModel` is one."""

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        ...

    @property
    def weights(self) -> params.ModelParams:
        """The model taken apart."""
        ...

    @property
    def mesh(self) -> Mesh:
        """Where the weights lie."""
        ...

    @property
    def dtype(self) -> DTypeLike:
        """The dtype of activations and products."""
        ...


class Scored(NamedTuple):
    """How likely N tokens were.

    Attributes:
      logprobs_N: in nats.
      alternatives: the likeliest tokens at their positions; None if none were asked for.
      experts_NE: each expert's share of the routing weights; None if not asked for, or without routers.
      drawn_logprobs_N: of the draws; None if they were not asked for.
    """

    logprobs_N: np.ndarray
    alternatives: Alternatives | None
    experts_NE: np.ndarray | None = None
    drawn_logprobs_N: np.ndarray | None = None

    def token(self, id: int, place: int, alternatives: int, experts: slice = slice(0)) -> NewToken:
        """One of the tokens.

        Args:
          id: of the token.
          place: among the N.
          alternatives: how many to report with it.
          experts: those whose shares are reported.
        Returns: the token with its log-probability.
        """
        beside = self.alternatives.of(place, alternatives) if self.alternatives else ()
        shares = () if self.experts_NE is None else self.experts_NE[place, experts]
        drawn = None if self.drawn_logprobs_N is None else float(self.drawn_logprobs_N[place])
        return NewToken(id, float(self.logprobs_N[place]), beside, tuple(map(float, shares)), drawn)


class ModelRunner:
    """Runs an engine's programs.

    Args:
      lm: the model.
      slots: texts at a time.
      length: initial number of positions of each slot.
      unrolled: one buffer per layer, fastest on CPU, or stacked ones; None takes what suits the platform
        best.
    """

    def __init__(self, lm: Served, slots: int, length: int, *, unrolled: bool | None = None):
        self._dtype = lm.dtype
        self._unrolled = unroll_layers(lm.mesh) if unrolled is None else unrolled
        self._alone = self._unrolled and lm.mesh.size == 1
        self._row_numbers = row_numbers(slots) if self._alone else (slots,)
        self._mesh = lm.mesh
        self._cache = engine_programs.empty_cache(
            lm.config, slots, length, lm.dtype, unrolled=self._unrolled, mesh=lm.mesh
        )
        self._weights = lm.weights
        self._blocks = self._layers(lm.weights)

    def take(self, weights: params.ModelParams) -> None:
        """Continues with other weights of the same shapes.

        Args:
          weights: replace the current ones.
        """
        del self._weights, self._blocks  # before room is needed for the new ones
        self._weights = weights
        self._blocks = self._layers(weights)

    def _layers(self, weights: params.ModelParams) -> Blocks:
        return engine_programs.layers(weights, unrolled=self._unrolled, transposed=self._alone)

    @property
    def length(self) -> int:
        """Positions of a slot."""
        return slot_cache.length_of(self._cache)

    def rows_for(self, texts: int) -> int:
        """Rows of the fastest step for this many texts, at most all slots."""
        return next(count for count in self._row_numbers if count >= texts)

    def resize(self, length: int) -> None:
        """Gives every slot another length; positions beyond the new end are lost."""
        self._cache = engine_programs.resized(self._cache, length, mesh=self._mesh)

    def copy(self, source: int, target: int) -> None:
        """Writes one slot's keys and values over another's.

        Args:
          source, target: numbers of the slots.
        """
        self._cache = engine_programs.copy_slot(
            self._cache, np.int32(source), np.int32(target), mesh=self._mesh
        )

    def step(
        self,
        rows: StepRows,
        alternatives: int,
        *,
        expert_weights: bool = False,
        score_draws: bool = False,
    ) -> tuple[np.ndarray, Scored]:
        """Reads the next token of every slot, or of some, and chooses the one after it.

        Args:
          rows: what is in the slots, as many as `rows_for` says.
          alternatives: the largest number that any of them asks for.
          expert_weights: also return each expert's share of the routing weights.
          score_draws: whether any of them asks for the probability with which it was drawn.
        Returns: the tokens [B], and how likely they were.
        """
        result = engine_programs.decode_step(
            self._weights,
            self._blocks,
            rows,
            self._cache,
            alternatives=_compiled_for(alternatives),
            expert_weights=expert_weights,
            score_draws=score_draws,
            dtype=self._dtype,
            mesh=self._mesh,
        )
        self._cache = result.cache
        tokens_B, logprobs_B, drawn_B, others, experts_BE = jax.device_get(result[:5])
        return tokens_B, Scored(logprobs_B, others, experts_BE, drawn_B)

    def read(self, chunk: PromptChunk, *, scored: bool, alternatives: int) -> Scored | None:
        """Reads a chunk of a prompt.

        Args:
          chunk: with the slot where the prompt is.
          scored: also take the log-probability of each token's successor.
          alternatives: number of tokens to report at each position, if scored.
        Returns: how likely those tokens were; None unless scored.
        """
        found, self._cache = engine_programs.read_chunk(
            self._weights,
            self._blocks,
            chunk,
            self._cache,
            scored=scored,
            alternatives=_compiled_for(alternatives) if scored else 0,
            dtype=self._dtype,
            mesh=self._mesh,
        )
        return None if found is None else Scored(*jax.device_get(found))


def row_numbers(slots: int) -> tuple[int, ...]:
    """Numbers of rows for which a decoding step is compiled: 8, 16, 32, .. and all slots.

    A step of 8 rows is two to three times as fast as one of 32, and fewer rows gain little. With 8 rows or
    more, a row comes out bit for bit as in a larger step.

    Args:
      slots: of the engine.
    Returns: ascending.

    >>> row_numbers(4), row_numbers(32), row_numbers(40)
    ((4,), (8, 16, 32), (8, 16, 40))
    """
    fewer: list[int] = []
    count = _LEAST_ROWS
    while 4 * count <= 3 * slots:
        fewer.append(count)
        count *= 2
    return (*fewer, slots)


def _compiled_for(alternatives: int) -> int:
    """None, one or all: three programs serve every request."""
    return alternatives if alternatives <= 1 else MOST_ALTERNATIVES
