"""Samples and grades a round's rollout while the policy learns from the round before.

    with Ahead() as ahead:
        ahead.start(number, make)     # runs in a thread of its own
        batch = ahead.take(number)    # waits for it

JAX releases Python's lock while a program runs, so the two share the machine. The gain is what one of them
leaves idle (waiting for verdicts, work on the host).
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from rl.stepcoder.dynamic_sampling import GradedBatch


class Ahead:
    """At most one round in the making; use as a context manager."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._number = -1
        self._made: Future[GradedBatch] | None = None

    def __enter__(self) -> "Ahead":
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        return self

    def __exit__(self, *_: object) -> None:
        """Waits for a round in the making and drops it."""
        assert self._pool is not None
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool, self._made = None, None

    def start(self, number: int, make: Callable[[], GradedBatch]) -> None:
        """Begins a round.

        Args:
          number: of the round.
          make: samples and grades it.
        """
        assert self._pool is not None
        assert self._made is None
        self._number, self._made = number, self._pool.submit(make)

    def wait(self) -> None:
        """Returns when no round is in the making, so that the sampler can be used for something else."""
        if self._made is not None:
            self._made.exception()

    def take(self, number: int) -> GradedBatch | None:
        """The round, once it is made; None if it was not begun.

        Args:
          number: of the round.
        Returns: its rollout with verdicts.
        Raises: whatever making it raised.
        """
        if self._made is None:
            return None
        assert self._number == number
        made, self._made = self._made, None
        return made.result()
