"""Where the top-level statements of Python text are, and what each of them is, without parsing it.

What a model writes is often cut off, wrong, or followed by prose. A parser only reports that such text is
invalid, and may take very long on hostile text; this module reads any text in linear time.
"""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

CodePartKind = Literal[
    "definition", "import", "assignment", "guard", "string", "comment", "statement", "prose"
]

_TOKEN = re.compile(
    r'''(?P<triple>"""|\'\'\')|(?P<quote>["'])|(?P<comment>\#[^\n]*)|(?P<open>[(\[{])|(?P<close>[)\]}])'''
    r"""|(?P<joined>\\\n)|(?P<line>\n)"""
)
_WORD = re.compile(r"[^\W\d]\w*")
_NAME = re.compile(
    r"(?P<prefix>\b[rRbBuUfF]{1,2})?"
    r'(?P<text>"""(?:\\[\s\S]|[^\\])*?(?:"""|\Z)|\'\'\'(?:\\[\s\S]|[^\\])*?(?:\'\'\'|\Z)'
    r'|"(?:\\[\s\S]|[^\\\n"])*"?|\'(?:\\[\s\S]|[^\\\n\'])*\'?)|\#[^\n]*|(?P<name>[^\W\d]\w*)'
)
_TRIPLE_END = {quotes: re.compile(rf"(?:\\[\s\S]|[^\\])*?{quotes}") for quotes in ('"""', "'''")}
_QUOTE_END = {quote: re.compile(rf"(?:\\[\s\S]|[^\\\n{quote}])*{quote}?") for quote in "\"'"}

# cannot occur inside brackets: one was never closed
_CLEAR_START = re.compile(r"(?:async +def|def|class|import|from|if +__name__)\b|@\w|```|~~~")
_CONTINUES = re.compile(r"(?:elif|else|except|finally)\b|[)\]},]|[ \t\f\r]|\n|\Z")
_DEFINITION = re.compile(r"(?:(?:async +)?def|class) +(\w+)\s*(?:[(:\[]|\Z)|@[\w(]")
_IMPORT = re.compile(r"import +[\w.]+ *(?:as\b|[,;#\r\n]|\Z)|from +[\w.]+ +import\b")
_GUARD = re.compile(r"if +__name__\b")
_STRING = re.compile(r"[rRbBuUfF]{0,2}[\"']")
_ASSIGNMENT = re.compile(
    r"[^\W\d][\w.]*(?:\[[^\n=]*\])?(?: *, *\*?[^\W\d][\w.]*)* *(?::[^=\n]+)?"
    r"(?:\*\*|//|>>|<<|[-+*/%&|^@])?=(?!=)"
)
_COMPOUND = re.compile(r"(?:if|for|while|with|try|match|async)\b[^\n]*[:(\[{\\]")
_SIMPLE = re.compile(
    r"(?:assert|await|break|continue|del|exec|global|nonlocal|pass|print|raise|return|yield)\b(?!:)"
    r"|[^\W\d][\w.]*[(\[]|[^\W\d]\w* +(?:and|or) +\S+\(|[(\[{]|\*[^\W\d]|\.\.\."
)


class CodePart(NamedTuple):
    """A top-level statement with its decorators and the comments before it.

    Attributes:
      start, end: its characters; parts follow each other without gaps.
      code: where the statement itself begins, after comments.
      kind: what it is; prose is anything that does not begin like a Python statement.
      name: what a definition defines, else "".
    """

    start: int
    end: int
    code: int
    kind: CodePartKind
    name: str


class CodeLayout(NamedTuple):
    """The parts of a text, and whether it ends inside a string or bracket."""

    parts: list[CodePart]
    unfinished: bool


