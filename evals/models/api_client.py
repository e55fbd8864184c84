"""JSON over HTTP to an OpenAI-compatible server: the key, what is retried, and how errors are reported.

Temporary failures are retried after a pause that doubles, or that lasts as long as the server asks for
(Retry-After, up to a limit). The key goes to a single address and is cut out of whatever a server says.
Standard library only. Not covered: what is asked (api_requests), what is spent (api_spending).
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
from collections.abc import Callable
from dataclasses import dataclass

from jaxmoe.json_values import JsonObject

# temporary failures; so are all codes from 500, as overloaded servers and gateways have their own (520, 529)
RETRIED = (408, 409, 425, 429)
# faults of a single request, not of the server, key or model
ONE_REQUEST = (400, 413, 422, 451)
# where servers say that a prompt is filtered; a plain 403 is about the key
MAY_FILTER = (*ONE_REQUEST, 403)
FILTERED = (
    "content_filter",
    "content filter",
    "content management policy",
    "content policy",
    "content_policy",
    "input was flagged",
)
# of what a server says about an error: bytes that are read, characters that are shown
READ, SHOWN = 1 << 16, 300
HIDDEN = "[key]"
# more than any answer has: a reply without an end is not an answer
MOST_BYTES = 16 << 20


class ApiError(ValueError):
    """The server cannot be used: a wrong address, key or model, or it keeps failing."""


class RequestFailedError(ApiError):
    """One request failed in every try, or it alone is refused."""


class RequestRefusedError(RequestFailedError):
    """The server refuses this request alone, such as a prompt beyond its context."""


class ContentFilterError(RequestRefusedError):
    """The server does not let this prompt through."""


class RedirectError(RequestFailedError):
    """The server redirects this request to another address, to which no key is sent."""


class _NoReplyError(ValueError):
    """What came with status 200 is not a reply."""


@dataclass(frozen=True)
class Retries:
    """How often a request is tried, and how long it waits in between.

    Attributes:
      attempts: tries of one request.
      timeout_s: of one try.
      wait_s, longest_wait_s: the first pause and the longest, in seconds.
      longest_retry_after_s: the longest wait that a server may ask for, in seconds.
      sleep: waits for the given seconds.
    """

    attempts: int = 6
    timeout_s: float = 60.0
    wait_s: float = 0.5
    longest_wait_s: float = 60.0
    longest_retry_after_s: float = 300.0
    sleep: Callable[[float], None] = time.sleep


class ApiClient:
    """Posts JSON to the routes of one server; may be called from several threads.

    Args:
      url: base address, such as "http://localhost:8000/v1"; it is recorded, so it must not contain a key.
      key_variable: the environment variable that holds the key; no key is sent if it is unset.
      retries: how often a request is tried.
      say: called once with each thing that is cut short.
    Raises: ValueError for an address that may hold a secret, or a name that no variable can have.
    """

    def __init__(self, url: str, key_variable: str, retries: Retries, say: Callable[[str], None]):
        _check_address(url)
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", key_variable):
            raise ValueError(
                "key_variable must name an environment variable that holds the key, not be the key"
            )
        self.url, self._key_variable, self._retries, self._tell = url, key_variable, retries, say
        self._lock = threading.Lock()
        self._said: set[str] = set()

    def say(self, line: str) -> None:
        """Passes a line on, unless it has been passed on before."""
        with self._lock:
            if line in self._said:
                return
            self._said.add(line)
        self._tell(line)

    def post(self, path: str, body: JsonObject) -> JsonObject:
        """Sends one request, retrying it if it fails.

        Args:
          path: of the route, under the base address.
          body: the request.
        Returns: the reply.
        Raises: RequestFailedError if all tries failed or this request alone is refused, ApiError for what
          would make any other request fail too.
        """
        key = self.key()
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        address = f"{self.url.rstrip('/')}/{path}"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        pause, said = self._retries.wait_s, ""
        for attempt in range(self._retries.attempts):
            asked: float | None = None
            try:
                return self._send(request)
            except urllib.error.HTTPError as error:
                with error:
                    detail = hidden(_body(error), key)
                said = f"HTTP {error.code} {detail}"[:SHOWN].rstrip()
                if 300 <= error.code < 400:
                    raise RedirectError(_redirected(address, error.headers.get("Location"))) from None
                if error.code < 500 and error.code not in RETRIED:
                    raise _refusal(error.code, detail)(f"{address} refuses the request: {said}") from None
                asked = self._bounded(retry_after(error.headers.get("Retry-After")))
            except (http.client.HTTPException, OSError) as error:
                said = hidden(f"{type(error).__name__}: {error}", key)[:SHOWN]
            except _NoReplyError as error:
                said = hidden(str(error), key)[:SHOWN]
            if attempt + 1 < self._retries.attempts:
                # some randomness, so that requests that failed together are not retried together
                self._retries.sleep(asked if asked is not None else pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, self._retries.longest_wait_s)
        raise RequestFailedError(f"no answer after {self._retries.attempts} attempts; the last: {said}")

    def _send(self, request: urllib.request.Request) -> JsonObject:
        opener = urllib.request.build_opener(_Stay)
        with opener.open(request, timeout=self._retries.timeout_s) as response:
            return _object(response.read(MOST_BYTES + 1))

    def key(self) -> str:
        """The value of the environment variable; empty if it is unset."""
        key = os.environ.get(self._key_variable, "").strip()
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ApiError(
                f"the key in {self._key_variable} must be printable ASCII without spaces or line breaks; "
                "set it again"
            )
        return key

    def _bounded(self, asked: float | None) -> float | None:
        if asked is None or asked <= self._retries.longest_retry_after_s:
            return asked
        self.say(
            f"{self.url} asks to wait {asked:.0f} s (Retry-After); tried again after "
            f"{self._retries.longest_retry_after_s:g} s"
        )
        return self._retries.longest_retry_after_s


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: urllib would send the key along, to whatever host a server names."""

    def redirect_request(self, *_: object) -> None:
        return None


