"""Conversations as chat templates and the OpenAI interface have them.

    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}

Roles are system, user, assistant and tool. An assistant may call tools (`tool_calls`, or the older
`function_call`), think before it answers (`reasoning_content`), and have an answer that is not to be learned
(`train`: false, or `weight`: 0). `tools` beside the messages lists the functions that it may call. Content in
parts is joined where all are text.
"""

from jaxmoe.datasets.formats.fields import (
    Row,
    brief,
    from_json,
    optional_string,
    refuse_media,
    string,
    task_type,
)

KEY = "messages"
ROLES = ("system", "user", "assistant", "tool")
# what templates read of a message besides role and content
_PASSED_ON = ("name", "tool_call_id", "reasoning_content")
# what tells whether an answer is learned
LEARNED = ("train", "weight")
# how the chat and the responses interface name a part that is text; it may also have no type
_TEXT_PARTS = (None, "text", "input_text", "output_text")


def read(row: Row) -> Row:
    """Raises: ValueError, naming what is wrong, for what is no such row."""
    refuse_media(row)
    return conversation(row["messages"], row.get("tools"), task_type(row))


def conversation(value: object, tools: object, task: int) -> Row:
    """A training row of a list of messages, which are checked here.

    Args:
      value: what stands under the key of the messages.
      tools: what stands under `tools`; None if nothing does.
      task: the row's task type, for the balancing loss.
    Returns: a row with `messages`, `tools` if there are any, and `task_type`.
    Raises: ValueError for what is no list of messages, and for a chat without one of the assistant.
    """
    messages = checked_messages(value)
    if all(message["role"] != "assistant" for message in messages):
        raise ValueError("a chat needs at least one assistant message")
    listed = checked_tools(tools)
    return {"messages": messages, **({"tools": listed} if listed else {}), "task_type": task}


def checked_messages(value: object) -> list[Row]:
    """Messages as templates take them: content as one string, arguments of tool calls as objects.

    Args:
      value: what stands under `messages`.
    Returns: the messages in order.
    Raises: ValueError for what is no list of messages.
    """
    if not isinstance(value, list) or not value:
        raise ValueError(f"messages must be a non-empty list of {{role, content}}; got {brief(value)}")
    return [_message(message) for message in value]


def _message(value: object) -> Row:
    if not isinstance(value, dict):
        raise ValueError(f"a message must be an object with role and content; got {brief(value)}")
    role = string(value, "role")
    if role not in ROLES:
        raise ValueError(f"role must be one of {', '.join(ROLES)}; got {brief(role)}")
    calls = _calls(value) if role == "assistant" else []
    message: Row = {"role": role, "content": _content(value, optional=bool(calls))}
    if calls:
        message["tool_calls"] = calls
    learned = _learned(value, role)
    if learned is not None:
        message["weight"] = learned
    return message | {key: string(value, key) for key in _PASSED_ON if value.get(key)}


def _learned(message: Row, role: str) -> int | None:
    """1 or 0 by the message's `train` or `weight`; None where neither is given."""
    given = {key: message[key] for key in LEARNED if message.get(key) is not None}
    for key, allowed in (("train", (False, True)), ("weight", (0, 1))):
        value = given.get(key)
        if value is not None and (value not in allowed or (key == "train" and not isinstance(value, bool))):
            which = "true or false" if key == "train" else "0 or 1"
            raise ValueError(f"{key} of a message must be {which}; got {brief(value)}")
    if len({int(value) for value in given.values()}) > 1:
        raise ValueError(f"train and weight of a message contradict each other; got {brief(given)}")
    learned = next((int(value) for value in given.values()), None)
    if learned and role != "assistant" and "train" in given:
        raise ValueError(f"only what the assistant says is learned; got train: true in a message of {role}")
    return learned


def _content(message: Row, *, optional: bool) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(_part(part, number) for number, part in enumerate(content, 1))
    return optional_string(message, "content") if optional else string(message, "content")


def _part(part: object, number: int) -> str:
    if not isinstance(part, dict):
        raise ValueError(f"part {number} of the content must be an object; got {brief(part)}")
    if part.get("type") not in _TEXT_PARTS:
        raise ValueError(
            f"only text is read; part {number} of the content is of type {brief(part.get('type'))}"
        )
    if not isinstance(part.get("text"), str):
        raise ValueError(f"part {number} of the content must have a text; got {brief(part)}")
    return part["text"]


def _calls(message: Row) -> list[Row]:
    older = message.get("function_call")
    calls = message.get("tool_calls") or ([{"function": older}] if older else [])
    if not isinstance(calls, list):
        raise ValueError(f"tool_calls must be a list; got {brief(calls)}")
    return [_call(call) for call in calls]


def _call(call: object) -> Row:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError(f"a tool call must be {{function: {{name, arguments}}}}; got {brief(call)}")
    # templates write arguments as JSON: as a string, they would be quoted once more
    arguments = from_json(function.get("arguments") or {}, "arguments of a tool call")
    return {"type": "function", "function": {"name": function["name"], "arguments": arguments}}


def checked_tools(value: object) -> list[Row]:
    """The functions that an assistant may call.

    Args:
      value: what stands under `tools`, a list or its JSON; None for none.
    Returns: their JSON schemas.
    Raises: ValueError for anything else.
    """
    tools = from_json(value or [], "tools")
    listed = [tool for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else None
    if not isinstance(tools, list) or listed is None or len(listed) < len(tools):
        raise ValueError(f"tools must be a list of JSON schemas; got {brief(value)}")
    return listed
