"""Inside the sandbox: judges answers when doing so runs a problem's code or may take long.

No code of a program runs here, and no program sees what is expected: answers come as plain data, and a test
that calls the program's functions gets stand-ins whose calls are forwarded to the program's own process.
Hostile answers (colliding keys, formats of a billion blanks, endless digits) cost this process its limits of
time and memory, not the grader's. Standard library only.

Requests, with the JSON of the answer as bytes; each is answered by {"right", "why"} or {"fault"}:
    same       a returned value: rule, expected
    output     a printed text: rule, expected
    checker    a problem's own check(given, answer, expected): checker, given, expected
    condition  an expression over the values _0, _1, ... : setup, condition
    prepare    runs a set-up once, so that what it imports is there: setup
    test       statements that call the program's functions: setup, test. Before its answer come calls
               {"call": name} with the JSON of [arguments, keywords]; each is answered by {} and the JSON of a
               value, {"error", "kind", "text"}, or {"gone"} when there is no program any more
"""

import ast
import builtins
import importlib
import json
import socket
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

from rl.sandbox import messages, values
from rl.sandbox.comparison import CompareRule, is_expected, same_output

# Names that the tests of published problems use without importing them: their programs happen to.
_MODULES = (
    *("bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq"),
    *("itertools", "json", "math", "numpy", "operator", "random", "re", "statistics", "string", "sys"),
)
_OF_COLLECTIONS = ("Counter", "OrderedDict", "defaultdict", "deque", "namedtuple")
USUAL: dict[str, tuple[str, str | None]] = {
    **{name: (name, None) for name in _MODULES},
    **{name: ("collections", name) for name in _OF_COLLECTIONS},
    "np": ("numpy", None),
    "Decimal": ("decimal", "Decimal"),
    "Fraction": ("fractions", "Fraction"),
}
_CACHED = 256


class _GoneError(BaseException):
    """The program ended during a call."""


