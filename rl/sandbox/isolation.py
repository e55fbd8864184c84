"""Isolation of untrusted programs: which layers this machine has, and how a process enters them.

    layer            what it stops                                             needed
    no_new_privs     set-uid programs                                          always
    seccomp          fork, exec, signals, sockets, writing files, ptrace, ...  always
    files            reading anything but the standard library                 landlock, mounts or bwrap
    unprivileged     whatever root may do                                      when started as root
    rlimits          memory, CPU time, threads, file sizes                     always
    user, pid, net, ipc, mounts   a second layer under each of the above        where the kernel allows

The fork server itself enters all but two of them, once. It could not do its work under rlimits and seccomp;
each program puts those on before its first instruction.
"""

import contextlib
import errno
import os
import resource
import signal
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rl.sandbox import landlock, linux

# An id that owns nothing. Not 65534: that is "nobody", whose files and processes do exist.
UNPRIVILEGED_ID = 64_999
REQUIRED = ("no_new_privs", "seccomp", "files", "unprivileged")
# server and its outer half, compiler, judge, a program's own server, the one before it, its next test
_SERVER_PROCESSES = 7
# as many as the kernel follows
_MOST_LINKS = 40
_NAMESPACES = {"pid": linux.CLONE_NEWPID, "net": linux.CLONE_NEWNET, "ipc": linux.CLONE_NEWIPC}


class KernelLimits(NamedTuple):
    """The limits to which the kernel holds one program."""

    memory_bytes: int
    cpu_s: int
    threads: int
    file_bytes: int = 0


class IsolationPlan(NamedTuple):
    """What a fork server is to set up: computed in the trusted process, carried over as JSON.

    shown: a private root (rl/sandbox/readable_files.py); grants: Landlock's (path, rights); filter: seccomp's
    program, empty if there is none for this machine; must_read: a folder without which nothing runs.
    """

    shown: list[tuple[str, str]]
    grants: list[tuple[str, int]]
    filter: bytes
    must_read: str
    inside_bwrap: bool


class Isolated(NamedTuple):
    """The layers that a fork server is behind, why others are missing, and its programs' seccomp filter."""

    layers: dict[str, bool]
    reasons: dict[str, str]
    filter: bytes


