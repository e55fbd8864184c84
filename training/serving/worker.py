"""One thread that drives an engine; requests come in, tokens go out as events.

The thread is the only one that touches the engine. A fault in a step ends the requests that were in progress,
each with its error, and the engine starts anew; a fault in one request ends that request alone. If no new
engine can be made, the thread ends, and with it every request, now and later.
"""

import queue
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from jaxmoe.generation.engine import Engine
from jaxmoe.generation.requests import Completion, NewToken, Request


class EngineEndedError(RuntimeError):
    """Nothing is decoded any more: the server is closing, or no engine could be made after a fault."""


class Failed(NamedTuple):
    """A request that ended with a fault."""

    error: Exception


Event = NewToken | Completion | Failed


@dataclass(eq=False)
class Ticket:
    """A request on its way.

    Attributes:
      emit: called in the worker's thread with every event; the last is a Completion or Failed. If it returns
        a true value for a token, the text ends.
      id: the engine's number, once it has one.
    """

    request: Request
    emit: Callable[[Event], bool | None]
    id: int | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)


class EngineWorker:
    """Runs an engine in a thread of its own. Use as a context manager.

    Args:
      make: makes the engine; called again after a fault.
      most_waiting: requests that may wait for a slot.
      idle_step_s: seconds between the steps of an idle engine; None leaves it alone.
      close: called in the thread at the end.
    """

    def __init__(
        self,
        make: Callable[[], Engine],
        most_waiting: int = 1024,
        *,
        idle_step_s: float | None = None,
        close: Callable[[], None] | None = None,
    ):
        self._idle_step_s, self._close = idle_step_s, close
        self._make = make
        self._most_waiting = most_waiting
        self._inbox: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._tickets: dict[int, Ticket] = {}
        self._pending = 0
        self._lock = threading.Lock()
        self._ended: str | None = None
        self.engine = make()
        self.restarts = 0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def __enter__(self) -> "EngineWorker":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Ends the thread; requests in progress fail. May be called again."""
        self._inbox.put(None)
        self._thread.join()

    @property
    def pending(self) -> int:
        """Requests that have not ended."""
        return self._pending

    @property
    def capacity(self) -> int:
        """Most requests at a time, in slots and waiting."""
        return self._most_waiting + self.engine.config.slots

    @property
    def ended(self) -> str | None:
        """Why requests are no longer taken; None while they are."""
        return self._ended

    def submit(self, request: Request, emit: Callable[[Event], bool | None]) -> Ticket:
        """Queues a request.

        Args:
          emit: called in the worker's thread with every event of the request; True for a token ends the text.
        Returns: the ticket by which the request can be cancelled.
        Raises: queue.Full if too many wait; ValueError for a request that the engine would refuse;
          EngineEndedError.
        """
        self.engine.check(request)
        ticket = Ticket(request, emit)
        with self._lock:
            if self._ended is not None:
                raise EngineEndedError(self._ended)
            if self._pending >= self.capacity:
                raise queue.Full(f"{self._most_waiting} requests are waiting already")
            self._pending += 1
            self._inbox.put(ticket)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Ends a request as soon as possible; harmless if it has ended."""
        ticket.cancelled.set()

    # -- in the thread

    def _run(self) -> None:
        why = "the server is closing"
        try:
            while self._take(block=self.engine.idle):
                try:
                    self._cancel()
                    for id, completion in self.engine.step().items():
                        self._end(self._tickets.pop(id), completion)
                except Exception as error:  # an engine that failed is not trusted any more
                    self._start_anew(error)
        except Exception:
            traceback.print_exc()
            why = "the engine failed and could not be started again; see the server's log"
        self._refuse(why)
        if self._close is not None:
            self._close()

    def _start_anew(self, error: Exception) -> None:
        traceback.print_exc()
        # its frames keep what is on the device, where there may be no room for two
        error.__traceback__ = error.__context__ = error.__cause__ = None
        self.engine.close()
        self._end_all(error)
        self.engine = self._make()
        self.restarts += 1

    def _end_all(self, error: Exception) -> None:
        tickets, self._tickets = self._tickets, {}
        for ticket in tickets.values():
            self._end(ticket, Failed(error))

    def _refuse(self, why: str) -> None:
        """Ends every request, including those not yet taken, and takes no more."""
        with self._lock:
            self._ended = why
        error = EngineEndedError(why)
        self._end_all(error)
        while not self._inbox.empty():
            if (ticket := self._inbox.get()) is not None:
                self._end(ticket, Failed(error))

    def _take(self, *, block: bool) -> bool:
        """Hands new requests to the engine; False when it is time to end."""
        while True:
            try:
                ticket = self._inbox.get(block=block, timeout=self._idle_step_s)
            except queue.Empty:
                return True
            if ticket is None:
                return False
            block = False
            try:
                ticket.id = self.engine.submit(replace(ticket.request, on_token=ticket.emit))
            except Exception as error:
                self._end(ticket, Failed(error))
                continue
            self._tickets[ticket.id] = ticket

    def _cancel(self) -> None:
        for id, ticket in self._tickets.items():
            if ticket.cancelled.is_set():
                self.engine.cancel(id)

    def _end(self, ticket: Ticket, event: Event) -> None:
        with self._lock:
            self._pending -= 1
        try:
            ticket.emit(event)
        except Exception:  # whoever waited for it is gone; the others are not
            traceback.print_exc()
