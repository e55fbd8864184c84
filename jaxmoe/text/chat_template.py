"""A tokenizer's chat template: conversations as text, and what the template puts around an answer.

A template is a program that came with the checkpoint. What it does is learned by letting it render: a probe
conversation reveals the header before an answer and the end of a turn after it.
"""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, NamedTuple, cast

from jaxmoe.json_values import JsonMapping, JsonObject
from jaxmoe.text import thinking as thoughts
from jaxmoe.text.thinking import Thinking

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[JsonMapping]  # [{"role": ..., "content": ...}, ...]
Tools = Sequence[JsonMapping] | None  # JSON schemas of the functions that the model may call
_GENERATION = re.compile(r"{%-?\s*generation\s*-?%}")
# letters that no template trims, splits or escapes
PROBE = "QZXJKVWQ"
# transformers keeps one compiled template for all tokenizers, including the spans of the text being rendered
_ONE_AT_A_TIME = threading.Lock()


class Surroundings(NamedTuple):
    """What a template puts around an answer.

    Attributes:
      header: the end of the generation prompt, after the user's turn; "" if `add_generation_prompt` adds
        nothing.
      unprompted: text between the generation prompt and the answer that the model is nevertheless not to say:
        the header of templates that do not know `add_generation_prompt`.
      ending: text after an answer that is followed by another turn.
      last_ending: text after the last answer of a conversation.
    """

    header: str
    unprompted: str
    ending: str
    last_ending: str