def layout(text: str) -> CodeLayout:
    """The top-level statements of a text, in time linear in its length.

    Lines inside strings and brackets, indented lines, and clauses such as `else:` continue their statement.

    >>> [part.kind for part in layout("import re\\n\\ndef f(x):\\n    return x\\nThat is all.").parts]
    ['import', 'definition', 'prose']
    """
    margins, unfinished = _margins(text)
    return CodeLayout(list(_parts(text, _heads(text, margins))), unfinished)


def _margins(text: str) -> tuple[list[int], bool]:
    """Where lines begin that are not inside a string or bracket; whether one is open at the end."""
    margins, depth, at = [0], 0, 0
    while token := _TOKEN.search(text, at):
        at = token.end()
        match token.lastgroup:
            case "triple":
                end = _TRIPLE_END[token[0]].match(text, at)
                if end is None:
                    return margins, True
                at = end.end()
            case "quote":
                end = _QUOTE_END[token[0]].match(text, at)
                at = end.end() if end else at
            case "open":
                depth += 1
            case "close":
                depth = max(0, depth - 1)
            case "line":
                if depth and _CLEAR_START.match(text, at):
                    depth = 0
                if not depth:
                    margins.append(at)
    return margins, depth > 0


def _heads(text: str, margins: list[int]) -> list[int]:
    """Where statements and comments begin; a comment before an indented line is inside a statement."""
    heads, indented_next = [], False
    for at in reversed(margins):
        is_comment = text.startswith("#", at)
        if is_comment and indented_next:
            continue
        if not _CONTINUES.match(text, at) or at == 0:
            heads.append(at)
        if not is_comment and not text.startswith("\n", at):
            indented_next = text[at : at + 1] in (" ", "\t")
    return heads[::-1]


def _parts(text: str, heads: list[int]) -> Iterator[CodePart]:
    """Joins comments and decorators with the statement that follows them."""
    start, decorated = 0, -1
    for at, end in zip(heads, [*heads[1:], len(text)], strict=True):
        kind, name = _kind(text, at)
        last = end == len(text)
        if kind == "comment" and not last:
            continue
        if text[at : at + 1] == "@" and not last:
            decorated = at if decorated < 0 else decorated
            continue
        yield CodePart(start, end, at if decorated < 0 else decorated, kind, name)
        start, decorated = end, -1


def _kind(text: str, at: int) -> tuple[CodePartKind, str]:
    if text.startswith("#", at):
        return "comment", ""
    if found := _DEFINITION.match(text, at):
        return "definition", found[1] or ""
    patterns: list[tuple[CodePartKind, re.Pattern[str]]] = [
        ("import", _IMPORT),
        ("guard", _GUARD),
        ("string", _STRING),
        ("assignment", _ASSIGNMENT),
        ("statement", _COMPOUND),
        ("statement", _SIMPLE),
    ]
    for kind, pattern in patterns:
        if pattern.match(text, at):
            return kind, ""
    return "prose", ""


def names_in(text: str) -> set[str]:
    """The names that code mentions outside comments and strings, or in an f-string.

    >>> sorted(names_in("print(f'{twice(x)}', 'no')  # not this"))
    ['print', 'twice', 'x']
    """
    names: set[str] = set()
    for found in _NAME.finditer(text):
        if found["name"]:
            names.add(found["name"])
        elif found["text"] and "f" in (found["prefix"] or "").lower():
            names.update(_WORD.findall(found["text"]))
    return names


def defines(code: str, name: str) -> bool:
    """Whether Python code defines a function, class or variable of this name at the margin.

    Args:
      code: any text; it need not be valid Python.
      name: an identifier, without dots.
    Returns: False also for names that are only imported, or defined within other definitions.

    >>> defines("class Solution:\\n    def f(self): ...", "f"), defines("f = lambda x: x", "f")
    (False, True)
    """
    word = re.escape(name)
    pattern = rf"^(?:(?:async +)?(?:def|class) +{word}\b|{word} *(?::[^=\n]+)?=(?!=))"
    return re.search(pattern, code, re.MULTILINE) is not None
