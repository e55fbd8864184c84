"""C++ programs: compiled by g++ inside the sandbox, run on standard input, executed lines by gcov.

Compilers read what a program tells them to (#include, .incbin), so they run isolated too: they see the tool
chain and one scratch folder. The program is linked statically, passed on as bytes and started from memory: it
can open no file at all. Its line counters are copied to shared memory every 50 ms, at exit and on fatal
signals, so that they survive a kill (rl/feedback/cpp_coverage.py). Problems must be of the stdin kind.
"""

import math
import os
import secrets
import shutil
import struct
import tempfile
from pathlib import Path

from rl.feedback import cpp_coverage
from rl.feedback.code_text import CodeText, block_comment
from rl.feedback.cpp_coverage import COUNTERS_BYTES
from rl.feedback.executed_lines import line_spans
from rl.feedback.grammar import Grammar
from rl.feedback.language import Executed, Runs, Settings
from rl.feedback.problems import Problem
from rl.feedback.stdin_tests import OutputJudge, run_stdin_tests
from rl.sandbox.isolation import UNPRIVILEGED_ID, KernelLimits
from rl.sandbox.jobs import Job, Outcome, memory_file
from rl.sandbox.readable_files import ToolFiles
from rl.sandbox.worker import SandboxError, ToolsError, Worker

_TOOL_LIMITS = KernelLimits(memory_bytes=4 << 30, cpu_s=120, threads=16, file_bytes=256 << 20)
_MOST_PREPROCESSED = 16 << 20  # bytes; <bits/stdc++.h> brings 3 million
_TOOL_SLOWER = 3.0  # a C++ compiler gets this times Limits.compile_s
_COMPILE = ("-std=c++17", "-O1", "-pipe", "-w", "-fno-diagnostics-color", "-fmax-errors=5")


_GRAMMAR = Grammar(
    "tree_sitter_cpp",
    {
        "if": ("if_statement",),
        "for": ("for_statement", "for_range_loop"),
        "while": ("while_statement", "do_statement"),
        "try": ("try_statement",),
        "match": ("switch_statement",),
        "ternary": ("conditional_expression",),
    },
    blocks=("translation_unit", "compound_statement", "case_statement"),
)
CPP = CodeText("C++", ("cpp", "c++", "cc", "cxx", ""), block_comment, _GRAMMAR)


