"""Rows as people have them, from the file to the tokens that carry loss."""

import json

import numpy as np
import pytest

from jaxmoe.datasets.formats import read_row
from jaxmoe.tokenizer import encode_completion, encode_row, train_bpe
from tests.jaxmoe.text.templates import tokenizer_for
from training.data.config import DataConfig, SourceConfig
from training.data.sources import Feed, make_tokenizer

ASKED = {"role": "user", "content": "two plus two"}
SAID = {"role": "assistant", "content": "it is four"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
CALLED = '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call><|im_end|>'
TOOL = {"role": "tool", "content": "four"}
TALK = [ASKED, {"role": "assistant", "content": "four"}, ASKED, SAID]
SHARED = [
    {"from": "system", "value": "plus"},
    {"from": "human", "value": "two plus two"},
    {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2}}'},
    {"from": "observation", "value": "four"},
    {"from": "gpt", "value": "it is four"},
]


def learned(row, tokenizer, **settings) -> list[str]:
    """What of a row as it stands in a file is to be predicted, run by run."""
    encoded = encode_row(tokenizer, read_row(row), None, **settings)
    at = np.flatnonzero(encoded.loss_mask)
    runs = np.split(at, np.flatnonzero(np.diff(at) > 1) + 1) if len(at) else []
    return [tokenizer.decode(encoded.ids[run], clean_up_tokenization_spaces=False) for run in runs]


@pytest.mark.parametrize(
    ("row", "want"),
    [
        ({"messages": TALK}, ["four<|im_end|>", "it is four<|im_end|>"]),
        ({"messages": [ASKED, SAID | {"content": [{"type": "text", "text": "it is four"}]}]}, [1]),
        ({"messages": [TALK[0], TALK[1] | {"train": False}, *TALK[2:]]}, [1]),
        ({"messages": [TALK[0], TALK[1] | {"weight": 0}, *TALK[2:]]}, [1]),
        ({"messages": [ASKED | {"train": False}, SAID | {"train": True}]}, [1]),
        ({"messages": [ASKED, SAID | {"train": False}]}, []),
        (
            {"messages": [ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]}, TOOL, SAID]},
            [CALLED, 1],
        ),
        ({"conversations": SHARED}, [CALLED, 1]),
        ({"conversations": [*SHARED[:2], SHARED[2] | {"train": False}, *SHARED[3:]]}, [1]),
        ({"conversations": [*SHARED[:2], SHARED[2] | {"weight": 0}, *SHARED[3:]]}, [1]),
        ({"conversations": [{"from": "user", "value": "two"}, {"from": "assistant", "value": "four"}]}, [4]),
        ({"conversations": [ASKED, SAID]}, [1]),
        ({"prompt": [ASKED], "completion": [SAID]}, [1]),
        ({"prompt": TALK[:3], "completion": [SAID]}, [1]),
        ({"prompt": [ASKED, SAID | {"train": True}, ASKED], "completion": [SAID]}, [1, 1]),
        ({"prompt": TALK[:1], "completion": TALK[1:]}, [4, 1]),
        ({"prompt": [], "completion": [ASKED, SAID]}, [1]),
    ],
)
def test_what_the_assistant_says_and_nothing_else(row, want):
    short = {1: "it is four<|im_end|>", 4: "four<|im_end|>"}
    assert learned(row, tokenizer_for("qwen2.5")) == [short.get(each, each) for each in want]


