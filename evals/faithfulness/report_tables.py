"""The tables of a behavior report, from a long table of answers: each stands alone, as CSV or JSON.

Not covered: verdicts (faithfulness), behavioral effects (behavior_scores), how tables look (report).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from evals.faithfulness.completion import Completed, completed
from evals.faithfulness.criteria import construct_of, person_means, pooled_estimate
from evals.faithfulness.external_consistency import shared_items
from evals.faithfulness.generalizability import g_table
from evals.faithfulness.statistics import RELIABILITY, ScaleAnswers
from evals.psychometrics.comparisons import MeanTest, dispersion_ratio, holm, tost, welch
from evals.psychometrics.estimate import Estimate, undefined
from evals.psychometrics.generalizability import d_study, variance_components
from evals.psychometrics.paired import paired_difference, paired_dispersion, pitman_morgan
from evals.psychometrics.response_style import INDICES, position_bias, refusal_rate, style_indices
from evals.psychometrics.validity import Mtmm, mtmm
from evals.questionnaires.behavior_scores import mean_estimate
from evals.questionnaires.instrument import Instrument, Scale
from evals.questionnaires.response_table import ResponseCube, cube
from evals.questionnaires.scoring import score

PERSON = ("persona",)
STYLES = tuple(name for name in INDICES if name not in ("irv", "longstring"))
# conditions of a score for which the D-study says what more of them would bring
D_SIZES = (1, 2, 4, 8)
# a difference of less than so many SDs counts as none
EQUIVALENT = 0.2
# of tests over a family of scales, after Holm's correction
LEVEL = 0.05
BOUNDS = ("value", "low", "high")
NO_TEST = MeanTest(undefined("the base does not vary"), np.nan, np.nan, np.nan, np.nan)


def cubes(table: pd.DataFrame, instruments: Sequence[Instrument]) -> list[ResponseCube]:
    """Each instrument's answers, persons the described people; missing ones are imputed once.

    Items that hardly anybody answered are left out of their scales.

    Args:
      table: a long table of one model, as `administer` returns it.
    Returns: a cube for each instrument, [personas, conditions, items]; persons with too few answers to a
      domain stay incomplete there.
    Raises: ValueError as `evals.questionnaires.response_table.cube`.
    """
    return [one.imputed[0] for one in completions(table, instruments)]


def completions(table: pd.DataFrame, instruments: Sequence[Instrument]) -> list[Completed]:
    """Each instrument's answers, persons the described people, with all imputations.

    Args:
      table: a long table of one model, as `administer` returns it.
    Returns: a completion for each instrument.
    Raises: ValueError as `evals.questionnaires.response_table.cube`.
    """
    return [completed(cube(table, one, PERSON)) for one in instruments]


def given(table: pd.DataFrame, instruments: Sequence[Instrument]) -> list[ResponseCube]:
    """Each instrument's answers as they were given, NaN where there is none.

    Args:
      table: a long table of one model, as `administer` returns it.
    Returns: a cube for each instrument, [personas, conditions, items].
    Raises: ValueError as `evals.questionnaires.response_table.cube`.
    """
    return [cube(table, one, PERSON) for one in instruments]


def in_order(instrument: Instrument) -> list[Scale]:
    """Each domain, followed by its facets."""
    inside = instrument.facets
    return [s for one in instrument.domains for s in (one, *(f for f in inside if f.parent == one.name))]


def _estimate(found: Estimate) -> dict[str, object]:
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n, "reason": found.reason}


def profile(table: pd.DataFrame, instrument: Instrument, norm_group: str | None = None) -> pd.DataFrame:
    """Mean score of each scale over persons with a t interval; in T (50 + 10 z) where there is a norm group.

    A person's score is the mean over conditions.

    Args:
      table: a long table of one model.
      norm_group: one of the instrument's groups; None for means in the unit of the answers.
    Returns: a row a scale, domains before their facets: scale, title, facet (whether it is one), metric (T or
      mean), value, low, high, n (persons), reason, sd (over persons).
    Raises: ValueError as `evals.questionnaires.scoring.score`.
    """
    own = pd.DataFrame(table[table["instrument"] == instrument.name])
    scores = score(
        own,
        instrument,
        norm_group=norm_group,
        respondent=["persona", "template", "option_order", "item_order", "seed"],
    )
    column = "t" if norm_group else "mean"
    rows = []
    for scale in in_order(instrument):
        mine = scores[scores["scale"] == scale.name]
        by_person = np.asarray(pd.Series(mine.groupby("persona")[column].mean()), np.float64)
        found = _mean(by_person)
        sd = _sd(by_person)
        rows.append(
            {
                "scale": scale.name,
                "title": scale.title or scale.name,
                "facet": scale.parent is not None,
                "metric": "T" if norm_group else "mean",
                **_estimate(found),
                "sd": sd,
            }
        )
    return pd.DataFrame(rows)


def _sd(values: np.ndarray) -> float:
    """SD (n − 1) of those that are known; NaN of fewer than two."""
    known = values[~np.isnan(values)]
    return float(known.std(ddof=1)) if len(known) > 1 else np.nan


def _mean(values: np.ndarray) -> Estimate:
    found = mean_estimate(values[~np.isnan(values)])
    return (
        found._replace(reason="no interval: the respondents do not vary")
        if found.n and found.reason
        else found
    )


def reliability(found: Completed, checks: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Of each scale, every statistic of `statistics.RELIABILITY`; α is the verdict's wherever there is one.

    Item coefficients are means over conditions, pooled over imputations as in the verdicts; n counts persons.

    Args:
      found: one instrument's answers, completed.
      checks: of `Assessment.checks`.
      confidence: of the intervals that pooling widens, two-sided.
    Returns: a row a scale and statistic: scale, title, facet, statistic, value, low, high, n, reason.
    """
    one = found.imputed[0]
    rows = []
    for scale in in_order(one.instrument):
        place = {"scale": scale.name, "title": scale.title or scale.name, "facet": scale.parent is not None}
        is_own = (checks["instrument"] == one.instrument.name) & (checks["scale"] == scale.name)
        own = pd.DataFrame(checks[is_own])
        judged = [row for row in own.to_dict("records") if str(row["statistic"]).startswith("alpha")]
        for row in judged:
            value = {"value": row["estimate"], **{name: row[name] for name in ("low", "high", "n", "reason")}}
            rows.append({**place, "statistic": row["statistic"], **value})
        answers = [
            ScaleAnswers(copy.keyed[:, :, copy.columns(scale.name)], copy.scores(scale))
            for copy in found.imputed
        ]
        for name, of in RELIABILITY.items():
            if name != "alpha" or not judged:
                value = pooled_estimate([of(copy) for copy in answers], confidence)
                rows.append({**place, "statistic": name, **_estimate(value)})
    return pd.DataFrame(rows)


