"""Questions without a readable answer: imputed where that is sound, bounded where it is not, and reported
where they depend on the item.

Not covered: the imputation itself (evals.psychometrics.imputation).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from evals.psychometrics.comparisons import holm
from evals.psychometrics.imputation import answer_variance, impute
from evals.questionnaires.instrument import Item
from evals.questionnaires.response_table import ResponseCube

IMPUTATIONS = 5
# an item with a smaller share of its questions answered is left out of its scale
LEAST_ANSWERED = 0.5
# an item is reported if chance alone would set its refusals apart from the others' less often than this
NAMED_BELOW = 0.01


class Completed(NamedTuple):
    """One instrument's answers without gaps, as far as they can be filled.

    Attributes:
      imputed: several copies; one where nothing is missing.
      worst, best: every missing answer is the opposite of what the person's other answers suggest, or exactly
        what they suggest.
      missing: share of missing answers by scale, among the items that are kept.
      left_out: by scale, its items with too few answers, or with none in some condition.
    """

    imputed: list[ResponseCube]
    worst: ResponseCube
    best: ResponseCube
    missing: dict[str, float]
    left_out: dict[str, tuple[str, ...]]


def completed(one: ResponseCube, seed: int = 0) -> Completed:
    """Fills the gaps in every domain from the same person's other answers to it.

    Args:
      one: the answers to one instrument, NaN where missing.
      seed: of the draws.
    Returns: the completion; persons with fewer than half of a domain's answers stay incomplete there.
    """
    share = 1 - np.isnan(one.raw).mean(axis=(0, 1))
    never = np.isnan(one.raw).all(axis=0).any(axis=0)
    kept = np.flatnonzero((share >= LEAST_ANSWERED) & ~never) if np.isnan(one.raw).any() else None
    if kept is None:
        none = dict.fromkeys((scale.name for scale in one.instrument.scales), ())
        return Completed([one], one, one, dict.fromkeys(none, 0.0), none)
    items = one.instrument.items
    gone = {item.id for n, item in enumerate(items) if n not in set(kept.tolist())}
    left_out = {
        scale.name: tuple(item.id for item in one.instrument.items_of(scale.name) if item.id in gone)
        for scale in one.instrument.scales
    }
    some = replace(
        one,
        instrument=one.instrument.model_copy(update={"items": tuple(items[n] for n in kept)}),
        raw=one.raw[:, :, kept],
    )
    missing = {scale.name: _missing(some, scale.name) for scale in one.instrument.scales}
    copies = np.repeat(some.raw[None], IMPUTATIONS, axis=0)
    worst, best = some.raw.copy(), some.raw.copy()
    for scale in some.instrument.domains:
        places = some.columns(scale.name)
        keyed = some.keyed[:, :, places]
        if len(places) and np.isnan(keyed).any():
            drawn = impute(keyed, imputations=IMPUTATIONS, seed=seed)
            copies[:, :, :, places] = _as_given(drawn, some, places)
            for target, sign in ((worst, -1.0), (best, 1.0)):
                target[:, :, places] = _as_given(_expected(keyed, sign), some, places)
    cubes = [replace(some, raw=copy) for copy in copies]
    return Completed(cubes, replace(some, raw=worst), replace(some, raw=best), missing, left_out)


def _missing(one: ResponseCube, scale: str) -> float:
    places = one.columns(scale)
    return float(np.isnan(one.raw[:, :, places]).mean()) if len(places) else 1.0


def _as_given(keyed: np.ndarray, one: ResponseCube, places: np.ndarray) -> np.ndarray:
    """Keyed answers turned back into the form in which they were given."""
    flipped = one.instrument.low + one.instrument.high - keyed
    return np.where(one.keys[places] == -1, flipped, keyed)


def _expected(keyed_PCJ: np.ndarray, sign: float) -> np.ndarray:
    """Sets each missing answer to its item's mean plus or minus what the person's other answers suggest."""
    parts = answer_variance(keyed_PCJ)
    means = np.nanmean(keyed_PCJ, axis=0)
    deviation = keyed_PCJ - means
    count = (~np.isnan(deviation)).sum(axis=(1, 2))
    total = np.nansum(deviation, axis=(1, 2))
    noise = parts.person_item + parts.person_condition + parts.error
    with np.errstate(divide="ignore", invalid="ignore"):
        person = np.where(count > 0, total / count * parts.person / (parts.person + noise / count), np.nan)
    return np.where(np.isnan(keyed_PCJ), means + sign * person[:, None, None], keyed_PCJ)


def refusals_by_item(cubes: Sequence[ResponseCube]) -> pd.DataFrame:
    """The items that went unanswered more often than the other items of their instrument.

    Each item gets a one-sided binomial test against the share of all others, Holm-corrected over the
    instrument's items.

    Returns: columns instrument, item, text, refused (share), others (their share), p_holm; only items with
      p_holm below NAMED_BELOW.
    """
    rows = []
    for one in cubes:
        refused = np.isnan(one.raw).sum(axis=(0, 1))
        asked = one.raw.shape[0] * one.raw.shape[1]
        if not refused.any() or len(refused) < 2:
            continue
        rest = (refused.sum() - refused) / (asked * (len(refused) - 1))
        p = [
            float(stats.binomtest(int(k), asked, min(max(q, 1e-9), 1.0), alternative="greater").pvalue)
            for k, q in zip(refused, rest, strict=True)
        ]
        for item, k, q, adjusted in zip(one.instrument.items, refused, rest, holm(p), strict=True):
            if adjusted < NAMED_BELOW:
                rows.append(_refusal(one, item, k / asked, float(q), float(adjusted)))
    return pd.DataFrame(rows, columns=pd.Index(["instrument", "item", "text", "refused", "others", "p_holm"]))


def _refusal(one: ResponseCube, item: Item, share: float, others: float, p: float) -> dict[str, object]:
    return {
        "instrument": one.instrument.name,
        "item": item.id,
        "text": item.text,
        "refused": share,
        "others": others,
        "p_holm": p,
    }
