"""python -m evals.administer: ask a respondent every question of a design, once, into a long table.

    FOLDER/answers.jsonl      every answer as it came, one per line; a killed administration resumes from it
    FOLDER/design.json        who is asked what; another design in the same folder is refused, except for a
                              token limit within which nothing was answered yet
    FOLDER/responses.parquet  the long table, once everything is answered
    FOLDER/usage.json         what servers were paid for all of it, a judge's included, over all sessions

Not covered: what is asked (design), who answers (respondent), what it means (faithfulness).
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import NotRequired, TextIO, TypedDict

import pandas as pd

from evals.models.text_model import Progress
from evals.questionnaires.design import KEY, Battery, Design, battery, questions
from evals.questionnaires.instrument import Instrument
from evals.questionnaires.respondent import (
    EMPTY,
    ERROR,
    LIMIT,
    UNREADABLE,
    Answer,
    Paid,
    Question,
    Respondent,
    settings_of,
    tells_cuts,
)
from jaxmoe.progress import say

COLUMNS = (
    "model",
    *KEY,
    "response",
    "position",
    "n_options",
    "expected",
    "refusal",
    "text",
    "probabilities",
    "read_by",
)
# columns with the traits of the personas: what scores are compared with
DESCRIBED = "described_"
# limits of earlier sessions, where the limit was raised since
BEFORE = f"{LIMIT} before"
# questions handed over at once: enough to batch and to share heads, few enough to keep in memory
BLOCK = 4096
# the same for a model: what a small one on a laptop answers in half a minute, since a kill loses them
MODEL_BLOCK = 512


def administer(
    respondent: Respondent,
    tests: Instrument | Battery | Sequence[Instrument | Battery],
    design: Design | None = None,
    folder: Path | None = None,
    *,
    block: int = BLOCK,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Asks every question that has no answer yet; returns the long table in the order of the design.

    Args:
      respondent: who answers.
      tests: one or several instruments or batteries.
      design: the conditions in which every item is asked; one of each if left out.
      folder: where answers are kept as they come, so that a killed administration resumes; None keeps them
        in memory.
      block: questions handed to the respondent at once.
      progress: called with (answered, of).
    Returns: one row per answer with COLUMNS, and a column for each trait that the personas describe; without
      an answer, response is NaN and refusal says why.
    Raises: ValueError if the folder holds another administration, a battery's name occurs twice, several
      seeds are put to a respondent that repeats itself, or an instrument has open questions.

    Example:
      >>> from evals.questionnaires import administer, load_instrument, simulated_respondent
      >>> answers = administer(simulated_respondent("midpoint"), load_instrument("gad_7"))
      >>> answers[["item", "response", "refusal"]].head(2)
           item  response refusal
      0  gad7_1       1.0
      1  gad7_2       1.0
    """
    several = [tests] if isinstance(tests, Instrument | Battery) else tests
    batteries = [battery(one) if isinstance(one, Instrument) else one for one in several]
    design = design or Design()
    names = [asked.name for asked in batteries]
    if not names:
        raise ValueError("administer needs at least one instrument; got none")
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"every instrument can be administered once; {repeated[0]!r} is repeated")
    if respondent.repeats_itself and len(design.seeds) > 1:
        raise ValueError(
            f"{respondent.name} gives the same answers for each of {len(design.seeds)} seeds; "
            "keep one, or let answers be sampled"
        )
    total = sum(design.size(asked) for asked in batteries)
    if folder is not None and isinstance(respondent, Paid):
        folder.mkdir(parents=True, exist_ok=True)
        respondent.account(folder / "usage.json")
    asked_how = _fingerprint(respondent, batteries, design)
    answers = _Answers(folder, asked_how, raisable=tells_cuts(respondent))
    with answers:
        pending = (
            question
            for asked in batteries
            for question in questions(asked, design)
            if question.key not in answers.rows
        )
        while now := list(islice(pending, block)):
            for number, answer in respondent.answer(now):
                answers.add(now[number], answer)
                if progress is not None:
                    progress(len(answers.rows), total)
    order = (question.key for asked in batteries for question in questions(asked, design))
    table = _described(long_table(respondent.name, (answers.rows[key] for key in order)), design)
    if folder is not None:
        part = folder / "responses.parquet.part"
        table.to_parquet(part, index=False)
        part.replace(folder / "responses.parquet")
    return table


