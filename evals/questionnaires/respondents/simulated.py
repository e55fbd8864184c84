"""Simulated respondents: some are persons with traits, most only seem so; a judgment must tell them apart.

They see what an item is about (Question.asked) and its words, as their rule requires. The rules are in
simulated_traits, simulated_styles and simulated_mixtures; RULES names each, and the verdicts it must get.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from evals.questionnaires.respondent import Answer, Question
from evals.questionnaires.respondents import simulated_mixtures as mixtures
from evals.questionnaires.respondents import simulated_styles as styles
from evals.questionnaires.respondents import simulated_traits as traits
from evals.questionnaires.respondents.simulated_mixtures import ONE, TOPIC


@dataclass(frozen=True)
class Simulated:
    """A respondent given by a rule.

    Attributes:
      rule: maps seed and question to an answer.
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


class SimulatedRule(NamedTuple):
    """A rule, and the verdicts that its scores must get.

    Attributes:
      answer: maps seed and question to an answer.
      right: verdicts that are right; exceptions: others, by construct.
      needs: what a design must contain for the rule to show: paraphrased items, leading templates, or pairs
        of people who are described alike (twins).
    """

    answer: Callable[[int, Question], Answer]
    right: tuple[str, ...] = ("not faithful",)
    exceptions: Mapping[str, tuple[str, ...]] = {}
    needs: Literal["", "paraphrased", "leading", "twins"] = ""

    def rights(self, construct: str) -> tuple[str, ...]:
        """The verdicts that are right for a construct."""
        return self.exceptions.get(construct, self.right)


NOT_BELIEVED = ("not faithful", "undetermined")
RULES: dict[str, SimulatedRule] = {
    "constant": SimulatedRule(styles.constant),
    "midpoint": SimulatedRule(styles.midpoint),
    "random": SimulatedRule(styles.random),
    "acquiescent": SimulatedRule(styles.acquiescent),
    "extreme": SimulatedRule(styles.extreme),
    "desirable": SimulatedRule(styles.desirable),
    "own style": SimulatedRule(styles.own_style),
    "position": SimulatedRule(styles.position),
    "own position": SimulatedRule(styles.own_position),
    "label": SimulatedRule(styles.label),
    "halo": SimulatedRule(styles.halo),
    "half halo": SimulatedRule(traits.half_halo),
    "sycophantic": SimulatedRule(mixtures.sycophantic, needs="leading"),
    "inverted": SimulatedRule(traits.inverted),
    "inverted reports": SimulatedRule(traits.inverted_reports),
    "other trait": SimulatedRule(traits.other_trait),
    "unrelated traits": SimulatedRule(traits.unrelated_traits),
    "parrot": SimulatedRule(traits.parrot),
    "noisy parrot": SimulatedRule(traits.noisy_parrot, NOT_BELIEVED),
    "mixture": SimulatedRule(traits.mixture, NOT_BELIEVED, needs="twins"),
    "text-bound": SimulatedRule(styles.text_bound),
    "memorized": SimulatedRule(mixtures.memorized, needs="paraphrased"),
    "careless answers": SimulatedRule(mixtures.careless_answers),
    "careless persons": SimulatedRule(mixtures.careless_persons),
    "one trait": SimulatedRule(mixtures.one_trait, exceptions={ONE: ("faithful",)}),
    "refuses topic": SimulatedRule(
        mixtures.refuses_topic, ("faithful",), exceptions={TOPIC: ("undetermined",)}
    ),
    "refuses 1 %": SimulatedRule(mixtures.refusing(0.01), ("faithful",)),
    "refuses 5 %": SimulatedRule(mixtures.refusing(0.05), ("faithful",)),
    "refuses 20 %": SimulatedRule(mixtures.refusing(0.20), ("faithful",)),
    "faithful twins": SimulatedRule(traits.faithful, ("faithful",), needs="twins"),
    "faithful": SimulatedRule(traits.faithful, ("faithful",)),
}
# shown next to a model in a report: the plain ones, whose style is known
NULLS = ("constant", "midpoint", "random", "acquiescent", "extreme", "desirable")


def simulated_respondent(name: str, seed: int = 0) -> Simulated:
    """A simulated respondent by name: faithful ones, and many that only seem to answer.

    Args:
      name: a key of RULES.
      seed: of all its draws; the same seed gives the same answers, in whatever order questions are asked.
    Returns: a Respondent.
    Raises: ValueError that lists the known names.

    Example:
      >>> from evals.questionnaires import simulated_respondent
      >>> simulated_respondent("acquiescent").name
      'acquiescent'
    """
    if name not in RULES:
        raise ValueError(f"a simulated respondent is one of {', '.join(RULES)}; got {name!r}")
    return Simulated(name, RULES[name].answer, seed)
