"""Simulated respondents: some are persons with traits, most only seem so; a judgment must tell them apart.

They see what an item is about (Question.asked) and its words, as a rule asks. Tendencies differ from person
to person and stay, as far as the style allows: a stable style is the harder one to tell. Draws depend only on
seed, person and question, so the order of asking and a resumed administration change nothing.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from evals.questionnaires.design import PUBLISHED
from evals.questionnaires.respondent import REFUSED, Answer, Question, chosen, no_answer
from evals.questionnaires.wording import CONSTRUCTS

# the construct that `one_trait` answers about, and the one that `refuses_topic` does not
ONE, TOPIC = "extraversion", "neuroticism"


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
    """The option nearest to a value.

    Args:
      question: with at least one option.
      value: on the scale of the options' values; it may lie outside them.
    Returns: the answer; of two equally near options, the one shown first.
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
    """The same value always: one below the highest, a "4" of 5.

    Args:
      seed: not used.
      question: only its options matter; of two, the higher is taken.
    Returns: the option of that value, wherever it stands.
    """
    return chosen(question, _by_value(question)[-2 if len(question.choices) > 2 else -1])


def midpoint(seed: int, question: Question) -> Answer:
    """The middle; of an even number of options the lower middle.

    Args:
      seed: not used.
      question: only its options matter.
    Returns: the option in the middle by value, wherever it stands.
    """
    return chosen(question, _by_value(question)[(len(question.choices) - 1) // 2])


def _by_value(question: Question) -> list[int]:
    return sorted(range(len(question.choices)), key=lambda i: question.choices[i].value)


def random(seed: int, question: Question) -> Answer:
    """Any option, all equally likely.

    Args:
      seed: of the draw.
      question: its key enters the draw, so every condition has its own.
    Returns: the option drawn.
    """
    return chosen(question, int(_fresh(seed, "random", *question.key) * len(question.choices)))


def extreme(seed: int, question: Question) -> Answer:
    """Either end, at random.

    Args:
      seed: of the draw.
      question: its key enters the draw, so every condition has its own.
    Returns: the option of the lowest or of the highest value.
    """
    return agreeing(question, float(_fresh(seed, "extreme", *question.key) < 0.5))


def own_style(seed: int, question: Question) -> Answer:
    """At random, each person with a liking for some values of its own.

    Args:
      seed: of the likings (exponential weights, one a value) and of the draw.
      question: the persona has the liking; the question's key enters the draw.
    Returns: the option drawn, each value as probable as it is liked.
    """
    who = question.persona.name
    liking = [-math.log(1 - _stable(seed, "style", who, i)) for i in range(len(question.choices))]
    draw = _fresh(seed, "styled", *question.key) * sum(liking)
    for place, weight in zip(_by_value(question), liking, strict=True):
        draw -= weight
        if draw <= 0:
            return chosen(question, place)
    return chosen(question, _by_value(question)[-1])


# what stands where, and what it is called


def position(seed: int, question: Question) -> Answer:
    """Whatever stands second.

    Args:
      seed: not used.
      question: the order of only its options matters.
    Returns: the second option as shown, or the only one.
    """
    return chosen(question, min(1, len(question.choices) - 1))


def own_position(seed: int, question: Question) -> Answer:
    """Each person's own place, three times in four; else at random.

    Args:
      seed: of the places and of the draw.
      question: the persona has the place; the question's key enters the draw.
    Returns: the option that stands at that place, or any.
    """
    if _fresh(seed, "place now", *question.key) > 0.75:
        return random(seed, question)
    return chosen(question, int(_stable(seed, "place", question.persona.name) * len(question.choices)))


def label(seed: int, question: Question) -> Answer:
    """The option called B or 2, four times in five; else at random.

    Args:
      seed: of the draw.
      question: its labels matter; its key enters the draw.
    Returns: the option so called, or any.
    """
    for place, choice in enumerate(question.choices):
        if choice.label in ("B", "2") and _fresh(seed, "label", *question.key) < 0.8:
            return chosen(question, place)
    return random(seed, question)


# what the person or the interviewer would like


def acquiescent(seed: int, question: Question) -> Answer:
    """Yes to everything, more or less by person.

    Args:
      seed: of each person's leaning (0.55 to 0.95 of the range) and of the noise (SD 0.15).
      question: the persona has the leaning; keys make no difference.
    Returns: the option nearest to leaning plus noise.
    """
    leaning = 0.55 + 0.4 * _stable(seed, "leaning", question.persona.name)
    return agreeing(question, leaning + 0.15 * _normal(_fresh(seed, "yes", *question.key)))


def desirable(seed: int, question: Question) -> Answer:
    """What flatters, more or less by person; the middle where nothing does.

    Args:
      seed: of each person's wish to flatter (0.5 to 1) and of the noise (SD 0.08 of the range).
      question: `asked.desirable` tells which end flatters.
    Returns: the option nearest to 0.5 ± wish/2 of the range, plus noise.
    """
    wish = 0.5 + 0.5 * _stable(seed, "wish", question.persona.name)
    share = 0.5 + question.asked.desirable * wish / 2
    return agreeing(question, share + 0.08 * _normal(_fresh(seed, "desirable", *question.key)))


def halo(seed: int, question: Question) -> Answer:
    """One good or bad opinion of each person, in all answers.

    Args:
      seed: of the opinions (SD 1.2) and of the noise (SD 0.5).
      question: `asked.desirable` tells which end a good opinion takes; described traits make no difference.
    Returns: the option nearest to 0.5 + 0.2 (± opinion + noise) of the range.
    """
    opinion = 1.2 * _normal(_stable(seed, "opinion", question.persona.name))
    return _leaning(seed, question, question.asked.desirable * opinion)


def half_halo(seed: int, question: Question) -> Answer:
    """Such an opinion and the described trait, about half and half.

    Args:
      seed: of the opinions (SD 1) and of the noise (SD 0.5).
      question: a trait that its persona does not describe is 0.
    Returns: the option nearest to 0.5 + 0.2 (± opinion ± 0.75 trait + noise) of the range.
    """
    opinion = _normal(_stable(seed, "opinion", question.persona.name))
    trait = question.persona.traits.get(question.asked.construct, 0.0)
    return _leaning(
        seed, question, question.asked.desirable * opinion + 0.75 * question.asked.towards * trait
    )


def sycophantic(seed: int, question: Question) -> Answer:
    """A faithful person, who gives in to what the interviewer expects.

    Args:
      seed: as for `faithful`; of the noise (SD 0.1 of the range) where something is expected.
      question: `template.expects` tells what; only leading templates expect anything.
    Returns: 0.15 or 0.85 of the range, plus noise, where something is expected; else the faithful answer.
    """
    if not question.template.expects:
        return faithful(seed, question)
    return agreeing(
        question,
        0.5 + 0.35 * question.template.expects + 0.1 * _normal(_fresh(seed, "gives in", *question.key)),
    )


# traits, but not those that are described


def inverted(seed: int, question: Question) -> Answer:
    """A faithful person's answers turned around, in everything.

    Args:
      seed: as for `faithful`.
      question: of a questionnaire or a behavioral task alike.
    Returns: low + high − x for the faithful answer x.
    """
    return nearest(question, question.low + question.high - faithful(seed, question).value)


def inverted_reports(seed: int, question: Question) -> Answer:
    """Turned around in questionnaires alone: says the opposite of what it does.

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
    return _leaning(seed, question, asked.towards * question.persona.traits.get(other, 0.0))


def unrelated_traits(seed: int, question: Question) -> Answer:
    """Stable traits that have nothing to do with the description.

    Args:
      seed: of the traits (SD 1.2, one for each persona and construct) and of the noise (SD 0.5).
      question: only the name of its persona matters.
    Returns: the option nearest to 0.5 + 0.2 (± trait + noise) of the range.
    """
    trait = 1.2 * _normal(_stable(seed, "unrelated", question.asked.construct, question.persona.name))
    return _leaning(seed, question, question.asked.towards * trait)


def _leaning(seed: int, question: Question, amount: float) -> Answer:
    noise = 0.5 * _normal(_fresh(seed, "leaning now", *question.key))
    return agreeing(question, 0.5 + 0.2 * (amount + noise))


def parrot(seed: int, question: Question) -> Answer:
    """The description in other words, and nothing else.

    Args:
      seed: not used.
      question: a trait that its persona does not describe is 0.
    Returns: the option nearest to 0.5 ± 0.3 trait of the range, in every condition the same.
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
    return _leaning(seed, question, asked.towards * question.persona.traits.get(asked.construct, 0.0))


# the words, not the meaning; not always, not everybody, not everything


def text_bound(seed: int, question: Question) -> Answer:
    """Each person's own answer to each wording, whatever it means.

    Args:
      seed: of the answers.
      question: only the words of the item and the persona's name matter.
    Returns: the same option whenever the words are the same, in whatever condition.
    """
    return agreeing(question, _stable(seed, "words", question.text, question.persona.name))


def memorized(seed: int, question: Question) -> Answer:
    """A faithful person where the published words are known; else at random.

    Args:
      seed: as for `faithful`, and of the random answers.
      question: the last part of its key is the item wording; behavioral tasks are never known.
    Returns: the faithful answer to published items, any to paraphrased ones and tasks.
    """
    published = question.key[-1] == PUBLISHED and "/" not in question.item
    return faithful(seed, question) if published else random(seed, question)


def careless_answers(seed: int, question: Question) -> Answer:
    """Half of the answers of a faithful person, half at random.

    Args:
      seed: as for `faithful`, and of which answers are careless.
      question: its key decides whether this one is.
    Returns: the faithful answer, or any.
    """
    attentive = _fresh(seed, "attention", *question.key) < 0.5
    return faithful(seed, question) if attentive else random(seed, question)


def careless_persons(seed: int, question: Question) -> Answer:
    """Half of the persons are faithful, half answer at random.

    Args:
      seed: as for `faithful`, and of who is careless.
      question: the persona is careless in all questions or in none.
    Returns: the faithful answer, or any.
    """
    attentive = _stable(seed, "attentive", question.persona.name) < 0.5
    return faithful(seed, question) if attentive else random(seed, question)


def one_trait(seed: int, question: Question) -> Answer:
    """A faithful person in extraversion, random in all else.

    Args:
      seed: as for `faithful`, and of the random answers.
      question: the construct it asks about decides.
    Returns: the faithful answer, or any.
    """
    return faithful(seed, question) if question.asked.construct == ONE else random(seed, question)


def _refusing(share: float) -> Callable[[int, Question], Answer]:
    def rule(seed: int, question: Question) -> Answer:
        if _fresh(seed, "refuses", *question.key) < share:
            return no_answer(REFUSED, "I would rather not say.")
        return faithful(seed, question)

    return rule


def refuses_topic(seed: int, question: Question) -> Answer:
    """A faithful person who does not speak about neuroticism.

    Args:
      seed: as for `faithful`.
      question: refused where it asks about neuroticism, unless it is a behavioral task.
    Returns: a refusal, or the faithful answer.
    """
    if question.asked.construct == TOPIC and "/" not in question.item:
        return no_answer(REFUSED, "I would rather not say.")
    return faithful(seed, question)


def faithful(seed: int, question: Question) -> Answer:
    """A person with traits: those that the persona describes, an individual deviation, noise by item and by
    answer.

    Args:
      seed: of the deviations (SD 0.5), and of the noise by item (SD 0.5) and by answer (SD 0.4).
      question: `asked` tells construct and direction; a trait that the persona does not describe is 0.
    Returns: the option nearest to 0.5 + 0.2 (± trait + noise) of the range.
    """
    asked, person = question.asked, question.persona
    trait = _trait(seed, asked.construct, person.name, person.traits.get(asked.construct, 0.0))
    lasting = 0.5 * _normal(_stable(seed, "item", question.item, person.name))
    passing = 0.4 * _normal(_fresh(seed, "now", *question.key))
    return agreeing(question, 0.5 + 0.2 * (asked.towards * trait + lasting + passing))


def _trait(seed: int, construct: str, person: str, described: float) -> float:
    return described + 0.5 * _normal(_stable(seed, "trait", construct, person))


def graded(reliability: float, items: int = 10) -> Callable[[int, Question], Answer]:
    """A person with traits and so much noise in each answer that a scale has this reliability.

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
        noise = math.sqrt(1.25) * _normal(_fresh(seed, "graded", *question.key))
        both = math.sqrt(share) * asked.towards * trait + math.sqrt(1 - share) * noise
        return agreeing(question, 0.5 + 0.2 * both)

    return rule


class SimulatedRule(NamedTuple):
    """A rule, and what a judgment of the scores must come to.

    Attributes:
      answer: from seed and question to an answer.
      right: verdicts that are right; exceptions: others, by construct.
      needs: what a design must ask for the rule to show: paraphrased items, leading templates.
    """

    answer: Callable[[int, Question], Answer]
    right: tuple[str, ...] = ("not faithful",)
    exceptions: Mapping[str, tuple[str, ...]] = {}
    needs: Literal["", "paraphrased", "leading"] = ""

    def rights(self, construct: str) -> tuple[str, ...]:
        """The verdicts that are right for a construct."""
        return self.exceptions.get(construct, self.right)


NOT_BELIEVED = ("not faithful", "undetermined")
RULES: dict[str, SimulatedRule] = {
    "constant": SimulatedRule(constant),
    "midpoint": SimulatedRule(midpoint),
    "random": SimulatedRule(random),
    "acquiescent": SimulatedRule(acquiescent),
    "extreme": SimulatedRule(extreme),
    "desirable": SimulatedRule(desirable),
    "own style": SimulatedRule(own_style),
    "position": SimulatedRule(position),
    "own position": SimulatedRule(own_position),
    "label": SimulatedRule(label),
    "halo": SimulatedRule(halo),
    "half halo": SimulatedRule(half_halo),
    "sycophantic": SimulatedRule(sycophantic, needs="leading"),
    "inverted": SimulatedRule(inverted),
    "inverted reports": SimulatedRule(inverted_reports),
    "other trait": SimulatedRule(other_trait),
    "unrelated traits": SimulatedRule(unrelated_traits),
    "parrot": SimulatedRule(parrot),
    "noisy parrot": SimulatedRule(noisy_parrot, NOT_BELIEVED),
    "text-bound": SimulatedRule(text_bound),
    "memorized": SimulatedRule(memorized, needs="paraphrased"),
    "careless answers": SimulatedRule(careless_answers),
    "careless persons": SimulatedRule(careless_persons),
    "one trait": SimulatedRule(one_trait, exceptions={ONE: ("faithful",)}),
    "refuses topic": SimulatedRule(refuses_topic, ("faithful",), exceptions={TOPIC: ("undetermined",)}),
    "refuses 1 %": SimulatedRule(_refusing(0.01), ("faithful",)),
    "refuses 5 %": SimulatedRule(_refusing(0.05), ("faithful",)),
    "refuses 20 %": SimulatedRule(_refusing(0.20), ("faithful",)),
    "faithful": SimulatedRule(faithful, ("faithful",)),
}
# beside a model in a report: the plain ones, whose style is known
NULLS = ("constant", "midpoint", "random", "acquiescent", "extreme", "desirable")


def simulated_respondent(name: str, seed: int = 0) -> Simulated:
    """A simulated respondent by name: faithful ones, and many that only seem to answer.

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
    return Simulated(name, RULES[name].answer, seed)


def true_traits(seed: int, construct: str, persons: Sequence[tuple[str, float]]) -> np.ndarray:
    """The traits that `faithful` answers from: the described trait plus an individual deviation (SD 0.5).

    Args:
      seed: of the simulated respondent.
      construct: each has deviations of its own.
      persons: name and described trait of each persona.
    Returns: [persons], in the unit of the described traits.
    """
    return np.array([_trait(seed, construct, name, described) for name, described in persons])