def _body(error: urllib.error.HTTPError) -> str:
    """What a server says about an error; empty if it breaks off or stalls, since the status is known."""
    try:
        return error.read(READ).decode("utf-8", "replace").strip()
    except (http.client.HTTPException, OSError):
        return ""


def _refusal(status: int, detail: str) -> type[ApiError]:
    """Whether a server refuses the prompt, one request, or all of them."""
    if status in MAY_FILTER and any(words in detail.casefold() for words in FILTERED):
        return ContentFilterError
    return RequestRefusedError if status in ONE_REQUEST else ApiError


def _redirected(address: str, location: str | None) -> str:
    """A message that a server redirects, and to which host; the rest of its address may hold anything."""
    try:
        host = urllib.parse.urlsplit(urllib.parse.urljoin(address, location or "")).hostname
    except ValueError:
        host = None
    host = host or "nowhere"
    return f"{address} redirects to {host}; the key is not sent there: give the right address as url"


def hidden(text: str, key: str) -> str:
    """A text without the key, even where the key is part of an address.

    Args:
      text: what may be shown or written down.
      key: the secret; nothing is replaced if it is empty.
    Returns: the text with HIDDEN in place of the key, as it is and percent-encoded.
    """
    for form in (key, urllib.parse.quote(key, safe="")):
        text = text.replace(form, HIDDEN) if form else text
    return text


def is_address(text: str) -> bool:
    """Whether the text begins like the address of a server, in upper or lower case."""
    return text.lower().startswith(("http://", "https://"))


def _check_address(url: str) -> None:
    """Raises ValueError for an address that may hold a secret, without showing any of it."""
    host = re.split("[/?#]", url.partition("://")[2] or url)[0]
    if "@" in host or "?" in url or "#" in url:
        raise ValueError(
            "url must hold no user, password, query or fragment, as it is written down; put the key into the "
            "environment variable that key_variable names"
        )
    if not is_address(url):
        raise ValueError(f"url must begin with http:// or https://; got {url!r}")
    if not host or host.startswith(":"):
        raise ValueError(f"url must name a host; got {url!r}")


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


def retry_after(value: str | None, now: float | None = None) -> float | None:
    """How long a Retry-After header asks the client to wait.

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
        # a date or offset that no clock can show
        except (ValueError, OverflowError, OSError):
            return None
        seconds = moment - (time.time() if now is None else now)
    return max(0.0, seconds) if math.isfinite(seconds) else None
