"""Where rows come from: files, folders, TFDS and hub data sets, mixed by weight, encoded by one tokenizer."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.text import Text

from jaxmoe.base_folder import local_folder
from jaxmoe.cache import cache_folder
from jaxmoe.datasets.json_rows import lines, read_text
from jaxmoe.given_paths import check_given, check_writable, given
from jaxmoe.json_values import JsonObject
from jaxmoe.progress import say
from jaxmoe.text.chat_template import chat_template
from jaxmoe.text.forms import resolve_form
from jaxmoe.tokenizer import load_tokenizer, pad_id, save_tokenizer, train_bpe
from training.data.batch import Sample
from training.data.batches import Batches
from training.data.config import DataConfig, SourceConfig
from training.data.encode import EncodedRows, Encoder, Tally, encode_all, format_of, kind_of, pieces, shown
from training.data.folders import Joined, files_of
from training.data.hub import load_hub

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder
    from transformers import PreTrainedTokenizerBase

    from jaxmoe.datasets.builders import Rows as PreparedRows

# Sets up to this many rows are encoded before training starts; larger ones when they are read.
ENCODE_AT_ONCE = 500_000
# This many rows of a larger one tell beforehand how much is cut.
LOOKED_AT = 2_000

Rows = Sequence[JsonObject]


class SourceRows(NamedTuple):
    """The rows of a data set, where each is in its file, and a note on how it was read."""

    rows: Rows
    place: Callable[[int], str]
    note: str = ""


def read_source(source: SourceConfig, config: DataConfig) -> SourceRows:
    """The rows of a source with their places, prepared by TFDS if they are not prepared yet (text is read as
    it is).

    Args:
      source: the data set, and how many of its rows to take.
      config: gives the folder and the modules of TFDS data sets.
    Returns: the rows, and a function from a row's index to its place.
    Raises: ValueError, with file and line, for anything that is not a row; and for an empty or unknown
      source.
    """
    if source.path is None:
        return _read_source(source, config)
    with given(_key_of(source, config), source.path, "file or folder"):
        return _read_source(source, config)


def check_places(config: DataConfig) -> None:
    """Checks that the files and folders of a config are there, before any of them is read.

    Args:
      config: of the data.
    Raises: ValueError, in one line that names the key, for the first that is not.
    """
    for source in (*config.sources, *config.valid, *config.tokenizer_sources):
        if source.path is not None:
            check_given(_key_of(source, config), source.path, "file or folder")
    if config.data_dir is not None:
        check_writable("data.data_dir", config.data_dir, "folder")


def _key_of(source: SourceConfig, config: DataConfig) -> str:
    for name in ("sources", "valid", "tokenizer_sources"):
        listed = getattr(config, name)
        if source in listed:
            return f"data.{name}.{listed.index(source)}.path"
    return "path"  # of a source that is read without a config that names it


def _read_source(source: SourceConfig, config: DataConfig) -> SourceRows:
    if source.hub is not None:
        hub = load_hub(source.hub, source.subset, source.split, source.label)
        found = SourceRows(hub, hub.place)
    elif source.path is None:
        found = _named_rows(source, config)
    elif Path(source.path).is_dir():
        found = _folder_rows(source, config)
    else:
        found = _file_rows(source.path, config)
    rows = found.rows if source.limit is None else found.rows[: source.limit]
    if not len(rows):
        raise ValueError(f"the data source {source.label} is empty")
    return SourceRows(rows, found.place, found.note)


def read_rows(source: SourceConfig, config: DataConfig) -> Rows:
    """The rows of a source without their places; see `read_source`.

    Args:
      source: the data set, and how many of its rows to take.
      config: gives the folder and the modules of TFDS data sets.
    Returns: rows as in the file.
    Raises: ValueError, as `read_source` does.
    """
    return read_source(source, config).rows


def _folder_rows(source: SourceConfig, config: DataConfig) -> SourceRows:
    folder = Path(str(source.path))
    files = files_of(folder, source.split)
    read = [_file_rows(str(path), config) for path in files.files]
    rows = Joined([part.rows for part in read])

    def place(index: int) -> str:
        part, within = rows.find(index)
        return read[part].place(within)

    return SourceRows(rows, place, files.said(folder))


def _file_rows(path: str, config: DataConfig) -> SourceRows:
    return READERS.get(Path(path).suffix.lower(), _prepared_rows)(path, config)


def _text_rows(path: str, config: DataConfig) -> SourceRows:
    numbered = list(lines(read_text(Path(path))))
    return SourceRows([{"text": line} for _, line in numbered], lambda i: f"{path}:{numbered[i][0]}")


def _prepared_rows(path: str, config: DataConfig) -> SourceRows:
    from jaxmoe.datasets import builders

    file = builders.FileConfig.of(path)
    with builders.quiet():
        builder = builders.InstructionFile(config=file, data_dir=_data_dir(config))
    rows = _prepared(builder, path, "train")
    return SourceRows(rows, lambda i: f"{path}:{rows.place(i)}")


# How files are read, by their ending; all others hold JSON or are Parquet.
READERS: dict[str, Callable[[str, DataConfig], SourceRows]] = {".txt": _text_rows}


def _named_rows(source: SourceConfig, config: DataConfig) -> SourceRows:
    rows = _prepared(_named_builder(source, config), str(source.name), source.split)
    return SourceRows(rows, lambda i: f"{source.label}, {rows.place(i)}")


def _prepared(builder: "DatasetBuilder", name: str, split: str) -> "PreparedRows":
    """The rows of a builder's split; while it is prepared, a terminal shows one line with their number."""
    from jaxmoe.datasets import builders

    with builders.quiet():
        prepared = builder.is_prepared()
    if not prepared:
        with Console(markup=False, emoji=False, stderr=True).status(Text(f"preparing {name}")) as line:
            builders.prepare(builder, lambda count: line.update(Text(f"preparing {name}: {count:,} rows")))
    with builders.quiet():
        return builders.rows(builder, split)


