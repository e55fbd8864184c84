"""seccomp: the system calls that an untrusted program may make, as an allow-list.

Anything not listed fails with EPERM (clone3 with ENOSYS, so that the C library falls back to clone, whose
flags can be read). So there is no fork, exec, signal, socket to the outside, file opened for writing, memfd,
shared memory, ptrace, io_uring, mount, keyring, or call that a later kernel adds. Four profiles: PROGRAM
(Python), EXECUTABLE (one that starts with an execve: compiled programs), RUNTIME (an executable that also
opens files: an interpreter or virtual machine) and TOOL (a compiler driver: forks, executes, writes).
Landlock or a private root decides which files the last two see.
"""

import errno
import platform
import struct

from rl.sandbox.program_server import JOBS_FD

# (x86_64, aarch64); None where an architecture lacks the call.
_PLAIN: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "stat": (4, None),
    "fstat": (5, 80),
    "lstat": (6, None),
    "poll": (7, None),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "readv": (19, 65),
    "writev": (20, 66),
    "access": (21, None),
    "pipe": (22, None),
    "select": (23, None),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "msync": (26, 227),
    "mincore": (27, 232),
    "madvise": (28, 233),
    "dup": (32, 23),
    "dup2": (33, None),
    "pause": (34, None),
    "nanosleep": (35, 101),
    "getitimer": (36, 102),
    "alarm": (37, None),
    "setitimer": (38, 103),
    "getpid": (39, 172),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "exit": (60, 93),
    "wait4": (61, 260),
    "uname": (63, 160),
    "getcwd": (79, 17),
    "readlink": (89, None),
    "umask": (95, 166),
    "gettimeofday": (96, 169),
    "getrlimit": (97, 163),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "times": (100, 153),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "getppid": (110, 173),
    "getpgrp": (111, None),
    "getgroups": (115, 158),
    "getresuid": (118, 148),
    "getresgid": (120, 150),
    "getpgid": (121, 155),
    "getsid": (124, 156),
    "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137),
    "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132),
    "getpriority": (140, 141),
    "arch_prctl": (158, None),
    "gettid": (186, 178),
    "time": (201, None),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "getdents64": (217, 61),
    "set_tid_address": (218, 96),
    "restart_syscall": (219, 128),
    "fadvise64": (221, 223),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "epoll_wait": (232, None),
    "epoll_ctl": (233, 21),
    "newfstatat": (262, 79),
    "readlinkat": (267, 78),
    "faccessat": (269, 48),
    "pselect6": (270, 72),
    "ppoll": (271, 73),
    "set_robust_list": (273, 99),
    "epoll_pwait": (281, 22),
    "eventfd2": (290, 19),
    "epoll_create1": (291, 20),
    "dup3": (292, 24),
    "pipe2": (293, 59),
    "getcpu": (309, 168),
    "getrandom": (318, 278),
    "membarrier": (324, 283),
    "statx": (332, 291),
    "rseq": (334, 293),
    "close_range": (436, 436),
    "faccessat2": (439, 439),
}

_EXECUTE = {"execve": (59, 221), "execveat": (322, 281)}

_RUNTIME = _EXECUTE | {"open": (2, None), "openat": (257, 56), "ftruncate": (77, 46)}

_TOOL = _RUNTIME | {
    "fork": (57, None),
    "vfork": (58, None),
    "clone": (56, 220),
    "kill": (62, 129),
    "flock": (73, 32),
    "chdir": (80, 49),
    "rename": (82, None),
    "mkdir": (83, None),
    "rmdir": (84, None),
    "unlink": (87, None),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "setpgid": (109, 154),
    "statfs": (137, 43),
    "tgkill": (234, 131),
    "waitid": (247, 95),
    "mkdirat": (258, 34),
    "unlinkat": (263, 35),
    "renameat": (264, 38),
    "fchmodat": (268, 53),
    "utimensat": (280, 88),
    "fallocate": (285, 47),
    "renameat2": (316, 276),
    "copy_file_range": (326, 285),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
}

_ARGUMENT_CHECKED = {
    "open": (2, None),
    "openat": (257, 56),
    "clone": (56, 220),
    "prlimit64": (302, 261),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
    "prctl": (157, 167),
    "socketpair": (53, 199),
    "recvmsg": (47, 212),
    "clone3": (435, 435),
}

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000

# O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | __O_TMPFILE (the same bits on both architectures)
_OPEN_FOR_WRITING = 0o1 | 0o2 | 0o100 | 0o1000 | 0o20000000
_CLONE_THREAD = 0x00010000
_CLONE_NEW_NAMESPACE = 0x7E020000
# DUPFD .. SETFL, GETLK, SETLK, SETLKW, DUPFD_CLOEXEC, GETPIPE_SZ; no SETOWN
_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1032)
_IOCTL_REQUESTS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS .. FIOCLEX; no TIOCSTI
_PRCTL_OPTIONS = (15, 16, 0x53564D41)  # SET_NAME, GET_NAME, SET_VMA (glibc names its arenas)
_AF_UNIX, _SOCK_STREAM = 1, 1