class CppLanguage:
    """The Language of C++ programs. Raises: ToolsError if there is no g++ or gcov."""

    def __init__(self):
        missing = [tool for tool in ("g++", "gcov") if shutil.which(tool) is None]
        if missing:
            raise ToolsError(f"C++ problems need {' and '.join(missing)}, which this machine lacks")
        self._tool: Worker | None = None
        self._runner: Worker | None = None
        self._judge = OutputJudge()
        self._folder: tempfile.TemporaryDirectory | None = None
        self._has_runtime = False
        # random, so that no program can name them
        self._section, self._name, self._decoys = (f"p{secrets.token_hex(8)}" for _ in range(3))

    def close(self) -> None:
        """Ends the servers and empties the scratch folder."""
        for worker in (self._tool, self._runner):
            if worker is not None:
                worker.close()
        self._judge.close()
        if self._folder is not None:
            self._folder.cleanup()
        self._tool = self._runner = self._folder = None
        self._has_runtime = False

    def _open(self) -> None:
        if self._tool is None:
            self._folder = tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True)
            if os.geteuid() == 0:
                os.chown(self._folder.name, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
            self._tool = Worker("tool", files=ToolFiles(self._folder.name))
            self._runner = Worker("executable")

    @property
    def _scratch(self) -> Path:
        assert self._folder is not None
        return Path(self._folder.name)

    def run_tests(self, problem: Problem, program: str, settings: Settings) -> Runs:
        """Compiles the program with g++ and runs it on each test's input (`rl.feedback.language.Language`).

        Args:
          problem: of the stdin kind.
          program: one C++ source.
          settings: limits, tracing and comparison.
        Returns: results in the order of the tests, and the lines that ran; the compiler's message if there is
          no program.
        Raises: ValueError for a problem of another kind; SandboxError if the tool chain does not work;
          WorkerDiedError if a server ended meanwhile.
        """
        if problem.kind != "stdin":
            raise ValueError(
                f"C++ programs are graded on standard input; {problem.id} is of kind {problem.kind}"
            )
        self._open()
        error, binary, forged = self._compile(program, settings)
        if error is not None:
            return Runs(error.replace(self._name, "program"))
        return self._run_all(binary, problem, program, settings, forged=forged)

    def _use_tool(self, *argv: str, time_s: float) -> Outcome:
        """Runs a tool in the scratch folder; what it prints on both streams is the output."""
        assert self._tool is not None
        path = shutil.which(argv[0]) or argv[0]
        environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(self._scratch), "LC_ALL": "C"}
        nothing = memory_file(b"")
        try:
            job = Job(
                _TOOL_LIMITS,
                time_s,
                64 << 20,
                nothing,
                nothing,
                nothing,
                show_errors=True,
                argv=(path, *argv[1:]),
                directory=str(self._scratch),
                environment=environment,
            )
            return self._tool.run(job)
        finally:
            os.close(nothing)

    def _write(self, name: str, content: bytes) -> None:
        path = self._scratch / name
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        path.chmod(0o644)

    def _compile(self, program: str, settings: Settings) -> tuple[str | None, bytes, bool]:
        """(the compiler's message or None, the executable, whether the program marks its own lines)."""
        time_s = _TOOL_SLOWER * settings.limits.compile_s
        traced, name, forged = bool(settings.trace), self._name, False
        self._write(f"{name}.cpp", program.encode(errors="surrogatepass"))
        for old in ("program", "program.o", "program.gcno", f"{name}.ii"):
            (self._scratch / old).unlink(missing_ok=True)
        compiled = ("-c", f"{name}.ii" if traced else f"{name}.cpp", "-o", "program.o")
        steps = [compiled, ("-static", "-s", "-o", "program", "program.o")]
        if traced:
            self._make_runtime(time_s)
            steps = [
                ("-E", f"{name}.cpp", "-o", f"{name}.ii"),
                (*compiled, *cpp_coverage.flags(self._section)),
                ("-static", "-s", "-o", "program", "runtime.o", "program.o", "-lgcov"),
            ]
        for step in steps:
            outcome = self._use_tool("g++", *_COMPILE, *step, time_s=time_s)
            if outcome.timed_out or outcome.status != 0:
                return _message(outcome), b"", False
            if step[0] == "-E":
                size = (self._scratch / f"{name}.ii").stat().st_size
                if size > _MOST_PREPROCESSED:
                    said = f"with its headers and macros the program has {size:,} bytes"
                    return f"{said}; up to {_MOST_PREPROCESSED:,} are compiled", b"", False
                forged = self._add_decoys(program)
        return None, (self._scratch / "program").read_bytes(), forged

    def _make_runtime(self, time_s: float) -> None:
        if self._has_runtime:
            return
        self._write("runtime.cpp", cpp_coverage.runtime(self._section).encode())
        made = self._use_tool("g++", *_COMPILE, "-c", "runtime.cpp", "-o", "runtime.o", time_s=time_s)
        if made.status != 0:
            raise SandboxError(f"the coverage runtime does not compile: {_message(made)}")
        self._has_runtime = True

    def _add_decoys(self, program: str) -> bool:
        """Puts decoys into the preprocessed program; whether it marks its own lines."""
        path = self._scratch / f"{self._name}.ii"
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        changed = cpp_coverage.with_decoys(text, self._decoys)
        self._write(path.name, changed.encode(errors="surrogateescape"))
        return cpp_coverage.marks_itself(program, text, f"{self._name}.cpp")

    def _run_all(
        self, binary: bytes, problem: Problem, program: str, settings: Settings, *, forged: bool
    ) -> Runs:
        # sealed: otherwise one test could leave a message in it for the next
        executable, records = memory_file(binary, sealed=True), set[bytes]()

        def run(given: str) -> Outcome:
            outcome, counters = self._run(executable, given, problem, settings)
            records.add(counters)
            return outcome

        try:
            results, ran, cpu_s = run_stdin_tests(problem, settings, run, self._judge)
        finally:
            os.close(executable)
        lines: dict[int, int] = {}
        for counters in records - {b""}:
            counts = self._lines(counters, settings)
            forged = forged or counts is None
            for line, count in (counts or {}).items():
                lines[line] = lines.get(line, 0) + count
        # if a program marks its own text, none of it counts
        spans = () if forged else line_spans(program, lines)
        traced = settings.trace and (lines or forged)
        executed = Executed(spans, ran, problem.test_count) if traced else None
        return Runs(None, tuple(results), executed, cpu_s)

    def _run(
        self, executable: int, given: str, problem: Problem, settings: Settings
    ) -> tuple[Outcome, bytes]:
        assert self._runner is not None
        limits = settings.limits
        time_s = min(problem.time_s or limits.time_s, limits.time_s)
        kernel = KernelLimits(limits.memory_bytes, math.ceil(2 * time_s), limits.threads)
        stdin, counters = memory_file(given.encode(errors="surrogateescape")), memory_file(b"")
        try:
            os.ftruncate(counters, 12 + 2 * COUNTERS_BYTES)
            job = Job(kernel, time_s, limits.output_bytes, executable, stdin, counters, argv=("program",))
            outcome = self._runner.run(job)
            active, *lengths = struct.unpack("=3I", os.pread(counters, 12, 0))
            if active not in (1, 2) or lengths[active - 1] > COUNTERS_BYTES:
                return outcome, b""
            return outcome, os.pread(counters, lengths[active - 1], 12 + (active - 1) * COUNTERS_BYTES)
        finally:
            os.close(stdin)
            os.close(counters)

    def _lines(self, counters: bytes, settings: Settings) -> dict[int, int] | None:
        """How often each line with code ran; None if the program has written to its counters."""
        self._write("program.gcda", counters)
        arguments = ("gcov", "--json-format", "--stdout", "program.gcda")
        outcome = self._use_tool(*arguments, time_s=settings.limits.compile_s)
        return cpp_coverage.line_counts(outcome.output, f"{self._name}.cpp", self._decoys)


def _message(outcome: Outcome) -> str:
    if outcome.timed_out:
        return "the compiler ran out of time"
    text = outcome.output.decode("utf-8", errors="replace").strip()
    return text[:2000] or f"the compiler ended with status {outcome.status}"
