"""Python programs: call-based, stdin and assert-style tests run in the sandbox, answers judged separately.

All calls of a program share a process, until one of them kills it; each stdin test has its own. The sandbox's
compile service parses, traces and compiles the program once; its code object passes through here as opaque
bytes. Small answers are compared here; large ones, and all that need the problem's own code, are judged by
the sandbox's judge, whose time and memory are limited.
"""

import json
import marshal
import math
import os
import re
import struct
import sys
import time
from typing import Any

from rl.feedback import assert_tests
from rl.feedback.judging import bad_end, in_one_line, judge_printed, judge_question, judge_result, shown
from rl.feedback.language import Executed, Runs, Settings, TestResult
from rl.feedback.problems import Problem
from rl.sandbox import values
from rl.sandbox.comparison import is_expected
from rl.sandbox.execution_trace import executed_regions, were_forged
from rl.sandbox.isolation import KernelLimits
from rl.sandbox.jobs import Frame, Job, Outcome, Then, memory_file
from rl.sandbox.worker import Worker

_SMALL_ANSWER = 4096  # bytes of JSON that are cheap to compare, whatever the value
_MOST_PENDING = 4  # bound on the answers that wait for the judge, as a multiple of the largest allowed one
_CALLING_TEST = 5.0  # a test that makes many calls gets this times the limit of one
# what the sites of such problems import at the least: the names in the functions' annotations
_TYPING = "from typing import *"
_IMPORTS = re.compile(r"^(?:import|from) [^\n]+", re.MULTILINE)
_COUNT = struct.Struct("=I")


class PythonLanguage:
    """The Language of Python programs; `packages` may be imported besides the standard library."""

    def __init__(self, packages: tuple[str, ...] = ()):
        self.worker = Worker("program", packages)

    def close(self) -> None:
        """Ends the server; the next program starts another."""
        self.worker.close()

    def run_tests(self, problem: Problem, program: str, settings: Settings) -> Runs:
        """Compiles the program in the sandbox and runs it on all tests (`rl.feedback.language.Language`).

        Args:
          problem: of any kind.
          program: Python source.
          settings: limits, tracing and comparison.
        Returns: results in the order of the tests, and the character spans that ran; the error if there is no
          program.
        Raises: SandboxError if no worker can be started; WorkerDiedError if its server ended meanwhile.
        """
        if not self.worker.running:
            self.worker.start()
        run = _Run(self.worker, problem, program, settings)
        try:
            run.compile()
            while not run.finished:
                run.step()
            return run.runs()
        finally:
            run.close()


