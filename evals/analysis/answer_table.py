"""A table of answers as it comes from a study, and which of its columns are the items of which scale.

Not covered: statistics (the other files here), published data sets of people (people_data).
"""

import fnmatch
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from evals.questionnaires.instrument import Instrument
from evals.questionnaires.scoring import ITEM, RESPONDENT, RESPONSE, tabulate

ALL = "all items"
RANGE = re.compile(r"(-?\d+(?:\.\d+)?)\s*-\s*(-?\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class AnswerTable:
    """Answers as given, the scales they belong to, and what else is known of each respondent.

    Attributes:
      raw: respondents x items, NaN where missing, before reversal.
      scales: by name, 1 or −1 for each item.
      low, high: the least and the greatest answer on offer.
      others: the columns that are not items, one row per respondent.
      notes: what was assumed by default or left out, one line each.
    """

    raw: pd.DataFrame
    scales: Mapping[str, Mapping[str, int]]
    low: float
    high: float
    others: pd.DataFrame
    notes: tuple[str, ...] = ()

    def keyed(self, scale: str) -> pd.DataFrame:
        """The answers to a scale's items in its direction, low + high − x for reversed ones."""
        keys = self.scales[scale]
        return pd.DataFrame(
            {
                item: self.raw[item] if key == 1 else self.low + self.high - self.raw[item]
                for item, key in keys.items()
            }
        )

    @property
    def items(self) -> dict[str, int]:
        """Every item once, with its key in the first scale that has it."""
        found: dict[str, int] = {}
        for keys in self.scales.values():
            found = {**keys, **found}
        order = [str(name) for name in self.raw.columns]
        return {item: found[item] for item in order if item in found}

    def all_keyed(self) -> pd.DataFrame:
        """The answers to all items, each in the direction of its scale."""
        keys = self.items
        return pd.DataFrame(
            {
                item: self.raw[item] if key == 1 else self.low + self.high - self.raw[item]
                for item, key in keys.items()
            }
        )

    def score(self, scale: str) -> pd.Series:
        """Each respondent's mean over the items answered; NaN where fewer than half were."""
        keyed = self.keyed(scale)
        enough = keyed.notna().mean(axis=1) >= 0.5
        return pd.Series(keyed.mean(axis=1).where(enough), index=keyed.index)

    def column(self, name: str) -> pd.Series:
        """A column that is not an item. Raises: ValueError that names those that exist."""
        if name not in self.others.columns:
            known = ", ".join(map(str, self.others.columns)) or "none"
            hint = f"; {name} is an item" if name in self.raw.columns else ""
            raise ValueError(f"there is no column {name!r} beside the items{hint}; columns are {known}")
        return pd.Series(self.others[name])


def of_instrument(
    frame: pd.DataFrame, instrument: Instrument, respondent: Sequence[str], *, facets: bool = False
) -> AnswerTable:
    """Answers to a known instrument, from a long or a wide table.

    Args:
      frame: long (respondent, item, response) or wide; other columns describe respondents.
      instrument: gives items, keys, scales and the range of answers.
      respondent: the columns that tell respondents apart.
      facets: include the narrower scales.
    Returns: the table.
    Raises: ValueError as `evals.questionnaires.scoring.tabulate`, and for a table without any of its items.
    """
    known = [item.id for item in instrument.items]
    long = {ITEM, RESPONSE} <= set(frame.columns)
    if long:
        frame = _of(frame, instrument.name)
        answers = tabulate(frame, instrument, respondent=list(respondent))
    else:
        keys = [name for name in respondent if name in frame.columns]
        items = [name for name in frame.columns if name in known]
        if not items:
            raise ValueError(
                f"the table has none of the items of {instrument.name} ({known[0]} .. {known[-1]}) as a "
                "column; rename the columns"
            )
        answers = tabulate(pd.DataFrame(frame[[*keys, *items]]), instrument, respondent=list(respondent))
    others = _others(frame, list(respondent), answers.table.index, {*known, ITEM, RESPONSE})
    wanted = instrument.scales if facets else instrument.domains
    scales = {s.name: {item.id: item.key for item in instrument.items_of(s.name)} for s in wanted}
    notes = (
        (f"{len(answers.absent)} items of {instrument.name} are not in the table",) if answers.absent else ()
    )
    return AnswerTable(answers.table, scales, instrument.low, instrument.high, others, notes)


def _of(frame: pd.DataFrame, instrument: str) -> pd.DataFrame:
    return pd.DataFrame(frame[frame["instrument"] == instrument]) if "instrument" in frame.columns else frame


def of_columns(
    frame: pd.DataFrame,
    *,
    items: str = "",
    scales: Sequence[str] = (),
    answer_range: str = "",
    missing: Collection[float] = (),
    respondent: Sequence[str] = (RESPONDENT,),
) -> AnswerTable:
    """Answers whose scales the user names.

    Args:
      frame: wide, one row per respondent; or long (respondent, item, response).
      items: which columns are items: "q1,q2", "q*" or "q1..q10" (in the order of the file), separated by
        commas; empty takes those of the scales, or every column of numbers.
      scales: each as "NAME=q1,q2,-q3"; a minus marks a reversed item.
      answer_range: "1-5"; empty takes the least and the greatest answer that was given.
      missing: numbers that stand for no answer.
      respondent: columns that tell respondents apart; they are not items.
    Returns: the table; one scale of all items where none is named.
    Raises: ValueError for items or columns that are not there, text among answers, and answers out of range.

    Example:
      >>> import pandas as pd
      >>> table = of_columns(pd.DataFrame({"q1": [1, 5], "q2": [5, 1]}), scales=["calm=q1,-q2"])
      >>> table.keyed("calm")["q2"].tolist()
      [1.0, 5.0]
    """
    if {ITEM, RESPONSE} <= set(frame.columns):
        frame = _wide(frame, respondent)
    keys = [name for name in respondent if name in frame.columns]
    columns = [str(name) for name in frame.columns if name not in keys]
    named = dict(_scale(text, columns) for text in scales)
    notes: list[str] = []
    if items:
        chosen = [item for item, _ in _chosen(items, columns)]
    elif named:
        chosen = list(dict.fromkeys(item for own in named.values() for item in own))
    else:
        chosen = [name for name in columns if pd.api.types.is_numeric_dtype(frame[name])]
        notes.append(f"items are the {len(chosen)} columns of numbers: {_listed(chosen)} (--items chooses)")
    if not chosen:
        raise ValueError("the table has no columns of numbers that could be items; name them with --items")
    named = named or {ALL: dict(_chosen(items, columns)) if items else dict.fromkeys(chosen, 1)}
    raw = pd.DataFrame(
        {
            name: _numbers(pd.Series(frame[name]), name, missing)
            for name in {**dict.fromkeys(chosen), **_of_all(named)}
        }
    )
    if keys:
        raw.index = (
            pd.Index(frame[keys[0]])
            if len(keys) == 1
            else pd.MultiIndex.from_frame(pd.DataFrame(frame[keys]))
        )
    if np.isnan(raw.to_numpy()).all():
        raise ValueError("no item has an answer that is a number")
    low, high = _range(answer_range, raw)
    if not answer_range:
        notes.append(
            f"answers are taken to range from {low:g} to {high:g}, as they do in the table (--range)"
        )
    others = frame.drop(columns=list(raw.columns)).set_axis(raw.index)
    return AnswerTable(raw, named, low, high, others, tuple(notes))


def _of_all(scales: Mapping[str, Mapping[str, int]]) -> dict[str, None]:
    return {item: None for own in scales.values() for item in own}


def _wide(frame: pd.DataFrame, respondent: Sequence[str]) -> pd.DataFrame:
    """A long table turned wide, one row per respondent; columns constant within a respondent are kept."""
    keys = list(respondent)
    if absent := [key for key in keys if key not in frame.columns]:
        raise ValueError(f"the table has no column {absent[0]!r} to tell respondents apart (--respondent)")
    if frame.duplicated([*keys, ITEM]).any():
        twice = frame[frame.duplicated([*keys, ITEM])].iloc[0]
        who = ", ".join(str(twice[key]) for key in keys)
        raise ValueError(
            f"respondent {who!r} answered item {twice[ITEM]!r} twice; name every column that tells "
            "respondents apart (--respondent, repeated)"
        )
    order = frame[keys].drop_duplicates()
    answers = frame.pivot(index=keys, columns=ITEM, values=RESPONSE)[list(frame[ITEM].unique())]
    others = _others(frame, keys, answers.index, {ITEM, RESPONSE}).drop(columns=keys)
    return order.merge(pd.concat([others, answers], axis=1).reset_index(), on=keys)


def _others(
    frame: pd.DataFrame, keys: list[str], index: pd.Index, without: Collection[object]
) -> pd.DataFrame:
    """Columns that are not items and are constant within a respondent, one row per respondent."""
    present = [key for key in keys if key in frame.columns]
    more = [name for name in frame.columns if name not in {*present, *without}]
    if not present:
        return pd.DataFrame(frame[more]).set_axis(index)
    grouped = frame.groupby(present, sort=False)
    one_each = [
        name
        for name in more
        if all(pd.api.types.is_hashable(value) for value in frame[name])
        and set(np.asarray(grouped[name].nunique(dropna=False)).tolist()) == {1}
    ]
    first = grouped[one_each].first() if one_each else pd.DataFrame(index=index)
    kept = pd.DataFrame(first.reindex(index))
    for place, name in enumerate(present):  # what tells respondents apart may tell groups apart
        kept[name] = index.get_level_values(place)
    return kept


def _scale(text: str, columns: Sequence[str]) -> tuple[str, dict[str, int]]:
    name, found, items = text.partition("=")
    if not found or not name.strip() or not items.strip():
        raise ValueError(f"a scale is written NAME=item,item,-reversed; got {text!r}")
    return name.strip(), dict(_chosen(items, columns))


def _chosen(text: str, columns: Sequence[str]) -> list[tuple[str, int]]:
    """Items and keys of a list such as "q1,-q2,r*,s1..s5"."""
    found: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        names = _matching(part, columns)
        key = 1
        if not names and part.startswith("-"):
            names, key = _matching(part[1:].strip(), columns), -1
        if not names:
            raise ValueError(f"there is no column {part.removeprefix('-')!r}; columns are {_listed(columns)}")
        found |= dict.fromkeys(names, key)
    return list(found.items())


def _matching(part: str, columns: Sequence[str]) -> list[str]:
    if part in columns:
        return [part]
    first, between, last = part.partition("..")
    if between and first in columns and last in columns:
        start, end = columns.index(first), columns.index(last)
        return list(columns[min(start, end) : max(start, end) + 1])
    return [name for name in columns if fnmatch.fnmatchcase(name, part)]


def _numbers(column: pd.Series, name: str, missing: Collection[float]) -> np.ndarray:
    numbers = np.asarray(pd.to_numeric(column, errors="coerce"), np.float64)
    text = np.isnan(numbers) & np.asarray(column.notna()) & np.asarray(column.astype(str).str.strip() != "")
    if text.any():
        raise ValueError(
            f"item {name!r} holds {column.tolist()[int(np.argmax(text))]!r}; answers must be numbers (code "
            "them first, or name the --instrument whose labels they are)"
        )
    if not np.isfinite(numbers[~np.isnan(numbers)]).all():
        raise ValueError(f"item {name!r} holds an infinite number")
    return np.where(np.isin(numbers, list(missing)), np.nan, numbers)


def _range(text: str, raw: pd.DataFrame) -> tuple[float, float]:
    values = raw.to_numpy(np.float64)
    least, most = float(np.nanmin(values)), float(np.nanmax(values))
    if not text:
        return least, most
    found = RANGE.fullmatch(text.strip())
    if found is None or not float(found[1]) < float(found[2]):
        raise ValueError(f"a range is written LOW-HIGH, as 1-5; got {text!r}")
    low, high = float(found[1]), float(found[2])
    if least < low or most > high:
        outside = (values < low) | (values > high)
        row, place = np.argwhere(outside)[0]
        item, worst = raw.columns[place], values[row, place]
        raise ValueError(
            f"item {item!r} holds {worst:g}, outside {low:g} to {high:g}; give another --range, or --missing "
            f"{worst:g} where it means no answer"
        )
    return low, high


def _listed(names: Sequence[str], most: int = 6) -> str:
    shown = ", ".join(map(str, names[:most]))
    return shown if len(names) <= most else f"{shown}, .. ({len(names)} in all)"
