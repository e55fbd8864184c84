"""The sections of a report on behavior: what is drawn, what goes into tables, what is said above them.

Most of a page is folded; only what answers the section's question at a glance is open. Not covered: the
drawings (charts), the page (report).
"""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from evals.faithfulness import charts
from evals.faithfulness.charts import Chart, Dot, Point
from evals.faithfulness.completion import IMPUTATIONS
from evals.faithfulness.criteria import CARELESS, Thresholds
from evals.faithfulness.report_contents import Report, file_name
from evals.faithfulness.validity import BEYOND, TRAIT_LEAD, WITH_TRAIT
from evals.faithfulness.verdicts import CRITERIA

MARKS = {"faithful": "✓ faithful", "not faithful": "✗ not faithful", "undetermined": "? undetermined"}
# longer tables are folded
OPEN_ROWS = 24
# title, axis, bounds and references of each index of response style
STYLES: dict[str, tuple[str, str, tuple[float, float] | None, list[float]]] = {
    "acquiescence": ("Acquiescence", "mean answer as a share of the range; 0.5 is neutral", (0, 1), [0.5]),
    "agreement_excess": (
        "Excess of agreement",
        "share of answers above the midpoint − share below",
        (-1, 1),
        [0],
    ),
    "balanced_acquiescence": (
        "Acquiescence whatever the trait",
        "scale points above the midpoint, both keys alike",
        None,
        [0],
    ),
    "extremity": ("Extremity", "share of answers at either end", (0, 1), []),
    "midpoint": ("Midpoint", "share of answers exactly in the middle", (0, 1), []),
    "position": ("Position bias", "distance of the positions' shares from equal shares", (0, 1), [0]),
    "refused": ("Refusals", "share of questions without a readable answer", (0, 1), []),
}
# short names for the checks' statistics
SHORT = {
    "ICC(A,1) of single": "ICC of answers",
    "ICC": "ICC",
    "alpha": "α",
    "convergent r −": "lead over other traits",
    "convergent": "convergent r",
    "G of": "G",
    CARELESS: "at random",
    TRAIT_LEAD: "lead over other traits",
    WITH_TRAIT: "r with trait",
    BEYOND: "beyond description",
}
PARTS: tuple[str, ...] = (
    "person",
    "item",
    "person × item",
    "conditions",
    "person × conditions",
    "all together and error",
)


class ReportCell(NamedTuple):
    """A cell's text, its CSS class, and a smaller line below."""

    text: str
    css: str = ""
    note: str = ""


class ReportTable(NamedTuple):
    """A table as it is shown: its columns as (name, CSS class).

    Attributes:
      file: which of `Report.tables` the buttons below it save.
    """

    caption: str
    columns: list[ReportCell]
    rows: list[list[ReportCell]]
    folded: bool
    file: str = ""


class ReportSection(NamedTuple):
    """A part of the page."""

    id: str
    title: str
    note: str
    charts: list[Chart]
    tables: list[ReportTable]


def sections(report: Report) -> list[ReportSection]:
    """The sections that have something to show, in the order of the page."""
    found = [
        _verdicts(report),
        _profiles(report),
        _reliability(report),
        _components(report),
        _mtmm(report),
        _bias(report),
        ReportSection(
            "behavior",
            "Behavior",
            "Effects in behavioral tasks next to their controls (a respondent who understands the scenarios "
            "comes close to the expected control), and whether conduct follows from self-report.",
            [],
            [
                *shown("Tasks", report.behavior, "behavior"),
                *shown("r of conduct with self-report", report.conduct, "conduct"),
            ],
        ),
        _compared(report),
        _drift(report),
    ]
    return [section for section in found if section.tables or section.charts]


