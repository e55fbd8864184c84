"""Inside the sandbox: runs one compiled program on its tests and reports what it answered.

Everything here runs in a process that the program owns once its first statement runs. It sends only answers:
this side never knows what is expected. Standard library only, and little of it, because every page that this
process touches is copied for it; everything that can be prepared is prepared in the server.

Request: uint32 length, a marshalled dict of that length {mode (call, stdin, assert), name, class_name, tests,
first, output_bytes, memory_bytes, trace}, then the compile service's marshalled (program, set-up,
expressions, instructions, imports, place).
Frames sent: uint32 length, one byte kind, uint32 number of the test, JSON.
    L  the module has run
    V  value of a test        X  it raised {error, kind, text}      S  it is too large
    C  ready for a test's calls, which come over CALLS_FD; each is answered by V, X or S, and 0 bytes end them
    E  stopped by an exception {error, kind, text}
    D  ended {exit}
"""

import atexit
import importlib
import json
import marshal
import mmap
import os
import struct
import sys
import threading
import types
from collections.abc import Callable, Iterable
from typing import Any

from rl.sandbox import script_environment, values

RESULT_FD, REQUEST_FD, FLAGS_FD, CALLS_FD, CALL_FD = 3, 4, 5, 6, 7
HEADER = struct.Struct("=IcI")  # of a frame: its length after these bytes, its kind, the number of the test
_COUNT = struct.Struct("=I")
_EXIT_0 = b'{"exit": 0}'
_ENDED_WELL = HEADER.pack(len(_EXIT_0), b"D", 0) + _EXIT_0
# What a program's tests import ahead, once, if it names them: slow or frequent, and safe to import early.
_AHEAD = frozenset(
    (
        *(
            "array",
            "calendar",
            "cmath",
            "concurrent.futures",
            "contextlib",
            "dataclasses",
            "datetime",
            "decimal",
        ),
        *("enum", "fractions", "io", "json", "numpy", "queue", "statistics", "textwrap", "unicodedata"),
    )
)
Send = Callable[..., None]


def _sender(write=os.write, dumps=json.dumps, pack=HEADER.pack, bytes_=memoryview) -> Send:
    """A function that sends a frame; its tools are bound now, before a program can replace them."""

    def send(kind: bytes, number: int, content: object, most_bytes: int = 0) -> None:
        body = dumps(content).encode()
        if most_bytes and len(body) > most_bytes:
            raise BufferError
        data = bytes_(pack(len(body), kind, number) + body)
        while data:
            data = data[write(RESULT_FD, data) :]

    return send


def with_flags(code: types.CodeType, place: str, flags: mmap.mmap | bytearray) -> types.CodeType:
    """The code with its markers' place replaced by the memory of the flags; it uses no name of the program's.

    Args:
      code: a compiled program; code objects within it are changed too.
      place: the constant that stands where the memory belongs.
      flags: the memory, one byte a flag.
    Returns: new code; the one given stays as it was.
    """
    constants = [
        with_flags(constant, place, flags)
        if type(constant) is types.CodeType
        else flags
        if type(constant) is str and constant == place
        else constant
        for constant in code.co_consts
    ]
    return code.replace(co_consts=tuple(constants))


def _report_instructions(code: types.CodeType, flags: mmap.mmap, instructions: list[list[int]]) -> None:
    """Has the interpreter itself report which instructions run."""
    monitoring = sys.monitoring  # pyright: ignore[reportAttributeAccessIssue]
    tool, once = monitoring.COVERAGE_ID, monitoring.DISABLE
    monitoring.use_tool_id(tool, "executed")
    known, pending = {}, [code]
    for numbers in instructions:  # the order of rl.sandbox.instruction_trace.code_objects
        part = pending.pop()
        known[part] = numbers
        pending += [c for c in reversed(part.co_consts) if type(c) is types.CodeType]
        monitoring.set_local_events(tool, part, monitoring.events.INSTRUCTION)

    def report(part: types.CodeType, offset: int) -> object:
        number = known[part][offset >> 1]
        if number >= 0:
            flags[number] = 1
        return once

    monitoring.register_callback(tool, monitoring.events.INSTRUCTION, report)


def _traced(code: types.CodeType, instructions: list[list[int]], place: str) -> types.CodeType:
    """The code connected to the flags that it shares with the grader."""
    flags = mmap.mmap(FLAGS_FD, os.fstat(FLAGS_FD).st_size)
    if not instructions:
        return with_flags(code, place, flags)
    _report_instructions(code, flags, instructions)
    return code


def describe(error: BaseException) -> dict[str, str]:
    """Class, message and line of an exception in the program, in one short, printable line."""
    try:
        message = str(error)[:300]
    except BaseException:
        message = "?"
    line = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<program>":
            line = trace.tb_lineno
        trace = trace.tb_next
    where = f" (line {line})" if line is not None else ""
    kind = type(error).__name__[:100]
    return {"error": f"{kind}: {message}{where}", "kind": kind, "text": message}


def _find_function(names: dict, name: str, class_name: str | None) -> Callable:
    if class_name is None and name not in names and "Solution" in names:
        class_name = "Solution"
    if class_name is not None and class_name in names:
        return getattr(names[class_name](), name)
    if name not in names:
        raise NameError(f"the program does not define {name!r}")
    return names[name]


