"""Scripted dialogues: a respondent writes the next line; rules (and a judge, if there is one) rate it.

A rule counts phrases that show more or less of a construct. Rules are blunt: they see words, not irony. They
are the same for every model, which a judge is not.
"""

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from evals.models.text_model import Progress
from evals.questionnaires.answer_text import without_thoughts
from evals.questionnaires.behaviors import data
from evals.questionnaires.respondent import Paid
from evals.questionnaires.wording import Persona
from jaxmoe.progress import say

# personas whose replies are written and kept together
BLOCK = 4


class Writer(Protocol):
    """Whoever continues texts."""

    def write(self, prompts: Sequence[str], seed: int = 0) -> list[str]:
        """What is written after each prompt.

        Args:
          prompts: whole texts; nothing is added to them.
          seed: of the sampling.
        Returns: a text for each prompt, in their order, without the prompt.
        """
        ...


# what tells replies of a table apart: what stands before the column text
ReplyKeys = Collection[tuple[object, ...]]
# (personas, number of the first, replies that are known) -> the other replies of these personas
WriteReplies = Callable[[Sequence[Persona], int, ReplyKeys], pd.DataFrame]


@runtime_checkable
class FallibleWriter(Protocol):
    """A writer whose requests may fail."""

    def attempt(self, prompts: Sequence[str], seed: int = 0) -> list[str | None]:
        """As `Writer.write`, but None where a request fails, which may be repeated.

        Args:
          prompts, seed: as for `Writer.write`.
        Returns: a text, or None, for each prompt, in their order.
        """
        ...


# (construct, script, reply) -> −1 (little of the construct) to 1 (much)
Judge = Callable[[str, str, str], float]


class Reply(NamedTuple):
    """A line in a dialogue, and its rating: −1 to 1, NaN where nothing in it tells; no text where a request
    failed."""

    persona: str
    construct: str
    script: int
    text: str | None
    rated: float
    judged: float


def rate(construct: str, reply: str) -> float:
    """(more − less)/(more + less) over the phrases found; NaN if none is. Only the first paragraph counts.

    Args:
      construct: one that has rules (`data()["rules"]`).
      reply: what was written; case makes no difference.
    Returns: −1 (little of the construct) to 1 (much).
    Raises: KeyError for a construct without rules.
    """
    said = reply.strip().split("\n\n")[0].casefold()
    rules = data()["rules"][construct]
    more, less = (sum(_occurs(phrase, said) for phrase in rules[side]) for side in ("more", "less"))
    return (more - less) / (more + less) if more + less else float("nan")


def _occurs(phrase: str, said: str) -> bool:
    begins = r"(?<!\w)" if phrase[0].isalnum() else ""
    return re.search(begins + re.escape(phrase), said) is not None


def reply_texts(writer: Writer, prompts: Sequence[str], seed: int) -> list[str | None]:
    """What is written after each prompt, without thoughts; None where a request failed.

    Args:
      writer, prompts, seed: as for `Writer.write`.
    Returns: one per prompt, in their order.
    """
    found = (
        writer.attempt(prompts, seed) if isinstance(writer, FallibleWriter) else writer.write(prompts, seed)
    )
    return [None if text is None else without_thoughts(text) for text in found]


def hold(
    writer: Writer,
    personas: Sequence[Persona],
    *,
    seed: int = 0,
    judge: Judge | None = None,
    known: ReplyKeys = (),
) -> pd.DataFrame:
    """Every persona's reply in every script, rated.

    Args:
      writer: who replies; thoughts are removed from its texts.
      personas: as whom it writes.
      seed: of the sampling.
      judge: also rates each reply; without one, the column judged is NaN.
      known: (persona, construct, script) of replies that are not wanted.
    Returns: one row per reply, with the fields of Reply.
    """
    asked = [
        (persona, construct, number, script)
        for persona in personas
        for construct, scripts in data()["dialogues"].items()
        for number, script in enumerate(scripts)
        if (persona.name, construct, number) not in known
    ]
    texts = reply_texts(writer, [_prompt(persona, script) for persona, _, _, script in asked], seed)
    replies = [
        Reply(
            persona.name,
            construct,
            number,
            text,
            rate(construct, text or ""),
            judge(construct, script, text) if judge and text is not None else float("nan"),
        )
        for (persona, construct, number, script), text in zip(asked, texts, strict=True)
    ]
    return pd.DataFrame(replies, columns=pd.Index(Reply._fields))