def _data_dir(config: DataConfig) -> str:
    return str(cache_folder("data")) if config.data_dir is None else config.data_dir


def _named_builder(source: SourceConfig, config: DataConfig) -> "DatasetBuilder":
    import tensorflow_datasets as tfds

    for module in config.modules:
        try:
            import_module(module)
        except ImportError as error:
            raise ValueError(f"data.modules: cannot import {module}: {error}") from error
    from jaxmoe.datasets import builders  # registers ours

    try:
        with builders.quiet():
            return tfds.builder(str(source.name), data_dir=_data_dir(config))
    except Exception as error:  # TFDS raises many kinds here; the first line says what is wrong
        reason = str(error).strip().split("\n", 1)[0]
        raise ValueError(f"there is no TFDS data set {source.name}: {reason}") from error


def identity(config: DataConfig) -> list[str]:
    """What identifies these sources: the content hash of files, the name of data sets of TFDS and the hub."""
    from jaxmoe.datasets.instruction_files import content_hash

    known: list[str] = []
    for source in config.sources:
        known += [source.label] if source.path is None else map(content_hash, _files(source))
    return known


def _files(source: SourceConfig) -> list[Path]:
    path = Path(str(source.path))
    if path.is_dir():
        return files_of(path, source.split).files
    if not path.is_file():
        raise ValueError(f"{source.path}: no such data file")
    return [path]


_TEXT_KEYS = ("text", "instruction", "input", "output", "prompt", "completion")


def row_text(row: JsonObject) -> str:
    """All text of a row, for training a tokenizer."""
    if "messages" in row:
        return "\n".join(message["content"] for message in row["messages"])
    return "\n".join(str(row[key]) for key in _TEXT_KEYS if row.get(key))


