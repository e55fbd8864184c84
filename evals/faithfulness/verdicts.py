"""The four criteria of RealBehavior as verdicts: is what a questionnaire says of a model to be believed?

Reproducibility, internal consistency, external consistency, generalizability; each is a set of checks, a
check an estimate with its interval against a threshold. Definitions and thresholds are this project's.

    faithful       every check of the criterion lies beyond its threshold with its whole interval
    not faithful   some check lies short of it with its whole interval, or people who were described as
                   different got the same scores
    undetermined   anything else: too few respondents, one instrument only, nothing to compare with

A criterion is faithful only if all its checks are, so several checks need no correction of their level; over
constructs none is made. There is no overall score.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from evals.faithfulness import criteria
from evals.faithfulness.criteria import Check, FaithfulnessVerdict, Thresholds
from evals.questionnaires.instrument import Instrument, Scale
from evals.questionnaires.response_table import ResponseCube, cube

ORDER: tuple[FaithfulnessVerdict, ...] = ("not faithful", "undetermined", "faithful")
CRITERIA = ("reproducibility", "internal consistency", "external consistency", "generalizability")


class Assessment(NamedTuple):
    """What was found.

    Attributes:
      verdicts: a row for each construct, instrument and criterion: verdict, and the check that decided it
        (statistic, estimate, low, high, threshold, n, reason).
      checks: a row for each check.
      respondents: what the n of these statistics counts.
      thresholds: those used.
    """

    verdicts: pd.DataFrame
    checks: pd.DataFrame
    respondents: str
    thresholds: Thresholds

    def of(self, construct: str, criterion: str) -> FaithfulnessVerdict:
        """The verdict of a construct on a criterion; the worst where several instruments measure it."""
        rows = self.verdicts
        found = set(rows.loc[(rows.construct == construct) & (rows.criterion == criterion), "verdict"])
        return worst(found)


def worst(verdicts: set[FaithfulnessVerdict]) -> FaithfulnessVerdict:
    """Not faithful before undetermined before faithful; undetermined of nothing.

    Args:
      verdicts: of several checks, criteria or instruments.
    Returns: the one that counts where all must hold.
    Raises: nothing.

    Example:
      >>> from evals.faithfulness import worst
      >>> worst({"faithful", "undetermined"})
      'undetermined'
    """
    if not verdicts:
        return "undetermined"
    return min(verdicts, key=ORDER.index)


def assess(
    long_table: pd.DataFrame,
    instrument: Instrument | Sequence[Instrument],
    *,
    behavior: pd.DataFrame | None = None,
    persons: Sequence[str] = ("persona",),
    facets: bool = False,
    thresholds: Thresholds = Thresholds(),  # noqa: B008 - frozen
    confidence: float = 0.95,
    seed: int = 0,
) -> Assessment:
    """Verdicts for every construct that the instruments measure.

    Args:
      long_table: of evals.questionnaires.administer, or any with its columns.
      instrument: one or several; external consistency needs two that measure the same construct.
      behavior: persons (index: the values of `persons`) x constructs: what they did in behavioral tasks,
        in the direction of the construct.
      persons: the columns that tell respondents apart; the other facets are conditions that should not
        matter. With one person there is nothing to tell apart, and correlations are undefined.
      facets: also the narrower scales inside the domains.
      thresholds: what counts as enough.
      confidence: of all intervals, two-sided.
      seed: of bootstraps.
    Returns: an Assessment.
    Raises: ValueError as `evals.questionnaires.response_table.cube`; unless 0 < confidence < 1.
    Reference: the criteria are those of Zhou et al. 2023, arXiv:2310.11227; statistics and thresholds are
      this project's.

    Example:
      >>> from evals.faithfulness import assess
      >>> from evals.questionnaires import administer, load_instrument, simulated_respondent
      >>> gad = load_instrument("gad_7")
      >>> found = assess(administer(simulated_respondent("midpoint"), gad), gad)
      >>> found.of("anxiety", "reproducibility")
      'undetermined'
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1; got {confidence}")
    instruments = [instrument] if isinstance(instrument, Instrument) else list(instrument)
    cubes = [cube(long_table, one, persons) for one in instruments]
    setting = criteria.Setting(thresholds, confidence, seed)
    scales = {one.instrument.name: _scales(one, cubes, facets) for one in cubes}
    pairs = [(one, scale) for one in cubes for scale in scales[one.instrument.name]]
    external = criteria.external_consistency(pairs, setting)
    checks = []
    for one in cubes:
        for scale in scales[one.instrument.name]:
            found: Mapping[str, list[Check]] = {
                CRITERIA[0]: criteria.reproducibility(one, scale, setting),
                CRITERIA[1]: criteria.internal_consistency(one, scale, setting),
                CRITERIA[2]: external[one.instrument.name, scale.name],
                CRITERIA[3]: criteria.generalizability(one, scale, setting, behavior),
            }
            for criterion, several in found.items():
                place = {
                    "construct": construct_of(scale),
                    "instrument": one.instrument.name,
                    "scale": scale.name,
                    "criterion": criterion,
                }
                checks += [{**place, **_row(check)} for check in several]
    table = pd.DataFrame(checks)
    return Assessment(_verdicts(table), table, _respondents(cubes, persons), thresholds)


def construct_of(scale: Scale) -> str:
    """What a scale measures; its own name where it does not say."""
    return scale.measures or scale.name


def _scales(one: ResponseCube, cubes: Sequence[ResponseCube], facets: bool) -> list[Scale]:
    """Domains, and the facets asked for or measured by another instrument too."""
    elsewhere = {s.measures for other in cubes if other is not one for s in other.instrument.domains}
    chosen = [s for s in one.instrument.facets if facets or (s.measures and s.measures in elsewhere)]
    return [*one.instrument.domains, *chosen]


def _row(check: Check) -> dict[str, object]:
    value, low, high, n, reason = check.estimate
    return {
        "verdict": check.verdict,
        "statistic": check.statistic,
        "estimate": value,
        "low": low,
        "high": high,
        "threshold": check.threshold,
        "n": n,
        "reason": check.reason or reason,
    }


def _verdicts(checks: pd.DataFrame) -> pd.DataFrame:
    """The worst check of each criterion; among equals the one with the least margin."""
    rank = [ORDER.index(verdict) for verdict in checks["verdict"].tolist()]
    margin = (checks["estimate"] - checks["threshold"]) * np.where(
        checks["statistic"].isin(criteria.BELOW), -1, 1
    )
    ordered = checks.assign(_rank=rank, _margin=margin.fillna(-math.inf))
    ordered = ordered.sort_values(["_rank", "_margin"], kind="stable")
    places = ["construct", "instrument", "scale", "criterion"]
    first = ordered.groupby(places, sort=False).head(1).drop(columns=["_rank", "_margin"])
    return first.sort_index().reset_index(drop=True)


def _respondents(cubes: Sequence[ResponseCube], persons: Sequence[str]) -> str:
    parts = []
    for one in cubes:
        facets = ", ".join(f"{one.conditions[f].nunique()} {f}s" for f in one.conditions) or "one condition"
        parts.append(f"{one.instrument.name}: {len(one.persons)} ({' x '.join(persons)}), each in {facets}")
    return "; ".join(parts)
