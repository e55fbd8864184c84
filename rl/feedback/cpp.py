"""C++ programs: compiled by g++ inside the sandbox, run on standard input, executed lines by gcov.

Compilers read what a program tells them to (#include, .incbin), so they too run isolated: they see the
tool chain and one scratch folder. The program is linked statically, passed on as bytes and started from
memory: it can open no file at all. Its line counters are copied to shared memory every 50 ms, at exit and
on fatal signals, so that they survive a kill. Problems must be of the stdin kind.
"""

import json
import math
import os
import re
import shutil
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

from rl.feedback.judging import bad_end, judge_printed
from rl.feedback.language import Executed, Runs, Settings, TestResult
from rl.feedback.problems import Problem
from rl.sandbox.isolation import UNPRIVILEGED_ID, KernelLimits
from rl.sandbox.jobs import Job, Outcome, memory_file
from rl.sandbox.worker import SandboxError, Worker

_COUNTERS_BYTES = 1 << 20  # each of two copies, of which one is always whole
_TOOL_LIMITS = KernelLimits(memory_bytes=4 << 30, cpu_s=120, threads=16, file_bytes=256 << 20)
_TOOL_SLOWER = 3.0  # a C++ compiler gets this times Limits.compile_s
_COMPILE = ("-std=c++17", "-O1", "-pipe", "-w", "-fno-diagnostics-color", "-fmax-errors=5")
# atomic: else a loop would keep its counters in registers until it ends, and a kill would lose them
_COVERAGE = (
    "-fprofile-update=atomic",
    "-fprofile-arcs",
    "-ftest-coverage",
    "-fprofile-info-section=counter_tables",
)
_RUNTIME = f"""
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <sys/mman.h>
#include <sys/time.h>
extern "C" {{
#include <gcov.h>
extern const struct gcov_info *const __start_counter_tables[];
extern const struct gcov_info *const __stop_counter_tables[];
}}
namespace {{
// active copy (1 or 2), their lengths, the copies
struct Shared {{ unsigned active, length[2]; char copy[2][{_COUNTERS_BYTES}]; }};
Shared *shared;
void name(const char *, void *) {{}}
void put(const void *data, unsigned size, void *target) {{
  unsigned which = *static_cast<unsigned *>(target), at = shared->length[which];
  if (at + size <= {_COUNTERS_BYTES}) std::memcpy(shared->copy[which] + at, data, size);
  shared->length[which] = at + size;
}}
void *allocate(unsigned size, void *) {{ return std::malloc(size); }}
void save() {{
  unsigned which = shared->active == 1 ? 1 : 0;
  shared->length[which] = 0;
  for (auto table = __start_counter_tables; table != __stop_counter_tables; ++table)
    __gcov_info_to_gcda(*table, name, put, allocate, &which);
  shared->active = which + 1;
}}
void tick(int) {{ save(); }}
void fatal(int number) {{ save(); std::signal(number, SIG_DFL); }}
__attribute__((constructor)) void start() {{
  void *place = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, 5, 0);
  if (place == MAP_FAILED) return;
  shared = static_cast<Shared *>(place);
  struct sigaction action = {{}};
  action.sa_handler = tick;
  action.sa_flags = SA_RESTART;
  sigaction(SIGALRM, &action, nullptr);
  for (int number : {{SIGSEGV, SIGFPE, SIGABRT, SIGILL, SIGBUS}}) std::signal(number, fatal);
  struct itimerval often = {{{{0, 50000}}, {{0, 50000}}}};
  setitimer(ITIMER_REAL, &often, nullptr);
  std::atexit(save);
}}
}}
"""


