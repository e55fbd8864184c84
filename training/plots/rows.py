"""What is compared: the name, color and marker of every row, the same in all plots, tables and pages.

A row is identified by its name. Rows in the same plot differ in color, and no two rows of the project share
both color and marker.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

# Colors that people with any color vision can tell apart (Okabe and Ito, and a brown).
BLUE, VERMILION, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, BROWN = "#E69F00", "#56B4E9", "#000000", "#8B6914"
COLORS = (BLUE, VERMILION, GREEN, PINK, ORANGE, SKY, BLACK, BROWN)
# Not rows: a reference line, a row among many, an area without a verdict, a rule between groups.
REFERENCE, PLAIN, EMPTY, RULE = "#555555", "#444444", "#C9C9C4", "#333333"
_MARKERS = "osD^vPX*"


class RowStyle(NamedTuple):
    """How a row is drawn, in matplotlib's terms."""

    color: str
    marker: str


ROW_STYLES = {
    "base": RowStyle(BLACK, "o"),
    "full SFT": RowStyle(BLUE, "o"),
    "LoRA": RowStyle(VERMILION, "s"),
    "LoRA, LoRAMoE's rate": RowStyle(ORANGE, "s"),
    "LoRA, attention too": RowStyle(BLACK, "s"),
    "LoRAMoE": RowStyle(GREEN, "D"),
    "LoRAMoE, no constraint": RowStyle(SKY, "^"),
    "LoRAMoE, matched gets more": RowStyle(PINK, "v"),
    "LoRAMoE, attention too": RowStyle(BROWN, "P"),
    "RL from tests": RowStyle(ORANGE, "X"),
    "SFT on solutions": RowStyle(BROWN, "*"),
    "LoRAMoE on solutions": RowStyle(GREEN, "o"),
    "LoRA on solutions": RowStyle(BLACK, "^"),
    "full SFT on solutions": RowStyle(BLUE, "s"),
    "Dr. GRPO, every weight": RowStyle(BROWN, "o"),
    "PPO": RowStyle(SKY, "s"),
    "PPO + CCCS": RowStyle(PINK, "^"),
    "PPO + FGO": RowStyle(ORANGE, "v"),
    "Dr. GRPO": RowStyle(SKY, "o"),
    "Dr. GRPO + CCCS": RowStyle(PINK, "s"),
    "Dr. GRPO + FGO": RowStyle(ORANGE, "D"),
    "StepCoder": RowStyle(VERMILION, "D"),
}


def many_styles(names: Sequence[str]) -> dict[str, RowStyle]:
    """Styles for many rows that appear in one plot only: no two are the same up to 64 rows.

    >>> len(set(many_styles([str(number) for number in range(64)]).values()))
    64

    Args:
      names: names of the rows.
    Returns: styles by name; they repeat beyond 64.
    """
    colors, count = len(COLORS), len(_MARKERS)
    return {
        name: RowStyle(COLORS[n % colors], _MARKERS[(n + n // colors) % count])
        for n, name in enumerate(names)
    }


def row_styles(labels: Mapping[str, str]) -> dict[str, RowStyle]:
    """The style of each row of one plot.

    Args:
      labels: name of each row, by its key. Rows that are not in `ROW_STYLES`, such as those of a user's own
        study, get the remaining colors in order, which repeat if there are more rows.
    Returns: styles by key.

    >>> row_styles({"full": "full SFT", "mine": "my method"})
    {'full': RowStyle(color='#0072B2', marker='o'), 'mine': RowStyle(color='#D55E00', marker='s')}
    """
    taken = {ROW_STYLES[label].color for label in labels.values() if label in ROW_STYLES}
    free = [style for style in map(RowStyle, COLORS, _MARKERS) if style.color not in taken]
    free = free or list(map(RowStyle, COLORS, _MARKERS))
    own = [key for key, label in labels.items() if label not in ROW_STYLES]
    return {
        key: ROW_STYLES[label] if label in ROW_STYLES else free[own.index(key) % len(free)]
        for key, label in labels.items()
    }
