"""Where in a rendered conversation the assistant speaks.

A span begins where the assistant is to speak at inference (after the header that ends the generation prompt)
and ends with the end of its turn. It is found by what the template does, not by what it looks like: an answer
is replaced by a word of our own, and the answer was wherever that word appears in the text. The word consists
of letters only, so that no template trims or splits it, and special tokens within an answer cannot be taken
for its end.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from jaxmoe.json_values import JsonMapping, JsonObject
from jaxmoe.text import thinking
from jaxmoe.text.chat_template import PROBE, ChatTemplate, Messages, Tools

ANSWER = f"{PROBE}Y"
# which of the assistant's turns are learned
Turns = Literal["all", "last"]

REMEDY = "take another chat template, or one that renders what is said as it is"


class AnswerSpan(NamedTuple):
    """One turn of the assistant as characters of the text.

    Attributes:
      turn: index of its message.
      start: where it begins to speak.
      stop: just after the end of the turn.
      limit: where the template's rendering of this turn is over, including line breaks after its end.
    """

    turn: int
    start: int
    stop: int
    limit: int


class Rendered(NamedTuple):
    """A conversation as text, and the assistant's turns in it, in order."""

    text: str
    spans: list[AnswerSpan]


def answer_spans(template: ChatTemplate, messages: Messages, tools: Tools = None) -> Rendered:
    """The rendered conversation and the spans of the assistant's turns.

    Args:
      template: renders the conversation.
      messages: the whole conversation; turns of the assistant may be anywhere in it.
      tools: JSON schemas of functions that the model may call.
    Returns: the text, and a span for each message of the assistant; none overlap.
    Raises: ValueError, in one line, if the template refuses the conversation, or a turn cannot be told apart
      from the text around it.
    """
    text = template.render(messages, tools)
    spans: list[AnswerSpan] = []
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        floor = spans[-1].stop if spans else 0
        conversation = _Turn(template, messages, tools, turn, text, floor)
        span = conversation.plain() or conversation.replaced()
        if not floor <= span.start <= span.stop <= span.limit <= len(text):
            raise ValueError(f"the chat template renders message {turn + 1} out of order; {REMEDY}")
        spans.append(span)
    return Rendered(text, spans)


class _Turn(NamedTuple):
    """One turn of the assistant in a rendered conversation."""

    template: ChatTemplate
    messages: Messages
    tools: Tools
    turn: int
    text: str
    floor: int  # where the turn before it ends

    @property
    def is_last(self) -> bool:
        return self.turn == len(self.messages) - 1

    @property
    def message(self) -> JsonMapping:
        return self.messages[self.turn]

    def prompted(self) -> int | None:
        """Where the assistant begins to speak, if the text begins with the prompt of the turns before."""
        if not self.turn:
            return None
        try:
            prompt = self.template.render(self.messages[: self.turn], self.tools, answering=True)
        except ValueError:  # a template may refuse part of a conversation
            return None
        more = self.template.around.unprompted
        return len(prompt) + len(more) if self.text.startswith(prompt + more) else None

    def plain(self) -> AnswerSpan | None:
        """The span if generation prompt, answer and end of turn follow one another, as they mostly do."""
        around = self.template.around
        ending = around.last_ending if self.is_last else around.ending
        said = (self.message.get("content") or "").strip()
        if not (ending and said) or self.message.get("tool_calls"):
            return None
        start = self.prompted()
        if start is None:
            return None
        rest = self.text[start:]
        place = start + len(rest) - len(rest.lstrip())
        stop = place + len(said) + len(ending)
        if self.text[place:stop] != said + ending:
            return None
        behind = self.text[stop:]
        return AnswerSpan(self.turn, start, stop, stop + len(behind) - len(behind.lstrip()))

    def replaced(self) -> AnswerSpan:
        """The span found by putting a word of our own in place of the answer."""
        probed = [*self.messages]
        probed[self.turn] = _with_answer_replaced(self.message)
        before, behind = self.around_answer(probed)
        first, last = len(before), len(self.text) - len(behind)
        if not (first <= last and self.text.startswith(before) and self.text.endswith(behind)):
            raise ValueError(
                f"the chat template renders the turns around message {self.turn + 1} by what it says; "
                f"{REMEDY}"
            )
        own = behind
        if not self.is_last:
            _, alone = self.around_answer(probed[: self.turn + 1])
            own = behind[: self.template.shared(behind, alone)]
        return AnswerSpan(self.turn, self.start(first), last + len(self.ending(own)), last + len(own))

    def around_answer(self, messages: Sequence[JsonMapping]) -> tuple[str, str]:
        """The text before the word of our own, and after it."""
        before, found, behind = self.template.render(messages, self.tools).partition(ANSWER)
        if not found and messages[self.turn].get("tool_calls"):
            raise ValueError(
                f"the chat template leaves out the tool calls of message {self.turn + 1}; "
                "put a chat_template.jinja that renders them into the tokenizer's folder"
            )
        if not found or ANSWER in behind:
            times = "more than once" if found else "not as it is"
            raise ValueError(f"the chat template renders message {self.turn + 1} {times}; {REMEDY}")
        return before, behind

    def start(self, answer: int) -> int:
        """Where the assistant begins to speak, given where its answer begins (thinking comes before it)."""
        prompt = self.prompted()
        if prompt is not None and self.floor <= prompt <= answer:
            return prompt
        # the turns before are rendered differently once more follow, but the header is the same
        header = self.template.around.header + self.template.around.unprompted
        found = self.text.rfind(header, self.floor, answer) if header else -1
        if found >= 0:
            return found + len(header)
        return answer - len(self.call_opening()) if self.message.get("tool_calls") else answer

    def call_opening(self) -> str:
        """The text of a tool call before the function's name, which an ordinary answer does not have."""
        turns, spoken = self.messages[: self.turn], {"role": "assistant", "content": ANSWER}
        called, _ = self.around_answer([*turns, _with_answer_replaced(self.message)])
        answered, _ = self.around_answer([*turns, spoken])
        return called[self.template.shared(called, answered) :]

    def ending(self, own: str) -> str:
        """The end of the turn, within the text between the answer and the next turn."""
        if not self.message.get("tool_calls"):
            return self.template.turn_end(own)
        # the rest of the call follows the name of the function, which was replaced
        end = self.template.around.last_ending.strip()
        before, found, _ = own.partition(end) if end else ("", "", "")
        return before + found if found else own.rstrip()


def _with_answer_replaced(message: JsonMapping) -> JsonObject:
    """The message with another answer: a text keeps its thinking, a call its arguments."""
    content, calls = message.get("content") or "", message.get("tool_calls")
    if calls:
        last, name = calls[-1], {"name": ANSWER}
        renamed = last | ({"function": last["function"] | name} if "function" in last else name)
        return {**message, "tool_calls": [*calls[:-1], renamed]}
    kept = content[: content.rfind(thinking.CLOSE) + len(thinking.CLOSE)] if thinking.CLOSE in content else ""
    return {**message, "content": kept + ANSWER}
