"""What is refused, by name; and no body makes more errors than one."""

import json
import time

import pytest

from training.serving import protocol
from training.serving.protocol import ChatRequest, RequestError, TextRequest, parsed

TEXT = {"model": "m", "prompt": "a"}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "a"}]}


def saying(content: object) -> dict:
    return {"messages": [{"role": "user", "content": content}]}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (TEXT | {"temperature": 10**400}, "must be numbers of 64 bits"),
        (TEXT | {"top_p": float("nan")}, "top_p: input should be a finite number"),
        (TEXT | {"prompt": [1, True]}, "prompt must be a text, token ids, or a list of either; got True"),
        (TEXT | {"prompt": [[1], [2, "x"]]}, "prompt must be .*; got 'x'"),
        (TEXT | {"prompt": ["a", 1]}, "prompt must be .*; got 1"),
        (TEXT | {"prompt": 1.5}, "prompt must be .*; got 1.5"),
        (TEXT | {"stop": list("abcde")}, "stop: .*at most 4 items"),
        (TEXT | {"stop": "a" * 1001}, "stop: .*at most 1000 characters"),
        (TEXT | {"\ud800": 1}, r"\\ud800 is not supported"),
        (TEXT | {"stream_options": {"include_usage": True}}, "stream_options goes with stream=true alone"),
        (TEXT | {"stream": True, "stream_options": {"usage": True}}, "stream_options.usage is not supported"),
        (CHAT | {"top_logprobs": 2}, "top_logprobs goes with logprobs=true alone"),
        (CHAT | {"max_tokens": 5, "max_completion_tokens": 7}, "given once; got 5 and 7"),
        (CHAT | {"messages": [{}]}, "message 0 must have a role, and a content"),
        (CHAT | {"messages": [{"role": "user", "content": None}]}, "message 0 must have a role"),
        (CHAT | saying([{"type": "text", "text": "a"}, {"type": "image_url"}]), "alone; got 'image_url'"),
        (CHAT | saying(["a"]), "parts of type text alone; got 'a'"),
    ],
)
def test_refused_by_name(asked: dict, message: str):
    with pytest.raises(RequestError, match=message) as raised:
        parsed(ChatRequest if "messages" in asked else TextRequest, asked)
    assert raised.value.status == 400
    json.dumps(raised.value.body(), ensure_ascii=False).encode()


def test_parts_of_text_are_one_text():
    asked = CHAT | saying([{"type": "text", "text": "to be"}, {"type": "text", "text": " or not"}])
    assert parsed(ChatRequest, asked).messages == [{"role": "user", "content": "to be or not"}]


def test_equal_limits_and_prompts_of_every_kind_are_taken():
    assert parsed(ChatRequest, CHAT | {"max_tokens": 5, "max_completion_tokens": 5}).most_tokens == 5
    kinds = ["a", ["a", "b"], [1, 2], [[1], [2, 3]]]
    found = [parsed(TextRequest, TEXT | {"prompt": one}).prompts for one in kinds]
    assert found == [["a"], ["a", "b"], [[1, 2]], [[1], [2, 3]]]


@pytest.mark.parametrize(
    "asked",
    [
        TEXT | {"prompt": [1] * 200_000 + ["x"]},
        TEXT | {"stop": [1] * 200_000},
        TEXT | {"logit_bias": {str(n): "x" for n in range(200_000)}},
        TEXT | {f"x{n}": 1 for n in range(200_000)},
        CHAT | {"messages": [1] * 4000},
        CHAT | {"messages": CHAT["messages"] * 5000},
        CHAT | {"tools": [1] * 200_000},
    ],
    ids=["prompt", "stop", "bias", "fields", "messages", "many messages", "tools"],
)
def test_a_large_wrong_body_is_one_error(asked: dict):

    start = time.process_time()
    with pytest.raises(RequestError) as raised:
        parsed(ChatRequest if "messages" in asked else TextRequest, asked)
    # an error for each wrong item took seconds of the event loop
    assert time.process_time() - start < 0.5
    context = raised.value.__context__
    told = context.error_count() if isinstance(context, protocol.ValidationError) else 1
    assert told == 1
