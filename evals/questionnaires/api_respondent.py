"""A model behind an OpenAI-compatible server as a respondent: written answers, over HTTP.

A few requests run side by side; what fails for a while is tried again after a pause that doubles, or as
long as the server asks for (Retry-After); a ceiling on cost ends the administration before it is passed.
Standard library alone. Not covered: streaming, batch endpoints, log-probabilities over HTTP.
"""

import email.utils
import http.client
import json
import math
import os
import random
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from evals.questionnaires.reading import parse
from evals.questionnaires.respondent import ERROR, Answer, Question, no_answer
from jaxmoe.json_values import JsonObject

RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
# of what a server says of an error: bytes that are read, characters that are shown
READ, SHOWN = 1 << 16, 300
HIDDEN = "[key]"
# a shorter word, as servers without keys take ("EMPTY"), is no secret, and may stand in an answer
SECRET_LENGTH = 16


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


@dataclass
class ApiRespondent:
    """Asks a server's chat completions.

    Attributes:
      url: base address, as "http://localhost:8000/v1"; it is written down, so it must hold no key.
      key_variable: the environment variable that holds the key; none is sent if it is unset. The key goes to
        `url` alone, not where a server redirects to, and is cut out of whatever a server says.
      concurrency: requests side by side.
      attempts: tries of one request; wait_s, longest_wait_s: the first pause and the longest, in seconds.
      give_up_after: failed questions in a row after which the server counts as broken.
      cost_ceiling: the most to be spent; prompt_price, completion_price: for a million tokens.
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
    give_up_after: int = 5
    cost_ceiling: float | None = None
    prompt_price: float = 0.0
    completion_price: float = 0.0
    usage: Usage = field(default_factory=Usage)
    sleep: Callable[[float], None] = time.sleep

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
        self._lock = threading.Lock()
        self._promised = 0.0

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model

    @property
    def repeats_itself(self) -> bool:
        """At temperature 0, as far as the server keeps to it."""
        return self.temperature == 0

    def answer(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """Answers as they arrive; what failed for good is an answer with the code error.

        Raises: ApiError if the server refuses a request itself, or fails too often in a row;
          CostCeilingError.
        """
        failures = 0
        for number, text in self._texts(
            [question.prompt for question in questions], [question.seed for question in questions]
        ):
            if isinstance(text, Exception):
                failures += 1
                if failures >= self.give_up_after:
                    raise ApiError(
                        f"{self.url} failed {failures} questions in a row; the last time: {text}"
                    ) from text
                yield number, no_answer(ERROR, str(text))
            else:
                failures = 0
                yield number, parse(questions[number], text)

    def write(self, prompts: Sequence[str], seed: int = 0) -> list[str]:
        """What the model answers to each prompt; raises the first error."""
        texts = [""] * len(prompts)
        for number, text in self._texts(prompts, [seed] * len(prompts)):
            if isinstance(text, Exception):
                raise text
            texts[number] = text
        return texts

    def _texts(self, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[int, str | Exception]]:
        """At most `concurrency` requests at a time, so that nothing is asked that nobody waits for."""
        pool = ThreadPoolExecutor(self.concurrency)
        running: dict[Future[str], int] = {}
        rest = iter(enumerate(prompts))
        fault: ApiError | CostCeilingError | None = None
        try:
            while True:
                while (
                    fault is None
                    and len(running) < self.concurrency
                    and (task := next(rest, None)) is not None
                ):
                    number, prompt = task
                    running[pool.submit(self._ask, prompt, seeds[number])] = number
                if not running:
                    break
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    number = running.pop(done)
                    try:
                        yield number, done.result()
                    except RetriedError as error:
                        yield number, error
                    except (ApiError, CostCeilingError) as error:
                        fault = error  # said when the answers on their way are in
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        if fault is not None:
            raise fault

    def _ask(self, prompt: str, seed: int) -> str:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self.temperature,
            "max_tokens": self.max_new_tokens,
            "seed": seed,
        }
        # a token has at least one byte, so this is never too low
        most = self._price(len(prompt.encode()) + 16, self.max_new_tokens)
        self._promise(most)
        try:
            reply = self._post(body)
        finally:
            self._promise(-most)
        return self._count(reply)

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

    def _count(self, reply: JsonObject) -> str:
        try:
            text = reply["choices"][0]["message"]["content"] or ""
        except (KeyError, IndexError, TypeError):
            said = hidden(str(reply), self._key())[:SHOWN]
            raise ApiError(f"{self.url} does not answer as chat completions do: {said}") from None
        key = self._key()
        if len(key) >= SECRET_LENGTH:
            text = hidden(str(text), key)
        used = reply.get("usage") or {}
        prompt, completion = used.get("prompt_tokens", 0), used.get("completion_tokens", 0)
        with self._lock:
            self.usage.requests += 1
            self.usage.prompt_tokens += prompt
            self.usage.completion_tokens += completion
            self.usage.cost += self._price(prompt, completion)
        return str(text)

    def _post(self, body: JsonObject) -> JsonObject:
        """One request, repeated. Raises: RetriedError if all failed, ApiError for what cannot help."""
        key = self._key()
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        address = f"{self.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        pause, said = self.wait_s, ""
        for attempt in range(self.attempts):
            asked: float | None = None
            try:
                return self._send(request)
            except urllib.error.HTTPError as error:
                with error:
                    said = f"HTTP {error.code} {error.read(READ).decode('utf-8', 'replace').strip()}"
                said = hidden(said, key)[:SHOWN]
                if 300 <= error.code < 400:
                    raise ApiError(_redirected(address, error.headers.get("Location"))) from None
                if error.code not in RETRIED:
                    raise ApiError(f"{address} refuses the request: {said}") from None
                asked = retry_after(error.headers.get("Retry-After"))
            except (urllib.error.URLError, http.client.HTTPException, TimeoutError, OSError) as error:
                said = hidden(f"{type(error).__name__}: {error}", key)[:SHOWN]
            except ValueError as error:  # not JSON, not UTF-8
                said = f"no JSON: {hidden(str(error), key)}"[:SHOWN]
            if attempt + 1 < self.attempts:
                # some randomness, so that requests that failed together do not come back together
                self.sleep(asked if asked is not None else pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, self.longest_wait_s)
        raise RetriedError(f"no answer after {self.attempts} attempts; the last: {said}")

    def _send(self, request: urllib.request.Request) -> JsonObject:
        opener = urllib.request.build_opener(_Stay)
        with opener.open(request, timeout=self.timeout_s) as response:
            return json.loads(response.read())

    def _key(self) -> str:
        """What the environment variable holds; empty if it is unset."""
        key = os.environ.get(self.key_variable, "").strip()
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ApiError(
                f"the key in {self.key_variable} must be printable ASCII without spaces or line breaks; "
                "set it again"
            )
        return key


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
    """A text without the key, also where it stands as part of an address."""
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


class RetriedError(ApiError):
    """One request failed as often as it was tried."""


def retry_after(value: str | None, now: float | None = None) -> float | None:
    """Seconds to wait from a Retry-After header, a number or an HTTP date; None if it says nothing."""
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
