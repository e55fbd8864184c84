"""Simulated respondents with traits: those that are described, or others.

Each rule maps seed and question to an answer; `faithful` is the person that a judgment should believe.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from evals.questionnaires.respondent import Answer, Question
from evals.questionnaires.respondents.simulated_draws import agreeing, fresh, leaning, nearest, normal, stable
from evals.questionnaires.respondents.simulated_styles import random
from evals.questionnaires.wording import CONSTRUCTS


def faithful(seed: int, question: Question) -> Answer:
    """A person with traits: those that the persona describes, an individual deviation, noise by item and by
    answer.

    Args:
      seed: of the deviations (SD 0.5), and of the noise by item (SD 0.5) and by answer (SD 0.4).
      question: `asked` gives construct and direction; a trait that the persona does not describe is 0.
    Returns: the option nearest to 0.5 + 0.2 (± trait + noise) of the range.
    """
    asked, person = question.asked, question.persona
    trait = _trait(seed, asked.construct, person.name, person.traits.get(asked.construct, 0.0))
    lasting = 0.5 * normal(stable(seed, "item", question.item, person.name))
    passing = 0.4 * normal(fresh(seed, "now", *question.key))
    return agreeing(question, 0.5 + 0.2 * (asked.towards * trait + lasting + passing))


def _trait(seed: int, construct: str, person: str, described: float) -> float:
    return described + 0.5 * normal(stable(seed, "trait", construct, person))


def true_traits(seed: int, construct: str, persons: Sequence[tuple[str, float]]) -> np.ndarray:
    """The traits that `faithful` answers from: the described trait plus an individual deviation (SD 0.5).

    Args:
      seed: of the simulated respondent.
      construct: each has deviations of its own.
      persons: name and described trait of each persona.
    Returns: [persons], in the unit of the described traits.
    """
    return np.array([_trait(seed, construct, name, described) for name, described in persons])


def graded(reliability: float, items: int = 10) -> Callable[[int, Question], Answer]:
    """A person with traits and enough noise in each answer that a scale has this reliability.

    An answer is √ρ₁ trait + √(1 − ρ₁) noise, ρ₁ = ρ/(k − (k − 1)ρ) by Spearman and Brown.

    Args:
      reliability: ρ of the score of k items in one condition, before answers are rounded to options.
      items: k.
    Returns: a rule for `Simulated`.
    Raises: ValueError for a reliability outside [0, 1).
    """
    if not 0 <= reliability < 1:
        raise ValueError(f"reliability must lie in [0, 1); got {reliability}")
    share = reliability / (items - (items - 1) * reliability)

    def rule(seed: int, question: Question) -> Answer:
        asked, person = question.asked, question.persona
        trait = _trait(seed, asked.construct, person.name, person.traits.get(asked.construct, 0.0))
        noise = math.sqrt(1.25) * normal(fresh(seed, "graded", *question.key))
        both = math.sqrt(share) * asked.towards * trait + math.sqrt(1 - share) * noise
        return agreeing(question, 0.5 + 0.2 * both)

    return rule


# the description in other words


def parrot(seed: int, question: Question) -> Answer:
    """The description in other words, and nothing else.

    Args:
      seed: not used.
      question: a trait that its persona does not describe is 0.
    Returns: the option nearest to 0.5 ± 0.3 trait of the range, the same in every condition.
    """
    asked = question.asked
    described = question.persona.traits.get(asked.construct, 0.0)
    return agreeing(question, 0.5 + 0.3 * asked.towards * described)


def noisy_parrot(seed: int, question: Question) -> Answer:
    """The description in other words, with slips.

    Args:
      seed: of the noise (SD 0.5).
      question: a trait that its persona does not describe is 0.
    Returns: the option nearest to 0.5 + 0.2 (± trait + noise) of the range.
    """
    asked = question.asked
    return leaning(seed, question, asked.towards * question.persona.traits.get(asked.construct, 0.0))


def mixture(seed: int, question: Question) -> Answer:
    """What follows from several described traits together, and nothing beyond them.

    Args:
      seed: of the noise (SD 0.5).
      question: its own trait counts, and the product of the next two constructs' in the order of CONSTRUCTS.
    Returns: the option nearest to 0.5 + 0.2 (± (trait + 0.6 product) + noise) of the range; any option where
      the construct asked is none of CONSTRUCTS.
    """
    asked, described = question.asked, question.persona.traits
    if asked.construct not in CONSTRUCTS:
        return random(seed, question)
    place = CONSTRUCTS.index(asked.construct)
    first, second = (CONSTRUCTS[(place + step) % len(CONSTRUCTS)] for step in (1, 2))
    product = described.get(first, 0.0) * described.get(second, 0.0)
    return leaning(seed, question, asked.towards * (described.get(asked.construct, 0.0) + 0.6 * product))


def half_halo(seed: int, question: Question) -> Answer:
    """A halo (`simulated_styles.halo`) and the described trait, about half and half.

    Args:
      seed: of the opinions (SD 1) and of the noise (SD 0.5).
      question: a trait that its persona does not describe is 0.
    Returns: the option nearest to 0.5 + 0.2 (± opinion ± 0.75 trait + noise) of the range.
    """
    opinion = normal(stable(seed, "opinion", question.persona.name))
    trait = question.persona.traits.get(question.asked.construct, 0.0)
    return leaning(seed, question, question.asked.desirable * opinion + 0.75 * question.asked.towards * trait)


# traits, but not those that are described


def inverted(seed: int, question: Question) -> Answer:
    """A faithful person's answers turned around, in everything.

    Args:
      seed: as for `faithful`.
      question: from a questionnaire or a behavioral task alike.
    Returns: low + high − x for the faithful answer x.
    """
    return nearest(question, question.low + question.high - faithful(seed, question).value)


def inverted_reports(seed: int, question: Question) -> Answer:
    """Turned around only in questionnaires: says the opposite of what it does.

    Args:
      seed: as for `faithful`.
      question: a behavioral task has a "/" in its item.
    Returns: the faithful answer to a task, the inverted one to anything else.
    """
    return faithful(seed, question) if "/" in question.item else inverted(seed, question)


def other_trait(seed: int, question: Question) -> Answer:
    """A described trait, but of another construct.

    Args:
      seed: of the noise (SD 0.5).
      question: the trait is that of the construct before the one asked, in the order of CONSTRUCTS.
    Returns: the option nearest to 0.5 + 0.2 (± trait + noise) of the range; any option where the construct
      asked is none of CONSTRUCTS.
    """
    asked = question.asked
    if asked.construct not in CONSTRUCTS:
        return random(seed, question)
    other = CONSTRUCTS[CONSTRUCTS.index(asked.construct) - 1]
    return leaning(seed, question, asked.towards * question.persona.traits.get(other, 0.0))


def unrelated_traits(seed: int, question: Question) -> Answer:
    """Stable traits that have nothing to do with the description.

    Args:
      seed: of the traits (SD 1.2, one for each persona and construct) and of the noise (SD 0.5).
      question: only the name of its persona matters.
    Returns: the option nearest to 0.5 + 0.2 (± trait + noise) of the range.
    """
    trait = 1.2 * normal(stable(seed, "unrelated", question.asked.construct, question.persona.name))
    return leaning(seed, question, question.asked.towards * trait)
