"""Numbers out of a server's JSON, in which NaN, Infinity, true, "1" and numbers without bound may stand too.

Not covered: what becomes of a reply with such a number (whoever reads it).
"""

import math
from typing import TypeGuard

# a log-probability is at most 0, but for rounding of so much
ROUNDING = 0.1
# no difference of float32 numbers lies lower, and sums of such stay finite
LOWEST = -1e39


def as_number(value: object) -> float:
    """A number of JSON as a float.

    Args:
      value: as `json` reads it; numbers beyond a float's range become infinite, as those with a point do.
    Returns: the number; may be NaN or infinite.
    Raises: ValueError for what is no number, true and "1" included; its words hold nothing of the server's.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{type(value).__name__} in place of a number")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def is_log_probability(value: float) -> bool:
    """Whether a number can be one: finite, and at most 0 but for rounding."""
    return LOWEST <= value <= ROUNDING


def is_count(value: object, most: float = math.inf) -> TypeGuard[int]:
    """Whether something can be counted so.

    Args:
      value: as `json` reads it.
      most: the largest number that is one.
    Returns: whether it is a whole number from 0 to `most`; true and 1.0 are none.
    """
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most
