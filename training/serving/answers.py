"""How answers look in OpenAI's words: choices, pieces of a stream, log-probabilities."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from jaxmoe.generation.requests import NewToken
from jaxmoe.json_values import JsonObject
from jaxmoe.text.decoding import decode
from training.serving.protocol import ChatRequest, TextRequest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class FinishedChoice(NamedTuple):
    """One finished choice."""

    text: str
    tokens: list[NewToken]
    reason: str
    prompt: list[NewToken] | None


class TextShape:
    """How pieces of a text completion look in a stream."""

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", asked: TextRequest, prompts: Sequence[list[int]]
    ):
        self._tokenizer, self._asked, self._prompts = tokenizer, asked, prompts

    def opening(self, index: int) -> JsonObject | None:
        """What a stream begins with: the prompt, if the client asked for it to be echoed.

        `index` counts the choices of all prompts, n for each. None if there is no echo.
        """
        if not self._asked.echo:
            return None
        return self.piece(index, as_written(self._tokenizer, self._prompts[index // self._asked.n]), [])

    def piece(self, index: int, text: str, tokens: list[NewToken]) -> JsonObject:
        """A choice as one event of the stream.

        Args:
          index: of the choice.
          text: what is new.
          tokens: since the last piece, for log-probabilities where they were asked for.
        Returns: the choice as JSON, not finished.
        """
        scored = text_logprobs(self._tokenizer, [], [], tokens) if self._asked.logprobs is not None else None
        return {"index": index, "text": text, "logprobs": scored, "finish_reason": None}

    def ending(self, index: int, reason: str) -> JsonObject:
        """The last event of a choice.

        Args:
          index: of the choice.
          reason: stop or length.
        Returns: the choice as JSON, without text.
        """
        return {"index": index, "text": "", "logprobs": None, "finish_reason": reason}


class ChatShape:
    """How pieces of a chat completion look in a stream."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", asked: ChatRequest):
        self._tokenizer, self._asked = tokenizer, asked

    def opening(self, index: int) -> JsonObject:
        """What a stream begins with: the assistant's role, for the choice of that index."""
        return {"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}

    def piece(self, index: int, text: str, tokens: list[NewToken]) -> JsonObject:
        """A choice as one event of the stream.

        Args:
          index: of the choice.
          text: what is new.
          tokens: since the last piece, for log-probabilities where they were asked for.
        Returns: the choice as JSON, not finished.
        """
        scored = chat_logprobs(self._tokenizer, tokens) if self._asked.logprobs else None
        piece = {"index": index, "delta": {"content": text}, "logprobs": scored, "finish_reason": None}
        return piece | self._experts(tokens)

    def _experts(self, tokens: Sequence[NewToken]) -> JsonObject:
        if not self._asked.expert_weights:
            return {}
        return {"expert_weights": expert_weights(self._tokenizer, tokens)}

    def whole(self, index: int, answer: "FinishedChoice") -> JsonObject:
        """A choice that is not streamed.

        Args:
          index: of the choice.
          answer: as it ended.
        Returns: the choice as JSON.
        """
        return {
            "index": index,
            "message": {"role": "assistant", "content": answer.text},
            "finish_reason": answer.reason,
            "logprobs": chat_logprobs(self._tokenizer, answer.tokens) if self._asked.logprobs else None,
            **self._experts(answer.tokens),
        }

    def ending(self, index: int, reason: str) -> JsonObject:
        """The last event of a choice.

        Args:
          index: of the choice.
          reason: stop or length.
        Returns: the choice as JSON, without text.
        """
        return {"index": index, "delta": {}, "finish_reason": reason}


def mean_logprob(answer: FinishedChoice) -> float:
    """Mean log-probability of an answer's tokens (nats); 0 for an empty answer. `best_of` ranks by it."""
    return sum(token.logprob for token in answer.tokens) / max(len(answer.tokens), 1)


def as_written(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    """Text of tokens, special ones too.

    Args:
      ids: tokens, decoded together.
    Returns: the text, in which bytes that form no character become U+FFFD.
    """
    return decode(tokenizer, ids, special_tokens=True)


def text_logprobs(
    tokenizer: "PreTrainedTokenizerBase",
    first: list[int],
    before: Sequence[NewToken | None],
    tokens: Sequence[NewToken],
) -> JsonObject:
    """The log-probabilities of a text completion; the very first token of a prompt has none.

    Args:
      first: ids of the prompt, of which the first is read where `before` has None.
      before: the prompt's tokens, if they are echoed; None stands for the first.
      tokens: of the answer.
    Returns: OpenAI's object: lists of tokens, their log-probabilities (nats), the likeliest tokens in each
      place, and at which character each token begins.
    """
    every = [*before, *tokens]
    ids = [first[0] if one is None else one.token for one in every]
    written = [as_written(tokenizer, [id]) for id in ids]
    lengths = itertools.accumulate((len(text) for text in written), initial=0)

    def best(one: NewToken | None) -> dict[str, float] | None:
        if one is None:
            return None
        found: dict[str, float] = {}
        for id, logprob in one.alternatives:  # likeliest first: of two written alike the likelier stays
            found.setdefault(as_written(tokenizer, [id]), logprob)
        return found

    return {
        "tokens": written,
        "token_logprobs": [None if one is None else one.logprob for one in every],
        "top_logprobs": [best(one) for one in every],
        "text_offset": list(lengths)[:-1],
    }


def chat_logprobs(tokenizer: "PreTrainedTokenizerBase", tokens: Sequence[NewToken]) -> JsonObject:
    """The log-probabilities of a chat completion.

    Args:
      tokens: of the answer.
    Returns: OpenAI's object: under `content` for each token its text, log-probability (nats), UTF-8 bytes,
      and the likeliest tokens in its place.
    """

    def one(id: int, logprob: float) -> JsonObject:
        text = as_written(tokenizer, [id])
        return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "surrogatepass"))}

    content = [
        {**one(token.token, token.logprob), "top_logprobs": [one(*pair) for pair in token.alternatives]}
        for token in tokens
    ]
    return {"content": content}


def expert_weights(tokenizer: "PreTrainedTokenizerBase", tokens: Sequence[NewToken]) -> list[JsonObject]:
    """Which experts were at work, token by token; OpenAI's API has nothing like it.

    Args:
      tokens: of the answer, made with `Request.expert_weights`.
    Returns: for each token its text, and under `weights` the share of each expert that the model uses: of the
      step that chose the token, mean over layers and projections, 1 together. Empty for the base alone and
      for experts without a router.
    """
    return [
        {"token": as_written(tokenizer, [one.token]), "weights": [round(w, 4) for w in one.experts]}
        for one in tokens
    ]
