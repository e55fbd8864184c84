"""Conversations as chat templates and the OpenAI interface have them.

    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}

Roles are system, user, assistant and tool. An assistant may call tools (`tool_calls`, or the older
`function_call`), think before it answers (`reasoning_content`), and have an answer that is not to be learned
(`weight`: 0). `tools` beside the messages lists the functions that it may call. Content in parts is joined
where all are text.
"""

from jaxmoe.datasets.formats.fields import Row, brief, from_json, optional_string, string, task_type

KEY = "messages"
ROLES = ("system", "user", "assistant", "tool")
# what templates read of a message besides role and content
_PASSED_ON = ("name", "tool_call_id", "reasoning_content")


def read(row: Row) -> Row:
    """Raises: ValueError, naming what is wrong, for what is no such row."""
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
    if not isinstance(value, list) or not value:
        raise ValueError(f"messages must be a non-empty list of {{role, content}}; got {brief(value)}")
    messages = [_message(message) for message in value]
    if all(message["role"] != "assistant" for message in messages):
        raise ValueError("a chat needs at least one assistant message")
    listed = _tools(tools)
    return {"messages": messages, **({"tools": listed} if listed else {}), "task_type": task}


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
    if value.get("weight") is not None:
        if value["weight"] not in (0, 1):
            raise ValueError(f"weight of a message must be 0 or 1; got {brief(value['weight'])}")
        message["weight"] = int(value["weight"])
    return message | {key: string(value, key) for key in _PASSED_ON if value.get(key)}


def _content(message: Row, *, optional: bool) -> str:
    content = message.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            raise ValueError(f"content in parts must be text alone; got {brief(content)}")
        return "".join(part["text"] for part in content)
    return optional_string(message, "content") if optional else string(message, "content")


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


def _tools(value: object) -> list[Row]:
    tools = from_json(value or [], "tools")
    listed = [tool for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else None
    if not isinstance(tools, list) or listed is None or len(listed) < len(tools):
        raise ValueError(f"tools must be a list of JSON schemas; got {brief(value)}")
    return listed
