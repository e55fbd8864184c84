"""A model behind an OpenAI-compatible server as a respondent: written answers, over HTTP.

A few requests run side by side; what fails for a while is tried again after a pause that doubles, or as
long as the server asks for (Retry-After, up to a limit). A request that fails for good costs one answer;
several in a row end the administration, and so does a ceiling on cost before it is passed.
Standard library alone. Not covered: streaming, batch endpoints; log-probabilities (api_scoring).
"""

import email.utils
import http.client
import json
import math
import os
import random
import re
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from evals.questionnaires.answer_text import without_thoughts
from evals.questionnaires.reading import parse
from evals.questionnaires.respondent import ERROR, REFUSED, Answer, Question, no_answer
from jaxmoe.json_values import JsonObject

RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
# what is wrong with one request and not with the server, key or model
ONE_REQUEST = (400, 413, 422)
FILTERED = ("content_filter", "content filter", "content management policy", "content policy")
# of what a server says of an error: bytes that are read, characters that are shown
READ, SHOWN = 1 << 16, 300
HIDDEN = "[key]"
# a shorter word, as servers without keys take ("EMPTY"), is no secret, and may stand in an answer
SECRET_LENGTH = 16
# more than any answer has: a reply without end is no answer
MOST_BYTES = 16 << 20
Done = TypeVar("Done")


class ApiError(ValueError):
    """The server cannot be used: a wrong address, key or model, or it keeps failing."""


class CostCeilingError(ValueError):
    """The next request might pass the ceiling on cost."""