def names_of(code: types.CodeType) -> set[str]:
    """The names that code, and the code in it, looks up."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= names_of(constant)
    return names


def _read(blob: bytes) -> object:
    """The value of an answer; what is not an answer at all equals nothing."""
    try:
        return values.decode(json.loads(blob))
    except (KeyError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return values.Opaque("garbled")


class Judge:
    """Answers requests over a socket, one at a time."""

    def __init__(self, channel: socket.socket):
        self._channel = channel
        self._codes: dict[tuple[str, str], types.CodeType] = {}
        self._setups: dict[str, list[types.CodeType]] = {}
        self._raised: Exception | None = None  # what the program raised last, and how it is reported
        self._said = ""

    def answer(self, request: dict[str, Any], blob: bytes) -> dict[str, Any]:
        """Whether an answer is right; a fault of the problem's own code is reported as such.

        Args:
          request: one of those that the module lists, without the answer.
          blob: the answer to judge: JSON, or the printed text for `output`.
        Returns: {"right", "why"}, with "raised" if the program raised in a test.
        Raises: whatever the problem's own code does; `serve` reports that as {"fault"}.
        """
        kind = request["kind"]
        try:
            if kind == "same":
                right = is_expected(
                    values.decode(request["expected"]), _read(blob), CompareRule(*request["rule"])
                )
            elif kind == "output":
                text = blob.decode("utf-8", errors="replace")
                right = same_output(request["expected"], text, CompareRule(*request["rule"]))
            elif kind == "checker":
                right = self._check(request, _read(blob))
            elif kind == "prepare":
                right = bool(self._names_after(request["setup"]))
            elif kind == "condition":
                right = self._holds(request, _read(blob))
            else:
                return self._test(request)
        except (RecursionError, MemoryError) as error:
            return {"right": False, "why": f"the answer cannot be judged ({type(error).__name__})"}
        return {"right": bool(right), "why": ""}

    def _compiled(self, source: str, mode: str) -> types.CodeType:
        if len(self._codes) >= _CACHED:
            self._codes.clear()
        if (source, mode) not in self._codes:
            self._codes[source, mode] = compile(source, "<test>", mode)
        return self._codes[source, mode]

    def _names_after(self, setup: str) -> dict[str, Any]:
        """The names that a problem's set-up makes, anew for each test. Statements that need the program's own
        names are skipped."""
        if setup not in self._setups:
            if len(self._setups) >= _CACHED:
                self._setups.clear()
            parts = [ast.Module([statement], []) for statement in ast.parse(setup).body]
            self._setups[setup] = [compile(part, "<setup>", "exec") for part in parts]
        names: dict[str, Any] = {"__name__": "test", "__builtins__": builtins}
        for code in self._setups[setup]:
            try:
                exec(code, names)
            except Exception:
                continue
        return names

    def _check(self, request: dict[str, Any], answer: object) -> bool:
        names: dict[str, Any] = {"__name__": "checker", "__builtins__": builtins}
        exec(self._compiled(request["checker"], "exec"), names)
        given, expected = values.decode(request["given"]), values.decode(request["expected"])
        return bool(names["check"](given, answer, expected))

    def _holds(self, request: dict[str, Any], answers: object) -> bool:
        """Whether the condition is true; as with an assert, one that raises is not."""
        if not isinstance(answers, list) or values.has_opaque(answers):
            return False
        code = self._compiled(request["condition"], "eval")
        names = self._names_after(request["setup"])
        self._supply(code, names, None)
        names |= {f"_{i}": value for i, value in enumerate(answers)}
        try:
            return bool(eval(code, names))
        except Exception:
            return False

    def _test(self, request: dict[str, Any]) -> dict[str, Any]:
        code = self._compiled(request["test"], "exec")
        names = self._names_after(request["setup"])
        self._supply(code, names, self._stand_in)
        for code_of_setup in self._setups[request["setup"]]:
            self._supply(code_of_setup, names, self._stand_in)
        try:
            exec(code, names)
        except _GoneError:
            return {"right": False, "why": "the program ended in the middle of a test"}
        except BaseException as error:
            if error is self._raised:
                return {"right": False, "why": "", "raised": self._said}
            return {"right": False, "why": f"{type(error).__name__}: {_text(error)}"}
        return {"right": True, "why": ""}

    def _supply(
        self, code: types.CodeType, names: dict[str, Any], stand_in: Callable[[str], Any] | None
    ) -> None:
        """Gives code the names that it lacks: the usual modules', then stand-ins for the program's
        functions.
        """
        for name in names_of(code):
            if name in names or hasattr(builtins, name):
                continue
            if name in USUAL:
                module, attribute = USUAL[name]
                try:
                    found = importlib.import_module(module)
                except ImportError:
                    continue
                names[name] = getattr(found, attribute) if attribute else found
            elif stand_in is not None:
                names[name] = stand_in(name)

    def _stand_in(self, name: str) -> Callable[..., Any]:
        def call(*arguments: object, **keywords: object) -> object:
            form = [[values.encode(argument) for argument in arguments], values.encode(keywords)]
            self._channel.sendall(messages.pack({"call": name}, json.dumps(form).encode()))
            reply, blob = messages.receive(self._channel)
            if "gone" in reply:
                raise _GoneError
            if "error" in reply:
                self._raised, self._said = _exception(reply["kind"], reply["text"]), reply["error"]
                raise self._raised
            return _read(blob)

        return call


def _exception(kind: str, message: str) -> Exception:
    """What the program raised: the built-in exception of that name, else a RuntimeError."""
    found = getattr(builtins, kind, None)
    if isinstance(found, type) and issubclass(found, Exception):
        try:
            return found(message)
        except TypeError:  # UnicodeDecodeError and others that take more arguments
            pass
    return RuntimeError(message)


def _text(error: BaseException) -> str:
    try:
        return str(error)[:300]
    except Exception:
        return "?"


def serve(channel: socket.socket) -> None:
    """Answers requests until the other end closes."""
    warnings.simplefilter("ignore")
    sys.setrecursionlimit(10_000)
    judge = Judge(channel)
    while True:
        try:
            request, blob = messages.receive(channel)
        except EOFError:
            return
        try:
            answer = judge.answer(request, blob)
        except Exception as error:
            answer = {"fault": f"{type(error).__name__}: {_text(error)}"}
        channel.sendall(messages.pack(answer))
