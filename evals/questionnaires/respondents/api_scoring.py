"""Options scored over HTTP: how probable each label, or each option's words, is according to a server.

Chat completions return the likeliest first tokens (`top_logprobs`): enough for labels. Completions that
repeat the prompt (`echo`) return every token's log-probability: enough for labels and words, as base models
need. OpenAI's chat models offer the first, vLLM and `python -m training serve` both. Not covered: calibration
(local models).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from evals.models.api_client import ContentFilterError, RequestFailedError
from evals.models.api_numbers import as_number, is_log_probability
from evals.models.api_requests import ServerReply, by_index
from evals.questionnaires.respondent import (
    REFUSED,
    UNREADABLE,
    Answer,
    Question,
    from_probabilities,
    no_answer,
)
from evals.questionnaires.respondents.api_respondent import ApiRespondent
from evals.questionnaires.respondents.option_scores import Scored, continuation, softmax

Route = Literal["chat", "completions"]
# the most that OpenAI's servers return
TOP = 20
# what may precede a label within a token
AROUND = " \t\n([\"'*"


@dataclass(frozen=True)
class ApiScoringRespondent:
    """Answers by how probable each option is; always chooses the most probable one.

    Attributes:
      server: address, model, limits and cost.
      scored: labels, or words (mean log-probability of a token, on the completions route only).
      route: chat or completions.
    """

    server: ApiRespondent
    scored: Scored = "label"
    route: Route = "chat"

    def __post_init__(self) -> None:
        for what, value, known in (
            ("scored", self.scored, get_args(Scored)),
            ("route", self.route, get_args(Route)),
        ):
            if value not in known:
                raise ValueError(f"{what} must be one of {', '.join(known)}; got {value!r}")
        if self.scored == "words" and self.route == "chat":
            raise ValueError(
                "chat completions tell the first token's probabilities only; score labels, or take route "
                "completions"
            )

    @property
    def name(self) -> str:
        """The model's name."""
        return self.server.name

    @property
    def repeats_itself(self) -> bool:
        """Seeds make no difference."""
        return True

    @property
    def settings(self) -> dict[str, object]:
        """What answers depend on."""
        own = {"mode": f"log-probabilities of {self.scored}, {self.route}"}
        kept = {
            name: value for name, value in self.server.settings.items() if name in ("url", "server model")
        }
        return {**kept, **own}

    def account(self, path: Path, beside: Sequence[Path] = ()) -> None:
        """As `ApiRespondent.account`.

        Args:
          path, beside: as for `Paid.account`.
        """
        self.server.account(path, beside)

    def answer(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """As `ApiRespondent.answer`; a server without log-probabilities is named in the error."""
        score = self._by_first_token if self.route == "chat" else self._by_continuation
        return self.server.guarded(partial(self._filtered, score, question) for question in questions)

    @staticmethod
    def _filtered(score: Callable[[Question], Answer], question: Question) -> Answer:
        try:
            return score(question)
        except ContentFilterError as error:
            return no_answer(REFUSED, str(error))

    def _by_first_token(self, question: Question) -> Answer:
        # temperature 1: some servers return probabilities after applying it
        body = {
            "messages": [{"role": "user", "content": question.prompt}],
            "temperature": 1.0,
            "logprobs": True,
        }
        body |= {"top_logprobs": TOP, self.server.tokens_name: 1}
        reply = self.server.request(
            "chat/completions", body, len(question.prompt.encode("utf-8", "replace")), 1
        )[0]
        try:
            likeliest = reply.choice["logprobs"]["content"][0]["top_logprobs"]
            told = [(str(one["token"]), as_number(one["logprob"])) for one in likeliest]
        except (KeyError, TypeError, IndexError, ValueError):
            raise _none(self.server.url, "answers=written reads texts instead") from None
        own = [
            [logprob for token, logprob in told if token.strip(AROUND) == choice.label]
            for choice in question.choices
        ]
        if odd := [logprob for logprobs in own for logprob in logprobs if not is_log_probability(logprob)]:
            return _unreadable(odd[0])
        mass = [sum(map(math.exp, logprobs)) for logprobs in own]
        if not sum(mass) > 0:
            return no_answer(UNREADABLE, f"no label among the {len(told)} likeliest first tokens")
        shares = [one / sum(mass) for one in mass]
        return from_probabilities(question, shares, int(np.argmax(shares)))

    def _by_continuation(self, question: Question) -> Answer:
        rows = [
            question.prompt + continuation(question, place, self.scored)
            for place in range(len(question.choices))
        ]
        body = {"prompt": rows, "max_tokens": 0, "echo": True, "logprobs": 1, "temperature": 0.0}
        size = sum(len(row.encode("utf-8", "replace")) for row in rows)
        replies = by_index(self.server.request("completions", body, size, 0))
        if len(replies) != len(rows):
            raise RequestFailedError(f"{self.server.url} sent {len(replies)} choices for {len(rows)} prompts")
        told = [self._logprobs(question, row, reply) for row, reply in zip(rows, replies, strict=True)]
        if odd := [logprob for own in told for logprob in own if not is_log_probability(logprob)]:
            return _unreadable(odd[0])
        scores = [sum(own) / (len(own) if self.scored == "words" else 1) for own in told]
        shares = softmax(np.array(scores)).tolist()
        return from_probabilities(question, shares, int(np.argmax(shares)))

    def _logprobs(self, question: Question, row: str, reply: ServerReply) -> list[float]:
        """log p of each token that ends after the prompt."""
        # counted from the end: servers show a blank or a token that the tokenizer puts before the prompt
        left, own = len(row) - len(question.prompt), list[float]()
        try:
            told = reply.choice["logprobs"]
            for token, logprob in zip(
                reversed(told["tokens"]), reversed(told["token_logprobs"]), strict=True
            ):
                if left <= 0:
                    break
                own.append(as_number(logprob))
                left -= len(token)
        except (KeyError, TypeError, ValueError):
            raise _none(self.server.url, "take route chat, or answers=written") from None
        if not own:
            raise _none(self.server.url, "take route chat, or answers=written")
        return own


def _unreadable(value: float) -> Answer:
    return no_answer(UNREADABLE, f"{value} is no log-probability")


def _none(url: str, remedy: str) -> RequestFailedError:
    return RequestFailedError(f"{url} gives no log-probabilities; {remedy}")
