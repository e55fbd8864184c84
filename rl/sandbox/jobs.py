"""One job of a fork server, watched from the trusted side: frames, output, time.

Time limits hold on a loaded machine too: the clock of a job stops while the job is ready to run but waits for
a core. The kernel tells how long that was (/proc/PID/task/*/schedstat); a job gains nothing by sleeping. If
the kernel does not tell, limits apply to wall-clock time.
"""

import contextlib
import fcntl
import os
import re
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from rl.sandbox.isolation import KernelLimits
from rl.sandbox.program import HEADER
from rl.sandbox.program_server import REPORT

_STRETCH = 10.0  # no job gets more than this times its limit
_SAMPLE_S = 0.05
_QUICK_MS = 5  # most jobs have ended by then, and are checked only once
_FRAME_EXTRA = 4096  # for error messages, where answers are limited to less
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_PID = re.compile(rb"^Pid:\s+(\d+)", re.MULTILINE)


class Then(Enum):
    """What happens after a frame: the job goes on, on the same clock or on a new one, or is ended."""

    GO_ON = "go on"
    NEXT = "next"
    STOP = "stop"


class WorkerDiedError(RuntimeError):
    """The fork server ended during a job."""


class Frame(NamedTuple):
    """What a program sends: a kind, the number of a test, and JSON. Anything in it may be forged."""

    kind: bytes
    number: int
    body: bytes


@dataclass
class Outcome:
    """How a job ended.

    Attributes:
      status: exit code, or minus the signal that killed it.
      max_rss: peak resident memory, in bytes.
      output_exceeded: it printed, or sent, more than its limit.
      garbled: it sent something other than frames.
    """

    output: bytes = b""
    status: int = 0
    cpu_s: float = 0.0
    max_rss: int = 0
    timed_out: bool = False
    output_exceeded: bool = False
    garbled: bool = False


class Job(NamedTuple):
    """What a server is to run: limits and descriptors.

    Attributes:
      time_s: seconds from one frame to the next.
      output_bytes: limit on what is printed between frames, or sent in one.
      show_errors: standard error counts as output.
      calls: descriptors over which calls are sent to it: the read end of a pipe, and a file.
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
    calls: tuple[int, ...] = ()


def memory_file(content: bytes, *, sealed: bool = False) -> int:
    """A descriptor of an anonymous file in memory with this content, positioned at its start.

    Args:
      content: what the file holds at first.
      sealed: nobody can change it any more, so that the processes that get it cannot use it to pass on data.
    Returns: the descriptor, which the caller closes; programs that are executed do not inherit it.
    """
    fd = os.memfd_create("job", os.MFD_CLOEXEC | (os.MFD_ALLOW_SEALING if sealed else 0))
    if content:
        os.pwrite(fd, content, 0)
    if sealed:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


class _Frames:
    """Cuts a byte stream into frames (rl.sandbox.program.HEADER, JSON) of up to `most_bytes`."""

    def __init__(self, most_bytes: int):
        self._buffer = b""
        self._most_bytes = most_bytes + _FRAME_EXTRA

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that this data completes. Raises: ValueError for one that is longer than honest ones."""
        buffer = self._buffer + data if self._buffer else data
        start = 0
        while len(buffer) - start >= HEADER.size:
            length, kind, number = HEADER.unpack_from(buffer, start)
            if length > self._most_bytes:
                raise ValueError("a frame longer than may be sent")
            end = start + HEADER.size + length
            if len(buffer) < end:
                break
            frame = Frame(kind, number, buffer[start + HEADER.size : end])
            start = end
            yield frame
        self._buffer = buffer[start:]


class _Clock:
    """Decides when a job has used up its time, which counts only while it could run: on a core, or off it by
    its own choice.
    """

    def __init__(self, limit_s: float, waited_s: float):
        self.started, self.limit_s, self._waited_s = time.monotonic(), limit_s, waited_s
        self.next_look = self.started + limit_s

    def is_over(self, waited_s: float) -> bool:
        """Whether to end the job, given how long it has waited for a core in its life."""
        now = time.monotonic()
        elapsed = now - self.started
        had = elapsed - max(0.0, waited_s - self._waited_s)
        self.next_look = now + max(_SAMPLE_S, self.limit_s - had)
        return had >= self.limit_s or elapsed >= _STRETCH * self.limit_s


def waited_s(process: int) -> float:
    """How long a process was ready to run but had no core: of its threads, the one that waited longest.

    Args:
      process: a pidfd.
    Returns: seconds; 0 if the kernel does not tell.
    """
    try:
        with open(f"/proc/self/fdinfo/{process}", "rb") as file:
            found = _PID.search(file.read())
        folder = f"/proc/{int(found[1]) if found else -1}/task"
        longest = 0
        for thread in os.listdir(folder):
            with open(f"{folder}/{thread}/schedstat", "rb") as file:
                longest = max(longest, int(file.read().split()[1]))
    except (OSError, ValueError, IndexError):
        return 0.0
    return longest / 1e9


class Watch:
    """Follows one job; see rl.sandbox.worker.Worker.run."""

    def __init__(
        self,
        job: Job,
        control: socket.socket,
        output_fd: int,
        result_fd: int,
        on_frame: Callable[[Frame], Then],
    ):
        self._job, self._control, self._on_frame = job, control, on_frame
        self._output_fd, self._result_fd = output_fd, result_fd
        self._outcome, self._chunks, self._room = Outcome(), [], job.output_bytes
        self._frames = _Frames(job.output_bytes)
        self._waited_s = 0.0
        self._clock = _Clock(job.time_s, 0.0)
        self._killed = self._asked = self._stopped = False

    def to_the_end(self) -> Outcome:
        """Returns when the job is over and everything it left behind is gone. Raises: WorkerDiedError."""
        if not self._job.calls and self._ends_quickly():
            return self._collected()
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
                self._send(b"process")
            for fd, _ in events:
                if fd in readers:
                    if not readers[fd]():
                        poll.unregister(fd)
                elif self._take():
                    return self._collected()

    def _ends_quickly(self) -> bool:
        """Briefly waits for the end alone: waking up for each answer would cost more than the answers do."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        return bool(poll.poll(_QUICK_MS)) and self._take()

    def _collected(self) -> Outcome:
        self._killed = True  # the job is over: a kill for what remains to be read would hit the next one
        while self._read_frames():
            pass
        while self._read_output():
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

    def _take(self) -> bool:
        """Handles a message from the server; whether it is the last."""
        try:
            text, processes, _, _ = socket.recv_fds(self._control, 1 << 16, 1)
        except OSError as error:
            raise WorkerDiedError from error
        if not text:
            raise WorkerDiedError
        if len(text) != REPORT.size:  # a descriptor of the job's process, asked for
            self._asked = False
            for process in processes:
                self._waited_s = waited_s(process)
                os.close(process)
            if self._clock.is_over(self._waited_s) and not self._killed:
                self._outcome.timed_out = True
                self._kill()
            return False
        outcome = self._outcome
        status, outcome.cpu_s, outcome.max_rss = REPORT.unpack(text)
        outcome.status = os.waitstatus_to_exitcode(status)
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
        if not data or self._outcome.garbled or self._stopped:
            return bool(data)
        try:
            for frame in self._frames.feed(data):
                then = self._on_frame(frame)
                if then is Then.STOP:
                    self._stopped = True
                    self._kill()
                    break
                if then is Then.NEXT:
                    self._clock = _Clock(self._job.time_s, self._waited_s)
                    self._room = self._job.output_bytes
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
