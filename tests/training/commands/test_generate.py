"""The generate command: prompts in the form of the model's training, answers that end where they should."""

import errno
import json
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from jaxmoe.model import params
from jaxmoe.model.config import ModelConfig
from jaxmoe.tokenizer import encode_chat_prompt, encode_prompt, plain_ids
from tests.jaxmoe.text.templates import tokenizer_for
from training.commands import export, generate
from training.commands.generate import GenerateConfig, read_prompts
from training.runtime import atomic
from training.runtime.model import new_model


@pytest.fixture(scope="module")
def lm():
    tokenizer = tokenizer_for("qwen3")
    config = ModelConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_layers=1,
        num_heads=2,
        num_kv_heads=2,
        head_dim=8,
        max_positions=256,
        eos_token_id=tokenizer.eos_token_id,
    )
    return new_model(config, None, params.single_device_mesh(), std=0.3).lm


@pytest.fixture
def asked(lm, monkeypatch):
    """Runs the command with a random model; returns the ids of its prompt and its stop tokens."""

    def ask(template: str | None = "", **settings):
        tokenizer, seen = tokenizer_for("qwen3", template=template), {}
        monkeypatch.setattr(generate, "open_model", lambda *a: (lm, tokenizer))

        class Seen:
            stop_tokens, config, weights, mesh, source = (
                lm.stop_tokens,
                lm.config,
                lm.weights,
                lm.mesh,
                lm.source,
            )

            def generate(self, tokens, mask, **options):
                seen.update(options, ids=tokens[0][mask[0] > 0].tolist())
                return lm.generate(tokens, mask, **options)

        monkeypatch.setattr(generate, "open_model", lambda *a: (Seen(), tokenizer))
        put = {"prompts": ("two plus two",)} if "messages_file" not in settings else {}
        generate.main(GenerateConfig(max_new_tokens=4, **put, **settings))
        return seen.get("ids"), seen.get("stop_tokens")

    return ask


ASKED = [{"role": "user", "content": "two plus two"}]


def test_auto_takes_the_chat_template_where_there_is_one(asked, capsys):
    chat, plain = tokenizer_for("qwen3"), tokenizer_for("qwen3", template=None)
    ids, ends = asked(base="x")
    assert ids == encode_chat_prompt(chat, ASKED)
    assert set(ends) == {chat.eos_token_id, chat.convert_tokens_to_ids("<|im_end|>")}
    assert "form auto: chat" in capsys.readouterr().out
    ids, ends = asked(None, base="x")
    assert ids == encode_prompt(plain, "two plus two")
    assert ends == (plain.eos_token_id,)
    assert asked(base="x", form="text")[0] == plain_ids(chat, "two plus two")
    assert asked(base="x", thinking="drop")[0] == encode_chat_prompt(chat, ASKED, thinking="drop")


@pytest.mark.parametrize(
    ("command", "values", "want"),
    [
        ("sft", {"data": {"form": "instruction"}}, "instruction"),
        ("sft", {"data": {"thinking": "drop"}}, "no thinking"),
        ("sft", {}, "chat"),
        ("pretrain", {}, "text"),
    ],
)
def test_a_run_is_asked_as_it_was_trained(asked, tmp_path, monkeypatch, command, values, want):
    data = {"sources": [{"path": "a.json"}]} | values.get("data", {})
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({"output": "x", "steps": 1, "base": "b", "data": data})
    )
    monkeypatch.setattr(export.run_folder, "command_of", lambda folder: command)
    tokenizer = tokenizer_for("qwen3")
    forms = {
        "instruction": encode_prompt(tokenizer, "two plus two"),
        "chat": encode_chat_prompt(tokenizer, ASKED),
        "no thinking": encode_chat_prompt(tokenizer, ASKED, thinking="drop"),
        "text": plain_ids(tokenizer, "two plus two"),
    }
    assert asked(run=str(tmp_path))[0] == forms[want]
    assert asked(run=str(tmp_path), form="text")[0] == forms["text"]


