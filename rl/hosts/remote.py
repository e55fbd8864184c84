"""Pools on other machines as one grader: which host runs which program, and what happens when one is lost.

A host takes as many programs at once as it has workers; the others wait here. A program whose host is lost
goes to another one, and has one verdict, whatever the lost host still does.
"""

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from rl.feedback.grader import Grader
from rl.feedback.language import CompilerFeedback, Settings
from rl.feedback.problems import Problem
from rl.feedback.rewards import Scheme
from rl.hosts.wire import GradingRequest, Refusal, read_reply, write_request
from rl.sandbox.worker import SandboxError, ToolsError

_LOG = logging.getLogger(__name__)
_MOST_LOSSES = 3  # hosts that may be lost over one program
_AGAIN_S = 30.0  # until a lost host is tried again
_PATIENCE_S = 120.0  # without any host
_MOST_AT_ONCE = 256  # threads for each host; they wait if it has fewer workers


class HostLostError(Exception):
    """A host does not answer, or not as a host should; programs may be graded elsewhere."""


class Host(Protocol):
    """A machine that grades programs.

    Attributes:
      name: by which the user knows it.
    """

    name: str

    def open(self) -> int:
        """Connects, or reconnects if it was lost; returns how many programs it takes at once.

        Raises: HostLostError if it does not answer; ValueError, PermissionError if it never will.
        """
        ...

    def grade(self, request: bytes, time_s: float) -> bytes:
        """Grades a program and waits for the verdict.

        Args:
          request: of `rl.hosts.wire`.
          time_s: time after which the host counts as lost.
        Returns: a reply of `rl.hosts.wire`.
        Raises: HostLostError.
        """
        ...

    def close(self) -> None:
        """Disconnects from it."""
        ...


@dataclass
class _Seat:
    """A host, how many programs it takes and has, and since when it has been lost."""

    host: Host
    workers: int
    busy: int = 0
    lost_at: float | None = None

    @property
    def free(self) -> int:
        return self.workers - self.busy


class RemotePool(Grader):
    """Grades programs on other machines.

    Args:
      hosts: those that grade; at least one must answer.
      settings: how tests are run.
      reward: four_way, pass_ratio or binary.
    Raises: SandboxError if no host answers.
    """

    def __init__(self, hosts: Sequence[Host], settings: Settings, reward: Scheme = "four_way"):
        self._settings = settings
        self._reward: Scheme = reward
        self._changed = threading.Condition()
        self._seats: list[_Seat] = []
        self._hosts = tuple(hosts)
        reasons: list[str] = []
        with ThreadPoolExecutor(max(1, len(hosts))) as opening:
            for host, opened in [(host, opening.submit(host.open)) for host in hosts]:
                try:
                    self._seats.append(_Seat(host, opened.result()))
                except HostLostError as error:
                    reasons.append(str(error))
                    self._seats.append(_Seat(host, 0, lost_at=time.monotonic()))
        workers = sum(seat.workers for seat in self._seats)
        if not workers:
            self._close_hosts()
            raise SandboxError(f"no host grades programs: {'; '.join(reasons) or 'none is named'}")
        for reason in reasons:
            _LOG.warning("%s: programs go to the others", reason)
        _LOG.info("hosts that grade programs: %d, %d programs at once", len(hosts) - len(reasons), workers)
        self._threads = ThreadPoolExecutor(_MOST_AT_ONCE * len(hosts), thread_name_prefix="hosts")

    def submit(self, problem: Problem, program: str) -> "Future[CompilerFeedback]":
        """See `Grader.submit`.

        Args:
          problem: with at least one test.
          program: the source, in the problem's language.
        Returns: a future, whose `result()` returns or raises what `grade` does.
        """
        return self._threads.submit(self._grade, problem, program)

    def close(self) -> None:
        """Disconnects from the hosts; programs not yet sent are dropped."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._close_hosts()

    def _close_hosts(self) -> None:
        for host in self._hosts:
            host.close()

    def _grade(self, problem: Problem, program: str) -> CompilerFeedback:
        request = write_request(GradingRequest(problem, program, self._settings, self._reward))
        limits = self._settings.limits
        time_s = 60.0 + 10 * limits.compile_s + (problem.test_count + 1) * (limits.time_s + 5.0)
        lost: list[str] = []
        while len(lost) < _MOST_LOSSES:
            seat = self._take()
            try:
                return _feedback(seat.host, seat.host.grade(request, time_s))
            except HostLostError as error:
                lost.append(str(error))
                self._lose(seat, error)
            finally:
                self._give(seat)
        raise SandboxError(f"{len(lost)} hosts were lost over {problem.id}: {'; '.join(lost)}")

    def _take(self) -> _Seat:
        """Takes a place on a host; waits for one. Raises: SandboxError if all hosts stay lost."""
        given_up = time.monotonic() + _PATIENCE_S
        while True:
            self._reopen()
            with self._changed:
                seats = [seat for seat in self._seats if seat.lost_at is None]
                best = max(seats, key=lambda seat: seat.free, default=None)
                if best is not None and best.free > 0:
                    best.busy += 1
                    return best
                if seats:
                    given_up = time.monotonic() + _PATIENCE_S
                elif time.monotonic() > given_up:
                    names = ", ".join(seat.host.name for seat in self._seats)
                    raise SandboxError(f"all hosts are lost, for {_PATIENCE_S:.0f} s: {names}")
                self._changed.wait(1.0)

    def _give(self, seat: _Seat) -> None:
        with self._changed:
            seat.busy -= 1
            self._changed.notify()

    def _lose(self, seat: _Seat, error: HostLostError) -> None:
        with self._changed:
            if seat.lost_at is None:
                _LOG.warning("%s: its programs go to the others", error)
            seat.lost_at = time.monotonic()

    def _reopen(self) -> None:
        """Retries hosts that were lost a while ago."""
        with self._changed:
            now = time.monotonic()
            due = [s for s in self._seats if s.lost_at is not None and now - s.lost_at > _AGAIN_S]
            for seat in due:
                seat.lost_at = now  # no other thread retries it meanwhile
        for seat in due:
            try:
                workers = seat.host.open()
            except HostLostError:
                continue
            with self._changed:
                seat.lost_at, seat.workers = None, workers
                self._changed.notify_all()
            _LOG.info("%s is back", seat.host.name)


def _feedback(host: Host, form: bytes) -> CompilerFeedback:
    """The feedback in a host's reply.

    Raises: HostLostError if it is not a host; ValueError, ToolsError if it refused.
    """
    try:
        reply = read_reply(form)
    except ValueError as error:
        raise HostLostError(f"{host.name} sent {error}") from error
    if isinstance(reply, CompilerFeedback):
        return reply
    if reply.kind == "request":
        raise ValueError(reply.message)
    if reply.kind == "tools":
        raise ToolsError(f"{host.name}: {reply.message}")
    raise HostLostError(f"{host.name}: {reply.message}")


def reply_of(graded: "Future[CompilerFeedback]") -> CompilerFeedback | Refusal:
    """A host's reply once its pool has graded a program: the feedback, or why there is none."""
    try:
        return graded.result()
    except ValueError as error:
        return Refusal("request", str(error))
    except ToolsError as error:
        return Refusal("tools", str(error))
    except SandboxError as error:
        return Refusal("sandbox", str(error))
