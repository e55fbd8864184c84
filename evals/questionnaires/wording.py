"""How an item is put: templates, personas and option orders, as data.

Every template is a head that all items share (who answers, instruction, options) and a tail with the item, so
that a model reads the head once for a whole questionnaire. Not covered: asking (respondent, administer).
"""

import itertools
import json
import random
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Strict, TypeAdapter, ValidationError

from evals.questionnaires.graded_people import graded_descriptions

Labels = Literal["letters", "numbers"]
LABELS: dict[Labels, Sequence[str]] = {
    "letters": string.ascii_uppercase,
    "numbers": [str(n) for n in range(1, 27)],
}
# the constructs in which composed personas differ
CONSTRUCTS = ("neuroticism", "extraversion", "openness", "agreeableness", "conscientiousness")


@dataclass(frozen=True, slots=True)
class Choice:
    """An option as shown: the value that is scored, its words, and the label it carries in this order."""

    value: float
    words: str
    label: str


@dataclass(frozen=True)
class Template:
    """The text around an item.

    Attributes:
      head: with {persona}, {instruction}, {options} and {listing} (the statements of a batch); shared.
      tail: with {item}; the answer follows it directly.
      option: one line of the options, with {label} and {words}.
      expects: what the interviewer says about the statement: 1 that it fits, −1 that it does not, 0 nothing.
    """

    name: str
    head: str
    tail: str
    option: str
    labels: Labels = "letters"
    expects: int = 0

    def __post_init__(self) -> None:
        for what, text, names in (
            ("head", self.head, ("persona", "instruction", "options", "listing")),
            ("tail", self.tail, ("item",)),
            ("option", self.option, ("label", "words")),
        ):
            found = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
            if found != set(names):
                raise ValueError(
                    f"the {what} of template {self.name!r} must hold {', '.join(f'{{{n}}}' for n in names)} "
                    f"and no other braces; got {', '.join(sorted(found)) or 'none'}"
                )
        if self.labels not in LABELS:
            raise ValueError(
                f"labels of template {self.name!r} must be letters or numbers; got {self.labels!r}"
            )


@dataclass(frozen=True)
class Persona:
    """Who answers: a text before the question, and the traits it describes (in SDs) for simulations.

    The traits are the author's intention; no model sees them.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str
    text: str = ""
    traits: Mapping[str, Annotated[float, Strict()]] = field(default_factory=dict, hash=False)


NOBODY = Persona("none")


def _data(name: str) -> Any:  # JSON, as the reader of each file takes it
    return json.loads((resources.files("evals.questionnaires") / name).read_text(encoding="utf-8"))


def _read(path: str | Path, what: str) -> Any:  # likewise
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{what} cannot be read from {path}: nested too deeply") from None
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{what} cannot be read from {path}: {error.strerror if isinstance(error, OSError) else error}"
        ) from None


def templates(path: str | Path | None = None) -> dict[str, Template]:
    """The shipped templates by name, or those of a JSON file (a list of objects with Template's entries)."""
    rows = _data("templates.json") if path is None else _read(path, "templates")
    try:
        found = [Template(**row) for row in rows]
    except TypeError as error:
        raise ValueError(f"a template has name, head, tail, option and labels; {error}") from None
    return {template.name: template for template in found}


def personas(path: str | Path | None = None) -> dict[str, Persona]:
    """The shipped people by name, or those of a JSON file.

    Args:
      path: of a list of {"name", "text", "traits"}, alone or under "people"; the shipped ones if None.
    Returns: the personas, in their order.
    Raises: ValueError, in one line that names the file and the person, for anything but such a list, a value
      of the wrong kind, or a repeated name.
    """
    told = _data("personas.json") if path is None else _read(path, "personas")
    rows = told.get("people") if isinstance(told, dict) else told
    if not isinstance(rows, list):
        raise ValueError(f'{path} must hold a list of persons, alone or under "people"')
    if not rows:
        raise ValueError(f"{path} must hold at least one person; got none")
    try:
        found = TypeAdapter(list[Persona]).validate_python(rows)
    except ValidationError as error:
        first = error.errors()[0]
        number, *place = first["loc"]
        what = ": ".join([f"person {int(number) + 1}", *([".".join(map(str, place))] if place else [])])
        raise ValueError(f"{path}: {what}: {first['msg']} (a person has name, text and traits)") from None
    for number, one in enumerate(found, start=1):
        try:
            "".join([one.name, one.text, *one.traits]).encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(
                f"{path}: person {number}: name, text and traits must be characters of Unicode; got half of "
                "one (a lone surrogate)"
            ) from None
    people = {one.name: one for one in found}
    if len(people) < len(found):
        names = [one.name for one in found]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}: every person needs a name of its own; {repeated!r} is repeated")
    return people