def _verdicts(report: Report) -> ReportSection:
    if not report.assessments:
        return ReportSection("verdicts", "Verdicts", "", [], [])
    first = next(iter(report.assessments.values()))
    respondents = first.respondents.replace("_orders", " orders")
    note = (
        f"Can what the questionnaires say be believed? Respondents: {respondents}. A criterion is faithful "
        "where the whole interval of every check lies beyond its threshold, not faithful where the whole "
        "interval of some check lies short of it or described people cannot be told apart, and otherwise "
        "undetermined. "
        f"{_thresholds(first.thresholds)}"
    )
    tables = [
        *(_glance(name, one.verdicts) for name, one in report.assessments.items()),
        *shown("The check that decided each verdict", report.verdicts("verdicts"), "verdicts", folded=True),
        *shown("All checks", report.verdicts("checks"), "checks", folded=True),
        *shown("Items that were refused more often than others", report.refusals(), "refusals", folded=True),
    ]
    return ReportSection("verdicts", "Verdicts", note, [], tables)


def _thresholds(limits: Thresholds) -> str:
    return (
        f"This project's thresholds: ICC(A,1) over conditions above {limits.retest:g}, of single answers "
        f"above {limits.answer_retest:g}, and fewer than {limits.careless:.0%} of respondents answering at "
        f"random; α above {limits.alpha:g} and r of forward with reversed items below "
        f"{limits.forward_reverse:g}; r with another test of the construct above {limits.convergent:g} and "
        f"{limits.discriminant:g} above r with any other construct, and halo below {limits.halo:g}; G of one "
        f"condition above {limits.generalizability:g} and r with behavior above {limits.behavior:g}; r with "
        f"the described or known trait above {limits.criterion:g} and {limits.discriminant:g} above r with "
        f"another trait, and reliability beyond the description above {limits.beyond_description:g}; at "
        f"least {limits.least_respondents} respondents. Missing answers are imputed {IMPUTATIONS} times up "
        f"to {limits.missing:.0%} of a scale, and bounded beyond."
    )


def _glance(model: str, verdicts: pd.DataFrame) -> ReportTable:
    """One row per scale, one column per criterion: the verdict, and below it the estimate that decided it."""
    rows = []
    for names, own in _each(verdicts, ["construct", "instrument", "scale"]):
        by = {str(row["criterion"]): row for row in own.to_dict("records")}
        verdict = [_verdict(by[name]) if name in by else ReportCell("–") for name in CRITERIA]
        rows.append([ReportCell(names[0], "", names[1]), *verdict])
    columns = [ReportCell(name) for name in ("construct", *CRITERIA)]
    caption = f"Verdicts on {model}, each with the estimate that decided it"
    return ReportTable(caption, columns, rows, False, "verdicts")


def _verdict(row: Mapping[Hashable, object]) -> ReportCell:
    found, estimate, statistic = str(row["verdict"]), float(str(row["estimate"])), str(row["statistic"])
    css = {"not faithful": "not"}.get(found, found)
    name = next((short for start, short in SHORT.items() if statistic.startswith(start)), statistic)
    if math.isnan(estimate):
        why = "no variance" if str(row["reason"]).startswith("no variance") else f"{name} undefined"
        return ReportCell(MARKS[found], f"verdict {css}", why)
    # no minus before a zero
    return ReportCell(MARKS[found], f"verdict {css}", f"{name} {round(estimate, 2) + 0.0:.2f}")


def _models(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table["model"].unique()] if "model" in table.columns else []


def _dots(
    table: pd.DataFrame, label: str, columns: tuple[str, str, str], kinds: bool = True
) -> tuple[list[Dot], list[str]]:
    """A row of dots for each scale, one dot per model; facets only where there is a single model."""
    models = _models(table)
    if len(models) > 1:
        table = pd.DataFrame(table[~table["facet"].astype(bool)])
    value, low, high = columns
    found = []
    for _, own in table.groupby("scale", sort=False):
        for row in own.to_dict("records"):
            series = models.index(str(row["model"])) if models else 0
            kind = "open" if kinds and row["facet"] else ""
            found.append(Dot(str(row[label]), row[value], row[low], row[high], kind, series))
    return found, models


