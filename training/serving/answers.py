"""Answers in OpenAI's format: choices, pieces of a stream, log-probabilities."""

import itertools
import re
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
        # by choice: at which character its next token begins
        self._offsets: dict[int, int] = {}

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
        return {"index": index, "text": text, "logprobs": self._scored(index, tokens), "finish_reason": None}

    def _scored(self, index: int, tokens: list[NewToken]) -> JsonObject | None:
        if self._asked.logprobs is None:
            return None
        start = self._offsets.get(index, 0)
        scored = text_logprobs(self._tokenizer, [], [], tokens, start)
        self._offsets[index] = start + sum(map(len, scored["tokens"]))
        return scored

    def ending(self, index: int, reason: str, tokens: list[NewToken]) -> JsonObject:
        """The last event of a choice.

        Args:
          index: of the choice.
          reason: stop or length.
          tokens: since the last piece, such as the one that ended the text.
        Returns: the choice as JSON, without text.
        """
        scored = self._scored(index, tokens) if tokens else None
        return {"index": index, "text": "", "logprobs": scored, "finish_reason": reason}


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

    def ending(self, index: int, reason: str, tokens: list[NewToken]) -> JsonObject:
        """The last event of a choice.

        Args:
          index: of the choice.
          reason: stop or length.
          tokens: since the last piece, such as the one that ended the text.
        Returns: the choice as JSON, without text.
        """
        ending: JsonObject = {"index": index, "delta": {}, "finish_reason": reason}
        if not tokens:
            return ending
        scored = chat_logprobs(self._tokenizer, tokens) if self._asked.logprobs else None
        return ending | {"logprobs": scored} | self._experts(tokens)


def mean_logprob(answer: FinishedChoice) -> float:
    """Mean log-probability of an answer's tokens (nats); 0 for an empty answer. `best_of` ranks by it."""
    return sum(token.logprob for token in answer.tokens) / max(len(answer.tokens), 1)


def as_written(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    """Text of tokens, including special ones.

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
    start: int = 0,
) -> JsonObject:
    """The log-probabilities of a text completion; the very first token of a prompt has none.

    Args:
      first: ids of the prompt, of which the first is read where `before` has None.
      before: the prompt's tokens, if they are echoed; None stands for the first.
      tokens: of the answer.
      start: the character at which the first of these begins.
    Returns: OpenAI's object: lists of tokens, their log-probabilities (nats), the likeliest tokens in each
      place with the one that stands there, and at which character each token begins.
    """
    every = [*before, *tokens]
    ids = [first[0] if one is None else one.token for one in every]
    written = [as_written(tokenizer, [id]) for id in ids]
    lengths = itertools.accumulate((len(text) for text in written), initial=start)

    def best(one: NewToken | None) -> dict[str, float] | None:
        if one is None:
            return None
        found: dict[str, float] = {}
        for id, logprob in one.alternatives:  # likeliest first: of two written alike the likelier stays
            found.setdefault(as_written(tokenizer, [id]), logprob)
        found.setdefault(as_written(tokenizer, [one.token]), one.logprob)
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
        return {"token": text, "logprob": logprob, "bytes": list(_own_bytes(tokenizer, id, text))}

    content = [
        {**one(token.token, token.logprob), "top_logprobs": [one(*pair) for pair in token.alternatives]}
        for token in tokens
    ]
    return {"content": content}


def _own_bytes(tokenizer: "PreTrainedTokenizerBase", id: int, text: str) -> bytes:
    """Bytes of a token; where they are a part of a character, its text has U+FFFD in their place."""
    if "\ufffd" not in text:
        return text.encode("utf-8", "surrogatepass")
    token = str(tokenizer.convert_ids_to_tokens(id))
    if byte := re.fullmatch("<0x([0-9A-F]{2})>", token):  # SentencePiece
        return bytes([int(byte[1], 16)])
    if all(character in _BYTES for character in token):
        return bytes(_BYTES[character] for character in token)
    return text.encode("utf-8", "surrogatepass")


def _byte_alphabet() -> dict[str, int]:
    """The byte for which byte-level BPE writes each character: printable ones stand for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    own = {chr(byte): byte for byte in printable}
    return own | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _byte_alphabet()


def expert_weights(tokenizer: "PreTrainedTokenizerBase", tokens: Sequence[NewToken]) -> list[JsonObject]:
    """Which experts were at work, token by token; OpenAI's API has nothing like it.

    Args:
      tokens: of the answer, made with `Request.expert_weights`.
    Returns: for each token its text, and under `weights` the share of each expert that the model uses: in the
      step that chose the token, averaged over layers and projections, 1 in total. Empty for the base alone
      and for experts without a router.
    """
    return [
        {"token": as_written(tokenizer, [one.token]), "weights": [round(w, 4) for w in one.experts]}
        for one in tokens
    ]