def has_chat_template(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether chats can be put to a model with this tokenizer; transformers declares no type for it."""
    return bool(getattr(tokenizer, "chat_template", None))


class ChatTemplate:
    """The chat template of a tokenizer, as functions of a conversation.

    Args:
      tokenizer: a fast tokenizer.
      thinking: what becomes of the assistant's thinking (jaxmoe.text.thinking).
    Raises: ValueError if the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", thinking: Thinking = "template"):
        if not has_chat_template(tokenizer):
            raise ValueError(
                "the tokenizer has no chat template; put chat_template.jinja into its folder "
                "or use instructions"
            )
        self._tokenizer, self._thinking = tokenizer, thinking
        self._ids = {str(token): number for number, token in tokenizer.added_tokens_decoder.items()}
        # some vocabularies add line breaks and blanks as tokens of their own; those end nothing
        names = sorted((name for name in self._ids if name.strip()), key=len, reverse=True)
        self._marker = re.compile("|".join(map(re.escape, names))) if names else re.compile(r"(?!)")

    def render(self, messages: Messages, tools: Tools = None, *, answering: bool = False) -> str:
        """The conversation as text; with `answering`, up to where the assistant is to speak.

        Args:
          messages: dicts with role and content, and whatever else the template reads.
          tools: JSON schemas of functions that the model may call.
          answering: whether the text ends with the generation prompt.
        Returns: the text with its special tokens, not yet encoded.
        Raises: ValueError, in one line, if the template refuses the conversation.
        """
        if self._thinking == "drop":
            return self._rendered(thoughts.without(messages), tools, answering, **thoughts.DROPPED)
        if self._thinking == "keep":
            return self._with_thinking(messages, tools, answering)
        return self._rendered(messages, tools, answering)

    def _with_thinking(self, messages: Messages, tools: Tools, answering: bool) -> str:
        put = [dict(message) for message in messages]
        kept: list[tuple[str, str, str]] = []
        for turn, (message, bare) in enumerate(zip(messages, thoughts.without(messages), strict=True)):
            thought, answer = thoughts.split(message) if message["role"] == "assistant" else ("", "")
            if thought:
                place = f"{PROBE}{turn}K"
                put[turn] = bare | {"content": place}
                kept.append((place, thought, answer))
        text = self._rendered(put, tools, answering)
        for place in kept:
            filled = thoughts.put_back(text, *place)
            if filled is None:
                raise ValueError(
                    "the chat template leaves no room for thinking; take thinking drop or template"
                )
            text = filled
        return text

    def _rendered(self, messages: Messages, tools: Tools, answering: bool, **options: bool) -> str:
        text = self._applied(messages, tools, tokenize=False, add_generation_prompt=answering, **options)
        assert isinstance(text, str)
        return text

    def marked(self, messages: Messages, tools: Tools = None) -> Sequence[int] | None:
        """1 for each token of the conversation inside a `{% generation %}` block of the template.

        None if the template has no such block, or does not know of thinking that was put into its text.

        Args:
          messages: dicts with role and content, and whatever else the template reads.
          tools: JSON schemas of functions that the model may call.
        Returns: 0 or 1 for each token of the rendered conversation, or None.
        Raises: ValueError, in one line, if the template refuses the conversation.
        """
        template = self._untyped("get_chat_template")(tools=_listed(tools))
        assert isinstance(template, str)
        if self._thinking == "keep" or not _GENERATION.search(template):
            return None
        drop = self._thinking == "drop"
        said = self._applied(
            thoughts.without(messages) if drop else messages,
            tools,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            **(thoughts.DROPPED if drop else {}),
        )
        return cast("Mapping[str, Sequence[int]]", said)["assistant_masks"]

    def _untyped(self, method: str) -> Callable[..., object]:
        """A method of the tokenizer for which transformers declares no types."""
        return getattr(self._tokenizer, method)

    def _applied(self, messages: Messages, tools: Tools, **options: bool) -> object:
        try:
            with _ONE_AT_A_TIME:
                apply = self._untyped("apply_chat_template")
                return apply([dict(message) for message in messages], tools=_listed(tools), **options)
        except Exception as error:  # whatever a foreign program raises
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"the chat template refuses the conversation: {reason}") from None

    @cached_property
    def around(self) -> Surroundings:
        """What the template puts around answers; empty texts if that cannot be determined."""
        asked = {"role": "user", "content": f"{PROBE}A"}
        more = {"role": "user", "content": f"{PROBE}C"}
        answer = {"role": "assistant", "content": f"{PROBE}B"}
        try:
            silent, prompt = self.render([asked]), self.render([asked], answering=True)
            before, _, alone = self.render([asked, answer]).partition(answer["content"])
            between = self.render([asked, answer, more]).partition(answer["content"])[2]
        except ValueError:
            return Surroundings("", "", "", "")
        header = prompt[self.shared(prompt, silent) :]
        opening = before.removeprefix(prompt) if before.startswith(prompt) else ""
        common = alone[: self.shared(alone, between.partition(more["content"])[0])]
        return Surroundings(
            header,
            "" if header or not opening.strip() else opening,
            self.turn_end(common),
            self.turn_end(alone),
        )

    @cached_property
    def shows_tools(self) -> bool:
        """Whether functions listed beside a conversation appear in its text; templates without them ignore
        the list silently."""
        name = f"{PROBE}F"
        function: JsonObject = {"name": name, "description": "", "parameters": {"type": "object"}}
        asked = {"role": "user", "content": f"{PROBE}A"}
        try:
            return name in self.render([asked], [{"type": "function", "function": function}])
        except ValueError:  # it reads them: it asks for more than these
            return True

    def shared(self, one: str, other: str) -> int:
        """Length of the common prefix of two texts; special and other added tokens are not split.

        Args:
          one, other: rendered texts, in either order.
        Returns: the number of characters.
        """
        limit = min(len(one), len(other))
        place = next((i for i in range(limit) if one[i] != other[i]), limit)
        for text in (one, other):
            inside = [m.start() for m in self._marker.finditer(text) if m.start() < place < m.end()]
            place = min([place, *inside])
        return place

    def turn_end(self, tail: str) -> str:
        """The end of a turn within the text after its answer: up to the first special or other added token;
        without one, the text without its trailing blanks, and blanks alone as they are."""
        marker = self._marker.search(tail)
        return tail[: marker.end()] if marker else tail.rstrip() or tail

    def end_ids(self) -> tuple[int, ...]:
        """The tokens with which the template ends an answer; none if it does so in plain text."""
        around = self.around
        markers = [m for end in (around.ending, around.last_ending) for m in self._marker.findall(end)]
        return tuple(dict.fromkeys(self._ids[marker] for marker in markers))


def chat_template(tokenizer: "PreTrainedTokenizerBase", thinking: Thinking = "template") -> ChatTemplate:
    """The tokenizer's chat template; what was learned about it is kept for the next call.

    Args:
      tokenizer: a fast tokenizer.
      thinking: what becomes of the assistant's thinking (jaxmoe.text.thinking).
    Returns: one object for each tokenizer, `thinking`, template and number of tokens; the last eight are
      kept.
    Raises: ValueError if it has none.
    """
    return _known(tokenizer, thinking, str(getattr(tokenizer, "chat_template", None)), len(tokenizer))


@lru_cache(maxsize=8)
def _known(
    tokenizer: "PreTrainedTokenizerBase", thinking: Thinking, template: str, tokens: int
) -> ChatTemplate:
    """One for each template: a tokenizer may be given another one, or more tokens."""
    return ChatTemplate(tokenizer, thinking)


def _listed(tools: Tools) -> list[JsonObject] | None:
    return None if tools is None else [dict(tool) for tool in tools]
