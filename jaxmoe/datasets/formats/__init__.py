"""Formats of training rows: one file and one line of the registry each.

A format is a module with KEY, the key by which its rows are known, and `read`, which turns a row into one of
the four that are encoded (jaxmoe.tokenizer.encode_row): messages, instruction, prompt and completion, text.
"""

from jaxmoe.datasets.formats import chat, instruction, prompt_completion, sharegpt, text
from jaxmoe.datasets.formats.fields import Row, brief

# a row with the keys of several is read by the first
FORMATS = (chat, sharegpt, instruction, prompt_completion, text)


def read_row(value: object) -> Row:
    """A row of any known format as messages, instruction, prompt and completion or text, with its task type.

    Raises: ValueError, in one line, for a row of no known format, or one that its format refuses.

    >>> talk = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    >>> read_row({"conversations": talk})["messages"]
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello'}]
    """
    if not isinstance(value, dict):
        raise ValueError(f"a row must be a JSON object; got {type(value).__name__}")
    for form in FORMATS:
        if form.KEY in value:
            return form.read(value)
    keys = ", ".join(form.KEY for form in FORMATS)
    raise ValueError(f"a row needs one of the keys {keys}; got {brief(sorted(map(str, value)))}")
