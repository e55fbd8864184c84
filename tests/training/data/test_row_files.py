"""Rows from Parquet, from folders and from the hub are those of JSON lines; a refused one is named."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from jaxmoe.datasets.instruction_files import read_instructions, read_questions
from tests.jaxmoe.text.templates import tokenizer_for
from training.data.config import DataConfig, SourceConfig
from training.data.folders import Joined, files_of
from training.data.sources import Feed, identity, read_source

ASKED, SAID = {"role": "user", "content": "two"}, {"role": "assistant", "content": "four"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
ROWS = [
    {"messages": [ASKED, SAID | {"weight": 0}, ASKED, SAID]},
    {
        "messages": [
            ASKED,
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "content": "4"},
            SAID,
        ]
    },
    {"conversations": [{"from": "human", "value": "two"}, {"from": "gpt", "value": "four"}]},
    {"prompt": "two plus", "completion": " two"},
    {"text": "two", "task_type": 0},
]


def write_lines(path, rows=ROWS):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def write_table(path, rows=ROWS):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(with_every_key(rows)), path)
    return path


def with_every_key(rows):
    """pyarrow takes a table's columns from its first row."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return [{key: row.get(key) for key in keys} for row in rows]


def configured(tmp_path, **source) -> DataConfig:
    return DataConfig(
        sources=(SourceConfig(**source),), length=64, batch_size=8, epochs=1, data_dir=str(tmp_path / "tfds")
    )


def carried(config: DataConfig) -> list[str]:
    """What the batches of a feed would have the model learn, row by row, in alphabetical order."""
    tokenizer = tokenizer_for("qwen2.5")
    return sorted(
        tokenizer.decode(tokens[mask > 0])
        for batch in Feed(config, tokenizer).batches()
        for tokens, mask in zip(batch.tokens, batch.loss_mask, strict=True)
        if mask.any()
    )


def test_parquet_holds_the_rows_of_json_lines(tmp_path):
    lines, table = write_lines(tmp_path / "a.jsonl"), write_table(tmp_path / "b.parquet")
    assert read_instructions(table) == read_instructions(lines)
    want = carried(configured(tmp_path, path=str(lines)))
    assert len(want) == len(ROWS)
    assert carried(configured(tmp_path, path=str(table))) == want
    assert identity(configured(tmp_path, path=str(table))) != identity(configured(tmp_path, path=str(lines)))
    asked = [{"question": "Who?", "answers": ["A", "B"]}, {"question": "Where?", "answers": ["here"]}]
    assert read_questions(write_table(tmp_path / "q.parquet", asked)) == asked


def test_a_row_or_file_of_parquet_that_is_refused_is_named(tmp_path):
    bad = write_table(tmp_path / "a.parquet", [*ROWS, {"messages": [ASKED]}])
    with pytest.raises(ValueError, match=r"a\.parquet:row 6: a chat needs at least one assistant message"):
        read_instructions(bad)
    with pytest.raises(ValueError, match=r"b\.parquet: no such data file"):
        read_instructions(tmp_path / "b.parquet")
    for damage in (b"PAR1", bad.read_bytes()[:-40], b""):
        bad.write_bytes(damage)
        with pytest.raises(ValueError, match=r"a\.parquet: no whole Parquet file \(") as error:
            read_instructions(bad)
        assert "\n" not in str(error.value)


@pytest.fixture
def folder(tmp_path):
    """As a data set of the hub lies on disk."""
    root = tmp_path / "set"
    write_lines(root / "data" / "train-00000-of-00002.jsonl", ROWS[:2])
    write_table(root / "data" / "train-00001-of-00002.parquet", ROWS[2:4])
    write_lines(root / "data" / "test-00000-of-00001.jsonl", ROWS[4:])
    (root / "more.txt").write_text("two\nfour\n")
    (root / "README.md").write_text("about")
    (root / "dataset_infos.json").write_text("{}")
    write_lines(root / ".cache" / "old.jsonl", ROWS)
    return root


def test_a_folder_is_its_files_of_one_split(tmp_path, folder):
    config = configured(tmp_path, path=str(folder))
    found = read_source(config.sources[0], config)
    one = [read_source(SourceConfig(path=str(path)), config).rows for path in files_of(folder, "train").files]
    assert list(found.rows) == [row for rows in one for row in rows]
    assert len(found.rows) == 6
    assert found.place(3) == f"{folder}/data/train-00001-of-00002.parquet:row 2"
    assert found.place(5) == f"{folder}/more.txt:2"
    said = Feed(config, tokenizer_for("qwen2.5")).report()
    assert f"{folder}: {found.note}" in said
    assert found.note == (
        "3 files (data/train-00000-of-00002.jsonl, data/train-00001-of-00002.parquet, more.txt), "
        "3 left out (README.md, data/test-00000-of-00001.jsonl, dataset_infos.json)"
    )
    tested = configured(tmp_path, path=str(folder), split="test")
    assert [row["text"] for row in read_source(tested.sources[0], tested).rows] == ["two"]
    assert len(identity(config)) == 3
    assert not set(identity(config)) & set(identity(tested))


