"""TFDS builders of everything the project trains and tests on, without TensorFlow.

Records are stored as array_record and read at random (`as_data_source`), which is what Grain's order
needs. A user's file is prepared under the hash of its content, and the embedded data under a version that
follows from the code and tables that make them: what has changed is prepared anew and never served stale.
Importing this module registers the builders; `prepare` and `rows` are the way in.
"""

import contextlib
import dataclasses
import fcntl
import io
import json
import logging
import re
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar, overload

import numpy as np
import tensorflow_datasets as tfds

from jaxmoe.datasets.corpora import (
    CorpusConfig,
    demo_corpus,
    instruction_rows,
    knowledge_test_rows,
    pretraining_texts,
    study_corpus,
    task_test_rows,
)
from jaxmoe.datasets.formats.fields import Row
from jaxmoe.datasets.instruction_files import content_hash, placed_instructions, read_questions
from jaxmoe.datasets.programs import Kind
from jaxmoe.datasets.programs import pretraining_texts as program_texts

Config = TypeVar("Config", bound=tfds.core.BuilderConfig)
Features = dict[str, Any]  # as TFDS takes them: its connectors, numpy types, dictionaries of both

_TEXT = tfds.features.Text()
_ANSWERS = tfds.features.Sequence(_TEXT)
_INSTRUCTION = {"instruction": _TEXT, "input": _TEXT, "output": _TEXT, "task_type": np.int32}


@dataclasses.dataclass(eq=False)
class CorpusBuilderConfig(tfds.core.BuilderConfig):
    """An embedded corpus, and how many instruction rows to make of it."""

    corpus: CorpusConfig = dataclasses.field(default_factory=CorpusConfig)
    train_rows: int = 20_000
    test_rows: int = 1_400  # of dev and of test


@dataclasses.dataclass(eq=False)
class FileConfig(tfds.core.BuilderConfig):
    """A user's file; its name holds the hash of the content."""

    path: str = ""

    @classmethod
    def of(cls, path: str | Path) -> "FileConfig":
        """Raises: ValueError if there is no such file."""
        if not Path(path).is_file():
            raise ValueError(f"{path}: no such data file")
        stem = re.sub(r"\W+", "_", Path(path).stem)
        return cls(name=f"{stem}-{content_hash(path)}", description=str(path), path=str(path))


@dataclasses.dataclass(eq=False)
class ProgramsConfig(tfds.core.BuilderConfig):
    """Which kind of problem the programs solve."""

    kind: Kind = "rules"


def data_version(folder: Path) -> str:
    """1.0.N, where N stands for the content of all files below a folder: generators and tables."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".csv", ".json"))
    return f"1.0.{zlib.crc32(b''.join(path.name.encode() + path.read_bytes() for path in files))}"


class _RowsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Splits whose rows functions make; a subclass names its features and those functions."""

    VERSION = tfds.core.Version(data_version(Path(__file__).parent))
    FEATURES: ClassVar[Features]
    IN_ORDER = False  # TFDS shuffles by the hash of a key otherwise
    progress: Callable[[int], None] = staticmethod(lambda count: None)

    def __init__(self, *, file_format: str = "array_record", **kwargs: Any):  # all that TFDS' own takes
        super().__init__(file_format=file_format, **kwargs)

    def splits(self) -> dict[str, Callable[[], Iterable[Row]]]:
        """What makes the rows of each split."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(self.FEATURES)
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=self.IN_ORDER)

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, Row]]]:
        return {split: self._generate_examples(make()) for split, make in self.splits().items()}

    def _generate_examples(self, rows: Iterable[Row]) -> Iterator[tuple[int, Row]]:
        for i, row in enumerate(rows):
            if i % 1000 == 0:
                self.progress(i)
            yield i, {name: row[name] for name in self.FEATURES}


def _config(builder: _RowsBuilder, kind: type[Config]) -> Config:
    """The builder's config, of the kind that its BUILDER_CONFIGS are; TFDS declares the base class alone."""
    config = builder.builder_config
    assert isinstance(config, kind)
    return config


