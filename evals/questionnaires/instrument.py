"""Questionnaires: items, keys, scales, response options and norms, read from a file and checked.

The format is described in docs/instruments.md. Not covered: asking the items (administer) and
turning answers into scores (scoring).
"""

import csv
import difflib
import io
from collections.abc import Collection
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal, Self

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from jaxmoe.json_files import read_json

SHIPPED = resources.files("evals.questionnaires.instruments")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


class Option(_Record):
    """One answer that a respondent may choose: the number that is scored and the words that are shown."""

    value: int
    label: str = Field(min_length=1)


class Item(_Record):
    """One question.

    Attributes:
      key: 1 where agreeing means more of the trait, −1 where it means less.
      facet: the narrower scale inside the scale, if any.
      paraphrase: the same in other words, for respondents who may have memorized the published ones.
      flag: why an item is left out unless asked for by name (self_harm); None if it is not.
      correct, lures: accepted right answers, and the intuitive wrong ones, of an open question.
      options: the item's own answers, in the order shown, if they are not the instrument's, such as the
        actions to choose from in a situation. They use the instrument's values; several may share one.
    """

    id: str = Field(min_length=1)
    text: str = Field(min_length=1)
    scale: str = Field(min_length=1)
    facet: str | None = None
    key: Literal[1, -1] = 1
    paraphrase: str | None = None
    flag: str | None = None
    correct: tuple[str, ...] = ()
    lures: tuple[str, ...] = ()
    options: tuple[Option, ...] = ()

    @field_validator("facet", "flag", "paraphrase", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value


class Scale(_Record):
    """A set of items with one score; a facet is a scale inside another (parent).

    Attributes:
      measures: the construct, named by the same word wherever another instrument measures it too.
      direction: −1 where a high score means little of the construct (emotional stability, neuroticism).
      desirable: 1 where a high score is flattering, −1 where a low one is, 0 where neither is.
    """

    name: str = Field(min_length=1)
    title: str = ""
    parent: str | None = None
    measures: str | None = None
    direction: Literal[1, -1] = 1
    desirable: Literal[1, 0, -1] = 0


class Norm(_Record):
    """Mean and SD of a scale's score in a named group of people, in the metric that was published."""

    group: str = Field(min_length=1)
    scale: str
    mean: float = Field(allow_inf_nan=False)
    sd: float = Field(gt=0, allow_inf_nan=False)
    metric: Literal["sum", "mean"] = "sum"
    n_items: int | None = None


class Instrument(_Record):
    """A questionnaire, with its source and what may be done with it."""

    name: str = Field(min_length=1)
    title: str = Field(min_length=1)
    source: str = Field(min_length=1)
    license: str = Field(min_length=1, validation_alias=AliasChoices("license", "licence"))
    validated: bool
    note: str = ""
    instruction: str = ""
    options: tuple[Option, ...] = ()
    scales: tuple[Scale, ...] = Field(min_length=1)
    items: tuple[Item, ...] = Field(min_length=1)
    norms: tuple[Norm, ...] = ()
    norms_source: str = ""

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        for what, names in (
            ("item id", [item.id for item in self.items]),
            ("scale name", [scale.name for scale in self.scales]),
            ("option value", [str(option.value) for option in self.options]),
            ("option label", [option.label.casefold() for option in self.options]),
        ):
            if repeated := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"every {what} must be given once; {repeated[0]!r} is repeated")
        scales = {scale.name: scale for scale in self.scales}
        for item in self.items:
            _expect(item.scale, scales, f"scale of item {item.id}")
            if item.facet is not None:
                _expect(item.facet, scales, f"facet of item {item.id}")
                if scales[item.facet].parent != item.scale:
                    raise ValueError(
                        f"facet {item.facet!r} of item {item.id} must have parent {item.scale!r}"
                    )
            self._check_options(item)
            if not self.options and not item.correct:
                raise ValueError(f"item {item.id} needs right answers (correct), as there are no options")
        for scale in self.scales:
            if scale.parent is not None:
                _expect(scale.parent, scales, f"parent of scale {scale.name}")
            if not self.items_of(scale.name):
                raise ValueError(f"scale {scale.name!r} has no items")
        for norm in self.norms:
            _expect(norm.scale, scales, f"scale of a norm for {norm.group}")
        if len(self.options) == 1:
            raise ValueError("there must be at least 2 options, or none for open answers; got 1")
        return self

    def _check_options(self, item: Item) -> None:
        values = {option.value for option in self.options}
        if len(item.options) == 1:
            raise ValueError(f"item {item.id} has 1 option of its own; give at least 2, or none")
        if other := [option.value for option in item.options if option.value not in values]:
            known = ", ".join(map(str, sorted(values)))
            raise ValueError(f"options of item {item.id} have values {known}; got {other[0]}")
        labels = [option.label.casefold() for option in item.options]
        if repeated := [label for label in labels if labels.count(label) > 1]:
            raise ValueError(
                f"every option of item {item.id} must be given once; {repeated[0]!r} is repeated"
            )

    @property
    def low(self) -> int:
        """The smallest answer; 0 (wrong) for open questions."""
        return min((option.value for option in self.options), default=0)

    @property
    def high(self) -> int:
        """The largest answer; 1 (right) for open questions."""
        return max((option.value for option in self.options), default=1)

    @property
    def midpoint(self) -> float:
        """The middle of the answer range; itself an answer if the number of answers is odd."""
        return (self.low + self.high) / 2

    @property
    def domains(self) -> tuple[Scale, ...]:
        """The scales that are not facets of another."""
        return tuple(scale for scale in self.scales if scale.parent is None)

    @property
    def facets(self) -> tuple[Scale, ...]:
        """The scales inside other scales."""
        return tuple(scale for scale in self.scales if scale.parent is not None)

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of people there are norms for."""
        return tuple(dict.fromkeys(norm.group for norm in self.norms))

    def item(self, item_id: str) -> Item:
        """The item of that id. Raises: ValueError for an unknown one."""
        items = {item.id: item for item in self.items}
        _expect(item_id, items, "item")
        return items[item_id]

    def scale(self, name: str) -> Scale:
        """The scale or facet of that name. Raises: ValueError for an unknown one."""
        scales = {scale.name: scale for scale in self.scales}
        _expect(name, scales, "scale")
        return scales[name]

    def items_of(self, scale: str) -> tuple[Item, ...]:
        """The items of a scale or facet, in the order of the questionnaire."""
        return tuple(item for item in self.items if scale in (item.scale, item.facet))

    def reverse(self, value: float, key: int) -> float:
        """An answer in the direction of its scale: low + high − x where the key is −1.

        Args:
          value: x, as given.
          key: 1 or −1, of the item.
        Returns: the keyed answer, in the same range.
        """
        return value if key == 1 else self.low + self.high - value


def shipped_instruments() -> tuple[str, ...]:
    """The names of the instruments that come with the package.

    Returns: names that `load_instrument` takes, in alphabetical order.
    Raises: nothing.

    Example:
      >>> from evals.questionnaires import shipped_instruments
      >>> shipped_instruments()[:3]
      ('crt_2', 'gad_7', 'ipip_50')
    """
    return tuple(sorted(p.name.removesuffix(".json") for p in SHIPPED.iterdir() if p.name.endswith(".json")))


def load_instrument(name_or_path: str | Path, *, include: Collection[str] = ()) -> Instrument:
    """Reads and checks an instrument: a shipped one by name, any other by the path of its JSON file.

    Args:
      name_or_path: "ipip_50", or a path; docs/instruments.md describes the file.
      include: flags whose items are also wanted ("self_harm"); flagged items are left out otherwise.
    Returns: the Instrument.
    Raises: ValueError that names the file, the entry and the remedy.

    Example:
      >>> from evals.questionnaires import load_instrument
      >>> neo = load_instrument("ipip_neo_120")
      >>> len(neo.items), [scale.title for scale in neo.domains][:2], len(neo.facets)
      (120, ['Neuroticism', 'Extraversion'], 30)
    """
    return with_flagged(whole_instrument(name_or_path), include)


def whole_instrument(name_or_path: str | Path) -> Instrument:
    """As `load_instrument`, with the flagged items.

    Args:
      name_or_path: as for `load_instrument`.
    Returns: the Instrument with all its items.
    Raises: ValueError as `load_instrument`.
    """
    file, folder = _find(name_or_path)
    with resources.as_file(file) as path:
        document = read_json(path)
    for part, reader in (("items", _items_from_csv), ("norms", _norms_from_csv)):
        if isinstance(name := document.get(part), str):
            if not _is_beside(folder, name):
                raise ValueError(
                    f"{file.name}: {part} are in {_short(name)}, which is not beside it; "
                    "name a file of the same folder"
                )
            document[part] = reader(folder / name)
    document["scales"] = _with_implied_facets(document)
    try:
        return Instrument.model_validate(document)
    except ValidationError as error:
        raise ValueError(f"{file.name}: {_first_error(error)}") from None


def _find(name_or_path: str | Path) -> tuple[Traversable, Traversable]:
    """The instrument's file, and the folder in which its CSVs lie."""
    text = str(name_or_path)
    if text in shipped_instruments():
        return SHIPPED / f"{text}.json", SHIPPED
    path = Path(text)
    if path.is_file() and path.suffix == ".json":
        return path, path.parent
    if path.is_file():
        raise ValueError(f"{text} must be a JSON file, which names a CSV of items (see docs/instruments.md)")
    near = difflib.get_close_matches(text, shipped_instruments(), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(shipped_instruments())}"
    raise ValueError(f"no instrument or file named {text!r}; {hint}")


