"""What an evaluation requires of a model: to continue texts, and to say how probable given continuations are.

Anything with these two methods can be evaluated: a local model (evals.models.local_model), a server, a lookup
table in a test.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from jaxmoe.text.chat_template import Messages

# called with the place of a text in the result, and the text
OnText = Callable[[int, str], None]
# called with how many questions are done, and out of how many
Progress = Callable[[int, int], None]


class ContinuationScores(NamedTuple):
    """For each continuation, Σ log p of its tokens given the prompt (nats), and how many tokens it has."""

    logprobs: list[float]
    tokens: list[int]


class TextModel(Protocol):
    """A model under test; every call is independent of the calls before it."""

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        stop: Sequence[str] = (),
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        samples: int = 1,
        seed: int = 0,
    ) -> list[str]:
        """The text after each prompt, up to the first stop string (left out), end of sequence or limit.

        Args:
          prompts: texts.
          max_new_tokens: limit for each response.
          stop: strings that end a response.
          top_p: mass of the nucleus from which tokens are drawn.
          seed: of the draw.
          temperature: 0 takes the most probable token.
          samples: responses to each prompt, drawn independently; those of a prompt are adjacent.
        Returns: the texts, without their prompts.
        """
        ...

    def logprob(self, prompts: Sequence[str], continuations: Sequence[str]) -> ContinuationScores:
        """How probable each continuation is right after its prompt; the end of the sequence is not scored.

        Args:
          prompts, continuations: pairs, in the same order.
        Returns: nats and numbers of tokens, one per pair.
        """
        ...


@runtime_checkable
class TellingTextModel(TextModel, Protocol):
    """A model that reports each text as soon as it is complete, while it writes others."""

    def generate_each(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        stop: Sequence[str] = (),
        *,
        on_text: OnText,
        temperature: float = 0.0,
        top_p: float = 1.0,
        samples: int = 1,
        seed: int = 0,
    ) -> list[str]:
        """As `generate`.

        Args:
          prompts, max_new_tokens, stop, temperature, top_p, samples, seed: as there.
          on_text: called with each text once, in any order.
        Returns: the texts, without their prompts.
        """
        ...


class FormedTextModel(TextModel, Protocol):
    """A TextModel that knows in which form prompts are put to it."""

    @property
    def form(self) -> str:
        """What a prompt is to the model: text, instruction or chat."""
        ...

    def with_turns(self, before: Messages) -> "FormedTextModel":
        """The model with chat turns before every prompt, such as a system prompt and solved examples.

        Args:
          before: messages of role and content; the form must be chat.
        Returns: a new model; the given one is left as it is.
        """
        ...


def cut_at(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stop strings.

    Args:
      text: of a response.
      stops: strings that end it.
    Returns: the whole text if none occurs.
    """
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(found)] if found else text
