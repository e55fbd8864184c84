"""What a rollout consists of: settings, tasks, sampled rows, the order of problems.

rl.stepcoder.sampler and rl.stepcoder.engine_sampler draw the responses, rl.stepcoder.grading grades them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np

from jaxmoe.generation.sampling import Sampling
from jaxmoe.model import params
from jaxmoe.model.shapes import Array
from jaxmoe.text.forms import resolve_form
from rl.feedback.problems import Problem
from rl.feedback.prompts import Extracted, PromptForm
from rl.policy.trajectory import Rollout
from rl.stepcoder.prompts import Prompt, Response

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class RolloutConfig:
    """How responses are sampled.

    Attributes:
      prompts: problems per round.
      samples: responses to each.
      temperature: of the sampler; ppo.temperature null trains the policy at the same one.
      top_p: of the sampler; below 1 the sampled distribution is not the one that is trained, and importance
        weights correct what they can (ppo.importance_cap).
      prompt_tokens: longest prompt; problems with longer ones are left out.
      response_tokens: longest response; for one that reaches it see ppo.truncated.
      room: tokens for a response, as a multiple of what is left of the canonical solution (and 16 more), at
        most response_tokens; null gives each response all of response_tokens.
      smallest_bucket: lengths are padded to this or to one of two sizes per octave above it, each of which is
        compiled once.
      decoding: batches decodes all responses of a round together until the longest ends; engine decodes
        `slots` of them side by side, replaces each one that ends with the next, and grades it at once.
      slots: of the engine.
      ahead: 1 samples and grades a round while the policy learns from the one before, with the weights from
        before that learning; importance weights (ppo.importance_cap) correct for the difference. Only on a
        mesh of one device; a second copy of what is trained is held. 0 samples with the newest weights.
      turns: the most answers to a problem: a program that fails is returned with the compiler's message or
        the first test that failed, and the policy writes another. More than 1 requires the chat form.
      turn_reward: last learns only from the reward of the last program, each adds those of the ones before.
      show_expected: also tell the right answer to the test that failed, which trains on the tests.
      told_tokens: the most tokens of feedback that are returned with a program.
      form: completion puts problems as code to continue, chat by the tokenizer's chat template, instruction
        in the LoRAMoE form; auto takes chat where there is a template, else completion.
    """

    prompts: int = 16
    samples: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    prompt_tokens: int = 1024
    response_tokens: int = 1024
    room: float | None = None
    smallest_bucket: int = 64
    decoding: Literal["batches", "engine"] = "batches"
    slots: int = 32
    ahead: Literal[0, 1] = 0
    turns: int = 1
    turn_reward: Literal["last", "each"] = "last"
    show_expected: bool = False
    told_tokens: int = 256
    form: PromptForm | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        whole = (
            "prompts",
            "samples",
            "prompt_tokens",
            "response_tokens",
            "smallest_bucket",
            "slots",
            "turns",
        )
        for name in whole:
            if getattr(self, name) < 1:
                raise ValueError(f"rollout.{name} must be at least 1; got {getattr(self, name)}")
        if self.room is not None and self.room < 1:
            raise ValueError(f"rollout.room must be at least 1 (the solution's length); got {self.room}")
        if self.temperature <= 0:
            raise ValueError(
                "rollout.temperature must be positive: a greedy policy explores nothing; "
                f"got {self.temperature}"
            )
        if self.told_tokens < 32:
            raise ValueError(f"rollout.told_tokens must be at least 32; got {self.told_tokens}")
        try:
            _ = self.sampling
        except ValueError as error:
            raise ValueError(f"rollout.{error}") from error

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn."""
        return Sampling(self.temperature, 0, self.top_p)

    @property
    def prompt_form(self) -> PromptForm:
        """The form, once `resolved`. Raises: ValueError while it is still auto."""
        if self.form == "auto":
            raise ValueError("rollout.form is auto: resolve it for a tokenizer first (rollouts.resolved)")
        return self.form


