"""The crossed design: item x template x option order x item order x persona x seed, as questions.

Whatever has items with options can be administered: questionnaires, and behavioral tasks (behaviors).
Not covered: asking and storing (administer).
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from evals.questionnaires.instrument import Instrument
from evals.questionnaires.respondent import ItemContent, Question
from evals.questionnaires.wording import (
    LABELS,
    NOBODY,
    Choice,
    Persona,
    Template,
    item_order,
    option_order,
    templates,
)

# what tells one answer of an administration from another; FACETS are the conditions among them
FACETS = ("template", "option_order", "item_order", "persona", "seed")
KEY = ("instrument", "item", *FACETS)


class BatteryItem(NamedTuple):
    """One item to ask: its options are (value, words) from low to high."""

    id: str
    text: str
    options: tuple[tuple[float, str], ...]
    asked: ItemContent = ItemContent()


@dataclass(frozen=True)
class Battery:
    """A named list of items under one instruction."""

    name: str
    instruction: str
    entries: tuple[BatteryItem, ...]


@dataclass(frozen=True)
class Design:
    """Which conditions every item is asked in; all are crossed.

    Attributes:
      option_orders, item_orders: forward, reversed, shuffled-N.
      items_per_prompt: 1 asks every item alone and stateless; more lists as many statements in each prompt,
        and still asks for one of them at a time. Item orders differ only then.
    """

    templates: tuple[Template, ...] = field(default_factory=lambda: tuple(templates().values())[:1])
    option_orders: tuple[str, ...] = ("forward",)
    item_orders: tuple[str, ...] = ("forward",)
    personas: tuple[Persona, ...] = (NOBODY,)
    seeds: tuple[int, ...] = (0,)
    items_per_prompt: int = 1

    def __post_init__(self) -> None:
        for what, names in (
            ("template", [template.name for template in self.templates]),
            ("option order", list(self.option_orders)),
            ("item order", list(self.item_orders)),
            ("persona", [persona.name for persona in self.personas]),
            ("seed", [str(seed) for seed in self.seeds]),
        ):
            if not names:
                raise ValueError(f"a design needs at least one {what}; got none")
            if repeated := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"every {what} of a design must be given once; {repeated[0]!r} is repeated")
        for name in (*self.option_orders, *self.item_orders):
            option_order(name, 2)
        if self.items_per_prompt < 1:
            raise ValueError(f"items_per_prompt must be at least 1; got {self.items_per_prompt}")
        if self.items_per_prompt == 1 and len(self.item_orders) > 1:
            raise ValueError(
                f"{len(self.item_orders)} item orders are the same prompts while items are asked one by one; "
                "raise items_per_prompt, or keep one item order"
            )

    @property
    def conditions(self) -> int:
        """In how many conditions every item is asked."""
        sizes = (self.templates, self.option_orders, self.item_orders, self.personas, self.seeds)
        count = 1
        for size in sizes:
            count *= len(size)
        return count

    def describe(self) -> dict[str, object]:
        """The design as plain values, for a run card and to tell whether an administration is the same."""
        return {
            "templates": [template.name for template in self.templates],
            "option_orders": list(self.option_orders),
            "item_orders": list(self.item_orders),
            "personas": [persona.name for persona in self.personas],
            "seeds": list(self.seeds),
            "items_per_prompt": self.items_per_prompt,
        }


def battery(instrument: Instrument) -> Battery:
    """An instrument's items as something to administer.

    Args:
      instrument: with options to choose from.
    Returns: a Battery; each item's options run from low to high.
    Raises: ValueError for open questions, which have no options to choose from.

    Example:
      >>> from evals.questionnaires import battery, load_instrument
      >>> len(battery(load_instrument("mini_ipip")).entries)
      20
    """
    if not instrument.options:
        raise ValueError(
            f"{instrument.name} asks open questions; only instruments with options can be administered"
        )
    options = tuple(
        sorted(((float(o.value), o.label) for o in instrument.options), key=lambda option: option[0])
    )
    entries = []
    for item in instrument.items:
        scale = instrument.scale(item.scale)
        asked = ItemContent(
            scale.measures or scale.name, item.key * scale.direction, item.key * scale.desirable
        )
        entries.append(BatteryItem(item.id, item.text, options, asked))
    return Battery(instrument.name, instrument.instruction, tuple(entries))


def questions(asked: Battery, design: Design) -> Iterator[Question]:
    """Every question of the design; those with the same head follow each other.

    Raises: ValueError for more options than there are labels.
    """
    entries = asked.entries
    most = max(len(entry.options) for entry in entries)
    for template in design.templates:
        if most > len(LABELS[template.labels]):
            raise ValueError(f"template {template.name!r} has no labels for {most} options")
    facets = (design.templates, design.option_orders, design.item_orders, design.personas, design.seeds)
    for template, shown, listed, persona, seed in itertools.product(*facets):
        order = item_order(listed, len(entries))
        condition = (template.name, shown, listed, persona.name, str(seed))
        for first in range(0, len(order), design.items_per_prompt):
            together = [entries[i] for i in order[first : first + design.items_per_prompt]]
            listing = _listing(together) if design.items_per_prompt > 1 else ""
            for entry in together:
                yield Question(
                    entry.id,
                    entry.text,
                    asked.instruction,
                    _choices(entry.options, shown, template),
                    template,
                    persona,
                    listing,
                    seed,
                    entry.asked,
                    (asked.name, entry.id, *condition),
                )


def _listing(entries: Sequence[BatteryItem]) -> str:
    lines = "\n".join(f"- {entry.text}" for entry in entries)
    return f"\nAll the statements:\n{lines}\n"


def _choices(options: tuple[tuple[float, str], ...], order: str, template: Template) -> tuple[Choice, ...]:
    labels = LABELS[template.labels]
    places = option_order(order, len(options))
    return tuple(
        Choice(options[which][0], options[which][1], labels[place]) for place, which in enumerate(places)
    )