class _Tests:
    """Answers the tests of a program; its tools are bound before the program runs."""

    def __init__(self, request: dict, names: dict, send: Send):
        self.request, self.names, self.send = request, names, send
        self.encode, self.decode, self.explain, self.loads = (
            values.encode,
            values.decode,
            describe,
            json.loads,
        )
        self.most_bytes = request["output_bytes"]

    def answer(self, number: int, compute: Callable[[], Any]) -> None:
        """Sends the result of a test's computation; an exception ends only that test."""
        try:
            value = compute()
            try:
                form = self.encode(value)
            except RecursionError:
                form = {"t": "other", "v": "a value nested too deep"}
            sys.stdout.flush()
            self.send(b"V", number, form, self.most_bytes)
        except BufferError:
            self.send(b"S", number, {})
        except BaseException as error:
            self.send(b"X", number, self.explain(error))

    def call_all(self, tests: list[list[Any]], first: int) -> None:
        """Calls the function with the arguments of each test."""
        find, names, name, kind = _find_function, self.names, self.request["name"], self.request["class_name"]
        for number, arguments in enumerate(tests, start=first):
            self.answer(number, lambda arguments=arguments: find(names, name, kind)(*arguments))

    def evaluate_all(self, expressions: list[list[types.CodeType] | None], first: int) -> None:
        """Evaluates the expressions of each test; a test without any makes its calls itself."""
        evaluate, names = eval, self.names
        for number, parts in enumerate(expressions[first:], start=first):
            if parts is None:
                self.serve_calls(number)
            else:
                self.answer(number, lambda parts=parts: [evaluate(part, names) for part in parts])

    def serve_calls(self, number: int) -> None:
        """Answers calls [name, arguments, keywords] of a test that runs elsewhere, until there are no
        more.
        """
        find, names, decode, loads, read, pread = (
            _find_function,
            self.names,
            self.decode,
            self.loads,
            os.read,
            os.pread,
        )
        wanted, kind = self.request["name"], self.request["class_name"]
        self.send(b"C", number, {})
        while True:
            (length,) = _COUNT.unpack(read(CALLS_FD, 4))
            if not length:
                return
            name, arguments, keywords = decode(loads(pread(CALL_FD, length, 0)))
            name = wanted if name == "candidate" else name
            self.answer(
                number,
                lambda a=arguments, k=keywords, n=name: find(names, n, kind if n == wanted else None)(
                    *a, **k
                ),
            )


def _prepare_asserts(name: str, setup: types.CodeType, names: dict) -> None:
    """Runs the tests' set-up after the program, and gives them `candidate`."""
    if name in names:
        names["candidate"] = names[name]
    exec(setup, names)


def _import_for(names: dict, imports: Iterable[tuple[str, str, str | None]]) -> None:
    """Binds what the problem's site imports before each solution, as far as the program could refer to it."""
    for name, module, attribute in imports:
        try:
            found = importlib.import_module(module)
            names[name] = getattr(found, attribute) if attribute else sys.modules[module.partition(".")[0]]
        except (ImportError, AttributeError):
            continue


def _run_to_the_end(code: types.CodeType, names: dict) -> int:
    """Runs a program as `python program.py` would; returns its exit code, lets its exceptions through."""
    try:
        exec(code, names)
        # both only if there is something to do: they touch many pages
        if len(threading._active) > 1 or threading._threading_atexits:  # pyright: ignore[reportAttributeAccessIssue]
            threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
        if atexit._ncallbacks():
            atexit._run_exitfuncs()
    except SystemExit as stop:
        sys.stdout.flush()
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    sys.stdout.flush()
    return 0


def _names_in(code: types.CodeType) -> set[str]:
    """The names in code and the code inside it, those of imported modules among them."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if type(constant) is types.CodeType:
            names |= _names_in(constant)
    return names


class Program:
    """A program with its tests, read from REQUEST_FD and connected to FLAGS_FD; both are then closed."""

    def __init__(self) -> None:
        content = os.pread(REQUEST_FD, os.fstat(REQUEST_FD).st_size, 0)
        (length,) = _COUNT.unpack_from(content)
        self._request = request = marshal.loads(memoryview(content)[4 : 4 + length])
        code, self._setup, self._expressions, instructions, self._imports, place = marshal.loads(
            memoryview(content)[4 + length :]
        )
        self._code = _traced(code, instructions, place) if request["trace"] else code
        os.close(REQUEST_FD)
        os.close(FLAGS_FD)
        script_environment.limit_stacks(request["memory_bytes"])
        name = "__main__" if request["mode"] == "stdin" else "solution"
        module = types.ModuleType(name)
        module.__file__ = script_environment.PROGRAM_FILE
        sys.modules[name] = module
        self._names = module.__dict__
        self._send = _sender()
        self._tests = _Tests(request, self._names, self._send)

    def import_ahead(self) -> None:
        """Imports what the program will import, before the fork; its own import statements then find it."""
        for name in sorted(_names_in(self._code) & _AHEAD):
            try:
                importlib.import_module(name)
            except Exception:  # the program will hit it itself, within its own limits
                continue

    def run(self, enter_sandbox: Callable[[], None]) -> None:
        """The life of the program's process; never returns."""
        # bound now, before the program can replace them
        send, leave, explain, request, names = self._send, os._exit, describe, self._request, self._names
        write = os.write
        enter_sandbox()
        try:
            _import_for(names, self._imports)
            if request["mode"] == "stdin":
                status = _run_to_the_end(self._code, names)
                if status:
                    send(b"D", 0, {"exit": status})
                else:
                    write(RESULT_FD, _ENDED_WELL)
                leave(0)
            exec(self._code, names)
            if request["mode"] == "assert":
                _prepare_asserts(request["name"], self._setup, names)
            send(b"L", 0, {})
            if request["mode"] == "call":
                self._tests.call_all(request["tests"], request["first"])
            else:
                self._tests.evaluate_all(self._expressions, request["first"])
            sys.stdout.flush()
            send(b"D", 0, {"exit": 0})
            leave(0)
        except BaseException as error:
            send(b"E", 0, explain(error))
        leave(1)