def named_templates(names: Sequence[str] | None = None) -> tuple[Template, ...]:
    """Some of the shipped templates, in the order of their names here.

    Leading templates, in which the interviewer suggests the answer, must be named explicitly: taken in pairs,
    they show whether a respondent follows.

    Args:
      names: which; all that do not lead if None.
    Returns: the templates.
    Raises: ValueError that lists the known names.

    Example:
      >>> from evals.questionnaires import named_templates
      >>> [template.name for template in named_templates(["form", "terse"])]
      ['form', 'terse']
    """
    known = templates()
    if unknown := [name for name in names or () if name not in known]:
        raise ValueError(f"template must be one of {', '.join(known)}; got {unknown[0]!r}")
    neutral = [name for name, one in known.items() if not one.expects]
    return tuple(known[name] for name in names or neutral)


def chosen_personas(choice: str) -> tuple[Persona, ...]:
    """Personas by a short choice.

    Args:
      choice: none, people (the shipped ones), a number (that many composed ones), graded-N (N graded ones),
        twins-N (N graded ones in pairs with the same traits), or the path of a JSON file.
    Returns: the personas.
    Raises: ValueError for anything else.
    """
    if choice == "none":
        return (NOBODY,)
    if choice == "people":
        return tuple(personas().values())
    if choice.isdigit():
        return tuple(composed_personas(int(choice)))
    kind, _, number = choice.partition("-")
    if kind in ("graded", "twins") and number.isdigit():
        return tuple(graded_personas(int(number), twins=kind == "twins"))
    if choice.endswith(".json"):
        return tuple(personas(choice).values())
    raise ValueError(
        f"personas must be none, people, a number, graded-N, twins-N or a .json file; got {choice!r}"
    )


def graded_personas(count: int = 200, *, twins: bool = False) -> list[Persona]:
    """People described in nine degrees of five traits each, with a biography that reveals none of them.

    Args:
      count: how many, 32 to 512; the first of them are the same whatever the number.
      twins: two of each, with the same traits and different biographies (64 to 512): whatever the model makes
        of the description, it makes of both, so that any difference between them goes beyond it.
    Returns: the personas, with the traits that they describe, −2 to 2 SD in steps of 0.5.
    Raises: ValueError for another number.
    Reference: the form is that of Serapio-García et al. 2023, arXiv:2307.00184; the words are this project's.

    Example:
      >>> from evals.questionnaires import graded_personas
      >>> first = graded_personas(64)[1]
      >>> first.name, first.traits["neuroticism"]
      ('002 N+2E-2O-2A-2C+2', 1.0)
    """
    return [Persona(*described) for described in graded_descriptions(count, twins=twins)]


def composed_personas(count: int = 32) -> list[Persona]:
    """People who combine low and high on five constructs, balanced for 8, 16 and 32: 2⁵ factorial fractions.

    The described traits thus do not correlate, and any correlation in the answers is the respondent's doing.

    Args:
      count: how many.
    Returns: the personas, with the traits that they describe (−1 or 1).
    Raises: ValueError unless 2 <= count <= 32.

    Example:
      >>> from evals.questionnaires import composed_personas
      >>> composed_personas(8)[0].name
      'N-E-O-A+C+'
    """
    if not 2 <= count <= 32:
        raise ValueError(f"composed personas: 2 to 32 can be made; got {count} (graded-N makes 32 to 512)")
    phrases = _data("personas.json")["phrases"]
    patterns = list(itertools.product((-1, 1), repeat=5))
    # quarter and half fractions first: d = ab, e = ac; then e = abcd
    quarter = [p for p in patterns if p[3] == p[0] * p[1] and p[4] == p[0] * p[2]]
    fold = [tuple(-x for x in p) for p in quarter]
    order = list(dict.fromkeys([*quarter, *fold, *patterns]))
    return [_composed(pattern, phrases) for pattern in order[:count]]


def _composed(pattern: tuple[int, ...], phrases: Mapping[str, Mapping[str, str]]) -> Persona:
    levels = dict(zip(CONSTRUCTS, pattern, strict=True))
    parts = [phrases[name]["high" if sign > 0 else "low"] for name, sign in levels.items()]
    name = "".join(f"{construct[0].upper()}{'+' if sign > 0 else '-'}" for construct, sign in levels.items())
    text = f"You {parts[0]}. " + " ".join(f"You {part}." for part in parts[1:])
    return Persona(name, text, {construct: float(sign) for construct, sign in levels.items()})


def option_order(name: str, count: int) -> list[int]:
    """Which option comes at each place: forward, reversed, or shuffled-N (the same for every item).

    Args:
      name: of the order; N is the seed of the shuffle.
      count: number of options.
    Returns: the number of the option at each place, [count].
    Raises: ValueError for another name.
    """
    return _order(name, count, "option order")


def item_order(name: str, count: int) -> list[int]:
    """The order in which items are listed: forward, reversed or shuffled-N.

    Args:
      name: of the order; N is the seed of the shuffle.
      count: number of items.
    Returns: the number of the item at each place, [count].
    Raises: ValueError for another name.
    """
    return _order(name, count, "item order")


def _order(name: str, count: int, what: str) -> list[int]:
    places = list(range(count))
    if name == "forward":
        return places
    if name == "reversed":
        return places[::-1]
    kind, _, seed = name.partition("-")
    if kind == "shuffled" and seed.isdigit():
        random.Random(f"{what} {seed}").shuffle(places)
        return places
    raise ValueError(f"{what} must be forward, reversed or shuffled-N (N a number); got {name!r}")
