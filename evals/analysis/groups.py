"""Analyses of two groups, criteria, response style and desirability."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from evals.analysis.answer_table import AnswerTable
from evals.analysis.results import ResultTable
from evals.analysis.scales import FEW_ROWS, estimate_row
from evals.analysis.settings import AnalysisSettings
from evals.psychometrics.comparisons import (
    benjamini_hochberg,
    cohens_d,
    dispersion_ratio,
    glass_delta,
    hedges_g,
    holm,
    student,
    tost,
    welch,
)
from evals.psychometrics.estimate import Estimate
from evals.psychometrics.paired import paired_difference, paired_dispersion, pitman_morgan
from evals.psychometrics.response_style import forward_reverse_r, social_desirability, style_indices
from evals.psychometrics.validity import criterion_correlation

LEAST_GROUP = 2


def two_groups(table: AnswerTable, settings: AnalysisSettings) -> tuple[list[str], np.ndarray]:
    """The two groups of a comparison.

    Args:
      table: the answers.
      settings: group, and between where the column has more than two values.
    Returns: the names (the second is the reference), and each respondent's group name, "" for neither.
    Raises: ValueError without a group column, for values that do not occur, and for groups of one.
    """
    if not settings.group:
        raise ValueError("comparing groups needs --group, a column with two values")
    labels = table.column(settings.group).astype(str).to_numpy()
    known = list(dict.fromkeys(labels[labels != "nan"].tolist()))
    chosen = list(settings.between) or known
    if len(chosen) != 2 or not set(chosen) <= set(known):
        raise ValueError(
            f"--group {settings.group} must have two values, or --between names two as A,B; it has "
            f"{', '.join(known[:8])}"
        )
    for name in chosen:
        if (count := int((labels == name).sum())) < LEAST_GROUP:
            raise ValueError(f"group {name!r} has {count} respondent; at least {LEAST_GROUP} are needed")
    return chosen, np.where(np.isin(labels, chosen), labels, "")


def compared(table: AnswerTable, settings: AnalysisSettings) -> list[ResultTable]:
    """Compares the first group with the second on each scale: difference, effect sizes, equivalence, spread.

    Args:
      table: the answers.
      settings: group, between, pair, bound and confidence are used.
    Returns: one table; p values corrected over the scales after Holm and after Benjamini and Hochberg.
    Raises: ValueError as `two_groups`, and for a person who occurs twice in a group.
    """
    names, labels = two_groups(table, settings)
    rows = []
    for scale in table.scales:
        scores = table.score(scale)
        first, second = _scores(scores, labels, names, table, settings)
        row = _paired(first, second, settings) if settings.pair else _apart(first, second, settings)
        rows.append({"scale": scale, **row})
    frame = pd.DataFrame(rows)
    p = frame["p"].to_numpy(np.float64)
    frame["p_holm"], frame["p_benjamini_hochberg"] = holm(p), benjamini_hochberg(p)
    who = f"{names[0]} minus {names[1]}" + (f", the same {settings.pair} in both" if settings.pair else "")
    note = (
        f"{who}. p: {'paired t test' if settings.pair else 'Welch'}; p_equivalent: two one-sided tests, "
        f"below .05 the difference is within ±{settings.bound:g} SD. sd_ratio: spread of the first group "
        "over the "
        "second; below 1 its people differ less."
    )
    return [ResultTable("compare", f"{names[0]} against {names[1]}", frame, note)]


def _scores(
    scores: pd.Series,
    labels: np.ndarray,
    names: Sequence[str],
    table: AnswerTable,
    settings: AnalysisSettings,
) -> tuple[np.ndarray, np.ndarray]:
    parts = [np.asarray(scores, np.float64)[labels == name] for name in names]
    if not settings.pair:
        return parts[0], parts[1]
    who = table.column(settings.pair).astype(str).to_numpy()
    by_person = []
    for name, values in zip(names, parts, strict=True):
        own = pd.Series(values, index=who[labels == name])
        if own.index.has_duplicates:
            twice = own.index[own.index.duplicated()][0]
            raise ValueError(f"{settings.pair} {twice!r} is twice in group {name!r}; pairs need each once")
        by_person.append(own)
    shared = by_person[0].index.intersection(by_person[1].index)
    if len(shared) < LEAST_GROUP:
        raise ValueError(f"only {len(shared)} of --pair {settings.pair} are in both groups; leave --pair out")
    first, second = (own.loc[shared].to_numpy() for own in by_person)
    return first, second


def _described(first: np.ndarray, second: np.ndarray) -> dict[str, object]:
    found: dict[str, object] = {}
    for number, values in enumerate((first, second), 1):
        known = values[~np.isnan(values)]
        spread = float(known.std(ddof=1)) if len(known) > 1 else math.nan
        mean = float(known.mean()) if len(known) else math.nan
        found |= {f"n_{number}": len(known), f"mean_{number}": mean, f"sd_{number}": spread}
    return found


def _bounded(name: str, found: Estimate) -> dict[str, object]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _apart(first: np.ndarray, second: np.ndarray, settings: AnalysisSettings) -> dict[str, object]:
    test = welch(first, second, confidence=settings.confidence)
    return {
        **_described(first, second),
        **_bounded("difference", test.difference),
        "t": test.t,
        "df": test.df,
        "p": test.p,
        "p_student": student(first, second).p,
        "p_equivalent": tost(first, second, settings.bound, standardized=True).p,
        **_bounded("cohens_d", cohens_d(first, second, confidence=settings.confidence)),
        **_bounded("hedges_g", hedges_g(first, second, confidence=settings.confidence)),
        **_bounded("glass_delta", glass_delta(first, second, confidence=settings.confidence)),
        **_bounded("sd_ratio", dispersion_ratio(first, second, confidence=settings.confidence)),
    }


def _paired(first: np.ndarray, second: np.ndarray, settings: AnalysisSettings) -> dict[str, object]:
    test = paired_difference(first, second, confidence=settings.confidence)
    known = ~np.isnan(first) & ~np.isnan(second)
    return {
        **_described(first[known], second[known]),
        **_bounded("difference", test.difference),
        "t": test.t,
        "df": test.df,
        "p": test.p,
        "p_equivalent": tost(first[known], second[known], settings.bound, paired=True, standardized=True).p,
        **_bounded("sd_ratio", paired_dispersion(first, second, confidence=settings.confidence)),
        "p_sd_ratio": pitman_morgan(first, second),
    }


def criteria(table: AnswerTable, settings: AnalysisSettings) -> list[ResultTable]:
    """Correlations of each scale with other columns: a rating, a grade, a behavior.

    Args:
      table: the answers.
      settings: criteria, ranks and confidence are used.
    Returns: one table, one row per scale and criterion.
    Raises: ValueError where no criterion is named, or one holds no numbers.
    """
    if not settings.criteria:
        raise ValueError("criterion needs --criterion, a column with numbers that is no item")
    values = {}
    for name in settings.criteria:
        numbers = np.asarray(pd.to_numeric(table.column(name), errors="coerce"), np.float64)
        if np.isnan(numbers).all():
            raise ValueError(f"criterion {name!r} holds no numbers")
        values[name] = numbers
    rows = [
        {"scale": scale, "criterion": name, **estimate_row(found)}
        for scale in table.scales
        for name, found in criterion_correlation(
            table.score(scale).to_numpy(), values, ranks=settings.ranks, confidence=settings.confidence
        ).items()
    ]
    kind = "Spearman's" if settings.ranks else "Pearson's"
    return [ResultTable("criterion", f"Correlations with criteria ({kind})", pd.DataFrame(rows))]


def style(table: AnswerTable, settings: AnalysisSettings) -> list[ResultTable]:
    """How respondents use the scale regardless of content: each one's indices, their means, and consistency.

    Args:
      table: the answers to all items.
      settings: confidence is used.
    Returns: means, and one row per respondent.
    """
    keys = table.items
    raw = table.raw[list(keys)]
    signs = np.array(list(keys.values()))
    found = style_indices(raw, table.low, table.high, signs)
    consistency = forward_reverse_r(raw, signs, confidence=settings.confidence)
    centers, spreads = (np.asarray(part, np.float64).tolist() for part in (found.mean(), found.std(ddof=1)))
    means: list[dict[str, object]] = [
        {"index": name, "mean": mean, "sd": sd, "reason": ""}
        for name, mean, sd in zip(found.columns, centers, spreads, strict=True)
    ]
    means.append(
        {
            "index": "forward_reverse_r",
            "mean": consistency.value,
            "sd": math.nan,
            "reason": consistency.reason,
        }
    )
    persons = found.reset_index(drop=True)
    persons.insert(
        0, "respondent", ["/".join(map(str, w)) if isinstance(w, tuple) else str(w) for w in raw.index]
    )
    note = (
        "acquiescence: mean answer as a share of the range, .50 neutral. balanced_acquiescence: agreement "
        "whatever the trait, "
        "in answer points. extremity, midpoint: shares. irv: SD within a respondent (near 0 careless). "
        "longstring: "
        "longest run of one answer. forward_reverse_r: reversed items with the others, negative where read."
    )
    return [
        ResultTable("style", "Response style", pd.DataFrame(means), note),
        ResultTable("style_respondents", "Response style of respondents", persons, "", FEW_ROWS),
    ]


def desirability(table: AnswerTable, settings: AnalysisSettings) -> list[ResultTable]:
    """How desirable answers are, and how far each of the other scales goes with that.

    Args:
      table: the answers.
      settings: desirability names the scale; confidence is used.
    Returns: the scale's mean as a share of its range, and correlations of the others with it.
    Raises: ValueError where no scale or an unknown one is named.
    """
    wanted = settings.desirability
    if wanted not in table.scales:
        raise ValueError(
            f"desirability needs --desirability, one of the scales {', '.join(table.scales)}; got "
            f"{wanted or 'none'}"
        )
    scores = table.score(wanted).to_numpy()
    share = social_desirability(scores, table.low, table.high, confidence=settings.confidence)
    rows = [{"scale": wanted, "statistic": "share of the range", **estimate_row(share)}]
    for other in table.scales:
        if other != wanted:
            r = criterion_correlation(
                scores, {other: table.score(other).to_numpy()}, confidence=settings.confidence
            )
            rows.append({"scale": other, "statistic": f"r with {wanted}", **estimate_row(r[other])})
    note = "A scale that correlates with desirable answers may measure how one wants to look."
    return [ResultTable("desirability", "Social desirability", pd.DataFrame(rows), note)]
