"""What scripts expect and a sandboxed process lacks: streams, /dev/stdin, temporary files, stacks.

Made once, in the fork server, and inherited by every program. Nothing here is a layer of isolation: a program
that gets around it faces the kernel's layers. Standard library only.
"""

import builtins
import importlib.machinery
import io
import os
import random
import sys
import threading
import types
from collections.abc import Callable, Sequence
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.metadata import DistributionFinder

PROGRAM_FILE = "/program.py"
_SCRATCH = "/tmp"
# most of a thread's stack: Python's own calls use none of it, and its memory counts in full
_MOST_STACK = 64 << 20
_STREAMS = {
    f"{folder}{name}": number
    for number, names in enumerate((("stdin", "0"), ("stdout", "1"), ("stderr", "2")))
    for folder, name in (("/dev/", names[0]), ("/dev/fd/", names[1]), ("/proc/self/fd/", names[1]))
}
_real_open, _real_os_open = io.open, os.open
_real_stack_size = threading.stack_size
_kept: dict[str, "_NamedFile"] = {}
_stack_limit = [_MOST_STACK]
_asked_stack = [0]


def prepare(names: Sequence[str], folders: Sequence[str]) -> None:
    """Makes this process an environment for scripts; for the fork server, before its first program.

    Args:
      names: of the packages that may be imported besides the standard library.
      folders: where they are, beside others that may not.
    """
    _make_streams()
    sys.set_int_max_str_digits(0)  # contests have no such limit; time is limited anyway
    builtins.open = io.open = _open
    os.open = _os_open
    threading.stack_size = _stack_size
    sys.meta_path.insert(0, _TempfileFinder())
    sys.meta_path.append(_PackageFinder(names, folders))
    sys.argv[:] = [PROGRAM_FILE]


def limit_stacks(memory_bytes: int) -> None:
    """Caps the stacks that a program asks for at what its memory allows."""
    _stack_limit[0] = min(_MOST_STACK, memory_bytes // 4)


def _make_streams() -> None:
    """sys.stdin, stdout and stderr over descriptors 0 to 2, whatever those will be; stdout as for a pipe."""
    saved = os.dup(1)
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        raw = io.FileIO(number, mode, closefd=False)
        raw.name = f"<{name}>"  # pyright: ignore[reportAttributeAccessIssue]
        buffer = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
        errors = "backslashreplace" if name == "stderr" else "strict"
        stream = io.TextIOWrapper(buffer, encoding="utf-8", errors=errors, line_buffering=name == "stderr")
        stream.mode = mode  # pyright: ignore[reportAttributeAccessIssue]
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    os.dup2(saved, 1)
    for fd in (saved, reader, writer):
        os.close(fd)


def _open(
    file: object,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
) -> IO:
    """open, which knows the standard streams by the names that scripts use, and temporary files."""
    name = os.fspath(file) if isinstance(file, os.PathLike) else file
    if type(name) is str and name in _kept:
        return _kept[name].reopened(mode, encoding)
    # whatever arguments the program calls open with
    place: Any = os.dup(_STREAMS[name]) if type(name) is str and name in _STREAMS else file
    return _real_open(place, mode, buffering, encoding, errors, newline, closefd, opener)


def _os_open(
    path: str | bytes | os.PathLike, flags: int, mode: int = 0o777, *, dir_fd: int | None = None
) -> int:
    if type(path) is str and path in _STREAMS:
        return os.dup(_STREAMS[path])
    return _real_os_open(path, flags, mode, dir_fd=dir_fd)


def _stack_size(size: int = 0) -> int:
    """threading.stack_size, which accepts any size and reserves what a program's memory allows."""
    before = _asked_stack[0]
    _real_stack_size(min(size, _stack_limit[0]))
    _asked_stack[0] = size
    return before


class _NamedFile(io.BytesIO):
    """A temporary file in memory that can be opened again by its name until it is deleted."""

    def __init__(self, name: str, *, delete: bool):
        super().__init__()
        self.name, self._delete, self._content = name, delete, b""
        _kept[name] = self

    def close(self) -> None:
        if not self.closed:
            self._content = self.getvalue()
            if self._delete:
                _kept.pop(self.name, None)
        super().close()

    def reopened(self, mode: str, encoding: str | None) -> IO:
        """The file, opened anew."""
        content = self._content if self.closed else self.getvalue()
        again = _NamedFile(self.name, delete=False)
        if "w" not in mode:
            again.write(content)
            again.seek(0, 2 if "a" in mode else 0)
        return _as_opened(again, mode, encoding)


def _as_opened(raw: io.BytesIO, mode: str, encoding: str | None, newline: str | None = None) -> IO:
    if "b" in mode:
        return raw
    return io.TextIOWrapper(raw, encoding=encoding or "utf-8", newline=newline, write_through=True)


def _temporary_file(
    mode: str = "w+b",
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    *_: object,
    **__: object,
) -> IO:
    return _as_opened(io.BytesIO(), mode, encoding, newline)


def _named_temporary_file(
    mode: str = "w+b",
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: str | None = None,
    prefix: str | None = None,
    dir: str | None = None,
    delete: bool = True,
    **_: object,
) -> IO:
    name = f"{dir or _SCRATCH}/{prefix or 'tmp'}{random.SystemRandom().getrandbits(40):x}{suffix or ''}"
    return _as_opened(_NamedFile(name, delete=delete), mode, encoding, newline)


class _PackageFinder:
    """Finds the named packages and nothing else in their folders.

    What else is there may not be read. If its name could be found, packages that try it and do without, as
    numpy tries charset_normalizer, would end with a PermissionError.
    """

    def __init__(self, names: Sequence[str], folders: Sequence[str]):
        self._names, self._folders = frozenset(names), list(folders)

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None):
        if path is not None or name not in self._names:
            return None
        return importlib.machinery.PathFinder.find_spec(name, self._folders)

    def find_distributions(self, context: "DistributionFinder.Context"):
        """For importlib.metadata: their versions."""
        if context.name not in self._names:
            return ()
        metadata = sys.modules["importlib.metadata"]  # which asks
        there = metadata.DistributionFinder.Context(name=context.name, path=self._folders)
        return metadata.MetadataPathFinder.find_distributions(there)


class _TempfileFinder:
    """Imports tempfile, when a program does, with files that live in memory: there is no disk to write to."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None):
        if name != "tempfile":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            load(module)
            module.tempdir = _SCRATCH  # pyright: ignore[reportAttributeAccessIssue]
            module.TemporaryFile = _temporary_file  # pyright: ignore[reportAttributeAccessIssue]
            module.NamedTemporaryFile = _named_temporary_file  # pyright: ignore[reportAttributeAccessIssue]

        spec.loader.exec_module = exec_module
        return spec