class CppLanguage:
    """The Language of C++ programs. Raises: SandboxError where there is no g++ or gcov."""

    def __init__(self):
        missing = [tool for tool in ("g++", "gcov") if shutil.which(tool) is None]
        if missing:
            raise SandboxError(f"C++ problems need {' and '.join(missing)}, which this machine lacks")
        self._tool: Worker | None = None
        self._runner: Worker | None = None
        self._judge: Worker | None = None  # of outputs that are not compared here
        self._folder: tempfile.TemporaryDirectory | None = None
        self._has_runtime = False

    def close(self) -> None:
        """Ends the servers and empties the scratch folder."""
        for worker in (self._tool, self._runner, self._judge):
            if worker is not None:
                worker.close()
        if self._folder is not None:
            self._folder.cleanup()
        self._tool = self._runner = self._judge = self._folder = None
        self._has_runtime = False

    def _open(self) -> None:
        if self._tool is None:
            self._folder = tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True)
            if os.geteuid() == 0:
                os.chown(self._folder.name, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
            self._tool = Worker("tool", scratch=self._folder.name)
            self._runner = Worker("executable")

    @property
    def _scratch(self) -> Path:
        assert self._folder is not None
        return Path(self._folder.name)

    def run_tests(self, problem: Problem, program: str, settings: Settings) -> Runs:
        """See rl.feedback.language.Language."""
        if problem.kind != "stdin":
            raise ValueError(
                f"C++ programs are graded on standard input; {problem.id} is of kind {problem.kind}"
            )
        self._open()
        error, binary = self._compile(program, settings)
        if error is not None:
            return Runs(error)
        return self._run_all(binary, problem, program, settings)

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

    def _compile(self, program: str, settings: Settings) -> tuple[str | None, bytes]:
        """(the compiler's message or None, the executable)."""
        time_s = _TOOL_SLOWER * settings.limits.compile_s
        extra: tuple[str, ...] = ()
        objects = ["program.o"]
        if settings.trace:
            extra, objects = _COVERAGE, ["program.o", "runtime.o", "-lgcov"]
            if not self._has_runtime:
                self._write("runtime.cpp", _RUNTIME.encode())
                made = self._use_tool("g++", *_COMPILE, "-c", "runtime.cpp", "-o", "runtime.o", time_s=time_s)
                if made.status != 0:
                    raise SandboxError(f"the coverage runtime does not compile: {_message(made)}")
                self._has_runtime = True
        self._write("program.cpp", program.encode(errors="surrogatepass"))
        for name in ("program", "program.o", "program.gcno"):
            (self._scratch / name).unlink(missing_ok=True)
        for step in (
            ("-c", "program.cpp", "-o", "program.o", *extra),
            ("-static", "-o", "program", *objects),
        ):
            outcome = self._use_tool("g++", *_COMPILE, *step, time_s=time_s)
            if outcome.timed_out or outcome.status != 0:
                return _message(outcome), b""
        return None, (self._scratch / "program").read_bytes()

    def _run_all(self, binary: bytes, problem: Problem, program: str, settings: Settings) -> Runs:
        limits, results, lines, cpu_s = settings.limits, [], {}, 0.0
        seen: set[bytes] = set()
        # sealed: else one test could leave a message in it for the next
        executable, ran, rule = memory_file(binary, sealed=True), 0, settings.rule_for(problem)

        def ask(question: dict[str, Any], output: bytes) -> dict[str, Any]:
            if self._judge is None:
                self._judge = Worker("program")
            time_s = limits.time_s
            reply, _ = self._judge.ask(
                "judge", question, output, memory_bytes=limits.memory_bytes, time_s=time_s
            )
            return reply

        try:
            for number, given in enumerate(problem.inputs):
                timeouts = sum(result.verdict == "timeout" for result in results)
                if timeouts >= limits.timeouts:
                    results.append(TestResult("timeout", f"not run: {timeouts} tests ran out of time"))
                    continue
                began = time.monotonic()
                outcome, counters = self._run(executable, given, problem, settings)
                ran, cpu_s = ran + 1, cpu_s + outcome.cpu_s
                good = outcome.status == 0 and not (outcome.timed_out or outcome.output_exceeded)
                result = (
                    judge_printed(problem, number, outcome.output, rule, ask) if good else bad_end(outcome)
                )
                results.append(result._replace(wall_s=time.monotonic() - began))
                if counters and counters not in seen:
                    seen.add(counters)
                    for line, count in self._lines(counters, settings).items():
                        lines[line] = lines.get(line, 0) + count
                if settings.stop_at_first_failure and results[-1].verdict != "pass":
                    break
        finally:
            os.close(executable)
        executed = Executed(line_spans(program, lines), ran, problem.test_count) if lines else None
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
            os.ftruncate(counters, 12 + 2 * _COUNTERS_BYTES)
            job = Job(kernel, time_s, limits.output_bytes, executable, stdin, counters, argv=("program",))
            outcome = self._runner.run(job)
            active, *lengths = struct.unpack("=3I", os.pread(counters, 12, 0))
            if active not in (1, 2) or lengths[active - 1] > _COUNTERS_BYTES:
                return outcome, b""
            return outcome, os.pread(counters, lengths[active - 1], 12 + (active - 1) * _COUNTERS_BYTES)
        finally:
            os.close(stdin)
            os.close(counters)

    def _lines(self, counters: bytes, settings: Settings) -> dict[int, int]:
        """How often each line with code ran; nothing if the program has spoilt its counters."""
        self._write("program.gcda", counters)
        arguments = ("gcov", "--json-format", "--stdout", "program.gcda")
        outcome = self._use_tool(*arguments, time_s=settings.limits.compile_s)
        try:
            files = json.loads(outcome.output[outcome.output.index(b"{") :].split(b"\n")[0])["files"]
            rows = [row for file in files if file["file"].endswith("program.cpp") for row in file["lines"]]
            return {int(row["line_number"]): int(row["count"]) for row in rows}
        except (ValueError, KeyError, TypeError, RecursionError):
            return {}


def _message(outcome: Outcome) -> str:
    if outcome.timed_out:
        return "the compiler ran out of time"
    text = outcome.output.decode("utf-8", errors="replace").strip()
    return text[:2000] or f"the compiler ended with status {outcome.status}"


def line_spans(program: str, counts: dict[int, int]) -> tuple[tuple[int, int], ...]:
    """The character spans of the lines that ran; a line without code goes with the next one that has some."""
    spans: list[tuple[int, int]] = []
    start = position = 0
    last = max(counts, default=0)
    # a compiler counts line feeds; splitlines would count form feeds and U+2028 in strings too
    for number, line in enumerate(re.findall(r"[^\n]*\n|[^\n]+", program), start=1):
        position += len(line)
        if number not in counts and number < last:
            continue
        if counts.get(min(number, last), 0) > 0:
            if spans and spans[-1][1] == start:
                spans[-1] = (spans[-1][0], position)
            else:
                spans.append((start, position))
        start = position
    return tuple(spans)