def _described(table: pd.DataFrame, design: Design) -> pd.DataFrame:
    """The table with a column for each trait that the personas describe."""
    names = dict.fromkeys(name for persona in design.personas for name in persona.traits)
    levels = {
        name: pd.Series({p.name: p.traits.get(name, math.nan) for p in design.personas}, dtype="float64")
        for name in names
    }
    return table.assign(
        **{DESCRIBED + name: found.reindex(table["persona"]).to_numpy() for name, found in levels.items()}
    )


def _fingerprint(respondent: Respondent, batteries: Sequence[Battery], design: Design) -> dict[str, object]:
    wording = [
        [[(t.name, t.head, t.tail, t.option, t.labels) for t in design.templates]],
        [(p.name, p.text) for p in design.personas],
        [
            (b.name, b.instruction, [(e.id, e.text, e.options, e.paraphrase) for e in b.entries])
            for b in batteries
        ],
    ]
    digest = hashlib.sha256(json.dumps(wording).encode()).hexdigest()[:16]
    names = [asked.name for asked in batteries]
    return {
        "model": respondent.name,
        **settings_of(respondent),
        "instruments": names,
        **design.describe(),
        "wording": digest,
    }


class AnswerRow(TypedDict):
    """One answer as written in the journal; None where there is no value."""

    key: Sequence[str]
    response: float | None
    position: int
    n_options: int
    expected: float | None
    refusal: str
    text: str
    probabilities: list[float]
    read_by: NotRequired[str]
    cut_at: NotRequired[int]


class _Answers:
    """Rows by key: those of an earlier run, plus new ones, each also written to the journal."""

    def __init__(self, folder: Path | None, design: dict[str, object], *, raisable: bool):
        self.rows: dict[tuple[str, ...], AnswerRow] = {}
        self._folder, self._journal = folder, None
        self._tells_cuts = raisable
        # the record with this session's limit is written only with the first answer within it: a server may
        # refuse the limit, and nobody should be bound to one within which nothing was answered
        self._unwritten: dict[str, object] | None = None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        written, journal = folder / "design.json", folder / "answers.jsonl"
        if written.exists():
            old = _design(written)
            _refuse_other(old, design, folder, raisable)
            self._read(journal, _limits(old), design.get(LIMIT) if raisable else None)
            if old.get(LIMIT) != design.get(LIMIT):
                before = _limits(old)
                self._unwritten = {**design, BEFORE: before} if before else design
        elif journal.exists() and journal.stat().st_size:
            raise ValueError(
                f"{journal} holds answers, and no design.json beside it says to what; bring it back, or "
                "choose another folder"
            )
        elif raisable and LIMIT in design:
            _write_design(written, {**design, LIMIT: None})
            self._unwritten = design
        else:
            _write_design(written, design)

    def _read(self, path: Path, before: Sequence[object], limit: object) -> None:
        """Reads the rows to keep; `limit` is None where the respondent does not report cuts."""
        if not path.exists():
            return
        # rows without a record of cuts date from when a folder had a single limit: its first
        first = before[0] if before else limit
        maybe_cut: set[tuple[str, ...]] = set()
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):  # killed while writing a line
            with path.open("r+b") as file:
                file.truncate(len(whole))
        # splitlines would cut at U+2028
        for number, line in enumerate(whole.split(b"\n"), start=1):
            if not line:
                continue
            try:
                row = json.loads(line.decode("utf-8"))
                key, again = tuple(row["key"]), row["refusal"] == ERROR or _cut_below(row, first, limit)
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise ValueError(
                    f"{path}:{number} is damaged and holds no answer; delete the line, and its question is "
                    "asked again"
                ) from error
            if not again:  # ask again what failed, and what was cut off if the limit is higher now
                self.rows[key] = row
            elif row["refusal"] != ERROR and "cut_at" not in row:
                maybe_cut.add(key)
        if count := len(maybe_cut - self.rows.keys()):
            say(
                f"{path}: {count} unread answers may have been cut off at {first} tokens, as cuts were not "
                f"recorded then; they are asked again within {limit}"
            )

    def __enter__(self) -> "_Answers":
        if self._folder is not None:
            self._journal: TextIO | None = (self._folder / "answers.jsonl").open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self._journal is not None:
            self._journal.flush()
            os.fsync(self._journal.fileno())
            self._journal.close()

    def add(self, question: Question, answer: Answer) -> None:
        row: AnswerRow = {
            "key": question.key,
            "response": None if math.isnan(answer.value) else answer.value,
            "position": answer.position,
            "n_options": len(question.choices),
            "expected": None if math.isnan(answer.expected) else answer.expected,
            "refusal": answer.refusal,
            # a reply may hold half a character, which a text file cannot
            "text": answer.text.encode("utf-8", "replace").decode("utf-8"),
            "probabilities": list(answer.probabilities),
            "read_by": answer.read_by,
        }
        if self._tells_cuts:
            row["cut_at"] = answer.cut_at
        if self._folder is not None and self._unwritten is not None and answer.refusal != ERROR:
            _write_design(self._folder / "design.json", self._unwritten)
            self._unwritten = None
        if self._journal is not None:
            # one write per line: a kill loses at most the answer that was on its way
            self._journal.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._journal.flush()
        self.rows[question.key] = row