def test_answers_end_before_the_end_of_turn(lm, monkeypatch, tmp_path):
    """What is generated behind an end token, and the token itself, are no part of the answer."""
    tokenizer = tokenizer_for("qwen3")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    said = [*plain_ids(tokenizer, "four"), end, *plain_ids(tokenizer, "hello")]

    class Scripted:
        stop_tokens, config, weights, mesh, source = lm.stop_tokens, lm.config, lm.weights, lm.mesh, lm.source

        def generate(self, tokens, mask, **options):
            assert end in options["stop_tokens"]
            made = np.concatenate([tokens, np.asarray([said] * len(tokens))], axis=1)
            return SimpleNamespace(tokens=made)

    monkeypatch.setattr(generate, "open_model", lambda *a: (Scripted(), tokenizer))
    out = tmp_path / "out.jsonl"
    assert generate.main(GenerateConfig(base="x", prompts=("a", "b"), output=str(out))) == ["four", "four"]
    assert json.loads(out.read_text().split("\n")[1]) == {"prompt": "b", "answer": "four"}


def test_no_prompt_goes_beyond_the_positions_of_the_model(capsys):
    assert generate.token_limits([[1] * 30, [1] * 20], 8, 32).tolist() == [2, 8]
    assert (
        "max_new_tokens=8 goes beyond the 32 positions of the model after 1 of 2 prompts"
        in capsys.readouterr().err
    )
    assert (
        generate.token_limits([[1] * 24], 8, 32).tolist()
        == generate.token_limits([[1] * 40], 8, None).tolist()
        == [8]
    )
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match="the 32 positions of the model; prompt 2 has 32 tokens: shorten it"):
        generate.token_limits([[1], [1] * 32], 8, 32)


def test_batches_of_like_length_give_the_answers_in_order(lm, monkeypatch, tmp_path):
    tokenizer, sizes = tokenizer_for("qwen3"), []

    class Counted:
        stop_tokens, config, weights, mesh, source = lm.stop_tokens, lm.config, lm.weights, lm.mesh, lm.source

        def generate(self, tokens, mask, **options):
            sizes.append(tokens.shape)
            return lm.generate(tokens, mask, **options)

    monkeypatch.setattr(generate, "open_model", lambda *a: (Counted(), tokenizer))
    prompts = tuple("two plus " * n + "two" for n in (1, 9, 2, 8, 3))
    asked = {"base": "x", "prompts": prompts, "max_new_tokens": 6}
    alone = generate.main(GenerateConfig(**asked))
    assert len(set(alone)) > 1
    assert generate.main(GenerateConfig(**asked, batch_size=2)) == alone
    assert [rows for rows, _ in sizes] == [5, 2, 2, 1]
    assert [length for _, length in sizes[1:]] == sorted((length for _, length in sizes[1:]), reverse=True)
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        GenerateConfig(**asked, batch_size=0)