def test_a_folder_without_the_split_and_a_bad_file_are_named(tmp_path, folder):
    none = configured(tmp_path, path=str(folder), split="dev")
    with pytest.raises(ValueError, match=r"set: no file of the split validation .*; there are README\.md, "):
        read_source(none.sources[0], none)
    odd = configured(tmp_path, path=str(folder), split="train[:10%]")
    with pytest.raises(ValueError, match=r"must be one of train, validation, test; got 'train\[:10%\]'"):
        identity(odd)
    write_lines(folder / "data" / "train-x.jsonl", [ROWS[0], {"messages": []}])
    config = configured(tmp_path, path=str(folder))
    with pytest.raises(ValueError, match=r"data/train-x\.jsonl:2: messages must be a non-empty list"):
        Feed(config, tokenizer_for("qwen2.5"))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("a.jsonl", "train"),
        ("latest.jsonl", "train"),
        ("my_test.jsonl", "test"),
        ("test/part1.jsonl", "test"),
        ("dev.jsonl", "validation"),
        ("train/eval-set.jsonl", "test"),
    ],
)
def test_a_word_in_the_name_tells_the_split(tmp_path, name, split):
    path = write_lines(tmp_path / name)
    assert files_of(tmp_path, split).files == [path]


def test_joined_rows_are_found_from_both_ends():
    rows = [{"text": str(i)} for i in range(5)]
    joined = Joined([rows[:2], [], rows[2:]])
    assert [joined[i] for i in range(5)] == rows
    assert joined[-1] == rows[4]
    assert joined[1:3] == rows[1:3]
    with pytest.raises(IndexError):
        joined[5]


def stand_in(tables):
    """A package `datasets` that has these."""

    def load_dataset(repository, subset, split, trust_remote_code):
        if (repository, subset) not in tables:
            raise FileNotFoundError(f"Dataset '{repository}' doesn't exist\non the Hub")
        assert split == "train[:5]"
        return tables[repository, subset]

    return SimpleNamespace(load_dataset=load_dataset)


def test_a_data_set_of_the_hub(tmp_path, monkeypatch):
    tables = {("a/b", None): with_every_key(ROWS), ("a/c", "main"): [*ROWS, {"id": 3}]}
    monkeypatch.setitem(sys.modules, "datasets", stand_in(tables))
    config = configured(tmp_path, hub="a/b", split="train[:5]")
    assert carried(config) == carried(configured(tmp_path, path=str(write_lines(tmp_path / "a.jsonl"))))
    assert identity(config) == ["a/b (train[:5])"]
    bad = configured(tmp_path, hub="a/c", subset="main", split="train[:5]")
    with pytest.raises(ValueError, match=r"^a/c main \(train\[:5\]\), row 6: a row needs one of the keys"):
        Feed(bad, tokenizer_for("qwen2.5"))
    missing = configured(tmp_path, hub="a/d", split="train[:5]")
    with pytest.raises(ValueError, match=r"a/d .*: Dataset 'a/d' doesn't exist on the Hub$"):
        Feed(missing, tokenizer_for("qwen2.5"))


def test_the_package_that_the_hub_needs_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    config = configured(tmp_path, hub="a/b")
    with pytest.raises(ValueError, match=r"a/b \(train\): .* need the package datasets \(pip install"):
        read_source(config.sources[0], config)


@pytest.mark.parametrize("given", [{}, {"path": "a", "hub": "b"}, {"name": "a", "subset": "b"}])
def test_a_source_is_one_of_three(given):
    with pytest.raises(ValueError, match="a data source"):
        SourceConfig(**given)


def test_weights_of_a_table_are_whole_numbers(tmp_path):
    """Columns with nulls become floats in pandas: 0.0 and 1.0 are read as 0 and 1."""
    rows = [{"messages": [ASKED, SAID | {"weight": 0.0}, ASKED, SAID | {"weight": 1.0}]}]
    (row,) = read_instructions(write_table(tmp_path / "a.parquet", rows))
    assert [message.get("weight") for message in row["messages"]] == [None, 0, None, 1]
    assert np.sum([len(c) for c in carried(configured(tmp_path, path=str(tmp_path / "a.parquet")))]) > 0
