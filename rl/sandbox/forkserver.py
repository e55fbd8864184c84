"""A warm, isolated interpreter that forks one process for each program.

It is started by rl/sandbox/worker.py with a clean environment and one socket. As process 1 of its own pid
namespace (where the kernel allows) it cannot be signalled by what it starts. It passes descriptors on without
reading them, so that no program, being forked from it, holds another's text or answers in memory. A program
with many tests on standard input gets a server of its own (rl/sandbox/program_server.py).

Messages (SOCK_SEQPACKET). First in, as JSON: the configuration; out, as JSON: the layers. Then in, marshalled
(which touches the fewest pages): a job with its descriptors, {"service": name, "limits", "modules"} with
those of a service that is to be restarted, {"program": limits} with those of a program's own server, {"stop":
name}, b"kill", b"process" or b"alive?"; out: REPORT of how a job ended, or a descriptor of its process.

Kept small: every page that it or its child touches is copied by each fork. Descriptors arrive as 0, 1, 2, ..
(the server keeps those free), so that a child need not move them.
"""

import base64
import ctypes
import gc
import importlib
import json
import marshal
import os
import resource
import signal
import socket
import sys
import types
from collections.abc import Callable

from rl.sandbox import isolation, linux, program, program_server, script_environment
from rl.sandbox.program_server import CONTROL_FD, FAILED_TO_ENTER

_DESCRIPTORS_SPACE = socket.CMSG_SPACE(8 * 4)
_MESSAGE_BYTES = 1 << 18
_PAGE = os.sysconf("SC_PAGE_SIZE")
# os.fork would run hooks in each child that reseed `random` and touch a hundred pages. The server has one
# thread and keeps the interpreter's lock (PyDLL), so a child of plain fork(2) is in a sound state.
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
    """Makes modules of ours from their text, because our files are hidden here; the last one's `serve`."""
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
            message, descriptors, _, _ = self._control.recvmsg(_MESSAGE_BYTES, _DESCRIPTORS_SPACE)
            if not message:
                return
            if message == b"alive?":
                self._control.send(b"yes")
                continue
            if message in (b"kill", b"process"):
                continue  # for a job that has ended by itself in the meantime
            job = marshal.loads(message)
            count = len(descriptors[0][2]) // 4 if descriptors else 0
            if "service" in job:
                self._stop(job["service"])
                self._services[job["service"]] = self._spawn(job, count)
            elif "program" in job:
                self._stop("program")
                self._services["program"] = self._spawn(job, count)
            elif "stop" in job:
                self._stop(job["stop"])
            else:
                self._run(job, count)

    def _spawn(self, job: dict, count: int) -> int:
        child = _fork()
        if child == 0:
            try:
                os.closerange(count, 1024)
                self._become(job)
            except BaseException as error:
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
            finally:
                os._exit(FAILED_TO_ENTER)
        os.closerange(0, count)
        if child < 0:
            raise OSError("the fork server cannot fork")
        if "program" in job:
            os.setpgid(child, child)  # so that it and what it starts can be ended together
        return child

    def _become(self, job: dict) -> None:
        """In the forked child, which has its descriptors: isolates itself for good and runs the job."""
        if self._profile == "tool":
            os.setsid()  # what it starts is ended with it
        if not self._isolated.layers["pid"]:  # in a pid namespace all end with the server
            isolation.die_with_parent()
        if "program" in job:
            self._become_program_server(job["program"])
        limits = job["limits"]

        def enter() -> None:
            isolation.enter_program(self._isolated, limits, self._address_space)

        gc.enable()
        if self._profile == "program" and "service" not in job:
            program.Program().run(enter)
        elif "service" in job:
            serve, channel = _load(job["modules"]), socket.socket(fileno=program.RESULT_FD)
            enter()
            serve(channel)
            os._exit(0)
        if self._profile in ("tool", "runtime"):
            os.chdir(job["directory"])
            enter()
            os.execve(job["argv"][0], job["argv"], job["environment"])
        enter()
        os.execve(program.REQUEST_FD, job["argv"], {})

    def _become_program_server(self, limits: tuple[int, ...]) -> None:
        enter = isolation.last_step(self._isolated, limits)

        def limit() -> None:
            isolation.limit_resources(self._isolated, limits, self._address_space)

        def enter_alone() -> None:
            isolation.die_with_parent()
            enter()

        program_server.serve(limit, enter if self._isolated.layers["pid"] else enter_alone, _fork)

    def _stop(self, name: str) -> None:
        """Ends a service, whatever it is doing, or a program's server along with the program."""
        child = self._services.pop(name, None)
        if child is None:
            return
        if name != "program":
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return
        os.killpg(child, signal.SIGKILL)
        try:
            while True:  # a program orphaned by its server becomes a child of this process
                os.waitpid(-child, 0)
        except ChildProcessError:
            return

    def _run(self, job: dict, count: int) -> None:
        child = self._spawn(job, count)
        program_server.wait(child, self._control)
        status, usage = self._reap(child)
        self._control.send(program_server.report(status, usage))

    def _reap(self, child: int) -> tuple[int, resource.struct_rusage]:
        """Waits for a job's process, kills and reaps what it left behind; returns its status and rusage."""
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


def _out_of_the_way(control: socket.socket) -> socket.socket:
    """The socket at a number that leaves the first ones free for the descriptors that come."""
    os.dup2(control.detach(), CONTROL_FD, inheritable=False)
    os.closerange(0, CONTROL_FD)
    os.closerange(CONTROL_FD + 1, 1024)
    return socket.socket(fileno=CONTROL_FD)


def main(control_fd: int) -> None:
    """Entry point of the server process."""
    control = socket.socket(fileno=control_fd)
    config = json.loads(control.recv(1 << 20))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
    sys.path[:] = config["import_path"]
    if config["profile"] == "program":
        script_environment.prepare(config["packages"], config["package_folders"])
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
    control = _out_of_the_way(control)
    server = Server(control, isolated, config["profile"], address_space)
    del config, plan
    if not isolation.missing_layers(isolated.layers):
        server.serve()
    os._exit(0)
