"""The final answer in a response that reasons before it answers.

The rule: what a model thinks up to </think> is not part of the answer. In the rest, the answer is what
follows the last "####" on its line; if there is none, what follows the last "answer is" or "answer:"; if
there is neither, the response has no final answer and counts as wrong.

GSM8K's two scores instead follow lm-evaluation-harness, which looks for a number: `strict_number` for the one
after the first "####", `flexible_number` for the last one of all.

Reference: https://github.com/EleutherAI/lm-evaluation-harness, lm_eval/tasks/gsm8k/gsm8k.yaml.
"""

import re
from collections.abc import Sequence

from evals.knowledge.answers import match
from evals.knowledge.prompts import FINAL, LETTERS

_SAID = re.compile(r"\banswer(?: is\b:?|:)", re.IGNORECASE)
_LETTER = re.compile(r"\(?([A-Za-z])\)?")
# a letter before the text of its choice
_MARKED = re.compile(r"\(?([A-Z])[.:,)]")
_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
# what is ignored when two numbers are compared, removed in this order
_IGNORED = tuple(re.compile(one) for one in (",", r"\$", r"(?s).*#### ", r"\.$"))


def final_answer(response: str) -> str | None:
    """What a response gives as its answer, by the rule above; None where it gives none.

    Args:
      response: all that the model wrote.
    Returns: the text without surrounding blanks, Markdown's ** and a full stop at its end.

    >>> final_answer("3 boxes of 4 are 12.\\n#### 12")
    '12'
    >>> final_answer("It lies on the Rimac, so the answer is **Lima**.")
    'Lima'
    """
    # a chat template may have opened the thought, and the token limit may have cut it short
    kept = response.rpartition("</think>")[2].partition("<think>")[0]
    after = kept.rpartition(FINAL)[2] if FINAL in kept else None
    if after is None:
        said = list(_SAID.finditer(kept))
        after = kept[said[-1].end() :] if said else ""
    line = next((line for line in after.strip().split("\n")), "")
    return line.replace("**", "").strip().removesuffix(".").strip() or None


def chosen(answer: str, choices: Sequence[str]) -> int | None:
    """Which choice a final answer names: by a letter alone ("B", "(b)"), its exact text, or both ("B. Lima").

    Args:
      answer: as from `final_answer`.
      choices: texts, in the order of their letters.
    Returns: an index; None where it names none of them.

    >>> cities = ["Quito", "Lima"]
    >>> chosen("(B) Lima", cities), chosen("lima", cities), chosen("Z", cities)
    (1, 1, None)
    """
    bare = _LETTER.fullmatch(answer)
    same = [index for index, choice in enumerate(choices) if match(answer, [choice]).exact]
    if bare is None and len(same) == 1:
        return same[0]
    letter = bare or _MARKED.match(answer)
    index = LETTERS.index(letter[1].upper()) if letter else len(choices)
    return index if index < len(choices) else None


def strict_number(response: str) -> str | None:
    """The number after the first "#### "; None if there is none."""
    found = _STRICT.findall(response)
    return found[0].strip() if found else None


def flexible_number(response: str) -> str | None:
    """The last number of a response; None if there is none.

    >>> flexible_number("First 3, so she pays $1,200 in all.")
    '$1,200'
    """
    found = _FLEXIBLE.findall(response)
    return next(filter(None, found[-1])).strip() if found else None


def same_number(answer: str | None, gold: str) -> bool:
    """Whether two texts are alike except for commas, dollar signs and a full stop at the end.

    Args:
      answer: as from `strict_number` or `flexible_number`.
      gold: the right answer.
    Returns: whether they are; None equals nothing.

    >>> same_number("$1,200.", "1200"), same_number(None, "1200"), same_number("1200.0", "1200")
    (True, False, False)
    """
    return answer is not None and _bare(answer) == _bare(gold)


def _bare(text: str) -> str:
    for ignored in _IGNORED:
        text = ignored.sub("", text)
    return text.lower()
