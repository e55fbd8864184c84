"""Models compared: a tuned model with its base, the checkpoints of a run with the first.

Scores are computed from the questions that both models answered. Drawn answers, such as the verdicts'
imputations, would introduce differences that neither model made, and a paired test is sharp enough to find
them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from evals.faithfulness.completion import LEAST_ANSWERED
from evals.faithfulness.criteria import construct_of
from evals.faithfulness.report_tables import PERSON, as_columns, given, in_order, mean_of, sd_of
from evals.psychometrics.comparisons import MeanTest, dispersion_ratio, holm, tost, welch
from evals.psychometrics.estimate import Estimate, undefined
from evals.psychometrics.paired import paired_difference, paired_dispersion, pitman_morgan
from evals.questionnaires.design import FACETS, PUBLISHED, WORDING
from evals.questionnaires.instrument import Instrument, Scale
from evals.questionnaires.response_table import ResponseCube

# a difference of fewer SDs than this counts as none
EQUIVALENT = 0.2
# significance level of tests over a family of scales, after Holm's correction
LEVEL = 0.05
BOUNDS = ("value", "low", "high")
# an SD below this is rounding error
FLAT = 1e-9


def scores_of(
    models: Sequence[ResponseCube], scale: Scale, people: Sequence[pd.Index], *, shared: bool
) -> list[np.ndarray]:
    """Every model's scores on one scale, without imputing missing answers.

    A person is asked each of J items in C conditions. A question's mean is taken over the persons who
    answered it; a person's score is the mean of these means plus the person's mean distance from them.
    Without gaps that is the mean of the answers. An item with fewer than half of its questions answered, in
    any model, does not count in any.

    Args:
      models: their answers to one instrument.
      scale: of the instrument.
      people: for each model, the persons whose scores are wanted.
      shared: whether a question that a person left unanswered in one model counts in none; persons and
        conditions are then the same.
    Returns: [persons] for each model, in the direction of the construct; NaN for absent persons, and for
      those left with less than half of the questions (a quarter, where two models must share them).
    """
    answers = [_answers(one, scale, who) for one, who in zip(models, people, strict=True)]
    known = [~np.isnan(one) for one in answers]
    enough = np.all([one.mean(axis=(0, 1)) >= LEAST_ANSWERED for one in known], axis=0)
    least = LEAST_ANSWERED
    if shared:
        known = [np.all(known, axis=0)] * len(known)
        least = LEAST_ANSWERED ** len(models)  # what is left where each leaves half to chance
    return [_scores(one, counts & enough, least) for one, counts in zip(answers, known, strict=True)]


def _answers(one: ResponseCube, scale: Scale, people: pd.Index) -> np.ndarray:
    """[persons, conditions, items of the scale] in the direction of the construct."""
    keyed = one.keyed[:, :, one.columns(scale.name)]
    if scale.direction != 1:
        keyed = one.instrument.low + one.instrument.high - keyed
    places = one.persons.get_indexer(people)
    return np.where((places >= 0)[:, None, None], keyed[places], np.nan)


def _scores(answers_PCJ: np.ndarray, counts_PCJ: np.ndarray, least: float) -> np.ndarray:
    answered = np.where(counts_PCJ, answers_PCJ, 0.0)
    each, asked = counts_PCJ.sum(axis=(1, 2)), counts_PCJ[0].size if len(counts_PCJ) else 0
    with np.errstate(divide="ignore", invalid="ignore"):
        means = answered.sum(axis=0) / counts_PCJ.sum(axis=0)
        apart = np.where(counts_PCJ, answers_PCJ - means, 0.0).sum(axis=(1, 2)) / each
    there = ~np.isnan(means)
    if not there.any():
        return np.full(len(answers_PCJ), np.nan)
    return np.where(each >= least * asked, means[there].mean() + apart, np.nan)


def _conditions(table: pd.DataFrame, instrument: Instrument) -> set[tuple[str, ...]]:
    """All facets of the conditions in which an instrument was asked, including those that do not vary."""
    mine = pd.DataFrame(table[table["instrument"] == instrument.name])
    mine = mine if WORDING in mine else mine.assign(**{WORDING: PUBLISHED})
    facets = pd.Index([facet for facet in FACETS if facet not in PERSON])
    return set(map(tuple, pd.DataFrame(mine, columns=facets).astype(str).drop_duplicates().to_numpy()))


def _in_order_of(first: ResponseCube, other: ResponseCube) -> ResponseCube:
    """The other model's answers, with its conditions (which are the same) in the first model's order."""
    ours, theirs = (list(map(tuple, one.conditions.astype(str).to_numpy())) for one in (first, other))
    return replace(other, raw=other.raw[:, [theirs.index(condition) for condition in ours]])


def compared(
    base: pd.DataFrame, tuned: pd.DataFrame, instrument: Instrument, norm_group: str | None = None
) -> pd.DataFrame:
    """Tuned against base, scale by scale, over the persons that both were asked as and, where both were asked
    in the same conditions, over the questions that both answered (`scores_of`).

    delta: mean of (tuned − base) over persons, in SDs of people where there are norms, else of the base;
    dispersion: SD of tuned over SD of base, below 1 where characteristics are restricted; both with intervals
    for pairs. t, df, p: paired t test (Welch's for groups), Holm-corrected in p_holm; p_equivalent: TOST of
    pairs within ± EQUIVALENT; dispersion_p: Pitman and Morgan's test, Holm-corrected over the scales in
    dispersion_p_holm. claim: restricted or wider where that p is below LEVEL, else none.

    Args:
      base, tuned: long tables of two models.
      norm_group: the group whose SD is the unit.
    Returns: one row per scale. Models asked as different persons are compared as groups (paired is false).
    """
    norms = {norm.scale: norm for norm in instrument.norms if norm.group == norm_group}
    first, second = (one for table in (base, tuned) for one in given(table, [instrument]))
    people = first.persons.intersection(second.persons, sort=False)
    paired = len(people) >= 2
    alike = paired and _conditions(base, instrument) == _conditions(tuned, instrument)
    models = [first, _in_order_of(first, second) if alike else second]
    asked_as = [people, people] if paired else [first.persons, second.persons]
    rows = []
    for scale in in_order(instrument):
        old, new = scores_of(models, scale, asked_as, shared=alike)
        norm = norms.get(scale.name)
        n_items = len(instrument.items_of(scale.name))
        per_item = (norm.n_items or n_items) if norm is not None and norm.metric == "sum" else 1
        unit = sd_of(old) if norm is None else norm.sd / per_item
        found = _pairs(old, new, unit) if paired else _groups(old, new, unit)
        there = int((~np.isnan(old + new)).sum()) if paired else len(old)
        if 1 < there < len(old):
            few = f"{there} of {len(old)} persons: the others left too much unanswered"
            found["delta_reason"] = "; ".join(filter(None, (str(found["delta_reason"]), few)))
        rows.append(
            {
                "scale": scale.name,
                "title": scale.title or scale.name,
                "facet": scale.parent is not None,
                "base": mean_of(old).value,
                "tuned": mean_of(new).value,
                "unit": "SD of the base" if norm is None else f"SD of {norm.group}",
                "paired": paired,
                **found,
            }
        )
    frame = pd.DataFrame(rows)
    adjusted = holm(frame["dispersion_p"].to_numpy())
    claims = [
        "none" if not p < LEVEL else ("restricted" if ratio < 1 else "wider")
        for p, ratio in zip(adjusted, frame["dispersion"], strict=True)
    ]
    return frame.assign(p_holm=holm(frame["p"].to_numpy()), dispersion_p_holm=adjusted, claim=claims)


def _pairs(old: np.ndarray, new: np.ndarray, unit: float) -> dict[str, object]:
    if (why := _no_unit(old, unit)) is not None:
        return _differences(*why)
    found = paired_difference(new, old, unit=unit)
    same = tost(new / unit, old / unit, EQUIVALENT, paired=True).p
    if found.se == 0:
        same = float(abs(found.difference.value) >= EQUIVALENT)
    apart = pitman_morgan(new, old)
    return _differences(found, paired_dispersion(new, old), same, apart)


def _groups(old: np.ndarray, new: np.ndarray, unit: float) -> dict[str, object]:
    """Compares different persons, as two groups."""
    found = welch(new, old)
    if (why := _no_unit(old, unit)) is not None:
        return _differences(*why)
    delta = found.difference._replace(**{key: getattr(found.difference, key) / unit for key in BOUNDS})
    same = tost(new / unit, old / unit, EQUIVALENT).p
    test = found._replace(difference=delta)
    return _differences(test, dispersion_ratio(new, old), same, _variances_differ(new, old))


def _no_unit(old: np.ndarray, unit: float) -> tuple[MeanTest, Estimate] | None:
    """What is reported for a comparison that has no unit, with the reason."""
    if unit > FLAT:
        return None
    persons = int((~np.isnan(old)).sum())
    few = f"{persons} persons are left with half of the answers; it takes 2"
    none = undefined("the base does not vary" if persons > 1 else few)
    return MeanTest(none, np.nan, np.nan, np.nan, np.nan), none


def _variances_differ(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided p of the F test of two groups' variances; NaN where a group does not vary."""
    one, other = (values[~np.isnan(values)] for values in (first, second))
    if min(len(one), len(other)) < 2 or not min(one.var(ddof=1), other.var(ddof=1)) > FLAT**2:
        return np.nan
    below = float(stats.f.cdf(one.var(ddof=1) / other.var(ddof=1), len(one) - 1, len(other) - 1))
    return 2 * min(below, 1 - below)


def _differences(
    test: MeanTest,
    dispersion: Estimate,
    p_equivalent: float = np.nan,
    dispersion_p: float = np.nan,
) -> dict[str, object]:
    columns = {
        (f"{name}_{key}" if key != "value" else name): value
        for name, found in (("delta", test.difference), ("dispersion", dispersion))
        for key, value in as_columns(found).items()
    }
    tested = {"t": test.t, "df": test.df, "p": test.p}
    return {**columns, **tested, "p_equivalent": p_equivalent, "dispersion_p": dispersion_p}


def drift(
    checkpoints: Mapping[int, pd.DataFrame], instrument: Instrument, norm_group: str | None = None
) -> pd.DataFrame:
    """Scores of each domain over the steps of a training run, each step paired with the first.

    Args:
      checkpoints: long tables by training step.
      instrument: the one whose domains are scored.
      norm_group: the group whose SD is the unit of the drift; None for the first step's own.
    Returns: one row per step and domain: step, construct, value (mean over persons), low, high, n, reason, sd
      (over persons), flattering (how far the mean lies towards what flatters, 0 to 1, NaN for a scale that
      cannot flatter); for steps after the first, also drift and dispersion with their bounds, t, df, p,
      p_holm and claim as in `compared` (drift is its delta), NaN at the first step.
    Raises: ValueError as `evals.questionnaires.response_table.cube`.
    """
    rows = []
    steps = sorted(checkpoints)
    for step in steps:
        one = given(checkpoints[step], [instrument])[0]
        against = (
            compared(checkpoints[steps[0]], checkpoints[step], instrument, norm_group).set_index("scale")
            if step != steps[0]
            else None
        )
        for scale in instrument.domains:
            (scores,) = scores_of([one], scale, [one.persons], shared=False)
            found = mean_of(scores)
            towards = scale.desirable * scale.direction
            share = (found.value - instrument.low) / (instrument.high - instrument.low)
            flattering = np.nan if not towards else share if towards > 0 else 1 - share
            rows.append(
                {
                    "step": step,
                    "construct": construct_of(scale),
                    **as_columns(found),
                    "sd": sd_of(scores),
                    "flattering": flattering,
                    **_since(against, scale),
                }
            )
    return pd.DataFrame(rows)


def _since(against: pd.DataFrame | None, scale: Scale) -> dict[str, object]:
    """A scale's change since the first step."""
    names = {
        "drift": "delta",
        "drift_low": "delta_low",
        "drift_high": "delta_high",
        **{
            name: name
            for name in ("t", "df", "p", "dispersion", "dispersion_low", "dispersion_high", "p_holm")
        },
        "dispersion_p_holm": "dispersion_p_holm",
    }
    if against is None:
        return {**dict.fromkeys(names, np.nan), "claim": ""}
    return {ours: against.at[scale.name, theirs] for ours, theirs in names.items()} | {
        "claim": against.at[scale.name, "claim"]
    }
