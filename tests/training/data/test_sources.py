"""From files to samples: nothing is lost without a word, a refused row is named, data lies in the cache."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from jaxmoe.tokenizer import encode_text, save_tokenizer, train_bpe
from tests.jaxmoe.text.templates import tokenizer_for
from training.data import sources
from training.data.config import DataConfig, SourceConfig
from training.data.encode import Encoder, encode_samples, pieces, shown
from training.data.sources import Feed, encode_sources, make_tokenizer, read_rows, read_source

WORDS = " ".join(f"w{i}" for i in range(400))
ASK = {"instruction": "two plus two", "input": "is", "output": "four"}
CHAT = {"messages": [{"role": "user", "content": "two"}, {"role": "assistant", "content": "four"}]}


@pytest.fixture(scope="module")
def bpe():
    return train_bpe([WORDS], 400)


def data(path, rows, **settings) -> DataConfig:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    given = {"length": 64, "batch_size": 2, "epochs": 1, "data_dir": str(path.parent / "tfds")} | settings
    return DataConfig(sources=(SourceConfig(path=str(path)),), **given)


def test_concat_splits_documents_and_loses_nothing(tmp_path, bpe):
    texts = [WORDS, "short one", WORDS + " more"]
    config = data(tmp_path / "a.jsonl", [{"text": text} for text in texts], packing="concat")
    feed = Feed(config, bpe)
    seen = np.concatenate([b.tokens[b.segment_ids > 0] for b in feed.batches()])
    whole = np.concatenate([encode_text(bpe, text).ids for text in texts])
    np.testing.assert_array_equal(np.sort(seen), np.sort(whole))
    assert feed.report()[0].endswith(f": 3 rows, {len(whole):,} tokens; none cut or dropped")


@pytest.mark.parametrize("packing", ["none", "first_fit"])
def test_rows_that_must_fit_are_cut_and_it_is_said(tmp_path, bpe, packing):
    late = [{"role": "user", "content": WORDS}, {"role": "assistant", "content": "never seen"}]
    rows = [{"text": WORDS}, {"text": "short one"}, {"messages": late}]
    feed = Feed(data(tmp_path / "a.jsonl", rows, packing=packing), bpe)
    lost = len(encode_text(bpe, WORDS).ids) - 64
    short = len(encode_text(bpe, "short one").ids)
    said = feed.report()[0]
    assert said.startswith(f"{tmp_path / 'a.jsonl'}: 2 rows, {64 + short} tokens; ")
    assert f"1 cut to 64 tokens (lost: {lost:,} tokens)" in said
    assert "1 dropped, nothing to predict within 64 (" in said


def test_instructions_are_cut_from_the_prompt_and_counted(tmp_path, bpe):
    feed = Feed(data(tmp_path / "a.jsonl", [ASK | {"instruction": WORDS}], form="instruction"), bpe)
    assert "1 cut to 64 tokens (lost: " in feed.report()[0]


def test_held_out_documents_are_split_as_in_training(tmp_path, bpe):
    config = data(tmp_path / "a.jsonl", [{"text": WORDS}], packing="concat")
    (samples,) = encode_sources(config.sources, config, bpe)
    whole = encode_text(bpe, WORDS).ids
    np.testing.assert_array_equal(np.concatenate([s.tokens for s in samples]), whole)
    assert all(len(s.tokens) <= 64 and s.loss_mask[0] == 0 for s in samples)
    assert sum(s.loss_mask.sum() for s in samples) == len(whole) - len(samples)
    assert pieces(samples, 64)[0].tokens.tolist() == samples[0].tokens.tolist()


def test_a_refused_row_is_one_line_with_file_and_row(tmp_path):
    """Mistral's template knows no two questions in a row."""
    bad = {"messages": [CHAT["messages"][0], *CHAT["messages"]]}
    config = data(tmp_path / "a.jsonl", [CHAT, CHAT, bad, CHAT])
    with pytest.raises(ValueError, match=r"a\.jsonl:3: the chat template refuses .* must alternate") as error:
        Feed(config, tokenizer_for("mistral"))
    assert "\n" not in str(error.value)
    skipping = data(tmp_path / "a.jsonl", [CHAT, bad, CHAT], bad="skip")
    said = Feed(skipping, tokenizer_for("mistral")).report()[0]
    assert ": 2 rows, " in said
    assert f"1 refused and left out, the first: {tmp_path / 'a.jsonl'}:2: the chat template" in said
    with pytest.raises(ValueError, match=r"none of its 1 rows .* refused, the first: .*a\.jsonl:1: the chat"):
        Feed(data(tmp_path / "a.jsonl", [bad], bad="skip"), tokenizer_for("mistral"))


