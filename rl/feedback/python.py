"""Python programs: call-based, stdin and assert-style tests run in the sandbox, answers checked here.

All calls of a program share a process, until one of them kills it; each stdin test has its own. The
program is parsed, traced and compiled once, by the sandbox's compile service; its code object goes
through here as opaque bytes.
"""

import math
import os
import secrets
import sys
import time
from typing import Any

from rl.feedback import assert_tests
from rl.feedback.language import Executed, Runs, Settings, TestResult, bad_end, printed
from rl.feedback.problems import Problem
from rl.sandbox import compile_service, values
from rl.sandbox.execution_trace import executed_regions
from rl.sandbox.isolation import Limits as KernelLimits
from rl.sandbox.jobs import Job, Outcome, Then, memory_file
from rl.sandbox.worker import Worker


class PythonLanguage:
    """The Language of Python programs; `packages` may be imported besides the standard library."""

    def __init__(self, packages: tuple[str, ...] = ()):
        self.worker = Worker("program", packages)

    def close(self) -> None:
        """Ends the server; the next program starts another."""
        self.worker.close()

    def run_tests(self, problem: Problem, program: str, settings: Settings) -> Runs:
        """See rl.feedback.language.Language."""
        if not self.worker.running:
            self.worker.start()
        run = _Run(self.worker, problem, program, settings)
        try:
            run.compile()
            while not run.finished:
                run.step()
            return run.runs()
        finally:
            os.close(run.flags)


