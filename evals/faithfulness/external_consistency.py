"""Do tests of one construct agree, and more than tests of different constructs?

An item that two instruments share agrees with itself, so it counts only in the shorter instrument.
"""

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from evals.faithfulness.criteria import (
    HALO,
    Check,
    Setting,
    construct_of,
    indistinct,
    judged,
    undetermined,
)
from evals.faithfulness.traits import PersonTraits, beyond_description
from evals.psychometrics.estimate import Estimate, complete_cases, pearson, percentile_estimate, undefined
from evals.questionnaires.instrument import Instrument, Scale
from evals.questionnaires.response_table import ResponseCube

CONVERGENT, LEAD = "convergent r", "convergent r − largest heterotrait |r|"
DRAWS = 1000
# a scale needs this many items after shared items are taken out
LEAST_ITEMS = 2


def external_consistency(
    scales: Sequence[tuple[ResponseCube, Scale]], setting: Setting, traits: PersonTraits | None = None
) -> dict[tuple[str, str], list[Check]]:
    """Convergent and discriminant correlations, and halo, by instrument and scale.

    Scores are means over conditions. A scale is compared with the other instruments' scales of its construct;
    the one that agrees least counts.

    Args:
      scales: every scale that is judged, with its instrument's answers, completed.
      traits: what is described or known about the persons; halo is judged beyond it.
    Returns: checks by the names of instrument and scale.
    """
    shared = shared_items([one.instrument for one, _ in scales])
    found = {}
    for own, scale in scales:
        partners = [
            (other, its)
            for other, its in scales
            if other is not own and construct_of(its) == construct_of(scale)
        ]
        kin = [(own, scale), *partners]
        strangers = [
            (other, its)
            for other, its in scales
            if construct_of(its) != construct_of(scale)
            and (scale.parent is not None or its.parent is None)
            and not any(_nested(one, of_it, other, its) for one, of_it in kin)
        ]
        checks = _convergent(own, scale, partners, strangers, shared, setting)
        halo = _halo(own, scale, traits, setting) if traits is not None and scale.parent is None else None
        found[own.instrument.name, scale.name] = checks if halo is None else [*checks, halo]
    return found


def shared_items(instruments: Sequence[Instrument]) -> dict[str, frozenset[str]]:
    """By instrument, the items that a shorter one (or an earlier one of equal length) asks in the same words.

    Case, punctuation and a leading "I" make no difference.
    """
    unique = {one.name: one for one in instruments}
    seen: set[str] = set()
    found: dict[str, frozenset[str]] = {}
    for one in sorted(unique.values(), key=lambda instrument: len(instrument.items)):
        words = {item.id: _plain(item.text) for item in one.items}
        found[one.name] = frozenset(item for item, text in words.items() if text in seen)
        seen |= set(words.values())
    return found


def _plain(text: str) -> str:
    return re.sub(r"^i ", "", " ".join(re.findall(r"\w+", text.casefold())))


def _nested(own: ResponseCube, scale: Scale, other: ResponseCube, its: Scale) -> bool:
    """Whether two scales of one instrument share items."""
    return own is other and (scale.name in (its.parent, its.name) or its.name == scale.parent)


def _convergent(
    own: ResponseCube,
    scale: Scale,
    partners: Sequence[tuple[ResponseCube, Scale]],
    strangers: Sequence[tuple[ResponseCube, Scale]],
    shared: Mapping[str, frozenset[str]],
    setting: Setting,
) -> list[Check]:
    limits = setting.thresholds
    if not partners:
        why = "no other instrument measures it: administer a second one"
        return [undetermined(CONVERGENT, why, limits.convergent, len(own.persons))]
    if check := indistinct(
        _means(own, scale, own, frozenset())[:, None], CONVERGENT, limits.convergent, setting
    ):
        return [check]
    mine = _means(own, scale, own, shared[own.instrument.name])
    checks = []
    others = [_means(o, s, own, shared[o.instrument.name]) for o, s in strangers]
    others = np.array([scores for scores in others if not np.isnan(scores).all()]).reshape(-1, len(mine))
    for other, its in partners:
        name = f"{CONVERGENT} with {other.instrument.name}"
        theirs = _means(other, its, own, shared[other.instrument.name])
        if np.isnan(mine).all() or np.isnan(theirs).all():
            why = f"{own.instrument.name} and {other.instrument.name} share these items: take others"
            checks.append(undetermined(name, why, limits.convergent, len(own.persons)))
            continue
        checks.append(
            judged(name, pearson(mine, theirs, confidence=setting.confidence), limits.convergent, setting)
        )
        if len(others):
            gap = lead(mine, theirs, others, setting)
            checks.append(judged(f"{LEAD} ({other.instrument.name})", gap, limits.discriminant, setting))
    return checks


