"""Landlock: which files an untrusted program may read.

A rule set is put into force once, by the fork server when it starts, and all programs inherit it. Nothing may
be written, and nothing executed unless a rule says so. What Landlock does not cover (chmod, sockets,
metadata) is refused by seccomp (rl/sandbox/seccomp.py).
Reference: https://docs.kernel.org/userspace-api/landlock.html
"""

import os
import stat
import struct
from collections.abc import Iterable

from rl.sandbox import linux

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
# execute ... make_sym: what the first version knows
_FIRST = (1 << 13) - 1
_SCOPE_ABSTRACT_UNIX_SOCKET, _SCOPE_SIGNAL = 1, 2
_NET_BIND_TCP, _NET_CONNECT_TCP = 1, 2
_DIRECTORY_ONLY = _FIRST & ~(EXECUTE | WRITE_FILE | READ_FILE) | REFER


def handled_access(abi: int) -> int:
    """The file rights that a kernel of this Landlock version can withhold."""
    newer = (REFER if abi >= 2 else 0) | (TRUNCATE if abi >= 3 else 0) | (IOCTL_DEV if abi >= 5 else 0)
    return _FIRST | newer


def _attributes(abi: int) -> bytes:
    network = _NET_BIND_TCP | _NET_CONNECT_TCP
    scope = _SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL
    if abi >= 6:
        return struct.pack("=QQQ", handled_access(abi), network, scope)
    if abi >= 4:
        return struct.pack("=QQ", handled_access(abi), network)
    return struct.pack("=Q", handled_access(abi))


def ruleset(grants: Iterable[tuple[str, int]], abi: int) -> int:
    """A rule set that allows the listed (path, rights) and nothing else; returns its descriptor.

    A path that does not exist, or cannot be reached, is left out: it stays forbidden.

    Args:
      grants: a folder's rights apply to everything below it; a file gets those of them that apply to files.
      abi: Landlock's version in this kernel; rights that it does not know are left out.
    Returns: the descriptor, which the caller puts into force and closes.
    Raises: OSError if the kernel refuses a rule.
    """
    rules = linux.landlock_create_ruleset(_attributes(abi))
    for path, access in grants:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
            allowed = access if is_directory else access & ~_DIRECTORY_ONLY
            linux.landlock_add_path(rules, allowed & handled_access(abi), fd)
        finally:
            os.close(fd)
    return rules
