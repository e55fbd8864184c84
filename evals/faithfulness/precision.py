"""How precise verdicts can be with the persons of a design, reported before anything is asked.

Widths are those of 95 % intervals for an estimate that lies on its threshold; without persons who differ
there is nothing to report. Not covered: the closed forms (evals.psychometrics.sample_size).
"""

import math
from collections.abc import Sequence

import pandas as pd

from evals.faithfulness.criteria import Thresholds
from evals.psychometrics.sample_size import (
    alpha_width,
    correlation_width,
    persons_for_alpha,
    persons_for_correlation,
    persons_for_inverse,
)
from evals.questionnaires.instrument import Instrument

# a width that tells .60 from .80
WIDTH = 0.2


def expected_precision(
    instruments: Sequence[Instrument],
    persons: int,
    thresholds: Thresholds = Thresholds(),  # noqa: B008 - frozen
    *,
    width: float = WIDTH,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Interval widths with this many persons, and the number of persons that a wanted width takes.

    Args:
      instruments: their scales are judged; scales with the same number of items share a row.
      persons: number of described people who are asked.
      thresholds: where estimates are assumed to lie.
      width: the wanted upper minus lower bound.
      confidence: of all intervals, two-sided.
    Returns: one row per statistic: statistic, at (the threshold), items (0 where they make no difference),
      width (with these persons; NaN where there is no interval), needed (persons; for ω and λ6, to be
      defined at all).
    Raises: ValueError as the functions of evals.psychometrics.sample_size.
    """
    rows: list[dict[str, object]] = []
    sizes = sorted({len(one.items_of(s.name)) for one in instruments for s in one.domains})
    for items in (size for size in sizes if size > 1):
        known = alpha_width(thresholds.alpha, items, persons, confidence=confidence)
        needed = persons_for_alpha(thresholds.alpha, items, width, confidence=confidence)
        rows.append(_row("α", thresholds.alpha, items, known, needed))
        rows.append(_row("ω and λ6 defined", math.nan, items, math.nan, persons_for_inverse(items)))
    for name, r in (
        ("convergent r", thresholds.convergent),
        ("r with the trait", thresholds.criterion),
        ("r with behavior", thresholds.behavior),
    ):
        known = correlation_width(r, persons, confidence=confidence)
        rows.append(_row(name, r, 0, known, persons_for_correlation(r, width, confidence=confidence)))
    return pd.DataFrame(rows)


def _row(statistic: str, at: float, items: int, width: float, needed: int) -> dict[str, object]:
    return {"statistic": statistic, "at": at, "items": items, "width": width, "needed": needed}


def told(table: pd.DataFrame, persons: int, width: float = WIDTH, confidence: float = 0.95) -> list[str]:
    """The same in sentences, one per line.

    Args:
      table: as `expected_precision` returns it.
      persons, width, confidence: as given to it.
    Returns: the lines; for a single person, one line that says that nothing varies.
    """
    if persons < 2:
        return [
            "1 person: nothing varies between respondents, so no reliability or validity can be estimated"
        ]
    lines = [f"With {persons} persons, {confidence:.0%} intervals will be about this wide:"]
    for row in table.to_dict("records"):
        items = f" of {row['items']} items" if row["items"] else ""
        if math.isnan(float(row["at"])):
            if persons < int(row["needed"]):
                lines.append(f"  ω and λ6{items}: undefined; they need at least {row['needed']} persons")
            continue
        known = f"{row['width']:.2f}" if math.isfinite(float(row["width"])) else "none"
        lines.append(
            f"  {row['statistic']} = {row['at']:.2f}{items}: {known}; "
            f"a width of {width:g} needs {row['needed']} persons"
        )
    return lines
