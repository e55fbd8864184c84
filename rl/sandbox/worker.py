"""One fork server as the trusted side sees it: starts it, sends it jobs, watches time and output.

A worker holds at most one job at a time and is used by one thread at a time. Whatever a job does, `run`
returns an Outcome; it raises only if a sandbox cannot be started.
"""

import base64
import contextlib
import json
import marshal
import os
import resource
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from rl.sandbox import (
    comparison,
    compile_service,
    execution_trace,
    instruction_trace,
    judge_service,
    messages,
    readable_files,
    seccomp,
)
from rl.sandbox.isolation import IsolationPlan, KernelLimits, missing_layers
from rl.sandbox.jobs import Frame, Job, Outcome, Then, Watch, WorkerDiedError
from rl.sandbox.program_server import READY
from rl.sandbox.readable_files import ToolFiles

_ROOT = str(Path(__file__).resolve().parents[2])
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from rl.sandbox.forkserver import main; main(int(sys.argv[2]))"
)
# Imports that solutions often make. More would cost every program more than they save the few.
PRELOAD = (
    "bisect",
    "collections",
    "copy",
    "functools",
    "heapq",
    "itertools",
    "math",
    "operator",
    "random",
    "re",
    "site",
    "string",
    "typing",
    "warnings",
)
Service = Literal["compiler", "judge"]


def _texts(*modules: ModuleType) -> dict[str, str]:
    return {module.__name__: Path(str(module.__file__)).read_text() for module in modules}


# What the services run, as text: the server loads none of it, in order to stay small.
_SERVICES: dict[Service, dict[str, str]] = {
    "compiler": _texts(messages, execution_trace, instruction_trace, compile_service),
    "judge": _texts(messages, comparison, judge_service),
}
_MOST_ANSWER = 1 << 28
_STARTED_S = 60.0


class SandboxError(RuntimeError):
    """The sandbox cannot be used on this machine, or its server cannot be started."""


class ToolsError(SandboxError):
    """A language's tools are missing or do not work in the sandbox: retrying is of no use."""


