"""The thinking before an answer: a text between <think> and </think>, or a `reasoning_content` of its own.

Templates of thinking models leave it out of all answers except those to the last question. What happens to it
in training is a choice:

    template  as the template renders it
    keep      it stays in every answer, and is learned
    drop      it is in no answer, and the template is asked for answers without thinking
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from jaxmoe.json_values import JsonMapping, JsonObject

Thinking = Literal["template", "keep", "drop"]
# the names by which templates know the switch
DROPPED: Mapping[str, bool] = {"enable_thinking": False, "thinking": False}
OPEN, CLOSE = "<think>", "</think>"
_FIELDS = ("reasoning_content", "reasoning", "thinking")
_EMPTY = re.compile(rf"{OPEN}\s*{CLOSE}\s*\Z")


def split(message: JsonMapping) -> tuple[str, str]:
    """The thinking of an assistant's message, and its answer.

    >>> split({"role": "assistant", "content": "<think>\\n2 + 2\\n</think>\\n\\n4"})
    ('2 + 2', '4')
    >>> split({"role": "assistant", "content": "4", "reasoning_content": "2 + 2"})
    ('2 + 2', '4')
    """
    content = message.get("content") or ""
    thought = next((str(message[field]) for field in _FIELDS if message.get(field)), "")
    if not thought and CLOSE in content:
        thought, content = content.split(CLOSE)[0].split(OPEN)[-1], content.split(CLOSE)[-1].lstrip("\n")
    return thought.strip("\n"), content


def without(messages: Sequence[JsonMapping]) -> list[JsonObject]:
    """The conversation without the assistant's thinking."""
    return [
        {key: value for key, value in message.items() if key not in _FIELDS} | {"content": split(message)[1]}
        if message["role"] == "assistant"
        else dict(message)
        for message in messages
    ]


def put_back(text: str, place: str, thought: str, answer: str) -> str | None:
    """A rendered conversation with the thinking where the template dropped it; None without the place.

    Args:
      text: the conversation, as the template rendered it.
      place: what was rendered in place of the answer, without thinking.
      thought: the thinking, without its tags.
      answer: what was said after it; "" if only a tool was called.
    Returns: the text with the tagged thinking and the answer in the place; None also if the place occurs
      twice.
    """
    before, found, behind = text.partition(place)
    if not found or place in behind:
        return None
    # some templates write an empty thinking block in the place of a missing one
    before = _EMPTY.sub("", before)
    if not answer:  # otherwise a line break would come between an answer and the tool call after it
        behind = behind.removeprefix("\n")
    return f"{before}{OPEN}\n{thought}\n{CLOSE}\n\n{answer}{behind}"
