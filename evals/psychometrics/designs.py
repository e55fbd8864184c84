"""Designs of generalizability studies: which facets are crossed, which nested, and what each effect is.

A design is written as a list of its facets: ("person", "item", "occasion") is crossed, ("person", "task",
"rater:task") has raters within tasks. Not covered: estimation (generalizability, reml).
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

# the name of the facet that stands for repeated observations of one cell
REPEAT = "repeat"


class GStudyDesign(NamedTuple):
    """Facets in order, what each is nested in, and the effects as sets of facets, the last the residual."""

    facets: tuple[str, ...]
    within: dict[str, frozenset[str]]
    effects: tuple[frozenset[str], ...]

    def name(self, effect: frozenset[str]) -> str:
        """p, p:i for an interaction, r(t) for raters within tasks, p:r(t) for their interaction."""
        nests = {outer for facet in effect for outer in self.within[facet]}
        own = [facet for facet in self.facets if facet in effect - nests]
        outer = [facet for facet in self.facets if facet in nests]
        return ":".join(own) + (f"({','.join(outer)})" if outer else "")

    @property
    def names(self) -> tuple[str, ...]:
        """The effects' names, in their order."""
        return tuple(self.name(effect) for effect in self.effects)


def parse_design(facets: Sequence[str]) -> GStudyDesign:
    """A design from its facets; "rater:task" (or "rater(task)") is a facet nested in another.

    Raises: ValueError for none or more than five facets, a repeated one, or nesting in an unknown one.
    """
    within: dict[str, frozenset[str]] = {}
    for text in facets:
        facet, _, outer = text.replace("(", ":").replace(")", "").partition(":")
        names = frozenset(part.strip() for part in outer.replace(",", ":").split(":") if part.strip())
        if facet.strip() in within:
            raise ValueError(f"every facet must be given once; {facet.strip()!r} is repeated")
        within[facet.strip()] = names
    if not 1 <= len(within) <= 5:
        raise ValueError(f"a design has 1 to 5 facets, the object of measurement included; got {len(within)}")
    for facet, names in within.items():
        if unknown := names - within.keys() | (names & {facet}):
            raise ValueError(f"{facet!r} is nested in {sorted(unknown)[0]!r}, which is no other facet")
    # nesting is transitive: r in t and t in s means r in s
    for _ in within:
        within = {f: names | frozenset().union(*(within[o] for o in names)) for f, names in within.items()}
    return _with_effects(tuple(within), within)


def _with_effects(facets: tuple[str, ...], within: dict[str, frozenset[str]]) -> GStudyDesign:
    effects = [
        frozenset(chosen)
        for size in range(1, len(facets) + 1)
        for chosen in itertools.combinations(facets, size)
        if all(within[facet] <= frozenset(chosen) for facet in chosen)
    ]
    return GStudyDesign(facets, within, tuple(effects))


def with_repeats(design: GStudyDesign) -> GStudyDesign:
    """The design with repeated observations nested in its cells; their effect becomes the residual."""
    within = {**design.within, REPEAT: frozenset(design.facets)}
    return _with_effects((*design.facets, REPEAT), within)


class CodedScores(NamedTuple):
    """A long table with integer codes: score [N], codes of each effect's levels, and the number of levels.

    levels counts a facet's levels inside one level of what it is nested in; it is 0 where that varies.
    """

    design: GStudyDesign
    score: np.ndarray
    codes: dict[frozenset[str], np.ndarray]
    n_levels: dict[frozenset[str], int]
    levels: dict[str, int]
    balanced: bool
    n_dropped: int


def code_table(long_table: pd.DataFrame, design: GStudyDesign, score: str) -> CodedScores:
    """Codes the levels of every effect, adds repeats where cells have several scores, checks balance.

    Rows without a score are dropped and counted.

    Args:
      long_table: a row for each score, with a column for each facet.
      design: persons and facets, crossed or nested.
      score: column of the scores.
    Returns: scores with the codes [N] of every effect's levels.
    """
    columns = [*design.facets, score]
    if missing := [column for column in columns if column not in long_table.columns]:
        raise ValueError(
            f"the table has no column {missing[0]!r}; it has {', '.join(map(str, long_table.columns))}"
        )
    frame = long_table[columns].copy()
    try:
        frame[score] = np.asarray(frame[score], dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"column {score!r} must hold numbers, NaN where missing") from None
    if np.isinf(np.asarray(frame[score])).any():
        raise ValueError(f"column {score!r} must be finite; it holds an infinite value")
    if np.asarray(pd.isna(frame[list(design.facets)])).any():
        raise ValueError("every row must name a level of each facet; one is missing")
    kept = pd.DataFrame(frame[~np.isnan(np.asarray(frame[score]))])
    numbers = {facet: pd.factorize(kept[facet], sort=True)[0] for facet in design.facets}
    cell = _repeats(_combined([numbers[facet] for facet in design.facets]))
    if len(kept) and cell.max() > 0:
        design, numbers = with_repeats(design), {**numbers, REPEAT: cell}
    codes, n_levels = {}, {}
    for effect in design.effects:
        codes[effect] = _combined([numbers[facet] for facet in design.facets if facet in effect])
        n_levels[effect] = int(codes[effect].max() + 1) if len(kept) else 0
    levels = {facet: _levels_inside(design, facet, codes, n_levels) for facet in design.facets}
    cells = math.prod(levels.values())
    balanced = bool(all(levels.values()) and cells == len(kept) and n_levels[design.effects[-1]] == len(kept))
    # the residual is the effect of all facets, which the design lists last
    return CodedScores(
        design, kept[score].to_numpy(np.float64), codes, n_levels, levels, balanced, len(frame) - len(kept)
    )


def _combined(codes: Sequence[np.ndarray]) -> np.ndarray:
    """Codes 0, 1, .. of the combinations that occur, in lexicographic order."""
    if not len(codes[0]):
        return codes[0]
    sizes = tuple(int(part.max()) + 1 for part in codes)
    return np.unique(np.ravel_multi_index(tuple(codes), sizes), return_inverse=True)[1]


def _repeats(cells: np.ndarray) -> np.ndarray:
    """How often each row's cell occurred before it."""
    order = np.argsort(cells, kind="stable")
    first = np.flatnonzero(np.diff(cells[order], prepend=-1))
    count = np.empty(len(cells), int)
    count[order] = np.arange(len(cells)) - np.repeat(first, np.diff(first, append=len(cells)))
    return count


def _levels_inside(design: GStudyDesign, facet: str, codes: dict, n_levels: dict) -> int:
    effect = frozenset({facet}) | design.within[facet]
    if not design.within[facet]:
        return n_levels[effect]
    pairs = np.unique(np.column_stack([codes[design.within[facet]], codes[effect]]), axis=0)
    counts = np.bincount(pairs[:, 0])
    return int(counts[0]) if (counts == counts[0]).all() else 0