class _Run:
    """One program on one problem, from its first process to its last."""

    def __init__(self, worker: Worker, problem: Problem, program: str, settings: Settings):
        self.worker, self.problem, self.program, self.settings = worker, problem, program, settings
        limits = settings.limits
        self.time_s = min(problem.time_s, limits.time_s) if problem.time_s is not None else limits.time_s
        self.rule = settings.rule_for(problem)
        self.results: list[TestResult] = []
        self.pending: dict[int, bytes] = {}
        self.error: str | None = None
        self.regions: list[list[int]] = []
        self.ran: tuple[bytes, bool] = (b"", False)  # flags of the processes so far; whether some were forged
        self.code, self.cpu_s, self.timeouts, self.skipped = b"", 0.0, 0, 0
        self.asserts = [assert_tests.parse(s, problem.fn_name, problem.setup) for s in problem.asserts]
        self.flags = self.call_file = -1
        self.call_pipe = (-1, -1)

    def close(self) -> None:
        """Closes what the processes shared with this one."""
        self.worker.end_program()
        for fd in (self.flags, self.call_file, *self.call_pipe):
            if fd >= 0:
                os.close(fd)

    @property
    def finished(self) -> bool:
        """Whether no further test is to be run."""
        stopped = self.settings.stop_at_first_failure and any(
            test.verdict != "pass" for i, test in enumerate(self.results) if i not in self.pending
        )
        return self.error is not None or stopped or len(self.results) >= self.problem.test_count

    def runs(self) -> Runs:
        """The results so far, in full."""
        if self.error is not None:
            return Runs(self.error, cpu_s=self.cpu_s)
        executed = None
        if self.settings.trace:
            flags, forged = self.ran
            # if a program marks its own text, none of it counts
            spans = () if forged or not flags else executed_regions(self.regions, flags)
            executed = Executed(spans, len(self.results) - self.skipped, self.problem.test_count)
        weak = any(test.weak for test in self.asserts)
        return Runs(None, tuple(self.results), executed, self.cpu_s, weak)

    def compile(self) -> None:
        """Has the program compiled; sets `error` if that fails. Raises: ValueError if its tests do not
        compile.
        """
        problem, limits = self.problem, self.settings.limits
        parts = [test.parts for test in self.asserts]
        request = {
            "source": self.program,
            "trace": self.trace_form(),
            "entry": problem.entry,
            # tests that run apart need their set-up run there
            "setup": problem.setup if any(parts) else "",
            "expressions": parts,
            "preamble": problem.preamble or (_TYPING if problem.kind == "call" else ""),
        }
        answer, self.code = self.worker.ask(
            "compiler", request, memory_bytes=limits.memory_bytes, time_s=limits.compile_s
        )
        if "fault" in answer:
            raise ValueError(f"the tests of problem {problem.id} do not compile: {answer['fault']}")
        self.error = f"the compiler {answer['lost']}" if "lost" in answer else answer.get("error")
        self.regions = answer.get("regions", [])
        self.cpu_s = answer.get("cpu_s", 0.0)
        if self.error is None:
            self.flags = memory_file(b"")
            os.ftruncate(self.flags, answer["flags"])

    def trace_form(self) -> str:
        """How the program is traced: see rl.sandbox.compile_service.compile_program."""
        if not self.settings.trace:
            return ""
        finer = sys.version_info >= (3, 12) and self.settings.trace != "portable"
        return "instructions" if finer else "statements"

    def step(self) -> None:
        """Runs one process: for stdin on the next test, otherwise on all that are left."""
        problem, limits, index = self.problem, self.settings.limits, len(self.results)
        self.loaded, self.ended, self.calling, self.stopped = False, None, False, False
        is_stdin = problem.kind == "stdin"
        stdin = memory_file(problem.inputs[index].encode(errors="surrogateescape") if is_stdin else b"")
        tests = 1 if is_stdin else problem.test_count - index
        if any(test.parts is None for test in self.asserts[index:]):
            tests = math.ceil(tests * _CALLING_TEST)
            self.open_calls()
        kernel = KernelLimits(limits.memory_bytes, math.ceil(self.time_s * (tests + 1)), limits.threads)
        calls = (self.call_pipe[0], self.call_file) if self.call_file >= 0 else ()
        request = -1
        if not is_stdin or index == 0:
            request = memory_file(self.request() + self.code)
        job = Job(kernel, self.time_s, limits.output_bytes, request, stdin, self.flags, calls=calls)
        try:
            if is_stdin and index == 0:
                self.worker.start_program(request, self.flags, kernel)
            self.clock = time.monotonic()  # what is prepared once does not count as a test's time
            outcome = self.worker.run(job, self.on_frame)
        finally:
            os.close(stdin)
            if request >= 0:
                os.close(request)
        self.cpu_s += outcome.cpu_s
        self.take_flags()
        if self.calling:
            self.ask_judge({"gone": True})
        self.judge_pending()
        if not self.finished:
            self.conclude(outcome, index)

    def open_calls(self) -> None:
        """What calls go through: a file in memory, and a pipe that says how long they are. New for each
        process.
        """
        for fd in (self.call_file, *self.call_pipe):
            if fd >= 0:
                os.close(fd)
        self.call_file, self.call_pipe = memory_file(b""), os.pipe2(os.O_CLOEXEC)
        self.worker.ensure("judge", self.settings.limits.memory_bytes)
        apart = [s for s, test in zip(self.problem.asserts, self.asserts, strict=True) if test.parts is None]
        self.prepare("\n".join(_IMPORTS.findall("\n".join(apart))))

    def take_flags(self) -> None:
        """Adds a process's flags to those before it, and clears them: they are no memory between
        processes.
        """
        if not self.settings.trace:
            return
        flags = os.pread(self.flags, os.fstat(self.flags).st_size, 0)
        before, forged = self.ran
        forged = forged or were_forged(self.regions, flags)
        both = int.from_bytes(before, "little") | int.from_bytes(flags, "little")
        self.ran = (both.to_bytes(len(flags), "little"), forged)
        if not self.finished:
            os.pwrite(self.flags, bytes(len(flags)), 0)

    def request(self) -> bytes:
        """What is sent to the sandboxed side: inputs, never outputs."""
        problem, kind = self.problem, self.problem.kind
        content = {
            "mode": kind,
            "name": problem.fn_name,
            "class_name": problem.class_name,
            "trace": bool(self.settings.trace),
            "first": len(self.results),
            "output_bytes": self.settings.limits.output_bytes,
            "memory_bytes": self.settings.limits.memory_bytes,
            "tests": problem.inputs[len(self.results) :] if kind == "call" else [],
        }
        text = marshal.dumps(content)
        return _COUNT.pack(len(text)) + text

    def on_frame(self, frame: Frame) -> Then:
        """Processes a frame. It may be forged, but can only be an answer, or the end."""
        kind, number, _ = frame
        if kind == b"L" and not self.loaded:
            self.loaded = True
            return Then.NEXT
        if self.loaded and number == len(self.results) and self.problem.kind != "stdin":
            if kind == b"C" and self.runs_apart(number) and not self.calling:
                return self.begin_apart(number)
            if kind in (b"V", b"X", b"S") and self.calling:
                return self.answer_call(frame)
            if kind in (b"V", b"X", b"S") and not self.runs_apart(number):
                self.take_answer(frame)
                return self.stop() if self.finished or self.is_full() else Then.NEXT
        if kind in (b"D", b"E") and self.ended is None:
            self.ended = (kind, _read_object(frame.body))
            return Then.GO_ON
        raise ValueError("a frame out of turn")

    def stop(self) -> Then:
        """Ends the process, through no fault of the next test."""
        self.stopped = True
        return Then.STOP

    def runs_apart(self, number: int) -> bool:
        """Whether a test runs apart from the program and makes its calls itself."""
        return self.problem.kind == "assert" and self.asserts[number].parts is None

    def is_full(self) -> bool:
        """Whether as much is waiting for the judge as may be held."""
        most = _MOST_PENDING * self.settings.limits.output_bytes
        return sum(map(len, self.pending.values())) > most

    def add(self, result: TestResult) -> None:
        """Records the result of the next test; gives up on a program that keeps running out of time."""
        now = time.monotonic()
        self.results.append(result._replace(wall_s=now - self.clock))
        self.clock = now
        self.count_timeout(result)

    def count_timeout(self, result: TestResult) -> None:
        """Counts a test that ran out of time; after too many, the remaining tests count as such too."""
        self.timeouts += result.verdict == "timeout"
        if self.timeouts >= self.settings.limits.timeouts and not self.finished:
            self.skip_rest(TestResult("timeout", f"not run: {self.timeouts} tests ran out of time"))

    def skip_rest(self, result: TestResult) -> None:
        """Gives the remaining tests a result without running them."""
        self.skipped = self.problem.test_count - len(self.results)
        self.results += [result] * self.skipped

    def take_answer(self, frame: Frame) -> None:
        """Judges the answer to the next test, or leaves it to the judge for when there is no process."""
        kind, number, body = frame
        if kind == b"S":
            self.add(TestResult("output_limit", "returned more than the limit"))
        elif kind == b"X":
            self.add(TestResult("runtime_error", _said(_read_object(body))))
        elif len(body) <= _SMALL_ANSWER and (result := self.compare(number, body)):
            self.add(result)
        else:
            self.pending[number] = body
            self.add(TestResult("fail", "not judged yet"))

    def compare(self, number: int, body: bytes) -> TestResult | None:
        """The result of a test with a small answer; None if judging it needs the problem's own code."""
        problem = self.problem
        if problem.checker:
            return None
        try:
            if problem.kind == "call":
                value, expected = values.decode(json.loads(body)), problem.outputs[number]
                right = is_expected(expected, value, self.rule)
            else:
                equals = self.asserts[number].equals
                if equals is None:
                    return None
                (value,), expected = values.decode(json.loads(body)), problem.asserts[number]
                right = not values.has_opaque(value) and bool(value == equals[0])
        except (
            KeyError,
            ValueError,
            TypeError,
            AttributeError,
            ArithmeticError,
            RecursionError,
            MemoryError,
        ):
            return TestResult("runtime_error", "the answer is garbled")
        if right:
            return TestResult("pass")
        return TestResult("fail", f"got {shown(value)}, expected {shown(expected)}")

    def judge_pending(self) -> None:
        """Has the judge decide, between two processes, which of the waiting answers are right."""
        for number, body in self.pending.items():
            if self.timeouts >= self.settings.limits.timeouts:
                self.results[number] = TestResult("timeout", "not judged: others ran out of time")
                continue
            condition = self.asserts[number].condition if self.asserts else ""
            question = judge_question(self.problem, number, condition, self.rule)
            verdict = judge_result(self.problem, number, self.ask_judge(question, body))
            self.results[number] = verdict._replace(wall_s=self.results[number].wall_s)
            self.count_timeout(verdict)
        self.pending.clear()

    def ask_judge(self, question: dict[str, Any], body: bytes = b"") -> dict[str, Any]:
        """The judge's reply, the bytes of a call in it under "blob"."""
        limits = self.settings.limits
        if lost := self.prepare(question.get("setup", "")):
            return {"fault": f"its set-up {lost}"}
        reply, blob = self.worker.ask(
            "judge", question, body, memory_bytes=limits.memory_bytes, time_s=self.time_s
        )
        return reply | {"blob": blob}

    def prepare(self, setup: str) -> str | None:
        """Has the judge run a set-up once, with time to import something large; what went wrong, if
        anything.
        """
        limits, prepared = self.settings.limits, self.worker.prepared
        self.worker.ensure("judge", limits.memory_bytes)
        if not setup or setup in prepared:
            return None
        request = {"kind": "prepare", "setup": setup}
        reply, _ = self.worker.ask(
            "judge", request, memory_bytes=limits.memory_bytes, time_s=limits.compile_s
        )
        prepared.add(setup)
        return reply.get("lost")

    def begin_apart(self, number: int) -> Then:
        """Has the judge run a test that makes calls."""
        problem = self.problem
        self.test_ends = time.monotonic() + _CALLING_TEST * self.time_s
        question = {"kind": "test", "setup": problem.setup, "test": problem.asserts[number]}
        return self.go_on_apart(self.ask_judge(question), number)

    def answer_call(self, frame: Frame) -> Then:
        """Gives the judge what the program's function returned or raised."""
        kind, number, body = frame
        if kind == b"S" or time.monotonic() > self.test_ends:
            self.calling = False
            self.ask_judge({"gone": True})
            late = TestResult("timeout", "its calls ran out of time together")
            self.add(TestResult("output_limit", "returned more than the limit") if kind == b"S" else late)
            return self.stop()
        told = _read_object(body) if kind == b"X" else {}
        if kind == b"X":
            told = {"error": _said(told), "kind": str(told.get("kind")), "text": str(told.get("text"))}
        return self.go_on_apart(self.ask_judge(told, body if kind == b"V" else b""), number)

    def go_on_apart(self, reply: dict[str, Any], number: int) -> Then:
        """Passes the judge's next call on, or notes its verdict."""
        self.calling = "call" in reply
        if self.calling:
            message = b"".join((b"[", json.dumps(reply["call"]).encode(), b",", reply["blob"][1:]))
            os.pwrite(self.call_file, message, 0)
            os.write(self.call_pipe[1], _COUNT.pack(len(message)))
            return Then.NEXT
        self.add(judge_result(self.problem, number, reply))
        if self.finished or "lost" in reply:
            return self.stop()  # a judge that was lost can only be replaced between two processes
        os.write(self.call_pipe[1], _COUNT.pack(0))
        return Then.NEXT

    def conclude(self, outcome: Outcome, index: int) -> None:
        """Works out the results of tests that had none when their process ended."""
        if self.problem.kind == "stdin":
            self.add(self.judge_output(outcome, index))
        elif not self.stopped:
            # the next test ended it; if the module itself failed, it would fail before every test
            self.add(bad_end(outcome, self.ended))
            if not self.loaded and not self.finished:
                self.skip_rest(self.results[-1])

    def judge_output(self, outcome: Outcome, index: int) -> TestResult:
        """Compares what was printed with what should have been.

        A process that ends without an error of its own (os._exit(0) included) is judged by what it
        printed, but one that left early without printing anything has failed to run.
        """
        kind, content = self.ended or (b"", {})
        silent = kind != b"D" and not outcome.output
        if outcome.timed_out or outcome.output_exceeded or outcome.garbled or outcome.status != 0 or silent:
            return bad_end(outcome, self.ended)
        if kind == b"E" or content.get("exit", 0) != 0:
            return bad_end(outcome, self.ended)
        return judge_printed(self.problem, index, outcome.output, self.rule, self.ask_judge)


def _read_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a frame. Raises: ValueError or RecursionError for anything else."""
    content = json.loads(body)
    if not isinstance(content, dict):
        raise ValueError("a frame without an object")
    return content


def _said(content: dict[str, Any]) -> str:
    return in_one_line(content.get("error"))
