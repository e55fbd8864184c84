"""What a model wrote, reduced to plain words: no thoughts, markup, LaTeX or other scripts' digits.

Not covered: which option it names (reading).
"""

import re
import unicodedata
from collections.abc import Collection

_THOUGHT = re.compile(r"<(think|thinking|thought|reasoning)>.*?(</\1>|\Z)", re.DOTALL | re.IGNORECASE)
# a chat template may open the thought itself, so that the text only closes it
_CLOSED = re.compile(r"\A.*</(think|thinking|thought|reasoning)>", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"<(/?)([a-zA-Z][\w-]{0,40})([^<>\n]{0,80})>")
# tags without a closing tag, including those of chat templates
_SINGLE = re.compile(
    r"s|br|hr|p|li|\w*(?:_\w*|answer|response|output|assistant|user|model)|[be]os|pad|unk", re.IGNORECASE
)
_LATEX = re.compile(r"\\[a-zA-Z]+\*?|\\[()\[\],;!]|[{}$]")
_LINE_MARKS = re.compile(r"^[ \t]*(?:#+|>+(?!\d)|[-*+•](?=\s))[ \t]*", re.MULTILINE)
_QUOTES = re.compile(r"[\"“”„‟«»‹›「」『』]|(?<!\w)'|'(?!\w)")
_EAST_ASIAN = re.compile(r"([぀-ヿ㐀-鿿가-힯])")
_BLANKS = re.compile(r"\s{3,}")
# begins the next item when a base model continues the questionnaire by itself
_NEXT_ITEM = re.compile(
    r"\n\s*(?:(?:next )?(?:statement|question|item|line|text|description|interviewer|user|human)"
    r"(?: \d+)?\s*:)",
    re.IGNORECASE,
)


def without_thoughts(text: str) -> str:
    """The text without <think> blocks; a block that never ends takes the rest with it.

    Example:
      >>> without_thoughts("<think>Maybe B.</think>C")
      'C'
    """
    return _CLOSED.sub("", _THOUGHT.sub("", text)).strip()


def plain(text: str) -> str:
    r"""Only words and punctuation, in compatibility form, with ASCII digits; only the first item's answer.

    Args:
      text: what was written after the question.
    Returns: the text without thoughts, tags, Markdown, LaTeX commands and quotation marks; further items
      that a base model writes are cut off.

    Example:
      >>> plain("**Option**  \\boxed{\\text{B}}").split()
      ['Option', 'B']
    """
    said = without_thoughts(text)
    closed = {tag[2].casefold() for tag in _TAG.finditer(said) if tag[1]}
    said = _TAG.sub(lambda tag: " " if _is_markup(tag, closed) else tag[0], said)
    said = "".join(_plain_character(c) for c in said)
    said = unicodedata.normalize("NFKC", said).replace("\r\n", "\n").replace("’", "'")
    # so that no pattern rescans a run of blanks from each of them
    said = _BLANKS.sub(lambda run: "\n" * min(run.group().count("\n"), 2) or " ", said)
    said = _LATEX.sub(" ", said)
    said = _LINE_MARKS.sub("", said)
    said = re.sub(r"[*`]+|(?<!\w)_+|_+(?!\w)", "", said)
    said = _EAST_ASIAN.sub(r" \1 ", _QUOTES.sub(" ", said))
    said = said.strip()
    following = _NEXT_ITEM.search(said)
    return said[: following.start()] if following else said


def _is_markup(tag: re.Match[str], closed: Collection[str]) -> bool:
    """False for words that happen to be in angle brackets and may be an option's: "E <Very Accurate>"."""
    _, name, rest = tag.groups()
    single = _SINGLE.fullmatch(name) is not None and not rest.strip()
    return single or name.casefold() in closed or rest.endswith("/") or "=" in rest


def _plain_character(character: str) -> str:
    kind = unicodedata.category(character)
    if kind in ("Nd", "No") and (digit := unicodedata.digit(character, None)) is not None:
        # a raised or circled digit stands alone; those of a number stay together
        return str(digit) if kind == "Nd" else f" {digit} "
    if kind == "No":
        # ½ after a whole number is a fraction, not another digit
        return f" {unicodedata.normalize('NFKC', character)} "
    # joiners, marks of direction and of emoji, surrogates without their other half
    return "" if kind in ("Cf", "Cs", "Me") or character == "\ufe0f" else character
