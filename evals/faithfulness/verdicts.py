"""The criteria of RealBehavior as verdicts: can what a questionnaire reports about a model be believed?

The criteria are reproducibility, internal consistency, external consistency, generalizability, and this
project's own, validity. Each is a set of checks; a check compares an estimate and its interval with a
threshold. Definitions and thresholds are this project's.

    faithful       the whole interval of every check of the criterion lies beyond its threshold
    not faithful   the whole interval of some check lies short of it, or people who were described as
                   different got the same scores
    undetermined   anything else: too few respondents, one instrument only, nothing to compare with

A criterion is faithful only if all its checks are, so multiple checks need no correction of their level; none
is made over constructs. There is no overall score.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from evals.faithfulness import criteria
from evals.faithfulness.completion import Completed, completed, refusals_by_item
from evals.faithfulness.criteria import (
    Check,
    FaithfulnessVerdict,
    Setting,
    Thresholds,
    construct_of,
    judged,
    pooled,
    undetermined,
)
from evals.faithfulness.external_consistency import external_consistency
from evals.faithfulness.generalizability import generalizability
from evals.faithfulness.internal_consistency import internal_consistency
from evals.faithfulness.reproducibility import reproducibility
from evals.faithfulness.traits import PersonTraits, described_traits
from evals.faithfulness.validity import validity
from evals.questionnaires.instrument import Instrument, Scale
from evals.questionnaires.response_table import ResponseCube, cube

ORDER: tuple[FaithfulnessVerdict, ...] = ("not faithful", "undetermined", "faithful")
CRITERIA = (
    "reproducibility",
    "internal consistency",
    "external consistency",
    "generalizability",
    "validity",
)
# checks by (instrument, scale), then by criterion
Checks = dict[tuple[str, str], dict[str, list[Check]]]


class Assessment(NamedTuple):
    """What was found.

    Attributes:
      verdicts: a row for each construct, instrument and criterion: verdict, and the check that decided it
        (statistic, estimate, low, high, threshold, n, reason).
      checks: a row for each check.
      respondents: what the n of these statistics counts.
      thresholds: those used.
      refusals: items that went unanswered more often than others.
    """

    verdicts: pd.DataFrame
    checks: pd.DataFrame
    respondents: str
    thresholds: Thresholds
    refusals: pd.DataFrame

    def of(self, construct: str, criterion: str) -> FaithfulnessVerdict:
        """The verdict of a construct on a criterion; the worst where several instruments measure it.

        Args:
          construct: as in the column `construct` of `verdicts`.
          criterion: one of `CRITERIA`.
        Returns: the verdict; undetermined for a pair that was not assessed.
        """
        rows = self.verdicts
        found = set(rows.loc[(rows.construct == construct) & (rows.criterion == criterion), "verdict"])
        return worst(found)


def worst(verdicts: set[FaithfulnessVerdict]) -> FaithfulnessVerdict:
    """Not faithful before undetermined before faithful; undetermined if there are none.

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
    traits: pd.DataFrame | None = None,
    persons: Sequence[str] = ("persona",),
    facets: bool = False,
    thresholds: Thresholds = Thresholds(),  # noqa: B008 - frozen
    confidence: float = 0.95,
    seed: int = 0,
) -> Assessment:
    """Verdicts for every construct that the instruments measure.

    Args:
      long_table: from evals.questionnaires.administer, or any with its columns.
      instrument: one or several; external consistency needs two that measure the same construct.
      behavior: persons (index: the values of `persons`) x constructs: what they did in behavioral tasks,
        in the direction of the construct.
      traits: persons x constructs: traits that are known from elsewhere (of simulated people, from peers). If
        left out, those that the personas describe, which `administer` writes into its table. Without any,
        validity is undetermined, and no construct is faithful on all criteria.
      persons: the columns that tell respondents apart; the other facets are conditions that should not
        matter. With one person there is nothing to tell apart, and correlations are undefined.
      facets: also judge the narrower scales inside the domains.
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
    setting = Setting(thresholds, confidence, seed)
    about = described_traits(long_table, list(persons)) if traits is None else PersonTraits(traits, False)
    filled = [completed(one, seed) for one in cubes]
    found = _checks(filled, facets, setting, about, behavior)
    rows = []
    for one in cubes:
        for scale in _scales(one, cubes, facets):
            place = {"construct": construct_of(scale), "instrument": one.instrument.name, "scale": scale.name}
            for criterion, several in found[one.instrument.name, scale.name].items():
                rows += [{**place, "criterion": criterion, **_row(check)} for check in several]
    table = pd.DataFrame(rows)
    return Assessment(
        _verdicts(table), table, _respondents(cubes, persons), thresholds, refusals_by_item(cubes)
    )


def _checks(
    filled: Sequence[Completed],
    facets: bool,
    setting: Setting,
    traits: PersonTraits | None,
    behavior: pd.DataFrame | None,
) -> Checks:
    """All checks, pooled over imputations; bounded where too much of a scale is missing."""
    limit = setting.thresholds.missing
    apart = _too_few_items(filled, limit)
    copies = max(len(one.imputed) for one in filled)

    def judge(cubes: Sequence[ResponseCube]) -> Checks:
        return _judge(cubes, apart, facets, setting, traits, behavior)

    several = [judge([one.imputed[n % len(one.imputed)] for one in filled]) for n in range(copies)]
    found = {
        place: {name: _pool([copy[place][name] for copy in several], setting) for name in several[0][place]}
        for place in several[0]
    }
    missing = {(one.imputed[0].instrument.name, s): x for one in filled for s, x in one.missing.items()}
    left_out = {(one.imputed[0].instrument.name, s): x for one in filled for s, x in one.left_out.items()}
    many = [place for place in found if place not in apart and missing[place] > limit]
    if many:
        low, high = (judge([getattr(one, name) for one in filled]) for name in ("worst", "best"))
        for place in many:
            found[place] = {
                name: _bounded(low[place][name], high[place][name], missing[place], setting)
                for name in low[place]
            }
    for place in found:
        if left_out[place] and place not in apart:
            found[place] = {name: _without(left_out[place], own) for name, own in found[place].items()}
    return found


def _too_few_items(filled: Sequence[Completed], limit: float) -> dict[tuple[str, str], str]:
    """The scales that lose too many items, and the reason reported for them: what is left of such a scale is
    a different scale, and bounds need some answers to every item."""
    found = {}
    for one in filled:
        for scale, gone in one.left_out.items():
            total = len(gone) + len(one.imputed[0].instrument.items_of(scale))
            if len(gone) > limit * total:
                found[one.imputed[0].instrument.name, scale] = (
                    f"{len(gone)} of {total} items are left out ({_listed(gone)}): too few answers, "
                    "or none in some condition"
                )
    return found


def _without(left_out: Sequence[str], checks: list[Check]) -> list[Check]:
    """Adds to each check's reason the items that were left out."""
    why = f"without {_listed(left_out)} (too few answers, or none in some condition)"
    return [
        check._replace(reason="; ".join(filter(None, (check.reason or check.estimate.reason, why))))
        for check in checks
    ]


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return ", ".join(items[:3]) + more


