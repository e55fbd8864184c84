"""Free-text answers against gold answers: normalization, exact match, token F1, containment.

Two published normalizations are offered; they differ in how they treat punctuation. Before either, and beyond
what was published, a text is brought to one Unicode form (NFKC: é as one character or two, full-width
letters), and where answers are matched, typographic quotes and hyphens become those of a keyboard: no figure
should depend on how an answer was typed.

    squad     lower case; punctuation dropped; a, an, the dropped; blanks collapsed      "U.S." -> "us"
    triviaqa  as before, but punctuation (also ‘ ’ ´ ` and _) becomes a blank            "U.S." -> "u s"

Not covered: a model as judge, numbers in words against digits, other languages' articles.
Reference: Rajpurkar et al. 2016, arXiv:1606.05250; Joshi et al. 2017, arXiv:1705.03551.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

Normalization = Literal["squad", "triviaqa"]
Extent = Literal["line", "prefix"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_DROPPED = str.maketrans("", "", string.punctuation)
_BLANKED = str.maketrans({mark: " " for mark in string.punctuation + "‘’´`"})
_TYPED = str.maketrans(
    dict.fromkeys("‘’‛′", "'") | dict.fromkeys("“”„‟″", '"') | dict.fromkeys("‐‑‒–—―−", "-")
)


class Match(NamedTuple):
    """Agreement with the best of the gold answers; each measure takes its own best."""

    exact: float
    f1: float


def normalize(text: str, normalization: Normalization = "squad") -> str:
    """Lower case in one Unicode form, without punctuation, articles and surplus blanks.

    A text made of nothing else (the answer "A", the band "!!!") is only lower-cased: otherwise every empty
    response would match it.

    Args:
      text: an answer.
      normalization: whose rules apply.
    Returns: the text in the form in which it is compared.

    Raises: ValueError for an unknown normalization.
    """
    if normalization not in get_args(Normalization):
        raise ValueError(f"normalization must be squad or triviaqa; got {normalization!r}")
    table = _DROPPED if normalization == "squad" else _BLANKED
    same = _in_one_form(text)
    # characters that a dropped mark kept apart may now combine into one letter
    kept = " ".join(_ARTICLES.sub(" ", _in_one_form(same.translate(table))).split())
    return kept or " ".join(same.split())


def _in_one_form(text: str) -> str:
    # a lower-case form may split into letter and mark, as that of İ does
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())


def token_f1(prediction: Sequence[str], gold: Sequence[str]) -> float:
    """Harmonic mean of precision and recall over words, counted with multiplicity: 2 |P∩G| / (|P|+|G|).

    Two empty sequences agree (1).

    Args:
      prediction, gold: words.
    Returns: in [0, 1].
    """
    if not prediction and not gold:
        return 1.0
    shared = sum((Counter(prediction) & Counter(gold)).values())
    return 2 * shared / (len(prediction) + len(gold))


def match(
    prediction: str,
    answers: Sequence[str],
    *,
    normalization: Normalization = "squad",
    extent: Extent = "line",
) -> Match:
    """Exact match and F1 with the best of several gold answers.

    Args:
      prediction: the model's answer.
      answers: all that count as right.
      normalization: of both sides.
      extent: "line" compares the whole prediction. "prefix" compares only as many of its words as the gold
        answer has: for completions, which go on after the answer ("is Paris, which lies ..."). It ignores
        how an answer ends, which is what fine-tuning changes first; it is the more lenient of the two.
    Returns: the best of the comparisons.
    Raises: ValueError without gold answers.
    """
    if not answers:
        raise ValueError("a prediction needs at least one gold answer to be compared with; got none")
    words = normalize(prediction.translate(_TYPED), normalization).split()
    exact = f1 = 0.0
    for answer in answers:
        gold = normalize(answer.translate(_TYPED), normalization).split()
        compared = words[: len(gold)] if extent == "prefix" else words
        exact = max(exact, float(compared == gold))
        f1 = max(f1, token_f1(compared, gold))
    return Match(exact, f1)


def contains_answer(response: str, answers: Sequence[str], *, normalization: Normalization = "squad") -> bool:
    """Whether the words of one of the gold answers occur in a response, one after the other.

    More lenient than exact match: an answer in a sentence counts, and so does one among several guesses.

    Args:
      response: all that the model wrote.
      answers: all that count as right.
      normalization: of both sides.
    Returns: whether one does; words inside longer words do not count.

    >>> contains_answer("The capital of Peru is Lima.", ["Lima"]), contains_answer("Limassol", ["Lima"])
    (True, False)
    """
    words = normalize(response.translate(_TYPED), normalization).split()
    for answer in answers:
        gold = normalize(answer.translate(_TYPED), normalization).split()
        if any(words[at : at + len(gold)] == gold for at in range(len(words) - len(gold) + 1)):
            return True
    return False


def first_line(response: str) -> str:
    """The first line of a response that is not blank, without surrounding blanks."""
    return next((line.strip() for line in re.split(r"[\r\n]", response) if line.strip()), "")
