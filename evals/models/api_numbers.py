"""Numbers from a server's JSON, which may also hold NaN, Infinity, true, "1" and numbers without bound.

Not covered: what happens to a reply with such a number (whoever reads it decides).
"""

import math
from typing import TypeGuard

# a log-probability is at most 0, up to this much rounding
ROUNDING = 0.1
# no difference of float32 numbers is lower than this, and sums of them stay finite
LOWEST = -1e39


def as_number(value: object) -> float:
    """A number of JSON as a float.

    Args:
      value: as `json` reads it; numbers beyond a float's range become infinite, as those with a point do.
    Returns: the number; may be NaN or infinite.
    Raises: ValueError for what is not a number, true and "1" included; the message quotes nothing the server
      sent.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{type(value).__name__} in place of a number")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def is_log_probability(value: float) -> bool:
    """Whether a number can be a log-probability: finite, and at most 0 up to rounding."""
    return LOWEST <= value <= ROUNDING


def is_count(value: object, most: float = math.inf) -> TypeGuard[int]:
    """Whether a value can be a count.

    Args:
      value: as `json` reads it.
      most: the largest count allowed.
    Returns: whether it is a whole number from 0 to `most`; true and 1.0 are not.
    """
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most
