"""JavaScript: run by Node.js, executed blocks by V8's coverage."""

import json
from pathlib import Path

from rl.feedback.code_text import CodeText, block_comment
from rl.feedback.grammar import Grammar
from rl.feedback.toolchain import SourceNames, Spans, Steps, Toolchain, Tools

_GRAMMAR = Grammar(
    "tree_sitter_javascript",
    {
        "if": ("if_statement",),
        "for": ("for_statement", "for_in_statement"),
        "while": ("while_statement", "do_statement"),
        "try": ("try_statement",),
        "match": ("switch_statement",),
        "ternary": ("ternary_expression",),
    },
    blocks=("program", "statement_block", "switch_case", "switch_default"),
)
JAVASCRIPT = CodeText("JavaScript", ("javascript", "js", "node", ""), block_comment, _GRAMMAR)
_SOURCE = "main.js"
_CHECK = ("node", "--check", "{source}")

# /dev/stdin is a link into /proc, which programs do not see.
_STANDARD_INPUT = """
{
  const fs = require('node:fs');
  for (const name of ['readFileSync', 'openSync', 'createReadStream']) {
    const original = fs[name];
    fs[name] = (path, ...rest) => {
      if (path !== '/dev/stdin') return original(path, ...rest);
      if (name === 'openSync') return 0;
      return name === 'readFileSync' ? original(0, ...rest) : process.stdin;
    };
  }
}
"""
# The record is written when the program ends in any way except by a signal.
_COVERAGE = """
{
  const { Session } = require('node:inspector');
  const { openSync, writeSync } = require('node:fs');
  const record = openSync('{record}', 'w'), session = new Session();
  session.connect();
  session.post('Profiler.enable');
  session.post('Profiler.startPreciseCoverage', { callCount: false, detailed: true });
  process.on('exit', () => session.post('Profiler.takePreciseCoverage', (error, taken) => {
    const own = taken.result.filter((script) => script.url.endsWith('/main.js'));
    writeSync(record, JSON.stringify(own.map((script) => script.functions)));
  }));
}
"""


def _steps(preload: str) -> Steps:
    node = ("node", "--max-old-space-size={memory_mb}", "--stack-size=3900")
    run = (*node, "--require", "{folder}/preload.js", "{source}")
    return Steps(run, compile=_CHECK, files={"preload.js": preload})


class V8Coverage:
    """Blocks that ran, as V8 counts them (`rl.feedback.toolchain.Coverage`)."""

    knows_failures = True
    steps = _steps(_STANDARD_INPUT + _COVERAGE)

    def missing(self) -> str:
        """Nothing: it is part of Node.js."""
        return ""

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
          records: V8's blocks as JSON.
          tools: not needed.
        Returns: spans in order; None if the records cannot be read.
        """
        ran = bytearray(len(program.encode("utf-16-le", "surrogatepass")) // 2)
        for record in records:
            painted = _painted(record, len(ran))
            if painted is None:
                return None
            ran = bytearray(a | b for a, b in zip(ran, painted, strict=True))
        return _in_characters(program, ran)


def _painted(record: bytes, size: int) -> bytearray | None:
    """1 for each UTF-16 unit of the program that ran; inner blocks lie over outer ones."""
    try:
        blocks = [
            (int(part["startOffset"]), int(part["endOffset"]), int(part["count"]) > 0)
            for script in json.loads(record)
            for function in script
            for part in function["ranges"]
        ]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if not blocks or not all(0 <= start <= end <= size for start, end, _ in blocks):
        return None
    units = bytearray(size)
    for start, end, ran in sorted(blocks, key=lambda block: (block[0], -block[1])):
        units[start:end] = bytes([ran]) * (end - start)
    return units


def _in_characters(program: str, units: bytearray) -> Spans:
    spans: list[tuple[int, int]] = []
    unit = 0
    for position, character in enumerate(program):
        if units[unit]:
            if spans and spans[-1][1] == position:
                spans[-1] = (spans[-1][0], position + 1)
            else:
                spans.append((position, position + 1))
        unit += 1 + (character > "\uffff")
    return tuple(spans)


TOOLCHAIN = Toolchain(
    JAVASCRIPT,
    tools=("node",),
    steps=_steps(_STANDARD_INPUT),
    names=lambda program: SourceNames(_SOURCE),
    empty="",
    address_space=2 << 30,
    start_s=0.5,
    coverage=V8Coverage(),
)
