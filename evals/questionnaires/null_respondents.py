"""Simulated respondents: six that only seem to answer, and a faithful one; faithfulness must tell them apart.

They see what an item is about (Question.asked), never its words. Tendencies differ from person to person
and stay, as far as the style allows: a stable style is the harder null. Draws depend only on seed, person
and question, so the order of asking and a resumed administration change nothing.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from evals.questionnaires.respondent import Answer, Question, chosen


@lru_cache(maxsize=65536)
def _stable(*parts: object) -> float:
    """A uniform number in [0, 1) that depends on the parts alone."""
    return _fresh(*parts)


def _fresh(*parts: object) -> float:
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def _normal(uniform: float) -> float:
    """A standard normal number from a uniform one (logistic approximation of the quantile)."""
    u = min(max(uniform, 1e-9), 1 - 1e-9)
    # Bowling et al. 2009: |error in Φ| < 1.4e-4 with the cubic term; the plain logistic serves a simulation
    return math.log(u / (1 - u)) / 1.702


def nearest(question: Question, value: float) -> Answer:
    """The option nearest to a value."""
    return chosen(
        question,
        min(range(len(question.choices)), key=lambda i: abs(question.choices[i].value - value)),
    )


def agreeing(question: Question, share: float) -> Answer:
    """The option at a share of the range, 0 the lowest value and 1 the highest."""
    return nearest(question, question.low + share * (question.high - question.low))


@dataclass(frozen=True)
class Simulated:
    """A respondent given by a rule.

    Attributes:
      rule: from seed and question to an answer.
    """

    name: str
    rule: Callable[[int, Question], Answer]
    seed: int = 0

    @property
    def repeats_itself(self) -> bool:
        """Seeds are part of every draw."""
        return False

    def answer(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """Answers each question by the rule."""
        for number, question in enumerate(questions):
            yield number, self.rule(self.seed, question)


def constant(seed: int, question: Question) -> Answer:
    """The same value always: one below the highest, a "4" of 5."""
    return chosen(question, _by_value(question)[-2 if len(question.choices) > 2 else -1])


def midpoint(seed: int, question: Question) -> Answer:
    """The middle; of an even number of options the lower middle."""
    return chosen(question, _by_value(question)[(len(question.choices) - 1) // 2])


def _by_value(question: Question) -> list[int]:
    return sorted(range(len(question.choices)), key=lambda i: question.choices[i].value)


def random(seed: int, question: Question) -> Answer:
    """Any option, all as likely."""
    return chosen(question, int(_fresh(seed, "random", *question.key) * len(question.choices)))


def acquiescent(seed: int, question: Question) -> Answer:
    """Yes to everything, more or less by person."""
    leaning = 0.55 + 0.4 * _stable(seed, "leaning", question.persona.name)
    return agreeing(question, leaning + 0.15 * _normal(_fresh(seed, "yes", *question.key)))


def extreme(seed: int, question: Question) -> Answer:
    """Either end, at random."""
    return agreeing(question, float(_fresh(seed, "extreme", *question.key) < 0.5))


def desirable(seed: int, question: Question) -> Answer:
    """What flatters, more or less by person; the upper middle where nothing does."""
    wish = 0.5 + 0.5 * _stable(seed, "wish", question.persona.name)
    share = 0.5 + question.asked.desirable * wish / 2
    return agreeing(question, share + 0.08 * _normal(_fresh(seed, "desirable", *question.key)))


def faithful(seed: int, question: Question) -> Answer:
    """A person with traits: those that the persona describes, an individual deviation, noise by item and by
    answer."""
    asked, person = question.asked, question.persona
    trait = person.traits.get(asked.construct, 0.0) + 0.5 * _normal(
        _stable(seed, "trait", asked.construct, person.name)
    )
    lasting = 0.5 * _normal(_stable(seed, "item", question.item, person.name))
    passing = 0.4 * _normal(_fresh(seed, "now", *question.key))
    return agreeing(question, 0.5 + 0.2 * (asked.towards * trait + lasting + passing))


RULES: dict[str, Callable[[int, Question], Answer]] = {
    "constant": constant,
    "midpoint": midpoint,
    "random": random,
    "acquiescent": acquiescent,
    "extreme": extreme,
    "desirable": desirable,
    "faithful": faithful,
}
NULLS = tuple(name for name in RULES if name != "faithful")


def simulated_respondent(name: str, seed: int = 0) -> Simulated:
    """A simulated respondent by name: six that only seem to answer, and the faithful one.

    Args:
      name: of RULES.
      seed: of all its draws; the same seed gives the same answers, whatever the order of asking.
    Returns: a Respondent.
    Raises: ValueError with the known names.

    Example:
      >>> from evals.questionnaires import simulated_respondent
      >>> simulated_respondent("acquiescent").name
      'acquiescent'
    """
    if name not in RULES:
        raise ValueError(f"a simulated respondent is one of {', '.join(RULES)}; got {name!r}")
    return Simulated(name, RULES[name], seed)


def true_traits(seed: int, construct: str, persons: Sequence[tuple[str, float]]) -> np.ndarray:
    """The traits that `faithful` answers from, for persons given as (name, described trait)."""
    return np.array(
        [trait + 0.5 * _normal(_stable(seed, "trait", construct, name)) for name, trait in persons]
    )
