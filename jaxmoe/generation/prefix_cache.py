"""Which tokens' keys and values each slot holds, and which slot a new text should take.

What a slot has read stays there until another text needs the slot: a text with the same prefix takes over its
keys and values instead of reading the tokens again. Only the record is kept here; the keys and values are
not.
"""

import itertools
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

# prefixes shorter than this are read again rather than copied
LEAST_SHARED = 16


class Held(NamedTuple):
    """What is in a slot, whether a text uses it or not.

    Attributes:
      tokens: whose keys and values it holds, int32.
      experts: with which they were read; others would have produced other keys and values.
    """

    tokens: np.ndarray
    experts: bool | str


class Placement(NamedTuple):
    """Where a text goes.

    Attributes:
      slot: a free one.
      source: the slot that holds its prefix; None if no slot does.
      shared: number of tokens in that prefix.
    """

    slot: int
    source: int | None
    shared: int


class PrefixCache:
    """The record of an engine's slots.

    Args:
      slots: texts at a time.
    """

    def __init__(self, slots: int):
        self._slots = slots
        self.forget()

    def forget(self) -> None:
        """Treats all slots as empty and unused, as at first: what they hold is no longer of use."""
        self._used = [0] * self._slots
        self._clock = itertools.count(1)
        self._held = [Held(np.zeros(0, np.int32), True)] * self._slots

    def hold(self, slot: int, tokens: np.ndarray, experts: bool | str) -> None:
        """Records what is in a slot, and that it was of use now.

        Args:
          slot: its number.
          tokens: all that it holds.
          experts: with which they were read.
        """
        self._held[slot] = Held(tokens, experts)
        self._used[slot] = next(self._clock)

    def cut(self, length: int) -> None:
        """Records that the slots have `length` positions now."""
        self._held = [held._replace(tokens=held.tokens[:length]) for held in self._held]

    def oldest(self, free: Collection[int]) -> Placement:
        """The free slot that has been of no use for longest; nothing is shared."""
        return Placement(min(free, key=lambda slot: self._used[slot]), None, 0)

    def place(self, tokens: np.ndarray, experts: bool | str, free: Collection[int]) -> Placement:
        """A free slot for a text, and the slot whose prefix it shares.

        Args:
          tokens: of the text, as many as may be taken over.
          experts: with which it is read.
          free: slots that no text uses; at least one.
        Returns: the slot, and the slot to copy from; they are the same if the slot's content is used in
          place.
        """
        shared = [_shared(held.tokens, tokens) if held.experts == experts else 0 for held in self._held]
        best = max(range(self._slots), key=lambda slot: (shared[slot], slot in free))
        if shared[best] < LEAST_SHARED:
            return self.oldest(free)
        # a slot that holds nothing else is used in place; a copy leaves another's text to later requests
        taken = best in free and shared[best] == len(self._held[best].tokens)
        return Placement(best if taken else self.oldest(free).slot, best, shared[best])


def _shared(held: np.ndarray, prompt: np.ndarray) -> int:
    """Length of the prefix that two texts share."""
    most = min(len(held), len(prompt))
    different = np.flatnonzero(held[:most] != prompt[:most])
    return int(different[0]) if len(different) else most
