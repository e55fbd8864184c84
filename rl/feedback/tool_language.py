"""Programs compiled and run by tools of this machine (`rl.feedback.toolchain`), all of them isolated.

A compiler sees the tool chain and one scratch folder, which it may write to. A program sees its own folder
and the interpreter or virtual machine that it needs; it can start no process, and can write only to one
existing file, which is emptied between tests: the record of what ran. If any test of a program left no record
(killed, out of time), it is not known what ran: `Runs.executed` is then None, and no token is masked. A
program that writes its own record marks its own text, as a C++ program can (rl/feedback/cpp_coverage.py): it
gains tokens in its loss, never a verdict.
"""

import contextlib
import logging
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rl.feedback.judging import in_one_line
from rl.feedback.language import Executed, Limits, Runs, Settings
from rl.feedback.problems import Problem
from rl.feedback.stdin_tests import OutputJudge, run_stdin_tests
from rl.feedback.toolchain import SourceNames, Steps, Toolchain
from rl.sandbox.isolation import UNPRIVILEGED_ID, KernelLimits
from rl.sandbox.jobs import Job, Outcome, memory_file
from rl.sandbox.readable_files import ToolFiles
from rl.sandbox.worker import ToolsError, Worker

_LOG = logging.getLogger(__name__)
_TOOL_LIMITS = KernelLimits(memory_bytes=8 << 30, cpu_s=120, threads=64, file_bytes=256 << 20)
_RECORD_BYTES = 8 << 20
_TOOL_SLOWER = 3.0  # a compiler gets this times Limits.compile_s
_FIRST = Settings(Limits(compile_s=120.0), trace=True)  # some compile their standard library
_UNTOLD: set[str] = set()  # languages for which it has been reported that nothing tells what ran


