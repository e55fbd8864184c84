"""A prompt and how it is to be completed, as TRL and the older OpenAI interface have them.

    {"prompt": "Peru's capital is", "completion": " Lima."}
    {"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Hello"}]}

Two strings are one text, put as it stands, without a chat template; the completion is learned. Two lists of
messages are one conversation, of which the completion's answers are learned; an answer in the prompt is so
only if its own `train` or `weight` says so. `tools` may stand beside them.
"""

from jaxmoe.datasets.formats import chat
from jaxmoe.datasets.formats.fields import Row, brief, refuse_media, string, task_type

KEY = "completion"


def read(row: Row) -> Row:
    """Raises: ValueError, naming what is wrong, for what is no such row."""
    refuse_media(row)
    prompt, completion = row.get("prompt"), row["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        if not any(isinstance(said, dict) and said.get("role") == "assistant" for said in completion):
            raise ValueError("a completion needs at least one assistant message")
        asked = [_not_learned(message) for message in prompt]
        return chat.conversation([*asked, *completion], row.get("tools"), task_type(row))
    if isinstance(prompt, list) or isinstance(completion, list):
        raise ValueError(
            "prompt and completion must be two strings or two lists of messages; "
            f"got {brief(prompt)} and {brief(completion)}"
        )
    return {
        "prompt": string(row, "prompt"),
        "completion": string(row, "completion"),
        "task_type": task_type(row),
    }


def _not_learned(message: object) -> object:
    if not isinstance(message, dict) or message.get("role") != "assistant":
        return message
    said = any(message.get(key) is not None for key in chat.LEARNED)
    return message if said else message | {"weight": 0}
