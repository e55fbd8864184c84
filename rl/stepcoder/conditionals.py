"""Where a curriculum cuts a solution: before its conditionals.

Python programs are parsed by Python, others by tree-sitter (extra `languages`).
"""

import ast
import math
from collections.abc import Iterator, Sequence

from rl.feedback.languages import LANGUAGES
from rl.sandbox.execution_trace import SourceOffsets, parse, statements

_KINDS: dict[str, tuple[type[ast.AST], ...]] = {
    "if": (ast.If,),
    "for": (ast.For, ast.AsyncFor),
    "while": (ast.While,),
    "try": (ast.Try, *([ast.TryStar] if hasattr(ast, "TryStar") else [])),
    "match": (ast.Match,),
    "ternary": (ast.IfExp,),
}
DEFAULT_KINDS = ("if", "for", "while")


def _own_expressions(statement: ast.stmt) -> Iterator[ast.AST]:
    """The nodes of a statement that are not inside a statement below it."""
    pending = [statement]
    while pending:
        node = pending.pop()
        yield node
        pending += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt)]  # pyright: ignore[reportAttributeAccessIssue, reportOperatorIssue]


def conditionals(solution: str, kinds: Sequence[str] = DEFAULT_KINDS, language: str = "python") -> list[int]:
    """Where a completion may start: the character offset of each statement that is or contains a conditional.

    A ternary counts as the statement that contains it, once.

    Args:
      solution: the program's text.
      kinds: what counts: if, for, while, try, match (`switch` elsewhere), ternary.
      language: a key of rl.feedback.languages.LANGUAGES.
    Returns: offsets in characters, ascending.
    Raises: ValueError for an unknown kind, a Python solution that does not parse, or if the parser of another
      language is not installed.

    >>> conditionals("x = 1\\nif x:\\n    x = 2\\n")
    [6]
    """
    unknown = set(kinds) - _KINDS.keys()
    if unknown:
        raise ValueError(
            f"conditionals are of the kinds {', '.join(_KINDS)}; got {', '.join(sorted(unknown))} "
            "(cccs.kinds)"
        )
    grammar = LANGUAGES[language].text.grammar
    if grammar is not None:
        return grammar.statements_with(tuple(kinds), solution)
    wanted = tuple(kind for name in kinds for kind in _KINDS[name])
    try:
        tree = parse(solution)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(
            f"the canonical solution does not parse ({error}); it can have no curriculum"
        ) from error
    offsets = SourceOffsets(solution)
    starts = {
        offsets.start_of(statement)
        for statement in statements(tree)
        if any(isinstance(node, wanted) for node in _own_expressions(statement))
    }
    return sorted(starts)


def prefixes(
    canonical_solution: str, kinds: Sequence[str] = DEFAULT_KINDS, language: str = "python"
) -> list[str]:
    """The part of the solution that is given at each stage, hardest (empty) first.

    A prefix ends before the conditional's indentation, at the end of a line, so that the completion's first
    token is one that the tokenizer also makes in running text.

    Args:
      canonical_solution: the program's text; "" if there is none.
      kinds: as for `conditionals`.
      language: as for `conditionals`.
    Returns: ⌈√E⌉ prefixes, at least one.
    Raises: ValueError as `conditionals` does.

    >>> prefixes("".join(f"if x == {i}:\\n    x = 0\\n" for i in range(4)))[1].count("if")
    2
    """
    starts = conditionals(canonical_solution, kinds, language) if canonical_solution else []
    if not starts:
        return [""]
    stages = math.ceil(math.sqrt(len(starts)))
    stride = math.ceil(len(starts) / stages)
    return ["", *(canonical_solution[: starts[stride * c]].rstrip(" \t") for c in range(1, stages))]
