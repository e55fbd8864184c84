"""Which parts of a program ran, by statement span and column, at little less than its plain speed.

The portable form rewrites the syntax tree: `FLAGS[i] = 1` is put before each statement, where FLAGS is memory
shared with the grader, so that the flags survive a kill. FLAGS is a constant of the code, so no name of the
program's is taken. The source text is cut into one region per statement, and the regions cover it exactly:

    leading blanks, comments and `else:`, `except:`, `case:` headers belong to the statement after them,
    a trailing comment and the end of the line to the statement before,
    the header of a compound statement (decorators and `def` line too) ends at its colon.

A flag says that its statement was reached. Flags are scattered among further bytes that nothing sets: a
program that overwrites them gives itself away. Standard library only: this runs inside the sandbox.
"""

import ast
import os
import re
import warnings
from bisect import bisect_left
from collections.abc import Iterator, Sequence

_BYTES_A_FLAG = 4
_LINE_END = re.compile(r"\r\n|\r|\n")
# After a statement: blanks, one semicolon, and, if nothing else follows, a comment and the line's end.
_TRAILER = re.compile(r"(?:[ \t\f]*;)?(?:[ \t\f]*(?:#[^\r\n]*)?(?:\r\n|\r|\n|\Z))?")
_BEFORE_COLON = re.compile(r"(?:[^:#]|#[^\r\n]*)*:")
_SUITES = ("body", "orelse", "finalbody")


def parse(source: str) -> ast.Module:
    """ast.parse, silent about style warnings such as unknown escapes. Raises: what ast.parse raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)


class SourceOffsets:
    """Character offsets of the syntax tree's positions: lines from 1, columns in UTF-8 bytes."""

    def __init__(self, source: str):
        self._source = source
        self._starts = [0, *(match.end() for match in _LINE_END.finditer(source)), len(source)]
        self._is_ascii = source.isascii()

    def of(self, line: int, column: int) -> int:
        """The character offset of a position.

        Args:
          line: from 1.
          column: from 0, in bytes of UTF-8, as `ast` and code objects count.
        Returns: the offset in characters, from 0.
        """
        start = self._starts[min(line, len(self._starts)) - 1]
        if self._is_ascii:
            return start + column
        end = self._starts[min(line, len(self._starts) - 1)]
        return start + len(self._source[start:end].encode()[:column].decode(errors="ignore"))

    def end_of(self, node: ast.AST) -> int:
        """The character offset just after a node."""
        return self.of(node.end_lineno, node.end_col_offset)  # pyright: ignore[reportAttributeAccessIssue]

    def start_of(self, node: ast.AST) -> int:
        """The character offset of a node."""
        return self.of(node.lineno, node.col_offset)  # pyright: ignore[reportAttributeAccessIssue]


def suites(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """The lists of statements directly below a node, in the order of the text."""
    for name in ("body", "handlers", "cases", "orelse", "finalbody"):
        value = getattr(node, name, None)
        if not isinstance(value, list) or not value:
            continue
        if isinstance(value[0], ast.stmt):
            yield value
        else:  # except handlers, match cases
            for part in value:
                yield part.body


def statements(node: ast.AST) -> Iterator[ast.stmt]:
    """All statements below a node, in the order of the text."""
    pending = [node]
    while pending:
        current = pending.pop()
        if current is not node:
            yield current  # pyright: ignore[reportReturnType]
        # not recursive, because a long chain of elifs is a deep tree
        pending += reversed([statement for suite in suites(current) for statement in suite])


def _header_parts(statement: ast.stmt) -> Iterator[ast.AST]:
    """The positioned nodes of a compound statement's header, decorators left out."""
    for name, value in ast.iter_fields(statement):
        if name in _SUITES or name in ("handlers", "cases", "decorator_list"):
            continue
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, (ast.arguments, ast.withitem)):
                yield from (p for p in ast.iter_child_nodes(part) if hasattr(p, "end_lineno"))
            elif isinstance(part, ast.AST) and hasattr(part, "end_lineno"):
                yield part


def _own_end(statement: ast.stmt, source: str, offsets: SourceOffsets) -> int:
    """Where the statement's own text ends: without its suites, but with its trailing comment."""
    if next(suites(statement), None) is None:
        end = offsets.end_of(statement)
    else:
        ends = [offsets.end_of(part) for part in _header_parts(statement)]
        colon = _BEFORE_COLON.match(source, max([offsets.start_of(statement), *ends]))
        end = colon.end() if colon else offsets.start_of(statement)
    trailer = _TRAILER.match(source, end)
    return trailer.end() if trailer else end


