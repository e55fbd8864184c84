"""Text from tokens as they arrive: whole characters only, and never past a stop string."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxmoe.text.decoding import decode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_UNFINISHED = "\ufffd"
# tokens of a prompt that are enough to tell how the first token after it is written
_BEFORE = 8


class Detokenizer:
    """The text of one answer.

    Args:
      stops: strings that end the text; neither they nor what follows is given out.
      hidden: tokens that are not text, such as the end of a turn.
      before: tokens of the text that the answer continues: alone, the first token may lose its blank.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        stops: Sequence[str] = (),
        hidden: Sequence[int] = (),
        before: Sequence[int] = (),
    ):
        self._tokenizer, self._stops, self._hidden = tokenizer, tuple(stops), frozenset(hidden)
        self._ids = list(before[-_BEFORE:])
        # the text of `_read` tokens is known; decoding starts at `_from`, a little earlier, as how a token is
        # written may depend on those before it
        self._from, self._read = 0, len(self._ids)
        self._pending = ""
        self.text = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """The text that a token adds for certain; `stopped` tells whether a stop string ended the text."""
        if self.stopped or token in self._hidden:
            return ""
        self._ids.append(token)
        before = self._decode(self._ids[self._from : self._read])
        whole = self._decode(self._ids[self._from :])
        if whole.endswith(_UNFINISHED):
            return ""
        self._pending += whole[len(before) :]
        self._from, self._read = self._read, len(self._ids)
        return self._give(final=False)

    def end(self) -> str:
        """What was held back, when no more tokens come."""
        if self.stopped:
            return ""
        before = self._decode(self._ids[self._from : self._read])
        self._pending += self._decode(self._ids[self._from :])[len(before) :]
        self._from = self._read = len(self._ids)
        return self._give(final=True)

    def _decode(self, ids: list[int]) -> str:
        return decode(self._tokenizer, ids)

    def _give(self, *, final: bool) -> str:
        """Moves what is certain from the pending text to the given one."""
        places = [at for stop in self._stops if (at := self._pending.find(stop)) >= 0]
        if places:
            self.stopped = True
            given, self._pending = self._pending[: min(places)], ""
        else:
            held = 0 if final else max((_overlap(self._pending, stop) for stop in self._stops), default=0)
            cut = len(self._pending) - held
            given, self._pending = self._pending[:cut], self._pending[cut:]
        self.text += given
        return given


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of a text may be the beginning of a stop string.

    >>> _overlap("see you\\n\\nHu", "\\n\\nHuman")
    4
    """
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
