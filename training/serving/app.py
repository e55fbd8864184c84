"""The HTTP side: OpenAI's routes over an engine worker, the key that guards them, and their errors.

One request never ends another. Each is checked before the engine sees it, exceeding a limit on body, prompt,
queue or time gets an error of its own, and a client that is gone frees its slot.
"""

import hmac
import json
import time
import traceback
from collections.abc import Awaitable, Callable
from importlib import resources

from prometheus_client import generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from jaxmoe.json_values import JsonObject
from training.serving.choices import fault
from training.serving.completions import Completions
from training.serving.protocol import RequestError
from training.serving.served_model import ServedModel, ServingLimits
from training.serving.server_metrics import ServerMetrics
from training.serving.worker import EngineWorker, Failed

Handler = Callable[[Request], Awaitable[Response]]


def make_app(
    worker: EngineWorker, model: ServedModel, limits: ServingLimits, api_key: str | None = None
) -> Starlette:
    """The application: OpenAI's three routes, /health, /metrics, and a page to chat at /.

    Args:
      worker: drives the engine; must have been entered before the first request.
      model: the names under which it is served, its tokenizer and its length.
      limits: what a request may cost.
      api_key: that clients must send; None lets everyone in.
    Returns: an ASGI application.
    """
    return _Server(worker, model, limits, api_key).app


class _Server:
    def __init__(self, worker: EngineWorker, model: ServedModel, limits: ServingLimits, api_key: str | None):
        self._worker, self._model, self._limits, self._key = worker, model, limits, api_key
        self._metrics = ServerMetrics(worker)
        self._completions = Completions(worker, model, limits, self._metrics)
        self._started = int(time.time())
        self.app = Starlette(
            routes=[
                Route("/", self._page),
                Route("/health", self._health),
                Route("/metrics", self._metrics_page),
                Route("/v1/models", self._guarded("models", self._models)),
                Route("/v1/models/{name:path}", self._guarded("models", self._one_model)),
                Route("/v1/completions", self._guarded("completions", self._text), methods=["POST"]),
                Route("/v1/chat/completions", self._guarded("chat", self._chat), methods=["POST"]),
            ],
            exception_handlers={HTTPException: _no_route},
        )

    # -- routes

    async def _page(self, _: Request) -> Response:
        return HTMLResponse((resources.files("training.serving") / "chat.html").read_text(encoding="utf-8"))

    async def _health(self, _: Request) -> Response:
        ended = self._worker.ended
        told = {"status": "ok" if ended is None else ended, "pending": self._worker.pending}
        return JSONResponse(told, 200 if ended is None else 503)

    async def _metrics_page(self, _: Request) -> Response:
        return PlainTextResponse(generate_latest(self._metrics.registry).decode())

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._told(name) for name in self._model.names]})

    async def _one_model(self, request: Request) -> Response:
        name: str = request.path_params["name"]
        self._model.experts(name)
        return JSONResponse(self._told(name))

    def _told(self, name: str) -> JsonObject:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "jaxmoe"}

    async def _text(self, request: Request) -> Response:
        return await self._completions.text(await self._body(request), request)

    async def _chat(self, request: Request) -> Response:
        return await self._completions.chat(await self._body(request), request)

    # -- what may come in

    def _guarded(self, route: str, handle: Handler) -> Handler:
        """A route behind the key, whose faults become answers."""

        async def guarded(request: Request) -> Response:
            start = time.monotonic()
            try:
                self._authorize(request)
                response = await handle(request)
            except RequestError as error:
                headers = {"Retry-After": "1"} if error.status == 429 else None
                response = JSONResponse(error.body(), error.status, headers=headers)
            except ClientDisconnect:
                response = Response(status_code=499)
            except Exception as error:  # a fault of ours: only this request gets it as its answer
                traceback.print_exc()
                response = JSONResponse(fault(Failed(error)).body(), 500)
            self._metrics.requests.labels(route, response.status_code).inc()
            if not isinstance(response, StreamingResponse):
                self._metrics.seconds.labels(route).observe(time.monotonic() - start)
            return response

        return guarded

    def _authorize(self, request: Request) -> None:
        if self._key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), self._key.encode()):
            raise RequestError(
                "a key is needed: Authorization: Bearer KEY",
                401,
                "authentication_error",
                code="invalid_api_key",
            )

    async def _body(self, request: Request) -> object:
        """The JSON of a request, read no further than the limit."""
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self._limits.body_bytes:
                raise RequestError(f"the body must be at most {self._limits.body_bytes} bytes", 413)
        try:
            return json.loads(body.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise RequestError(f"the body is no JSON: {str(error) or type(error).__name__:.100}") from None


async def _no_route(request: Request, error: Exception) -> Response:
    """404 and 405 in the form of the other errors."""
    assert isinstance(error, HTTPException)
    told = RequestError(f"{error.detail}: {request.method} {request.url.path:.100}")
    return JSONResponse(told.body(), error.status_code, headers=error.headers)
