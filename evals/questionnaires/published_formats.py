"""Questionnaires in the files of other benchmarks, as instruments; the user brings the file.

    PsychoBench        questionnaires.json: a list with questions, reverse, scale, categories
    PsyBORGS           an administration session: measures, item_postambles, response_scales
    TRAIT              rows with response_high1, response_high2, response_low1, response_low2
    inspect_evals      personality: rows with input, choices, metadata (trait, reverse)

An instrument claims nothing that its file does not say (such as who may pass the items on). Not covered:
their prompts, since templates set the wording here; their scores.
"""

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from evals.questionnaires.instrument import Instrument

BIG_FIVE = ("extraversion", "agreeableness", "conscientiousness", "neuroticism", "openness")
FLATTERING = {name: -1 if name == "neuroticism" else 1 for name in BIG_FIVE}
LICENSE = "not told by the file: the items belong to their authors; check before you pass them on"
RANGE = re.compile(r"from (\d+) to (\d+)")
# "1 denotes strongly disagree, 2 means ..", '1 = "very inaccurate"'
WORDS = re.compile(r"""(\d+)\s*(?:denotes|means|represents|stands for|=)\s*["']?([^",.;)]+)""")


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)


class _Crowd(_Entry):
    # names of today's file, and of the one that the paper used
    crowd_name: str | None = None
    mean: float = Field(validation_alias=AliasChoices("mean", "crowd_sample_mean"))
    sd: float = Field(validation_alias=AliasChoices("std", "crowd_sample_sd"))

    @property
    def lacks(self) -> str:
        """What is missing for a norm; empty if nothing is."""
        if not 0 < self.sd < math.inf:
            return "SD"
        return "" if math.isfinite(self.mean) else "finite mean"


class _Category(_Entry):
    cat_name: str
    cat_questions: list[str]
    crowd: list[_Crowd] = []
    compute_mode: str | None = None


class _PsychoBenchTest(_Entry):
    name: str
    questions: dict[str, str]
    prompt: str
    inner_setting: str = ""
    scale: int
    reverse: list[str]
    categories: list[_Category]
    compute_mode: str | None = None


class _PsyborgsScale(_Entry):
    user_readable_name: str
    item_ids: list[str]
    reverse_keyed_item_ids: list[str]
    item_postamble_ids: list[str]
    response_scale_ids: list[str]


class _PsyborgsMeasure(_Entry):
    user_readable_name: str
    items: dict[str, str]
    scales: dict[str, _PsyborgsScale]


class _ResponseScale(_Entry):
    response_choices: dict[int, str]


class _Session(_Entry):
    measures: dict[str, _PsyborgsMeasure]
    item_postambles: dict[str, str]
    response_scales: dict[str, _ResponseScale]


class _Situation(_Entry):
    personality: str
    question: str = ""
    situation: str = ""
    query: str = ""
    paraphrased_situation: str = ""
    paraphrased_query: str = ""
    response_high1: str
    response_high2: str
    response_low1: str
    response_low2: str


class _About(_Entry):
    trait: str
    reverse: bool = False


class _InspectRow(_Entry):
    input: str
    choices: list[str]
    metadata: _About


class _MistakeError(ValueError):
    """Entries of a file that do not go together."""


class PublishedInstruments(NamedTuple):
    """The instruments of a file, whose file it is, and what was left out, one line each."""

    benchmark: str
    instruments: list[Instrument]
    notes: list[str]


def read_published(path: Path) -> PublishedInstruments:
    """The instruments in a file of PsychoBench, PsyBORGS, TRAIT or inspect_evals.

    Scales that share items become separate instruments, since an item here belongs to one scale.

    Args:
      path: a JSON file; for TRAIT also .jsonl, .csv or .parquet.
    Returns: the instruments.
    Raises: ValueError, in one line that names the file, for other files and for what an instrument cannot be.
    """
    found = _of_any(_content(path), path)
    if not found.instruments:
        told = f" ({'; '.join(found.notes)})" if found.notes else ""
        raise ValueError(f"{path.name} holds no questionnaire with scales{told}")
    names = [one.name for one in found.instruments]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{path.name}: two questionnaires would be {repeated[0]}; rename one")
    return found


