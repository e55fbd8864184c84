"""A model behind an OpenAI-compatible server as a respondent: written answers, over HTTP.

A few requests run side by side. A request that fails for good costs one answer; several in a row end the
administration, and so does a ceiling on cost before it is passed (api_spending).
Not covered: streaming, batch endpoints; HTTP, keys and retries (api_client); log-probabilities (api_scoring).
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from evals.questionnaires.answer_text import without_thoughts
from evals.questionnaires.reading import parse
from evals.questionnaires.respondent import ERROR, REFUSED, Answer, Question, no_answer
from evals.questionnaires.respondents.api_client import (
    SHOWN,
    ApiClient,
    ApiError,
    ContentFilterError,
    RequestFailedError,
    Retries,
    hidden,
)
from evals.questionnaires.respondents.api_spending import CostCeilingError, Spending, Usage
from jaxmoe.json_values import JsonObject

# a shorter word, as servers without keys take ("EMPTY"), is no secret, and may stand in an answer
SECRET_LENGTH = 16
Done = TypeVar("Done")


class ServerReply(NamedTuple):
    """What the server sent: the text, why it ended (stop, length, content_filter), and the whole choice."""

    text: str
    finish: str
    choice: JsonObject


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass
class ApiRespondent:
    """Asks a server's chat completions.

    Attributes:
      url: base address, as "http://localhost:8000/v1"; it is written down, so it must hold no key.
      key_variable: the environment variable that holds the key; none is sent if it is unset. It goes to
        `url` alone (api_client).
      concurrency: requests side by side.
      max_new_tokens: of an answer, thoughts included: reasoning models need some thousands.
      tokens_name: what the server calls this limit: max_tokens, or max_completion_tokens.
      attempts: tries of one request; wait_s, longest_wait_s: the first pause and the longest, in seconds.
      longest_retry_after_s: the longest that a server may ask to wait, in seconds.
      give_up_after: failed questions in a row after which the server counts as broken.
      cost_ceiling: the most to be spent; prompt_price, completion_price: for a million tokens.
      shown_as: its name in tables, the model's if empty.
      say: is told, once, what is cut short or counted by guess.
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
        self._spending = Spending(self.cost_ceiling, self.prompt_price, self.completion_price)
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1; got {self.max_new_tokens}")

    @property
    def name(self) -> str:
        """The model's name, or what it is shown as."""
        return self.shown_as or self.model

    @property
    def repeats_itself(self) -> bool:
        """At temperature 0, as far as the server keeps to it."""
        return self.temperature == 0

    @property
    def settings(self) -> dict[str, object]:
        """What answers depend on: an administration resumes with the same only."""
        return {
            "url": self.url,
            "server model": self.model,
            "mode": "written",
            "temperature": self.temperature,
            "max_new_tokens": self.max_new_tokens,
        }

    @property
    def usage(self) -> Usage:
        """What was spent so far."""
        return self._spending.usage

    def account(self, path: Path) -> None:
        """Counts what earlier sessions spent into the ceiling, and keeps the file up to date.

        Raises: ValueError if the file is not such an account.
        """
        self._spending.keep(path)

    def answer(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """Answers as they arrive; what failed for good is an answer with the code error.

        Raises: ApiError if the server refuses key, address or model, or fails too often in a row;
          CostCeilingError.
        """
        return self.guarded(partial(self._written, question) for question in questions)

    def guarded(self, tasks: Iterable[Callable[[], Answer]]) -> Iterator[tuple[int, Answer]]:
        """Answers of tasks that ask the server, side by side; too many failures in a row raise ApiError."""
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
          prompts: one each, independent of each other.
          seed: of sampling, sent with each.
        Returns: a text each, without thoughts; empty, and said, where a request fails for good.
        Raises: as `answer`.
        """
        texts, failures = [""] * len(prompts), 0
        asked = (partial(self._ask, prompt, seed) for prompt in prompts)
        for number, found in side_by_side(asked, self.concurrency):
            if isinstance(found, Exception):
                failures += 1
                if failures >= self.give_up_after:
                    raise ApiError(
                        f"{self.url} failed {failures} texts in a row; the last time: {found}"
                    ) from found
                self._client.say(f"no text was written for a prompt: {found}")
            else:
                failures, texts[number] = 0, without_thoughts(found.text)
        return texts

    def _written(self, question: Question) -> Answer:
        try:
            reply = self._ask(question.prompt, question.seed)
        except ContentFilterError as error:
            return no_answer(REFUSED, str(error))
        if reply.finish == "content_filter":
            return no_answer(REFUSED, f"content filter: {reply.text}")
        if reply.finish == "length" and not without_thoughts(reply.text):
            return no_answer(
                ERROR,
                f"no answer within {self.max_new_tokens} tokens, thoughts included; raise max_new_tokens",
            )
        return parse(question, reply.text)

    def _ask(self, prompt: str, seed: int) -> ServerReply:
        found = self.request(
            "chat/completions",
            {
                "messages": [{"role": "user", "content": prompt}],
                "temperature": self.temperature,
                self.tokens_name: self.max_new_tokens,
                "seed": seed,
            },
            _bytes(prompt),
            self.max_new_tokens,
        )
        return found[0]

    def request(
        self, path: str, body: JsonObject, prompt_bytes: int, completion_tokens: int
    ) -> list[ServerReply]:
        """The choices of one request to a route, within the ceiling on cost.

        Args:
          path: of the route, under the base address.
          body: what is asked, without the model.
          prompt_bytes, completion_tokens: the most that may be charged.
        Returns: the choices, as the server orders them.
        Raises: RequestFailedError for this request alone, ApiError for the server, CostCeilingError.
        """
        # a token has at least one byte, so this is never too low
        most = (prompt_bytes + 16, completion_tokens)
        with self._spending.promised(*most):
            reply = self._client.post(path, {"model": self.model, **body})
            charged = _tokens_used(reply)
            if charged is None:
                self._client.say(
                    f"{self.url} does not say how many tokens it used; the most possible is counted"
                )
            self._spending.count(*(charged or most))
        return self._choices(reply)

    def _choices(self, reply: JsonObject) -> list[ServerReply]:
        try:
            choices = [dict(choice) for choice in reply["choices"]]
            texts = [c["message"]["content"] if "message" in c else c["text"] for c in choices]
        except (KeyError, TypeError, ValueError):
            choices, texts = [], []
        if not choices:
            said = hidden(str(reply), self._client.key())[:SHOWN]
            raise RequestFailedError(f"{self.url} does not answer as completions do: {said}")
        key = self._client.key()
        secret = key if len(key) >= SECRET_LENGTH else ""
        return [
            ServerReply(hidden(_joined(text), secret), str(choice.get("finish_reason") or ""), choice)
            for text, choice in zip(texts, choices, strict=True)
        ]


def side_by_side(
    tasks: Iterable[Callable[[], Done]], concurrency: int
) -> Iterator[tuple[int, Done | Exception]]:
    """Results of tasks as they arrive. No task is begun that nobody waits for.

    Args:
      tasks: each asks the server.
      concurrency: so many at a time.
    Returns: number of the task and its result, or RequestFailedError.
    Raises: ApiError and CostCeilingError, after the answers on their way are in.
    """
    pool = ThreadPoolExecutor(concurrency)
    running: dict[Future[Done], int] = {}
    rest = iter(enumerate(tasks))
    fault: ApiError | CostCeilingError | None = None
    try:
        while True:
            while fault is None and len(running) < concurrency and (task := next(rest, None)) is not None:
                number, ask = task
                running[pool.submit(ask)] = number
            if not running:
                break
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                number = running.pop(done)
                try:
                    yield number, done.result()
                except RequestFailedError as error:
                    yield number, error
                except (ApiError, CostCeilingError) as error:
                    fault = error  # said when the answers on their way are in
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    if fault is not None:
        raise fault


def _tokens_used(reply: JsonObject) -> tuple[int, int] | None:
    """Tokens of prompt and completion as the server counts them; None if it does not say."""
    used = reply.get("usage")
    told = used if isinstance(used, dict) else {}
    counts = [told.get(name) for name in ("prompt_tokens", "completion_tokens")]
    prompt, completion = (count if isinstance(count, int) and count >= 0 else None for count in counts)
    return None if prompt is None or completion is None else (prompt, completion)


def _joined(content: object) -> str:
    """The text of a message: a string, or a list of parts as some servers send it."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(text for text in parts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
