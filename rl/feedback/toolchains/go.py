"""Go: one file, linked statically; executed lines from the compiler's own coverage, from Go 1.23 on."""

import functools
import glob
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

from rl.feedback.code_text import CodeText, block_comment
from rl.feedback.executed_lines import line_spans
from rl.feedback.grammar import Grammar
from rl.feedback.toolchain import SourceNames, Spans, Steps, Toolchain, Tools

_GRAMMAR = Grammar(
    "tree_sitter_go",
    {
        "if": ("if_statement",),
        "for": ("for_statement",),
        "while": (),  # Go's `for`
        "match": ("expression_switch_statement", "type_switch_statement", "select_statement"),
    },
    blocks=("source_file", "block", "statement_list"),
)
GO = CodeText("Go", ("go", "golang", ""), block_comment, _GRAMMAR)
_ENVIRONMENT = {
    "GOCACHE": "{scratch}/cache",
    "GOPATH": "{scratch}/path",
    "GO111MODULE": "off",  # a module would need the version of this Go in a file
    "GOPROXY": "off",
    "GOTOOLCHAIN": "local",
    "GOTELEMETRY": "off",
    "CGO_ENABLED": "0",
}
_LEAST = (1, 23)  # its internal/runtime/exithook
# Written in one piece when the program ends by itself: a panic or a signal leaves none.
_RECORD = """package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"runtime/coverage"
	_ "unsafe"
)

type recordHook struct {
	F            func()
	RunOnFailure bool
}

//go:linkname recordAddHook internal/runtime/exithook.Add
func recordAddHook(h recordHook)

func init() {
	recordAddHook(recordHook{func() {
		var meta, counters bytes.Buffer
		if coverage.WriteMeta(&meta) != nil || coverage.WriteCounters(&counters) != nil {
			return
		}
		sizes := binary.LittleEndian.AppendUint32(nil, uint32(meta.Len()))
		sizes = binary.LittleEndian.AppendUint32(sizes, uint32(counters.Len()))
		os.WriteFile("{record}", append(append(sizes, meta.Bytes()...), counters.Bytes()...), 0)
	}, true})
}
"""
_SIZES = struct.Struct("<II")
_HASH = slice(24, 40)  # of the program, in the header of its description
_BLOCK = re.compile(rb"/main\.go:(\d+)\.\d+,(\d+)\.\d+ \d+ (\d+)")


@functools.cache
def _go(*words: str) -> str:
    """What the go command says about itself; "" if there is none."""
    if shutil.which("go") is None:
        return ""
    asked = subprocess.run(["go", *words], capture_output=True, text=True, timeout=60)
    return asked.stdout.strip() if asked.returncode == 0 else ""


def _root() -> tuple[str, ...]:
    """Go's folder, and what Debian's links in it lead to."""
    root = _go("env", "GOROOT")
    return (root, *map(os.path.realpath, glob.glob(f"{root}/*"))) if root else ()


class GoCoverage:
    """Lines of the blocks that ran (`rl.feedback.toolchain.Coverage`)."""

    knows_failures = True
    steps = Steps(
        ("{folder}/program",),
        compile=(
            "go",
            "build",
            "-cover",
            "-covermode=atomic",
            "-ldflags=-s -w -checklinkname=0",
            "-o",
            "program",
            ".",
        ),
        # without any folder nothing is collected; with one that does not exist, only ours is written
        environment=_ENVIRONMENT | {"GOCOVERDIR": "/nowhere"},
        files={"record.go": _RECORD, "record.s": ""},
    )

    def missing(self) -> str:
        """Whether this Go is too old."""
        found = re.match(r"go(\d+)\.(\d+)", _go("env", "GOVERSION"))
        if found and (int(found[1]), int(found[2])) >= _LEAST:
            return ""
        return f"it takes Go {'.'.join(map(str, _LEAST))}; here is {found[0] if found else 'none'}"

    def reads(self) -> tuple[str, ...]:
        """Nothing more."""
        return ()

    def prepare(self, scratch: Path) -> None:
        """Nothing."""

    def spans(self, program: str, names: SourceNames, records: set[bytes], tools: Tools) -> Spans | None:
        """Which characters ran (`rl.feedback.toolchain.Coverage`).

        Args:
          program: its text.
          names: not needed.
          records: descriptions of the program and its counters.
          tools: runs what reads them.
        Returns: spans in order; None if the records cannot be read.
        """
        for number, record in enumerate(sorted(records)):
            meta, counters = _parts(record)
            if not counters:
                return None
            name = meta[_HASH].hex()
            tools.write(f"records/covmeta.{name}", meta)
            tools.write(f"records/covcounters.{name}.1.{number}", counters)
        read = tools.use("go", "tool", "covdata", "textfmt", "-i=records", "-o=lines")
        counts: dict[int, int] = {}
        lines = program.count("\n") + 1
        for first, last, count in _BLOCK.findall(tools.read("lines")):
            for line in range(int(first), min(int(last), lines) + 1):
                counts[line] = counts.get(line, 0) + int(count)
        return line_spans(program, counts) if read.status == 0 and counts else None


def _parts(record: bytes) -> tuple[bytes, bytes]:
    """The description of the program and its counters; empty if the record is incomplete."""
    if len(record) < _SIZES.size:
        return b"", b""
    meta, counters = _SIZES.unpack_from(record)
    if len(record) != _SIZES.size + meta + counters:
        return b"", b""
    return record[_SIZES.size : _SIZES.size + meta], record[_SIZES.size + meta :]


TOOLCHAIN = Toolchain(
    GO,
    tools=("go",),
    steps=Steps(
        ("{folder}/program",),
        compile=("go", "build", "-ldflags=-s -w", "-o", "program", "."),
        environment=_ENVIRONMENT,
    ),
    names=lambda program: SourceNames("main.go"),
    reads=_root,
    environment=lambda: {"GOROOT": _go("env", "GOROOT")},
    empty="package main\n\nfunc main() {}\n",
    address_space=1 << 30,
    coverage=GoCoverage(),
)