def _of_any(content: object, path: Path) -> PublishedInstruments:
    """The instruments in a file's content, whichever benchmark it is from."""
    try:
        if isinstance(content, dict) and {"measures", "response_scales"} <= content.keys():
            return _psyborgs(TypeAdapter(_Session).validate_python(content))
        if isinstance(content, list) and content and isinstance(content[0], dict):
            first = content[0].keys()
            if {"questions", "categories", "scale"} <= first:
                return _psychobench(TypeAdapter(list[_PsychoBenchTest]).validate_python(content))
            if {"response_high1", "response_low1", "personality"} <= first:
                return _trait(TypeAdapter(list[_Situation]).validate_python(content))
            if {"input", "choices", "metadata"} <= first:
                return _inspect(TypeAdapter(list[_InspectRow]).validate_python(content), path.stem)
    except ValidationError as error:
        one = error.errors()[0]
        place = ".".join(map(str, one["loc"]))
        message = " ".join(one["msg"].split())
        raise ValueError(f"{path.name}: {place + ': ' if place else ''}{message}") from None
    except _MistakeError as error:
        raise ValueError(f"{path.name}: {error}") from None
    raise ValueError(
        f"{path.name} is no file of PsychoBench (questionnaires.json), PsyBORGS (an administration session), "
        "TRAIT or inspect_evals' personality tests"
    )


def _content(path: Path) -> object:
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if path.suffix == ".parquet":
        return pd.read_parquet(path).to_dict("records")
    if path.suffix == ".csv":
        return pd.read_csv(path, keep_default_na=False).to_dict("records")
    if path.suffix == ".jsonl":
        return pd.read_json(path, lines=True).to_dict("records")
    if path.suffix == ".json":
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path.name} is not valid JSON: {' '.join(str(error).split())}") from None
    raise ValueError(f"{path.name} must be .json, .jsonl, .csv or .parquet")


def _name(text: str) -> str:
    return re.sub(r"\W+", "_", text.strip().lower()).strip("_")


def _scale(name: str, title: str) -> dict[str, object]:
    measures = next((trait for trait in BIG_FIVE if trait in title.lower()), title.lower())
    return {"name": name, "title": title, "measures": measures, "desirable": FLATTERING.get(measures, 0)}


def _check_names(who: str, what: str, names: Sequence[str], known: Collection[str]) -> None:
    """Raises _MistakeError for a name without an entry, or one that occurs twice."""
    for name in names:
        if name not in known:
            raise _MistakeError(f"{who} names {what} {name!r}, which there is not")
        if names.count(name) > 1:
            raise _MistakeError(f"{who} names {what} {name!r} twice")


def _check_some(who: str, what: str, names: Sequence[str]) -> None:
    """Raises _MistakeError for a scale without items, which has no score."""
    if not names:
        raise _MistakeError(f"{who} names no {what}; give it some, or take it out of the file")


