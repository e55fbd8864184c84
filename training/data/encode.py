"""Rows to samples: in which form, cut to what length, and how much data is lost.

A sample is cut only if it must fit a row of a batch; `packing=concat` splits documents over rows and loses
nothing. What is cut, dropped or left out is counted, and reported when a run starts.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from jaxmoe.json_values import JsonMapping
from jaxmoe.text.answer_spans import Turns
from jaxmoe.text.decoding import decode
from jaxmoe.text.forms import resolve_form
from jaxmoe.text.thinking import Thinking, split
from jaxmoe.tokenizer import Encoded, encode_row
from training.data.batch import NO_TASK, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = JsonMapping
Bad = Literal["error", "skip"]


@dataclasses.dataclass
class Tally:
    """What became of the rows of a data set.

    Attributes:
      rows, tokens: what is trained on.
      cut, cut_tokens: rows that were longer than a row of a batch, and the tokens they lost.
      dropped, dropped_tokens: rows left out because that length held nothing to predict, and their tokens.
      formats: keys by which rows are encoded, such as messages (`format_of`).
      thinking: conversations in which the assistant thinks.
      tools: conversations that list functions.
      refused: rows that could not be encoded, with the reason (only with data.bad=skip).
    """

    rows: int = 0
    tokens: int = 0
    cut: int = 0
    cut_tokens: int = 0
    dropped: int = 0
    dropped_tokens: int = 0
    formats: set[str] = dataclasses.field(default_factory=set[str])
    thinking: int = 0
    tools: int = 0
    refused: list[str] = dataclasses.field(default_factory=list)

    def count(self, row: Row, encoded: Encoded) -> None:
        """Counts a row that was encoded.

        Args:
          row: as read; conversations are known by their `messages`.
          encoded: the row's tokens; without a target it counts as dropped.
        """
        self.formats.add(format_of(row))
        if "messages" in row:
            self.tools += bool(row.get("tools"))
            self.thinking += any(split(m)[0] != "" for m in row["messages"] if m["role"] == "assistant")
        if not encoded.loss_mask.any():
            self.dropped += 1
            self.dropped_tokens += len(encoded.ids) + encoded.cut
            return
        self.rows += 1
        self.tokens += len(encoded.ids)
        self.cut += encoded.cut > 0
        self.cut_tokens += encoded.cut

    def said(self, length: int | None) -> str:
        """The counts as one line.

        Args:
          length: tokens of a row that samples must fit; None if they need not.
        """
        parts = [f"{self.rows:,} rows, {self.tokens:,} tokens"]
        if self.cut:
            parts.append(f"{self.cut:,} cut to {length} tokens (lost: {self.cut_tokens:,} tokens)")
        if self.dropped:
            within = "" if length is None else f" within {length}"
            parts.append(
                f"{self.dropped:,} dropped, nothing to predict{within} ({self.dropped_tokens:,} tokens)"
            )
        if self.refused:
            parts.append(f"{len(self.refused):,} refused and left out, the first: {self.refused[0]}")
        return "; ".join(parts) if len(parts) > 1 else f"{parts[0]}; none cut or dropped"


@dataclasses.dataclass(frozen=True)
class Encoder:
    """How rows are encoded.

    Attributes:
      tokenizer: of the model.
      length: tokens that a sample may have; None for any number.
      form: of instruction rows: chat, or instruction as in LoRAMoE.
      thinking: what becomes of an assistant's thinking (jaxmoe.text.thinking).
      turns: which turns of a chat are learned: all of the assistant's, or only the last.
    """

    tokenizer: "PreTrainedTokenizerBase"
    length: int | None
    form: str = "instruction"
    thinking: Thinking = "template"
    turns: Turns = "all"

    def __call__(self, row: Row) -> Encoded:
        """Raises: ValueError, in one line, for a row that cannot be encoded."""
        return encode_row(
            self.tokenizer, row, self.length, form=self.form, thinking=self.thinking, turns=self.turns
        )

    def sample(self, row: Row) -> Sample | None:
        """The row as a sample; None if nothing is left to predict, as in a chat cut before its answer."""
        return as_sample(self(row), row)


def as_sample(encoded: Encoded, row: Row) -> Sample | None:
    """An encoded row with its task type.

    Args:
      row: where `task_type` is read; without one the sample has none (-1).
    Returns: the sample; None if it has no target.
    """
    task = int(row.get("task_type", NO_TASK))
    return Sample(encoded.ids, encoded.loss_mask, task) if encoded.loss_mask.any() else None


class EncodedRows(Sequence[Sample | None]):
    """Rows encoded when they are read; for sets too large to hold as tokens. None as in `Encoder.sample`.

    A row that is refused only now is left out and reported, as the run has long begun.
    """

    def __init__(self, rows: Sequence[Row], encoder: Encoder, refused: Callable[[int, ValueError], None]):
        self._rows, self._encoder, self._refused = rows, encoder, refused

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample | None:  # type: ignore[override]
        try:
            return self._encoder.sample(self._rows[index])
        except ValueError as error:
            self._refused(index, error)
            return None


def encode_samples(
    rows: Sequence[Row],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int | None,
    *,
    form: str = "instruction",
    thinking: Thinking = "template",
) -> list[Sample]:
    """Encode all rows now (about 40 thousand short rows a second), leaving out those without a target.

    Args: see `Encoder`.
    Returns: samples in the order of the rows.
    Raises: ValueError if there are no rows, or none of them has a target, or one is refused.
    """
    encoder = Encoder(tokenizer, max_length, resolve_form(tokenizer, form), thinking)
    return encode_all(rows, encoder, Tally())


def encode_all(
    rows: Sequence[Row],
    encoder: Encoder,
    tally: Tally,
    *,
    place: Callable[[int], str] = lambda index: f"row {index + 1}",
    bad: Bad = "error",
) -> list[Sample]:
    """Encode all rows, and count what becomes of them.

    Args:
      tally: counts are added to it.
      place: where a row stands in its file, for messages.
      bad: what to do about a row that is refused: raise, or leave it out and note it in the tally.
    Returns: samples in the order of the rows, without those that have no target.
    Raises: ValueError, naming the place, for a row that is refused; and if no row has a target.
    """
    known: dict[str, Encoded] = {}  # texts of the embedded corpora recur many times
    samples = []
    for index, row in enumerate(rows):
        text = row["text"] if format_of(row) == "text" else None
        encoded = None if text is None else known.get(text)
        if encoded is None:
            try:
                encoded = encoder(row)
            except ValueError as error:
                if bad == "error":
                    raise ValueError(f"{place(index)}: {error}") from None
                tally.refused.append(f"{place(index)}: {error}")
                continue
            if text is not None:
                known[text] = encoded
        tally.count(row, encoded)
        sample = as_sample(encoded, row)
        if sample is not None:
            samples.append(sample)
    if not samples:
        within = "" if encoder.length is None else f" within {encoder.length}"
        raise ValueError(
            f"the data set is empty: none of its {len(rows)} rows has a token to predict{within}"
            + (f"; refused, the first: {tally.refused[0]}" if tally.refused else "")
        )
    return samples


def format_of(row: Row) -> str:
    """The key by which a row is encoded (`jaxmoe.tokenizer.encode_row`); "" for a row that has none.

    >>> format_of({"instruction": "Add.", "output": "4", "text": ""})
    'instruction'
    """
    return next((key for key in ("messages", "instruction", "completion", "text") if key in row), "")


def kind_of(row: Row) -> tuple[object, ...] | None:
    """What a chat template's refusals mostly depend on: who speaks in what order, and how.

    None for rows that need no template.
    """
    if "messages" not in row:
        return None
    return tuple(
        (m["role"], bool(m["content"]), bool(m.get("tool_calls")), "</think>" in m["content"])
        for m in row["messages"]
    )


def pieces(samples: Sequence[Sample], length: int) -> list[Sample]:
    """Splits longer samples into pieces of at most `length` tokens, as packing=concat does.

    The first token of a later piece is not a target, as it has no predecessor there.

    Args:
      length: most tokens of a piece.
    Returns: the pieces in order, without those that have no target.
    """
    found = []
    for sample in samples:
        for start in range(0, len(sample.tokens), length):
            mask = sample.loss_mask[start : start + length].copy()
            mask[:1] = 0.0
            if mask.any():
                found.append(Sample(sample.tokens[start : start + length], mask, sample.task_type))
    return found


def shown(tokenizer: "PreTrainedTokenizerBase", sample: Sample, limit: int = 240) -> str:
    """A sample as one line, with what is learned in « »; long stretches lose their middle.

    Args:
      limit: characters shown of each stretch.
    Returns: the text, special tokens included, with line ends written as \\n.
    """
    turns = np.flatnonzero(np.diff(sample.loss_mask > 0)) + 1
    parts = []
    for run in np.split(np.arange(len(sample.tokens)), turns):
        text = decode(tokenizer, sample.tokens[run].tolist(), special_tokens=True)
        if len(text) > limit:
            text = f"{text[: limit // 2]} .. {text[len(text) - limit // 2 :]}"
        parts.append(f"«{text}»" if sample.loss_mask[run[0]] else text)
    return "".join(parts).replace("\r", "\\r").replace("\n", "\\n")
