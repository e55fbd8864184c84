"""Simulated respondents without traits: the scale, the place, the words or the impression made decide.

Tendencies differ between persons and stay the same, as far as the style allows: a stable style is harder to
tell from a trait. Each rule maps seed and question to an answer.
"""

import math

from evals.questionnaires.respondent import Answer, Question, chosen
from evals.questionnaires.respondents.simulated_draws import (
    agreeing,
    by_value,
    fresh,
    leaning,
    normal,
    stable,
)


def constant(seed: int, question: Question) -> Answer:
    """The same value always: one below the highest, a "4" of 5.

    Args:
      seed: not used.
      question: only its options matter; of two, the higher is taken.
    Returns: the option with that value, wherever it is shown.
    """
    return chosen(question, by_value(question)[-2 if len(question.choices) > 2 else -1])


def midpoint(seed: int, question: Question) -> Answer:
    """The middle option; the lower middle one if their number is even.

    Args:
      seed: not used.
      question: only its options matter.
    Returns: the option in the middle by value, wherever it is shown.
    """
    return chosen(question, by_value(question)[(len(question.choices) - 1) // 2])


def random(seed: int, question: Question) -> Answer:
    """Any option, all equally likely.

    Args:
      seed: of the draw.
      question: its key enters the draw, so every condition has its own.
    Returns: the option drawn.
    """
    return chosen(question, int(fresh(seed, "random", *question.key) * len(question.choices)))


def extreme(seed: int, question: Question) -> Answer:
    """Either end, at random.

    Args:
      seed: of the draw.
      question: its key enters the draw, so every condition has its own.
    Returns: the option of the lowest or of the highest value.
    """
    return agreeing(question, float(fresh(seed, "extreme", *question.key) < 0.5))


def own_style(seed: int, question: Question) -> Answer:
    """At random, each person with its own liking for some values.

    Args:
      seed: of the likings (exponential weights, one per value) and of the draw.
      question: its persona has the liking; its key enters the draw.
    Returns: the option drawn, each value as probable as it is liked.
    """
    who = question.persona.name
    liking = [-math.log(1 - stable(seed, "style", who, i)) for i in range(len(question.choices))]
    draw = fresh(seed, "styled", *question.key) * sum(liking)
    for place, weight in zip(by_value(question), liking, strict=True):
        draw -= weight
        if draw <= 0:
            return chosen(question, place)
    return chosen(question, by_value(question)[-1])


# the option's place, and what it is called


def position(seed: int, question: Question) -> Answer:
    """Whichever option comes second.

    Args:
      seed: not used.
      question: only the order of its options matters.
    Returns: the second option as shown, or the only one.
    """
    return chosen(question, min(1, len(question.choices) - 1))


def own_position(seed: int, question: Question) -> Answer:
    """Each person's own place, three times in four; otherwise at random.

    Args:
      seed: of the places and of the draw.
      question: the persona has the place; the question's key enters the draw.
    Returns: the option at that place, or any.
    """
    if fresh(seed, "place now", *question.key) > 0.75:
        return random(seed, question)
    return chosen(question, int(stable(seed, "place", question.persona.name) * len(question.choices)))


def label(seed: int, question: Question) -> Answer:
    """The option called B or 2, four times in five; otherwise at random.

    Args:
      seed: of the draw.
      question: its labels matter; its key enters the draw.
    Returns: the option so called, or any.
    """
    for place, choice in enumerate(question.choices):
        if choice.label in ("B", "2") and fresh(seed, "label", *question.key) < 0.8:
            return chosen(question, place)
    return random(seed, question)


def text_bound(seed: int, question: Question) -> Answer:
    """Each person's own answer to each wording, whatever it means.

    Args:
      seed: of the answers.
      question: only the words of the item and the persona's name matter.
    Returns: the same option whenever the words are the same, whatever the condition.
    """
    return agreeing(question, stable(seed, "words", question.text, question.persona.name))


# what the person would like


def acquiescent(seed: int, question: Question) -> Answer:
    """Yes to everything, more or less by person.

    Args:
      seed: of each person's leaning (0.55 to 0.95 of the range) and of the noise (SD 0.15).
      question: the persona has the leaning; keys make no difference.
    Returns: the option nearest to leaning plus noise.
    """
    leaning = 0.55 + 0.4 * stable(seed, "leaning", question.persona.name)
    return agreeing(question, leaning + 0.15 * normal(fresh(seed, "yes", *question.key)))


def desirable(seed: int, question: Question) -> Answer:
    """What flatters, more or less by person; the middle where nothing does.

    Args:
      seed: of each person's wish to flatter (0.5 to 1) and of the noise (SD 0.08 of the range).
      question: `asked.desirable` says which end flatters.
    Returns: the option nearest to 0.5 ± wish/2 of the range, plus noise.
    """
    wish = 0.5 + 0.5 * stable(seed, "wish", question.persona.name)
    share = 0.5 + question.asked.desirable * wish / 2
    return agreeing(question, share + 0.08 * normal(fresh(seed, "desirable", *question.key)))


def halo(seed: int, question: Question) -> Answer:
    """One good or bad opinion per person, in all answers.

    Args:
      seed: of the opinions (SD 1.2) and of the noise (SD 0.5).
      question: `asked.desirable` says which end a good opinion takes; described traits make no difference.
    Returns: the option nearest to 0.5 + 0.2 (± opinion + noise) of the range.
    """
    opinion = 1.2 * normal(stable(seed, "opinion", question.persona.name))
    return leaning(seed, question, question.asked.desirable * opinion)