def _apart(scales: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Scales in groups without common items, each in the first group that it fits."""
    groups: list[tuple[list[str], set[str]]] = []
    for name, items in scales.items():
        for names, taken in groups:
            if taken.isdisjoint(items):
                names.append(name)
                taken |= set(items)
                break
        else:
            groups.append(([name], set(items)))
    return [names for names, _ in groups]


def _psychobench(tests: Sequence[_PsychoBenchTest]) -> PublishedInstruments:
    found, notes = [], []
    for test in tests:
        categories = {one.cat_name: one for one in test.categories}
        scales = {name: one.cat_questions for name, one in categories.items()}
        _check_names(test.name, "category", [one.cat_name for one in test.categories], categories)
        _check_names(f"{test.name}: reverse", "question", test.reverse, test.questions)
        for name, items in scales.items():
            _check_names(f"{test.name}: category {name}", "question", items, test.questions)
            _check_some(f"{test.name}: category {name}", "question", items)
        notes += [
            f"{test.name}: crowd {crowd.crowd_name or 'crowd'} of {name} has no {crowd.lacks} and is left out"
            for name, one in categories.items()
            for crowd in one.crowd
            if crowd.lacks
        ]
        if not scales:
            notes.append(f"{test.name}: no categories, so no scales; left out")
            continue
        used = {item for items in scales.values() for item in items}
        if unused := len(test.questions.keys() - used):
            notes.append(f"{test.name}: {unused} questions of no category are left out")
        low, high = _limits(test.name, f"{test.inner_setting} {test.prompt}", test.scale)
        told = re.sub(
            r"You can only reply[^.]*?\.\s*|Here are the (?:statements|questions)[^:]*:\s*", "", test.prompt
        )
        for place, names in enumerate(_apart(scales), 1):
            owner = {item: name for name in names for item in scales[name]}
            items = [
                {
                    "id": f"{_name(test.name)}_{item}",
                    "text": text,
                    "scale": _name(owner[item]),
                    "key": -1 if item in test.reverse else 1,
                }
                for item, text in test.questions.items()
                if item in owner
            ]
            found.append(
                Instrument.model_validate(
                    {
                        "name": f"psychobench_{_name(test.name)}" + ("" if place == 1 else f"_{place}"),
                        "title": test.name,
                        "source": "PsychoBench, https://github.com/CUHK-ARISE/PsychoBench",
                        "license": LICENSE,
                        "validated": True,
                        "note": "Words, keys and crowds as in PsychoBench's file.",
                        "instruction": told.strip(),
                        "options": _options(range(low, high + 1), test.prompt),
                        "scales": [_scale(_name(n), test.name if n == "Overall" else n) for n in names],
                        "items": items,
                        "norms": [
                            norm for name in names for norm in _crowds(categories[name], test.compute_mode)
                        ],
                        "norms_source": "crowd samples of PsychoBench's file",
                    }
                )
            )
    return PublishedInstruments("PsychoBench", found, notes)


def _limits(title: str, text: str, total: int) -> tuple[int, int]:
    """Least and greatest answer; PsychoBench's `scale` is their sum."""
    for low, high in RANGE.findall(text):
        if int(low) + int(high) == total:
            return int(low), int(high)
    if total == 1:
        return 0, 1
    raise _MistakeError(
        f"{title}: its prompt names no range of answers whose ends add up to its scale, {total}"
    )


def _options(values: Sequence[int], text: str) -> list[dict[str, object]]:
    words = {
        int(number): label.strip(" '").removesuffix(" and").strip(" '")
        for number, label in WORDS.findall(text)
    }
    labels = [words.get(value, "") for value in values]
    if not all(labels) or len({label.casefold() for label in labels}) < len(labels):
        # if anything states the ends, it is the instruction
        labels = [str(value) for value in values]
    return [{"value": value, "label": label} for value, label in zip(values, labels, strict=True)]


def _crowds(category: _Category, mode: str | None) -> list[dict[str, object]]:
    return [
        {
            "group": crowd.crowd_name or "crowd",
            "scale": _name(category.cat_name),
            "mean": crowd.mean,
            "sd": crowd.sd,
            "metric": "sum" if "SUM" in (category.compute_mode, mode) else "mean",
            "n_items": len(category.cat_questions),
        }
        for crowd in category.crowd
        if not crowd.lacks
    ]


def _psyborgs(session: _Session) -> PublishedInstruments:
    found, notes = [], []
    for code, measure in session.measures.items():
        scales = {name: scale.item_ids for name, scale in measure.scales.items()}
        if not scales:
            notes.append(f"{code}: no scales; left out")
        used = {item for items in scales.values() for item in items}
        if unused := len(measure.items.keys() - used):
            notes.append(f"{code}: {unused} items of no scale are left out")
        for name, scale in measure.scales.items():
            _check_scale(f"{code}: scale {name}", scale, measure, session)
        for place, names in enumerate(_apart(scales), 1):
            first = measure.scales[names[0]]
            others = [n for n in names if measure.scales[n].response_scale_ids != first.response_scale_ids]
            if others:
                notes.append(f"{code}: {', '.join(others)} have another range of answers and are left out")
            kept = [name for name in names if name not in others]
            answers = first.response_scale_ids[0]
            values = sorted(session.response_scales[answers].response_choices)
            if len(values) < 2:
                raise _MistakeError(
                    f"response scale {answers} must have at least 2 choices; got {len(values)}"
                )
            postamble = session.item_postambles[first.item_postamble_ids[0]]
            told = re.split(r" (?:on )?a scale from| \(where", postamble.lstrip('", \n'))[0]
            items = [
                {
                    "id": item,
                    "text": measure.items[item],
                    "scale": name,
                    "key": -1 if item in measure.scales[name].reverse_keyed_item_ids else 1,
                }
                for name in kept
                for item in scales[name]
            ]
            found.append(
                Instrument.model_validate(
                    {
                        "name": f"psyborgs_{_name(code)}" + ("" if place == 1 else f"_{place}"),
                        "title": measure.user_readable_name,
                        "source": "PsyBORGS, https://github.com/google-deepmind/personality_in_llms",
                        "license": LICENSE,
                        "validated": True,
                        "note": "Words and keys as in the administration session.",
                        "instruction": f"{told[:1].upper()}{told[1:]}.",
                        "options": _options(values, postamble),
                        "scales": [_scale(name, measure.scales[name].user_readable_name) for name in kept],
                        "items": items,
                    }
                )
            )
    if found:
        notes.append("item preambles, which describe persons, are not read: give --personas")
    return PublishedInstruments("PsyBORGS", found, notes)


def _check_scale(who: str, scale: _PsyborgsScale, measure: _PsyborgsMeasure, session: _Session) -> None:
    """Raises _MistakeError if a scale names something that the session does not have."""
    _check_names(who, "item", scale.item_ids, measure.items)
    _check_some(who, "item", scale.item_ids)
    _check_names(f"{who}: reverse", "item", scale.reverse_keyed_item_ids, scale.item_ids)
    for what, names, known in (
        ("item postamble", scale.item_postamble_ids, session.item_postambles),
        ("response scale", scale.response_scale_ids, session.response_scales),
    ):
        if not names:
            raise _MistakeError(f"{who} names no {what}")
        _check_names(who, what, names, known)


def _trait(rows: Sequence[_Situation]) -> PublishedInstruments:
    with_paraphrases = all(row.paraphrased_situation and row.paraphrased_query for row in rows)
    items: list[dict[str, object]] = []
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.personality] = counts.get(row.personality, 0) + 1
        high, low = (row.response_high1, row.response_high2), (row.response_low1, row.response_low2)
        if len({label.strip().casefold() for label in (*high, *low)}) < len(high) + len(low):
            continue
        paraphrase = f"{row.paraphrased_situation} {row.paraphrased_query}"
        items.append(
            {
                "id": f"{_name(row.personality)}_{counts[row.personality]}",
                "text": row.question or f"{row.situation} {row.query}",
                "scale": _name(row.personality),
                "options": [
                    {"value": value, "label": label}
                    for value, labels in ((1, high), (0, low))
                    for label in labels
                ],
                **({"paraphrase": paraphrase} if with_paraphrases else {}),
            }
        )
    instrument = Instrument.model_validate(
        {
            "name": "trait",
            "title": "TRAIT",
            "source": "TRAIT, Lee et al. 2024, arXiv:2406.14703, "
            "https://huggingface.co/datasets/mirlab/TRAIT",
            "license": LICENSE,
            "validated": False,
            "note": "Situations with four things to do, two of them high in the trait; 1 where one of these "
            "is chosen.",
            "instruction": "Read the situation and choose what you would do or say.",
            "options": [{"value": 0, "label": "low"}, {"value": 1, "label": "high"}],
            "scales": [_scale(_name(trait), trait) for trait in counts],
            "items": items,
        }
    )
    left = len(rows) - len(items)
    notes = [f"{left} situations with the same answer twice are left out"] if left else []
    return PublishedInstruments("TRAIT", [instrument], notes)


def _inspect(rows: Sequence[_InspectRow], stem: str) -> PublishedInstruments:
    choices = rows[0].choices
    kept = [row for row in rows if row.choices == choices]
    traits = dict.fromkeys(row.metadata.trait for row in kept)
    instrument = Instrument.model_validate(
        {
            "name": f"inspect_{_name(stem)}",
            "title": f"{stem} (inspect_evals)",
            "source": "inspect_evals personality, https://github.com/guiem/personality-tests",
            "license": LICENSE,
            "validated": True,
            "note": "Words and keys as in the file.",
            "instruction": "Say how far you agree with each statement about yourself.",
            "options": [{"value": value, "label": label} for value, label in enumerate(choices, 1)],
            "scales": [_scale(_name(trait), trait) for trait in traits],
            "items": [
                {
                    "id": f"{_name(stem)}_{number}",
                    "text": row.input,
                    "scale": _name(row.metadata.trait),
                    "key": -1 if row.metadata.reverse else 1,
                }
                for number, row in enumerate(kept, 1)
            ],
        }
    )
    left = len(rows) - len(kept)
    notes = [f"{left} rows with other choices than the first are left out"] if left else []
    return PublishedInstruments("inspect_evals", [instrument], notes)
