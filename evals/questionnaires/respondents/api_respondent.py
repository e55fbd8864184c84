"""A model behind an OpenAI-compatible server as a respondent: written answers, over HTTP.

A few requests run concurrently. A request that fails for good costs one answer; several in a row end the
administration, and so does a cost ceiling before it is exceeded (evals.models.api_spending).
Not covered: streaming, batch endpoints; HTTP, keys and retries (evals.models); log-probabilities
(api_scoring).
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from evals.models.api_client import ApiClient, ApiError, ContentFilterError, Retries
from evals.models.api_requests import ApiRequests, ServerReply, byte_count, side_by_side
from evals.models.api_spending import Spending, Usage
from evals.questionnaires.answer_text import without_thoughts
from evals.questionnaires.reading import parse
from evals.questionnaires.respondent import ERROR, LIMIT, REFUSED, Answer, Question, no_answer
from jaxmoe.json_values import JsonObject


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass
class ApiRespondent:
    """Asks a server's chat completions.

    Attributes:
      url: base address, such as "http://localhost:8000/v1"; it is recorded, so it must not contain a key.
      key_variable: the environment variable that holds the key; no key is sent if it is unset. It goes only
        to `url` (api_client).
      concurrency: concurrent requests.
      max_new_tokens: limit for an answer, thoughts included: reasoning models need some thousands.
      tokens_name: what the server calls this limit: max_tokens, or max_completion_tokens.
      attempts: tries of one request; wait_s, longest_wait_s: the first pause and the longest, in seconds.
      longest_retry_after_s: the longest wait that a server may ask for, in seconds.
      give_up_after: failed questions in a row after which the server counts as broken.
      cost_ceiling: the most that may be spent; prompt_price, completion_price: per million tokens.
      shown_as: its name in tables, the model's if empty.
      say: called once with each thing that is cut short or counted by guess.
    """

    url: str
    model: str
    temperature: float = 1.0
    max_new_tokens: int = 16
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 8
    attempts: int = 6
    timeout_s: float = 60.0
    wait_s: float = 0.5
    longest_wait_s: float = 60.0
    longest_retry_after_s: float = 300.0
    give_up_after: int = 5
    cost_ceiling: float | None = None
    prompt_price: float = 0.0
    completion_price: float = 0.0
    sleep: Callable[[float], None] = time.sleep
    say: Callable[[str], None] = _to_stderr
    tokens_name: str = "max_tokens"
    shown_as: str = ""

    def __post_init__(self) -> None:
        retries = Retries(
            self.attempts,
            self.timeout_s,
            self.wait_s,
            self.longest_wait_s,
            self.longest_retry_after_s,
            self.sleep,
        )
        self._client = ApiClient(self.url, self.key_variable, retries, self.say)
        if self.concurrency < 1 or self.attempts < 1:
            raise ValueError(
                f"concurrency and attempts must be at least 1; got {self.concurrency} and {self.attempts}"
            )
        spending = Spending(self.cost_ceiling, self.prompt_price, self.completion_price)
        self._requests = ApiRequests(self._client, spending, self.model)
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1; got {self.max_new_tokens}")

    @property
    def name(self) -> str:
        """The model's name, or the name it is shown as."""
        return self.shown_as or self.model

    @property
    def repeats_itself(self) -> bool:
        """True at temperature 0, as far as the server keeps to it."""
        return self.temperature == 0

    @property
    def settings(self) -> dict[str, object]:
        """What answers depend on: an administration resumes only with the same settings."""
        return {
            "url": self.url,
            "server model": self.model,
            "mode": "written",
            "temperature": self.temperature,
            LIMIT: self.max_new_tokens,
        }

    @property
    def tells_cuts(self) -> bool:
        """True: servers say why a text ends."""
        return True

    @property
    def usage(self) -> Usage:
        """What was spent so far."""
        return self._requests.spending.usage

    def account(self, path: Path, beside: Sequence[Path] = ()) -> None:
        """Counts what earlier sessions spent toward the ceiling, and keeps the file up to date.

        Args:
          path, beside: as for `Spending.keep`.
        Raises: ValueError if a file is not such an account.
        """
        self._requests.spending.keep(path, beside)

    def answer(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """Answers as they arrive; a request that failed for good gives an answer with the code error.

        Raises: ApiError if the server refuses key, address or model, or fails too often in a row;
          CostCeilingError.
        """
        return self.guarded(partial(self._written, question) for question in questions)

    def guarded(self, tasks: Iterable[Callable[[], Answer]]) -> Iterator[tuple[int, Answer]]:
        """Answers of concurrent tasks that ask the server; too many failures in a row raise ApiError."""
        failures = 0
        for number, found in side_by_side(tasks, self.concurrency):
            answer = no_answer(ERROR, str(found)) if isinstance(found, Exception) else found
            failures = failures + 1 if answer.refusal == ERROR else 0
            if failures >= self.give_up_after:
                raise ApiError(
                    f"{self.url} failed {failures} questions in a row; the last time: {answer.text}"
                )
            yield number, answer

    def write(self, prompts: Sequence[str], seed: int = 0) -> list[str]:
        """What the model answers to each prompt.

        Args:
          prompts: independent of each other.
          seed: of sampling, sent with each prompt.
        Returns: one text per prompt, without thoughts; empty, with a message, where a request fails for good.
        Raises: as `answer`.
        """
        return [text or "" for text in self.attempt(prompts, seed)]

    def attempt(self, prompts: Sequence[str], seed: int = 0) -> list[str | None]:
        """As `write`, but None where a request fails for good, unless a content filter refuses the prompt.

        Args:
          prompts, seed: as for `write`.
        Returns: one text, or None, per prompt.
        Raises: as `answer`.
        """
        texts: list[str | None] = [None] * len(prompts)
        for number, text in self._attempts(prompts, seed):
            texts[number] = text
        return texts

    def write_each(self, prompts: Sequence[str], seed: int = 0) -> Iterator[tuple[int, str]]:
        """As `write`, but each text as it arrives, so that a failure loses none that has arrived.

        Args:
          prompts, seed: as for `write`.
        Returns: the number of a prompt and its text, in any order.
        Raises: as `answer`.
        """
        for number, text in self._attempts(prompts, seed):
            yield number, text or ""

    def _attempts(self, prompts: Sequence[str], seed: int) -> Iterator[tuple[int, str | None]]:
        failures = 0
        asked = (partial(self._ask, prompt, seed) for prompt in prompts)
        for number, found in side_by_side(asked, self.concurrency):
            if isinstance(found, Exception):
                failures += 1
                if failures >= self.give_up_after:
                    raise ApiError(
                        f"{self.url} failed {failures} texts in a row; the last time: {found}"
                    ) from found
                self._client.say(f"no text was written for a prompt: {found}")
                yield number, "" if isinstance(found, ContentFilterError) else None
            else:
                failures = 0
                yield number, without_thoughts(found.text)

    def _written(self, question: Question) -> Answer:
        try:
            reply = self._ask(question.prompt, question.seed)
        except ContentFilterError as error:
            return no_answer(REFUSED, str(error))
        if reply.finish == "content_filter":
            return no_answer(REFUSED, f"content filter: {reply.text}")
        cut = reply.finish == "length"
        if cut and not without_thoughts(reply.text):
            return no_answer(
                ERROR,
                f"no answer within {self.max_new_tokens} tokens, thoughts included; raise max_new_tokens",
            )
        return parse(question, reply.text)._replace(cut_at=self.max_new_tokens if cut else 0)

    def _ask(self, prompt: str, seed: int) -> ServerReply:
        found = self.request(
            "chat/completions",
            {
                "messages": [{"role": "user", "content": prompt}],
                "temperature": self.temperature,
                self.tokens_name: self.max_new_tokens,
                "seed": seed,
            },
            byte_count(prompt),
            self.max_new_tokens,
        )
        return found[0]

    def request(
        self, path: str, body: JsonObject, prompt_bytes: int, completion_tokens: int
    ) -> list[ServerReply]:
        """The choices of one request, within the cost ceiling.

        Args:
          path, body, prompt_bytes, completion_tokens: as for `ApiRequests.request`.
        Returns: the choices, as the server orders them.
        """
        return self._requests.request(path, body, prompt_bytes, completion_tokens)
