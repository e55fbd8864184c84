"""How many persons an interval of a wanted width takes, computed before anybody is asked.

    r:  tanh(z ± z_c/√(n − 3)), z = artanh r                       (Fisher; Bonett & Wright 2000)
    α:  1 − (1 − α) exp(± z_c √(2k/((k − 1)(n − 2))))               (Bonett 2002)

Both widths fall with n, so the smallest n is found by bisection. They are closed forms that approximate the
estimates' own intervals (Fisher for r, Feldt for α).
"""

import math
from collections.abc import Callable

from evals.psychometrics.estimate import z_critical

# number of persons beyond which no plan is sensible
MOST = 10_000_000


def correlation_width(r: float, persons: int, *, confidence: float = 0.95) -> float:
    """Width of Fisher's interval of a correlation.

    tanh(z + h) − tanh(z − h), z = artanh r, h = z_c/√(n − 3).

    Args:
      r: the correlation expected, −1 < r < 1.
      persons: n; below 4 there is no interval.
      confidence: of the interval, two-sided.
    Returns: the width, NaN below 4 persons.
    Raises: ValueError for r outside (−1, 1).
    Reference: Bonett & Wright 2000, Psychometrika 65, 23-28.

    Example:
      >>> from evals.psychometrics import correlation_width
      >>> round(correlation_width(0.5, 32), 3)
      0.539
    """
    if not -1 < r < 1:
        raise ValueError(f"r must lie between -1 and 1; got {r}")
    if persons < 4:
        return math.nan
    half = z_critical(confidence) / math.sqrt(persons - 3)
    return math.tanh(math.atanh(r) + half) - math.tanh(math.atanh(r) - half)


def alpha_width(alpha: float, items: int, persons: int, *, confidence: float = 0.95) -> float:
    """Width of Bonett's interval of Cronbach's α.

    2(1 − α) sinh(h), h = z_c √(2k/((k − 1)(n − 2))).

    Args:
      alpha: expected, below 1.
      items: k, at least 2.
      persons: n; below 3 there is no interval.
      confidence: of the interval, two-sided.
    Returns: the width, NaN below 3 persons.
    Raises: ValueError for α of 1 or more, or fewer than 2 items.
    Reference: Bonett 2002, Journal of Educational and Behavioral Statistics 27, 335-340.

    Example:
      >>> from evals.psychometrics import alpha_width
      >>> round(alpha_width(0.7, 10, 32), 3)
      0.335
    """
    if not alpha < 1:
        raise ValueError(f"alpha must lie below 1; got {alpha}")
    if items < 2:
        raise ValueError(f"alpha needs at least 2 items; got {items}")
    if persons < 3:
        return math.nan
    half = z_critical(confidence) * math.sqrt(2 * items / ((items - 1) * (persons - 2)))
    return 2 * (1 - alpha) * math.sinh(half)


def persons_for_correlation(r: float, width: float, *, confidence: float = 0.95) -> int:
    """The fewest persons with whom Fisher's interval of r is no wider than wanted.

    Args:
      r: the correlation expected, −1 < r < 1.
      width: upper less lower bound, above 0.
      confidence: of the interval, two-sided.
    Returns: persons, at least 4.
    Raises: ValueError for r outside (−1, 1), or a width that takes no sensible number of persons.
    Reference: Bonett & Wright 2000, Psychometrika 65, 23-28.

    Example:
      >>> from evals.psychometrics import persons_for_correlation
      >>> persons_for_correlation(0.5, 0.2)
      219
    """
    return _fewest(lambda n: correlation_width(r, n, confidence=confidence), width, 4)


def persons_for_alpha(alpha: float, items: int, width: float, *, confidence: float = 0.95) -> int:
    """The fewest persons with whom Bonett's interval of α is no wider than wanted.

    Args:
      alpha: expected, below 1.
      items: of the scale, at least 2.
      width: upper less lower bound, above 0.
      confidence: of the interval, two-sided.
    Returns: persons, at least 3.
    Raises: ValueError as `alpha_width`, or for a width that takes no sensible number of persons.
    Reference: Bonett 2002, Journal of Educational and Behavioral Statistics 27, 335-340.

    Example:
      >>> from evals.psychometrics import persons_for_alpha
      >>> persons_for_alpha(0.7, 10, 0.2)
      82
    """
    return _fewest(lambda n: alpha_width(alpha, items, n, confidence=confidence), width, 3)


def persons_for_inverse(items: int) -> int:
    """The fewest persons for whom item correlations can be inverted, as ω and λ6 require: items + 1.

    With n persons the correlations have rank at most n − 1.

    Args:
      items: of the scale.
    Returns: persons.
    Raises: nothing.

    Example:
      >>> from evals.psychometrics import persons_for_inverse
      >>> persons_for_inverse(24)
      25
    """
    return items + 1


def why_no_inverse(persons: int, items: int) -> str:
    """Why correlations of items have no inverse, in words.

    Args:
      persons: number of persons with answers to all items.
      items: number of items whose correlations are singular.
    Returns: a text that says that there are too few persons, or else that items repeat one another.
    """
    needed = persons_for_inverse(items)
    if persons < needed:
        return f"{persons} respondents are too few for {items} items: needs at least {needed}"
    return f"singular correlations of {items} items: some repeat others exactly"


def _fewest(width_of: Callable[[int], float], width: float, least: int) -> int:
    if not width > 0:
        raise ValueError(f"width must be above 0; got {width}")
    low, high = least - 1, least
    while width_of(high) > width:
        low, high = high, 2 * high
        if high > MOST:
            raise ValueError(f"a width of {width} takes more than {MOST} persons; ask for a wider one")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if width_of(middle) <= width else (middle, high)
    return high
