"""A warm, isolated interpreter that forks one process for each program.

It is started by rl/sandbox/worker.py with a clean environment and one socket. As process 1 of its own pid
namespace (where the kernel allows) it cannot be signalled by what it starts. It passes descriptors on
without reading them, so that no program's memory, forked from it, holds another's text or answers.

Messages (SOCK_SEQPACKET). First in: the configuration; out: the layers. Then in: JSON of a job with its
descriptors, JSON {"service": name, "limits", "modules"} with a socket for a service that is to be started
anew, JSON {"stop": name}, b"kill", b"cpu" or b"alive?"; out: JSON of how a job ended, or of the CPU time it
has had, with a descriptor of its process. Kept small: every page it touches is copied by each fork.
"""

import base64
import ctypes
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
import time
import types
from collections.abc import Callable

from rl.sandbox import isolation, linux, program, script_environment

MAX_DESCRIPTORS = 8
FAILED_TO_ENTER = 97
_PAGE = os.sysconf("SC_PAGE_SIZE")
# os.fork would run hooks in each child that reseed `random` and touch a hundred pages. The server has one
# thread and keeps the interpreter's lock (PyDLL), so that plain fork(2) leaves the child in order.
_fork = ctypes.PyDLL(None).fork


def _preload(names: list[str]) -> None:
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    sys.modules["warnings"].simplefilter("ignore")
    sys.modules["site"].setquit()  # exit() and quit(), which an interpreter without site-packages lacks
    sys.modules["random"].seed(0)  # every program starts from the same random state


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * _PAGE


def _load(sources: dict[str, str]) -> Callable[[socket.socket], None]:
    """Makes modules of ours from their text, as our files are out of sight here; the last one's `serve`."""
    module = types.ModuleType("")
    for name, source in sources.items():
        module = types.ModuleType(name)
        sys.modules[name] = module
        package, _, short = name.rpartition(".")
        setattr(sys.modules[package], short, module)
        exec(compile(source, name, "exec"), module.__dict__)
    return module.serve


class Server:
    """The state of a fork server."""

    def __init__(
        self, control: socket.socket, isolated: isolation.Isolated, profile: str, address_space: int
    ):
        self._control, self._isolated, self._profile = control, isolated, profile
        self._address_space = address_space
        self._services: dict[str, int] = {}

    def serve(self) -> None:
        """Runs jobs until the other end of the socket closes."""
        gc.collect()
        gc.freeze()
        gc.disable()
        while True:
            message, descriptors, _, _ = socket.recv_fds(self._control, 1 << 18, MAX_DESCRIPTORS)
            if not message:
                return
            if message == b"alive?":
                self._control.send(b"yes")
                continue
            if message in (b"kill", b"cpu"):
                continue  # for a job that ended by itself in the meantime
            job = json.loads(message)
            if "service" in job:
                self._stop(job["service"])
                self._services[job["service"]] = self._spawn(job, descriptors)
            elif "stop" in job:
                self._stop(job["stop"])
            else:
                self._run(job, descriptors)

    def _spawn(self, job: dict, descriptors: list[int]) -> int:
        child = _fork()
        if child == 0:
            try:
                gc.enable()
                self._become(job, descriptors)
            except BaseException as error:
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
            finally:
                os._exit(FAILED_TO_ENTER)
        for fd in descriptors:
            os.close(fd)
        if child < 0:
            raise OSError("the fork server cannot fork")
        return child

    def _become(self, job: dict, descriptors: list[int]) -> None:
        """In the forked child: takes its descriptors, isolates itself for good and runs the job."""
        if self._profile == "tool":
            os.setsid()  # what it starts is ended with it
        if not self._isolated.layers["pid"]:  # in a pid namespace all end with the server
            isolation.die_with_parent()
        service = "service" in job
        targets = [program.RESULT_FD] if service else range(len(descriptors))
        # First above the targets, so that none is overwritten while it is still needed.
        raised = [os.dup2(fd, 20 + i, inheritable=False) for i, fd in enumerate(descriptors)]
        for target, fd in zip(targets, raised, strict=True):
            os.dup2(fd, target)
        os.closerange(targets[-1] + 1, 1024)
        limits = isolation.KernelLimits(**job["limits"])

        def enter() -> None:
            isolation.enter_program(self._isolated, limits, self._address_space)

        if service:
            serve, channel = _load(job["modules"]), socket.socket(fileno=program.RESULT_FD)
            enter()
            serve(channel)
            os._exit(0)
        if self._profile == "program":
            program.run(enter)
        if self._profile == "tool":
            os.chdir(job["directory"])
            enter()
            os.execve(job["argv"][0], job["argv"], job["environment"])
        enter()
        os.execve(program.REQUEST_FD, job["argv"], {})

    def _stop(self, name: str) -> None:
        """Ends a service, whatever it is busy with."""
        child = self._services.pop(name, None)
        if child is not None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    def _run(self, job: dict, descriptors: list[int]) -> None:
        child = self._spawn(job, descriptors)
        status, usage = self._wait(child)
        report = {
            "status": status,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "max_rss": usage.ru_maxrss * 1024,
        }
        self._control.send(json.dumps(report).encode())

    def _wait(self, child: int) -> tuple[int, resource.struct_rusage]:
        """Lets a job run until it ends or the other side says kill (or is gone)."""
        pidfd = os.pidfd_open(child)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        try:
            while True:
                if pidfd in {fd for fd, _ in poll.poll()}:
                    break
                message = self._control.recv(64)
                if message == b"cpu":
                    # the clock id of a process's CPU time, as clock_getcpuclockid(3) makes it
                    spent = {"cpu_s": time.clock_gettime(~child << 3 | 2)}
                    socket.send_fds(self._control, [json.dumps(spent).encode()], [pidfd])
                    continue
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                if not message:
                    os._exit(0)
                break
            return self._reap(child)
        finally:
            os.close(pidfd)

    def _reap(self, child: int) -> tuple[int, resource.struct_rusage]:
        """Waits for a job's process, kills and reaps what it left; its status and rusage."""
        _, status, usage = os.wait4(child, 0)
        if self._profile == "tool":  # the others cannot fork
            try:
                os.kill(-1 if os.getpid() == 1 else -child, signal.SIGKILL)
            except ProcessLookupError:
                return status, usage
            try:
                while True:
                    os.waitpid(-1, 0)
            except ChildProcessError:
                pass
        return status, usage


def main(control_fd: int) -> None:
    """Entry point of the server process."""
    control = socket.socket(fileno=control_fd)
    config = json.loads(control.recv(1 << 20))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
    sys.path[:] = config["import_path"]
    if config["profile"] == "program":
        script_environment.prepare()
    _preload(config["preload"])
    address_space = _address_space()
    isolation.die_with_parent()
    plan = isolation.IsolationPlan(**config["plan"] | {"filter": base64.b64decode(config["plan"]["filter"])})
    isolated = isolation.enter_server(plan)
    if isolated.layers["pid"]:
        child = os.fork()
        if child != 0:
            control.close()
            _, status = os.waitpid(child, 0)
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
        isolation.die_with_parent()
    else:
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    control.send(json.dumps({"layers": isolated.layers, "reasons": isolated.reasons}).encode())
    server = Server(control, isolated, config["profile"], address_space)
    del config, plan
    if not isolation.missing_layers(isolated.layers):
        server.serve()
    os._exit(0)