def _judge(
    cubes: Sequence[ResponseCube],
    apart: Mapping[tuple[str, str], str],
    facets: bool,
    setting: Setting,
    traits: PersonTraits | None,
    behavior: pd.DataFrame | None,
) -> Checks:
    """Every check of every scale, from answers without gaps; scales in `apart` have none and match none."""
    pairs = [(one, scale) for one in cubes for scale in _scales(one, cubes, facets)]
    present = [(one, scale) for one, scale in pairs if (one.instrument.name, scale.name) not in apart]
    external = external_consistency(present, setting, traits)
    found: Checks = {}
    for one, scale in pairs:
        place = one.instrument.name, scale.name
        if place in apart:
            found[place] = {name: [undetermined("any", apart[place], math.nan)] for name in CRITERIA}
            continue
        elsewhere = [
            f"{other.instrument.name} measures it too, but {apart[other.instrument.name, its.name]}"
            for other, its in pairs
            if (other.instrument.name, its.name) in apart and construct_of(its) == construct_of(scale)
        ]
        found[place] = {
            CRITERIA[0]: reproducibility(one, scale, setting),
            CRITERIA[1]: internal_consistency(one, scale, setting),
            CRITERIA[2]: [
                check._replace(reason=elsewhere[0])
                if elsewhere and check.verdict == "undetermined"
                else check
                for check in external[place]
            ],
            CRITERIA[3]: generalizability(one, scale, setting, behavior),
            CRITERIA[4]: validity(one, scale, setting, traits),
        }
    return found


def _pool(copies: Sequence[list[Check]], setting: Setting) -> list[Check]:
    if len(copies) == 1:
        return copies[0]
    by_name = [{check.statistic: check for check in checks} for checks in copies]
    return [
        pooled([found[check.statistic] for found in by_name if check.statistic in found], setting)
        for check in copies[0]
    ]


def _bounded(worst_case: list[Check], best_case: list[Check], share: float, setting: Setting) -> list[Check]:
    """Checks that hold whatever the missing answers would have been; otherwise undetermined."""
    best = {check.statistic: check for check in best_case}
    found = []
    for check in worst_case:
        other = best.get(check.statistic)
        if other is None or not (check.estimate.defined and other.estimate.defined):
            found.append(check)
            continue
        both = (check.estimate, other.estimate)
        value = (both[0].value + both[1].value) / 2
        low, high = min(e.low for e in both), max(e.high for e in both)
        why = f"{share:.0%} of the answers are missing: bounds"
        wide = judged(
            check.statistic, both[0]._replace(value=value, low=low, high=high), check.threshold, setting
        )
        found.append(wide._replace(reason="; ".join(filter(None, (why, wide.reason)))))
    return found


def _scales(one: ResponseCube, cubes: Sequence[ResponseCube], facets: bool) -> list[Scale]:
    """Domains, plus the facets asked for or also measured by another instrument."""
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
    """The worst check of each criterion; among equally bad ones, the one with the least margin."""
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
