"""The tables of a behavior report, from a long table of answers; each stands alone, as CSV or JSON.

Not covered: verdicts (faithfulness), comparing models (comparison), behavioral effects (behavior_scores), how
tables look (report).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from evals.faithfulness.completion import Completed, completed
from evals.faithfulness.criteria import construct_of, pooled_estimate
from evals.faithfulness.external_consistency import shared_items
from evals.faithfulness.generalizability import g_table
from evals.faithfulness.statistics import RELIABILITY, ScaleAnswers
from evals.psychometrics.estimate import Estimate
from evals.psychometrics.generalizability import d_study, variance_components
from evals.psychometrics.response_style import INDICES, position_bias, refusal_rate, style_indices
from evals.psychometrics.validity import Mtmm, mtmm
from evals.questionnaires.behavior_scores import mean_estimate
from evals.questionnaires.design import FACETS
from evals.questionnaires.instrument import Instrument, Scale
from evals.questionnaires.response_table import ResponseCube, cube
from evals.questionnaires.scoring import score

PERSON = ("persona",)
STYLES = tuple(name for name in INDICES if name not in ("irv", "longstring"))
# numbers of conditions for which the D-study says how dependable a score would be
D_SIZES = (1, 2, 4, 8)


def cubes(table: pd.DataFrame, instruments: Sequence[Instrument]) -> list[ResponseCube]:
    """Each instrument's answers, with the described people as persons; missing answers are imputed once.

    Items that hardly anybody answered are left out of their scales.

    Args:
      table: a long table of one model, as `administer` returns it.
    Returns: a cube for each instrument, [personas, conditions, items]; persons with too few answers to a
      domain stay incomplete there.
    Raises: ValueError as `evals.questionnaires.response_table.cube`.
    """
    return [one.imputed[0] for one in completions(table, instruments)]


def completions(table: pd.DataFrame, instruments: Sequence[Instrument]) -> list[Completed]:
    """Each instrument's answers, with the described people as persons and with all imputations.

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


def as_columns(found: Estimate) -> dict[str, object]:
    """An estimate as the columns value, low, high, n, reason."""
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n, "reason": found.reason}


def profile(table: pd.DataFrame, instrument: Instrument, norm_group: str | None = None) -> pd.DataFrame:
    """Mean score of each scale over persons with a t interval; as T scores (50 + 10 z) with a norm group.

    A person's score is the mean over conditions.

    Args:
      table: a long table of one model.
      norm_group: one of the instrument's groups; None for means in the unit of the answers.
    Returns: one row per scale, domains before their facets: scale, title, facet (whether it is one), metric
      (T or mean), value, low, high, n (persons), reason, sd (over persons).
    Raises: ValueError as `evals.questionnaires.scoring.score`.
    """
    own = pd.DataFrame(table[table["instrument"] == instrument.name])
    scores = score(
        own,
        instrument,
        norm_group=norm_group,
        respondent=[name for name in FACETS if name in own.columns],
    )
    column = "t" if norm_group else "mean"
    rows = []
    for scale in in_order(instrument):
        mine = scores[scores["scale"] == scale.name]
        by_person = np.asarray(pd.Series(mine.groupby("persona")[column].mean()), np.float64)
        found = mean_of(by_person)
        sd = sd_of(by_person)
        rows.append(
            {
                "scale": scale.name,
                "title": scale.title or scale.name,
                "facet": scale.parent is not None,
                "metric": "T" if norm_group else "mean",
                **as_columns(found),
                "sd": sd,
            }
        )
    return pd.DataFrame(rows)


def sd_of(values: np.ndarray) -> float:
    """SD (n − 1) of the known values; NaN for fewer than two."""
    known = values[~np.isnan(values)]
    return float(known.std(ddof=1)) if len(known) > 1 else np.nan


def mean_of(values: np.ndarray) -> Estimate:
    """The mean of the known values, with its t interval."""
    found = mean_estimate(values[~np.isnan(values)])
    return (
        found._replace(reason="no interval: the respondents do not vary")
        if found.n and found.reason
        else found
    )


def reliability(found: Completed, checks: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Every statistic of `statistics.RELIABILITY` for each scale; α is the verdict's wherever there is one.

    Item coefficients are means over conditions, pooled over imputations as in the verdicts; n counts persons.

    Args:
      found: one instrument's answers, completed.
      checks: of `Assessment.checks`.
      confidence: of the intervals that pooling widens, two-sided.
    Returns: one row per scale and statistic: scale, title, facet, statistic, value, low, high, n, reason.
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
                rows.append({**place, "statistic": name, **as_columns(value)})
    return pd.DataFrame(rows)


def components(one: ResponseCube) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Variance components of each domain; G and Φ for 1, 2, 4, 8 conditions of each facet except items."""
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
    """Response style of each model (simulated respondents included), means over respondents and instruments.

    Args:
      models: long tables by the name of the model, all for the same instruments.
    Returns: one row per model: model, the indices, position (distance of the positions' shares from equal
      shares, over questions with the most options), refused (share of questions without a readable answer).
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