def test_an_earlier_output_stays_until_the_new_one_is_complete(asked, tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"
    out.write_text("earlier\n")

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        asked(base="x", output=str(out))
    monkeypatch.setattr(atomic.os, "fsync", lambda file: None)
    assert out.read_text() == "earlier\n"
    asked(base="x", output=str(out))
    assert json.loads(out.read_text())["prompt"] == "two plus two"
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_command_that_was_killed_makes_only_the_answers_that_are_left(lm, monkeypatch, tmp_path, capsys):
    tokenizer, made = tokenizer_for("qwen3"), []

    class Counted:
        stop_tokens, config, weights, mesh, source = lm.stop_tokens, lm.config, lm.weights, lm.mesh, lm.source

        def generate(self, tokens, mask, **options):
            if len(made) == 2:
                raise KeyboardInterrupt
            made.append(len(tokens))
            return lm.generate(tokens, mask, **options)

    monkeypatch.setattr(generate, "open_model", lambda *a: (Counted(), tokenizer))
    prompts = tuple("two plus " * n + "two" for n in (1, 9, 2, 8, 3))
    out, partial = tmp_path / "out.jsonl", tmp_path / "out.partial.jsonl"
    sampled = {"base": "x", "prompts": prompts, "max_new_tokens": 6, "batch_size": 2, "temperature": 1.0}
    with pytest.raises(KeyboardInterrupt):
        generate.main(GenerateConfig(**sampled, output=str(out)))
    assert len(partial.read_text().splitlines()) == 5
    assert not out.exists()
    with pytest.raises(
        ValueError, match=r"out.partial.jsonl holds unfinished items, of other settings.*temperature is 1"
    ):
        generate.main(GenerateConfig(**sampled | {"temperature": 0.5}, output=str(out)))
    with pytest.raises(ValueError, match="the questions are not the same; choose another output"):
        generate.main(GenerateConfig(**sampled | {"prompts": prompts[1:]}, output=str(out)))
    with partial.open("a") as file:
        file.write('{"set": "prompts", "prom')  # killed while a line was written
    made.clear()
    capsys.readouterr()
    resumed = generate.main(GenerateConfig(**sampled, output=str(out)))
    assert made == [1]
    assert "answers of an earlier command that was stopped are kept: 4" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    monkeypatch.setattr(generate, "open_model", lambda *a: (lm, tokenizer))
    assert generate.main(GenerateConfig(**sampled)) == resumed
    assert [json.loads(row)["answer"] for row in out.read_text().splitlines()] == resumed


def test_only_a_line_feed_ends_a_prompt(tmp_path):
    (tmp_path / "p.txt").write_text(
        "one\u2028still one\n\n two\x0cstill two\r\n", encoding="utf-8", newline=""
    )
    assert read_prompts(tmp_path / "p.txt") == ["one\u2028still one", " two\x0cstill two"]
    (tmp_path / "p.txt").write_text("\n \n")
    with pytest.raises(ValueError, match="holds no prompt"):
        read_prompts(tmp_path / "p.txt")


SYSTEM = {"role": "system", "content": "plus"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
TALK = [
    *ASKED,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "4"},
]


def test_a_system_prompt_and_conversations_are_put_by_the_chat_template(asked, tmp_path):
    chat = tokenizer_for("qwen3")
    assert asked(base="x", system="plus")[0] == encode_chat_prompt(chat, [SYSTEM, *ASKED])
    path, out = tmp_path / "talk.jsonl", tmp_path / "out.jsonl"
    tools = [{"type": "function", "function": {"name": "add"}}]
    path.write_text(json.dumps({"messages": TALK, "tools": tools}))
    put = encode_chat_prompt(chat, [SYSTEM, *TALK], tools=tools)
    assert asked(base="x", messages_file=str(path), system="plus", output=str(out))[0] == put
    row = json.loads(out.read_text())
    assert [m["role"] for m in row["messages"]] == ["system", "user", "assistant", "tool", "assistant"]
    assert row["tools"] == tools
    with pytest.raises(ValueError, match="system needs the form chat; got form text"):
        asked(base="x", system="plus", form="text")
    with pytest.raises(ValueError, match="messages_file needs the form chat; got form instruction"):
        asked(None, base="x", messages_file=str(path))


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (
            {"messages": [*ASKED, {"role": "assistant", "content": "four"}]},
            "must be the user's or a tool's; got",
        ),
        ({"messages": [SYSTEM, *ASKED]}, "has a system prompt of its own; leave system out"),
        ({"messages": []}, "messages must be a non-empty list"),
        ({"messages": ASKED, "images": ["a.png"]}, "only text is read; the row has images"),
        ({"prompt": "two"}, "a conversation must be an object with messages"),
    ],
)
def test_a_conversation_that_cannot_go_on_is_named(tmp_path, row, complaint):
    path = tmp_path / "talk.jsonl"
    path.write_text(json.dumps({"messages": ASKED}) + "\n" + json.dumps(row))
    with pytest.raises(ValueError, match=rf"talk\.jsonl:2: .*{complaint}"):
        generate.read_conversations(str(path), "plus")
    with pytest.raises(ValueError, match="give one of prompts"):
        GenerateConfig(base="x", messages_file=str(path), prompts=("two",))