def test_large_sets_are_checked_before_they_are_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sources, "ENCODE_AT_ONCE", 5)
    monkeypatch.setattr(sources, "LOOKED_AT", 3)
    bad = {"messages": [CHAT["messages"][0], *CHAT["messages"]]}
    with pytest.raises(ValueError, match=r"a\.jsonl:8: the chat template refuses"):
        Feed(data(tmp_path / "a.jsonl", [CHAT] * 7 + [bad]), tokenizer_for("mistral"))
    feed = Feed(data(tmp_path / "a.jsonl", [CHAT] * 7 + [bad], bad="skip"), tokenizer_for("mistral"))
    assert feed.report()[0].startswith(f"{tmp_path / 'a.jsonl'} (the first 3 of 8): 3 rows, ")
    assert sum(int((b.task_types[:, 0] == -1).sum()) for b in feed.batches()) == 8  # a place is left empty
    assert sum(int((b.segment_ids.max(1) > 0).sum()) for b in feed.batches()) == 7
    said = capsys.readouterr().err
    assert said.startswith(f"left out: {tmp_path / 'a.jsonl'}:8: the chat template refuses")
    assert said.count("\n") == said.count("left out")


@pytest.mark.parametrize(("start", "unseen"), [("", True), ("{{ tools | tojson if tools }}", False)])
def test_tools_that_the_template_leaves_out_are_reported(tmp_path, start, unseen):
    listed = CHAT | {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}
    told = "the chat template leaves out `tools`: the model does not see those functions"
    tokenizer = tokenizer_for("smollm2")
    tokenizer.chat_template = start + tokenizer.chat_template
    assert (told in Feed(data(tmp_path / "a.jsonl", [listed], length=256), tokenizer).report()) == unseen
    assert told not in Feed(data(tmp_path / "b.jsonl", [CHAT]), tokenizer).report()


def test_instructions_go_by_the_chat_template_where_there_is_one(tmp_path):
    chat, plain = tokenizer_for("smollm2"), tokenizer_for("smollm2", template=None)
    config = data(tmp_path / "a.jsonl", [ASK])
    by_chat = Feed(config, chat).report()
    assert by_chat[1] == "data.form=auto: instructions are put by the tokenizer's chat template"
    assert by_chat[-1].endswith(
        "<|im_start|>user\\ntwo plus two\\nis<|im_end|>\\n<|im_start|>assistant\\n«four<|im_end|>»\\n"
    )
    plainly = Feed(config, plain).report()
    assert plainly[1].startswith("data.form=auto: instructions are put in the LoRAMoE form")
    assert plainly[-1] == "a sample, what is learned in «»: two plus two\\nis<|endoftext|>«four<|endoftext|>»"
    assert Feed(data(tmp_path / "a.jsonl", [ASK], form="instruction"), chat).report()[-1] == plainly[-1]
    with pytest.raises(ValueError, match="form chat needs a chat template"):
        Feed(data(tmp_path / "a.jsonl", [ASK], form="chat"), plain)
    # text has no form to choose
    assert len(Feed(data(tmp_path / "a.jsonl", [{"text": "two"}]), plain).report()) == 2


