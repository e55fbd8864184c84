"""The few Linux system calls that Python's standard library does not wrap, and their constants.

Standard library only: this module is loaded by the fork server, which must stay small to fork fast.
Every wrapper raises OSError with the kernel's errno; none of them retries.
"""

import ctypes
import os
import platform
import struct
from collections.abc import Callable

_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl

CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2

MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
MNT_DETACH = 2
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID = 1, 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000

# These numbers are the same on every architecture (system calls added since Linux 5.0).
_SYS_LANDLOCK_CREATE_RULESET, _SYS_LANDLOCK_ADD_RULE, _SYS_LANDLOCK_RESTRICT_SELF = 444, 445, 446
_SYS_MOUNT_SETATTR = 442
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91}


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(what: str, *arguments) -> int:
    # long arguments: an int would be passed as 32 bits and leave the register's upper half undefined
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _check(_libc.syscall(*converted), what)


def unshare(flags: int) -> None:
    """Moves this process (for CLONE_NEWPID: its later children) into new namespaces."""
    _check(_libc.unshare(flags), "unshare")


def prctl(option: int, value: int) -> None:
    """prctl(option, value, 0, 0, 0): changes a setting of this process.

    Args:
      option: one of the PR_ constants.
      value: its new value.
    """
    _check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl({option})")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2): puts a file system, or an existing folder, in place of a folder.

    Args:
      source: what is mounted; any text for file systems without a device.
      target: the folder in whose place it appears.
      kind: of file system; None for bind mounts and changes of flags.
      flags: MS_ constants, joined by |.
      data: options of the file system, such as "size=16m".
    """
    texts = [text.encode() if text is not None else None for text in (source, target, kind)]
    _check(_libc.mount(*texts, ctypes.c_ulong(flags), data.encode() if data else None), f"mount {target}")


def umount(target: str, flags: int = MNT_DETACH) -> None:
    """umount2(2): removes a mount.

    Args:
      target: where it is mounted.
      flags: MNT_DETACH hides it at once and frees it when nobody uses it any more.
    """
    _check(_libc.umount2(target.encode(), flags), f"umount {target}")


def make_read_only(target: str) -> None:
    """Makes a mount and those below it read-only and without effect for set-uid bits, permanently."""
    attributes = struct.pack("=QQQQ", _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID, 0, 0, 0)
    arguments = (_AT_FDCWD, target.encode(), _AT_RECURSIVE, attributes, len(attributes))
    _syscall(f"mount_setattr {target}", _SYS_MOUNT_SETATTR, *arguments)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2): makes a mount the root of this mount namespace.

    Args:
      new_root: a mount point.
      put_old: a folder at or below it, where the old root is found afterwards.
    """
    _syscall("pivot_root", _SYS_PIVOT_ROOT[platform.machine()], new_root.encode(), put_old.encode())


def drop_capabilities() -> None:
    """Empties the effective, permitted and inheritable capability sets of this process."""
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    _syscall("capset", _SYS_CAPSET[platform.machine()], header, bytes(24))


def landlock_abi() -> int:
    """The version of Landlock that the kernel offers; 0 if none."""
    try:
        return _syscall("landlock", _SYS_LANDLOCK_CREATE_RULESET, None, 0, 1)
    except OSError:
        return 0


def landlock_create_ruleset(attributes: bytes) -> int:
    """A descriptor of a new rule set; `attributes` is a struct landlock_ruleset_attr."""
    return _syscall("landlock ruleset", _SYS_LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)


def landlock_add_path(ruleset: int, access: int, path_fd: int) -> None:
    """Allows `access` below the opened path.

    Args:
      ruleset: descriptor of the rule set.
      access: rights, joined by |.
      path_fd: descriptor of the file or folder, opened with O_PATH.
    """
    rule = struct.pack("=Qi", access, path_fd)
    _syscall("landlock rule", _SYS_LANDLOCK_ADD_RULE, ruleset, 1, rule, 0)


def landlock_restrict_self(ruleset: int) -> None:
    """Puts the rule set into force for this thread and its descendants, permanently."""
    _syscall("landlock restrict", _SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0)


_filters: dict[bytes, tuple[ctypes.Array, ctypes.Array, tuple[ctypes.c_long, ...]]] = {}


def prepare_seccomp(program: bytes) -> None:
    """Prepares what install_seccomp needs: once in the server, not in the pages of each program."""
    buffer = ctypes.create_string_buffer(program, len(program))
    description = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    holder = ctypes.create_string_buffer(description, len(description))
    numbers = (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(holder), 0, 0)
    _filters[program] = (buffer, holder, tuple(map(ctypes.c_long, numbers)))


def install_seccomp(program: bytes) -> None:
    """Puts a classic BPF program (array of struct sock_filter) before every system call."""
    prctl, arguments = seccomp_call(program)
    _check(prctl(*arguments), "seccomp")


def seccomp_call(program: bytes) -> tuple[Callable[..., int], tuple[ctypes.c_long, ...]]:
    """A function and its arguments that together do what install_seccomp does; it returns 0 if it did."""
    if program not in _filters:
        prepare_seccomp(program)
    return _prctl, _filters[program][2]