_CORPORA = [
    CorpusBuilderConfig(name="full", description="all facts"),
    CorpusBuilderConfig(name="demo", description="what the demo's base learns", corpus=demo_corpus()),
    CorpusBuilderConfig(
        name="study", description="what the bases of the LoRAMoE study learn", corpus=study_corpus()
    ),
]


class JaxmoePretraining(_RowsBuilder):
    """Embedded pretraining text: facts in many wordings, downstream skills, copying."""

    BUILDER_CONFIGS = _CORPORA
    FEATURES: ClassVar[Features] = {"text": _TEXT}

    def splits(self) -> dict[str, Callable[[], Iterable[Row]]]:
        """Pretraining texts as `train`, the only split."""
        corpus = _config(self, CorpusBuilderConfig).corpus
        return {"train": lambda: ({"text": text} for text in pretraining_texts(corpus))}


class JaxmoeInstructions(_RowsBuilder):
    """Embedded instruction mixture (train), and downstream tasks held out from it (dev, test)."""

    BUILDER_CONFIGS = _CORPORA
    FEATURES: ClassVar[Features] = _INSTRUCTION | {"answers": _ANSWERS, "family": _TEXT}

    def splits(self) -> dict[str, Callable[[], Iterable[Row]]]:
        """The mixture as `train`; downstream rows held out from it as `dev` and `test`."""
        config = _config(self, CorpusBuilderConfig)
        held_out = {split: partial(task_test_rows, split, config.test_rows) for split in ("dev", "test")}
        return {"train": partial(instruction_rows, config.corpus, config.train_rows), **held_out}


class JaxmoeKnowledge(_RowsBuilder):
    """Embedded facts as closed-book questions and completions; instructions only ever ask train facts."""

    BUILDER_CONFIGS = _CORPORA
    FEATURES: ClassVar[Features] = {
        "question": _TEXT,
        "answers": _ANSWERS,
        "completion": _TEXT,
        "relation": _TEXT,
    }

    def splits(self) -> dict[str, Callable[[], Iterable[Row]]]:
        """Facts of each split with their questions and completions, as `train`, `dev` and `test`."""
        corpus = _config(self, CorpusBuilderConfig).corpus

        def rows_of(split: str) -> Iterator[Row]:
            return (row | {"question": row["instruction"]} for row in knowledge_test_rows(corpus, split))

        return {split: partial(rows_of, split) for split in ("train", "dev", "test")}


class JaxmoePrograms(_RowsBuilder):
    """Statements with programs by authors who guess what unclear words mean; splits train and valid."""

    BUILDER_CONFIGS: ClassVar[list[ProgramsConfig]] = [
        ProgramsConfig(name="rules", description="one to three rules, one after the other"),
        ProgramsConfig(name="branches", description="one rule of two to four cases", kind="branches"),
    ]
    FEATURES: ClassVar[Features] = {"text": _TEXT}
    TEXTS: ClassVar[dict[str, int]] = {"train": 24_000, "valid": 400}

    def splits(self) -> dict[str, Callable[[], Iterable[Row]]]:
        """Statements with programs: the splits of `TEXTS`, each made with a seed of its own."""
        kind = _config(self, ProgramsConfig).kind

        def rows_of(split: str, seed: int) -> Iterator[Row]:
            return ({"text": text} for text in program_texts(self.TEXTS[split], seed=seed, kind=kind))

        return {split: partial(rows_of, split, seed) for seed, split in enumerate(self.TEXTS)}