@pytest.mark.parametrize("at_once", [500_000, 5])
def test_the_form_of_instructions_is_said_wherever_they_stand(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(sources, "ENCODE_AT_ONCE", at_once)
    monkeypatch.setattr(sources, "LOOKED_AT", 3)
    said = Feed(data(tmp_path / "a.jsonl", [{"text": "two"}] * 7 + [ASK]), tokenizer_for("smollm2")).report()
    assert "data.form=auto: instructions are put by the tokenizer's chat template" in said


def test_what_becomes_of_thinking_is_said(tmp_path):
    thinking = {"messages": [CHAT["messages"][0], CHAT["messages"][1] | {"reasoning_content": "two"}]}
    said = Feed(data(tmp_path / "a.jsonl", [thinking], thinking="drop"), tokenizer_for("qwen3")).report()
    assert said[1] == "data.thinking=drop: thinking is left out of every answer"
    kept = Feed(data(tmp_path / "a.jsonl", [thinking], thinking="keep"), tokenizer_for("qwen3")).report()
    assert "«<think>\\ntwo\\n</think>\\n\\nfour<|im_end|>»" in kept[-1]


def test_a_template_that_never_ends_an_answer_is_told(tmp_path):
    endless = tokenizer_for("zephyr", template="{% for m in messages %}{{ m.content }}{% endfor %}")
    said = Feed(data(tmp_path / "a.jsonl", [CHAT]), endless).report()
    assert "the chat template ends no answer: the model does not learn where to stop" in said


def test_an_answer_of_weight_0_is_no_target(tmp_path):
    talk = [*CHAT["messages"], {"role": "user", "content": "two"}, {"role": "assistant", "content": "it is"}]
    talk[1] = talk[1] | {"weight": 0}
    said = Feed(data(tmp_path / "a.jsonl", [{"messages": talk}]), tokenizer_for("zephyr")).report()[-1]
    assert said.endswith("four</s>\\n<|user|>\\ntwo</s>\\n<|assistant|>\\n«it is</s>»\\n")


def test_a_sample_is_one_line_without_its_middle(bpe):
    (sample,) = encode_samples([ASK | {"instruction": WORDS}], bpe, None)
    line = shown(bpe, sample, limit=40)
    assert "\n" not in line
    assert len(line) < 120
    assert " .. " in line
    assert line.endswith("« four</s>»")


def test_documents_of_text_files_end_at_line_feeds_only(tmp_path):
    (tmp_path / "a.txt").write_text("one\u2028still\x0cone\x85\r\n\n two\n", encoding="utf-8", newline="")
    config = DataConfig(sources=(SourceConfig(path=str(tmp_path / "a.txt")),))
    found = read_source(config.sources[0], config)
    assert [row["text"] for row in found.rows] == ["one\u2028still\x0cone\x85", " two"]
    assert found.place(1) == f"{tmp_path / 'a.txt'}:3"
    (tmp_path / "a.txt").write_bytes(b"ok\n\xe4\n")
    with pytest.raises(ValueError, match=r"a\.txt:2: not UTF-8"):
        read_rows(config.sources[0], config)


def test_data_is_prepared_in_the_projects_cache_and_without_a_word(tmp_path):
    """In a process of its own: under pytest, log lines go elsewhere."""
    config = data(tmp_path / "a.jsonl", [ASK, CHAT], data_dir=None)
    script = (
        "import sys; from training.data.config import DataConfig, SourceConfig;"
        "from training.data.sources import read_rows;"
        "source = SourceConfig(path=sys.argv[1]); config = DataConfig(sources=(source,));"
        "assert len(read_rows(source, config)) == 2; assert len(read_rows(source, config)) == 2;"
        "named = SourceConfig(name='jaxmoe_programs', split='valid', limit=3);"
        "assert len(read_rows(named, config)) == 3"
    )
    env = os.environ | {"JAXMOE_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path / "home")}
    run = subprocess.run(
        [sys.executable, "-c", script, str(config.sources[0].path)], env=env, capture_output=True, text=True
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    made = {path.name for path in (tmp_path / "cache" / "data").iterdir()}
    assert {"instruction_file", "jaxmoe_programs"} <= made
    assert not (tmp_path / "home").exists()
    elsewhere = data(tmp_path / "a.jsonl", [ASK, CHAT], data_dir=str(tmp_path / "mine"))
    assert len(read_rows(elsewhere.sources[0], elsewhere)) == 2
    assert (tmp_path / "mine" / "instruction_file").is_dir()


def test_a_tokenizer_is_trained_on_rows_of_every_form(tmp_path):
    tools = {
        "messages": [*CHAT["messages"], {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}]
    }
    config = data(tmp_path / "a.jsonl", [ASK, CHAT, {"text": WORDS}, tools], vocab_size=300)
    assert len(make_tokenizer(config, None, tmp_path / "tokenizer")) == 300


def test_encoder_counts_what_it_cut(bpe):
    encoded = Encoder(bpe, 16)({"text": WORDS})
    assert encoded.cut == len(encode_text(bpe, WORDS).ids) - 16
    assert Encoder(bpe, None)({"text": WORDS}).cut == 0


def test_a_saved_tokenizer_keeps_the_form(tmp_path, bpe):
    save_tokenizer(bpe, tmp_path)
    config = data(tmp_path / "a.jsonl", [ASK], tokenizer=str(tmp_path))
    assert Feed(config, make_tokenizer(config, None, tmp_path / "none")).report()[1].endswith("chat template")
