"""Respondents: one question, one answer, and the protocol between administration and whoever answers.

A respondent answers each question independently of the others, and in any order. Local models, servers and
simulated respondents are in `respondents`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from evals.questionnaires.wording import NOBODY, Choice, Persona, Template

# why an answer has no value
REFUSED, UNREADABLE, EMPTY, ERROR = "refused", "unreadable", "empty", "error"
# the setting at which a respondent's written answers are cut off
LIMIT = "max_new_tokens"


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
    """One item, asked once.

    Attributes:
      item: its id; text: its words.
      choices: options in the order shown.
      listing: other statements in the same prompt.
      key: what distinguishes this question from all others of an administration.
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
      position: the option's place as shown, 0 for the first; −1 if none.
      refusal: "" if there is a value; otherwise refused, unreadable, empty or error.
      text: what was written, or why it failed.
      probabilities: of the options as shown, if known; () otherwise.
      expected: Σ p·value, NaN where unknown.
      read_by: the judge that read, or failed to read, a text that rules did not; empty otherwise.
      cut_at: the limit at which the text was cut off, in tokens; 0 if it was not, or this is not known.
    """

    value: float
    position: int
    refusal: str = ""
    text: str = ""
    probabilities: tuple[float, ...] = ()
    expected: float = math.nan
    read_by: str = ""
    cut_at: int = 0


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


@runtime_checkable
class Paid(Protocol):
    """A respondent that costs money."""

    def account(self, path: Path, beside: Sequence[Path] = ()) -> None:
        """Counts what earlier sessions spent, and continues in the same file.

        Args:
          path: of the account; nothing changes if it is kept already.
          beside: accounts of a run's other models, which count toward a ceiling too.
        """
        ...


def settings_of(respondent: Respondent) -> dict[str, object]:
    """What its answers depend on besides its name, if it says so: address, temperature, how it is asked."""
    return dict(getattr(respondent, "settings", {}))


def tells_cuts(respondent: Respondent) -> bool:
    """Whether it reports which answers were cut off at its limit, so that the limit may be raised."""
    return bool(getattr(respondent, "tells_cuts", False))


def chosen(question: Question, position: int, text: str = "") -> Answer:
    """The answer that takes an option.

    Args:
      question: as asked.
      position: place of the option, as shown.
      text: what was written, if anything.
    Returns: the answer.
    """
    return Answer(question.choices[position].value, position, "", text)


def from_probabilities(question: Question, probabilities: Sequence[float], position: int) -> Answer:
    """The answer at a place, with the probabilities of all options.

    Args:
      question: as asked.
      probabilities: of the options, in the order shown.
      position: place of the option taken, as shown; it need not be the most probable one.
    Returns: the answer, with the expected value Σ p · value.
    Raises: ValueError for more or fewer probabilities than options.
    """
    values = [choice.value for choice in question.choices]
    expected = sum(p * v for p, v in zip(probabilities, values, strict=True))
    return Answer(values[position], position, "", "", tuple(probabilities), expected)


def no_answer(code: str, text: str = "") -> Answer:
    """An answer without a value, for a reason.

    Args:
      code: refused, unreadable, empty or error.
      text: what was written, or why it failed.
    Returns: the answer.
    """
    return Answer(math.nan, -1, code, text)