class _Run:
    """One program on one problem, from its first process to its last."""

    def __init__(self, worker: Worker, problem: Problem, program: str, settings: Settings):
        self.worker, self.problem, self.program, self.settings = worker, problem, program, settings
        limits = settings.limits
        self.time_s = min(problem.time_s, limits.time_s) if problem.time_s is not None else limits.time_s
        self.results: list[TestResult] = []
        self.error: str | None = None
        self.regions: list[list[int]] = []
        self.code, self.cpu_s, self.timeouts, self.skipped = b"", 0.0, 0, 0
        self.token = secrets.token_hex(8)
        defined = frozenset((problem.fn_name,)) if problem.fn_name else frozenset()
        self.asserts = [assert_tests.parse(source, defined) for source in problem.asserts]
        self.flags = memory_file(b"")
        os.ftruncate(self.flags, 2 * len(program) + 1)  # no more statements and arms than characters

    @property
    def finished(self) -> bool:
        """Whether no further test is to be run."""
        stopped = self.settings.stop_at_first_failure and any(t.verdict != "pass" for t in self.results)
        return self.error is not None or stopped or len(self.results) >= self.problem.test_count

    def runs(self) -> Runs:
        """What came of it."""
        if self.error is not None:
            return Runs(self.error, cpu_s=self.cpu_s)
        executed = None
        if self.settings.trace:
            flags = os.pread(self.flags, os.fstat(self.flags).st_size, 0)
            spans = executed_regions(self.regions, flags)
            executed = Executed(spans, len(self.results) - self.skipped, self.problem.test_count)
        weak = any(test.weak for test in self.asserts)
        return Runs(None, tuple(self.results), executed, self.cpu_s, weak)

    def compile(self) -> None:
        """Has the program compiled; sets `error` if that fails."""
        problem, limits = self.problem, self.settings.limits
        expressions = [test.parts for test in self.asserts]
        request = {
            "source": self.program,
            "trace": self.trace_form(),
            "entry": problem.entry,
            "setup": problem.setup,
            "expressions": expressions,
        }
        answer, self.code = self.worker.compile(
            request, memory_bytes=limits.memory_bytes, time_s=limits.compile_s
        )
        self.error = answer.get("error")
        self.regions = answer.get("regions", [])
        self.cpu_s = answer.get("cpu_s", 0.0)

    def trace_form(self) -> str:
        """How the program is traced: see rl.sandbox.compile_service.compile_program."""
        if not self.settings.trace:
            return ""
        finer = sys.version_info >= (3, 12) and self.settings.trace != "portable"
        return "instructions" if finer else "statements"

    def step(self) -> None:
        """Runs one process: for stdin on the next test, else on all that are left."""
        problem, limits, index = self.problem, self.settings.limits, len(self.results)
        self.loaded, self.ended = False, None
        text = problem.inputs[index] if problem.kind == "stdin" else ""
        stdin = memory_file(text.encode(errors="surrogateescape"))
        request = memory_file(compile_service.pack(self.request(), self.code))
        tests = 1 if problem.kind == "stdin" else problem.test_count - index
        kernel = KernelLimits(limits.memory_bytes, math.ceil(self.time_s * (tests + 1)), limits.threads)
        job = Job(kernel, self.time_s, limits.output_bytes, request, stdin, self.flags)
        self.clock = time.monotonic()
        try:
            outcome = self.worker.run(job, self.on_frame)
        finally:
            os.close(stdin)
            os.close(request)
        self.cpu_s += outcome.cpu_s
        if not self.finished:
            self.conclude(outcome, index)

    def request(self) -> dict[str, Any]:
        """What the sandboxed side is told: inputs, never outputs."""
        problem, kind = self.problem, self.problem.kind
        return {
            "mode": "eval" if kind == "assert" else kind,
            "name": problem.fn_name,
            "class_name": problem.class_name,
            "trace": bool(self.settings.trace),
            "token": self.token,
            "first": len(self.results),
            "output_bytes": self.settings.limits.output_bytes,
            "tests": [values.encode(arguments) for arguments in problem.inputs] if kind == "call" else [],
        }

    def on_frame(self, kind: str, content: dict) -> Then:
        """Takes in a frame. It may be forged, but can only be an answer, or the end."""
        if kind == "L" and not self.loaded:
            self.loaded = True
            return Then.NEXT
        if kind == "V" and self.loaded and content.get("i") == len(self.results):
            self.add(self.judge_answer(content))
            return Then.STOP if self.finished else Then.NEXT
        if kind in ("D", "E") and self.ended is None:
            self.ended = (kind, content)
            return Then.GO_ON
        raise ValueError("a frame out of turn")

    def add(self, result: TestResult) -> None:
        """Notes the result of the next test; gives up on a program that keeps running out of time."""
        now = time.monotonic()
        self.results.append(result._replace(wall_s=now - self.clock))
        self.clock = now
        self.timeouts += result.verdict == "timeout"
        if self.timeouts >= self.settings.limits.timeouts and not self.finished:
            self.skip_rest(TestResult("timeout", f"not run: {self.timeouts} tests ran out of time"))

    def skip_rest(self, result: TestResult) -> None:
        """Gives the tests that are left a result without running them."""
        self.skipped = self.problem.test_count - len(self.results)
        self.results += [result] * self.skipped

    def judge_answer(self, content: dict) -> TestResult:
        """Compares what a call returned with what it should have."""
        if "excess" in content:
            return TestResult("output_limit", "returned more than the limit")
        if "error" in content:
            return TestResult("runtime_error", str(content["error"])[:400])
        if "opaque" in content:
            return TestResult("fail", f"the answer is no plain value ({str(content['opaque'])[:200]})")
        try:
            return self.compare(values.decode(content["value"]), content.get("token"))
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError, MemoryError, OverflowError):
            return TestResult("runtime_error", "the answer is garbled")

    def compare(self, value: Any, token: object) -> TestResult:
        """The result of the next test, given the value of its call or of its expressions."""
        if self.problem.kind == "assert":
            test, expected = self.asserts[len(self.results)], self.problem.asserts[len(self.results)]
            forged = test.weak and token != self.token
            right = isinstance(value, list) and not forged and assert_tests.holds(test, value)
        else:
            expected = self.problem.outputs[len(self.results)]
            right = _matches(expected, value)
        if right:
            return TestResult("pass")
        return TestResult("fail", f"got {value!r:.150}, expected {expected!r:.150}")

    def conclude(self, outcome: Outcome, index: int) -> None:
        """Draws what follows from the end of a process that left tests without a result."""
        if self.problem.kind == "stdin":
            self.add(self.judge_output(outcome, self.problem.outputs[index]))
        elif self.loaded:
            self.add(bad_end(outcome, self.ended))
        else:
            # the module itself failed, as it would in front of every test
            self.add(bad_end(outcome, self.ended))
            if not self.finished:
                self.skip_rest(self.results[-1])

    def judge_output(self, outcome: Outcome, expected: str) -> TestResult:
        """Compares what was printed with what should have been.

        A process that ends without an error of its own (os._exit(0) included) is judged by what it
        printed, but one that left early without printing anything has failed to run.
        """
        kind, content = self.ended or ("", {})
        silent = kind != "D" and not outcome.output
        if outcome.timed_out or outcome.output_exceeded or outcome.garbled or outcome.status != 0 or silent:
            return bad_end(outcome, self.ended)
        if kind == "E" or content.get("exit", 0) != 0:
            return bad_end(outcome, self.ended)
        return printed(outcome.output, expected)


def _matches(expected: Any, value: Any) -> bool:
    """APPS wraps some return values as [value]: either form is right."""
    if values.same(expected, value):
        return True
    return isinstance(expected, list) and len(expected) == 1 and values.same(expected[0], value)