@pytest.mark.parametrize(
    ("row", "want"),
    [
        ({"messages": TALK}, ["it is four<|im_end|>"]),
        ({"messages": [*TALK, ASKED]}, ["it is four<|im_end|>"]),
        ({"messages": [*TALK[:3], SAID | {"train": False}]}, []),
        ({"conversations": SHARED}, ["it is four<|im_end|>"]),
        ({"prompt": TALK[:1], "completion": TALK[1:]}, ["it is four<|im_end|>"]),
        ({"instruction": "two", "output": "four"}, ["four<|im_end|>"]),
    ],
)
def test_the_last_answer_alone(row, want):
    assert learned(row, tokenizer_for("qwen2.5"), turns="last", form="chat") == want


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"messages": [ASKED, SAID | {"train": "no"}]}, "train of a message must be true or false; got 'no'"),
        ({"messages": [ASKED, SAID | {"train": 0}]}, "train of a message must be true or false; got 0"),
        (
            {"messages": [ASKED, SAID | {"train": True, "weight": 0}]},
            "train and weight of a message contradict",
        ),
        ({"messages": [ASKED | {"train": True}, SAID]}, "only what the assistant says is learned; got train"),
        (
            {"messages": [ASKED | {"content": [{"type": "image_url", "image_url": {"url": "x"}}]}, SAID]},
            "only text is read; part 1 of the content is of type 'image_url'",
        ),
        (
            {"messages": [ASKED | {"content": [{"type": "text"}]}, SAID]},
            "part 1 of the content must have a te",
        ),
        ({"messages": [ASKED | {"content": ["two"]}, SAID]}, "part 1 of the content must be an object"),
        ({"messages": [ASKED, SAID], "images": ["a.png"]}, "only text is read; the row has images"),
        ({"conversations": SHARED, "image": "a.png"}, "only text is read; the row has image: 'a.png'"),
        (
            {"prompt": "two", "completion": [SAID]},
            "must be two strings or two lists of messages; got 'two' and",
        ),
        ({"prompt": [ASKED], "completion": [ASKED]}, "a completion needs at least one assistant message"),
        ({"completion": "four"}, "prompt is missing"),
        ({"prompt": "two", "completion": 4}, "completion must be a string; got 4"),
        ({"prompt": "two", "chosen": "a", "rejected": "b"}, r"needs one of the keys .* got \['chosen', "),
    ],
)
def test_what_is_not_understood_is_refused_by_name(row, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        read_row(row)
    assert "\n" not in str(error.value)


def test_a_file_of_all_kinds_and_its_report(tmp_path):
    tokenizer = tokenizer_for("qwen2.5")
    rows = [{"messages": TALK}, {"conversations": SHARED}, {"prompt": "two plus", "completion": " two"}]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    config = DataConfig(
        sources=(SourceConfig(path=str(path)),), turns="last", epochs=1, data_dir=str(tmp_path / "tfds")
    )
    feed = Feed(config, tokenizer)
    said = feed.report()
    assert "prompts with completions are put as they stand, without a chat template" in said
    assert "data.turns=last: of a chat only the last answer is learned" in said
    (batch,) = feed.batches()
    want = [learned(row, tokenizer, turns="last") for row in rows]
    carried = tokenizer.decode(batch.tokens[batch.loss_mask > 0])
    assert sorted(carried.split("it is four<|im_end|>")) == ["", "", " two<|endoftext|>"]
    assert want[2] == [" two<|endoftext|>"]
    path.write_text("\n".join(json.dumps(row) for row in [*rows, {"messages": TALK, "images": ["a"]}]))
    with pytest.raises(ValueError, match=r"a\.jsonl:4: only text is read; the row has images: \['a'\]"):
        Feed(config, tokenizer)
    texts = DataConfig(sources=config.sources, vocab_size=300, data_dir=config.data_dir)
    path.write_text(json.dumps(rows[2]))
    assert len(make_tokenizer(texts, None, tmp_path / "tokenizer")) >= 260


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(["Peru's capital is Lima. The capital of Peru is Lima."] * 30, 400)


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ("Peru's capital is", " Lima."),
        ("Peru's capital is ", "Lima."),
        ("", "Lima"),
        ("Lima", ""),
        ("Li", "ma"),
    ],
)
def test_a_completion_is_learned_within_the_text_that_it_makes(bpe, prompt, completion):
    """Tokens are those of the whole text; one across the boundary is learned, the rest of the prompt not."""
    encoded = encode_completion(bpe, prompt, completion)
    whole = bpe(prompt + completion, return_offsets_mapping=True)
    assert encoded.ids.tolist() == [*whole["input_ids"], bpe.eos_token_id]
    ends = [end for _, end in whole["offset_mapping"]]
    assert encoded.loss_mask.tolist() == [
        *(float(end > len(prompt) and at > 0) for at, end in enumerate(ends)),
        1.0,
    ]


def test_a_completion_that_is_too_long_loses_the_start_of_its_prompt(bpe):
    whole = encode_completion(bpe, "Peru's capital is", " Lima.")
    targets = int(whole.loss_mask.sum())
    cut = encode_completion(bpe, "Peru's capital is", " Lima.", targets + 2)
    assert cut.ids.tolist() == whole.ids[-targets - 2 :].tolist()
    assert cut.loss_mask.tolist() == [0.0, 0.0, *[1.0] * targets]
    assert cut.cut == len(whole.ids) - targets - 2
