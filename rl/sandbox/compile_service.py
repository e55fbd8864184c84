"""Inside the sandbox: turns sources into traced code objects, one after another, running none of them.

A fork server keeps one such process alive: its heap is warm and its own, whereas a fresh fork of the server
would copy hundreds of pages to parse its first line. Nothing of a program runs here, so what this process
reports about a program (that it compiles, and which flags stand for which text) cannot be forged. Standard
library only.
"""

import ast
import importlib
import marshal
import os
import socket
import time
import types
import warnings
from typing import Any, NamedTuple

from rl.sandbox import execution_trace, instruction_trace, messages

BOM = "\ufeff"
_CACHED = 256


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
    """A compiled program.

    Attributes:
      code: its markers write into the constant `place`, which must be replaced by memory for the flags.
      regions: [start, end, flag] of its pieces.
      instructions: if the interpreter itself is to report what runs, the flag of each instruction of each
        code object.
      flags: number of bytes that the flags take.
    """

    code: types.CodeType
    regions: list[list[int]]
    instructions: list[list[int]]
    flags: int


def compile_program(source: str, *, trace: str, entry: str | None, place: str = "") -> Compiled:
    """Compiles a program and says which flag stands for which part of its text.

    Args:
      source: the whole text; a byte order mark at its start is skipped.
      trace: "" (none), "statements", or "instructions" (Python ≥ 3.12).
      entry: a function to call at the end, for programs that do not call it themselves; None adds no call.
      place: the constant that stands for the flags until it is replaced by memory; for "statements".
    Returns: the code with its regions and flags.
    Raises: SyntaxError, ValueError, RecursionError, MemoryError for what is not a program.
    """
    shift = len(source) - len(source.removeprefix(BOM))
    source = source[shift:]
    tree, own = ast.parse(source), ast.Module([], [])
    regions: list[list[int]] = []
    if trace == "statements":
        regions = [[*span, i] for i, span in enumerate(execution_trace.regions(source, tree))]
    elif trace:
        regions, own = instruction_trace.fine_regions(source, tree), ast.Module(list(tree.body), [])
    positions = execution_trace.scattered(1 + max((flag for *_, flag in regions), default=-1))
    if trace == "statements":
        execution_trace.instrument(tree, place, positions)
    if entry is not None:
        _append_entry_call(tree, entry)  # not part of the program's own text, so after the regions
    code = compile(tree, "<program>", "exec")
    flags: list[list[int]] = []
    if trace == "instructions":
        flags = instruction_trace.instruction_flags(source, code, regions)
        instruction_trace.adopt_silent_statements(own, regions, flags)
        flags = [[positions[flag] if flag >= 0 else -1 for flag in part] for part in flags]
    for number, piece in enumerate(regions):
        start, end, flag = piece
        piece[:] = [start + shift if number else 0, end + shift, positions[flag]]
    return Compiled(code, regions, flags, execution_trace.flags_size(len(positions)))


def names_of(code: types.CodeType) -> set[str]:
    """The names that code, and the code in it, looks up."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= names_of(constant)
    return names


def imported_names(preamble: str) -> dict[str, tuple[str, str | None]]:
    """What import statements bind: name -> (module, attribute); for `from x import *` whatever x exports."""
    found: dict[str, tuple[str, str | None]] = {}
    for statement in ast.parse(preamble).body:
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                found[alias.asname or alias.name] = (alias.name, None)
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            module, names = statement.module, [(alias.name, alias.asname) for alias in statement.names]
            if names[0][0] == "*":
                inside = importlib.import_module(module)
                public = getattr(inside, "__all__", [name for name in dir(inside) if name[0] != "_"])
                names = [(name, None) for name in public]
            found |= {asname or name: (module, name) for name, asname in names}
    return found


class Compiler:
    """Compiles requests; keeps what the programs for one problem have in common."""

    def __init__(self) -> None:
        self._tests: dict[str, tuple[types.CodeType, list]] = {}
        self._preambles: dict[str, dict[str, tuple[str, str | None]]] = {}

    def answer(self, request: dict[str, Any]) -> bytes:
        """A packed message: regions, flags and cpu_s, with the marshalled code; or the program's `error`,
        or the `fault` of the problem itself."""
        began = time.process_time()
        place = os.urandom(8).hex()
        try:
            made = compile_program(
                request["source"], trace=request["trace"], entry=request["entry"], place=place
            )
        except BaseException as error:  # besides SyntaxError: ValueError, MemoryError, RecursionError, ...
            return messages.pack({"error": f"{type(error).__name__}: {error}"[:300]})
        try:
            setup, tests = self._compiled_tests(request["setup"], request["expressions"])
            imports = self._imports(request["preamble"], made.code)
        except Exception as error:
            return messages.pack({"fault": f"{type(error).__name__}: {error}"[:300]})
        content = (made.code, setup, tests, made.instructions, imports, place)
        blob = marshal.dumps(content)
        header = {"regions": made.regions, "flags": made.flags, "cpu_s": time.process_time() - began}
        return messages.pack(header, blob)

    def _compiled_tests(self, setup: str, expressions: list[list[str] | None]) -> tuple[types.CodeType, list]:
        key = repr((setup, expressions))
        if key not in self._tests:
            if len(self._tests) >= _CACHED:
                self._tests.clear()
            code = compile(setup, "<setup>", "exec")
            tests = [
                None if parts is None else [compile(part, "<test>", "eval") for part in parts]
                for parts in expressions
            ]
            self._tests[key] = (code, tests)
        return self._tests[key]

    def _imports(self, preamble: str, code: types.CodeType) -> list[tuple[str, str, str | None]]:
        """The preamble's imports that the program could refer to."""
        if not preamble:
            return []
        if preamble not in self._preambles:
            if len(self._preambles) >= _CACHED:
                self._preambles.clear()
            self._preambles[preamble] = imported_names(preamble)
        known = self._preambles[preamble]
        return [(name, *known[name]) for name in names_of(code) if name in known]


def serve(channel: socket.socket) -> None:
    """Answers requests {source, trace, entry, setup, expressions, preamble} until the other end closes."""
    warnings.simplefilter("ignore")
    compiler = Compiler()
    while True:
        try:
            request, _ = messages.receive(channel)
        except EOFError:
            return
        channel.sendall(compiler.answer(request))
