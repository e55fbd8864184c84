"""Stopping between two steps: SIGTERM and SIGINT are requests, granted by all processes at the same step."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

import jax


class StopRequest:
    """While entered, SIGTERM and Ctrl-C ask the run to save and end; a second Ctrl-C does what it did before.

    Args:
      agreed: with several processes, whether they have agreed to stop after this step (Orbax's
        `reached_preemption`); JAX's preemption service then owns SIGTERM, and Ctrl-C is passed on to it.
    """

    def __init__(self, agreed: Callable[[int], bool]):
        self._agreed = agreed
        self._several = jax.process_count() > 1
        self._asked = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            watched = (signal.SIGINT,) if self._several else (signal.SIGINT, signal.SIGTERM)
            for number in watched:
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            signal.signal(number, self._before[number])  # type: ignore[arg-type]
            signal.raise_signal(number)
            return
        self._asked = True
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)

    def granted(self, step: int) -> bool:
        """Whether to stop now, after `step`; every process must ask after every step."""
        return self._agreed(step) if self._several else self._asked
