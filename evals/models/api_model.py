"""A model behind an OpenAI-compatible server as a TextModel: texts and log-probabilities over HTTP.

A prompt of the form text goes to /v1/completions, a message of the form chat to /v1/chat/completions.
Log-probabilities are those of an echoed text (`echo`, `logprobs`), which jaxmoe, vLLM and llama.cpp's servers
give for completions, and no server gives for chats. The server cuts a text into tokens; the tokens of a
continuation are found by where they end in the text, as in `LocalModel`.

Not covered: prompts that do not fit (the server refuses them; they are not cut off, their answers are empty);
sampling that can be repeated elsewhere, since every server draws in its own way.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

from evals.models.api_client import ApiError, ContentFilterError, RedirectError, RequestRefusedError
from evals.models.api_numbers import as_number, is_log_probability
from evals.models.api_requests import ApiRequests, ServerReply, by_index, byte_count, side_by_side
from evals.models.text_model import ContinuationScores, cut_at
from jaxmoe.json_values import JsonObject
from jaxmoe.text.chat_template import Messages

# how many stop strings OpenAI's servers accept; texts are cut at all of them afterwards
MOST_STOPS = 4
# texts scored per request
ROWS = 8
# refused prompts in a row after which settings are at fault, not prompts
GIVE_UP_AFTER = 8
_UNFINISHED = "\ufffd"
_NEEDED = (
    "multiple choice and answer_nats need /v1/completions with echo and logprobs: without them take "
    "knowledge.reasoning=true and knowledge.score_answers=false"
)


class _Row(NamedTuple):
    """A text to score.

    Attributes:
      before: characters that come before the continuation.
      bare: there is no prompt; what comes before is what texts without one begin with.
    """

    text: str
    before: int
    bare: bool


@dataclass(frozen=True)
class ApiModel:
    """A model under test behind a server; see `evals.models.text_model.TextModel` for its two methods.

    Attributes:
      requests: to the server.
      form: text or chat.
      concurrency: concurrent requests.
      tokens_name: what the server calls the limit of a chat's answer.
      least_tokens: every answer may have this many: reasoning models need thousands for their thoughts.
      text_start: what texts without a prompt begin with, such as "<|endoftext|>": the model says nothing
        about a text's first token. Not needed where the server's tokenizer begins every text with a token.
      before: chat turns before every prompt; only for the form chat.
    """

    requests: ApiRequests
    form: Literal["text", "chat"] = "text"
    concurrency: int = 8
    tokens_name: str = "max_tokens"
    least_tokens: int = 1
    text_start: str = ""
    before: Messages = ()

    def __post_init__(self) -> None:
        if self.before and self.form != "chat":
            raise ValueError(f"turns before a prompt need the form chat; got form {self.form}")

    def with_turns(self, before: Messages) -> "ApiModel":
        """The model with turns of a chat before every prompt."""
        return replace(self, before=before)

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
        """The text after each prompt; empty, with a message, for a prompt that the server refuses.

        Args:
          prompts, max_new_tokens, stop, temperature, top_p, samples, seed: as for `TextModel.generate`.
        Returns: the texts, those of a prompt together.
        Raises: ApiError if a request fails for good or gives fewer samples, or the server refuses too many
          in a row; CostCeilingError.
        """
        most = max(max_new_tokens, self.least_tokens)
        body: JsonObject = {"temperature": temperature}
        body["max_tokens" if self.form == "text" else self.tokens_name] = most
        # no more fields than needed: some servers refuse what they do not know
        body |= {"top_p": top_p, "seed": seed} if temperature else {}
        body |= {"n": samples} if samples > 1 else {}
        body |= {"stop": [*stop[:MOST_STOPS]]} if stop else {}
        tasks = [partial(self._texts, prompt, body, most * samples) for prompt in prompts]
        texts: list[list[str]] = [[] for _ in prompts]
        refusals = _Refusals(self.requests, len(prompts))
        for number, found in side_by_side(tasks, self.concurrency):
            if isinstance(found, ContentFilterError):
                self.requests.client.say(f"the answer to a prompt is left empty: {found}")
                texts[number] = [""] * samples
                continue
            if isinstance(found, RequestRefusedError):
                refusals.add(found)
                texts[number] = [""] * samples
                continue
            if isinstance(found, Exception):
                raise found
            refusals.in_a_row = 0
            if len(found) != samples:
                raise ApiError(f"{self._url} sent {len(found)} choices where n was {samples}")
            texts[number] = [cut_at(reply.text, stop) for reply in found]
        refusals.say()
        return [text for own in texts for text in own]

    def _texts(self, prompt: str, body: JsonObject, tokens: int) -> list[ServerReply]:
        if self.form == "chat":
            messages = [*self.before, {"role": "user", "content": prompt}]
            size = sum(byte_count(str(one.get("content"))) for one in messages)
            return self.requests.request("chat/completions", {"messages": messages, **body}, size, tokens)
        text = prompt or self.text_start
        return self.requests.request("completions", {"prompt": text, **body}, byte_count(text), tokens)

    def logprob(self, prompts: Sequence[str], continuations: Sequence[str]) -> ContinuationScores:
        """Σ log p of each continuation's tokens right after its prompt.

        Args:
          prompts, continuations: pairs, in the same order.
        Returns: nats and numbers of tokens, one per pair.
        Raises: ApiError for a chat, for a server that gives no log-probabilities, and as `generate`.
        """
        if self.form == "chat":
            raise ApiError(
                f"{self._url} tells no log-probabilities of a given answer in a chat; score the forms that "
                "/v1/completions takes, or let the model write its answer"
            )
        rows = [
            _Row((start := prompt or self.text_start) + continuation, len(start), not prompt)
            for prompt, continuation in zip(prompts, continuations, strict=True)
        ]
        parts = [rows[at : at + ROWS] for at in range(0, len(rows), ROWS)]
        scores: dict[int, list[tuple[float, int]]] = {}
        for number, found in side_by_side([partial(self._scores, part) for part in parts], self.concurrency):
            if isinstance(found, RedirectError):
                raise found
            if isinstance(found, Exception):
                raise ApiError(f"{found}; {_NEEDED}") from found
            scores[number] = found
        every = [score for number in range(len(parts)) for score in scores[number]]
        return ContinuationScores([total for total, _ in every], [count for _, count in every])

    def _scores(self, rows: Sequence[_Row]) -> list[tuple[float, int]]:
        body = {"max_tokens": 0, "echo": True, "logprobs": 1, "temperature": 0.0}
        texts = [row.text for row in rows]
        size = sum(map(byte_count, texts))
        replies = self.requests.request("completions", {"prompt": texts, **body}, size, 0)
        if len(replies) != len(rows):
            raise ApiError(f"{self._url} sent {len(replies)} choices for {len(rows)} prompts")
        return [self._score(row, reply) for row, reply in zip(rows, by_index(replies), strict=True)]

    def _score(self, row: _Row, reply: ServerReply) -> tuple[float, int]:
        """Σ log p of the tokens that end after the prompt, and their number."""
        try:
            told = reply.choice["logprobs"]
            tokens = [str(token) for token in told["tokens"]]
            logprobs = [None if one is None else as_number(one) for one in told["token_logprobs"]]
            if len(tokens) != len(logprobs):
                raise ValueError(f"{len(tokens)} tokens, {len(logprobs)} log-probabilities")
            skipped = _without_start(row, tokens, logprobs)
            ends = token_ends(row.text, tokens[skipped:])
        except (KeyError, TypeError, ValueError) as error:
            raise ApiError(
                f"{self._url} tells no log-probabilities of a text it is given ({error!r}); {_NEEDED}"
            ) from None
        if row.bare:
            # all that comes after the start, including a blank that the tokenizer puts there
            own = logprobs[skipped:] if not row.before else logprobs[1:]
            if row.before and ends[:1] != [row.before]:
                start = row.text[: row.before]
                raise ApiError(f"server.text_start must be one token of the server; {start!r} is not")
        else:
            own = [value for end, value in zip(ends, logprobs[skipped:], strict=True) if end > row.before]
        # the probability of a text's first token is not available
        if own[:1] == [None] and len(own) == len(logprobs):
            raise ApiError(
                f"{self._url} tells nothing of the first token of {row.text[:40]!r}; name what texts begin "
                "with there, such as '<|endoftext|>' (server.text_start)"
            )
        if not own:
            raise ApiError(f"{self._url} has no token for the continuation {row.text[row.before :][:40]!r}")
        known = [value for value in own if value is not None and is_log_probability(value)]
        if len(known) < len(own):
            odd = next(value for value in own if value is None or not is_log_probability(value))
            raise ApiError(
                f"{self._url} tells {'nothing' if odd is None else odd} as the log-probability of a token of "
                f"{row.text[row.before :][:40]!r}; it must be a finite number, at most 0"
            )
        return sum(known), len(known)

    @property
    def _url(self) -> str:
        return self.requests.client.url


class _Refusals:
    """Counts the prompts of a call that the server refuses, and raises where it seems to refuse all."""

    def __init__(self, requests: ApiRequests, prompts: int):
        self.in_a_row = 0
        self._requests = requests
        self._found: list[RequestRefusedError] = []
        # where nothing was ever answered, all prompts of a small call are no accident
        known = requests.spending.usage.requests > 0
        self._most = GIVE_UP_AFTER if known else min(GIVE_UP_AFTER, prompts)

    def add(self, error: RequestRefusedError) -> None:
        """Raises: ApiError after too many in a row."""
        self.in_a_row += 1
        self._found.append(error)
        if self.in_a_row >= self._most:
            url = self._requests.client.url
            raise ApiError(
                f"{url} refused {self.in_a_row} prompts in a row; the last time: {error}"
            ) from error

    def say(self) -> None:
        """Tells how many answers are empty so far, if any of this call are."""
        if not self._found:
            return
        self._requests.refused += len(self._found)
        self._requests.client.say(
            f"answers left empty so far because {self._requests.client.url} refused their prompts: "
            f"{self._requests.refused}; the last time: {self._found[-1]}"
        )


def _without_start(row: _Row, tokens: list[str], logprobs: list[float | None]) -> int:
    """How many tokens precede the text itself: one where the tokenizer begins every text with it."""
    first = tokens[0].strip() if tokens and logprobs[0] is None else ""
    return int(bool(first) and _UNFINISHED not in first and not row.text.lstrip().startswith(first))


def token_ends(text: str, tokens: Sequence[str]) -> list[int]:
    """Where each token ends in a text that they spell.

    A token by itself may be written without the blank before it; a part of a character, or a token that is
    not text, ends where the next one begins.

    Args:
      text: the text that the tokens spell.
      tokens: as a server writes them.
    Returns: for each token the place in `text` after its last character.
    Raises: ValueError if they spell something else.

    >>> token_ends("Q: a word", ["Q", ":", "a", " word"])
    [1, 2, 4, 9]
    """
    ends: list[int] = []
    waiting = place = 0

    def found(written: str) -> int:
        """Where a token is found from `place` on, past blanks and one character per token still waiting."""
        at = -1 if not written or _UNFINISHED in written else text.find(written, place)
        return at if at >= 0 and len(text[place:at].strip()) <= waiting else -1

    for token in tokens:
        # some tokenizers put a blank before a text
        written = token if found(token) >= 0 else token.lstrip()
        at = found(written)
        if at < 0:
            waiting += 1
            continue
        ends += [at] * waiting
        waiting, place = 0, at + len(written)
        ends.append(place)
    if len(text[place:].strip()) > waiting:
        raise ValueError(f"tokens spell another text than {text[:40]!r}")
    return ends + [len(text)] * waiting
