"""Conversations as ShareGPT and the tools around it have them.

    {"system": "Be brief.",
     "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}

`system` and `tools` may be absent. A `function_call` holds JSON with name and arguments; `observation` and
`tool` hold what it returned. A turn may have `train` or `weight`, as messages do, and turns with role and
content in the place of from and value are messages.
"""

from jaxmoe.datasets.formats import chat
from jaxmoe.datasets.formats.fields import (
    Row,
    brief,
    from_json,
    optional_string,
    refuse_media,
    string,
    task_type,
)

KEY = "conversations"
ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}


def read(row: Row) -> Row:
    """Raises: ValueError, naming what is wrong, for what is no such row."""
    refuse_media(row)
    turns = row["conversations"]
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"conversations must be a non-empty list of {{from, value}}; got {brief(turns)}")
    system = optional_string(row, "system")
    messages = [{"role": "system", "content": system}] if system else []
    return chat.conversation([*messages, *map(_message, turns)], row.get("tools"), task_type(row))


def _message(turn: object) -> Row:
    if not isinstance(turn, dict):
        raise ValueError(f"a turn must be an object with from and value; got {brief(turn)}")
    if "from" not in turn and "role" in turn:
        return turn
    speaker, said = string(turn, "from"), string(turn, "value")
    if speaker not in ROLES:
        raise ValueError(f"from must be one of {', '.join(ROLES)}; got {brief(speaker)}")
    learned = {key: turn[key] for key in chat.LEARNED if key in turn}
    if speaker == "function_call":
        calls = from_json(said, "the value of a function_call")
        return {"role": "assistant", "tool_calls": calls if isinstance(calls, list) else [calls], **learned}
    return {"role": ROLES[speaker], "content": said, **learned}