def regions(source: str, tree: ast.Module) -> list[list[int]]:
    """The [start, end) of each statement's own text, in order; together they are the whole source.

    Args:
      source: the whole text, without a byte order mark.
      tree: its syntax tree, unchanged.
    Returns: a region for each statement; none for a text without statements.
    """
    offsets = SourceOffsets(source)
    cuts, last = [], 0
    for statement in statements(tree):
        end = max(last, _own_end(statement, source, offsets))
        cuts.append([last, end])
        last = end
    if cuts:
        cuts[-1][1] = len(source)
    return cuts


def _prologue(suite: list[ast.stmt], owner: ast.AST) -> int:
    """How many statements must stay first: a docstring, imports from __future__."""
    count = 0
    first = suite[0]
    may_have_docstring = isinstance(owner, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    if may_have_docstring and isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        count = int(isinstance(first.value.value, str))
    if isinstance(owner, ast.Module):
        while count < len(suite) and getattr(suite[count], "module", None) == "__future__":
            count += 1
    return count


def scattered(count: int) -> list[int]:
    """Where the flags are, one in every four bytes, at places that a program cannot guess."""
    return [_BYTES_A_FLAG * i + byte % _BYTES_A_FLAG for i, byte in enumerate(os.urandom(count))]


def flags_size(count: int) -> int:
    """How many bytes this many flags take."""
    return max(1, _BYTES_A_FLAG * count)


def _marker(place: str, position: int, at: ast.stmt) -> ast.stmt:
    target = ast.Subscript(ast.Constant(place), ast.Constant(position), ast.Store())
    marker = ast.Assign([target], ast.Constant(1))
    for node in (marker, target, target.value, target.slice, marker.value):
        node.lineno = node.end_lineno = at.lineno
        node.col_offset = node.end_col_offset = at.col_offset
    return marker


def instrument(tree: ast.Module, place: str, positions: Sequence[int]) -> None:
    """Puts the markers into the tree, in place.

    Args:
      place: the constant that will be replaced by the memory of the flags.
      positions: of the flag of each statement, in the order of the text.
    """
    numbers = {
        id(statement): position for statement, position in zip(statements(tree), positions, strict=True)
    }
    for owner in [tree, *statements(tree)]:
        for suite in suites(owner):
            # handlers and cases own their suites but cannot hold a docstring
            kept = _prologue(suite, owner) if suite is getattr(owner, "body", None) else 0
            marked = suite[:kept] + [_marker(place, numbers[id(s)], s) for s in suite[:kept]]
            for statement in suite[kept:]:
                marked += [_marker(place, numbers[id(statement)], statement), statement]
            suite[:] = marked


def were_forged(table: list[list[int]], flags: bytes) -> bool:
    """Whether anything other than the markers has written to the flags.

    Args:
      table: [start, end, position of the flag] of each region.
      flags: the shared memory after the run, one byte per position.
    Returns: True if a byte is neither 0 nor 1, or if one is set that belongs to no region.
    """
    own = {number for _, _, number in table}
    return flags.count(1) + flags.count(0) != len(flags) or flags.count(1) != sum(flags[i] for i in own)


def executed_regions(table: list[list[int]], flags: bytes) -> tuple[tuple[int, int], ...]:
    """The regions [start, end, position of the flag] whose flag is set, joined where they touch.

    Args:
      table: [start, end, position of the flag] of each region, in order.
      flags: the shared memory after the run, one byte a position.
    Returns: [start, end) in characters, in order and disjoint.
    """
    joined: list[list[int]] = []
    for start, end, number in table:
        if not flags[number] or start == end:
            continue
        if joined and joined[-1][1] == start:
            joined[-1][1] = end
        else:
            joined.append([start, end])
    return tuple((start, end) for start, end in joined)


def overlaps(regions_ran: tuple[tuple[int, int], ...], start: int, end: int) -> bool:
    """Whether any character of [start, end) lies in one of the sorted, disjoint regions.

    Args:
      regions_ran: [start, end) in characters, as `executed_regions` gives them.
      start: first character.
      end: just after the last character.
    Returns: False if the two only touch.
    """
    i = bisect_left(regions_ran, (end,))
    return i > 0 and regions_ran[i - 1][1] > start
