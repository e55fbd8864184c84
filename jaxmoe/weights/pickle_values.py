"""The pickles that torch.save writes for tensors, read without Python's unpickler.

Python's unpickler can call anything that a file names, takes 2 GiB for a file that numbers a memo entry 2^29,
and never ends on forty nested pairs. This reader knows the opcodes that a dictionary of tensors needs, in
protocols 2 to 5, calls only what its caller offers, and stops at bounds that no such dictionary reaches.
"""

from collections.abc import Callable
from typing import NamedTuple

# A tensor takes some 35 opcodes: room for 30,000 tensors, and about a second of work.
MAX_OPCODES = 1 << 20
MAX_TUPLE_DEPTH = 3  # a tensor's arguments hold the storage's key, its shape and its strides


class PickleError(Exception):
    """What is wrong with a pickle, in one line."""


class Offered(NamedTuple):
    """What a pickle may name and refer to.

    Attributes:
      name: the value of a global, such as torch.FloatStorage; raises PickleError for others.
      call: the result of calling such a value; raises PickleError if it cannot be called so.
      refer: the value of a persistent id, such as a storage.
    """

    name: Callable[[str, str], object]
    call: Callable[[object, tuple[object, ...]], object]
    refer: Callable[[object], object]


class _Mark:
    """Where a group of values began."""


class _Tuple(tuple[object, ...]):
    """A tuple that knows how deeply tuples are nested in it, itself included."""

    depth: int


def load(data: bytes, offered: Offered) -> object:
    """The value of a pickle.

    Args:
      data: the pickle.
      offered: what it may use.
    Returns: dictionaries, lists, tuples, strings, numbers, None, and what the caller offers.
    Raises: PickleError for anything else, and for a pickle that is cut off or beyond the bounds.
    """
    reader = _Reader(data, offered)
    for _ in range(MAX_OPCODES):
        opcode = reader.take(1)
        if opcode == b".":
            return reader.pop()
        step = _STEPS.get(opcode)
        if step is None:
            raise PickleError(f"it has the opcode {opcode!r}, which no tensor needs")
        step(reader)
    raise PickleError(f"it has more than {MAX_OPCODES} opcodes")


