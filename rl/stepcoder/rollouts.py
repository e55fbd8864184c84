"""Policy and problems -> rollouts: sample, grade on the host while the device scores, collect.

Every process samples the same tokens (they are one program over the mesh) and grades its own share of them;
what the graders said is then put together on all.
"""

import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxmoe.generation.decode import DecodeConfig, bucket, run, unroll_layers
from jaxmoe.generation.sampling import Sampling
from jaxmoe.model import params
from rl.feedback.language import CompilerFeedback
from rl.feedback.problems import Problem
from rl.feedback.prompts import Extracted, PromptForm, extract
from rl.feedback.rewards import VERDICTS
from rl.policy.trajectory import Outcomes, Rollout
from rl.stepcoder.executed_tokens import mask as executed_mask
from rl.stepcoder.prompts import Prompt, Response, ResponseDecoder

MaskKind = Literal["fgo", "response"]


class Grader(Protocol):
    """What grades programs; rl.feedback.pool.Pool."""

    def submit(self, problem: Problem, program: str) -> "Future[CompilerFeedback]": ...


@dataclass(frozen=True)
class RolloutConfig:
    """How responses are sampled.

    Attributes:
      prompts: problems a round.
      samples: responses to each.
      temperature, top_p: of the sampler; the policy that is trained is the one at temperature 1
        (rl.policy.agent).
      prompt_tokens: longest prompt; problems with longer ones are left out.
      response_tokens: longest response; one that reaches it is cut off, and graded as it is.
      room: tokens for a response, as a multiple of what is left of the canonical solution (and 16 more), at
        most response_tokens; null gives each all of response_tokens.
      smallest_bucket: lengths are padded to this or to one of two sizes an octave above, each of which is
        compiled once.
      form: completion puts problems as code to go on with, chat by the tokenizer's chat template.
    """

    prompts: int = 16
    samples: int = 16
    temperature: float = 0.8
    top_p: float = 0.9
    prompt_tokens: int = 1024
    response_tokens: int = 1024
    room: float | None = None
    smallest_bucket: int = 64
    form: PromptForm = "completion"

    def __post_init__(self) -> None:
        for name in ("prompts", "samples", "prompt_tokens", "response_tokens", "smallest_bucket"):
            if getattr(self, name) < 1:
                raise ValueError(f"rollout.{name} must be at least 1; got {getattr(self, name)}")
        if self.room is not None and self.room < 1:
            raise ValueError(f"rollout.room must be at least 1 (the solution's length); got {self.room}")
        Sampling(self.temperature, 0, self.top_p)


class Task(NamedTuple):
    """A problem as it is put in one round.

    Attributes:
      limit: most tokens of a response.
      stage: of the curriculum; 0 is the whole task.
    """

    problem: Problem
    prompt: Prompt
    limit: int
    stage: int = 0


class Sampled(NamedTuple):
    """A rollout with what it says.

    Attributes:
      truncated_B: 1 where a response was cut off by its limit.
      rows: of each row, its task, its response and the program in it.
    """

    rollout: Rollout
    truncated_B: np.ndarray
    rows: list[tuple[Task, Response, Extracted]]
    seconds: float