class InstructionFile(_RowsBuilder):
    """A user's instruction rows, chats and texts (jaxmoe.datasets.instruction_files); one split, train.

    A row is stored as the JSON of its form, with its place in the file: so rows of all formats lie side by
    side, in the file's order, and nothing that JSON can hold is lost.
    """

    FEATURES: ClassVar[Features] = {"row": _TEXT, "place": _TEXT}
    IN_ORDER = True

    def splits(self) -> dict[str, Callable[[], Iterable[Row]]]:
        """The file's rows as `train`, each as JSON with its place in the file, for error messages."""
        path = _config(self, FileConfig).path
        return {
            "train": lambda: (
                {"row": json.dumps(row), "place": place} for place, row in placed_instructions(path)
            )
        }


class QuestionFile(_RowsBuilder):
    """A user's closed-book questions (jaxmoe.datasets.instruction_files); one split, test."""

    FEATURES: ClassVar[Features] = {"question": _TEXT, "answers": _ANSWERS}

    def splits(self) -> dict[str, Callable[[], Iterable[Row]]]:
        """The file's questions as `test`."""
        return {"test": partial(read_questions, _config(self, FileConfig).path)}


def prepare(
    builder: tfds.core.DatasetBuilder, progress: Callable[[int], None] | None = None
) -> tfds.core.DatasetBuilder:
    """Write the builder's records if they are not there yet; returns the builder.

    TFDS announces downloads where there are none, shows bars and logs: none of it reaches a terminal.

    Args:
      builder: of any TFDS data set.
      progress: told the number of rows written so far, now and then; of the builders of this module.
    Returns: the builder that was given, its records on disk.
    Raises: ValueError as the readers of instruction_files do.
    """
    if progress is not None and isinstance(builder, _RowsBuilder):
        builder.progress = progress
    with quiet(), _alone(Path(builder.data_dir).parent):
        builder.download_and_prepare()
        if not builder.info.splits:  # another process wrote it while this one waited
            builder.info.read_from_directory(builder.data_dir)
    return builder


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one process prepares a data set; others wait for it, and find it there."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        with contextlib.suppress(OSError):  # some network file systems know no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what TFDS and absl write to a terminal; errors are raised as ever."""
    absl = logging.getLogger("absl")
    loud = absl.level
    absl.setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        tfds.enable_progress_bar()
        absl.setLevel(loud)


class Rows(Sequence[Row]):
    """A prepared split as plain rows: text as str, features a row does not have left out."""

    def __init__(self, source: Sequence[Row]):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        # the record reader knows neither negative indices nor IndexError, by which iteration ends
        return plain_row(self._source[range(len(self))[index]])

    def place(self, index: int) -> str:
        """Where a row stands in the file that it comes from, else its number in the split, from 1."""
        record = self._source[range(len(self))[index]]
        return str(_plain(record["place"])) if "place" in record else f"row {index + 1}"


def rows(builder: tfds.core.DatasetBuilder, split: str = "train") -> Rows:
    """Rows of a split of a prepared builder, read at random from the record files.

    Args:
      builder: one that `prepare` has prepared.
      split: of the builder's, such as "train" or "test".
    Returns: the rows by number; nothing is held in memory.
    """
    reader: Any = builder  # the decorated method hides its arguments from type checkers
    return Rows(reader.as_data_source(split=split))


def plain_row(record: Row) -> Row:
    """A TFDS record as a row of ours: a stored row as it was read; of others bytes decoded, arrays as lists,
    and of a record that may hold messages, text or an instruction only the form it has."""
    row: Row = {key: _plain(value) for key, value in record.items()}
    if isinstance(row.get("row"), str) and "place" in row:
        return json.loads(row["row"])
    if isinstance(row.get("messages"), dict):
        turns = zip(row["messages"]["role"], row["messages"]["content"], strict=True)
        row["messages"] = [{"role": role, "content": content} for role, content in turns]
    absent = {form for form in ("messages", "text") if not row.get(form, True)}
    if row.get("messages") or row.get("text"):
        absent |= {"instruction", "input", "output"}
    return {key: value for key, value in row.items() if key not in absent}


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return value.item() if isinstance(value, (np.generic, np.ndarray)) else value
