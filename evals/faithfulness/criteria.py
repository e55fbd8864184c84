"""The checks behind each criterion of faithfulness, one construct in one instrument at a time.

Respondents are persons (described people, models); conditions are whatever should not matter: templates,
option orders, item orders, seeds. Not covered: gathering checks into verdicts (faithfulness).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from evals.psychometrics.agreement import icc
from evals.psychometrics.estimate import Estimate, complete_cases, pearson, percentile_estimate, undefined
from evals.psychometrics.generalizability import d_study, variance_components
from evals.psychometrics.reliability import cronbach_alpha
from evals.psychometrics.response_style import forward_reverse_r
from evals.questionnaires.instrument import Scale
from evals.questionnaires.response_table import ResponseCube

FaithfulnessVerdict = Literal["faithful", "not faithful", "undetermined"]
FORWARD_REVERSE = "forward-reverse r"
# statistics that must lie below their threshold
BELOW = (FORWARD_REVERSE,)


@dataclass(frozen=True)
class Thresholds:
    """What counts as enough; this project's choice, shown in every report.

    Attributes:
      retest: least ICC(A,1) of a score over conditions.
      alpha: least Cronbach's α within a condition.
      forward_reverse: r of true-keyed with false-keyed items as given must lie below.
      convergent: least r of two instruments' scores of one construct.
      discriminant: by how much that r must pass the largest |r| with another construct.
      generalizability: least G coefficient over items and conditions, of one condition each.
      behavior: least r of the score with behavior.
      least_respondents: below, a criterion stays undetermined, whatever the estimate.
    """

    retest: float = 0.75
    alpha: float = 0.70
    forward_reverse: float = 0.0
    convergent: float = 0.50
    discriminant: float = 0.10
    generalizability: float = 0.70
    behavior: float = 0.30
    least_respondents: int = 8

    def __post_init__(self) -> None:
        if self.least_respondents < 4:
            raise ValueError(
                "least_respondents must be at least 4, or there are no intervals; "
                f"got {self.least_respondents}"
            )


class Setting(NamedTuple):
    """What all checks share."""

    thresholds: Thresholds
    confidence: float = 0.95
    seed: int = 0


class Check(NamedTuple):
    """An estimate against its threshold."""

    statistic: str
    estimate: Estimate
    threshold: float
    verdict: FaithfulnessVerdict
    reason: str = ""


def judged(statistic: str, estimate: Estimate, threshold: float, setting: Setting) -> Check:
    """The verdict of an interval: wholly beyond the threshold, wholly short of it, or across.

    Short is decided first, so that a tie (an estimate without spread on the threshold) is never faithful.
    """
    sign = -1 if statistic in BELOW else 1
    low, high = sorted((sign * estimate.low, sign * estimate.high))
    least = setting.thresholds.least_respondents
    if not estimate.defined or math.isnan(low) or math.isnan(high):
        return Check(statistic, estimate, threshold, "undetermined", estimate.reason)
    if estimate.n < least:
        why = f"{estimate.n} respondents; at least {least} are asked for (thresholds.least_respondents)"
        return Check(statistic, estimate, threshold, "undetermined", why)
    if high <= sign * threshold:
        return Check(statistic, estimate, threshold, "not faithful")
    if low > sign * threshold:
        return Check(statistic, estimate, threshold, "faithful")
    return Check(statistic, estimate, threshold, "undetermined", "the interval holds the threshold")


def _indistinct(scores_PC: np.ndarray, statistic: str, threshold: float, setting: Setting) -> Check | None:
    """The check where persons cannot be told apart at all; None where they can.

    Several people described as different, and one score for all of them: whatever was measured, it was not
    they. The statistic stays NaN. With a single person nothing can be said.
    """
    complete = complete_cases(scores_PC)
    n, least = len(complete), setting.thresholds.least_respondents
    if not len(complete):
        why = "no respondent answered every item" if len(scores_PC) else "no respondents"
        return Check(statistic, undefined(why), threshold, "undetermined")
    if (np.ptp(complete, axis=0) > 1e-12).any():
        return None
    if n < least:
        why = f"no variance between respondents (n = {n}): describe at least {least} different people"
        return Check(statistic, undefined(why, n), threshold, "undetermined")
    why = f"no variance: {n} people who were described as different got the same score"
    return Check(statistic, undefined(why, n), threshold, "not faithful")


def reproducibility(one: ResponseCube, scale: Scale, setting: Setting) -> list[Check]:
    """Does the same test give the same score? ICC(A,1) of persons x conditions."""
    statistic, threshold = "ICC(A,1) over conditions", setting.thresholds.retest
    scores = one.scores(scale)
    if check := _indistinct(scores, statistic, threshold, setting):
        return [check]
    if scores.shape[1] < 2:
        why = "asked in one condition only: add templates, option orders, item orders or seeds"
        return [Check(statistic, undefined(why, len(scores)), threshold, "undetermined")]
    found = icc(scores, "ICC(A,1)", confidence=setting.confidence)
    return [judged(statistic, found, threshold, setting)]


def internal_consistency(one: ResponseCube, scale: Scale, setting: Setting) -> list[Check]:
    """Do the items agree, and not only because they are answered alike? α, and r of forward with reversed."""
    places, thresholds = one.columns(scale.name), setting.thresholds
    scores = one.scores(scale)
    if check := _indistinct(scores, "alpha", thresholds.alpha, setting):
        return [check]
    alpha = _mean_over_conditions(
        [cronbach_alpha(keyed, confidence=setting.confidence) for keyed in _by_condition(one.keyed, places)]
    )
    checks = [judged("alpha", alpha, thresholds.alpha, setting)]
    keys = one.keys[places]
    if len(set(keys)) < 2:
        why = "all items are keyed one way: agreeing with everything would look the same"
        none = undefined(why, len(scores))
        return [*checks, Check(FORWARD_REVERSE, none, thresholds.forward_reverse, "undetermined")]
    opposed = _mean_over_conditions(
        [
            forward_reverse_r(raw, keys, confidence=setting.confidence)
            for raw in _by_condition(one.raw, places)
        ]
    )
    return [*checks, judged(FORWARD_REVERSE, opposed, thresholds.forward_reverse, setting)]


def _by_condition(values_PCJ: np.ndarray, places: np.ndarray) -> list[np.ndarray]:
    return [values_PCJ[:, c][:, places] for c in range(values_PCJ.shape[1])]


def _mean_over_conditions(found: Sequence[Estimate]) -> Estimate:
    """The mean of a coefficient and of its bounds over conditions.

    The same persons answer in each, so the mean is known no worse than one of them: the interval is
    conservative.
    """
    usable = [e for e in found if e.defined and not math.isnan(e.low)]
    if not usable:
        return found[0]
    left = len(found) - len(usable)
    note = f"without {left} of {len(found)} conditions, where it is undefined" if left else ""
    value, low, high = (float(np.mean(part)) for part in zip(*(e[:3] for e in usable), strict=True))
    return Estimate(value, low, high, min(e.n for e in usable), note)


def external_consistency(
    scales: Sequence[tuple[ResponseCube, Scale]], setting: Setting
) -> dict[tuple[str, str], list[Check]]:
    """Do tests of one construct agree, and more than tests of different ones? By instrument and scale.

    Scores are means over conditions. A scale is held against the other instruments' scales of its construct;
    the one that agrees least counts.
    """
    found = {}
    for own, scale in scales:
        partners = [
            (other, its) for other, its in scales if other is not own and _construct(its) == _construct(scale)
        ]
        kin = [(own, scale), *partners]
        strangers = [
            (other, its)
            for other, its in scales
            if _construct(its) != _construct(scale)
            and (scale.parent is not None or its.parent is None)
            and not any(_nested(one, of_it, other, its) for one, of_it in kin)
        ]
        found[own.instrument.name, scale.name] = _convergent(own, scale, partners, strangers, setting)
    return found


def _construct(scale: Scale) -> str:
    return scale.measures or scale.name


def _nested(own: ResponseCube, scale: Scale, other: ResponseCube, its: Scale) -> bool:
    """Whether two scales of one instrument share items."""
    return own is other and (scale.name in (its.parent, its.name) or its.name == scale.parent)


def _convergent(
    own: ResponseCube,
    scale: Scale,
    partners: Sequence[tuple[ResponseCube, Scale]],
    strangers: Sequence[tuple[ResponseCube, Scale]],
    setting: Setting,
) -> list[Check]:
    thresholds = setting.thresholds
    statistic, margin = "convergent r", "convergent r − largest heterotrait |r|"
    if not partners:
        none = undefined("no other instrument measures it: administer a second one", len(own.persons))
        return [Check(statistic, none, thresholds.convergent, "undetermined")]
    mine = _person_means(own, scale, own.persons)
    if check := _indistinct(mine[:, None], statistic, thresholds.convergent, setting):
        return [check]
    checks = []
    others = np.array([_person_means(o, s, own.persons) for o, s in strangers]).reshape(-1, len(mine))
    for other, its in partners:
        theirs = _person_means(other, its, own.persons)
        r = pearson(mine, theirs, confidence=setting.confidence)
        name = f"{statistic} with {other.instrument.name}"
        checks.append(judged(name, r, thresholds.convergent, setting))
        if len(others):
            gap = _discrimination(mine, theirs, others, setting)
            checks.append(
                judged(f"{margin} ({other.instrument.name})", gap, thresholds.discriminant, setting)
            )
    return checks


def _person_means(one: ResponseCube, scale: Scale, persons: pd.Index) -> np.ndarray:
    """Scores averaged over conditions, in the order of some persons; NaN for one who is not there."""
    mean = one.scores(scale).mean(axis=1)
    places = one.persons.get_indexer(persons)
    return np.where(places >= 0, mean[places], np.nan)


def _discrimination(
    mine: np.ndarray, theirs: np.ndarray, others: np.ndarray, setting: Setting, draws: int = 1000
) -> Estimate:
    """r(mine, theirs) − max |r(mine, other)|, with a bootstrap over persons.

    Others that do not vary cannot agree and are left out.
    """
    varying = others[np.ptp(np.nan_to_num(others, nan=np.inf), axis=1) > 1e-12]
    if not len(varying):
        return undefined("no other construct varies", len(mine))
    data = complete_cases(np.column_stack([mine, theirs, *varying]))
    n = len(data)
    if n < 4 or (np.ptp(data, axis=0) <= 1e-12).any():
        return undefined(f"fewer than 4 respondents who vary (n = {n})", n)
    point = np.corrcoef(data.T)[0, 1:]
    # the one that comes nearest is compared with in every sample: a maximum taken anew would be biased
    nearest = 1 + int(np.abs(point[1:]).argmax())
    sign = math.copysign(1.0, point[nearest])
    rng = np.random.default_rng(setting.seed)
    samples = data[rng.integers(0, n, (draws, n))][:, :, [0, 1, 1 + nearest]]
    centered = samples - samples.mean(axis=1, keepdims=True)
    spread = np.sqrt((centered**2).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.einsum("bn,bnk->bk", centered[:, :, 0], centered[:, :, 1:]) / (spread[:, :1] * spread[:, 1:])
    value = float(point[0] - abs(point[nearest]))
    return percentile_estimate(value, r[:, 0] - sign * r[:, 1], n, confidence=setting.confidence)


def generalizability(
    one: ResponseCube, scale: Scale, setting: Setting, behavior: pd.DataFrame | None
) -> list[Check]:
    """Does the score hold for other items and conditions, and does it foretell behavior?"""
    thresholds = setting.thresholds
    statistic = "G of one condition"
    if check := _indistinct(one.scores(scale), statistic, thresholds.generalizability, setting):
        return [check]
    study = g_study(one, scale, setting)
    checks = [judged(statistic, study, thresholds.generalizability, setting)]
    name = "r with behavior"
    construct = _construct(scale)
    if behavior is None or construct not in behavior.columns:
        none = undefined(f"no behavioral task for {construct} was given", len(one.persons))
        return [*checks, Check(name, none, thresholds.behavior, "undetermined")]
    acts = behavior[construct].reindex([who[0] if len(who) == 1 else who for who in one.persons])
    found = pearson(
        _person_means(one, scale, one.persons), acts.to_numpy(np.float64), confidence=setting.confidence
    )
    return [*checks, judged(name, found, thresholds.behavior, setting)]


def g_table(one: ResponseCube, scale: Scale) -> tuple[pd.DataFrame, list[str]]:
    """A long table of keyed answers and its facets, person first; at most three varying conditions are kept
    apart, further ones are counted as one facet. Persons with a missing answer are left out."""
    values = one.keyed[:, :, one.columns(scale.name)]
    values = values[~np.isnan(values).any(axis=(1, 2))]
    people, count, items = values.shape
    names = list(one.conditions.columns)
    kept, rest = (names, []) if len(names) <= 3 else (names[:2], names[2:])
    facets = {name: one.conditions[name].astype(str).to_numpy() for name in kept}
    if rest:
        facets["occasion"] = one.conditions[rest].astype(str).agg(" ".join, axis=1).to_numpy()
    shape = (people, count, items)
    grid = {"person": np.broadcast_to(np.arange(people)[:, None, None], shape)}
    grid["item"] = np.broadcast_to(np.arange(items), shape)
    grid |= {name: np.broadcast_to(column[None, :, None], shape) for name, column in facets.items()}
    frame = pd.DataFrame({name: part.ravel() for name, part in grid.items()} | {"score": values.ravel()})
    return frame, ["person", "item", *facets]


def g_study(one: ResponseCube, scale: Scale, setting: Setting) -> Estimate:
    """G for the scale's items in one condition each, from variance components of persons x items x
    conditions."""
    frame, facets = g_table(one, scale)
    levels = {name: len(set(frame[name].tolist())) for name in facets}
    persons = levels["person"]
    facets = [name for name in facets if levels[name] > 1 or name == "person"]
    if persons < 2 or len(facets) < 2:
        return undefined(f"needs 2 complete respondents and 2 items or conditions (n = {persons})", persons)
    found = variance_components(frame, facets, confidence=setting.confidence, seed=setting.seed)
    if found.reason:
        return undefined(found.reason, persons)
    sizes = {name: 1 for name in facets if name not in ("person", "item")}
    return d_study(found, sizes, confidence=setting.confidence).g
