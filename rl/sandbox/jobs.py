"""One job of a fork server, watched from the trusted side: frames, output, time.

Time limits hold on a loaded machine too: when a limit has passed, the job is watched a moment longer,
and the clock is taken to have run only as fast as the job was served. A job that works on but gets a
quarter of a core has four times as long; one that sleeps, or has had its time, is ended.
"""

import contextlib
import json
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from rl.sandbox.isolation import Limits as KernelLimits

_SERVED_AT_LEAST = 0.05  # a job that uses less of a core than this is waiting, not starved
_STRETCH = 10.0  # no job gets more than this times its limit
_SAMPLE_S = 0.1
_FRAME_EXTRA = 4096  # for error messages, where answers are limited to less


class Then(Enum):
    """What is to happen after a frame: the job goes on, on the same clock; on a new one; is ended."""

    GO_ON = "go on"
    NEXT = "next"
    STOP = "stop"


class WorkerDiedError(RuntimeError):
    """The fork server ended in the middle of a job."""


@dataclass
class Outcome:
    """How a job ended. status: exit code, or minus the signal that killed it."""

    output: bytes = b""
    status: int = 0
    cpu_s: float = 0.0
    max_rss: int = 0
    timed_out: bool = False
    output_exceeded: bool = False
    garbled: bool = False


class Job(NamedTuple):
    """What a server is to run: limits and descriptors.

    time_s: seconds from one frame to the next.
    output_bytes: printed between frames, or sent in one. show_errors: standard error counts as output.
    """

    limits: KernelLimits
    time_s: float
    output_bytes: int
    request: int
    stdin: int
    flags: int
    show_errors: bool = False
    argv: tuple[str, ...] = ()
    directory: str = "/"
    environment: dict[str, str] | None = None


def memory_file(content: bytes) -> int:
    """A descriptor of an anonymous file in memory with this content, positioned at its start."""
    fd = os.memfd_create("job", os.MFD_CLOEXEC)
    if content:
        os.pwrite(fd, content, 0)
    return fd


class _Frames:
    """Cuts a byte stream into frames (uint32 length, kind, JSON) of up to `most_bytes`."""

    def __init__(self, most_bytes: int):
        self._buffer = b""
        self._most_bytes = most_bytes + _FRAME_EXTRA

    def feed(self, data: bytes) -> Iterator[tuple[str, dict]]:
        """The frames that this data completes.

        Raises: ValueError for anything that is no frame, or for one longer than honest ones are.
        """
        self._buffer += data
        while len(self._buffer) >= 4:
            (length,) = struct.unpack_from("=I", self._buffer)
            if length > self._most_bytes:
                raise ValueError("a frame longer than may be sent")
            if len(self._buffer) < 4 + length:
                return
            body, self._buffer = self._buffer[4 : 4 + length], self._buffer[4 + length :]
            content = json.loads(body[1:])
            if not isinstance(content, dict):
                raise ValueError("a frame without an object")
            yield body[:1].decode(), content


class _Clock:
    """Decides when a job has had its time, from samples of the CPU time it got."""

    def __init__(self, limit_s: float):
        self.started, self.limit_s = time.monotonic(), limit_s
        self._first: tuple[float, float] | None = None
        self.next_look = self.started + limit_s

    def is_over(self, cpu_s: float) -> bool:
        """Takes a sample in; whether the job is to be ended."""
        now = time.monotonic()
        if self._first is None:
            self._first, self.next_look = (now, cpu_s), now + _SAMPLE_S
            return False
        began, used = self._first
        served = (cpu_s - used) / (now - began)
        elapsed = now - self.started
        self.next_look = now + _SAMPLE_S
        return (
            served < _SERVED_AT_LEAST
            or elapsed * served >= self.limit_s
            or elapsed >= _STRETCH * self.limit_s
        )


class Watch:
    """Follows one job; see rl.sandbox.worker.Worker.run."""

    def __init__(
        self,
        job: Job,
        control: socket.socket,
        output_fd: int,
        result_fd: int,
        on_frame: Callable[[str, dict], Then],
    ):
        self._job, self._control, self._on_frame = job, control, on_frame
        self._output_fd, self._result_fd = output_fd, result_fd
        self._outcome, self._chunks, self._room = Outcome(), [], job.output_bytes
        self._frames = _Frames(job.output_bytes)
        self._clock = _Clock(job.time_s)
        self._killed = self._asked = False

    def to_the_end(self) -> Outcome:
        """Returns when the job is over and all it left behind is gone. Raises: WorkerDiedError."""
        poll = select.poll()
        readers = {self._output_fd: self._read_output, self._result_fd: self._read_frames}
        for fd in (self._control.fileno(), *readers):
            poll.register(fd, select.POLLIN)
        while True:
            waiting = self._killed or self._asked
            left_ms = None if waiting else max(0.0, self._clock.next_look - time.monotonic()) * 1000
            events = poll.poll(left_ms)
            if not events:
                self._asked = True
                self._send(b"cpu")
            for fd, _ in events:
                if fd in readers:
                    if not readers[fd]():
                        poll.unregister(fd)
                elif self._take(self._receive()):
                    while self._read_frames() or self._read_output():
                        pass
                    self._outcome.output = b"".join(self._chunks)
                    return self._outcome

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(OSError):
            self._control.send(message)

    def _kill(self) -> None:
        if not self._killed:
            self._killed = True
            self._send(b"kill")

    def _receive(self) -> dict:
        try:
            report = self._control.recv(1 << 16)
        except OSError as error:
            raise WorkerDiedError from error
        if not report:
            raise WorkerDiedError
        return json.loads(report)

    def _take(self, message: dict) -> bool:
        """Handles a message of the server's; whether it is the last."""
        if "status" not in message:
            self._asked = False
            if self._clock.is_over(message["cpu_s"]) and not self._killed:
                self._outcome.timed_out = True
                self._kill()
            return False
        outcome = self._outcome
        outcome.status = os.waitstatus_to_exitcode(message["status"])
        outcome.cpu_s, outcome.max_rss = message["cpu_s"], message["max_rss"]
        killed = outcome.status in (-signal.SIGXCPU, -signal.SIGKILL)
        outcome.timed_out |= killed and outcome.cpu_s >= self._job.limits.cpu_s
        return True

    def _read_output(self) -> bool:
        data = _read(self._output_fd)
        if data and self._room >= 0:
            self._chunks.append(data[: self._room])
            self._room -= len(data)
            if self._room < 0:
                self._outcome.output_exceeded = True
                self._kill()
        return bool(data)

    def _read_frames(self) -> bool:
        data = _read(self._result_fd)
        if not data or self._outcome.garbled:
            return bool(data)
        try:
            for kind, content in self._frames.feed(data):
                then = self._on_frame(kind, content)
                if then is Then.STOP:
                    self._kill()
                    break
                if then is Then.NEXT:
                    self._clock, self._room = _Clock(self._job.time_s), self._job.output_bytes
        except (ValueError, RecursionError, MemoryError):
            self._outcome.garbled = True
            self._kill()
        return True


def _read(fd: int) -> bytes:
    """What a pipe holds now; b"" at its end or when it is empty."""
    try:
        return os.read(fd, 1 << 16)
    except BlockingIOError:
        return b""
