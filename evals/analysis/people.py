"""Comparisons with people's answers: norms, congruence of factors, items that work differently."""

import math

import numpy as np
import pandas as pd

from evals.analysis.answer_table import ALL, AnswerTable
from evals.analysis.results import ResultTable
from evals.analysis.settings import AnalysisSettings
from evals.psychometrics.comparisons import benjamini_hochberg
from evals.psychometrics.factors.similarity import factor_similarity
from evals.psychometrics.item_functioning import item_bias

QUANTILES = (5, 25, 50, 75, 95)


def norms(table: AnswerTable, settings: AnalysisSettings) -> list[ResultTable]:
    """Mean, SD and percentiles of each scale, over all respondents or within each group.

    Args:
      table: people's answers.
      settings: group is used.
    Returns: one table in the columns of an instrument's norms, with percentiles.
    """
    labels = table.column(settings.group).astype(str) if settings.group else None
    groups = ["all"] if labels is None else sorted(set(labels.tolist()))
    rows = []
    for group in groups:
        inside = np.ones(len(table.raw), bool) if labels is None else labels.to_numpy() == group
        for scale, keys in table.scales.items():
            scores = table.score(scale).to_numpy(np.float64)[inside]
            known = scores[~np.isnan(scores)]
            spread = float(known.std(ddof=1)) if len(known) > 1 else math.nan
            percentiles = np.percentile(known, QUANTILES) if len(known) else np.full(len(QUANTILES), np.nan)
            rows.append(
                {
                    "group": group,
                    "scale": scale,
                    "metric": "mean",
                    "mean": float(known.mean()) if len(known) else math.nan,
                    "sd": spread,
                    "n_items": len(keys),
                    "n": len(known),
                    **{f"p{q}": float(value) for q, value in zip(QUANTILES, percentiles, strict=True)},
                }
            )
    note = "Of whoever answered: norms of volunteers are not those of a population."
    return [ResultTable("norms", "Norms", pd.DataFrame(rows), note)]


def _people(table: AnswerTable, settings: AnalysisSettings, what: str) -> AnswerTable:
    if settings.people is None:
        raise ValueError(f"{what} needs --people, a table of people's answers to the same items")
    absent = [item for item in table.items if np.isnan(settings.people.raw[item].to_numpy(np.float64)).all()]
    if absent:
        raise ValueError(f"{what}: people answered none of {len(absent)} items, {absent[0]!r} among them")
    return settings.people


def congruent(table: AnswerTable, settings: AnalysisSettings) -> list[ResultTable]:
    """Tucker's congruence of the table's factors with people's, after rotation to people's.

    Args:
      table: answers, usually a model's.
      settings: people, factors (0: as many as scales) and seed are used.
    Returns: φ of each factor next to what chance reaches; loadings of both.
    Raises: ValueError without people's answers, or with one scale and no number of factors.
    """
    people = _people(table, settings, "congruence")
    named = [name for name in table.scales if name != ALL]
    count = settings.factors or len(named)
    if count < 1:
        raise ValueError("congruence needs --factors, or scales (--scale, --instrument)")
    items = list(table.items)
    belongs = np.array([[float(item in table.scales[name]) for name in named] for item in items])
    found = factor_similarity(
        table.all_keyed(),
        people.all_keyed()[items],
        count,
        target=belongs if count == len(named) else None,
        seed=settings.seed,
    )
    names = named if count == len(named) else [f"F{i + 1}" for i in range(count)]
    phi = pd.DataFrame({"factor": names, "phi": found.phi, "by_chance": found.by_chance})
    phi["verdict"] = [
        "" if math.isnan(v) else "same" if v >= 0.95 else "alike" if v >= 0.85 else "different"
        for v in found.phi
    ]
    loadings = pd.DataFrame({"item": items, "congruence": found.items})
    for place, name in enumerate(names):
        loadings[f"people_{name}"], loadings[f"here_{name}"] = (
            found.reference[:, place],
            found.loadings[:, place],
        )
    note = (
        "phi: Tucker's congruence of a factor with people's after the orthogonal rotation nearest to "
        "theirs; .95 the same, "
        ".85 alike (Lorenzo-Seva and ten Berge 2006). by_chance: the 95th percentile for shuffled items; a "
        "phi "
        "that is not above it says nothing."
    )
    warned = f" Undefined: {found.reason}." if found.reason else ""
    return [
        ResultTable("congruence", "Congruence of factors with people's", phi, note + warned),
        ResultTable("congruence_loadings", "Loadings here and in people", loadings),
    ]


def biased(table: AnswerTable, settings: AnalysisSettings) -> list[ResultTable]:
    """Differential item functioning between the table and people, item by item within each scale.

    Args:
      table: answers, usually a model's.
      settings: people is used.
    Returns: one table, one row per scale and item; p corrected over all items after Benjamini and Hochberg.
    Raises: ValueError without people's answers.
    """
    people = _people(table, settings, "dif")
    rows = []
    for scale in table.scales:
        parts = [one.keyed(scale).to_numpy(np.float64) for one in (table, people)]
        both = np.concatenate(parts)
        group = np.repeat([1, 0], [len(part) for part in parts])
        for place, item in enumerate(table.scales[scale]):
            rest = np.delete(both, place, axis=1)
            score = rest.mean(axis=1) if rest.shape[1] else np.full(len(both), np.nan)
            rows.append({"scale": scale, "item": item, **item_bias(both[:, place], score, group)._asdict()})
    frame = pd.DataFrame(rows)
    frame.insert(4, "p_benjamini_hochberg", benjamini_hochberg(frame["p"].to_numpy(np.float64)))
    note = (
        "Ordinal logistic regression on the score of the scale's other items. uniform: one group answers "
        "higher at every "
        "score (log odds above 0: this table); nonuniform: the item tells traits apart more sharply in one. "
        "size "
        "by the change of Nagelkerke's R² (.035 moderate, .070 large)."
    )
    return [ResultTable("dif", "Items that work differently than in people", frame, note)]