class Sampler:
    """Samples responses with the weights it is given.

    Args:
      stop_tokens: a response ends with the first of these.
    """

    def __init__(
        self,
        definition: Any,
        mesh: Mesh,
        tokenizer: Any,
        stop_tokens: tuple[int, ...],
        pad_token: int,
        dtype: Any,
    ):
        self._definition, self._mesh, self._tokenizer = definition, mesh, tokenizer
        self._stop, self._pad, self._dtype = stop_tokens, pad_token, dtype
        self._decode = ResponseDecoder(tokenizer)

    def sample(
        self,
        policy: params.Params,
        frozen: params.Params,
        tasks: list[Task],
        config: RolloutConfig,
        *,
        samples: int,
        sampling: Sampling,
        key: jax.Array,
    ) -> Sampled:
        """`samples` responses to each task, a task's together; each prompt is read once."""
        began = time.perf_counter()
        ways = self._mesh.shape["data"] * self._mesh.shape["fsdp"]
        count = ways * bucket(-(-len(tasks) // ways)) if len(tasks) % ways else len(tasks)
        longest = max(len(task.prompt.ids) for task in tasks)
        slots = bucket(longest, config.smallest_bucket)
        prompts = np.full((count, slots), self._pad, np.int32)
        prompt_mask = np.zeros((count, slots), np.int32)
        prompt_mask[:, -1] = 1  # rows that fill up read one padding token and write nothing
        for i, task in enumerate(tasks):
            prompts[i, slots - len(task.prompt.ids) :] = task.prompt.ids
            prompt_mask[i, slots - len(task.prompt.ids) :] = 1
        limits = np.zeros(count, np.int32)
        limits[: len(tasks)] = [task.limit for task in tasks]
        decode = DecodeConfig(
            slots=bucket(int(limits.max()), config.smallest_bucket),
            sampling=sampling,
            samples=samples,
            stop_tokens=self._stop,
            pad_token=self._pad,
            unrolled=unroll_layers(self._mesh),
            dtype=self._dtype,
        )
        place = params.batch_sharding(self._mesh)
        rows = (jax.device_put(x, place) for x in (prompts, prompt_mask, np.repeat(limits, samples)))
        done = jax.device_get(
            run(self._definition, policy, frozen, *rows, key, config=decode, mesh=self._mesh)
        )
        kept = len(tasks) * samples
        lengths = done.lengths_B[:kept]
        width = bucket(int(lengths.max()), config.smallest_bucket)
        tokens = _fitted(done.tokens_BW[:kept], width, self._pad)
        mask = (np.arange(width) < lengths[:, None]).astype(np.float32)
        host: Any = (prompts[: len(tasks)], prompt_mask[: len(tasks)], tokens, mask)
        last = tokens[np.arange(kept), np.maximum(lengths - 1, 0)]
        truncated = ~np.isin(last, self._stop)
        return Sampled(
            Rollout(*host),
            truncated,
            self._read(tasks, tokens, lengths, samples, config.form),
            time.perf_counter() - began,
        )

    def _read(
        self, tasks, tokens, lengths, samples: int, form: PromptForm
    ) -> list[tuple[Task, Response, Extracted]]:
        rows = []
        for i, (ids, length) in enumerate(zip(tokens, lengths, strict=True)):
            task = tasks[i // samples]
            response = self._decode(task.prompt.ids, ids[:length].tolist())
            given = task.prompt.given
            rows.append((task, response, extract(task.problem, response.text, form, given=given)))
        return rows


def _fitted(tokens: np.ndarray, width: int, pad: int) -> np.ndarray:
    """Cut or padded on the right to a width."""
    missing = max(width - tokens.shape[1], 0)
    return np.pad(tokens, ((0, 0), (0, missing)), constant_values=pad)[:, :width]


class Graded(NamedTuple):
    """What the graders said of a round, the same on every process.

    Attributes:
      verdict_B: index into rl.feedback.rewards.VERDICTS.
      feedback: by row, of the rows that this process graded.
      latency_s: mean and largest time from handing in a program to its verdict, over this process's.
      seconds: from handing in the first to having the last.
    """

    outcomes: Outcomes
    verdict_B: np.ndarray
    feedback: dict[int, CompilerFeedback]
    latency_s: tuple[float, float]
    seconds: float

    @property
    def passed(self) -> np.ndarray:
        """Which programs passed all tests."""
        return self.verdict_B == VERDICTS.index("pass")


class Grading:
    """Programs on their way through the graders; the caller goes on with the device meanwhile.

    Equal programs for one problem are run once.
    """

    def __init__(self, grader: Grader, sampled: Sampled):
        self._sampled, self._began = sampled, time.perf_counter()
        self._futures: dict[int, Future[CompilerFeedback]] = {}
        self._ended: list[float] = []
        known: dict[tuple[str, str], Future[CompilerFeedback]] = {}
        for row, (task, _, (program, *_)) in enumerate(sampled.rows):
            if row % jax.process_count() != jax.process_index():
                continue
            name = (task.problem.id, program)
            if name not in known:
                known[name] = grader.submit(task.problem, program)
                known[name].add_done_callback(lambda _: self._ended.append(time.perf_counter()))
            self._futures[row] = known[name]

    def result(self, kind: MaskKind) -> Graded:
        """Waits for the verdicts and makes rewards and policy masks of them.

        Args:
          kind: fgo leaves tokens that no test executed out of the policy's loss, response keeps all.
        """
        mask = self._sampled.rollout.response_mask_BW
        rewards: Any = np.zeros(len(mask), np.float32)
        policy_mask: Any = np.zeros(mask.shape, np.float32)
        verdicts = np.zeros(len(mask), np.int32)
        feedback = {row: future.result() for row, future in self._futures.items()}
        for row, said in feedback.items():
            _, response, (program, start, _, shift) = self._sampled.rows[row]
            rewards[row], verdicts[row] = said.reward, VERDICTS.index(said.verdict)
            policy_mask[row] = mask[row]
            if kind == "fgo" and shift is not None:
                ran = executed_mask(
                    program, said.executed, response.offsets, shift=shift, keep_if_incomplete=True
                )
                before = [end <= start for _, end in response.offsets]  # words in front of the program
                policy_mask[row, : len(ran)] *= np.maximum(np.asarray(ran, np.float32), before)
        if jax.process_count() > 1:  # each row was graded by one process and is 0 on the others
            shares = multihost_utils.process_allgather((rewards, verdicts, policy_mask))
            rewards, verdicts, policy_mask = (np.asarray(share).sum(0) for share in shares)
        waits = np.asarray(self._ended or [self._began]) - self._began
        return Graded(
            Outcomes(rewards, policy_mask),
            verdicts,
            feedback,
            (float(waits.mean()), float(waits.max())),
            time.perf_counter() - self._began,
        )


def problems_of_round(round_number: int, count: int, size: int, *, seed: int) -> list[int]:
    """Which problems a round takes: an endless stream of shuffled passes, cut into rounds.

    A function of the round alone, so that a resumed run goes on where it was. No problem comes twice in a
    round unless there are fewer problems than `size`.
    """
    chosen: list[int] = []
    place = round_number * size
    while len(chosen) < size:
        epoch, offset = divmod(place + len(chosen), count)
        order = np.random.default_rng([seed, epoch]).permutation(count)
        chosen += order[offset : offset + size - len(chosen)].tolist()
    return chosen