def _profiles(report: Report) -> ReportSection:
    drawn, tables = [], []
    for name, table in report.profiles.items():
        people = str(table["metric"].iloc[0]) == "T"
        rows, models = _dots(table, "title", ("value", "low", "high"))
        references = [40.0, 50.0, 60.0] if people else []
        axis = "T score: 50 is the mean of the norm group, 10 its SD" if people else "mean answer"
        drawn.append(charts.dots(rows, f"Profile, {name}", axis, references=references, names=models))
        tables += shown(f"Profile, {name}", table, file_name(f"profile_{name}"), folded=True)
    note = (
        "Mean over persons and conditions with its interval. Filled marks are domains, open marks facets. A "
        "profile is worth reading only where the verdicts above say so."
    )
    return ReportSection("profile", "Profile", note, drawn, tables)


def _reliability(report: Report) -> ReportSection:
    table, tables = report.reliability, []
    if not table.empty:
        domains = pd.DataFrame(table[~table["facet"].astype(bool)])
        keys = [key for key in ("model", "instrument", "title") if key in table.columns]
        rows = [
            dict(zip(keys, names, strict=True)) | dict(zip(own["statistic"], own["value"], strict=True))
            for names, own in _each(domains, keys)
        ]
        wide = pd.DataFrame(rows).rename(columns={"title": "scale"})
        tables += shown("Coefficients by domain", wide, "reliability", least_open=60)
        tables += shown("All coefficients, with intervals", table, "reliability", folded=True)
    note = (
        "How precisely items measure within one condition (α, ω, λ6, split half), and how well a score "
        "recurs in others: one condition (A,1), the mean of all (A,k). SEM is in scale points. A dash means "
        "undefined; the full table says why."
    )
    return ReportSection("reliability", "Reliability", note, [], tables)


def _components(report: Report) -> ReportSection:
    drawn = []
    for names, own in _each(report.components, ["model", "instrument"]):
        shares = {str(scale): _shares(rows) for scale, rows in own.groupby("title", sort=False)}
        shares = {scale: parts for scale, parts in shares.items() if sum(parts) > 0}
        if shares:
            title = f"What answers differ by, {', '.join(names)}"
            drawn.append(charts.bars(shares, PARTS, title))
    for names, own in _each(report.d_study, ["model", "instrument"]):
        series = {
            str(scale): _points(rows, "conditions", ("g", "g_low", "g_high"))
            for scale, rows in own.groupby("title", sort=False)
        }
        title = f"D-study, {', '.join(names)}"
        found = charts.lines(series, title, ("conditions of each facet", "G coefficient"))
        drawn += [found] if found is not None else []
    note = (
        "Answers should differ by the person who is described; what differs by wording, option order and "
        "the like is error. The D-study says how dependable a score would be with more conditions of each "
        "kind, with its interval; scales are drawn side by side at each number of conditions."
    )
    tables = [
        *shown("Components", report.components, "components", folded=True),
        *shown("D-study: G and Φ", report.d_study, "d_study", folded=True),
    ]
    return ReportSection("components", "Variance components", note, drawn, tables)


def _points(rows: pd.DataFrame, step: str, columns: tuple[str, str, str]) -> list[Point]:
    found = rows[[step, *columns]].to_numpy(np.float64)
    return [Point(*map(float, row)) for row in found]


def _each(table: pd.DataFrame, keys: Sequence[str]) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    present = [key for key in keys if key in table.columns]
    if not table.empty:
        for names, own in table.groupby(present, sort=False):
            assert isinstance(names, tuple)
            yield tuple(map(str, names)), own