def kept(
    writer: Writer,
    personas: Sequence[Persona],
    folder: Path,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """As `hold`, but what was written in an earlier session is not written again, except where it failed.

    Args:
      writer, personas, seed: as those of `hold`.
      folder: where the replies are kept as they come, in replies.parquet.
      progress: called with (personas who have replied, of).
    Returns: one row per reply, with the fields of Reply.
    """
    if isinstance(writer, Paid):
        writer.account(folder / "usage.json")
    return keep_replies(
        folder / "replies.parquet",
        personas,
        lambda some, first, known: hold(writer, some, seed=seed + first, known=known),
        progress,
    )


def keep_replies(
    path: Path,
    personas: Sequence[Persona],
    written: WriteReplies,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """The replies of all personas; those already in a file are not written again, unless they failed.

    Args:
      path: of the file, which grows by `BLOCK` personas at a time.
      personas: as whom to write.
      written: given some personas, the number of the first and what is known of them, returns their other
        replies, with the columns persona and text.
      progress: called with (personas who have replied, of).
    Returns: one row per reply, in the order in which they were written; without text where it failed.
    """
    table = pd.read_parquet(path) if path.is_file() else None
    failed = set() if table is None else set(table.loc[table["text"].isna(), "persona"])
    there = set() if table is None else set(table["persona"]) - failed
    missing = [number for number, persona in enumerate(personas) if persona.name not in there]
    for at in range(0, len(missing), BLOCK):
        if progress is not None:
            progress(len(personas) - len(missing) + at, len(personas))
        numbers = missing[at : at + BLOCK]
        table = _with_replies(table, [personas[number] for number in numbers], numbers[0], written)
        part = path.with_name(path.name + ".part")
        table.to_parquet(part, index=False)
        part.replace(path)
    if progress is not None and missing:
        progress(len(personas), len(personas))
    if table is None:
        raise ValueError("replies need at least one persona; got none")
    if count := np.count_nonzero(table["text"].isna()):
        say(
            f"{path}: {count} of {len(table)} replies are missing, as their requests failed; the same "
            "command asks for them again"
        )
    return table


def _with_replies(
    table: pd.DataFrame | None, personas: Sequence[Persona], first: int, written: WriteReplies
) -> pd.DataFrame:
    """The table with what some personas reply, in place of what failed."""
    if table is None:
        return written(personas, first, ())
    own = table["persona"].isin([persona.name for persona in personas])
    kept = pd.DataFrame(table[~(own & table["text"].isna())])
    columns = list(table.columns)
    known = set(zip(*(kept[key] for key in columns[: columns.index("text")]), strict=True))
    return pd.concat([kept, written(personas, first, known)], ignore_index=True)


def _prompt(persona: Persona, script: str) -> str:
    who = f"{persona.text}\n\n" if persona.text else ""
    return f"{who}Continue the conversation with what you say next.\n\n{script}\nYou:"


def scores(replies: pd.DataFrame, column: str = "rated") -> pd.DataFrame:
    """Persons x constructs: mean rating, NaN where no reply could be rated.

    Args:
      replies: as `hold` returns them.
      column: rated (by rules) or judged.
    Returns: personas as index, constructs as columns, −1 (little of it) to 1.
    """
    table = replies.pivot_table(
        index="persona", columns="construct", values=column, aggfunc="mean", dropna=False
    )
    return table.astype(np.float64)