@dataclass
class Usage:
    """What was spent: requests that were answered, tokens, and their price in the currency of the prices."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


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
      key_variable: the environment variable that holds the key; none is sent if it is unset. The key goes to
        `url` alone, not where a server redirects to, and is cut out of whatever a server says.
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
    usage: Usage = field(default_factory=Usage)
    sleep: Callable[[float], None] = time.sleep
    say: Callable[[str], None] = _to_stderr
    tokens_name: str = "max_tokens"
    shown_as: str = ""

    def __post_init__(self) -> None:
        _check_address(self.url)
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", self.key_variable):
            raise ValueError(
                "key_variable must name an environment variable that holds the key, not be the key"
            )
        if self.concurrency < 1 or self.attempts < 1:
            raise ValueError(
                f"concurrency and attempts must be at least 1; got {self.concurrency} and {self.attempts}"
            )
        if self.cost_ceiling is not None and not (self.prompt_price > 0 or self.completion_price > 0):
            raise ValueError(
                f"a cost ceiling of {self.cost_ceiling} needs prompt_price and completion_price "
                "(for a million tokens)"
            )
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1; got {self.max_new_tokens}")
        self._lock = threading.Lock()
        self._promised = 0.0
        self._ledger: Path | None = None
        self._said: set[str] = set()

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

    def account(self, path: Path) -> None:
        """Counts what earlier sessions spent into the ceiling, and keeps the file up to date.

        Raises: ValueError if the file is not such an account.
        """
        with self._lock:
            if path == self._ledger:
                return
            if path.exists():
                try:
                    self.usage = Usage(**json.loads(path.read_text(encoding="utf-8")))
                except (ValueError, TypeError) as error:
                    raise ValueError(
                        f"{path} is no record of what was spent ({error}); mend or delete it"
                    ) from None
            elif self._ledger is not None:
                self.usage = Usage()
            self._ledger = path

    def answer(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """Answers as they arrive; what failed for good is an answer with the code error.

        Raises: ApiError if the server refuses key, address or model, or fails too often in a row;
          CostCeilingError.
        """
        return self.guarded(partial(self._written, question) for question in questions)

    def guarded(self, tasks: Iterable[Callable[[], Answer]]) -> Iterator[tuple[int, Answer]]:
        """Answers of tasks that ask the server, side by side; too many failures in a row raise ApiError."""
        failures = 0
        for number, found in self._each(tasks):
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
        for number, found in self._each(partial(self._ask, prompt, seed) for prompt in prompts):
            if isinstance(found, Exception):
                failures += 1
                if failures >= self.give_up_after:
                    raise ApiError(
                        f"{self.url} failed {failures} texts in a row; the last time: {found}"
                    ) from found
                self._say(f"no text was written for a prompt: {found}")
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

    def _each(self, tasks: Iterable[Callable[[], Done]]) -> Iterator[tuple[int, Done | Exception]]:
        """At most `concurrency` requests at a time, so that nothing is asked that nobody waits for."""
        pool = ThreadPoolExecutor(self.concurrency)
        running: dict[Future[Done], int] = {}
        rest = iter(enumerate(tasks))
        fault: ApiError | CostCeilingError | None = None
        try:
            while True:
                while (
                    fault is None
                    and len(running) < self.concurrency
                    and (task := next(rest, None)) is not None
                ):
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
        self._promise(self._price(*most))
        try:
            reply = self._post(path, {"model": self.model, **body})
            self._count(reply, most)
        finally:
            self._promise(-self._price(*most))
        return self._choices(reply)

    def _promise(self, cost: float) -> None:
        with self._lock:
            expected = self.usage.cost + self._promised + cost
            if cost > 0 and self.cost_ceiling is not None and expected > self.cost_ceiling:
                raise CostCeilingError(
                    f"the next request might pass the cost ceiling of {self.cost_ceiling:g} (spent "
                    f"{self.usage.cost:.4g} in {self.usage.requests} requests); raise cost_ceiling to resume"
                )
            self._promised += cost

    def _price(self, prompt_tokens: float, completion_tokens: float) -> float:
        return (prompt_tokens * self.prompt_price + completion_tokens * self.completion_price) / 1e6

    def _choices(self, reply: JsonObject) -> list[ServerReply]:
        try:
            choices = [dict(choice) for choice in reply["choices"]]
            texts = [c["message"]["content"] if "message" in c else c["text"] for c in choices]
        except (KeyError, TypeError, ValueError):
            choices, texts = [], []
        if not choices:
            said = hidden(str(reply), self._key())[:SHOWN]
            raise RequestFailedError(f"{self.url} does not answer as completions do: {said}")
        key = self._key()
        secret = key if len(key) >= SECRET_LENGTH else ""
        return [
            ServerReply(hidden(_joined(text), secret), str(choice.get("finish_reason") or ""), choice)
            for text, choice in zip(texts, choices, strict=True)
        ]

    def _count(self, reply: JsonObject, most: tuple[int, int]) -> None:
        used = reply.get("usage")
        told = used if isinstance(used, dict) else {}
        counts = [
            count
            for name in ("prompt_tokens", "completion_tokens")
            if isinstance(count := told.get(name), int) and count >= 0
        ]
        if len(counts) < 2:
            counts = list(most)
            self._say(f"{self.url} does not say how many tokens it used; the most possible is counted")
        with self._lock:
            self.usage.requests += 1
            self.usage.prompt_tokens += counts[0]
            self.usage.completion_tokens += counts[1]
            self.usage.cost += self._price(*counts)
            if self._ledger is not None:
                part = self._ledger.with_name(f"{self._ledger.name}.part")
                part.write_text(json.dumps(asdict(self.usage)) + "\n", encoding="utf-8")
                part.replace(self._ledger)

    def _say(self, line: str) -> None:
        with self._lock:
            if line in self._said:
                return
            self._said.add(line)
        self.say(line)

    def _post(self, path: str, body: JsonObject) -> JsonObject:
        """One request, repeated.

        Raises: RequestFailedError if all tries failed or this request alone is refused, ApiError for what
          no other request would help.
        """
        key = self._key()
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        address = f"{self.url.rstrip('/')}/{path}"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        pause, said = self.wait_s, ""
        for attempt in range(self.attempts):
            asked: float | None = None
            try:
                return self._send(request)
            except urllib.error.HTTPError as error:
                with error:
                    detail = hidden(error.read(READ).decode("utf-8", "replace").strip(), key)
                said = f"HTTP {error.code} {detail}"[:SHOWN]
                if 300 <= error.code < 400:
                    raise ApiError(_redirected(address, error.headers.get("Location"))) from None
                if error.code in ONE_REQUEST:
                    filtered = any(words in detail.casefold() for words in FILTERED)
                    raise (ContentFilterError if filtered else RequestFailedError)(
                        f"{address} refuses the request: {said}"
                    ) from None
                if error.code not in RETRIED:
                    raise ApiError(f"{address} refuses the request: {said}") from None
                asked = self._bounded(retry_after(error.headers.get("Retry-After")))
            except (http.client.HTTPException, OSError) as error:
                said = hidden(f"{type(error).__name__}: {error}", key)[:SHOWN]
            except _NoReplyError as error:
                said = hidden(str(error), key)[:SHOWN]
            if attempt + 1 < self.attempts:
                # some randomness, so that requests that failed together do not come back together
                self.sleep(asked if asked is not None else pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, self.longest_wait_s)
        raise RequestFailedError(f"no answer after {self.attempts} attempts; the last: {said}")

    def _send(self, request: urllib.request.Request) -> JsonObject:
        opener = urllib.request.build_opener(_Stay)
        with opener.open(request, timeout=self.timeout_s) as response:
            return _object(response.read(MOST_BYTES + 1))

    def _key(self) -> str:
        """What the environment variable holds; empty if it is unset."""
        key = os.environ.get(self.key_variable, "").strip()
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ApiError(
                f"the key in {self.key_variable} must be printable ASCII without spaces or line breaks; "
                "set it again"
            )
        return key

    def _bounded(self, asked: float | None) -> float | None:
        if asked is None or asked <= self.longest_retry_after_s:
            return asked
        self._say(
            f"{self.url} asks to wait {asked:.0f} s (Retry-After); tried again after "
            f"{self.longest_retry_after_s:g} s"
        )
        return self.longest_retry_after_s


class _Stay(urllib.request.HTTPRedirectHandler):
    """Goes nowhere else: urllib would send the key along, to whatever host a server names."""

    def redirect_request(self, *_: object) -> None:
        return None


def _redirected(address: str, location: str | None) -> str:
    """That a server sends us on, and to which host; the rest of its address may hold anything."""
    try:
        host = urllib.parse.urlsplit(urllib.parse.urljoin(address, location or "")).hostname
    except ValueError:
        host = None
    host = host or "nowhere"
    return f"{address} redirects to {host}; the key is not sent there: give the right address as url"


def hidden(text: str, key: str) -> str:
    """A text without the key, also where it stands as part of an address.

    Args:
      text: what may be shown or written down.
      key: the secret; nothing is replaced if it is empty.
    Returns: the text with HIDDEN in place of the key, as it is and percent-encoded.
    """
    for form in (key, urllib.parse.quote(key, safe="")):
        text = text.replace(form, HIDDEN) if form else text
    return text


def _check_address(url: str) -> None:
    """Raises ValueError, which shows nothing of an address that may hold a secret."""
    host = re.split("[/?#]", url.partition("://")[2] or url)[0]
    if "@" in host or "?" in url or "#" in url:
        raise ValueError(
            "url must hold no user, password, query or fragment, as it is written down; put the key into the "
            "environment variable that key_variable names"
        )
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"url must begin with http:// or https://; got {url!r}")


class RequestFailedError(ApiError):
    """One request failed as often as it was tried, or is refused alone."""


class ContentFilterError(RequestFailedError):
    """The server does not let this prompt through."""


class _NoReplyError(ValueError):
    """What came with status 200 is no reply."""


def _object(raw: bytes) -> JsonObject:
    if len(raw) > MOST_BYTES:
        raise _NoReplyError(f"a reply of more than {MOST_BYTES} bytes")
    try:
        found = json.loads(raw)
    except RecursionError:
        raise _NoReplyError("no JSON: nested too deeply") from None
    except ValueError as error:
        raise _NoReplyError(f"no JSON: {error}") from None
    if not isinstance(found, dict):
        raise _NoReplyError(f"no JSON object: {found!s}")
    if found.get("error"):
        raise _NoReplyError(f"an error in the reply: {found['error']!s}")
    return found


def _joined(content: object) -> str:
    """The text of a message: a string, or a list of parts as some servers send it."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(text for text in parts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def retry_after(value: str | None, now: float | None = None) -> float | None:
    """How long a Retry-After header asks to wait.

    Args:
      value: a number of seconds or an HTTP date.
      now: seconds since the epoch; the clock's if left out.
    Returns: seconds; None if it says nothing.
    """
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = email.utils.parsedate_to_datetime(value).timestamp()
        except ValueError:
            return None
        seconds = moment - (time.time() if now is None else now)
    return max(0.0, seconds) if math.isfinite(seconds) else None
