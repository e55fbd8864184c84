"""Public data sets of people's answers, read from the files as published; the user brings the file.

    openpsychometrics' IPIP-FFM (data-final.csv, 1,015,341 people): ipip_50, and mini_ipip inside it
    Johnson's IPIP-NEO-120 (IPIP120.dat, 619,150 people, https://osf.io/tbmh5): ipip_neo_120
    Johnson's IPIP-NEO-300 (IPIP300.dat, 307,313 people, the same place): any instrument with its items

The 300 are numbered differently from the 120. Which number is which item is read from the item key at the
same place, IPIP-NEO-ItemKey.xls, saved as CSV next to the answers.

Not covered: scores (scoring).
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from evals.questionnaires.instrument import Instrument, Item, load_instrument
from evals.questionnaires.response_table import read_responses

# openpsychometrics numbers the items of each scale; ipip_50 takes the scales in turn
FFM_PLACES = {"EXT": 1, "AGR": 2, "CSN": 3, "EST": 4, "OPN": 5}
# columns of Johnson's files, counted from 0, and the first column of their items
SEX, AGE, COUNTRY, FIRST_ITEM, ITEMS, ALL_ITEMS = slice(6, 7), slice(7, 9), slice(22, 31), 31, 120, 300
ITEM_KEY = "IPIP-NEO-ItemKey.csv"


def read_answers(path: Path, instrument: Instrument | None) -> tuple[pd.DataFrame, str]:
    """A table of answers; published files are recognized by their columns.

    Args:
      path: a table that `read_responses` takes, or one of the files above.
      instrument: the columns of published files become its items; None takes any table as it is.
    Returns: the table, one column per item of the instrument, and which file it was; "" for other tables. In
      all of the published files 0 means no answer. Johnson's files hold items that are already reversed: they
      are turned back, so that the table is what people chose.
    Raises: ValueError as `read_responses`, and for a published file of another instrument.
    """
    if path.suffix == ".dat":
        return _johnson(path, instrument)
    tabs = path.suffix == ".csv" and path.is_file() and _is_tab_separated(path)
    frame = _tab_separated(path) if tabs else read_responses(path)
    names = {f"{scale}{n}" for scale in FFM_PLACES for n in range(1, 11)}
    if not names <= set(frame.columns):
        return frame, ""
    if instrument is None:
        raise ValueError(f"{path.name} holds the IPIP-FFM of openpsychometrics; give --instrument ipip_50")
    return _ffm(frame, instrument, path), "openpsychometrics' IPIP-FFM"


def _is_tab_separated(path: Path) -> bool:
    # the published .csv has tabs
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return file.readline().count("\t") > 2


def _tab_separated(path: Path) -> pd.DataFrame:
    header = list(pd.read_csv(path, sep="\t", nrows=0).columns)
    wanted = [name for name in header if not name.endswith("_E")]  # response times are not read
    return pd.read_csv(path, sep="\t", usecols=wanted, keep_default_na=False, na_values=["", "NA", "NULL"])


def _ffm(frame: pd.DataFrame, instrument: Instrument, path: Path) -> pd.DataFrame:
    texts = {item.text: item.id for item in instrument.items}
    published = load_instrument("ipip_50").items
    ids = {
        f"{scale}{n}": texts[published[5 * (n - 1) + place - 1].text]
        for scale, place in FFM_PLACES.items()
        for n in range(1, 11)
        if published[5 * (n - 1) + place - 1].text in texts
    }
    if not ids:
        raise ValueError(
            f"{path.name} is the IPIP-FFM of openpsychometrics: it has no items of {instrument.name}"
        )
    given = {ids[name]: np.asarray(pd.to_numeric(frame[name], errors="coerce"), np.float64) for name in ids}
    answers = pd.DataFrame({name: np.where(values == 0, np.nan, values) for name, values in given.items()})
    more = [name for name in ("country", "respondent", "age", "gender") if name in frame.columns]
    return pd.concat([frame[more].reset_index(drop=True), answers], axis=1)


def _johnson(path: Path, instrument: Instrument | None) -> tuple[pd.DataFrame, str]:
    """Fixed columns: who answered, then one digit per item; 120 of them, or 300."""
    if instrument is None:
        raise ValueError(f"{path.name} is read as one of Johnson's files; give --instrument ipip_neo_120")
    lines = [line for line in path.read_bytes().splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path.name} holds no responses")
    count = ALL_ITEMS if len(lines[0].rstrip()) >= FIRST_ITEM + ALL_ITEMS else ITEMS
    width = FIRST_ITEM + count
    for number, line in enumerate(lines, 1):
        if len(line) < width or not line[FIRST_ITEM:width].isdigit():
            raise ValueError(
                f"{path.name}: line {number} is none of IPIP{count}.dat, whose answers are {count} digits "
                f"from column {FIRST_ITEM + 1}"
            )
    if count == ALL_ITEMS:
        items = _numbered(path.parent / ITEM_KEY, instrument)
    elif instrument.name == "ipip_neo_120":
        items = dict(enumerate(instrument.items))
    else:
        raise ValueError(
            f"{path.name} is read as Johnson's IPIP120.dat, which needs --instrument ipip_neo_120"
        )
    table = np.frombuffer(b"".join(line[:width] for line in lines), np.uint8).reshape(len(lines), width)
    raw = table[:, [FIRST_ITEM + place for place in items]].astype(np.float64) - ord("0")
    raw[raw == 0] = np.nan
    reversed_ = np.array([item.key == -1 for item in items.values()])
    raw[:, reversed_] = instrument.low + instrument.high - raw[:, reversed_]
    known = pd.DataFrame(
        {
            "sex": [{b"1": "male", b"2": "female"}.get(line[SEX], "") for line in lines],
            "age": [line[AGE].decode("ascii", "replace").strip() for line in lines],
            "country": [line[COUNTRY].decode("latin-1").strip() for line in lines],
        }
    )
    known["age"] = pd.to_numeric(known["age"], errors="coerce")
    answers = pd.DataFrame(raw, columns=pd.Index([item.id for item in items.values()]))
    found = f"Johnson's IPIP-NEO-{count}"
    if len(items) < len(instrument.items):
        found += f", which has {len(items)} of the {len(instrument.items)} items of {instrument.name}"
    return pd.concat([known, answers], axis=1), found


def _numbered(key: Path, instrument: Instrument) -> dict[int, Item]:
    """The instrument's items by their place among the 300, identified by their words."""
    if not key.is_file():
        raise ValueError(
            f"the numbers of Johnson's 300 items are in IPIP-NEO-ItemKey.xls (https://osf.io/tbmh5); save it "
            f"as CSV: {key}"
        )
    table = pd.read_csv(key)
    if missing := {"Full#", "Item"} - set(table.columns):
        raise ValueError(
            f"{key.name} must have the columns Full# and Item; it lacks {', '.join(sorted(missing))}"
        )
    numbers = pd.Series(pd.to_numeric(table["Full#"], errors="coerce"), dtype="float64").tolist()
    places = {
        _words(text): int(number) - 1
        for text, number in zip(table["Item"].astype(str), numbers, strict=True)
        if 1 <= number <= ALL_ITEMS
    }
    found = {places[_words(item.text)]: item for item in instrument.items if _words(item.text) in places}
    if not found:
        raise ValueError(f"Johnson's IPIP-NEO-300 has no items of {instrument.name} by {key.name}")
    return found


def _words(text: str) -> str:
    """The words of a text, in one case and without punctuation."""
    return " ".join(re.findall(r"\w+", text.casefold()))