def _shares(rows: pd.DataFrame) -> list[float]:
    """Shares of the effects, summed into PARTS."""
    found = dict.fromkeys(PARTS, 0.0)
    effects = [str(effect) for effect in rows["effect"]]
    for place, (effect, share) in enumerate(zip(effects, rows["share"].tolist(), strict=True)):
        if not math.isfinite(share):
            continue
        facets = set(effect.replace("(", ":").replace(")", "").replace(",", ":").split(":"))
        if place == len(effects) - 1:
            part = PARTS[5]
        elif facets <= {"person", "item"}:
            part = {1: "person" if "person" in facets else "item", 2: PARTS[2]}[len(facets)]
        else:
            part = PARTS[4] if "person" in facets else PARTS[3]
        found[part] += share
    return list(found.values())


def _mtmm(report: Report) -> ReportSection:
    drawn = []
    for name, table in report.correlations.items():
        model = f" of {name}" if len(report.correlations) > 1 else ""
        labels = [str(label) for label in table.index]
        drawn.append(charts.heat_map(labels, table.to_numpy().tolist(), f"Correlations of scores{model}"))
    note = (
        "The same construct in two tests should correlate highly, different constructs less. Orange is "
        "positive, blue negative."
    )
    return ReportSection(
        "mtmm", "Traits by methods", note, drawn, shown("Pairs", report.mtmm, "mtmm", folded=True)
    )


def _bias(report: Report) -> ReportSection:
    drawn, table = [], report.style
    models = list(report.assessments) or _models(table)[:1]
    for index in [str(name) for name in table.columns if name != "model"]:
        title, axis, bounds, references = STYLES[index]
        rows = []
        for row in table.to_dict("records"):
            name = str(row["model"])
            place = models.index(name) if name in models else -1
            kind = "null" if place < 0 else ""
            rows.append(Dot(name, float(row[index]), kind=kind, series=max(place, 0)))
        drawn.append(charts.dots(rows, title, axis, bounds=bounds, references=references))
    note = (
        "Filled marks are what was tested, open orange marks simulated respondents: whatever lies near the "
        "latter is response style, not a trait."
    )
    title = "Response style beside simulated respondents"
    return ReportSection("bias", title, note, drawn, shown("Indices", table, "style", folded=True))


def _compared(report: Report) -> ReportSection:
    drawn, tables, claims = [], [], []
    reference = report.reference
    for name, table in report.comparisons.items():
        unit = str(table["unit"].iloc[0])
        models = _models(table)
        who = models[0] if len(models) == 1 else "each"
        for key, title, axis, at in (
            ("delta", "Δ of the profile", f"{who} − {reference}, in {unit}", 0.0),
            ("dispersion", "Dispersion", f"SD of {who} / SD of {reference}; below 1 is restricted", 1.0),
        ):
            rows, models = _dots(table, "title", (key, f"{key}_low", f"{key}_high"))
            title = f"{title}, {name}" + (f": {models[0]}" if len(models) == 1 else "")
            drawn.append(charts.dots(rows, title, axis, references=[at], names=models))
        renamed = table.rename(columns={"base": reference, "tuned": who if len(models) == 1 else "model's"})
        tables += shown(
            f"Compared with {reference}, {name}", renamed, file_name(f"comparison_{name}"), folded=True
        )
        claims += _claims(table, name, reference)
    note = (
        f"How each profile differs from that of {reference} (Δ), and how much described people still differ "
        "(dispersion ratio), both with paired intervals where both models were asked as the same people. "
        "Characteristics are called restricted only where Pitman and Morgan's test, Holm-corrected over the "
        "scales of the instrument, is below .05.\n" + "\n".join(claims)
    )
    return ReportSection("compared", f"Compared with {reference}", note, drawn, tables)


def _claims(table: pd.DataFrame, instrument: str, reference: str) -> list[str]:
    """What may be claimed about restricted characteristics, one sentence per model."""
    domains = pd.DataFrame(table[~table["facet"].astype(bool)])
    told = []
    for (model,), own in _each(domains.assign(model=domains.get("model", "this model")), ["model"]):
        parts = []
        for claim in ("restricted", "wider"):
            names = [str(one) for one in own.loc[own["claim"] == claim, "title"]]
            if names:
                parts.append(f"{claim} in {len(names)} of {len(own)} domains ({', '.join(names)})")
        undefined = sum(math.isnan(p) for p in own["dispersion_p_holm"].tolist())
        parts += [f"not testable in {undefined}"] if undefined else []
        said = "; ".join(parts) or f"not shown in any of {len(own)} domains to be more restricted or wider"
        told.append(
            f"{instrument}: {model} against {reference} is {said}."
            if parts
            else f"{instrument}: {model} is {said} than {reference}."
        )
    return told