class ToolLanguage:
    """The Language of a toolchain. Raises: ToolsError if the machine lacks its tools."""

    def __init__(self, chain: Toolchain):
        lacking = [tool for tool in chain.tools if shutil.which(tool) is None]
        if lacking:
            title = chain.text.title
            raise ToolsError(f"{title} problems need {' and '.join(lacking)}, which this machine lacks")
        self._chain, self.environment = chain, chain.environment()
        self._tool: Worker | None = None
        self._runner: Worker | None = None
        self._judge = OutputJudge()
        self._scratch: tempfile.TemporaryDirectory | None = None
        why_not = chain.coverage.missing() if chain.coverage else "its tools do not tell"
        self._coverage = None if why_not else chain.coverage
        self._why_not = why_not

    def close(self) -> None:
        """Ends the servers and empties the scratch folder."""
        for worker in (self._tool, self._runner):
            if worker is not None:
                worker.close()
        self._judge.close()
        if self._scratch is not None:
            self._scratch.cleanup()
        self._tool = self._runner = self._scratch = None

    def _open(self) -> None:
        """Makes the scratch folder and starts the servers."""
        self._scratch = tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True)
        folder, record = self._scratch.name, self._record
        record.touch()
        if self._coverage:
            self._coverage.prepare(Path(folder))
        reads = self._chain.reads() + (self._coverage.reads() if self._coverage else ())
        tools = (os.path.realpath(shutil.which(tool) or tool) for tool in self._chain.tools)
        reads = tuple(dict.fromkeys((*tools, *map(os.path.realpath, reads))))
        for path in (folder, record):
            if os.geteuid() == 0:
                os.chown(path, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
        self._tool = Worker("tool", files=ToolFiles(folder, reads))
        self._runner = Worker("runtime", files=ToolFiles(folder, reads, str(record)))

    @property
    def _record(self) -> Path:
        assert self._scratch is not None
        return Path(self._scratch.name, "record")

    def run_tests(self, problem: Problem, program: str, settings: Settings) -> Runs:
        """Compiles the program and runs it on each test's input (`rl.feedback.language.Language`).

        Args:
          problem: of the stdin kind.
          program: one source file.
          settings: limits, tracing and comparison.
        Returns: results in the order of the tests, and what ran; the compiler's message if there is no
          program.
        Raises: ValueError for a problem of another kind; ToolsError if the tools do not work;
          WorkerDiedError if a server ended meanwhile.
        """
        title = self._chain.text.title
        if problem.kind != "stdin":
            raise ValueError(
                f"{title} programs are graded on standard input; {problem.id} is of kind {problem.kind}"
            )
        if settings.trace and self._coverage is None and title not in _UNTOLD:
            _UNTOLD.add(title)
            _LOG.warning("which lines of %s programs ran is not known (%s): all count", title, self._why_not)
        if self._scratch is None:
            self._open()
            self._try(settings)
        with self._new_folder() as folder:
            return self._run_in(folder, problem, program, settings)

    def _try(self, settings: Settings) -> None:
        """Runs the empty program. Raises: ToolsError if that does not work."""
        nothing = Problem("the empty program", "", inputs=[""], outputs=[""])
        with self._new_folder() as folder:
            runs = self._run_in(folder, nothing, self._chain.empty, _FIRST._replace(trace=settings.trace))
        said = runs.error or runs.tests[0].message
        if said:
            self.close()
            title = self._chain.text.title
            raise ToolsError(f"the tools of {title} do not work in the sandbox: {in_one_line(said)}")

    @contextlib.contextmanager
    def _new_folder(self) -> Iterator[Path]:
        assert self._scratch is not None, "the language is closed"
        folder = Path(tempfile.mkdtemp(prefix="program-", dir=self._scratch.name))
        try:
            folder.chmod(0o755)
            if os.geteuid() == 0:
                os.chown(folder, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _run_in(self, folder: Path, problem: Problem, program: str, settings: Settings) -> Runs:
        names = self._chain.names(program)
        coverage = self._coverage if settings.trace else None
        steps = coverage.steps if coverage else self._chain.steps
        at = _Place(self, folder, names, steps, settings)
        error = at.compile(program)
        if error is not None and coverage:  # a coverage tool may know less of a language than its compiler
            coverage, at = None, _Place(self, folder, names, self._chain.steps, settings)
            error = at.compile(program)
        if error is not None:
            return Runs(error)
        records: set[bytes] = set()

        def run(given: str) -> Outcome:
            os.truncate(self._record, 0)
            outcome = at.run(given, problem)
            if coverage:
                known = coverage.knows_failures or outcome.status == 0
                records.add(_read(self._record) if known else b"")
            return outcome

        results, ran, cpu_s = run_stdin_tests(problem, settings, run, self._judge)
        spans = None
        if coverage and ran and b"" not in records:
            spans = coverage.spans(program, names, records, at)
        executed = None if spans is None else Executed(spans, ran, problem.test_count)
        return Runs(None, tuple(results), executed, cpu_s)

    def run_job(self, kind: str, job: Job) -> Outcome:
        """Runs a job on one of the language's servers.

        Args:
          kind: "tool" for the server of compilers, "runtime" for that of programs.
          job: what to run.
        Returns: how it ended.
        """
        worker = self._tool if kind == "tool" else self._runner
        assert worker is not None, "the language is closed"
        return worker.run(job)

    @property
    def chain(self) -> Toolchain:
        """The description of the language."""
        return self._chain


class _Place:
    """One program in its folder: the `Tools` of a coverage."""

    def __init__(
        self, language: ToolLanguage, folder: Path, names: SourceNames, steps: Steps, settings: Settings
    ):
        self._language, self._folder, self._names = language, folder, names
        self._steps, self._settings = steps, settings
        values = {
            "source": names.source,
            "main": names.main,
            "folder": str(folder),
            "scratch": str(folder.parent),
            "record": str(folder.parent / "record"),
            "memory_mb": str(settings.limits.memory_bytes >> 20),
            **language.environment,
        }
        self._values = {f"{{{name}}}": value for name, value in values.items()}
        scratch = str(folder.parent)
        own = {"PATH": "/usr/bin:/bin", "TMPDIR": scratch, "HOME": scratch, "LC_ALL": "C.UTF-8"}
        further = {**language.environment, **steps.environment}
        self._environment = own | {key: self._filled(text) for key, text in further.items()}

    def write(self, name: str, content: bytes) -> None:
        """See `rl.feedback.toolchain.Tools`."""
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o644)

    def read(self, name: str) -> bytes:
        """See `rl.feedback.toolchain.Tools`."""
        return _read(self._folder / name)

    def use(self, *command: str) -> Outcome:
        """See `rl.feedback.toolchain.Tools`."""
        nothing = memory_file(b"")
        try:
            job = Job(
                _TOOL_LIMITS,
                _TOOL_SLOWER * self._settings.limits.compile_s,
                64 << 20,
                nothing,
                nothing,
                nothing,
                show_errors=True,
                argv=self._command(command),
                directory=str(self._folder),
                environment=self._environment,
            )
            return self._language.run_job("tool", job)
        finally:
            os.close(nothing)

    def compile(self, program: str) -> str | None:
        """Writes the program's files and compiles it; returns the compiler's message if it refuses."""
        self.write(self._names.source, program.encode(errors="surrogatepass"))
        for name, text in self._steps.files.items():
            self.write(name, self._filled(text).encode())
        if not self._steps.compile:
            return None
        outcome = self.use(*self._steps.compile)
        if outcome.timed_out:
            return "the compiler ran out of time"
        if outcome.status == 0:
            return None
        said = outcome.output.decode("utf-8", errors="replace")
        said = said.replace(f"_{self._folder}", "program").replace(f"{self._folder}/", "").strip()
        return said[:2000] or f"the compiler ended with status {outcome.status}"

    def run(self, given: str, problem: Problem) -> Outcome:
        """Runs the program on an input."""
        chain, limits = self._language.chain, self._settings.limits
        time_s = min(problem.time_s or limits.time_s, limits.time_s) + chain.start_s
        memory = limits.memory_bytes + chain.address_space
        kernel = KernelLimits(memory, math.ceil(2 * time_s), limits.threads, _RECORD_BYTES)
        stdin, nothing = memory_file(given.encode(errors="surrogateescape")), memory_file(b"")
        try:
            job = Job(
                kernel,
                time_s,
                limits.output_bytes,
                nothing,
                stdin,
                nothing,
                argv=self._command(self._steps.run),
                directory=str(self._folder),
                environment=self._environment,
            )
            return self._language.run_job("runtime", job)
        finally:
            os.close(stdin)
            os.close(nothing)

    def _filled(self, text: str) -> str:
        """A text with its placeholders filled in; other braces stay."""
        for place, value in self._values.items():
            text = text.replace(place, value)
        return text

    def _command(self, words: tuple[str, ...]) -> tuple[str, ...]:
        first, *others = map(self._filled, words)
        return (os.path.realpath(shutil.which(first) or first), *others)


def _read(path: Path) -> bytes:
    """The contents of a file that a program or a tool wrote; b"" if it is not a plain file."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                return file.read(_RECORD_BYTES)
    return b""