def components(one: ResponseCube) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Variance components of each domain, and G and Φ for 1, 2, 4, 8 conditions of each facet but items."""
    parts, studies = [], []
    for scale in one.instrument.domains:
        frame, facets = g_table(one, scale)
        facets = [name for name in facets if frame[name].nunique() > 1]  # type: ignore[operator]
        if "person" not in facets or len(facets) < 2:
            continue
        found = variance_components(frame, facets)
        parts.append(
            found.table.reset_index(names="effect").assign(
                scale=scale.name, title=scale.title or scale.name, reason=found.reason
            )
        )
        conditions = [name for name in facets if name not in ("person", "item")]
        for size in D_SIZES if conditions and not found.reason else ():
            study = d_study(found, dict.fromkeys(conditions, size))
            coefficients = {"g": study.g.value, "g_low": study.g.low, "g_high": study.g.high}
            place = {"scale": scale.name, "title": scale.title or scale.name, "conditions": size}
            studies.append({**place, **coefficients, "phi": study.phi.value})
    joined = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return joined, pd.DataFrame(studies)


def traits_by_methods(found: Sequence[ResponseCube]) -> tuple[Mtmm | None, pd.DataFrame]:
    """The multitrait-multimethod table of all domains that vary, and its correlations for a heat map.

    Items that a shorter instrument asks in the same words are left out.
    """
    shared = shared_items([one.instrument for one in found])
    columns, traits, methods = [], [], []
    persons = found[0].persons
    for one in found:
        places = one.persons.get_indexer(persons)
        for scale in one.instrument.domains:
            mean = one.scores(scale, shared[one.instrument.name]).mean(axis=1)[places]
            if np.isfinite(mean).all() and np.ptp(mean) > 1e-12:
                columns.append(mean)
                traits.append(construct_of(scale))
                methods.append(one.instrument.name)
    if len(columns) < 2 or len(persons) < 4:
        return None, pd.DataFrame()
    order = sorted(range(len(columns)), key=lambda i: (methods[i], traits[i]))
    matrix = np.column_stack([columns[i] for i in order])
    labels = [f"{traits[i]} ({methods[i]})" for i in order]
    r = pd.DataFrame(np.corrcoef(matrix.T), index=labels, columns=pd.Index(labels))
    return mtmm(matrix, [traits[i] for i in order], [methods[i] for i in order], correlation=False), r


def style(models: Mapping[str, pd.DataFrame], instruments: Sequence[Instrument]) -> pd.DataFrame:
    """Response style of each model (null responders among them), means over respondents and instruments.

    Args:
      models: long tables by the name of the model, all of the same instruments.
    Returns: a row a model: model, the indices, position (distance of the positions' shares from equal ones,
      over questions with the most options), refused (share of questions without a readable answer).
    Raises: ValueError as `evals.questionnaires.response_table.cube`.
    """
    rows = []
    for name, table in models.items():
        means = []
        for one in given(table, instruments):
            flat = one.raw.reshape(-1, one.raw.shape[-1])
            found = style_indices(flat, one.instrument.low, one.instrument.high, one.keys)
            means.append(found[list(STYLES)].mean())
        asked = table[table["instrument"].isin([one.name for one in instruments])]
        most = max(asked["n_options"].tolist())
        same = asked[asked["n_options"] == most]
        places = np.where(same["position"] >= 0, same["position"], np.nan)
        rows.append(
            {
                "model": name,
                **pd.concat(means, axis=1).mean(axis=1).to_dict(),
                "position": position_bias(places, most).distance,
                "refused": refusal_rate((asked["refusal"] != "").to_numpy()).value,
            }
        )
    return pd.DataFrame(rows)


def compared(
    base: pd.DataFrame, tuned: pd.DataFrame, instrument: Instrument, norm_group: str | None = None
) -> pd.DataFrame:
    """Tuned against base, scale by scale, over the persons that both were asked as.

    delta: mean of (tuned − base) over persons in SDs of people where there are norms, else of the base;
    dispersion: SD of tuned over SD of base, below 1 where characteristics are restricted; both with intervals
    for pairs. t, df, p: paired t test (Welch's for groups), Holm-corrected in p_holm; p_equivalent: TOST of
    pairs within ± EQUIVALENT; dispersion_p: Pitman and Morgan's test, Holm-corrected over the scales in
    dispersion_p_holm. claim:
    restricted or wider where that is below LEVEL, else none.

    Args:
      base, tuned: long tables of two models.
      norm_group: whose SD is the unit.
    Returns: a row a scale. Models asked as different persons are compared as groups (paired is false).
    """
    norms = {norm.scale: norm for norm in instrument.norms if norm.group == norm_group}
    both = [one for table in (base, tuned) for one in cubes(table, [instrument])]
    asked = [{item.id for item in one.instrument.items} for one in both]
    apart = asked[0] ^ asked[1]
    people = both[0].persons.intersection(both[1].persons, sort=False)
    paired = len(people) >= 2
    rows = []
    for scale in in_order(instrument):
        old, new = (person_means(one, scale, people if paired else one.persons, apart) for one in both)
        norm = norms.get(scale.name)
        n_items = len(instrument.items_of(scale.name))
        per_item = (norm.n_items or n_items) if norm is not None and norm.metric == "sum" else 1
        unit = _sd(old) if norm is None else norm.sd / per_item
        found = _pairs(old, new, unit) if paired else _groups(old, new, unit)
        rows.append(
            {
                "scale": scale.name,
                "title": scale.title or scale.name,
                "facet": scale.parent is not None,
                "base": _mean(old).value,
                "tuned": _mean(new).value,
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
    if not unit > 0:
        return _differences(NO_TEST, undefined("the base does not vary"))
    found = paired_difference(new, old, unit=unit)
    same = tost(new / unit, old / unit, EQUIVALENT, paired=True).p
    if found.se == 0:
        same = float(abs(found.difference.value) >= EQUIVALENT)
    apart = pitman_morgan(new, old)
    return _differences(found, paired_dispersion(new, old), same, apart)


def _groups(old: np.ndarray, new: np.ndarray, unit: float) -> dict[str, object]:
    """Different persons: two groups."""
    found = welch(new, old)
    if not unit > 0:
        return _differences(NO_TEST, undefined("the base does not vary"))
    delta = found.difference._replace(**{key: getattr(found.difference, key) / unit for key in BOUNDS})
    same = tost(new / unit, old / unit, EQUIVALENT).p
    test = found._replace(difference=delta)
    return _differences(test, dispersion_ratio(new, old), same, _variances_differ(new, old))


def _variances_differ(first: np.ndarray, second: np.ndarray) -> float:
    """p of the F test of two groups' variances, two-sided; NaN where a group does not vary."""
    one, other = (values[~np.isnan(values)] for values in (first, second))
    if min(len(one), len(other)) < 2 or not min(one.var(ddof=1), other.var(ddof=1)) > 0:
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
        for key, value in _estimate(found).items()
    }
    tested = {"t": test.t, "df": test.df, "p": test.p}
    return {**columns, **tested, "p_equivalent": p_equivalent, "dispersion_p": dispersion_p}