def make_tokenizer(config: DataConfig, base: str | None, folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of the config or the base, or one trained on the sources, which `folder` then keeps.

    Args:
      config: with vocab_size a tokenizer is trained, unless the folder has one; with tokenizer it is loaded.
      base: local folder or hub id, whose tokenizer is used if the config names none.
      folder: where a tokenizer that is trained here is kept.
    Returns: the tokenizer.
    Raises: ValueError if neither the config nor a base gives one, or the base is missing.
    """
    if config.vocab_size is not None:
        if not (folder / "tokenizer.json").exists():
            used = config.tokenizer_sources or config.sources
            texts = (row_text(row) for source in used for row in read_rows(source, config))
            save_tokenizer(train_bpe(texts, config.vocab_size), folder)
        return load_tokenizer(folder)
    # a missing base is reported before anything is looked for in it
    place = config.tokenizer or (None if base is None else local_folder(base))
    if place is None:
        raise ValueError(
            "a new model needs data.tokenizer (folder or hub id) or data.vocab_size (trains one)"
        )
    return load_tokenizer(place)


class EncodedSource(NamedTuple):
    """A data set as samples (None: left out), and what became of its rows.

    Attributes:
      tally: of all rows; if they are encoded only when they are read, of the first `LOOKED_AT`, but with the
        formats of all.
      note: a note on how it was read.
    """

    label: str
    samples: Sequence[Sample | None]
    tally: Tally
    note: str = ""


def encode_source(source: SourceConfig, config: DataConfig, encoder: Encoder) -> EncodedSource:
    """A source's samples; rows of sets that are too large to hold are checked now, and encoded when read.

    Args:
      config: how to read the source, and what to do about bad rows.
      encoder: from `encoder_of`.
    Returns: the samples, and counts of what was cut or left out.
    Raises: ValueError, naming file and row, for a row that is refused (unless data.bad is skip); naming the
      source, if nothing is left to learn from.
    """
    rows, place, note = read_source(source, config)
    tally = Tally()
    if len(rows) <= ENCODE_AT_ONCE:
        try:
            samples = encode_all(rows, encoder, tally, place=place, bad=config.bad)
        except ValueError as error:
            said = str(error)
            raise ValueError(said if said.startswith(source.label) else f"{source.label}: {said}") from None
        return EncodedSource(source.label, samples, tally, note)
    _check_kinds(rows, encoder, tally, place, config)
    encode_all(rows[:LOOKED_AT], encoder, tally, place=place, bad=config.bad)

    def refused(index: int, error: ValueError) -> None:
        say(f"left out: {place(index)}: {error}")

    return EncodedSource(source.label, EncodedRows(rows, encoder, refused), tally, note)


def _check_kinds(
    rows: Rows, encoder: Encoder, tally: Tally, place: Callable[[int], str], config: DataConfig
) -> None:
    """Encodes one conversation of each kind, so that what a template refuses is reported now, not days later.

    The formats found go into the tally.
    """
    known = set()
    for index, row in enumerate(rows):
        tally.formats.add(format_of(row))
        kind = kind_of(row)
        if kind is not None and kind not in known:
            known.add(kind)
            try:
                encoder(row)
            except ValueError as error:
                if config.bad == "error":
                    raise ValueError(f"{place(index)}: {error}") from None


def encoder_of(config: DataConfig, tokenizer: "PreTrainedTokenizerBase") -> Encoder:
    """How the config encodes rows: with packing=concat they need not fit a row of a batch.

    Args:
      config: gives form, thinking and length.
      tokenizer: its chat template decides if form is auto.
    Returns: the encoder, its form resolved.
    """
    length = None if config.packing == "concat" else config.length
    return Encoder(tokenizer, length, resolve_form(tokenizer, config.form), config.thinking, config.turns)


def encode_sources(
    sources: Sequence[SourceConfig], config: DataConfig, tokenizer: "PreTrainedTokenizerBase"
) -> list[Sequence[Sample | None]]:
    """Every source's samples, each within data.length: for evaluation, where a sample has a row of its own.

    With packing=concat longer ones are split, as in training; otherwise they are cut.

    Args:
      sources: data sets, such as config.valid.
      config: how to read and encode them; its own sources are not read.
    Returns: for each source its samples (None: left out).
    Raises: ValueError, as `encode_source` does.
    """
    encoder = encoder_of(config, tokenizer)
    encoded = [encode_source(source, config, encoder).samples for source in sources]
    if config.packing != "concat":
        return encoded
    return [pieces([s for s in samples if s is not None], config.length) for samples in encoded]


class Feed:
    """The training data of a run, encoded once: as batches for a process, and how many there are."""

    def __init__(self, config: DataConfig, tokenizer: "PreTrainedTokenizerBase"):
        self._config, self._tokenizer = config, tokenizer
        self._encoder = encoder_of(config, tokenizer)
        self._encoded = [encode_source(source, config, self._encoder) for source in config.sources]
        self._pad = pad_id(tokenizer)

    def report(self) -> list[str]:
        """What a run reports about its data when it starts: how many rows and tokens there are, how many are
        lost, the form of instructions, and one sample with what is learned of it."""
        said = []
        for source in self._encoded:
            of = f" (the first {LOOKED_AT:,} of {len(source.samples):,})" if _is_lazy(source) else ""
            said.append(f"{source.label}{of}: {source.tally.said(self._encoder.length)}")
            if source.note:
                said.append(f"{source.label}: {source.note}")
        formats = set[str]().union(*(source.tally.formats for source in self._encoded))
        if "instruction" in formats:
            how = FORMS[self._encoder.form]
            said.append(f"data.form={self._config.form}: instructions are put {how}")
        if sum(source.tally.thinking for source in self._encoded):
            said.append(f"data.thinking={self._config.thinking}: {THINKING[self._config.thinking]}")
        if "completion" in formats:
            said.append("prompts with completions are put as they stand, without a chat template")
        listed = sum(source.tally.tools for source in self._encoded)
        if listed and not chat_template(self._tokenizer).shows_tools:
            said.append("the chat template leaves out `tools`: the model does not see those functions")
        if self._config.turns == "last":
            said.append("data.turns=last: of a chat only the last answer is learned")
        if "messages" in formats or self._encoder.form == "chat":
            ends = chat_template(self._tokenizer).around
            if not ends.last_ending:
                said.append("the chat template ends no answer: the model does not learn where to stop")
        first = next(s for source in self._encoded for s in source.samples if s is not None)
        return [*said, f"a sample, what is learned in «»: {shown(self._tokenizer, first)}"]

    def batches(self, shard_index: int = 0, shard_count: int = 1) -> Batches:
        """A process's share of the stream, from its start.

        Args:
          shard_index: which part of each global batch's rows is ours, from 0.
          shard_count: how many processes share a batch.
        Returns: batches whose position can be saved and restored.
        Raises: ValueError if the batch does not divide by the processes.
        """
        return Batches(
            [source.samples for source in self._encoded],
            self._config,
            pad_id=self._pad,
            weights=[source.weight for source in self._config.sources],
            shard_index=shard_index,
            shard_count=shard_count,
        )

    def count(self) -> int:
        """Batches in data.epochs, counted by going through them once."""
        return sum(1 for _ in self.batches())


FORMS = {
    "chat": "by the tokenizer's chat template",
    "instruction": "in the LoRAMoE form: prompt, end of sequence, answer",
}
THINKING = {
    "template": "thinking stays where the chat template keeps it, mostly in the last answer only",
    "keep": "thinking stays in every answer, and is learned",
    "drop": "thinking is left out of every answer",
}


def _is_lazy(source: EncodedSource) -> bool:
    return isinstance(source.samples, EncodedRows)