class Worker:
    """A fork server and the socket to it. Use as a context manager, or call close().

    Args:
      profile: "program" for Python; "tool" for compilers, "executable" for what they make, "runtime" for
        interpreters and what needs files.
      packages: installed packages that programs may import (profile "program").
      files: what a tool or runtime may read and write.
    """

    def __init__(
        self, profile: str = "program", packages: tuple[str, ...] = (), files: ToolFiles | None = None
    ):
        self.profile, self._packages, self._files = profile, packages, files
        self._process: subprocess.Popen | None = None
        self._control: socket.socket | None = None
        self._services: dict[Service, socket.socket] = {}
        self._lost: list[Service] = []
        self._has_job = False
        self._null = -1
        self._program: tuple[socket.socket, socket.socket] | None = None  # of its server: control, jobs
        self.prepared: set[str] = set()  # set-ups that the judge has run since it started
        self.layers: dict[str, bool] = {}
        self.reasons: dict[str, str] = {}
        self.start()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def start(self) -> None:
        """Starts the server, inside bubblewrap if the machine lacks Landlock and private roots.

        Raises: SandboxError naming the layers that are missing and why.
        """
        self._launch(inside_bwrap=False)
        missing = missing_layers(self.layers)
        if missing == ["files"] and shutil.which("bwrap"):
            self.close()
            self._launch(inside_bwrap=True)
            missing = missing_layers(self.layers)
        if missing:
            self.close()
            why = "; ".join(f"{name}: {self.reasons[name]}" for name in self.reasons) or "no reason given"
            raise SandboxError(
                f"untrusted programs need the layers {', '.join(missing)}, which this machine lacks ({why}); "
                "see python -m rl.sandbox --check"
            )

    def _launch(self, *, inside_bwrap: bool) -> None:
        configuration = self._configuration(inside_bwrap=inside_bwrap)
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-P", "-s", "-S", "-B", "-c", _BOOT, _ROOT, str(theirs.fileno())]
        # The hash seed is fixed so that a program's output is the same in every run.
        environment = {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        ours.send(json.dumps(configuration).encode())
        with tempfile.TemporaryFile() as errors:
            options = {
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.DEVNULL,
                "stderr": errors,
                "cwd": "/",
                "pass_fds": [theirs.fileno()],
                "env": environment,
                "start_new_session": True,
            }
            if inside_bwrap:
                command[0] = os.path.realpath(sys.executable)
                command = _bubblewrap(configuration["plan"]["shown"]) + command
            try:
                self._process = subprocess.Popen(command, **options)
            except PermissionError:
                # The user changed after this interpreter was started from a folder closed to others.
                self._process = subprocess.Popen(command, executable="/proc/self/exe", **options)
            theirs.close()
            ours.settimeout(_STARTED_S)
            try:
                ready = ours.recv(1 << 16)
            except OSError:  # TimeoutError and ConnectionResetError among them
                ready = b""
            if not ready:
                ours.close()
                self.close()
                errors.seek(0)
                tail = errors.read().decode(errors="replace").strip().splitlines()[-1:]
                raise SandboxError(
                    f"the sandbox's server did not start: {' '.join(tail) or 'it said nothing'}"
                )
        ours.settimeout(None)
        self._control = ours
        report = json.loads(ready)
        self.layers, self.reasons = report["layers"], report["reasons"]

    def _configuration(self, *, inside_bwrap: bool) -> dict[str, Any]:
        packages = readable_files.find_packages(self._packages)
        supported = seccomp.supported()
        plan = IsolationPlan(
            shown=readable_files.private_root_plan(self.profile, packages, self._files),
            grants=readable_files.grants(self.profile, packages, self._files),
            filter=seccomp.build(self.profile) if supported else b"",
            must_read=readable_files.standard_library(),
            inside_bwrap=inside_bwrap,
        )
        return {
            "profile": self.profile,
            "preload": PRELOAD,
            "import_path": readable_files.import_path(),
            "packages": self._packages,
            "package_folders": [found.directory for found in packages],
            "plan": plan._asdict() | {"filter": base64.b64encode(plan.filter).decode()},
        }

    def ask(
        self,
        service: Service,
        request: dict[str, Any],
        blob: bytes = b"",
        *,
        memory_bytes: int,
        time_s: float,
    ) -> tuple[dict[str, Any], bytes]:
        """Has a service answer a request; {"lost": why} if it does not: it is then ended and started anew.

        While a job runs, only a service that is already running can be asked (`ensure`).

        Args:
          service: compiler or judge.
          request: what JSON can hold.
          blob: sent along with it, as bytes.
          memory_bytes: limit of the service, when it is started.
          time_s: longest wall-clock time for the answer.
        Returns: header and blob of the service's reply.
        Raises: WorkerDiedError if the server is gone, which says nothing about the request.
        """
        self.ensure(service, memory_bytes)
        channel = self._services[service]
        channel.settimeout(time_s)
        try:
            channel.sendall(messages.pack(request, blob))
            return messages.receive(channel, _MOST_ANSWER)
        except TimeoutError:
            reason = f"did not finish within {time_s:g} s"
        except (OSError, EOFError, ValueError):
            reason = "crashed"
        channel.close()
        del self._services[service]
        self._lost.append(service)
        if not self._has_job:
            self._end_lost_services()
        return {"lost": reason}, b""

    def ensure(self, service: Service, memory_bytes: int) -> None:
        """Starts a service that is not running; a running one keeps the limit that it was started with.

        Args:
          service: compiler or judge.
          memory_bytes: limit of the new process.
        Raises: WorkerDiedError if the server is gone.
        """
        if service not in self._services:
            self._end_lost_services()
            self._start_service(service, memory_bytes)

    def _end_lost_services(self) -> None:
        """Ends the services that did not answer, which may still be busy."""
        assert self._control is not None, "the worker is closed"
        while self._lost:
            try:
                self._control.send(marshal.dumps({"stop": self._lost.pop()}))
                self._control.send(b"alive?")
                if not self._control.recv(1 << 10):
                    raise WorkerDiedError
            except OSError as error:
                raise WorkerDiedError from error

    def _start_service(self, service: Service, memory_bytes: int) -> None:
        assert self._control is not None, "the worker is closed"
        assert not self._has_job, "the server is busy with a job"
        ours, theirs = socket.socketpair()
        limits = KernelLimits(memory_bytes, resource.RLIM_INFINITY, 0)
        try:
            message = {"service": service, "limits": tuple(limits), "modules": _SERVICES[service]}
            descriptors = [self._null, self._null, self._null, theirs.fileno()]
            socket.send_fds(self._control, [marshal.dumps(message)], descriptors)
        except OSError as error:
            ours.close()
            raise WorkerDiedError from error
        finally:
            theirs.close()
        self._services[service] = ours
        if service == "judge":
            self.prepared.clear()

    def start_program(self, request: int, flags: int, limits: KernelLimits) -> None:
        """Starts the server for a program whose tests on standard input follow, each by `run`.

        Args:
          request: rl.sandbox.program's, of mode stdin.
          flags: shared by all its tests.
          limits: of each test.
        Raises: WorkerDiedError.
        """
        assert self._control is not None, "the worker is closed"
        self.end_program()
        self._end_lost_services()
        kind = socket.SOCK_SEQPACKET
        (control, its_control), (jobs, its_jobs) = (socket.socketpair(type=kind) for _ in range(2))
        self._program = control, jobs
        descriptors = [self._null, self._null, self._null, its_control.fileno(), request, flags]
        message = marshal.dumps({"program": tuple(limits)})
        try:
            socket.send_fds(self._control, [message], [*descriptors, its_jobs.fileno()])
        except OSError as error:
            raise WorkerDiedError from error
        finally:
            its_control.close()
            its_jobs.close()
        control.settimeout(_STARTED_S)
        try:
            ready = control.recv(len(READY))
        except OSError as error:
            raise WorkerDiedError from error
        if ready != READY:
            raise WorkerDiedError
        control.settimeout(None)

    def end_program(self) -> None:
        """Ends the server of a program, if there is one."""
        for channel in self._program or ():
            channel.close()
        self._program = None

    def close(self) -> None:
        """Ends the server and everything that runs in it."""
        self.end_program()
        if self._null >= 0:
            os.close(self._null)
            self._null = -1
        for channel in self._services.values():
            channel.close()
        self._services.clear()
        self._lost.clear()
        if self._control is not None:
            with contextlib.suppress(OSError):
                # shutdown, since another process may have inherited a copy of the descriptor
                self._control.shutdown(socket.SHUT_RDWR)
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    @property
    def running(self) -> bool:
        """Whether there is a server, as far as is known."""
        return self._control is not None

    def run(self, job: Job, on_frame: Callable[[Frame], Then] = lambda frame: Then.GO_ON) -> Outcome:
        """Runs one job to its end, or until `on_frame` says stop.

        If a frame handler raises ValueError, the frame is considered forged: the job ends as garbled.

        Args:
          job: limits and descriptors; the descriptors stay the caller's.
          on_frame: called for each frame as it comes in; says whether the job goes on, and on which clock.
        Returns: how it ended, and what it printed.
        Raises: WorkerDiedError if the server ended meanwhile; run the job again after close() and start().
        """
        assert self._control is not None, "the worker is closed"
        if self._lost:
            self._end_lost_services()
        control, jobs = self._program or (self._control, self._control)
        output_r, output_w = os.pipe2(os.O_CLOEXEC)
        result_r, result_w = os.pipe2(os.O_CLOEXEC)
        errors = output_w if job.show_errors else self._null
        descriptors, message = [job.stdin, output_w, errors, result_w], b"job"
        if self._program is None:
            descriptors += [job.request, job.flags, *job.calls]
            message = marshal.dumps(
                {
                    "limits": tuple(job.limits),
                    "argv": job.argv,
                    "directory": job.directory,
                    "environment": job.environment,
                }
            )
        try:
            os.set_blocking(output_r, False)
            os.set_blocking(result_r, False)
            try:
                socket.send_fds(jobs, [message], descriptors)
            except OSError as error:
                raise WorkerDiedError from error
            os.close(output_w)
            os.close(result_w)
            output_w = result_w = -1
            self._has_job = True
            return Watch(job, control, output_r, result_r, on_frame).to_the_end()
        finally:
            self._has_job = False
            for fd in (output_r, output_w, result_r, result_w):
                if fd >= 0:
                    os.close(fd)


def _bubblewrap(shown: list[tuple[str, str]]) -> list[str]:
    """The start of a command line that shows its command a private root, /proc and what starts a server."""
    library = os.path.join(
        sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("INSTSONAME") or ""
    )
    started = [os.path.realpath(sys.executable), library, str(Path(_ROOT, "rl"))]
    options = {"show": "--ro-bind", "write": "--bind"}
    parts = ["bwrap", "--unshare-all", "--die-with-parent", "--dev", "/dev", "--proc", "/proc"]
    for action, path in [*shown, *(("show", path) for path in started if os.path.exists(path))]:
        if action == "hide":
            parts += ["--tmpfs", path]
        elif not path.startswith("/dev/"):
            parts += [options[action], path, path]
    return [*parts, "--"]
