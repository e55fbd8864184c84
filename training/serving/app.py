"""The HTTP side: OpenAI's routes over an engine worker.

One request never ends another: what it asks is checked before the engine sees it, limits on body, prompt,
queue and time are answered with an error of its own, and a client that is gone frees its slot.
"""

import asyncio
import hmac
import itertools
import json
import math
import queue
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from jaxmoe.generation.requests import Completion, NewToken
from jaxmoe.generation.requests import Request as EngineRequest
from jaxmoe.generation.sampling import Sampling
from jaxmoe.json_values import JsonMapping, JsonObject
from jaxmoe.text.chat_template import has_chat_template
from jaxmoe.tokenizer import encode_chat_prompt
from training.serving.answers import (
    ChatShape,
    FinishedChoice,
    TextShape,
    as_written,
    chat_logprobs,
    mean_logprob,
    text_logprobs,
)
from training.serving.detokenize import Detokenizer
from training.serving.protocol import ChatRequest, RequestError, TextRequest, parsed
from training.serving.worker import EngineWorker, Event, Failed, Ticket

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class ServingLimits:
    """What a request may cost.

    Attributes:
      body_bytes: largest body.
      seconds: longest time from arrival to the last token; what is there by then is the answer.
      prompts: most prompts in one request.
    """

    body_bytes: int = 4 << 20
    seconds: float = 600.0
    prompts: int = 128


@dataclass(frozen=True)
class ServedModel:
    """What the routes need to know.

    Attributes:
      names: of the models; by each, which experts it uses (True all, False none, or the name of an adapter).
      stop_tokens: ids that end an answer.
    """

    names: Mapping[str, bool | str]
    tokenizer: "PreTrainedTokenizerBase"
    stop_tokens: tuple[int, ...]
    max_length: int


class ServerMetrics:
    """What /metrics tells."""

    def __init__(self, worker: EngineWorker):
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "jaxmoe_requests", "Requests by route and status.", ["route", "status"], registry=self.registry
        )
        self.tokens = Counter("jaxmoe_tokens", "Tokens by kind.", ["kind"], registry=self.registry)
        told = "From arrival to the last token."
        self.seconds = Histogram("jaxmoe_request_seconds", told, ["route"], registry=self.registry)
        statistics = {
            "jaxmoe_pending_requests": ("Requests that have not ended.", lambda: worker.pending),
            "jaxmoe_engine_steps": ("Decoding steps.", lambda: worker.engine.statistics.steps),
            "jaxmoe_wasted_slots": ("Slots run empty.", lambda: worker.engine.statistics.wasted),
            "jaxmoe_reused_tokens": (
                "Prompt tokens not read again.",
                lambda: worker.engine.statistics.reused,
            ),
            "jaxmoe_engine_restarts": ("Engines made anew after a fault.", lambda: worker.restarts),
        }
        for name, (text, value) in statistics.items():
            Gauge(name, text, registry=self.registry).set_function(value)


