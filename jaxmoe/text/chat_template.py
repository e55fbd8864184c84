"""A tokenizer's chat template: conversations as text, and what the template puts around an answer.

A template is a program that came with the checkpoint. What it does is learned by letting it render: a probe
conversation tells the header before an answer and the end of a turn behind it.
"""

import re
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, Any]]  # [{"role": ..., "content": ...}, ...]
# letters that no template trims, splits or escapes
PROBE = "QZXJKVWQ"
# transformers keeps one compiled template for all tokenizers, and in it the spans of the text it is rendering
_ONE_AT_A_TIME = threading.Lock()


class Surroundings(NamedTuple):
    """What a template puts around an answer.

    Attributes:
      header: between the user's turn and the answer, where the model is to speak; "" if the template does not
        know `add_generation_prompt`.
      ending: behind an answer that is followed by another turn.
      last_ending: behind the last answer of a conversation.
    """

    header: str
    ending: str
    last_ending: str


class ChatTemplate:
    """The chat template of a tokenizer, as functions of a conversation.

    Raises: ValueError if the tokenizer has none.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase"):
        if not tokenizer.chat_template:
            raise ValueError(
                "the tokenizer has no chat template; put chat_template.jinja into its folder "
                "or use instructions"
            )
        self._tokenizer = tokenizer
        names = sorted(
            (str(token) for token in tokenizer.added_tokens_decoder.values()), key=len, reverse=True
        )
        self._marker = re.compile("|".join(map(re.escape, names))) if names else re.compile(r"(?!)")

    def render(self, messages: Messages, *, answering: bool = False) -> str:
        """The conversation as text; with `answering`, up to where the assistant is to speak.

        Raises: ValueError, in one line, where the template refuses the conversation.
        """
        try:
            with _ONE_AT_A_TIME:
                text = self._tokenizer.apply_chat_template(
                    [dict(message) for message in messages], tokenize=False, add_generation_prompt=answering
                )
        except Exception as error:  # whatever a foreign program raises
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"the chat template refuses the conversation: {reason}") from None
        assert isinstance(text, str)
        return text

    @cached_property
    def around(self) -> Surroundings:
        """What the template puts around answers; empty texts where it cannot be told."""
        asked = {"role": "user", "content": f"{PROBE}A"}
        more = {"role": "user", "content": f"{PROBE}C"}
        answer = {"role": "assistant", "content": f"{PROBE}B"}
        try:
            silent, header = self.render([asked]), self.render([asked], answering=True)
            alone = self.render([asked, answer]).partition(answer["content"])[2]
            between = self.render([asked, answer, more]).partition(answer["content"])[2]
        except ValueError:
            return Surroundings("", "", "")
        shared = self.shared(header, silent)
        common = alone[: self.shared(alone, between.partition(more["content"])[0])]
        return Surroundings(header[shared:], self.turn_end(common), self.turn_end(alone))

    def shared(self, one: str, other: str) -> int:
        """Length of the common beginning of two texts; special and other added tokens are not cut."""
        limit = min(len(one), len(other))
        place = next((i for i in range(limit) if one[i] != other[i]), limit)
        for text in (one, other):
            inside = [m.start() for m in self._marker.finditer(text) if m.start() < place < m.end()]
            place = min([place, *inside])
        return place

    def turn_end(self, tail: str) -> str:
        """The end of a turn within the text behind its answer: up to the first special or other added token;
        where there is none, the text without its last blanks, and blanks alone as they are."""
        marker = self._marker.search(tail)
        return tail[: marker.end()] if marker else tail.rstrip() or tail

    def end_ids(self) -> tuple[int, ...]:
        """The tokens with which the template ends an answer; none where it does so in plain text."""
        found = []
        for ending in (self.around.ending, self.around.last_ending):
            for marker in self._marker.findall(ending):
                found.append(int(self._tokenizer.convert_tokens_to_ids(marker)))
        return tuple(dict.fromkeys(found))


def chat_template(tokenizer: "PreTrainedTokenizerBase") -> ChatTemplate:
    """The tokenizer's chat template; what was learned of it is kept for the next call.

    Raises: ValueError if it has none.
    """
    return _known(tokenizer, str(tokenizer.chat_template), len(tokenizer))


@lru_cache(maxsize=8)
def _known(tokenizer: "PreTrainedTokenizerBase", template: str, tokens: int) -> ChatTemplate:
    """One for each template: a tokenizer may be given another one, or more tokens."""
    return ChatTemplate(tokenizer)