def _is_beside(folder: Traversable, name: str) -> bool:
    # someone else's instrument must not make us read, and perhaps print, files from other folders
    try:
        return Path(name).name == name and (folder / name).is_file()
    except OSError:  # the name is too long for a file
        return False


def _rows(file: Traversable) -> list[dict[str, object]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        return [dict(row) for row in csv.DictReader(io.StringIO(text, newline=""))]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{file.name} is not a valid CSV file in UTF-8: {error}") from None


def _number(text: object) -> object:
    try:
        return int(str(text))
    except ValueError:
        return text


def _items_from_csv(file: Traversable) -> list[dict[str, object]]:
    return [{**row, "key": _number(row["key"])} if "key" in row else row for row in _rows(file)]


def _norms_from_csv(file: Traversable) -> list[dict[str, object]]:
    return [{name: value for name, value in row.items() if value != ""} for row in _rows(file)]


def _with_implied_facets(document: dict[str, object]) -> object:
    """The listed scales, and one for every facet that items name but the list leaves out."""
    scales, items = document.get("scales"), document.get("items")
    if not isinstance(scales, list) or not isinstance(items, list):
        return scales
    # anything that is not a name is left to the type check that follows
    parents = {s["name"]: s for s in scales if isinstance(s, dict) and isinstance(s.get("name"), str)}
    pairs = {
        item["facet"]: item["scale"]
        for item in items
        if isinstance(item, dict)
        and isinstance(item.get("facet"), str)
        and isinstance(item.get("scale"), str)
        and item["facet"]
    }
    return scales + [
        {"name": facet, "parent": parent, "desirable": parents.get(parent, {}).get("desirable", 0)}
        for facet, parent in pairs.items()
        if facet not in parents
    ]


def with_flagged(instrument: Instrument, include: Collection[str]) -> Instrument:
    """The instrument without its flagged items, except those that are wanted.

    Args:
      instrument: with all its items.
      include: flags whose items stay.
    Returns: the instrument; norms of scales that lose items are left out.
    Raises: ValueError for a flag that no item has.
    """
    flags = {item.flag for item in instrument.items if item.flag}
    for flag in include:
        _expect(flag, flags, f"flag of {instrument.name}")
    kept = tuple(item for item in instrument.items if item.flag is None or item.flag in include)
    if len(kept) == len(instrument.items):
        return instrument
    # a norm for all items does not hold for fewer items
    cut = {s for item in instrument.items if item not in kept for s in (item.scale, item.facet) if s}
    norms = tuple(norm for norm in instrument.norms if norm.scale not in cut)
    return instrument.model_copy(update={"items": kept, "norms": norms})


def _expect(name: str, known: Collection[str], what: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known)) or 'none'}"
        raise ValueError(f"unknown {what}: {name!r}; {hint}")


def _first_error(error: ValidationError) -> str:
    """The first thing wrong, in words: where it is, what is expected, what was found."""
    first = error.errors()[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    match first["type"]:
        case "missing":
            return f"{place} is missing"
        case "extra_forbidden":
            records = {"items": Item, "scales": Scale, "options": Option, "norms": Norm}
            entry = place.rpartition(".")[2]
            known = records.get(str(first["loc"][0]), Instrument)
            near = difflib.get_close_matches(entry, known.model_fields, n=1)
            return f"unknown entry {place}" + (f"; did you mean {near[0]!r}?" if near else "")
        case "value_error":
            return (f"{place}: " if place else "") + first["msg"].removeprefix("Value error, ")
    return f"{place}: {first['msg'][0].lower()}{first['msg'][1:]}; got {_short(first['input'])}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]} .."
