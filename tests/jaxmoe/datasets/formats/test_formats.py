"""Formats of training rows: what each is read as, what is refused and how, and damaged files."""

import json

import pytest

from jaxmoe.datasets.formats import FORMATS, read_row
from jaxmoe.datasets.instruction_files import read_instructions, read_questions
from jaxmoe.datasets.json_rows import dump_json, lines, read_json_rows
from tests.fuzz import INPUTS, check, damaged

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
SAID = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
SHARED = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]


def read(path, text: str):
    path.write_text(text, encoding="utf-8", newline="")
    return read_instructions(path)


@pytest.mark.parametrize(
    ("row", "want"),
    [
        ({"text": "a"}, {"text": "a"}),
        (
            {"instruction": "a", "output": "b", "input": None},
            {"instruction": "a", "input": "", "output": "b"},
        ),
        ({"messages": SAID, "id": 3, "source": "x"}, {"messages": SAID}),
        ({"conversations": SHARED}, {"messages": SAID}),
        (
            {"conversations": SHARED, "system": "Be brief."},
            {"messages": [{"role": "system", "content": "Be brief."}, *SAID]},
        ),
        (
            {
                "conversations": [
                    SHARED[0],
                    {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2}}'},
                    {"from": "observation", "value": "2"},
                    SHARED[1],
                ],
                "tools": '[{"name": "add"}]',
            },
            {
                "messages": [
                    SAID[0],
                    {"role": "assistant", "content": "", "tool_calls": [CALL]},
                    {"role": "tool", "content": "2"},
                    SAID[1],
                ],
                "tools": [{"name": "add"}],
            },
        ),
        (
            {
                "messages": [
                    SAID[0],
                    {"role": "assistant", "content": [{"type": "text", "text": "Hel"}, {"text": "lo"}]},
                ]
            },
            {"messages": SAID},
        ),
        (
            {
                "messages": [
                    SAID[0],
                    {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [{"id": "1", "function": {"name": "add", "arguments": '{"a": 2}'}}],
                    },
                    {"role": "tool", "content": "2", "tool_call_id": "1", "name": "add"},
                    SAID[1] | {"reasoning_content": "so it is", "weight": 0},
                ]
            },
            {
                "messages": [
                    SAID[0],
                    {"role": "assistant", "content": "", "tool_calls": [CALL]},
                    {"role": "tool", "content": "2", "name": "add", "tool_call_id": "1"},
                    SAID[1] | {"weight": 0, "reasoning_content": "so it is"},
                ]
            },
        ),
    ],
)
def test_rows_of_every_format(row, want):
    assert read_row(row) == want | {"task_type": -1}
    assert read_row(row | {"task_type": 1}) == want | {"task_type": 1}


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ([1], "a row must be a JSON object; got list"),
        (
            {"prompt": "x"},
            r"one of the keys messages, conversations, instruction, completion, text; got \['prompt'\]",
        ),
        ({"text": 3}, "text must be a string; got 3"),
        ({"instruction": "x"}, "output is missing"),
        ({"text": "x", "task_type": [1]}, r"task_type must be .* got \[1\]"),
        ({"text": "x", "task_type": True}, "task_type must be .* got True"),
        ({"messages": "hello"}, "messages must be a non-empty list"),
        ({"messages": ["hello"]}, "a message must be an object"),
        ({"messages": [{"role": "bot", "content": ""}]}, "role must be one of .* got 'bot'"),
        ({"messages": SAID[:1]}, "at least one assistant message"),
        ({"messages": [*SAID, {"role": "assistant", "content": None}]}, "content is missing|content must be"),
        (
            {"messages": [*SAID, {"role": "user", "content": [{"type": "image"}]}]},
            "part 1 of the content is of type 'image'",
        ),
        ({"messages": [*SAID, SAID[1] | {"weight": 2}]}, "weight of a message must be 0 or 1; got 2"),
        ({"messages": [*SAID, {"role": "assistant", "tool_calls": [{"x": 1}]}]}, "a tool call must be"),
        ({"messages": SAID, "tools": "no"}, "tools must be JSON; got 'no'"),
        ({"messages": SAID, "tools": [1]}, "tools must be a list of JSON schemas"),
        ({"conversations": [{"from": "narrator", "value": ""}]}, "from must be one of .* got 'narrator'"),
        ({"conversations": [{"from": "function_call", "value": "add"}]}, "function_call must be JSON"),
        ({"text": ["x" * 500]}, r"text must be a string; got .* \.\. \(504 characters\)"),
    ],
)
def test_what_is_refused_is_named(row, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        read_row(row)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_each_format_has_its_key_and_example():
    assert len({form.KEY for form in FORMATS}) == len(FORMATS)
    for form in FORMATS:
        assert f'"{form.KEY}"' in str(form.__doc__)


SEPARATORS = ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\r"]


@pytest.mark.parametrize("separator", SEPARATORS, ids=ascii)
def test_only_a_line_feed_ends_a_line(tmp_path, separator):
    """json escapes control characters below U+0020, and Python's splitlines cuts at the others too."""
    row = {"text": f"one{separator}still one", "task_type": -1}
    text = "\n".join(json.dumps(row, ensure_ascii=False) for _ in range(3))
    assert read(tmp_path / "a.jsonl", text) == [row] * 3
    assert [line for _, line in lines(f"a{separator}b\r\n \nc")] == [f"a{separator}b", "c"]


def test_line_ends_of_all_systems_and_a_byte_order_mark(tmp_path):
    rows = read(tmp_path / "a.jsonl", '\ufeff{"text": "a"}\r\n\r\n{"text": "b"}\r\n')
    assert [row["text"] for row in rows] == ["a", "b"]
    assert [row.place for row in read_json_rows(tmp_path / "a.jsonl")] == ["1", "3"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"text": ' + "[" * 100_000, r"a\.jsonl:1: (JSON that is nested too deeply|malformed JSON line)"),
        ("[" * 100_000 + "]" * 100_000, r"a\.jsonl:1: JSON that is nested too deeply"),
        ('{"text": "a"}\n{"text": ' + "9" * 5000 + "}", r"a\.jsonl:2: Exceeds the limit"),
        ('[{"text": "a"},\n\n{"text"]', r"a\.jsonl:3: malformed JSON"),
    ],
)
def test_json_that_cannot_be_read_is_one_line(tmp_path, text, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        read(tmp_path / "a.jsonl", text)
    assert "\n" not in str(error.value)


def test_lone_surrogates_are_kept(tmp_path):
    assert read(tmp_path / "a.jsonl", '{"text": "a \\ud800 b"}')[0]["text"] == "a \ud800 b"


def test_lone_surrogates_are_written_as_escapes():
    value = {"said": "n\xe9\ud800\u2028", "more": [1, None]}
    text = dump_json(value)
    assert text == '{"said": "n\xe9\\ud800\u2028", "more": [1, null]}'
    assert json.loads(text.encode("utf-8")) == value


FUZZED_CHATS = [
    {"instruction": "a", "input": "b", "output": "c", "task_type": 1},
    {
        "messages": [*SAID, {"role": "assistant", "content": "x", "tool_calls": [CALL]}],
        "tools": [{"name": "add"}],
    },
    {"conversations": SHARED, "system": "s"},
]
FUZZED_TEXTS = [
    {"instruction": "a", "output": "c"},
    {"prompt": "one", "completion": "two"},
    {"prompt": SAID[:1], "completion": SAID[1:]},
    {"text": "one"},
]


def test_damaged_instruction_files(tmp_path):
    file = tmp_path / "a.json"

    def read_bytes(data: bytes):
        file.write_bytes(data)
        return read_instructions(file)

    inputs = INPUTS // 2
    for rows in (FUZZED_CHATS, FUZZED_TEXTS):
        read_well = check(read_bytes, damaged(rows, inputs, seed=1), (ValueError,))
        assert inputs // 40 < read_well < 0.95 * inputs


def test_damaged_question_files(tmp_path):
    file = tmp_path / "q.json"

    def read_bytes(data: bytes):
        file.write_bytes(data)
        return read_questions(file)

    rows = [{"question": "Who?", "answers": ["A", "B"]}, {"question": "Where?", "answer": "here"}]
    read_well = check(read_bytes, damaged(rows, INPUTS, seed=2), (ValueError,))
    assert INPUTS // 40 < read_well < 0.95 * INPUTS
