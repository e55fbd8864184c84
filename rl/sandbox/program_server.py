"""A fork server for one program: prepared once, it forks a process for each test on standard input.

What a program's tests have in common (reading, unmarshalling, connecting the flags, importing well-known
modules) is done here once. No statement of the program runs in this process, so a test finds nothing left by
the tests before it. While the grader is busy with the last test's answer, the next test's process is forked
and enters the sandbox; then it waits for its descriptors on a socket of its own, which it closes. Standard
library only.
"""

import gc
import os
import resource
import select
import signal
import socket
import struct
from collections.abc import Callable

from rl.sandbox import program

CONTROL_FD, JOBS_FD = 40, 41  # rl.sandbox.seccomp lets a process read messages only from the latter
_STARTED_FD, _START_FD = 42, 43  # a pipe: a process reports that it has its test
FAILED_TO_ENTER = 97
READY = b"ready"  # the first message: the program is loaded
REPORT = struct.Struct("=idq")  # how a job ended: status, CPU seconds, bytes of peak resident memory
_SENT_JOBS_FD = 6
_DESCRIPTORS_SPACE = socket.CMSG_SPACE(4 * 4)


def report(status: int, usage: resource.struct_rusage) -> bytes:
    """How a job ended, as a message.

    Args:
      status: as wait4(2) gives it.
      usage: the job's, with the largest resident memory in KiB.
    Returns: the message: status, CPU time in seconds (user and system), memory in bytes.
    """
    return REPORT.pack(status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def wait(child: int, control: socket.socket) -> None:
    """Lets a job run until it ends or the other side says kill (or is gone).

    Args:
      child: process id of the job, a child of this process.
      control: the other side's socket.
    """
    pidfd = os.pidfd_open(child)
    try:
        _serve_until(pidfd, pidfd, control)
    finally:
        os.close(pidfd)


def _serve_until(event: int, pidfd: int, control: socket.socket) -> bool:
    """Answers the other side until a descriptor can be read; whether that was before it said kill."""
    poll = select.poll()
    for fd in {event, pidfd, CONTROL_FD}:
        poll.register(fd, select.POLLIN)
    while True:
        ready = [fd for fd, _ in poll.poll()]
        if event in ready:
            return True
        message = b"" if pidfd in ready else control.recv(64)
        if message == b"process":
            socket.send_fds(control, [b"it"], [pidfd])
            continue
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if not message:
            os._exit(0)
        return False


def serve(limit: Callable[[], None], enter: Callable[[], None], fork: Callable[[], int]) -> None:
    """Runs tests of one program until the grader closes its ends; never returns.

    Args:
      limit: limits what this process and its children use; called once the program is loaded.
      enter: puts a child behind the layers that each program enters by itself.
      fork: fork(2).
    """
    made = program.Program()
    made.import_ahead()
    limit()
    os.dup2(program.RESULT_FD, CONTROL_FD, inheritable=False)
    os.dup2(_SENT_JOBS_FD, JOBS_FD, inheritable=False)
    os.closerange(0, CONTROL_FD)
    for fd, place in zip(os.pipe(), (_STARTED_FD, _START_FD), strict=True):
        os.dup2(fd, place, inheritable=False)
        os.close(fd)
    control, jobs = socket.socket(fileno=CONTROL_FD), socket.socket(fileno=JOBS_FD)
    gc.freeze()

    def next_test() -> int:
        child = fork()
        if child == 0:
            _run_one(made, jobs, enter)
        if child < 0:
            os._exit(FAILED_TO_ENTER)
        return child

    child = next_test()
    control.send(READY)
    while True:
        pidfd = os.pidfd_open(child)
        if not _serve_until(_STARTED_FD, pidfd, control):
            os._exit(FAILED_TO_ENTER)  # it had all its time and never began: not the program's fault
        os.read(_STARTED_FD, 1)
        following = next_test()
        _serve_until(pidfd, pidfd, control)
        os.close(pidfd)
        _, status, usage = os.wait4(child, 0)
        control.send(report(status, usage))
        child = following


def _run_one(made: program.Program, jobs: socket.socket, enter: Callable[[], None]) -> None:
    """In the forked child: enters the sandbox, waits for its test, and runs it."""
    try:
        os.closerange(0, JOBS_FD)  # the next test's descriptors must become 0 to 3
        os.close(_STARTED_FD)
        enter()
        message, *_ = jobs.recvmsg(16, _DESCRIPTORS_SPACE)
        os.close(JOBS_FD)
        if message:
            os.write(_START_FD, b".")
            os.close(_START_FD)
            gc.enable()
            made.run(_nothing)
    finally:
        os._exit(FAILED_TO_ENTER)


def _nothing() -> None:
    """The process is in the sandbox already."""
