"""`python -m rl.sandbox serve`: grades programs for other machines over HTTP.

    GET  /health    {"status": "ok"}, without a token
    GET  /workers   {"workers": 8, "packages": ["numpy"]}
    POST /grade     a request of rl.hosts.wire -> its reply: 200 with feedback, 422 with a refusal

Anyone who has the token may run programs, though only in the sandbox: each is bounded by its own limits,
which must not exceed the server's, and the queue by its length (503).
"""

import asyncio
import hmac
from typing import NamedTuple

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rl.feedback.language import Limits
from rl.feedback.pool import Pool
from rl.hosts.remote import reply_of
from rl.hosts.wire import GradingRequest, Refusal, read_request, write_reply

_MOST_BODY = 256 << 20


class ServerRules(NamedTuple):
    """Who may send requests, and for how much.

    Attributes:
      token: that requests must carry.
      most: the largest limits that a request may ask for.
      packages: that programs may import.
      queue: number of programs that may wait for each worker.
    """

    token: str
    most: Limits
    packages: tuple[str, ...]
    queue: int = 4


def grading_app(pool: Pool, workers: int, rules: ServerRules) -> Starlette:
    """The application.

    Args:
      pool: grades the programs; it is not closed here.
      workers: number of programs that it grades at once.
      rules: who may send requests, and for how much.
    Returns: an ASGI application.
    """
    server = _Server(pool, workers, rules)
    return Starlette(
        routes=[
            Route("/health", server.health),
            Route("/workers", server.workers),
            Route("/grade", server.grade, methods=["POST"]),
        ]
    )


class _Server:
    def __init__(self, pool: Pool, workers: int, rules: ServerRules):
        self._pool, self._workers, self._rules = pool, workers, rules
        self._pending = 0

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def workers(self, request: Request) -> Response:
        if not self._knows(request):
            return _not_known()
        return JSONResponse({"workers": self._workers, "packages": list(self._rules.packages)})

    async def grade(self, request: Request) -> Response:
        if not self._knows(request):
            return _not_known()
        if self._pending >= self._workers * (1 + self._rules.queue):
            return JSONResponse({"error": "the queue is full"}, 503, {"Retry-After": "1"})
        self._pending += 1
        try:
            return await self._graded(request)
        except ClientDisconnect:
            return Response(status_code=499)
        finally:
            self._pending -= 1

    async def _graded(self, request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MOST_BODY:
                return _refused(f"a request has at most {_MOST_BODY >> 20} MiB")
        try:
            asked = await asyncio.to_thread(read_request, bytes(body))
            self._check(asked)
        except ValueError as error:
            return _refused(str(error))
        graded = self._pool.submit(asked.problem, asked.program, settings=asked.settings, reward=asked.reward)
        await asyncio.wait([asyncio.wrap_future(graded)])
        reply = reply_of(graded)
        status = 422 if isinstance(reply, Refusal) else 200
        return Response(write_reply(reply), status, media_type="application/json")

    def _check(self, asked: GradingRequest) -> None:
        limits, most = asked.settings.limits, self._rules.most
        for name in ("time_s", "memory_bytes", "output_bytes", "threads", "timeouts", "compile_s"):
            if getattr(limits, name) > getattr(most, name):
                allowed, wanted = getattr(most, name), getattr(limits, name)
                raise ValueError(f"the limit {name} may be {allowed} on this server; got {wanted}")

    def _knows(self, request: Request) -> bool:
        given = request.headers.get("authorization", "")
        return hmac.compare_digest(given.encode(), f"Bearer {self._rules.token}".encode())


def _not_known() -> Response:
    return JSONResponse({"error": "the token is missing or wrong"}, 401)


def _refused(why: str) -> Response:
    return Response(write_reply(Refusal("request", why)), 422, media_type="application/json")
