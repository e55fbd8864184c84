"""Inside the sandbox: runs one compiled program on its tests and reports what it answered.

Everything here runs in a process that the program owns once its first statement runs. What it sends is
only answers: this side never knows what is expected. Standard library only, and little of it, since
every page that this process touches is copied for it.

Request: a message of rl/sandbox/compile_service.py with mode (call | stdin | eval), name, class_name, tests,
first, trace, token, output_bytes; its bytes are the marshalled (program, set-up, expressions, flags).
Frames sent: uint32 length, one byte kind, JSON.
    L  the module has run {}
    V  value of a test {i, value, token}, {i, error}, {i, opaque} or {i, excess}
    E  stopped by an exception {error}
    D  ended {exit}
"""

import atexit
import builtins
import io
import json
import marshal
import mmap
import os
import struct
import sys
import threading
import types
import typing
from collections.abc import Callable

from rl.sandbox import values

RESULT_FD, REQUEST_FD, FLAGS_FD = 3, 4, 5
# The name of the shared flags in traced code. Not two leading underscores: those are mangled in a class.
FLAGS_NAME = "executed_"


def _sender(write=os.write, dumps=json.dumps, pack=struct.pack, bytes_=memoryview) -> Callable[..., None]:
    """A function that sends a frame; its tools are bound now, before a program can replace them."""

    def send(kind: str, content: object, most_bytes: int | None = None) -> None:
        body = kind.encode() + dumps(content).encode()
        if most_bytes is not None and len(body) > most_bytes:
            raise BufferError
        data = bytes_(pack("=I", len(body)) + body)
        while data:
            data = data[write(RESULT_FD, data) :]

    return send


def attach_flags(fd: int, code: types.CodeType, instructions: list[list[int]]) -> None:
    """Connects the shared flags: to the markers in the code, out of the way of its global names, or, where
    there is a flag for each instruction, to the interpreter's own report of what runs."""
    flags = mmap.mmap(fd, os.fstat(fd).st_size)
    if not instructions:
        setattr(builtins, FLAGS_NAME, flags)
        return
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


def describe(error: BaseException) -> str:
    """Class, message and line of an exception in the program, in one short line."""
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
    return f"{type(error).__name__}: {message}{where}"


def _fresh_streams() -> None:
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8")
    output = io.BufferedWriter(io.FileIO(1, "w", closefd=False))
    sys.stdout = io.TextIOWrapper(output, encoding="utf-8", write_through=False)
    errors = io.BufferedWriter(io.FileIO(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(errors, encoding="utf-8", errors="backslashreplace", line_buffering=True)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr


def _find_function(names: dict, request: dict) -> Callable:
    name, class_name = request["name"], request["class_name"]
    if class_name is None and name not in names and "Solution" in names:
        class_name = "Solution"
    if class_name is not None and class_name in names:
        return getattr(names[class_name](), name)
    if name not in names:
        raise NameError(f"the program does not define {name!r}")
    return names[name]


def _prepare_asserts(name: str, setup: types.CodeType, names: dict) -> None:
    """Runs the tests' set-up after the program and gives them `candidate`, which returns plain data only."""
    function = names.get(name)
    if function is not None:
        encode, decode = values.encode, values.decode
        names["candidate"] = lambda *a, **k: decode(encode(function(*a, **k)))
    exec(setup, names)


def _run_tests(request: dict, expressions: list, names: dict, send: Callable[..., None]) -> None:
    """Calls the function, or evaluates the expressions, of each test; an exception ends one test only."""
    encode, decode, explain, evaluate = values.encode, values.decode, describe, eval
    calls, first = request["mode"] == "call", request["first"]
    for i, test in enumerate((request["tests"] if calls else expressions)[first:], start=first):
        frame = {"i": i, "token": request["token"]}
        try:
            if calls:
                value = _find_function(names, request)(*decode(test))
            else:
                value = [evaluate(part, names) for part in test]
        except BaseException as error:
            send("V", {"i": i, "error": explain(error)})
            continue
        try:
            frame["value"] = encode(value)
            sys.stdout.flush()
            send("V", frame, request["output_bytes"])
        except BufferError:
            send("V", {"i": i, "excess": True})
        except BaseException as error:
            send("V", {"i": i, "opaque": explain(error)})


def _run_to_the_end(code: types.CodeType, names: dict) -> int:
    """Runs a program as `python program.py` would; returns its exit code, lets its exceptions out."""
    try:
        exec(code, names)
        threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
        atexit._run_exitfuncs()
    except SystemExit as stop:
        sys.stdout.flush()
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    sys.stdout.flush()
    return 0


def run(enter_sandbox: Callable[[], None]) -> None:
    """The life of one program's process; never returns."""
    content = os.pread(REQUEST_FD, os.fstat(REQUEST_FD).st_size, 0)
    (length,) = struct.unpack_from("=I", content)
    request = json.loads(content[4 : 4 + length])
    code, setup, expressions, instructions = marshal.loads(content[8 + length :])
    send, leave = _sender(), os._exit
    if request["trace"]:
        attach_flags(FLAGS_FD, code, instructions)
    os.close(REQUEST_FD)
    os.close(FLAGS_FD)
    _fresh_streams()
    name = "__main__" if request["mode"] == "stdin" else "solution"
    module = types.ModuleType(name)
    sys.modules[name] = module
    names = module.__dict__
    if request["class_name"] is not None:
        # class-based problems come from a site that has imported these already
        names.update({name: getattr(typing, name) for name in typing.__all__})
    enter_sandbox()
    try:
        if request["mode"] == "stdin":
            send("D", {"exit": _run_to_the_end(code, names)})
            leave(0)
        exec(code, names)
        if request["mode"] == "eval":
            _prepare_asserts(request["name"], setup, names)
        send("L", {})
        _run_tests(request, expressions, names, send)
        sys.stdout.flush()
        send("D", {"exit": 0})
        leave(0)
    except BaseException as error:
        send("E", {"error": describe(error)})
    leave(1)
