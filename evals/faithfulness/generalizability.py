"""Does the score hold for other items and conditions, and does it predict behavior?"""

import numpy as np
import pandas as pd

from evals.faithfulness.criteria import (
    Check,
    Setting,
    construct_of,
    indistinct,
    judged,
    person_means,
    undetermined,
)
from evals.psychometrics.estimate import Estimate, pearson, undefined
from evals.psychometrics.generalizability import d_study, variance_components
from evals.questionnaires.instrument import Scale
from evals.questionnaires.response_table import ResponseCube


def generalizability(
    one: ResponseCube, scale: Scale, setting: Setting, behavior: pd.DataFrame | None
) -> list[Check]:
    """G of one condition, and r with behavior.

    Args:
      one: the instrument's answers, completed.
      behavior: persons x constructs; None where there were no tasks.
    Returns: one check for each.
    """
    limits = setting.thresholds
    statistic = "G of one condition"
    if check := indistinct(one.scores(scale), statistic, limits.generalizability, setting):
        return [check]
    checks = [judged(statistic, g_study(one, scale, setting), limits.generalizability, setting)]
    name, construct = "r with behavior", construct_of(scale)
    if behavior is None or construct not in behavior.columns:
        why = f"no behavioral task for {construct} was given"
        return [*checks, undetermined(name, why, limits.behavior, len(one.persons))]
    acts = behavior[construct].reindex([who[0] if len(who) == 1 else who for who in one.persons])
    found = pearson(
        person_means(one, scale, one.persons), acts.to_numpy(np.float64), confidence=setting.confidence
    )
    return [*checks, judged(name, found, limits.behavior, setting)]


def g_table(one: ResponseCube, scale: Scale) -> tuple[pd.DataFrame, list[str]]:
    """Keyed answers to a scale as a long table, for an analysis of variance components.

    Up to three varying facets are kept apart; if there are more, the first two are, and the rest form one
    facet, occasion.

    Args:
      one: the instrument's answers; persons with a missing answer to the scale are left out.
    Returns: one row per answer (person, item, the facets, score), and the names of all facets, person first.
    """
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
    """The G coefficient of a scale: its items as they are, in one condition of each facet.

    Computed from variance components of persons x items x conditions, with persons as what is measured.

    Args:
      one: the instrument's answers; persons with a missing answer to the scale are left out.
      setting: its confidence and, for the interval's draws, its seed.
    Returns: G with its interval; undefined below 2 persons, or with 1 item in 1 condition.
    """
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