class _Reader:
    def __init__(self, data: bytes, offered: Offered):
        self.data, self.at, self.offered = data, 0, offered
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}

    def take(self, count: int) -> bytes:
        part = self.data[self.at : self.at + count]
        if count < 0 or len(part) != count:
            raise PickleError("it is cut off")
        self.at += count
        return part

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + 256)
        if end < 0:
            raise PickleError("a name in it has no end")
        text = self.take(end - self.at).decode("ascii", "replace")
        self.at = end + 1
        return text

    def number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def pop(self) -> object:
        if not self.stack:
            raise PickleError("it takes more values than it has")
        value = self.stack.pop()
        if isinstance(value, _Mark):
            raise PickleError("a group in it has no value")
        return value

    def top(self) -> object:
        value = self.pop()
        self.stack.append(value)
        return value

    def group(self) -> list[object]:
        for start in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[start], _Mark):
                values = self.stack[start + 1 :]
                del self.stack[start:]
                return values
        raise PickleError("a group in it has no beginning")

    def add_tuple(self, values: list[object]) -> None:
        depth = 1 + max((value.depth for value in values if isinstance(value, _Tuple)), default=0)
        if depth > MAX_TUPLE_DEPTH:
            raise PickleError(f"its tuples are nested more than {MAX_TUPLE_DEPTH} deep")
        made = _Tuple(values)
        made.depth = depth
        self.stack.append(made)

    def remember(self, key: int) -> None:
        self.memo[key] = self.top()

    def recall(self, key: int) -> None:
        if key not in self.memo:
            raise PickleError(f"it recalls {key}, which it never kept")
        self.stack.append(self.memo[key])

    def put_items(self, items: list[object]) -> None:
        target = self.top()
        if not isinstance(target, dict) or len(items) % 2:
            raise PickleError("it puts items into what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int):
                raise PickleError("a key in it is neither text nor a number")
            target[key] = value

    def extend(self, values: list[object]) -> None:
        target = self.top()
        if not isinstance(target, list):
            raise PickleError("it appends to what is no list")
        target.extend(values)

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(arguments, tuple):
            raise PickleError("it calls with what are no arguments")
        self.stack.append(self.offered.call(function, arguments))

    def name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("a name in it is no text")
        self.stack.append(self.offered.name(module, name))

    def drop_state(self) -> None:
        """Drops the metadata that a module's state dict carries; nothing else has a state."""
        state, target = self.pop(), self.top()
        if not isinstance(target, dict) or not isinstance(state, dict):
            raise PickleError("it tries to change what the reader gave it")


def _text(reader: _Reader, size: int) -> None:
    reader.stack.append(reader.take(reader.number(size)).decode("utf-8", "surrogatepass"))


def _pops(count: int) -> Callable[[_Reader], list[object]]:
    return lambda reader: [reader.pop() for _ in range(count)][::-1]


# by opcode; names as in Python's pickletools
_STEPS: dict[bytes, Callable[[_Reader], object]] = {
    b"\x80": lambda r: r.take(1),  # PROTO
    b"\x95": lambda r: r.take(8),  # FRAME
    b"(": lambda r: r.stack.append(_Mark()),  # MARK
    b"N": lambda r: r.stack.append(None),  # NONE
    b"\x88": lambda r: r.stack.append(True),  # NEWTRUE
    b"\x89": lambda r: r.stack.append(False),  # NEWFALSE
    b"J": lambda r: r.stack.append(r.number(4, signed=True)),  # BININT
    b"K": lambda r: r.stack.append(r.number(1)),  # BININT1
    b"M": lambda r: r.stack.append(r.number(2)),  # BININT2
    b"\x8a": lambda r: r.stack.append(r.number(min(r.number(1), 16), signed=True)),  # LONG1
    b"X": lambda r: _text(r, 4),  # BINUNICODE
    b"\x8c": lambda r: _text(r, 1),  # SHORT_BINUNICODE
    b"}": lambda r: r.stack.append({}),  # EMPTY_DICT
    b"]": lambda r: r.stack.append([]),  # EMPTY_LIST
    b")": lambda r: r.add_tuple([]),  # EMPTY_TUPLE
    b"t": lambda r: r.add_tuple(r.group()),  # TUPLE
    b"\x85": lambda r: r.add_tuple(_pops(1)(r)),  # TUPLE1
    b"\x86": lambda r: r.add_tuple(_pops(2)(r)),  # TUPLE2
    b"\x87": lambda r: r.add_tuple(_pops(3)(r)),  # TUPLE3
    b"s": lambda r: r.put_items(_pops(2)(r)),  # SETITEM
    b"u": lambda r: r.put_items(r.group()),  # SETITEMS
    b"a": lambda r: r.extend(_pops(1)(r)),  # APPEND
    b"e": lambda r: r.extend(r.group()),  # APPENDS
    b"q": lambda r: r.remember(r.number(1)),  # BINPUT
    b"r": lambda r: r.remember(r.number(4)),  # LONG_BINPUT
    b"\x94": lambda r: r.remember(len(r.memo)),  # MEMOIZE
    b"h": lambda r: r.recall(r.number(1)),  # BINGET
    b"j": lambda r: r.recall(r.number(4)),  # LONG_BINGET
    b"c": lambda r: r.name(r.line(), r.line()),  # GLOBAL
    b"\x93": lambda r: r.name(*_pops(2)(r)),  # STACK_GLOBAL
    b"Q": lambda r: r.stack.append(r.offered.refer(r.pop())),  # BINPERSID
    b"R": lambda r: r.call(),  # REDUCE
    b"b": lambda r: r.drop_state(),  # BUILD
}
