"""Inside the sandbox: turns sources into traced code objects, one after the other, running none of them.

One such process a fork server stays alive: its heap is warm and its own, where a fresh fork of the server
would copy hundreds of pages to parse its first line. Nothing of a program runs here, so what it says of a
program, that it compiles and which flags mean which text, cannot be forged. Standard library only.

A message, either way: uint32 length, JSON of that length, uint32 length, bytes of that length.
"""

import ast
import json
import marshal
import socket
import struct
import time
import types
import warnings
from typing import NamedTuple

from rl.sandbox import execution_trace, instruction_trace


def pack(header: dict, blob: bytes = b"") -> bytes:
    """A message."""
    text = json.dumps(header).encode()
    return b"".join((struct.pack("=I", len(text)), text, struct.pack("=I", len(blob)), blob))


def receive(channel: socket.socket) -> tuple[dict, bytes]:
    """The next message. Raises: EOFError at the end of the stream."""
    text = _receive_part(channel)
    return json.loads(text), _receive_part(channel)


def _receive_part(channel: socket.socket) -> bytes:
    (length,) = struct.unpack("=I", _receive_bytes(channel, 4))
    return _receive_bytes(channel, length)


def _receive_bytes(channel: socket.socket, count: int) -> bytes:
    parts = []
    while count > 0:
        part = channel.recv(min(count, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _calls_at_top_level(tree: ast.Module, name: str) -> bool:
    """Whether the module's own statements, outside functions and classes, call `name`."""
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
            return True
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            pending += ast.iter_child_nodes(node)
    return False


def _append_entry_call(tree: ast.Module, name: str) -> None:
    """Adds `name()` where the program only defines it: the APPS+ way of writing a stdin solution."""
    defined = any(isinstance(s, ast.FunctionDef) and s.name == name for s in tree.body)
    if defined and not _calls_at_top_level(tree, name):
        last = tree.body[-1].end_lineno or 1
        call = ast.Expr(ast.Call(ast.Name(name, ast.Load()), [], []))
        for node in ast.walk(call):
            node.lineno = node.end_lineno = last  # pyright: ignore[reportAttributeAccessIssue]
            node.col_offset = node.end_col_offset = 0  # pyright: ignore[reportAttributeAccessIssue]
        tree.body.append(call)


class Compiled(NamedTuple):
    """A program's code, the [start, end, flag] of its regions, and, where the interpreter itself is to report
    what runs, the flag of each instruction of each code object."""

    code: types.CodeType
    regions: list[list[int]]
    instructions: list[list[int]]


def compile_program(source: str, *, trace: str, entry: str | None) -> Compiled:
    """Compiles a program. trace: "" (none), "statements", or "instructions" (Python ≥ 3.12)."""
    tree = ast.parse(source)
    regions, own = [], tree
    if trace == "statements":
        regions = execution_trace.instrument(source, tree)
    elif trace == "instructions":
        regions, own = instruction_trace.fine_regions(source, tree), ast.Module(list(tree.body), [])
    if entry is not None:
        _append_entry_call(tree, entry)  # not the program's own text, so after the regions
    code = compile(tree, "<program>", "exec")
    if trace != "instructions":
        return Compiled(code, regions, [])
    flags = instruction_trace.instruction_flags(source, code, regions)
    instruction_trace.adopt_silent_statements(own, regions, flags)
    return Compiled(code, regions, flags)


def _answer(request: dict) -> bytes:
    began = time.process_time()
    try:
        made = compile_program(request["source"], trace=request["trace"], entry=request["entry"])
    except BaseException as error:  # besides SyntaxError: ValueError, MemoryError, RecursionError, ...
        return pack({"error": f"{type(error).__name__}: {error}"[:300]})
    setup = compile(request["setup"], "<setup>", "exec")
    tests = [[compile(part, "<test>", "eval") for part in parts] for parts in request["expressions"]]
    spent = time.process_time() - began
    content = (made.code, setup, tests, made.instructions)
    return pack({"regions": made.regions, "cpu_s": spent}, marshal.dumps(content))


def serve(channel: socket.socket) -> None:
    """Answers requests {source, trace, entry, setup, expressions} until the other end closes."""
    warnings.simplefilter("ignore")
    while True:
        try:
            request, _ = receive(channel)
        except EOFError:
            return
        channel.sendall(_answer(request))
