"""Responses through the slots of an engine: one that ends makes room for the next and is handed on at once.

rl.stepcoder.sampler decodes all responses of a round together, until the longest ends. Here few rows are
wasted whatever the lengths, and programs are graded while others are written; a step costs the host more. The
random numbers of a response follow from the round's key and its own number, so they do not depend on what is
decoded alongside it. Every process decodes the same tokens: the engine's programs run over the mesh.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike

from jaxmoe.generation.decode import bucket
from jaxmoe.generation.engine import Engine, EngineConfig
from jaxmoe.generation.requests import Completion, NewToken, Request
from jaxmoe.generation.sampling import Sampling
from jaxmoe.model import params
from jaxmoe.model.config import ModelConfig
from jaxmoe.model.mesh import batch_ways
from jaxmoe.model.shapes import PyTree
from jaxmoe.model.transformer import Decoder
from rl.feedback.prompts import PromptForm, extract
from rl.policy.trajectory import Rollout
from rl.stepcoder.program_end import answer_tokens, is_over
from rl.stepcoder.prompts import ResponseDecoder
from rl.stepcoder.rollouts import OnRow, RolloutConfig, RolloutTask, Sampled, SampledRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# prompt tokens that are read at once, if prompts may be that long
CHUNK = 256


class Policy(NamedTuple):
    """What an engine needs from a model."""

    config: ModelConfig
    weights: params.ModelParams
    mesh: Mesh
    dtype: DTypeLike


class _Ended(NamedTuple):
    """A response, as tokens and as text."""

    done: Completion
    row: SampledRow


class EngineSampler:
    """Samples responses with the weights it is given; one thread at a time.

    Args:
      definition: of the policy's decoder.
      mesh: on which the weights are placed.
      tokenizer: a fast one, of the policy.
      stop_tokens: a response ends with the first of these.
      pad_token: fills empty positions.
      dtype: of activations.
    """

    def __init__(
        self,
        definition: nnx.GraphDef[Decoder],
        mesh: Mesh,
        tokenizer: "PreTrainedTokenizerBase",
        stop_tokens: tuple[int, ...],
        pad_token: int,
        dtype: DTypeLike,
    ):
        self._definition, self._mesh = definition, mesh
        self._stop, self._pad, self._dtype = stop_tokens, pad_token, dtype
        self._decode = ResponseDecoder(tokenizer)
        self._engine: Engine | None = None

    def sample(
        self,
        policy: params.Params,
        frozen: params.Params,
        tasks: list[RolloutTask],
        config: RolloutConfig,
        *,
        samples: int,
        sampling: Sampling,
        key: jax.Array,
        for_learning: bool = True,
        spare_slot: bool = False,
        any_number: bool = False,
        on_row: OnRow | None = None,
    ) -> Sampled:
        """Draws `samples` responses to each task, a task's adjacent; each prompt is read once.

        Args:
          policy: trained part of the policy's weights.
          frozen: the rest.
          tasks: prompts with their limits.
          config: sizes of a round.
          samples: of each task.
          key: of the random numbers.
          sampling: how tokens are drawn; not necessarily the config's.
          for_learning: also take the log-probabilities with which tokens were drawn.
          spare_slot: leave a slot after the longest response, for the value there.
          any_number: whether the number of tasks varies between calls; irrelevant here.
          on_row: called with each response as soon as it ends, while others are still decoded.
        Returns: the rollout as arrays, and each response as text.
        """
        began = time.perf_counter()
        engine = self._ready(params.ModelParams(self._definition, policy, frozen), tasks, config)
        before = engine.statistics.decoded, engine.statistics.wasted
        first_seed = int(jax.random.bits(key, dtype=np.uint32))
        numbers: dict[int, int] = {}
        # the longest first, so that none is left to run alone at the end; a task's samples share its prompt
        for i in sorted(range(len(tasks)), key=lambda i: -tasks[i].limit):
            for number in range(i * samples, (i + 1) * samples):
                request = Request(
                    tasks[i].prompt.ids,
                    tasks[i].limit,
                    sampling,
                    seed=(first_seed + number) % 2**32,
                    stop_tokens=self._stop,
                    score_draws=for_learning,
                    on_token=self._end_of(tasks[i], config.prompt_form),
                )
                numbers[engine.submit(request)] = number
        ended: dict[int, _Ended] = {}
        while not engine.idle:
            for id, done in engine.step().items():
                number = numbers[id]
                row = self._read(tasks[number // samples], done.tokens, config.prompt_form)
                ended[number] = _Ended(done, row)
                if on_row is not None:
                    on_row(number, row)
        decoded = engine.statistics.decoded - before[0]
        wasted = engine.statistics.wasted - before[1]
        ordered = [ended[number] for number in range(len(tasks) * samples)]
        rollout = self._arrays(tasks, ordered, config, for_learning, spare_slot)
        return Sampled(
            rollout,
            np.asarray([self._truncated(one) for one in ordered]),
            [one.row for one in ordered],
            decoded - int(rollout.response_mask_BW.sum()),
            time.perf_counter() - began,
            wasted=wasted / (wasted + decoded),
        )

    def _ready(self, weights: params.ModelParams, tasks: list[RolloutTask], config: RolloutConfig) -> Engine:
        """The engine with these weights, as if it were new: a round depends on nothing before it."""
        longest = max(len(task.prompt.ids) + task.limit for task in tasks)
        told = (config.turns - 1) * config.told_tokens
        usual = config.prompt_tokens + config.turns * config.response_tokens + told
        shape = self._shape(max(usual, longest), config)
        if self._engine is not None and self._engine.config == shape:
            self._engine.update(weights)
        else:
            self._engine = None  # before room is needed for a new one
            model = params.merge(weights).config
            self._engine = Engine(Policy(model, weights, self._mesh, self._dtype), shape)
        return self._engine

    def _shape(self, max_length: int, config: RolloutConfig) -> EngineConfig:
        ways = batch_ways(self._mesh)
        slots = -(-min(config.slots, config.prompts * config.samples) // ways) * ways
        chunk = min(CHUNK, bucket(config.prompt_tokens))
        sizes, size = [], bucket(config.smallest_bucket)
        while size < max_length + chunk:
            sizes.append(size)
            size *= 2
        # nobody waits for a single response, so empty slots are filled before the next step
        return EngineConfig(slots, max_length, chunk, chunks=slots, sizes=tuple(sizes))

    def _end_of(self, task: RolloutTask, form: PromptForm) -> Callable[[NewToken], bool] | None:
        """Tells at each new token whether the response has gone past its program; None if it never shows.

        A check costs the host about a millisecond, so only a line that is not indented triggers one.
        """
        if form != "completion" and not task.prompt.given:
            return None
        ids: list[int] = []
        line = ""

        def over(token: NewToken) -> bool:
            nonlocal line
            ids.append(token.token)
            *ended, line = (line + self._decode.piece(token.token)).split("\n")
            if not any(text.strip() and not text[0].isspace() for text in ended):
                return False
            return is_over(task.problem, self._decode.text(task.prompt.ids, ids), form, task.prompt.given)

        return over

    def _read(self, task: RolloutTask, tokens: list[int], form: PromptForm) -> SampledRow:
        response = self._decode(task.prompt.ids, tokens)
        return SampledRow(task, response, extract(task.problem, response.text, form, given=task.prompt.given))

    def _arrays(
        self,
        tasks: list[RolloutTask],
        rows: list[_Ended],
        config: RolloutConfig,
        for_learning: bool,
        spare_slot: bool,
    ) -> Rollout:
        """Prompts padded on the left, responses padded on the right after their answers."""
        prompt_slots = bucket(max(len(task.prompt.ids) for task in tasks), config.smallest_bucket)
        prompts = np.full((len(tasks), prompt_slots), self._pad, np.int32)
        prompt_mask = np.zeros((len(tasks), prompt_slots), np.int32)
        for i, task in enumerate(tasks):
            prompts[i, prompt_slots - len(task.prompt.ids) :] = task.prompt.ids
            prompt_mask[i, prompt_slots - len(task.prompt.ids) :] = 1
        lengths = [answer_tokens(one.row.response, one.row.extracted.end) for one in rows]
        width = bucket(max(lengths) + spare_slot, config.smallest_bucket)
        tokens = np.full((len(rows), width), self._pad, np.int32)
        mask, logprobs = np.zeros((2, len(rows), width), np.float32)
        for number, (one, length) in enumerate(zip(rows, lengths, strict=True)):
            tokens[number, :length] = one.done.tokens[:length]
            mask[number, :length] = 1
            if for_learning:
                logprobs[number, :length] = [new.drawn_logprob for new in one.done.new[:length]]
        # numpy arrays, although the record of a step declares jax.Array
        host: PyTree = (prompts, prompt_mask, tokens, mask, logprobs if for_learning else None)
        return Rollout(*host)

    def _truncated(self, one: _Ended) -> bool:
        """Whether a response was cut off by its limit: it neither stopped nor went past its program."""
        past = bool(one.row.response.text[one.row.extracted.end :].strip())
        return not (one.done.tokens[-1] in self._stop or past)
