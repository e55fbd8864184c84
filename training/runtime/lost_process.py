"""When one process of a run is lost, the others end with one line that says so.

JAX ends them from C++, with a stack trace of a hundred lines that names no cause. What C++ writes goes
through a small process that passes on everything else; what Python writes does not.
"""

import contextlib
import os
import re
import subprocess
import sys

LOST = (
    "stopped: another process of this run was lost; look there for the cause, and start all of them again: "
    "the same command resumes from the last checkpoint"
)
# a collective whose partner is gone, as Python sees it
FAILED = re.compile(
    r"gloo|coordination service|heartbeat|connection (closed|reset)|barrier|UNAVAILABLE", re.I
)

_FATAL = "JAX distributed service detected fatal errors"
# Lines of the coordination service are held back: a fatal one follows, or Python's report of the loss.
_FILTER = """
import re, signal, sys
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
lost = quiet = False
for line in sys.stdin.buffer:
    if sys.argv[2].encode() in line and not lost:
        sys.stdout.buffer.write(sys.argv[1].encode() + b"\\n")
        lost = True
    quiet = lost or quiet or bool(re.match(rb"[EW]\\d{4} .*(coordination_service|preemption)", line))
    if not quiet:
        sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
"""
_readers: list[subprocess.Popen[bytes]] = []  # the small process, once it runs


def report_in_one_line() -> None:
    """Filters what C++ writes to standard error from now on; call it before JAX's distributed service
    starts."""
    sys.stderr.flush()
    terminal = os.dup(2)
    command = [sys.executable, "-S", "-E", "-c", _FILTER, LOST, _FATAL]
    reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=terminal)
    assert reader.stdin is not None
    os.dup2(reader.stdin.fileno(), 2)
    reader.stdin.close()
    _readers.append(reader)
    os.set_inheritable(terminal, False)
    sys.stderr = os.fdopen(terminal, "w", buffering=1, encoding="utf-8", errors="backslashreplace")


def say_lost() -> bool:
    """Has the small process say LOST, unless what C++ wrote has made it do so; False if there is no such
    process."""
    if not _readers:
        return False
    os.write(2, f"{_FATAL}\n".encode())
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # the end of what the small process reads
    with contextlib.suppress(subprocess.TimeoutExpired):
        _readers[0].wait(timeout=5)
    return True


def is_loss(error: BaseException) -> bool:
    """Whether an error says that another process is gone."""
    jax = sys.modules.get("jax")
    several = jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1
    return several and FAILED.search(str(error)) is not None