@dataclass
class _Choice:
    """One sample of one prompt while it is made."""

    index: int
    detokenizer: Detokenizer
    events: "asyncio.Queue[tuple[int, str, Event]]"
    loop: asyncio.AbstractEventLoop
    ticket: Ticket | None = None
    tokens: list[NewToken] = field(default_factory=list[NewToken])

    def emit(self, event: Event) -> bool:
        """Runs in the engine's thread; True ends the text."""
        if isinstance(event, NewToken):
            self.tokens.append(event)
            text = self.detokenizer.add(event.token)
        else:
            text = self.detokenizer.end()
        self.loop.call_soon_threadsafe(self.events.put_nowait, (self.index, text, event))
        return self.detokenizer.stopped


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
        self._started = int(time.time())
        self.app = Starlette(
            routes=[
                Route("/", self._page),
                Route("/health", self._health),
                Route("/metrics", self._metrics_page),
                Route("/v1/models", self._guarded("models", self._models)),
                Route("/v1/completions", self._guarded("completions", self._text), methods=["POST"]),
                Route("/v1/chat/completions", self._guarded("chat", self._chat), methods=["POST"]),
            ]
        )

    # -- routes

    async def _page(self, _: Request) -> Response:
        return HTMLResponse((resources.files("training.serving") / "chat.html").read_text(encoding="utf-8"))

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok", "pending": self._worker.pending})

    async def _metrics_page(self, _: Request) -> Response:
        return PlainTextResponse(generate_latest(self._metrics.registry).decode())

    async def _models(self, _: Request) -> Response:
        models = [
            {"id": name, "object": "model", "created": self._started, "owned_by": "jaxmoe"}
            for name in self._model.names
        ]
        return JSONResponse({"object": "list", "data": models})

    def _guarded(self, route: str, handle: Handler) -> Handler:
        """A route behind the key, whose faults are answers."""

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
            raise RequestError("a key is needed: Authorization: Bearer KEY", 401, "authentication_error")

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

    def _experts(self, name: str) -> bool | str:
        if name not in self._model.names:
            known = ", ".join(self._model.names)
            raise RequestError(f"there is no model {name!r:.100}; there is {known}", 404, parameter="model")
        return self._model.names[name]

    # -- text completions

    async def _text(self, request: Request) -> Response:
        asked = parsed(TextRequest, await self._body(request))
        experts = self._experts(asked.model)
        prompts = self._prompts(asked)
        samples = max(asked.n, asked.best_of or 1)
        if asked.best_of is not None and asked.best_of < asked.n:
            raise RequestError(f"best_of must be at least n; got {asked.best_of} and {asked.n}")
        if asked.stream and (samples > asked.n or (asked.echo and asked.logprobs is not None)):
            raise RequestError(
                "a stream has neither best_of nor the prompt's log-probabilities", parameter="stream"
            )
        base = EngineRequest(
            [],
            max(asked.max_tokens, 1),
            Sampling(asked.temperature, asked.top_k, asked.top_p),
            stop_tokens=self._model.stop_tokens,
            experts=experts,
            prompt_logprobs=asked.echo and asked.logprobs is not None,
            # the answer needs the best to be known
            alternatives=asked.logprobs or 0,
        )
        requests = self._samples(base, prompts, samples, asked.seed)
        choices = self._submit(requests, asked.stops)
        identity = self._identity("cmpl", "text_completion", asked.model)
        if asked.stream:
            shape = TextShape(self._model.tokenizer, asked, prompts)
            return self._stream(
                identity, choices, shape, asked.usage_in_stream, sum(map(len, prompts)), "completions"
            )
        answers = await self._gather(request, choices)
        shown: list[JsonObject] = []
        for number, prompt in enumerate(prompts):
            own = answers[number * samples : (number + 1) * samples]
            if samples > asked.n:
                own = sorted(own, key=mean_logprob, reverse=True)[: asked.n]
            for answer in own:
                shown.append(self._text_choice(len(shown), asked, prompt, answer))
        if asked.max_tokens == 0:
            answers = [answer._replace(tokens=[]) for answer in answers]
        usage = self._usage(sum(map(len, prompts)), answers)
        return JSONResponse({**identity, "choices": shown, "usage": usage})

    def _prompts(self, asked: TextRequest) -> list[list[int]]:
        given = asked.prompts
        if not given or len(given) > self._limits.prompts:
            raise RequestError(
                f"a request has 1 to {self._limits.prompts} prompts; got {len(given)}", parameter="prompt"
            )
        encoded = [self._encode(p) if isinstance(p, str) else p for p in given]
        if any(not ids for ids in encoded):
            raise RequestError("a prompt must have at least one token", parameter="prompt")
        return encoded

    def _encode(self, text: str) -> list[int]:
        try:
            # transformers declares no type for what it takes
            return self._model.tokenizer.encode(text)  # pyright: ignore[reportUnknownMemberType]
        except (TypeError, UnicodeEncodeError) as error:  # lone surrogates
            raise RequestError(f"the prompt cannot be encoded: {error!s:.100}", parameter="prompt") from None

    def _text_choice(
        self, index: int, asked: TextRequest, prompt: list[int], answer: FinishedChoice
    ) -> JsonObject:
        tokens, text = (answer.tokens, answer.text) if asked.max_tokens else ([], "")
        if asked.echo:
            text = as_written(self._model.tokenizer, prompt) + text
        choice: JsonObject = {
            "index": index,
            "text": text,
            "finish_reason": answer.reason,
            "logprobs": None,
        }
        if asked.logprobs is not None:
            before = [None, *answer.prompt] if asked.echo and answer.prompt is not None else []
            first = prompt[:1] if before else []
            choice["logprobs"] = text_logprobs(self._model.tokenizer, first, before, tokens)
        return choice

    # -- chat completions

    async def _chat(self, request: Request) -> Response:
        asked = parsed(ChatRequest, await self._body(request))
        experts = self._experts(asked.model)
        tokenizer = self._model.tokenizer
        if not has_chat_template(tokenizer):
            raise RequestError("this model has no chat template; use /v1/completions", 400)
        if asked.tools:
            raise RequestError("tools are not supported", parameter="tools")
        try:
            prompt = encode_chat_prompt(tokenizer, asked.messages)
        except Exception as error:  # templates raise what they like
            raise RequestError(
                f"the messages cannot be rendered: {error!s:.200}", parameter="messages"
            ) from None
        room = self._model.max_length - len(prompt)
        base = EngineRequest(
            [],
            min(asked.most_tokens, max(room, 1)) if asked.most_tokens else max(room, 1),
            Sampling(asked.temperature, asked.top_k, asked.top_p),
            stop_tokens=self._model.stop_tokens,
            experts=experts,
            alternatives=(asked.top_logprobs or 0) if asked.logprobs else 0,
        )
        choices = self._submit(self._samples(base, [prompt], asked.n, asked.seed), asked.stops)
        identity = self._identity("chatcmpl", "chat.completion", asked.model)
        if asked.stream:
            shape = ChatShape(tokenizer, asked)
            identity["object"] = "chat.completion.chunk"
            return self._stream(identity, choices, shape, asked.usage_in_stream, len(prompt), "chat")
        answers = await self._gather(request, choices)
        shown = [
            {
                "index": index,
                "message": {"role": "assistant", "content": answer.text},
                "finish_reason": answer.reason,
                "logprobs": chat_logprobs(tokenizer, answer.tokens) if asked.logprobs else None,
            }
            for index, answer in enumerate(answers)
        ]
        return JSONResponse({**identity, "choices": shown, "usage": self._usage(len(prompt), answers)})

    # -- what both share

    def _samples(
        self, base: EngineRequest, prompts: Sequence[list[int]], samples: int, seed: int | None
    ) -> list[EngineRequest]:
        """Every sample of every prompt; without a seed each draws one of its own."""
        numbers = itertools.count((uuid.uuid4().int if seed is None else seed) & 0x7FFFFFFF)
        return [
            replace(base, prompt=prompt, seed=next(numbers) & 0x7FFFFFFF)
            for prompt in prompts
            for _ in range(samples)
        ]

    def _submit(self, requests: Sequence[EngineRequest], stops: Sequence[str]) -> list[_Choice]:
        events: asyncio.Queue[tuple[int, str, Event]] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        choices: list[_Choice] = []
        try:
            for index, request in enumerate(requests):
                own = Detokenizer(self._model.tokenizer, stops, self._model.stop_tokens)
                choice = _Choice(index, own, events, loop)
                choice.ticket = self._worker.submit(request, choice.emit)
                choices.append(choice)
        except queue.Full as error:
            self._cancel(choices)
            raise RequestError(f"{error}; try again", 429, "rate_limit_error") from None
        except ValueError as error:
            self._cancel(choices)
            raise RequestError(str(error)) from None
        return choices

    def _cancel(self, choices: Sequence[_Choice]) -> None:
        for choice in choices:
            if choice.ticket is not None:
                self._worker.cancel(choice.ticket)

    async def _events(self, choices: Sequence[_Choice]) -> AsyncIterator[tuple[_Choice, str, Event]]:
        """What happens to the choices until all have ended; the time limit cancels what is left."""
        left, deadline = len(choices), time.monotonic() + self._limits.seconds
        try:
            while left:
                wait = deadline - time.monotonic()
                if wait <= 0:  # each still ends with an event of its own
                    self._cancel(choices)
                    deadline, wait = math.inf, math.inf
                try:
                    timeout = None if wait == math.inf else wait
                    index, text, event = await asyncio.wait_for(choices[0].events.get(), timeout)
                except TimeoutError:
                    continue
                left -= not isinstance(event, NewToken)
                yield choices[index], text, event
        finally:
            if left:
                self._cancel(choices)

    async def _gather(self, request: Request, choices: Sequence[_Choice]) -> list[FinishedChoice]:
        """Waits for every choice, or for the client to go."""

        async def collect() -> list[FinishedChoice]:
            answers: dict[int, FinishedChoice] = {}
            async for choice, _, event in self._events(choices):
                if isinstance(event, Failed):
                    raise _said(event)
                if isinstance(event, Completion):
                    reason = _reason(choice, event)
                    answers[choice.index] = FinishedChoice(
                        choice.detokenizer.text, choice.tokens, reason, event.prompt
                    )
            return [answers[index] for index in range(len(choices))]

        async def gone() -> None:
            while not await request.is_disconnected():
                await asyncio.sleep(0.2)

        work, watch = asyncio.ensure_future(collect()), asyncio.ensure_future(gone())
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            raise ClientDisconnect
        finally:
            self._cancel(choices)
            for task in (work, watch):
                task.cancel()

    def _stream(
        self,
        identity: JsonObject,
        choices: Sequence[_Choice],
        shape: "TextShape | ChatShape",
        usage: bool,
        prompt_tokens: int,
        route: str,
    ) -> StreamingResponse:
        start = time.monotonic()

        async def chunks() -> AsyncIterator[str]:
            def line(content: JsonMapping) -> str:
                return f"data: {json.dumps({**identity, **content})}\n\n"

            held: dict[int, list[NewToken]] = {choice.index: [] for choice in choices}
            for choice in choices:
                if (opening := shape.opening(choice.index)) is not None:
                    yield line({"choices": [opening]})
            async for choice, text, event in self._events(choices):
                if isinstance(event, Failed):
                    yield f"data: {json.dumps(_said(event).body())}\n\n"
                    return
                if isinstance(event, NewToken):
                    held[choice.index].append(event)
                if text:
                    yield line({"choices": [shape.piece(choice.index, text, held[choice.index])]})
                    held[choice.index] = []
                if isinstance(event, Completion):
                    yield line({"choices": [shape.ending(choice.index, _reason(choice, event))]})
            if usage:
                answers = [FinishedChoice("", choice.tokens, "", None) for choice in choices]
                yield line({"choices": [], "usage": self._usage(prompt_tokens, answers)})
            yield "data: [DONE]\n\n"
            self._metrics.seconds.labels(route).observe(time.monotonic() - start)

        return StreamingResponse(chunks(), media_type="text/event-stream")

    def _identity(self, prefix: str, kind: str, model: str) -> JsonObject:
        return {
            "id": f"{prefix}-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": model,
        }

    def _usage(self, prompt_tokens: int, answers: Sequence[FinishedChoice]) -> dict[str, int]:
        made = sum(len(answer.tokens) for answer in answers)
        self._metrics.tokens.labels("prompt").inc(prompt_tokens)
        self._metrics.tokens.labels("completion").inc(made)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": made,
            "total_tokens": prompt_tokens + made,
        }


def _said(event: Failed) -> RequestError:
    """A fault as an answer: the client's own in full, ours without its insides."""
    if isinstance(event.error, ValueError):
        return RequestError(str(event.error))
    return RequestError(
        f"the engine failed ({type(event.error).__name__}); see the server's log", 500, "server_error"
    )


def _reason(choice: _Choice, event: Completion) -> str:
    """OpenAI's word for how a text ended; one that ran out of time was cut."""
    return "stop" if choice.detokenizer.stopped or event.reason == "stop" else "length"
