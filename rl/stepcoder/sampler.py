"""Policy and tasks -> responses: sampled together, ended where their programs end.

Every process samples the same tokens: they are one program over the mesh.
"""

import time
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxmoe.generation.decode import (
    DecodeConfig,
    Decoded,
    PromptBatch,
    bucket,
    run,
    run_begin,
    run_until,
    unroll_layers,
)
from jaxmoe.generation.sampling import Sampling
from jaxmoe.model import params
from jaxmoe.model.mesh import batch_ways
from jaxmoe.model.transformer import Decoder
from rl.feedback.prompts import PromptForm, extract
from rl.policy.trajectory import Rollout
from rl.stepcoder.program_end import answer_tokens, is_over
from rl.stepcoder.prompts import ResponseDecoder
from rl.stepcoder.rollouts import OnRow, RolloutConfig, RolloutTask, Sampled, SampledRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Tokens between two checks of whether programs are over. A check costs the host about a millisecond per row.
STRETCH = 64


class Sampler:
    """Samples responses with the weights it is given.

    Args:
      definition: of the policy's decoder.
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
        dtype: jax.typing.DTypeLike,
    ):
        self._definition, self._mesh = definition, mesh
        self._stop, self._pad, self._dtype = stop_tokens, pad_token, dtype
        self._decode = ResponseDecoder(tokenizer)

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
          any_number: whether the number of tasks varies between calls, so that it is padded to one of a few
            sizes.
          on_row: called with each response, here when all have ended.
        Returns: the rollout as arrays, and each response as text.
        """
        began = time.perf_counter()
        prompts, prompt_mask, limits = self._padded(tasks, config, any_number)
        decode = DecodeConfig(
            slots=bucket(int(limits.max()), config.smallest_bucket),
            sampling=sampling,
            samples=samples,
            stop_tokens=self._stop,
            pad_token=self._pad,
            unrolled=unroll_layers(self._mesh),
            dtype=self._dtype,
            score_sampler=for_learning,
        )
        place = params.batch_sharding(self._mesh)
        arrays = (prompts, prompt_mask, np.repeat(limits, samples))
        batch = PromptBatch(*(jax.device_put(x, place) for x in arrays))
        weights = params.ModelParams(self._definition, policy, frozen)
        done = self._run(weights, batch, key, decode, tasks, config.prompt_form)
        kept = len(tasks) * samples
        tokens, sampled_B = np.asarray(done.tokens_BW)[:kept], np.asarray(done.lengths_B)[:kept]
        rows = self._read(tasks, tokens, sampled_B, samples, config.prompt_form)
        lengths = np.asarray([answer_tokens(row.response, row.extracted.end) for row in rows], np.int32)
        width = bucket(int(lengths.max()) + spare_slot, config.smallest_bucket)
        mask = (np.arange(width) < lengths[:, None]).astype(np.float32)
        logprobs = None
        if done.sampler_logprobs_BW is not None:
            logprobs = _fitted(np.asarray(done.sampler_logprobs_BW)[:kept], width, 0.0) * mask
        host: Any = (  # numpy arrays, although the record of a step declares jax.Array
            prompts[: len(tasks)],
            prompt_mask[: len(tasks)],
            np.where(mask > 0, _fitted(tokens, width, self._pad), self._pad).astype(np.int32),
            mask,
            logprobs,
        )
        truncated = self._truncated(rows, tokens, sampled_B)
        if on_row is not None:
            for number, row in enumerate(rows):
                on_row(number, row)
        tail = int(sampled_B.sum() - lengths.sum())
        return Sampled(Rollout(*host), truncated, rows, tail, time.perf_counter() - began)

    def _padded(
        self, tasks: list[RolloutTask], config: RolloutConfig, any_number: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Prompts [P, S], their masks and limits; P is padded to a number that the mesh can split."""
        ways = batch_ways(self._mesh)
        fill = any_number or len(tasks) % ways
        count = ways * bucket(-(-len(tasks) // ways)) if fill else len(tasks)
        slots = bucket(max(len(task.prompt.ids) for task in tasks), config.smallest_bucket)
        prompts = np.full((count, slots), self._pad, np.int32)
        prompt_mask = np.zeros((count, slots), np.int32)
        prompt_mask[:, -1] = 1  # padding rows read one padding token and write nothing
        for i, task in enumerate(tasks):
            prompts[i, slots - len(task.prompt.ids) :] = task.prompt.ids
            prompt_mask[i, slots - len(task.prompt.ids) :] = 1
        limits = np.zeros(count, np.int32)
        limits[: len(tasks)] = [task.limit for task in tasks]
        return prompts, prompt_mask, limits

    def _run(
        self,
        weights: params.ModelParams,
        prompts: PromptBatch,
        key: jax.Array,
        decode: DecodeConfig,
        tasks: list[RolloutTask],
        form: PromptForm,
    ) -> Decoded:
        """Decodes in stretches if programs can be recognized as over, otherwise in one go."""
        continued = form == "completion" or any(task.prompt.given for task in tasks)
        if decode.slots <= STRETCH or not continued:
            return jax.device_get(run(weights, prompts, key, config=decode, mesh=self._mesh))
        state = run_begin(weights, prompts, key, config=decode, mesh=self._mesh)
        for until in range(STRETCH, decode.slots + STRETCH, STRETCH):
            most = np.int32(min(until, decode.slots))
            state = run_until(weights, state, key, most, config=decode, mesh=self._mesh)
            tokens, lengths, ended = jax.device_get(
                (state.decoded.tokens_BW, state.decoded.lengths_B, state.ended_B)
            )
            if ended.all():
                break
            over = ended | self._over(tasks, tokens, lengths, ended, decode.samples, form)
            if (over != ended).any():
                state = state._replace(ended_B=jax.device_put(over, params.replicated(self._mesh)))
        return jax.device_get(state.decoded)

    def _over(
        self,
        tasks: list[RolloutTask],
        tokens: np.ndarray,
        lengths: np.ndarray,
        ended: np.ndarray,
        samples: int,
        form: PromptForm,
    ) -> np.ndarray:
        over = np.zeros_like(ended)
        for row in np.flatnonzero(~ended):
            task = tasks[row // samples]
            text = self._decode.text(task.prompt.ids, tokens[row, : lengths[row]].tolist())
            over[row] = is_over(task.problem, text, form, task.prompt.given)
        return over

    def _read(
        self,
        tasks: list[RolloutTask],
        tokens: np.ndarray,
        lengths: np.ndarray,
        samples: int,
        form: PromptForm,
    ) -> list[SampledRow]:
        rows = []
        for i, (ids, length) in enumerate(zip(tokens, lengths, strict=True)):
            task = tasks[i // samples]
            response = self._decode(task.prompt.ids, ids[:length].tolist())
            found = extract(task.problem, response.text, form, given=task.prompt.given)
            rows.append(SampledRow(task, response, found))
        return rows

    def _truncated(self, rows: list[SampledRow], tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Rows that were cut off by their limit: they neither stopped nor went past their program."""
        last = tokens[np.arange(len(rows)), np.maximum(lengths - 1, 0)]
        past = [bool(row.response.text[row.extracted.end :].strip()) for row in rows]
        return ~(np.isin(last, self._stop) | np.asarray(past))


def _fitted(values: np.ndarray, width: int, fill: float) -> np.ndarray:
    """Values cut to a width, or padded on the right."""
    missing = max(width - values.shape[1], 0)
    return np.pad(values, ((0, 0), (0, missing)), constant_values=fill)[:, :width]
