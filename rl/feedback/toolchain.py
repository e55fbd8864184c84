"""The description of a language whose programs the tools of this machine compile, run and trace.

A language of this kind is one file in rl/feedback/toolchains with a `Toolchain`, and a line in
`rl.feedback.languages`; `rl.feedback.tool_language` does the rest.

Commands may contain {source}, {main} (of `SourceNames`), {folder} (of the program), {scratch} (of the
language, kept between programs), {record} (the file that a traced program writes), {memory_mb}, and the names
in the toolchain's environment.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from rl.feedback.code_text import CodeText
from rl.sandbox.jobs import Outcome

Spans = tuple[tuple[int, int], ...]


class SourceNames(NamedTuple):
    """The name of the file that a program is written to, and the name by which it is run."""

    source: str
    main: str = ""


@dataclass(frozen=True)
class Steps:
    """How a program is compiled and run.

    Attributes:
      run: the command; its first word is a tool, or begins with {folder}.
      compile: the command that compiles it, or only checks it; none if `run` reports syntax errors as such.
      environment: of both commands, besides PATH, HOME and TMPDIR.
      files: further files in the program's folder, by name.
    """

    run: tuple[str, ...]
    compile: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


class Coverage(Protocol):
    """How to find out which parts of a program ran.

    Attributes:
      steps: how a program is compiled and run, replacing the toolchain's.
      knows_failures: whether what it records about a program that failed is everything that ran.
    """

    steps: Steps
    knows_failures: bool

    def missing(self) -> str:
        """What the machine lacks for it, in words; "" if nothing."""
        ...

    def reads(self) -> tuple[str, ...]:
        """Files and folders that its tools and programs read, besides the toolchain's."""
        ...

    def prepare(self, scratch: Path) -> None:
        """Puts what all programs need into the language's scratch folder."""
        ...

    def spans(self, program: str, names: SourceNames, records: set[bytes], tools: "Tools") -> Spans | None:
        """Which characters ran.

        Args:
          program: its text.
          names: under which it was compiled.
          records: what its tests wrote, each certainly complete; anything in them may be forged.
          tools: runs a tool in the program's folder.
        Returns: sorted, disjoint [start, end); None if the records cannot be read.
        """
        ...


class Tools(Protocol):
    """A program's folder, and the tools that may be used in it."""

    def write(self, name: str, content: bytes) -> None:
        """Writes a file into the program's folder.

        Args:
          name: may contain folders, which are created.
          content: of the file.
        """
        ...

    def read(self, name: str) -> bytes:
        """The contents of a file in the program's folder; b"" if it is not a plain file."""
        ...

    def use(self, *command: str) -> Outcome:
        """Runs a tool in the program's folder, isolated; what it prints on both streams is the output."""
        ...


@dataclass(frozen=True)
class Toolchain:
    """A language.

    Attributes:
      text: how its programs look in what a model reads and writes.
      tools: what must be on the search path.
      steps: how a program is compiled and run.
      names: the program's file and what is named to run it, given its text.
      empty: a program that does nothing; it shows whether the tools work, and fills their caches.
      reads: files and folders outside of /usr/bin and the shared libraries that tools and programs read.
      environment: of all commands, found on this machine.
      address_space: bytes that a program maps without using them, on top of what it is allowed.
      start_s: seconds that an empty program takes to start on a slow machine; added to each time limit.
      coverage: None if the language's tools cannot tell which lines ran.
    """

    text: CodeText
    tools: tuple[str, ...]
    steps: Steps
    names: Callable[[str], SourceNames]
    empty: str
    reads: Callable[[], tuple[str, ...]] = tuple
    environment: Callable[[], Mapping[str, str]] = dict
    address_space: int = 0
    start_s: float = 0.0
    coverage: Coverage | None = None
