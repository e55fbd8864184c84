"""Which parts of a program ran, by instruction: finer and faster than marking statements; Python ≥ 3.12.

sys.monitoring reports each instruction once, then never again. Its position in the source says which region
ran, and regions are finer than statements (rl/sandbox/execution_trace.py): the arms of a conditional
expression, the later operands of `and` and `or`, bodies of lambdas, elements and conditions of
comprehensions, and messages of asserts each count separately. Statements without an instruction (a docstring,
`global`) go with their neighbor. Standard library only: runs in the sandbox.
"""

import ast
import itertools
import types
from collections.abc import Iterator

from rl.sandbox.execution_trace import SourceOffsets, regions, statements, suites


def _arms(tree: ast.Module) -> Iterator[ast.expr]:
    """The expressions that need not run when their statement does."""
    for node in ast.walk(tree):
        match node:
            case ast.IfExp():
                yield from (node.body, node.orelse)
            case ast.BoolOp():
                yield from node.values[1:]
            case ast.Lambda():
                yield node.body
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
                yield node.elt
            case ast.DictComp():
                yield from (node.key, node.value)
            case ast.comprehension():
                yield from node.ifs
            case ast.Assert(msg=ast.expr()):
                yield node.msg  # pyright: ignore[reportReturnType]


def fine_regions(source: str, tree: ast.Module) -> list[list[int]]:
    """[start, end, flag] of each piece, in order, covering the source; a flag may have several pieces.

    Args:
      source: the whole text, without a byte order mark.
      tree: its syntax tree, unchanged.
    Returns: the pieces; flags count statements first, then the arms within them.
    """
    offsets = SourceOffsets(source)
    own = regions(source, tree)
    spans = [(start, end, flag) for flag, (start, end) in enumerate(own)]
    for flag, arm in enumerate(_arms(tree), start=len(own)):
        spans.append((offsets.start_of(arm), offsets.end_of(arm), flag))
    # Arms nest, so of those that cover a character the one that starts last, then ends first, is innermost.
    cuts = sorted({cut for start, end, _ in spans for cut in (start, end)})
    opening = sorted(spans, key=lambda span: (span[0], -span[1]))
    pieces: list[list[int]] = []
    open_spans: list[tuple[int, int, int]] = []
    for start, end in itertools.pairwise(cuts):
        while opening and opening[0][0] <= start:
            open_spans.append(opening.pop(0))
        open_spans = [span for span in open_spans if span[1] > start]
        flag = open_spans[-1][2]
        if pieces and pieces[-1][2] == flag and pieces[-1][1] == start:
            pieces[-1][1] = end
        else:
            pieces.append([start, end, flag])
    return pieces


def code_objects(code: types.CodeType) -> Iterator[types.CodeType]:
    """A code object and those inside it, always in the same order."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from code_objects(constant)


def instruction_flags(source: str, code: types.CodeType, pieces: list[list[int]]) -> list[list[int]]:
    """For each code object, in order, the flag of each instruction; -1 for those without a position.

    Args:
      source: the whole text.
      code: what it was compiled to.
      pieces: [start, end, flag], as `fine_regions` gives them.
    Returns: a list for each code object, as `code_objects` orders them.
    """
    offsets = SourceOffsets(source)
    by_character = [-1] * (len(source) + 1)
    for start, end, flag in pieces:
        by_character[start:end] = [flag] * (end - start)

    def flag_of(line: int | None, column: int | None) -> int:
        return -1 if not line or column is None else by_character[min(offsets.of(line, column), len(source))]

    return [
        [flag_of(line, column) for line, _, column, _ in part.co_positions()] for part in code_objects(code)
    ]


def adopt_silent_statements(tree: ast.Module, pieces: list[list[int]], flags: list[list[int]]) -> None:
    """Gives the pieces of statements without instructions to the statement that runs with them, in place.

    Args:
      tree: the program's syntax tree, with its own statements only.
      pieces: [start, end, flag]; the flags are changed.
      flags: of each instruction of each code object.
    """
    heard = {flag for part in flags for flag in part}
    numbers = {id(statement): flag for flag, statement in enumerate(statements(tree))}
    adopted: dict[int, int] = {}

    def voice(statement: ast.stmt) -> int | None:
        flag = numbers[id(statement)]
        if flag in heard:
            return flag
        first = next(suites(statement), None)
        return voice(first[0]) if first else None

    for owner in [tree, *statements(tree)]:
        for suite in suites(owner):
            voices = [voice(statement) for statement in suite]
            for i, statement in enumerate(suite):
                if numbers[id(statement)] not in heard:
                    near = [v for v in (voices[i], *voices[i + 1 :], *voices[:i][::-1]) if v is not None]
                    adopted[numbers[id(statement)]] = near[0] if near else numbers[id(statement)]
    for piece in pieces:
        piece[2] = adopted.get(piece[2], piece[2])
