"""Does a score follow the trait that is described or known, and no other; and does it say more than that?

This criterion is the project's own. Without a described or known trait nothing speaks for a score: anything
that answers by a rule of its own gives items that agree, recur and agree with other tests.
"""

import math

import numpy as np
import pandas as pd
from scipy import stats

from evals.faithfulness.criteria import Check, Setting, construct_of, indistinct, judged, undetermined
from evals.faithfulness.external_consistency import lead
from evals.faithfulness.traits import PersonTraits, beyond_description
from evals.psychometrics.covariance import alpha_of
from evals.psychometrics.estimate import Estimate, pearson, undefined
from evals.psychometrics.measurement_error import disattenuate
from evals.psychometrics.reliability import cronbach_alpha
from evals.questionnaires.instrument import Scale
from evals.questionnaires.response_table import ResponseCube

WITH_TRAIT = "r with the trait, corrected for attenuation"
TRAIT_LEAD = "r with the trait − largest |r| with another trait"
BEYOND = "reliability beyond the description"


def validity(one: ResponseCube, scale: Scale, setting: Setting, traits: PersonTraits | None) -> list[Check]:
    """Convergent and discriminant validity against the traits, and reliable variance beyond a description.

    Args:
      one: the instrument's answers, completed.
      traits: of the persons; None where nothing is described or known.
    Returns: one check for each.
    """
    limits, construct = setting.thresholds, construct_of(scale)
    kind = "described" if traits is None or traits.described else "known"
    if traits is None or construct not in traits.table.columns:
        why = f"validity against a criterion is not established: no {construct} is described or known"
        return [undetermined(WITH_TRAIT, why, limits.criterion, len(one.persons))]
    scores = one.scores(scale).mean(axis=1)
    if check := indistinct(scores[:, None], WITH_TRAIT, limits.criterion, setting):
        return [check]
    theirs = traits.of(one.persons)
    own = theirs[construct].to_numpy(np.float64)
    known = own[~np.isnan(own)]
    if not len(known) or np.ptp(known) == 0:
        why = f"validity against a criterion is not established: the {kind} {construct} does not vary"
        return [undetermined(WITH_TRAIT, why, limits.criterion, len(one.persons))]
    items = one.keyed[:, :, one.columns(scale.name)].mean(axis=1)
    r = pearson(scores, own, confidence=setting.confidence)
    checks = [_with_trait(r, items, setting)]
    others = theirs.drop(columns=construct).to_numpy(np.float64).T
    others = others[~np.isnan(others).any(axis=1)]
    if len(others):
        checks.append(judged(TRAIT_LEAD, lead(scores, own, others, setting), limits.discriminant, setting))
    if traits.described:
        checks.append(_beyond(items, theirs, construct, setting))
    return checks


def _with_trait(r: Estimate, items_PJ: np.ndarray, setting: Setting) -> Check:
    """r with the trait against its threshold; a correction by a reliability that may be 0 cannot meet it."""
    alpha = cronbach_alpha(items_PJ, confidence=setting.confidence)
    check = judged(WITH_TRAIT, _corrected(r, alpha), setting.thresholds.criterion, setting)
    if check.verdict == "faithful" and not alpha.low > 0:
        why = "α may be 0: the items do not agree, so that nothing corrected by it is to be believed"
        return check._replace(verdict="undetermined", reason=why)
    return check


def _corrected(r: Estimate, reliability: Estimate) -> Estimate:
    """r of the true score; uncorrected where the items are not reliable at all."""
    if not reliability.defined or reliability.value <= 0:
        return r._replace(reason="not corrected: the items do not agree")
    return disattenuate(r, min(reliability.value, 1.0), 1.0)


def _beyond(items_PJ: np.ndarray, theirs: pd.DataFrame, construct: str, setting: Setting) -> Check:
    """α of what the items say beyond the description, with Feldt's interval at the degrees of freedom left.

    For a respondent that only repeats the description in other words there is none: nothing but the
    description was measured. Not covered: one that mixes described traits (their products), or answers in a
    steady style on top of the description; telling these from persons takes persons with the same
    description.
    """
    limit = setting.thresholds.beyond_description
    found = beyond_description(items_PJ, theirs, construct)
    if found.reason:
        return undetermined(BEYOND, found.reason, limit, found.n)
    k = items_PJ.shape[1]
    if k < 2:
        return undetermined(BEYOND, f"fewer than 2 items (got {k})", limit, found.n)
    if (
        np.square(found.residuals).sum()
        <= 1e-9 * np.square(found.complete - found.complete.mean(axis=0)).sum()
    ):
        why = "no variance beyond the description: the answers repeat it"
        return Check(BEYOND, undefined(why, found.n), limit, "not faithful")
    value = float(alpha_of(found.residuals.T @ found.residuals / found.df))
    if math.isnan(value):
        return undetermined(BEYOND, "no variance of the score beyond the description", limit, found.n)
    tails = ((1 + setting.confidence) / 2, (1 - setting.confidence) / 2)
    low, high = (1 - (1 - value) * float(stats.f.ppf(p, found.df, found.df * (k - 1))) for p in tails)
    return judged(BEYOND, Estimate(value, low, high, found.n), limit, setting)
