"""What an engine is asked for, and what it answers."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from jaxmoe.generation.sampling import GREEDY, Sampling

FinishReason = Literal["stop", "length", "cancelled"]
# most alternatives to a token that may be asked for
MOST_ALTERNATIVES = 20


class NewToken(NamedTuple):
    """A token of a text.

    Attributes:
      logprob: under the model as it is (temperature 1, whole vocabulary).
      alternatives: the likeliest tokens at its position with their log-probabilities, as many as were asked
        for.
      experts: each expert's share of the routing weights in the step that chose the token, mean over layers
        and projections; () unless asked for, or without routers.
      drawn_logprob: of the draw, after temperature, top-k and top-p; None unless asked for.
    """

    token: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...] = ()
    experts: tuple[float, ...] = ()
    drawn_logprob: float | None = None


@dataclasses.dataclass(frozen=True)
class Request:
    """One text to continue.

    Attributes:
      prompt: token ids; at least one.
      max_new_tokens: the largest number of new tokens.
      sampling: temperature, top-k and top-p.
      seed: of the random numbers; the same seed and prompt give the same tokens, whatever else is decoded.
      stop_tokens: the text ends with the first of these, which is kept.
      experts: True uses all, False the base model alone, a name one of several adapters side by side.
      prompt_logprobs: also the log-probability of each prompt token after the first.
      alternatives: number of likeliest tokens to report with each token.
      expert_weights: report each expert's share of the routing weights with each new token.
      score_draws: also the log-probability with which each token was drawn.
      on_token: called with every new token; returning True ends the text there.
    """

    prompt: Sequence[int]
    max_new_tokens: int = 64
    sampling: Sampling = GREEDY
    seed: int = 0
    stop_tokens: tuple[int, ...] = ()
    experts: bool | str = True
    prompt_logprobs: bool = False
    alternatives: int = 0
    expert_weights: bool = False
    score_draws: bool = False
    on_token: Callable[[NewToken], bool | None] | None = dataclasses.field(default=None, compare=False)


class Completion(NamedTuple):
    """What became of a request.

    Attributes:
      new: new tokens, a stop token included.
      reason: stop (a stop token, or on_token), length, cancelled.
      prompt: prompt tokens 1, 2, ..; None unless their log-probabilities were asked for, and for a request
        that was cancelled before its first new token.
      reused: number of prompt tokens whose keys and values were already there.
    """

    new: list[NewToken]
    reason: FinishReason
    prompt: list[NewToken] | None = None
    reused: int = 0

    @property
    def tokens(self) -> list[int]:
        """Ids of the new tokens."""
        return [one.token for one in self.new]

    @property
    def logprobs(self) -> list[float]:
        """Log-probabilities of the new tokens."""
        return [one.logprob for one in self.new]
