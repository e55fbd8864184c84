"""When one process of a run is lost, the others end with one line that says so.

JAX ends them from C++, with a stack trace of a hundred lines that names no cause. Its text goes through a
small process that passes on everything else. What Python writes does not take that way.
"""

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

# Lines of the coordination service are held back: a fatal one follows, or what Python says of the loss.
_FILTER = """
import re, signal, sys
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
lost = quiet = False
for line in sys.stdin.buffer:
    if b"JAX distributed service detected fatal errors" in line and not lost:
        sys.stdout.buffer.write(sys.argv[1].encode() + b"\\n")
        lost = True
    quiet = lost or quiet or bool(re.match(rb"[EW]\\d{4} .*(coordination_service|preemption)", line))
    if not quiet:
        sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
"""


def report_in_one_line() -> None:
    """From now on, what C++ writes to standard error is filtered; before JAX's distributed service starts."""
    sys.stderr.flush()
    terminal = os.dup(2)
    command = [sys.executable, "-S", "-E", "-c", _FILTER, LOST]
    reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=terminal)
    assert reader.stdin is not None
    os.dup2(reader.stdin.fileno(), 2)
    reader.stdin.close()
    os.set_inheritable(terminal, False)
    sys.stderr = os.fdopen(terminal, "w", buffering=1, encoding="utf-8", errors="backslashreplace")


def is_loss(error: BaseException) -> bool:
    """Whether an error says that another process is gone."""
    jax = sys.modules.get("jax")
    several = jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1
    return several and FAILED.search(str(error)) is not None