def works(action: Callable[[], object]) -> str:
    """Tries something irrevocable in a child process; returns "" if it worked, else the reason."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        except BaseException as error:  # the child must reach _exit whatever happens
            os.write(sender, str(error).encode()[:500])
        os._exit(code)
    os.close(sender)
    with os.fdopen(receiver, "rb") as pipe:
        reason = pipe.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    return "" if status == 0 else reason or f"ended with status {status}"


def _enter_user_namespace(flags: int, proc: int | None = None) -> None:
    """Enters a user namespace that knows only this user. `proc`: a descriptor of /proc, if it is hidden."""
    user, group = os.getuid(), os.getgid()
    linux.unshare(linux.CLONE_NEWUSER | flags)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        fd = os.open(f"self/{name}" if proc is not None else f"/proc/self/{name}", os.O_WRONLY, dir_fd=proc)
        os.write(fd, text.encode())
        os.close(fd)


def private_root(plan: list[tuple[str, str]]) -> None:
    """Replaces the root of this mount namespace with one that holds only what the plan shows, read-only."""
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("tmpfs", "/tmp", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755,size=16m")
    os.mkdir("/tmp/.old")
    linux.pivot_root("/tmp", "/tmp/.old")
    os.chdir("/")
    for action, path in plan:
        if action == "hide":
            linux.mount("tmpfs", path, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755,size=64k")
        else:
            _show(path, writable=action == "write")
    linux.umount("/.old")
    os.rmdir("/.old")


def _show(path: str, *, writable: bool) -> None:
    folder, name = os.path.split(path)
    path = f"{_linked(folder)}/{name}"
    source = f"/.old{path}"
    if os.path.islink(source):
        _link(path)
        return
    if os.path.isdir(source):
        os.makedirs(path, mode=0o755, exist_ok=True)
    elif not os.path.exists(path):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
    linux.mount(source, path, None, linux.MS_BIND | linux.MS_REC)
    if not writable:
        linux.make_read_only(path)


def _linked(folder: str) -> str:
    """Makes a folder of the old root in the new one, and the links that lead there; returns its real path."""
    place, rest = "", [part for part in folder.split("/") if part]
    followed = 0
    while rest:
        part = rest.pop(0)
        if part == "..":
            place = os.path.dirname(place).rstrip("/")
            continue
        step = f"{place}/{part}"
        if os.path.islink(f"/.old{step}"):
            followed += 1
            if followed > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), folder)
            target = _link(step)
            rest[:0] = [part for part in target.split("/") if part not in ("", ".")]
            place = "" if target.startswith("/") else place
            continue
        place = step
        os.makedirs(place, mode=0o755, exist_ok=True)
    return place


def _link(path: str) -> str:
    """The link that the old root has at a path, made in the new one too; returns its target."""
    target = os.readlink(f"/.old{path}")
    with contextlib.suppress(FileExistsError):
        os.symlink(target, path)
    return target


def _become_unprivileged() -> None:
    os.setgroups([])
    os.setresgid(UNPRIVILEGED_ID, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
    os.setresuid(UNPRIVILEGED_ID, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
    # Cleared by the change of user; otherwise /proc/self belongs to root.
    linux.prctl(linux.PR_SET_DUMPABLE, 1)


def _enter_namespaces(flags: int, *, as_root: bool) -> None:
    if as_root:
        linux.unshare(flags)
    else:
        _enter_user_namespace(flags)


def _available_namespaces(plan: list[tuple[str, str]], *, as_root: bool) -> tuple[int, bool, dict[str, str]]:
    """The namespace flags that work here, whether a private root does, and why the others do not."""

    def attempt(flags: int, *, root: bool) -> str:
        def enter():
            _enter_namespaces(flags, as_root=as_root)
            if root:
                private_root(plan)

        return works(enter)

    everything = linux.CLONE_NEWNS | sum(_NAMESPACES.values())
    if not attempt(everything, root=True):
        return everything, True, {}
    reasons = {name: attempt(flag, root=False) for name, flag in _NAMESPACES.items()}
    flags = sum(flag for name, flag in _NAMESPACES.items() if not reasons[name])
    reasons["mounts"] = attempt(flags | linux.CLONE_NEWNS, root=True)
    if not reasons["mounts"]:
        flags |= linux.CLONE_NEWNS
    return flags, not reasons["mounts"], {name: why for name, why in reasons.items() if why}


def enter_server(plan: IsolationPlan) -> Isolated:
    """Puts this process behind every per-server layer that the machine has.

    A pid namespace applies to children only: fork once more before running anything. Never raises for a
    missing layer: `Isolated.layers` and `reasons` say what is there, and the caller decides.
    """
    as_root = os.geteuid() == 0
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    flags, rooted, reasons = _available_namespaces(plan.shown, as_root=as_root)
    # The pid namespace comes last: the first child after it is its init, and with it the namespace ends.
    if flags:
        _enter_namespaces(flags & ~linux.CLONE_NEWPID, as_root=as_root)
    if rooted:
        private_root(plan.shown)
    abi = linux.landlock_abi()
    rules = landlock.ruleset(plan.grants, abi) if abi else None
    if not abi:
        reasons["landlock"] = "the kernel was built or started without it (needs Linux 5.13, lsm=landlock)"
    reasons["seccomp"] = (
        works(lambda: linux.install_seccomp(plan.filter))
        if plan.filter
        else "no table of system calls for this architecture (have x86_64, aarch64)"
    )
    if as_root:
        _leave_root(flags & linux.CLONE_NEWPID, reasons, proc, plan.must_read)
    else:
        if not flags:
            reasons["user"] = reasons.get("pid", "")
        linux.unshare(flags & linux.CLONE_NEWPID)
    os.close(proc)
    linux.drop_capabilities()
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    if rules is not None:
        linux.landlock_restrict_self(rules)
        os.close(rules)
    if plan.filter:
        linux.prepare_seccomp(plan.filter)
    for which, most in (
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        _limit(which, most)
    layers = {name: bool(flags & flag) for name, flag in _NAMESPACES.items()}
    layers |= {"user": not reasons.get("user"), "mounts": rooted, "landlock": rules is not None}
    layers |= {"bwrap": plan.inside_bwrap, "files": rooted or plan.inside_bwrap or rules is not None}
    layers |= {"no_new_privs": True, "unprivileged": True, "rlimits": True, "seccomp": not reasons["seccomp"]}
    return Isolated(layers, {k: v for k, v in reasons.items() if v}, plan.filter)


def _leave_root(pid_namespace: int, reasons: dict[str, str], proc: int, must_read: str) -> None:
    """Becomes a user that owns nothing, in its own user namespace (which counts its threads separately)."""

    def read_as_nobody() -> None:
        _become_unprivileged()
        os.listdir(must_read)

    unreadable = works(read_as_nobody)
    reasons["user"] = unreadable or works(lambda: (_become_unprivileged(), _enter_user_namespace(0, proc)))
    linux.unshare(pid_namespace)
    if unreadable:
        # Still root by name, but without capabilities: otherwise no module could be imported any more.
        reasons["unprivileged"] = f"uid 0 kept, since uid {UNPRIVILEGED_ID} cannot read Python: {unreadable}"
        return
    _become_unprivileged()
    if not reasons["user"]:
        _enter_user_namespace(0, proc)


def enter_program(isolated: Isolated, limits: Sequence[int], address_space: int) -> None:
    """Puts this process behind the per-program layers, permanently. Call it after the fork.

    Args:
      limits: KernelLimits, or its fields.
      address_space: of the fork server, in bytes, which no program is charged for.
    """
    limit_resources(isolated, limits, address_space)
    last_step(isolated, limits)()


def limit_resources(isolated: Isolated, limits: Sequence[int], address_space: int) -> None:
    """The limits that a process can set before it forks programs: memory, files and threads.

    Args:
      isolated: the layers that this process has entered.
      limits: KernelLimits, or its fields.
      address_space: of the fork server, in bytes, which no program is charged for.
    """
    memory_bytes, _, threads, file_bytes = limits
    _limit(resource.RLIMIT_AS, address_space + memory_bytes)
    _limit(resource.RLIMIT_FSIZE, file_bytes)
    if isolated.layers["user"]:
        # Counted for each user of a namespace: the server's own processes are in there too.
        _limit(resource.RLIMIT_NPROC, threads + _SERVER_PROCESSES)


def last_step(isolated: Isolated, limits: Sequence[int]) -> Callable[[], None]:
    """The limits of CPU time and system calls, which each program sets for itself.

    It is called after a fork, where each object that it touches costs a page, so it already holds all it
    needs.

    Args:
      isolated: the layers that this process has entered, and the filter of system calls.
      limits: KernelLimits, or its fields.
    Returns: a function that sets the limits permanently; it raises OSError if the kernel refuses.
    """
    setrlimit, which, cpu = resource.setrlimit, resource.RLIMIT_CPU, (limits[1], limits[1])
    prctl, arguments = linux.seccomp_call(isolated.filter)

    def enter() -> None:
        setrlimit(which, cpu)
        if prctl(*arguments):
            raise OSError("seccomp could not be entered")

    return enter


def _limit(which: int, most: int) -> None:
    resource.setrlimit(which, (most, most))


def missing_layers(layers: dict[str, bool]) -> list[str]:
    """The required layers that are not there."""
    return [name for name in REQUIRED if not layers.get(name)]


def die_with_parent() -> None:
    """Asks for SIGKILL when the parent process ends."""
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