def _means(one: ResponseCube, scale: Scale, own: ResponseCube, without: frozenset[str]) -> np.ndarray:
    """Scores over conditions without some items, in own's order of persons; NaN where too few are left."""
    left = [item for item in one.instrument.items_of(scale.name) if item.id not in without]
    if len(left) < min(LEAST_ITEMS, len(one.instrument.items_of(scale.name))):
        return np.full(len(own.persons), math.nan)
    mean = one.scores(scale, without).mean(axis=1)
    places = one.persons.get_indexer(own.persons)
    return np.where(places >= 0, mean[places], np.nan)


def lead(mine: np.ndarray, theirs: np.ndarray, others: np.ndarray, setting: Setting) -> Estimate:
    """r(mine, theirs) − max |r(mine, other)|, with a bootstrap over persons.

    Args:
      mine, theirs: of the same persons [P]; others: [K, P]. Others that do not vary are left out.
    Returns: Estimate.
    """
    varying = others[np.ptp(np.nan_to_num(others, nan=np.inf), axis=1) > 1e-12]
    if not len(varying):
        return undefined("no other construct varies", len(mine))
    data = complete_cases(np.column_stack([mine, theirs, *varying]))
    n = len(data)
    if n < 4 or (np.ptp(data, axis=0) <= 1e-12).any():
        return undefined(f"fewer than 4 respondents who vary (n = {n})", n)
    point = np.corrcoef(data.T)[0, 1:]
    # every sample is compared with the nearest one found here: a new maximum in each would be biased
    nearest = 1 + int(np.abs(point[1:]).argmax())
    sign = math.copysign(1.0, point[nearest])
    rng = np.random.default_rng(setting.seed)
    samples = data[rng.integers(0, n, (DRAWS, n))][:, :, [0, 1, 1 + nearest]]
    centered = samples - samples.mean(axis=1, keepdims=True)
    spread = np.sqrt((centered**2).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.einsum("bn,bnk->bk", centered[:, :, 0], centered[:, :, 1:]) / (spread[:, :1] * spread[:, 1:])
    value = float(point[0] - abs(point[nearest]))
    return percentile_estimate(value, r[:, 0] - sign * r[:, 1], n, confidence=setting.confidence)


def _halo(one: ResponseCube, scale: Scale, traits: PersonTraits, setting: Setting) -> Check | None:
    """How far a score follows what the instrument's other scores have in common, beyond the description.

    Both are residuals from the described traits; the common part is their first principal component. The
    statistic is the standardized slope |b| sd(common)/sd(score): 0 for a distinct trait, near 1 where all
    scores are a single evaluation. None with fewer than 2 other scales.

    Reference: Thorndike 1920, Journal of Applied Psychology 4, 25-29.
    """
    others = [s for s in one.instrument.domains if s.name != scale.name and len(one.columns(s.name))]
    if len(others) < 2:
        return None
    columns = [one.scores(s).mean(axis=1) for s in (scale, *others)]
    found = beyond_description(np.column_stack(columns), traits.of(one.persons), construct_of(scale))
    limit = setting.thresholds.halo
    if found.reason:
        return undetermined(HALO, found.reason, limit, found.n)
    spread = found.residuals.std(axis=0)
    varying = np.flatnonzero(spread[1:] > 1e-9) + 1
    total = float(found.complete[:, 0].std())
    if total <= 1e-9 or len(varying) < 2:
        return undetermined(HALO, "the scores do not vary beyond the description", limit, found.n)
    standard = found.residuals[:, varying] / spread[varying]
    common = standard @ np.linalg.eigh(standard.T @ standard)[1][:, -1]
    mine = found.residuals[:, 0]
    slope = float(mine @ common / (common @ common))
    size = float(common.std()) / total
    df = found.df - 1
    error = math.sqrt(max(float(((mine - slope * common) ** 2).sum()) / df, 0.0) / float(common @ common))
    half = float(stats.t.ppf((1 + setting.confidence) / 2, df)) * error * size
    value = abs(slope) * size
    return judged(HALO, Estimate(value, value - half, value + half, found.n), limit, setting)
