"""Whoever answers: one question, one answer, and the protocol between administration and respondents.

A respondent answers questions independently of each other; it may answer them in any order. Local models
are in local_respondent, servers in api_respondent, simulated respondents in null_respondents.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

from evals.questionnaires.wording import NOBODY, Choice, Persona, Template

# why an answer has no value
REFUSED, UNREADABLE, EMPTY, ERROR = "refused", "unreadable", "empty", "error"


class ItemContent(NamedTuple):
    """What an item is about, for simulated respondents and for scoring; no model sees it.

    Attributes:
      construct: what it measures; empty if unknown.
      towards: 1 where a high answer means more of the construct, −1 where less, 0 if neither.
      desirable: 1 where a high answer flatters, −1 where a low one does, 0 where neither.
    """

    construct: str = ""
    towards: int = 0
    desirable: int = 0


NOTHING_KNOWN = ItemContent()


@dataclass(frozen=True)
class Question:
    """One item as it is asked once.

    Attributes:
      item: its id; text: its words.
      choices: options in the order shown.
      listing: other statements that stand in the same prompt.
      key: what tells this question from all others of an administration.
    """

    item: str
    text: str
    instruction: str
    choices: tuple[Choice, ...]
    template: Template
    persona: Persona = NOBODY
    listing: str = ""
    seed: int = 0
    asked: ItemContent = NOTHING_KNOWN
    key: tuple[str, ...] = ()

    @cached_property
    def head(self) -> str:
        """The part of the prompt that it shares with other items."""
        lines = [self.template.option.format(label=c.label, words=c.words) for c in self.choices]
        return self.template.head.format(
            persona=f"{self.persona.text}\n\n" if self.persona.text else "",
            instruction=self.instruction,
            options="\n".join(lines),
            listing=self.listing,
        )

    @property
    def prompt(self) -> str:
        """The whole prompt; the answer follows directly."""
        return self.head + self.template.tail.format(item=self.text)

    @cached_property
    def low(self) -> float:
        """The smallest value on offer."""
        return min(choice.value for choice in self.choices)

    @cached_property
    def high(self) -> float:
        """The largest value on offer."""
        return max(choice.value for choice in self.choices)


class Answer(NamedTuple):
    """An answer.

    Attributes:
      value: of the option chosen; NaN if none was.
      position: where it stood, 0 for the first; −1 if none.
      refusal: empty; or refused, unreadable, empty, error.
      text: what was written, or why it failed.
      probabilities: of the options as shown, if known; () otherwise.
      expected: Σ p·value, NaN where unknown.
    """

    value: float
    position: int
    refusal: str = ""
    text: str = ""
    probabilities: tuple[float, ...] = ()
    expected: float = math.nan


class Respondent(Protocol):
    """Someone who answers.

    Attributes:
      name: in tables and reports.
      repeats_itself: whether the seed makes no difference.
    """

    @property
    def name(self) -> str: ...

    @property
    def repeats_itself(self) -> bool: ...

    def answer(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """The number of a question and its answer, in any order, as soon as it is known."""
        ...


def chosen(question: Question, position: int, text: str = "") -> Answer:
    """The answer that takes the option at a place."""
    return Answer(question.choices[position].value, position, "", text)


def from_probabilities(question: Question, probabilities: Sequence[float], position: int) -> Answer:
    """The answer at a place, with how probable all options were."""
    values = [choice.value for choice in question.choices]
    expected = sum(p * v for p, v in zip(probabilities, values, strict=True))
    return Answer(values[position], position, "", "", tuple(probabilities), expected)


def no_answer(code: str, text: str = "") -> Answer:
    """No value, for a reason."""
    return Answer(math.nan, -1, code, text)


_REFUSALS = re.compile(
    r"\b(as an? (ai|language|artificial)|i am an ai|i'm an ai|language model"
    r"|i (cannot|can't|can not|won't|will not|do not have|don't have|am unable|am not able|decline)"
    r"|i'm (unable|not able|sorry)|sorry, )",
    re.IGNORECASE,
)


def parse(question: Question, text: str) -> Answer:
    """Reads a written answer: a label at the beginning, else the words of exactly one option.

    An answer that names a label or an option is taken even after an apology; else a refusal is a refusal.
    A text that names several options is unreadable, never guessed.

    Args:
      question: as it was asked, for its labels and options.
      text: what was written.
    Returns: an Answer; without a value it says whether it was empty, refused or unreadable.
    Raises: nothing.

    Example:
      >>> from evals.questionnaires import Question, named_templates, parse
      >>> from evals.questionnaires.wording import Choice
      >>> options = (Choice(1.0, "Inaccurate", "A"), Choice(2.0, "Accurate", "B"))
      >>> asked = Question("i1", "Like parties.", "", options, named_templates(["form"])[0])
      >>> parse(asked, "(B) Accurate").value, parse(asked, "A or B").refusal
      (2.0, 'unreadable')
    """
    said = text.strip()
    if not said:
        return no_answer(EMPTY)
    labels = "|".join(re.escape(choice.label) for choice in question.choices)
    # "A", "A.", "(A)", "[A]", "Answer: A" but not the article in "A person who .."
    first = re.match(
        r"(?i:(?:my |the )?(?:answer|mark|code|number|choice)(?: is)?[:\s]*)?[\"'(\[*]*"
        rf"((?i:{labels}))(?=$|[\s\"')\].,:;*])(?! +[a-z])",
        said,
    )
    if first:
        wanted = first.group(1).casefold()
        position = next(i for i, c in enumerate(question.choices) if c.label.casefold() == wanted)
        return chosen(question, position, text)
    named = _options_named(question, said)
    if len(named) == 1:
        return chosen(question, named[0], text)
    if _REFUSALS.search(said):
        return no_answer(REFUSED, text)
    return no_answer(UNREADABLE, text)


def _options_named(question: Question, said: str) -> list[int]:
    """Options whose words occur, longest first, so that "Agree" is not found inside "Disagree strongly"."""
    rest = said.casefold()
    found = []
    for place in sorted(range(len(question.choices)), key=lambda i: -len(question.choices[i].words)):
        words = re.escape(question.choices[place].words.casefold())
        rest, count = re.subn(rf"(?<!\w){words}(?!\w)", " ", rest)
        if count:
            found.append(place)
    return found
