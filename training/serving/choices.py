"""The choices of one request while they are made: from the engine's thread to the event loop of the server.

A client that is gone frees its slots, and so does one whose time is up: it gets what exists by then, or an
error if that is nothing.
"""

import asyncio
import math
import queue
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from starlette.requests import ClientDisconnect, Request

from jaxmoe.generation.requests import Completion, NewToken
from jaxmoe.generation.requests import Request as EngineRequest
from training.serving.answers import FinishedChoice
from training.serving.detokenize import Detokenizer
from training.serving.protocol import RequestError
from training.serving.served_model import ServedModel
from training.serving.worker import EngineEndedError, EngineWorker, Event, Failed, Ticket


@dataclass
class RunningChoice:
    """One sample of one prompt while it is made.

    Attributes:
      prompt_only: no token was asked for; the one that the engine makes anyway is not shown.
    """

    index: int
    detokenizer: Detokenizer
    events: "asyncio.Queue[tuple[int, str, Event]]"
    loop: asyncio.AbstractEventLoop
    prompt_only: bool = False
    ticket: Ticket | None = None
    tokens: list[NewToken] = field(default_factory=list[NewToken])

    def emit(self, event: Event) -> bool:
        """Runs in the engine's thread; True ends the text."""
        if self.prompt_only:
            text = ""
        elif isinstance(event, NewToken):
            self.tokens.append(event)
            text = self.detokenizer.add(event.token)
        else:
            text = self.detokenizer.end()
        self.loop.call_soon_threadsafe(self.events.put_nowait, (self.index, text, event))
        return self.detokenizer.stopped

    def reason(self, event: Completion) -> str:
        """OpenAI's word for how the text ended; one that ran out of time was cut."""
        if self.prompt_only:
            return "length"
        return "stop" if self.detokenizer.stopped or event.reason == "stop" else "length"


class RunningChoices:
    """Requests handed to the engine; create it in the event loop that waits for them.

    Args:
      worker: drives the engine.
      model: whose tokens become text.
      requests: one per choice.
      stops: strings that end a text.
      seconds: longest time until the last token.
      prompt_only: no token was asked for (RunningChoice).
      continues: a text continues its prompt, which a chat's answer does not.

    Attributes:
      all: the choices, in order.

    Raises: RequestError if the queue is full, or a request cannot be served; then none is.
    """

    def __init__(
        self,
        worker: EngineWorker,
        model: ServedModel,
        requests: Sequence[EngineRequest],
        stops: Sequence[str],
        seconds: float,
        *,
        prompt_only: bool = False,
        continues: bool = False,
    ):
        self.all: list[RunningChoice] = []
        self._worker, self._seconds = worker, seconds
        self._events: asyncio.Queue[tuple[int, str, Event]] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        if len(requests) > worker.capacity:
            raise RequestError(
                f"a request has at most {worker.capacity} samples, which slots and queue have room for; got "
                f"{len(requests)} (n or best_of, times the prompts)"
            )
        try:
            for index, request in enumerate(requests):
                before = request.prompt if continues else ()
                own = Detokenizer(model.tokenizer, stops, model.stop_tokens, before)
                choice = RunningChoice(index, own, self._events, loop, prompt_only)
                choice.ticket = self._worker.submit(request, choice.emit)
                self.all.append(choice)
        except Exception as error:
            self.cancel()
            if isinstance(error, queue.Full | EngineEndedError | ValueError):
                raise fault(Failed(error)) from None
            raise

    def cancel(self) -> None:
        """Ends what is still in progress; each choice still ends with an event of its own."""
        for choice in self.all:
            if choice.ticket is not None:
                self._worker.cancel(choice.ticket)

    async def events(self) -> AsyncIterator[tuple[RunningChoice, str, Event]]:
        """What happens to the choices until all have ended; the time limit cancels what is left.

        A choice without a token by then ends as a fault, as an empty text would pass for an answer.
        """
        left, deadline = len(self.all), time.monotonic() + self._seconds
        try:
            while left:
                wait = deadline - time.monotonic()
                if wait <= 0:  # each still ends with an event of its own
                    self.cancel()
                    deadline, wait = math.inf, math.inf
                try:
                    timeout = None if wait == math.inf else wait
                    index, text, event = await asyncio.wait_for(self._events.get(), timeout)
                except TimeoutError:
                    continue
                left -= not isinstance(event, NewToken)
                if isinstance(event, Completion) and event.reason == "cancelled" and not event.new:
                    event = Failed(self._too_late())
                yield self.all[index], text, event
        finally:
            if left:
                self.cancel()

    def _too_late(self) -> RequestError:
        return RequestError(
            f"nothing was made within {self._seconds:g} seconds (limits.seconds); try again when fewer "
            "requests wait",
            503,
            "server_error",
        )

    async def gather(self, request: Request) -> list[FinishedChoice]:
        """Waits for every choice, or for the client to go.

        Raises: RequestError for a fault, ClientDisconnect.
        """

        async def collect() -> list[FinishedChoice]:
            answers: dict[int, FinishedChoice] = {}
            async for choice, _, event in self.events():
                if isinstance(event, Failed):
                    raise fault(event)
                if isinstance(event, Completion):
                    answers[choice.index] = FinishedChoice(
                        choice.detokenizer.text, choice.tokens, choice.reason(event), event.prompt
                    )
            return [answers[index] for index in range(len(self.all))]

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
            self.cancel()
            for task in (work, watch):
                task.cancel()


def fault(event: Failed) -> RequestError:
    """A fault as an answer: the client's own in full, ours without internals."""
    if isinstance(event.error, RequestError):
        return event.error
    if isinstance(event.error, ValueError):
        return RequestError(str(event.error))
    if isinstance(event.error, queue.Full):
        return RequestError(f"{event.error}; try again", 429, "rate_limit_error", code="rate_limit_exceeded")
    if isinstance(event.error, EngineEndedError):
        return RequestError(str(event.error), 503, "server_error")
    return RequestError(
        f"the engine failed ({type(event.error).__name__}); see the server's log", 500, "server_error"
    )
