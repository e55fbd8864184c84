"""Draws of simulated respondents: numbers, and answers from them, that depend on seed, person and question.

They depend on nothing else, so that neither the order of questions nor resuming changes anything.
"""

import hashlib
import math
from functools import lru_cache

from evals.questionnaires.respondent import Answer, Question, chosen


@lru_cache(maxsize=65536)
def stable(*parts: object) -> float:
    """A uniform number in [0, 1) that depends only on the parts."""
    return fresh(*parts)


def fresh(*parts: object) -> float:
    """As `stable`, for parts that hardly recur: nothing is cached."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def normal(uniform: float) -> float:
    """A standard normal number from a uniform one (logistic approximation of the quantile)."""
    u = min(max(uniform, 1e-9), 1 - 1e-9)
    # Bowling et al. 2009: |error in Φ| < 1.4e-4 with the cubic term; the plain logistic is enough here
    return math.log(u / (1 - u)) / 1.702


def nearest(question: Question, value: float) -> Answer:
    """The option nearest to a value.

    Args:
      question: with at least one option.
      value: on the scale of the options' values; it may lie outside them.
    Returns: the answer; if two options are equally near, the one shown first.
    """
    return chosen(
        question,
        min(range(len(question.choices)), key=lambda i: abs(question.choices[i].value - value)),
    )


def agreeing(question: Question, share: float) -> Answer:
    """The option at a share of the range, 0 the lowest value and 1 the highest.

    Args:
      question: with at least one option.
      share: below 0 it takes the lowest, above 1 the highest option.
    Returns: the answer.
    """
    return nearest(question, question.low + share * (question.high - question.low))


def leaning(seed: int, question: Question, amount: float) -> Answer:
    """An answer that leans one way, with noise (SD 0.5).

    Args:
      seed: of the noise.
      question: its key enters the noise.
      amount: how far it leans, 0 for the middle.
    Returns: the option nearest to 0.5 + 0.2 (amount + noise) of the range.
    """
    noise = 0.5 * normal(fresh(seed, "leaning now", *question.key))
    return agreeing(question, 0.5 + 0.2 * (amount + noise))


def by_value(question: Question) -> list[int]:
    """The places of the options, from the lowest value to the highest."""
    return sorted(range(len(question.choices)), key=lambda i: question.choices[i].value)