def drift(
    checkpoints: Mapping[int, pd.DataFrame], instrument: Instrument, norm_group: str | None = None
) -> pd.DataFrame:
    """Scores of each domain over the steps of a training run, each step against the first as pairs.

    Args:
      checkpoints: long tables by training step.
      instrument: whose domains.
      norm_group: whose SD is the unit of the drift; None for the first step's own.
    Returns: a row a step and domain: step, construct, value (mean over persons), low, high, n, reason, sd
      (over persons), flattering (how far the mean lies towards what flatters, 0 to 1, NaN for a scale that
      cannot flatter), and of the steps after the first drift, dispersion with their bounds, t, df, p, p_holm,
      claim as `compared` has them (drift is its delta), NaN in the first.
    Raises: ValueError as `evals.questionnaires.response_table.cube`.
    """
    rows = []
    steps = sorted(checkpoints)
    for step in steps:
        one = cubes(checkpoints[step], [instrument])[0]
        against = (
            compared(checkpoints[steps[0]], checkpoints[step], instrument, norm_group).set_index("scale")
            if step != steps[0]
            else None
        )
        for scale in instrument.domains:
            scores = one.scores(scale).mean(axis=1)
            found = _mean(scores)
            towards = scale.desirable * scale.direction
            share = (found.value - instrument.low) / (instrument.high - instrument.low)
            flattering = np.nan if not towards else share if towards > 0 else 1 - share
            rows.append(
                {
                    "step": step,
                    "construct": construct_of(scale),
                    **_estimate(found),
                    "sd": _sd(scores),
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