def _drift(report: Report) -> ReportSection:
    drawn = []
    for key, axis, references in (
        ("value", "mean score", []),
        ("drift", "change since the first step, in SDs", [0.0]),
        ("dispersion", "SD over persons / SD at the first step", [1.0]),
        ("flattering", "share of the way to what flatters", []),
    ):
        for names, own in _each(report.drift, ["instrument"]):
            bounds = {"value": ("value", "low", "high")}.get(key, (key, f"{key}_low", f"{key}_high"))
            present = own if bounds[1] in own.columns else own.assign(**dict.fromkeys(bounds[1:], np.nan))
            series = {
                str(name): _points(rows, "step", bounds)
                for name, rows in present.groupby("construct", sort=False)
            }
            title = f"Drift over training, {', '.join(names)}"
            found = charts.lines(series, title, ("training step", axis), references=references)
            drawn += [found] if found is not None else []
    note = (
        "The same design over checkpoints of one run, each against the first: the same people are asked, so "
        "intervals are paired. A step's characteristics are called restricted where Pitman and Morgan's "
        "test, Holm-corrected over the scales, is below .05.\n" + "\n".join(_drift_claims(report.drift))
    )
    tables = shown("By step", report.drift, "drift", folded=True)
    return ReportSection("drift", "Drift over checkpoints", note, drawn, tables)


def _drift_claims(table: pd.DataFrame) -> list[str]:
    told = []
    for (instrument, step), own in _each(table, ["instrument", "step"]):
        names = [str(one) for one in own.loc[own["claim"] == "restricted", "construct"]]
        if names:
            told.append(f"{instrument}, step {step}: restricted since the first step: {', '.join(names)}.")
    return told or ([] if table.empty else ["At no step are characteristics shown to be restricted."])


def shown(
    caption: str, table: pd.DataFrame, file: str = "", *, folded: bool = False, least_open: int = OPEN_ROWS
) -> list[ReportTable]:
    """A table for the page, or none if it is empty; long tables are folded.

    Args:
      table: as it is to be shown; an empty column `reason` is left out.
      file: its name among `Report.tables`.
      folded: fold it, however short it is.
      least_open: tables with more rows than this are folded.
    Returns: a list that holds the table or is empty, to be joined with others.
    """
    if table.empty:
        return []
    told = [name for name in table.columns if name != "reason" or any(table[name].tolist())]
    table = pd.DataFrame(table, columns=pd.Index(told))
    columns = [str(name) for name in told]
    rows = [
        [_cell(name, value) for name, value in zip(columns, row, strict=True)]
        for row in table.itertuples(index=False, name=None)
    ]
    heads = [
        ReportCell(name.replace("_", " "), "n" if any(row[n].css == "n" for row in rows) else "")
        for n, name in enumerate(columns)
    ]
    return [ReportTable(caption, heads, rows, folded or len(rows) > least_open, file)]


def _cell(name: str, value: object) -> ReportCell:
    if name == "verdict":
        css = {"not faithful": "not"}.get(str(value), value)
        return ReportCell(MARKS[str(value)], f"verdict {css}")
    if isinstance(value, bool | np.bool_):
        return ReportCell("yes" if value else "no")
    if isinstance(value, int | np.integer):
        return ReportCell(str(value), "n")
    if isinstance(value, float):
        return ReportCell(_number(value), "n")
    return ReportCell(str(value))


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    if 0 < abs(value) < 0.0005:
        return f"{value:.0e}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