_LOAD, _JUMP_EQUAL, _JUMP_ANY_BIT, _JUMP_AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x54, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000


def _refuse(number: int) -> int:
    return 0x00050000 | number


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _argument(index: int) -> bytes:
    """Loads the low 32 bits of an argument (little-endian machines)."""
    return _instruction(_LOAD, 16 + 8 * index)


def _one_of(index: int, values: tuple[int, ...]) -> list[bytes]:
    """Allowed if the argument is one of the values."""
    tests = [_instruction(_JUMP_EQUAL, v, len(values) - i, 0) for i, v in enumerate(values)]
    return [
        _argument(index),
        *tests,
        _instruction(_RETURN, _refuse(errno.EPERM)),
        _instruction(_RETURN, _ALLOW),
    ]


def _no_bit_of(index: int, bits: int, error: int) -> list[bytes]:
    """Allowed if the argument has none of the bits."""
    return [
        _argument(index),
        _instruction(_JUMP_ANY_BIT, bits, 0, 1),
        _instruction(_RETURN, _refuse(error)),
        _instruction(_RETURN, _ALLOW),
    ]


def _argument_checks() -> dict[str, list[bytes]]:
    """The checks that follow the number of each call that is allowed only for some arguments."""
    refuse, allow = _instruction(_RETURN, _refuse(errno.EPERM)), _instruction(_RETURN, _ALLOW)
    threads_only = [
        _argument(0),
        _instruction(_JUMP_ANY_BIT, _CLONE_NEW_NAMESPACE, 1, 0),
        _instruction(_JUMP_ANY_BIT, _CLONE_THREAD, 1, 0),
        _instruction(_RETURN, _refuse(errno.EAGAIN)),
        allow,
    ]
    # Datagram sockets could name an outside address in sendto.
    unix_stream_only = [
        _argument(0),
        _instruction(_JUMP_EQUAL, _AF_UNIX, 0, 3),
        _argument(1),
        _instruction(_AND, 0xF),
        _instruction(_JUMP_EQUAL, _SOCK_STREAM, 1, 0),
        refuse,
        allow,
    ]
    return {
        "open": _no_bit_of(1, _OPEN_FOR_WRITING, errno.EACCES),
        "openat": _no_bit_of(2, _OPEN_FOR_WRITING, errno.EACCES),
        "clone": threads_only,
        "prlimit64": _one_of(0, (0,)),
        "fcntl": _one_of(1, _FCNTL_COMMANDS),
        "ioctl": _one_of(1, _IOCTL_REQUESTS),
        "prctl": _one_of(0, _PRCTL_OPTIONS),
        "socketpair": unix_stream_only,
        "recvmsg": _one_of(0, (JOBS_FD,)),
        "clone3": [_instruction(_RETURN, _refuse(errno.ENOSYS))],
    }


def supported() -> bool:
    """Whether there is a table for this machine's architecture."""
    return platform.machine() in _AUDIT_ARCH


def _decisions(profile: str, column: int) -> list[tuple[int, list[bytes]]]:
    """(first number, code) of each interval of call numbers with the same decision, sorted, from 0."""
    further = {"program": {}, "executable": _EXECUTE, "runtime": _RUNTIME, "tool": _TOOL}
    plain = _PLAIN | further[profile]
    code = {numbers[column]: [_instruction(_RETURN, _ALLOW)] for numbers in plain.values()}
    for name, check in _argument_checks().items():
        if name not in plain:
            code[_ARGUMENT_CHECKED[name][column]] = check
    code.pop(None, None)
    refused = [_instruction(_RETURN, _refuse(errno.EPERM))]
    intervals: list[tuple[int, list[bytes]]] = []
    for number in range(max(code) + 2):  # pyright: ignore[reportArgumentType]
        decision = code.get(number, refused)
        if not intervals or intervals[-1][1] != decision:
            intervals.append((number, decision))
    return intervals


def _search(intervals: list[tuple[int, list[bytes]]]) -> list[bytes]:
    """Binary search for the interval of the loaded number. The kernel walks a filter once for each of its
    calls when it is installed, so a linear list would cost a millisecond per program."""
    if len(intervals) == 1:
        return intervals[0][1]
    middle = len(intervals) // 2
    below, above = _search(intervals[:middle]), _search(intervals[middle:])
    return [_instruction(_JUMP_AT_LEAST, intervals[middle][0], len(below), 0), *below, *above]


def build(profile: str) -> bytes:
    """The BPF program of a profile: "program", "executable", "runtime" or "tool".

    A call through another architecture's entry (32-bit, x32) kills the process, because its numbers mean
    something else.
    """
    machine = platform.machine()
    code = [
        _instruction(_LOAD, 4),
        _instruction(_JUMP_EQUAL, _AUDIT_ARCH[machine], 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, 0),
    ]
    if machine == "x86_64":
        code += [_instruction(_JUMP_AT_LEAST, _X32_BIT, 0, 1), _instruction(_RETURN, _KILL)]
    return b"".join(code + _search(_decisions(profile, list(_AUDIT_ARCH).index(machine))))
