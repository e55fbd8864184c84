"""Where rows come from: files and TFDS data sets, mixed by weight, encoded by one tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


from jaxmoe.base_folder import local_folder
from jaxmoe.tokenizer import load_tokenizer, save_tokenizer, train_bpe
from training.data.batches import BatchConfig, Batches, EncodedRows, Sample, encode_samples

# Sets up to this many rows are encoded before training starts; larger ones when they are read.
ENCODE_AT_ONCE = 500_000


@dataclass(frozen=True)
class SourceConfig:
    """One data set of the mixture: a file, or a TFDS data set.

    Attributes:
      path: JSON list or JSON lines (rows with text, or instruction and output, or messages), or .txt with a
        document a line.
      name: TFDS name, as in jaxmoe_instructions/demo; prepared when it is first used.
      split: part of a TFDS data set, slices allowed.
      weight: share in the mixture, against the other sources' weights.
      limit: first so many rows only; null takes all.
    """

    path: str | None = None
    name: str | None = None
    split: str = "train"
    weight: float = 1.0
    limit: int | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.name is None):
            raise ValueError(
                f"a data source needs a path or a TFDS name; got path {self.path} and name {self.name}"
            )
        if self.weight <= 0:
            raise ValueError(f"the weight of a data source must be positive; got {self.weight}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"the limit of a data source must be at least 1; got {self.limit}")

    @property
    def label(self) -> str:
        """What to call it in messages."""
        return str(self.path if self.name is None else f"{self.name} ({self.split})")


@dataclass(frozen=True)
class DataConfig(BatchConfig):
    """What to train on, and how it becomes batches.

    Attributes:
      sources: data sets and their weights.
      valid: data sets for a held-out loss; keys as in sources.
      tokenizer: folder or hub id; null takes the base's.
      vocab_size: train a byte-level BPE of so many tokens instead; the run folder keeps it.
      tokenizer_sources: what to train it on; none means sources.
      data_dir: where TFDS keeps prepared data; null is TFDS's own default.
      modules: Python modules to import first, such as those that register TFDS builders.
    """

    sources: tuple[SourceConfig, ...] = ()
    valid: tuple[SourceConfig, ...] = ()
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


Rows = Sequence[dict[str, Any]]


def read_rows(source: SourceConfig, config: DataConfig) -> Rows:
    """The rows of a source, prepared by TFDS if they are not yet (text files are read as they are).

    Raises: ValueError, with file and line, for what is no row; and for an empty or unknown source.
    """
    if source.path is not None and source.path.endswith(".txt"):
        rows: Rows = _text_rows(Path(source.path))
    else:
        rows = _prepared_rows(source, config)
    rows = rows if source.limit is None else rows[: source.limit]
    if not len(rows):
        raise ValueError(f"the data source {source.label} is empty")
    return rows


def _text_rows(path: Path) -> Rows:
    if not path.is_file():
        raise ValueError(f"{path}: no such data file")
    return [{"text": line} for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _prepared_rows(source: SourceConfig, config: DataConfig) -> Rows:
    from jaxmoe.datasets import builders

    if source.path is not None:
        file = builders.FileConfig.of(source.path)
        builder: Any = builders.InstructionFile(config=file, data_dir=config.data_dir)
    else:
        builder = _named_builder(source, config)
    return builders.rows(builders.prepare(builder), source.split)


def _named_builder(source: SourceConfig, config: DataConfig) -> Any:
    import tensorflow_datasets as tfds

    for module in config.modules:
        try:
            import_module(module)
        except ImportError as error:
            raise ValueError(f"data.modules: cannot import {module}: {error}") from error
    try:
        return tfds.builder(str(source.name), data_dir=config.data_dir)
    except Exception as error:  # TFDS raises many kinds here; the first line says what is wrong
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"there is no TFDS data set {source.name}: {reason}") from error


def identity(config: DataConfig) -> list[str]:
    """What tells these sources from others of the same names: files by the hash of their content."""
    from jaxmoe.datasets.instruction_files import content_hash

    return [s.label if s.path is None else content_hash(s.path) for s in config.sources if _exists(s)]


def _exists(source: SourceConfig) -> bool:
    if source.path is not None and not Path(source.path).is_file():
        raise ValueError(f"{source.path}: no such data file")
    return True


def row_text(row: dict[str, Any]) -> str:
    """All text of a row, for training a tokenizer."""
    if "messages" in row:
        return "\n".join(message["content"] for message in row["messages"])
    return "\n".join(str(row[key]) for key in ("text", "instruction", "input", "output") if row.get(key))


def make_tokenizer(config: DataConfig, base: str | None, folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of the config or the base, or one trained on the sources, which `folder` then keeps."""
    if config.vocab_size is not None:
        if not (folder / "tokenizer.json").exists():
            used = config.tokenizer_sources or config.sources
            texts = (row_text(row) for source in used for row in read_rows(source, config))
            save_tokenizer(train_bpe(texts, config.vocab_size), folder)
        return load_tokenizer(folder)
    # a base that is not there is said to be so before anything is looked for in it
    place = config.tokenizer or (None if base is None else local_folder(base))
    if place is None:
        raise ValueError(
            "a new model needs data.tokenizer (folder or hub id) or data.vocab_size (trains one)"
        )
    return load_tokenizer(place)


def encode_sources(
    sources: Sequence[SourceConfig], config: DataConfig, tokenizer: "PreTrainedTokenizerBase"
) -> list[Sequence[Sample | None]]:
    """Every source's samples.

    Raises: ValueError, naming the source, where nothing is left to learn from.
    """
    encoded: list[Sequence[Sample | None]] = []
    for source in sources:
        rows = read_rows(source, config)
        if len(rows) > ENCODE_AT_ONCE:
            encoded.append(EncodedRows(rows, tokenizer, config.length))
            continue
        try:
            encoded.append(encode_samples(rows, tokenizer, config.length))
        except ValueError as error:
            raise ValueError(f"{source.label}: {error}") from error
    return encoded


class Feed:
    """The training data of a run, encoded once: as batches for a process, and how many there are."""

    def __init__(self, config: DataConfig, tokenizer: "PreTrainedTokenizerBase"):
        self._config = config
        self._samples = encode_sources(config.sources, config, tokenizer)
        self._pad: Any = tokenizer.pad_token_id

    def batches(self, shard_index: int = 0, shard_count: int = 1) -> Batches:
        """A process's share of the stream."""
        return Batches(
            self._samples,
            self._config,
            pad_id=self._pad,
            weights=[source.weight for source in self._config.sources],
            shard_index=shard_index,
            shard_count=shard_count,
        )

    def count(self) -> int:
        """Batches in data.epochs, by going through them once."""
        return sum(1 for _ in self.batches())
