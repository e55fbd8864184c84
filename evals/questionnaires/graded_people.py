"""Descriptions of many people, each trait in one of nine degrees: qualified adjectives, and a biography.

The form (qualified adjectives for five constructs, a biography that reveals nothing about them) is that of
Serapio-García et al. 2023, arXiv:2307.00184; adjectives, qualifiers and biographies are this project's.
Not covered: people described in a few opposite phrases (wording.composed_personas).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import NamedTuple

from scipy.stats import qmc

FEWEST, MOST = 32, 512
# degrees on either side of "neither .. nor .."; one step is half an SD
STEPS, STEP_SD = 4, 0.5
AGES = (19, 78)


class Description(NamedTuple):
    """A name that shows the degrees, a text in the second person, and the traits it describes in SDs."""

    name: str
    text: str
    traits: dict[str, float]


class Parts(NamedTuple):
    """What descriptions are made of.

    Attributes:
      degrees: qualifiers, the strongest first.
      adjectives: by construct, pairs of low and high.
      homes, work: of biographies.
    """

    degrees: Sequence[str]
    adjectives: Mapping[str, Sequence[tuple[str, str]]]
    homes: Sequence[str]
    work: Sequence[str]


def graded_descriptions(count: int, *, twins: bool = False) -> Iterator[Description]:
    """Different people whose traits spread evenly over nine degrees and hardly correlate.

    Degrees and biographies are points of an unscrambled Sobol sequence, so the first n people are the same
    whatever their number; |r| of two described traits is below .15 from 32 people on, below .06 from 100 (for
    twins, from twice as many).

    Args:
      count: how many.
      twins: two of each, with the same traits and different biographies: their described traits cannot
        explain a difference between them.
    Returns: descriptions; a trait lies between −2 and 2 in steps of 0.5 SD.
    Raises: ValueError unless FEWEST <= count <= MOST; for twins at least twice FEWEST, and an even number.
    Reference: Serapio-García et al. 2023, arXiv:2307.00184; Sobol 1967.
    """
    fewest = FEWEST * (1 + twins)
    if not fewest <= count <= MOST or (twins and count % 2):
        kind, even = ("twins", "an even number from ") if twins else ("graded personas", "")
        raise ValueError(
            f"{kind}: {even}{fewest} to {MOST} can be made, as fewer would correlate; got {count} "
            "(a number alone, as 16, composes people of opposite phrases)"
        )
    parts = Parts(**json.loads((resources.files("evals.questionnaires") / "graded_people.json").read_text()))
    constructs = list(parts.adjectives)
    points = qmc.Sobol(len(constructs) + 3, scramble=False).random_base2((MOST - 1).bit_length() + 1)
    # the first point is a corner of the cube
    used = points[1 : count + 1].tolist()
    for number, own in enumerate(used, 1):
        # for twins, the degrees come from the pair's point, the biography from each one's own
        point = [*used[(number - 1) // 2][: len(constructs)], *own[len(constructs) :]] if twins else own
        degrees = {name: int(x * (2 * STEPS + 1)) - STEPS for name, x in zip(constructs, point, strict=False)}
        sentences = [_biography(point[len(constructs) :], parts)]
        sentences += [_sentence(parts.adjectives[name], degree, parts) for name, degree in degrees.items()]
        label = "".join(f"{name[0].upper()}{degree:+d}" for name, degree in degrees.items())
        traits = {name: degree * STEP_SD for name, degree in degrees.items()}
        yield Description(f"{number:03d} {label}", " ".join(sentences), traits)


def _biography(point: Sequence[float], parts: Parts) -> str:
    age = AGES[0] + int(point[0] * (AGES[1] - AGES[0] + 1))
    home = parts.homes[int(point[1] * len(parts.homes))]
    return f"You are {age} years old, live {home} and {parts.work[int(point[2] * len(parts.work))]}."


def _sentence(pairs: Sequence[tuple[str, str]], degree: int, parts: Parts) -> str:
    """One construct, in all its adjectives and one degree: people differ only in the degree."""
    if degree == 0:
        told = [f"neither {low} nor {high}" for low, high in pairs]
    else:
        qualifier = parts.degrees[STEPS - abs(degree)]
        told = [f"{qualifier} {pair[degree > 0]}" for pair in pairs]
    return f"You are {', '.join(told[:-1])} and {told[-1]}."
