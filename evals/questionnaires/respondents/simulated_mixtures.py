"""Simulated respondents that are faithful in part: not always, not everybody, not everything.

Each rule maps seed and question to an answer.
"""

from collections.abc import Callable

from evals.questionnaires.design import PUBLISHED
from evals.questionnaires.respondent import REFUSED, Answer, Question, no_answer
from evals.questionnaires.respondents.simulated_draws import agreeing, fresh, normal, stable
from evals.questionnaires.respondents.simulated_styles import random
from evals.questionnaires.respondents.simulated_traits import faithful

# the construct that `one_trait` answers about, and the one that `refuses_topic` does not
ONE, TOPIC = "extraversion", "neuroticism"


def sycophantic(seed: int, question: Question) -> Answer:
    """A faithful person who gives in to what the interviewer expects.

    Args:
      seed: as for `faithful`; also of the noise (SD 0.1 of the range) where something is expected.
      question: `template.expects` says what is expected; only leading templates expect anything.
    Returns: 0.15 or 0.85 of the range, plus noise, where something is expected; else the faithful answer.
    """
    if not question.template.expects:
        return faithful(seed, question)
    return agreeing(
        question,
        0.5 + 0.35 * question.template.expects + 0.1 * normal(fresh(seed, "gives in", *question.key)),
    )


def memorized(seed: int, question: Question) -> Answer:
    """A faithful person where the published words are known; otherwise answers at random.

    Args:
      seed: as for `faithful`, and of the random answers.
      question: the last part of its key is the item wording; behavioral tasks are never known.
    Returns: the faithful answer to published items, any to paraphrased ones and tasks.
    """
    published = question.key[-1] == PUBLISHED and "/" not in question.item
    return faithful(seed, question) if published else random(seed, question)


def careless_answers(seed: int, question: Question) -> Answer:
    """Half of the answers are a faithful person's, half are random.

    Args:
      seed: as for `faithful`, and of which answers are careless.
      question: its key decides whether this one is.
    Returns: the faithful answer, or any.
    """
    attentive = fresh(seed, "attention", *question.key) < 0.5
    return faithful(seed, question) if attentive else random(seed, question)


def careless_persons(seed: int, question: Question) -> Answer:
    """Half of the persons are faithful, half answer at random.

    Args:
      seed: as for `faithful`, and of who is careless.
      question: the persona is careless in all questions or in none.
    Returns: the faithful answer, or any.
    """
    attentive = stable(seed, "attentive", question.persona.name) < 0.5
    return faithful(seed, question) if attentive else random(seed, question)


def one_trait(seed: int, question: Question) -> Answer:
    """A faithful person in extraversion, random in everything else.

    Args:
      seed: as for `faithful`, and of the random answers.
      question: the construct it asks about decides.
    Returns: the faithful answer, or any.
    """
    return faithful(seed, question) if question.asked.construct == ONE else random(seed, question)


def refuses_topic(seed: int, question: Question) -> Answer:
    """A faithful person who refuses to talk about neuroticism.

    Args:
      seed: as for `faithful`.
      question: refused where it asks about neuroticism, unless it is a behavioral task.
    Returns: a refusal, or the faithful answer.
    """
    if question.asked.construct == TOPIC and "/" not in question.item:
        return no_answer(REFUSED, "I would rather not say.")
    return faithful(seed, question)


def refusing(share: float) -> Callable[[int, Question], Answer]:
    """A rule: a faithful person who answers nothing to this share of the questions."""

    def rule(seed: int, question: Question) -> Answer:
        if fresh(seed, "refuses", *question.key) < share:
            return no_answer(REFUSED, "I would rather not say.")
        return faithful(seed, question)

    return rule
