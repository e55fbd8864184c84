"""Servers of `python -m rl.sandbox serve` as hosts that grade programs."""

import http.client
import json
import os
import time
import urllib.parse

from rl.hosts.remote import HostLostError
from rl.sandbox.worker import SandboxError

TOKEN_VARIABLE = "JAXMOE_SANDBOX_TOKEN"
_CONNECT_S = 10.0
_MOST_REPLY = 256 << 20
_BUSY_S = 0.5


class HttpServer:
    """A server (`rl.hosts.remote.Host`). Redirects are not followed, so that only it gets the token.

    Args:
      address: http://HOST:PORT, or https.
      packages: that programs may import.
    Raises: SandboxError for any other address, or if there is no token.
    """

    def __init__(self, address: str, packages: tuple[str, ...]):
        parts = urllib.parse.urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
            raise SandboxError(f"sandbox.hosts names servers as http://HOST:PORT; got {address!r}")
        token = os.environ.get(TOKEN_VARIABLE)
        if not token:
            raise SandboxError(f"{address} needs the token that it was started with in {TOKEN_VARIABLE}")
        self.name, self._packages, self._token = address, packages, token
        self._parts = parts

    def open(self) -> int:
        """Asks how many programs it takes at once. Raises: HostLostError; SandboxError if it refuses."""
        status, body = self._ask("GET", "/workers", None, _CONNECT_S)
        if status == 401:
            raise SandboxError(f"{self.name} refuses the token in {TOKEN_VARIABLE}")
        try:
            told = json.loads(body)
            workers, packages = int(told["workers"]), set(map(str, told["packages"]))
        except (ValueError, KeyError, TypeError) as error:
            raise HostLostError(f"{self.name} is no server of programs to grade (HTTP {status})") from error
        if lacking := sorted(set(self._packages) - packages):
            raise SandboxError(
                f"{self.name} lets programs import {', '.join(sorted(packages)) or 'no packages'}, "
                f"not {', '.join(lacking)} (its option --packages)"
            )
        return workers

    def grade(self, request: bytes, time_s: float) -> bytes:
        """See `rl.hosts.remote.Host`.

        Args:
          request: of `rl.hosts.wire`.
          time_s: time after which the server counts as lost, including the wait in its queue.
        Returns: a reply of `rl.hosts.wire`.
        Raises: HostLostError.
        """
        until = time.monotonic() + time_s
        while time.monotonic() < until:
            status, body = self._ask("POST", "/grade", request, until - time.monotonic())
            if status in (200, 422):
                return body
            if status != 503:
                raise HostLostError(f"{self.name} replied with HTTP {status}")
            time.sleep(_BUSY_S)  # others use it too
        raise HostLostError(f"{self.name} did not take a program in {time_s:.0f} s")

    def _ask(self, method: str, path: str, body: bytes | None, time_s: float) -> tuple[int, bytes]:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=max(1.0, time_s))
        try:
            connection.request(
                method,
                path,
                body,
                {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
            )
            response = connection.getresponse()
            content = response.read(_MOST_REPLY + 1)
        except (http.client.HTTPException, OSError) as error:
            raise HostLostError(f"{self.name} is lost ({error or type(error).__name__})") from error
        finally:
            connection.close()
        if len(content) > _MOST_REPLY:
            raise HostLostError(f"{self.name} sent more than {_MOST_REPLY >> 20} MiB")
        return response.status, content

    def close(self) -> None:
        """Does nothing: no connection is kept open."""
