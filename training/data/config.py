"""What to train on: data sets, their weights, and how their rows become batches."""

from dataclasses import dataclass
from typing import Literal

from jaxmoe.text.answer_spans import Turns
from jaxmoe.text.thinking import Thinking
from training.data.batch import BatchConfig


@dataclass(frozen=True)
class SourceConfig:
    """One data set of the mixture: a file or folder, a TFDS data set, or one from the Hugging Face hub.

    Attributes:
      path: JSON list, JSON lines or Parquet (messages, ShareGPT conversations, prompt and completion,
        instruction and output, or text; see docs/formats), .txt with one document per line, or a folder of
        these.
      name: TFDS name, such as jaxmoe_instructions/demo; prepared on first use.
      hub: owner/name of a data set on the hub; needs the package datasets.
      subset: configuration of the hub's data set, if it has several.
      split: part of a TFDS or hub data set, slices allowed; for a folder train, validation or test, told by a
        word in its files' names. A file has no splits.
      weight: share of the mixture, relative to the other sources' weights.
      limit: take only this many rows, from the first; null takes all.
    """

    path: str | None = None
    name: str | None = None
    hub: str | None = None
    subset: str | None = None
    split: str = "train"
    weight: float = 1.0
    limit: int | None = None

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.path, self.name, self.hub)) != 1:
            raise ValueError(
                "a data source needs a path, a TFDS name or a hub data set, and one of them; "
                f"got path {self.path}, name {self.name} and hub {self.hub}"
            )
        if self.subset is not None and self.hub is None:
            raise ValueError(f"the subset of a data source needs a hub data set; got {self.subset}")
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"the weight of a data source must be positive; got {self.weight}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"the limit of a data source must be at least 1; got {self.limit}")

    @property
    def label(self) -> str:
        """What to call it in messages."""
        if self.path is not None:
            return self.path
        named = self.name if self.hub is None else " ".join(filter(None, (self.hub, self.subset)))
        return f"{named} ({self.split})"


@dataclass(frozen=True)
class DataConfig(BatchConfig):
    """What to train on, and how it becomes batches.

    Attributes:
      sources: data sets and their weights.
      valid: data sets for a held-out loss; keys as in sources.
      form: of instruction rows: auto uses the tokenizer's chat template if it has one, else the LoRAMoE form
        (prompt, end of sequence, answer); chat and instruction name one of these two.
      thinking: of the assistant's thinking (<think> or reasoning_content), template keeps what the chat
        template keeps, mostly that of the last answer; keep keeps all; drop leaves it out and asks for none.
      turns: which turns of a chat are learned: all of the assistant's, or only the last.
      bad: error refuses a data set with a row that cannot be encoded, skip leaves such rows out and reports
        them.
      tokenizer: folder or hub id; null takes the base's.
      vocab_size: train a byte-level BPE tokenizer of this many tokens instead; the run folder keeps it.
      tokenizer_sources: what to train it on; an empty list means sources.
      data_dir: where TFDS keeps prepared data; null means the folder data in the project's cache
        (JAXMOE_CACHE, else ~/.cache/jaxmoe).
      modules: Python modules to import first, such as those that register TFDS builders.
    """

    sources: tuple[SourceConfig, ...] = ()
    valid: tuple[SourceConfig, ...] = ()
    form: Literal["auto", "chat", "instruction"] = "auto"
    thinking: Thinking = "template"
    turns: Turns = "all"
    bad: Literal["error", "skip"] = "error"
    tokenizer: str | None = None
    vocab_size: int | None = None
    tokenizer_sources: tuple[SourceConfig, ...] = ()
    data_dir: str | None = None
    modules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sources:
            raise ValueError("data.sources must name at least one data set; got none")
        if self.tokenizer is not None and self.vocab_size is not None:
            raise ValueError("give data.tokenizer or data.vocab_size (trains one), not both")