def _design(path: Path) -> dict[str, object]:
    """Raises: ValueError if the file is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged, so that nothing says what was asked; choose another folder")
    return found


def _write_design(path: Path, design: dict[str, object]) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(design, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def _limits_before(design: dict[str, object]) -> list[object]:
    found = design.get(BEFORE, [])
    return found if isinstance(found, list) else [found]


def _limits(design: dict[str, object]) -> list[object]:
    """All limits within which answers were given, in order of first use."""
    latest = design.get(LIMIT)
    return [*_limits_before(design), *([] if latest is None else [latest])]


def limits_told(*folders: Path) -> dict[str, object]:
    """Rows for the run card: the limits within which answers were given.

    Args:
      folders: of administrations.
    Returns: the latest of each, and the lower ones of earlier sessions; nothing where there were none.
    Raises: ValueError for a damaged record.
    """
    records = [folder / "design.json" for folder in folders]
    designs = [_design(path) for path in records if path.exists()]
    limits = {
        LIMIT: [one[LIMIT] for one in designs if one.get(LIMIT) is not None],
        BEFORE: [limit for one in designs for limit in _limits_before(one)],
    }
    return {name: ", ".join(map(str, dict.fromkeys(found))) for name, found in limits.items() if found}


def _cut_below(row: AnswerRow, first: object, limit: object) -> bool:
    """Whether an answer was, or may have been, cut off before it named an option, and may be longer now.

    Without a record of cuts, complete refusals cannot be told from cut ones, so they stay: asked again, some
    would turn into answers by chance.
    """
    if not isinstance(limit, int):
        return False
    if "cut_at" not in row:
        return row["refusal"] in (UNREADABLE, EMPTY) and isinstance(first, int) and first < limit
    return row["refusal"] != "" and 0 < row["cut_at"] < limit


def _refuse_other(old: dict[str, object], new: dict[str, object], folder: Path, raisable: bool) -> None:
    # an older record lacks what was not written down then; what only the older one has differs too
    for name in [*new, *(name for name in old if name not in new)]:
        there, here, remedy = old.get(name), new.get(name), "choose another folder"
        if there == here or name == BEFORE:
            continue
        # nothing was answered yet; None is no older record, which lacks the entry
        if name == LIMIT and raisable and name in old and there is None:
            continue
        if name == LIMIT and raisable and isinstance(there, int) and isinstance(here, int):
            # what was read within fewer tokens would be read the same within more
            if there < here:
                continue
            remedy = f"take at least {there}, or {remedy}"
        raise ValueError(
            f"{folder} holds another administration: {name} is {there!r} there, {here!r} here; {remedy}"
        )


def long_table(model: str, rows: Iterable[AnswerRow]) -> pd.DataFrame:
    """The answers as a frame with COLUMNS.

    Args:
      model: the respondent's name, the same in every row.
      rows: as the journal holds them; the order is kept.
    Returns: one row per answer; response and expected are NaN, and position −1, where there is none.
    """
    kept = [dict(zip(KEY, row["key"], strict=True)) | dict(row) for row in rows]
    frame = pd.DataFrame(kept, columns=pd.Index(COLUMNS)).assign(model=model)
    # answers from before there were judges
    frame["read_by"] = frame["read_by"].fillna("").astype(str)
    return frame.astype({"response": "float64", "expected": "float64", "position": "int64"})
