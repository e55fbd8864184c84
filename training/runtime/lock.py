"""One process at a time in a folder.

The lock is a kernel lock (flock) on FOLDER/.lock. It ends with the process that holds it, however that
process ends: a file that a killed process left behind locks nothing. On NFS the kernel passes flock on to the
server; with the mount options `nolock` or `local_lock=all` the lock holds on one machine only, and two
machines could then work in one folder. If the file system cannot lock, one line says so and the work
continues without a lock.
"""

import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)

NAME = ".lock"
# what file systems without locks answer
CANNOT = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Locks a folder while the block runs; creates it, and removes it again if the block leaves it empty.

    Raises: ValueError, naming the process that holds it, if the folder is locked.
    """
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        number = _locked_file(folder)
        try:
            yield
        finally:
            (folder / NAME).unlink(missing_ok=True)  # before unlocking, else another process's file would go
            os.close(number)
    finally:
        if new:
            with suppress(OSError):  # not empty: the run has begun
                folder.rmdir()


def _locked_file(folder: Path) -> int:
    """The open, locked file of a folder."""
    path = folder / NAME
    while True:
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(number, 200, 0).decode(errors="replace").strip() or "another process"
            os.close(number)
            raise ValueError(
                f"{folder} is in use by {holder}: wait for it, stop it, or choose another output=..."
            ) from None
        except OSError as error:
            if error.errno not in CANNOT:
                os.close(number)
                raise
            log.warning("%s cannot be locked (%s): start no second run there", folder, error.strerror)
            return number
        # the previous holder may have removed the file after we opened it and before we locked it
        with suppress(FileNotFoundError):
            if os.fstat(number).st_ino == path.stat().st_ino:
                _sign(number)
                return number
        os.close(number)


def _sign(number: int) -> None:
    """Writes into the file who holds it; on a full disk the lock holds without a name."""
    with suppress(OSError):
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        os.ftruncate(number, 0)
        os.pwrite(number, f"process {os.getpid()} on {socket.gethostname()} since {now}\n".encode(), 0)
