"""The two routes that ask the engine: text completions and chat completions, whole or as a stream."""

import asyncio
import itertools
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

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
    mean_logprob,
    text_logprobs,
)
from training.serving.choices import RunningChoice, RunningChoices, fault
from training.serving.protocol import ChatRequest, RequestError, TextRequest, parsed
from training.serving.served_model import ServedModel, ServingLimits
from training.serving.server_metrics import ServerMetrics
from training.serving.worker import EngineWorker, Failed


class Completions:
    """Asks the engine what a client asks for.

    Args:
      worker: drives the engine.
      model: its names, tokenizer and length.
      limits: what a request may cost.
      metrics: counts tokens and seconds.
    """

    def __init__(
        self, worker: EngineWorker, model: ServedModel, limits: ServingLimits, metrics: ServerMetrics
    ):
        self._worker, self._model, self._limits, self._metrics = worker, model, limits, metrics

    async def text(self, body: object, request: Request) -> Response:
        """Continues prompts.

        Args:
          body: the request's JSON.
          request: tells whether the client is still there.
        Returns: the answer, or a stream of it.
        Raises: RequestError for what cannot be served, ClientDisconnect.
        """
        asked = parsed(TextRequest, body)
        experts = self._model.experts(asked.model)
        prompts = await asyncio.to_thread(self._prompts, asked)  # a long text takes seconds
        samples = max(asked.n, asked.best_of or 1)
        if asked.best_of is not None and asked.best_of < asked.n:
            raise RequestError(f"best_of must be at least n; got {asked.best_of} and {asked.n}")
        if asked.stream and (samples > asked.n or (asked.echo and asked.logprobs is not None)):
            raise RequestError(
                "a stream has neither best_of nor the prompt's log-probabilities", parameter="stream"
            )
        base = EngineRequest(
            [],
            max(asked.max_tokens, 1),  # the engine makes at least one
            Sampling(asked.temperature, asked.top_k, asked.top_p),
            stop_tokens=self._model.stop_tokens,
            experts=experts,
            prompt_logprobs=asked.echo and asked.logprobs is not None,
            # the answer names the likeliest tokens
            alternatives=asked.logprobs or 0,
        )
        requests = self._samples(base, prompts, samples, asked.seed)
        choices = RunningChoices(
            self._worker,
            self._model,
            requests,
            asked.stops,
            self._limits.seconds,
            prompt_only=asked.max_tokens == 0,
            continues=True,
        )
        identity = self._identity("cmpl", "text_completion", asked.model)
        if asked.stream:
            shape = TextShape(self._model.tokenizer, asked, prompts)
            return self._stream(
                identity, choices, shape, asked.usage_in_stream, sum(map(len, prompts)), "completions"
            )
        answers = await choices.gather(request)
        return await asyncio.to_thread(self._text_answer, identity, asked, prompts, answers)

    def _text_answer(
        self,
        identity: JsonObject,
        asked: TextRequest,
        prompts: Sequence[list[int]],
        answers: Sequence[FinishedChoice],
    ) -> Response:
        """The whole answer; log-probabilities of many tokens take a long time to write."""
        samples = len(answers) // len(prompts)
        shown: list[JsonObject] = []
        for number, prompt in enumerate(prompts):
            own = answers[number * samples : (number + 1) * samples]
            if samples > asked.n:
                own = sorted(own, key=mean_logprob, reverse=True)[: asked.n]
            for answer in own:
                shown.append(self._text_choice(len(shown), asked, prompt, answer))
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
        text = as_written(self._model.tokenizer, prompt) if asked.echo else ""
        choice: JsonObject = {
            "index": index,
            "text": text + answer.text,
            "finish_reason": answer.reason,
            "logprobs": None,
        }
        if asked.logprobs is not None:
            before = [None, *answer.prompt] if asked.echo and answer.prompt is not None else []
            first = prompt[:1] if before else []
            choice["logprobs"] = text_logprobs(self._model.tokenizer, first, before, answer.tokens)
        return choice

    async def chat(self, body: object, request: Request) -> Response:
        """Answers a conversation.

        Args:
          body: the request's JSON.
          request: tells whether the client is still there.
        Returns: the answer, or a stream of it.
        Raises: RequestError for what cannot be served, ClientDisconnect.
        """
        asked = parsed(ChatRequest, body)
        experts = self._model.experts(asked.model)
        tokenizer = self._model.tokenizer
        if not has_chat_template(tokenizer):
            raise RequestError("this model has no chat template; use /v1/completions", 400)
        if asked.tools:
            raise RequestError("tools are not supported", parameter="tools")
        try:
            prompt = await asyncio.to_thread(encode_chat_prompt, tokenizer, asked.messages)
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
            expert_weights=asked.expert_weights,
        )
        requests = self._samples(base, [prompt], asked.n, asked.seed)
        choices = RunningChoices(self._worker, self._model, requests, asked.stops, self._limits.seconds)
        identity = self._identity("chatcmpl", "chat.completion", asked.model)
        shape = ChatShape(tokenizer, asked)
        if asked.stream:
            identity["object"] = "chat.completion.chunk"
            return self._stream(identity, choices, shape, asked.usage_in_stream, len(prompt), "chat")
        answers = await choices.gather(request)

        def answer() -> Response:
            shown = [shape.whole(index, one) for index, one in enumerate(answers)]
            return JSONResponse({**identity, "choices": shown, "usage": self._usage(len(prompt), answers)})

        return await asyncio.to_thread(answer)

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

    def _stream(
        self,
        identity: JsonObject,
        choices: RunningChoices,
        shape: "TextShape | ChatShape",
        usage: bool,
        prompt_tokens: int,
        route: str,
    ) -> StreamingResponse:
        start = time.monotonic()

        async def chunks() -> AsyncIterator[str]:
            def line(content: JsonMapping) -> str:
                return f"data: {json.dumps({**identity, **content})}\n\n"

            held: dict[int, list[NewToken]] = {choice.index: [] for choice in choices.all}
            for choice in choices.all:
                if (opening := shape.opening(choice.index)) is not None:
                    yield line({"choices": [opening]})
            async for choice, text, event in choices.events():
                if isinstance(event, Failed):
                    yield f"data: {json.dumps(fault(event).body())}\n\n"
                    return
                if isinstance(event, NewToken):
                    held[choice.index].append(event)
                if text:
                    yield line({"choices": [shape.piece(choice.index, text, held[choice.index])]})
                    held[choice.index] = []
                if isinstance(event, Completion):
                    ending = shape.ending(choice.index, choice.reason(event), held[choice.index])
                    yield line({"choices": [ending]})
            told = self._usage(prompt_tokens, choices.all)
            if usage:
                yield line({"choices": [], "usage": told})
            yield "data: [DONE]\n\n"
            self._metrics.seconds.labels(route).observe(time.monotonic() - start)

        return _Events(chunks(), choices)

    def _identity(self, prefix: str, kind: str, model: str) -> JsonObject:
        return {
            "id": f"{prefix}-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": model,
        }

    def _usage(self, prompt_tokens: int, answers: Sequence[FinishedChoice | RunningChoice]) -> dict[str, int]:
        """Tokens as OpenAI's clients read them; the metrics count them too."""
        made = sum(len(answer.tokens) for answer in answers)
        self._metrics.tokens.labels("prompt").inc(prompt_tokens)
        self._metrics.tokens.labels("completion").inc(made)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": made,
            "total_tokens": prompt_tokens + made,
        }


class _Events(StreamingResponse):
    """A stream that ends its choices when it ends, even if the client left before the first event."""

    def __init__(self, events: AsyncIterator[str], choices: RunningChoices):
        super().__init__(events, media_type="text/event-stream")
        self._choices = choices

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._choices.cancel()
