"""Where the conditionals are in the syntax tree of a language that tree-sitter parses."""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Node, Tree

# a statement can be here without braces around it
_UNBRACED = ("consequence", "body", "alternative")


@dataclass(frozen=True)
class Grammar:
    """The names of a grammar's nodes.

    Attributes:
      module: the Python module that holds the grammar; its package has hyphens instead of underscores.
      conditionals: the nodes of each kind of conditional: if, for, while, try, match, ternary.
      blocks: the nodes whose children are statements.
    """

    module: str
    conditionals: Mapping[str, tuple[str, ...]]
    blocks: tuple[str, ...]

    def parse(self, source: bytes) -> "Tree":
        """The syntax tree of a program. Raises: ValueError if the parser is not installed."""
        try:
            tree_sitter = importlib.import_module("tree_sitter")
            language = tree_sitter.Language(importlib.import_module(self.module).language())
        except ImportError as error:
            package = self.module.replace("_", "-")
            raise ValueError(
                f"a curriculum of these programs needs {package}: pip install 'jaxmoe[languages]'"
            ) from error
        return tree_sitter.Parser(language).parse(source)

    def statements_with(self, kinds: tuple[str, ...], program: str) -> list[int]:
        """Where the statements begin that are or contain a conditional; an `else if` begins at its `else`.

        What tree-sitter cannot parse is passed over: macros look like errors to it.

        Args:
          kinds: of conditionals; those that the language lacks do not occur.
          program: its text.
        Returns: offsets in characters, ascending.
        Raises: ValueError as `parse`.
        """
        wanted = {name for kind in kinds for name in self.conditionals.get(kind, ())}
        source = program.encode(errors="replace")
        found = {
            start
            for node in _below(self.parse(source).root_node)
            if node.type in wanted and (start := self._start(node)) is not None
        }
        return [len(source[:start].decode()) for start in sorted(found)]

    def _start(self, node: "Node") -> int | None:
        """The first byte of the statement that contains a node; None outside of any."""
        branching = {name for kind in ("if", "for", "while") for name in self.conditionals[kind]}
        while (parent := node.parent) is not None:
            if parent.type in self.blocks:
                return node.start_byte
            if parent.type in branching:
                before = node.prev_sibling
                if before is not None and before.type == "else":
                    return before.start_byte
                if any(node == parent.child_by_field_name(name) for name in _UNBRACED):
                    return node.start_byte
            node = parent
        return None


def _below(root: "Node") -> Iterator["Node"]:
    """The nodes of a tree that are not in a part that cannot be parsed."""
    pending = [root]
    while pending:
        node = pending.pop()
        if not node.is_error:
            yield node
            pending += node.children
