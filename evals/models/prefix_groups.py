"""Texts to score, grouped by how they begin: a group has branches, a branch has answers."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from evals.models.local_model import ScoredIds

# branches per group: for answers of several tokens, and for answers of one token, which are packed
BRANCHES, PACKED = 64, 256


class Branch(NamedTuple):
    """Texts that differ only in their last token, after the prefix.

    Attributes:
      ids: after the prefix, up to and including the first text's last token.
      first: the first of the ids that is scored.
      targets: the last tokens; rows: the texts they belong to.
    """

    ids: list[int]
    first: int
    targets: list[int]
    rows: list[int]


@dataclass(frozen=True)
class Group:
    """Branches of one prefix."""

    prefix: list[int]
    branches: list[Branch]

    @property
    def single(self) -> bool:
        """Whether every answer has one token, so that only the token before it need be computed."""
        return all(branch.first == len(branch.ids) - 1 for branch in self.branches)


def grouped(texts: Sequence[ScoredIds], heads: Sequence[Hashable]) -> Iterator[Group]:
    """Groups by head, their common beginning found in the ids; wide ones are cut into pieces.

    Args:
      texts: the texts to score.
      heads: texts with the same value are grouped.
    Returns: the groups, whose rows are places in `texts`.
    """
    together: dict[Hashable, list[int]] = {}
    for row, head in enumerate(heads):
        together.setdefault(head, []).append(row)
    for rows in together.values():
        # the prefix holds no scored token, and leaves every text at least one id
        length = _common([texts[row].ids for row in rows])
        length = min(length, *(min(texts[row].start, len(texts[row].ids) - 1) for row in rows))
        branches: dict[tuple[int, ...], Branch] = {}
        for row in rows:
            ids, start = texts[row].ids[length:], texts[row].start - length
            same = (*ids[:-1], -1 - start)
            if same not in branches:
                branches[same] = Branch(ids, start, [], [])
            branches[same].targets.append(ids[-1])
            branches[same].rows.append(row)
        prefix = texts[rows[0]].ids[:length]
        # similar lengths go together, so that little is padding
        ordered = sorted(branches.values(), key=lambda branch: len(branch.ids))
        size = PACKED if Group(prefix, ordered).single else BRANCHES
        for first in range(0, len(ordered), size):
            yield Group(prefix, ordered[first : first + size])


def _common(rows: Sequence[list[int]]) -> int:
    """How many ids all rows begin with: those of the least and the greatest row."""
    low, high = min(rows), max(rows)
    return next(
        (n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high))
    )


def fine_bucket(length: int, smallest: int) -> int:
    """The least of 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, .. not below `length` or `smallest`: four sizes per
    octave, since most of a call is these slots.

    Args:
      length: in tokens.
      smallest: size below which none is made.
    Returns: the size.
    """
    step = max(1, (1 << (max(length, 1) - 1).bit_length()) // 8)
    return max(smallest, -(-length // step) * step)