def resolved(config: RolloutConfig, tokenizer: "PreTrainedTokenizerBase") -> RolloutConfig:
    """The settings with auto replaced by the form that it stands for.

    Args:
      tokenizer: of the policy.
    Returns: the settings with a form that is not auto.
    Raises: ValueError for chat without a chat template, or several turns without chat.
    """
    form = resolve_form(tokenizer, config.form, otherwise="completion")
    if config.turns > 1 and form != "chat":
        raise ValueError(
            f"rollout.turns={config.turns} takes a chat template to tell what went wrong; the form is {form} "
            "(set rollout.form=chat, or leave out rollout.turns)"
        )
    return replace(config, form=form)


class RolloutTask(NamedTuple):
    """A problem as it is put in one round.

    Attributes:
      limit: the most tokens of a response.
      stage: of the curriculum; 0 is the whole task.
    """

    problem: Problem
    prompt: Prompt
    limit: int
    stage: int = 0


class SampledRow(NamedTuple):
    """One response: its task, its text, and the program in it."""

    task: RolloutTask
    response: Response
    extracted: Extracted


# called with the number of a response, in the order of tasks and samples, and the response
OnRow = Callable[[int, SampledRow], None]


class Turn(NamedTuple):
    """One answer of an episode.

    Attributes:
      row: what was asked and answered.
      start: slot of its first token in the episode's response.
      told: what the policy was told before it; "" for the first.
      verdict: index into rl.feedback.rewards.VERDICTS.
      reward: of its program.
    """

    row: SampledRow
    start: int
    told: str
    verdict: int
    reward: float


class Sampled(NamedTuple):
    """A rollout with its texts.

    Attributes:
      truncated_B: 1 if a response was cut off by its limit, before its program or its turn was over.
      rows: of each row of the rollout.
      tail_tokens: tokens that were sampled after the programs; they are not part of the rollout.
      seconds: time that sampling took.
      turns: of each row, if an episode may have several; None if each is one answer.
      wasted: share of the rows of decoding steps in which no response was decoded.
    """

    rollout: Rollout
    truncated_B: np.ndarray
    rows: list[SampledRow]
    tail_tokens: int
    seconds: float
    turns: list[list[Turn]] | None = None
    wasted: float = 0.0


class DrawResponses(Protocol):
    """Draws responses: rl.stepcoder.sampler.Sampler, or an EngineSampler."""

    def sample(
        self,
        policy: params.Params,
        frozen: params.Params,
        tasks: list[RolloutTask],
        config: RolloutConfig,
        *,
        samples: int,
        sampling: Sampling,
        key: Array,
        for_learning: bool = True,
        spare_slot: bool = False,
        any_number: bool = False,
        on_row: OnRow | None = None,
    ) -> Sampled:
        """Draws `samples` responses to each task, a task's adjacent.

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
          any_number: whether other numbers of tasks are to be expected.
          on_row: called with each response once it has ended.
        Returns: the rollout as arrays, and each response as text.
        """
        ...


def problems_of_round(round_number: int, count: int, size: int, *, seed: int) -> list[int]:
    """Which problems a round without a curriculum takes, from an endless stream of shuffled passes.

    The result depends only on the round, so that a resumed run repeats an unbroken one. No problem comes
    twice in a round unless there are fewer problems than `size`.

    Args:
      round_number: from 0.
      count: of problems.
      size: problems of a round.
    Returns: their numbers, from 0.

    >>> sorted(problems_of_round(0, 4, 2, seed=0) + problems_of_round(1, 4, 2, seed=0))
    [0, 1, 2, 3]
    """
    chosen: list[int] = []
    place = round_number * size
    while len(chosen) < size:
        epoch, offset = divmod(place + len(chosen), count)
        order = np.random.default_rng([seed, epoch]).permutation(count)
        chosen += order[offset : offset + size - len(chosen)].tolist()
    return chosen
