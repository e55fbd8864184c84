"""The crossed design: item x template x option order x item order x persona x seed, as questions.

Anything that has items with options can be administered: questionnaires and behavioral tasks (behaviors).
Not covered: asking and storing (administer).
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
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

# what distinguishes the answers of an administration; FACETS are the conditions among them
FACETS = ("template", "option_order", "item_order", "persona", "seed", "item_wording")
WORDING = FACETS[-1]
PUBLISHED, PARAPHRASED = "published", "paraphrased"
KEY = ("instrument", "item", *FACETS)


class BatteryItem(NamedTuple):
    """One item to ask: options are (value, words) from low to high; the paraphrase may be empty."""

    id: str
    text: str
    options: tuple[tuple[float, str], ...]
    asked: ItemContent = ItemContent()
    paraphrase: str = ""


@dataclass(frozen=True)
class Battery:
    """A named list of items under one instruction."""

    name: str
    instruction: str
    entries: tuple[BatteryItem, ...]


@dataclass(frozen=True)
class Design:
    """The conditions in which every item is asked; all are crossed.

    Attributes:
      option_orders, item_orders: forward, reversed, shuffled-N.
      items_per_prompt: 1 asks every item alone and stateless; more lists that many statements in each prompt,
        and still asks for one of them at a time. Only then do item orders differ.
      item_wordings: published, paraphrased; a test without paraphrases is asked in published words only.
    """

    templates: tuple[Template, ...] = field(default_factory=lambda: tuple(templates().values())[:1])
    option_orders: tuple[str, ...] = ("forward",)
    item_orders: tuple[str, ...] = ("forward",)
    personas: tuple[Persona, ...] = (NOBODY,)
    seeds: tuple[int, ...] = (0,)
    items_per_prompt: int = 1
    item_wordings: tuple[str, ...] = (PUBLISHED,)

    def __post_init__(self) -> None:
        for what, names in (
            ("template", [template.name for template in self.templates]),
            ("option order", list(self.option_orders)),
            ("item order", list(self.item_orders)),
            ("persona", [persona.name for persona in self.personas]),
            ("seed", [str(seed) for seed in self.seeds]),
            ("item wording", list(self.item_wordings)),
        ):
            if not names:
                raise ValueError(f"a design needs at least one {what}; got none")
            if repeated := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"every {what} of a design must be given once; {repeated[0]!r} is repeated")
        for name in (*self.option_orders, *self.item_orders):
            option_order(name, 2)
        if unknown := [name for name in self.item_wordings if name not in (PUBLISHED, PARAPHRASED)]:
            raise ValueError(f"item wording must be {PUBLISHED} or {PARAPHRASED}; got {unknown[0]!r}")
        if self.items_per_prompt < 1:
            raise ValueError(f"items_per_prompt must be at least 1; got {self.items_per_prompt}")
        if self.items_per_prompt == 1 and len(self.item_orders) > 1:
            raise ValueError(
                f"{len(self.item_orders)} item orders are the same prompts while items are asked one by one; "
                "raise items_per_prompt, or keep one item order"
            )

    @property
    def conditions(self) -> int:
        """The number of conditions in which every item with all wordings is asked."""
        sizes = (self.templates, self.option_orders, self.item_orders, self.personas, self.seeds)
        return math.prod(len(size) for size in sizes) * len(self.item_wordings)

    def wordings_of(self, asked: Battery) -> tuple[str, ...]:
        """The item wordings that a battery has.

        Raises: ValueError where only some of its items have a paraphrase, or it has none and nothing else
          is asked for.
        """
        count = sum(bool(entry.paraphrase) for entry in asked.entries)
        if PARAPHRASED not in self.item_wordings or count == len(asked.entries):
            return self.item_wordings
        if count:
            raise ValueError(
                f"{asked.name} has paraphrases of {count} of {len(asked.entries)} items; give all"
            )
        if PUBLISHED not in self.item_wordings:
            raise ValueError(f"{asked.name} has no paraphrased items; ask its {PUBLISHED} ones too")
        return (PUBLISHED,)

    def size(self, asked: Battery) -> int:
        """How many questions a battery amounts to."""
        kept = len(self.wordings_of(asked))
        return self.conditions // len(self.item_wordings) * kept * len(asked.entries)

    def describe(self) -> dict[str, object]:
        """The design as plain values, for a run card and to see whether an administration is the same."""
        return {
            "templates": [template.name for template in self.templates],
            "option_orders": list(self.option_orders),
            "item_orders": list(self.item_orders),
            "personas": [persona.name for persona in self.personas],
            "seeds": list(self.seeds),
            "items_per_prompt": self.items_per_prompt,
            "item_wordings": list(self.item_wordings),
        }


def battery(instrument: Instrument) -> Battery:
    """An instrument's items as a battery to administer.

    Args:
      instrument: with options to choose from.
    Returns: a Battery; options run from low to high, except that an item's own options keep their order.
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
        own = tuple((float(option.value), option.label) for option in item.options) or options
        entries.append(BatteryItem(item.id, item.text, own, asked, item.paraphrase or ""))
    return Battery(instrument.name, instrument.instruction, tuple(entries))


def questions(asked: Battery, design: Design) -> Iterator[Question]:
    """Every question of the design; those with the same head follow each other.

    Args:
      asked: the items; each is asked once in every condition.
      design: the conditions, crossed.
    Returns: the questions, one after another, `Design.size` of them.
    Raises: ValueError for more options than there are labels, and as `Design.wordings_of`.
    """
    entries = asked.entries
    most = max(len(entry.options) for entry in entries)
    for template in design.templates:
        if most > len(LABELS[template.labels]):
            raise ValueError(f"template {template.name!r} has no labels for {most} options")
    facets = (design.templates, design.option_orders, design.item_orders, design.personas, design.seeds)
    wordings = design.wordings_of(asked)
    for template, shown, listed, persona, seed, wording in itertools.product(*facets, wordings):
        order = item_order(listed, len(entries))
        condition = (template.name, shown, listed, persona.name, str(seed), wording)
        for first in range(0, len(order), design.items_per_prompt):
            together = [entries[i] for i in order[first : first + design.items_per_prompt]]
            texts = [entry.text if wording == PUBLISHED else entry.paraphrase for entry in together]
            listing = _listing(texts) if design.items_per_prompt > 1 else ""
            for entry, text in zip(together, texts, strict=True):
                yield Question(
                    entry.id,
                    text,
                    asked.instruction,
                    _choices(entry.options, shown, template),
                    template,
                    persona,
                    listing,
                    seed,
                    entry.asked,
                    (asked.name, entry.id, *condition),
                )


def _listing(texts: Sequence[str]) -> str:
    lines = "\n".join(f"- {text}" for text in texts)
    return f"\nAll the statements:\n{lines}\n"


@lru_cache(maxsize=4096)
def _choices(options: tuple[tuple[float, str], ...], order: str, template: Template) -> tuple[Choice, ...]:
    labels = LABELS[template.labels]
    places = option_order(order, len(options))
    return tuple(
        Choice(options[which][0], options[which][1], labels[place]) for place, which in enumerate(places)
    )
