"""Rows of a report's tables as sentences in the style of the American Psychological Association.

Each sentence says what was estimated and for whom, so that it can stand alone in a paper. Not covered: LaTeX,
CSV (table_exports); the tables (report_tables).
"""

import math
import re
from collections.abc import Mapping

import pandas as pd

# what a table calls a statistic, and what APA style calls it
SYMBOLS = {
    "alpha": "α",
    "omega_total": "ω",
    "lambda6": "λ6",
    "split_half": "split-half reliability",
    "g": "G",
    "delta": "Δ",
    "drift": "Δ since the first step",
    "dispersion": "SD ratio",
    "disattenuated": "r corrected",
}
# statistics that cannot pass 1 are printed without the zero before the point
BOUNDED = re.compile(
    r"^(α|ω|λ6|split-half|ICC|G\b|share|reliability|(convergent |forward-reverse )?r\b(?!.*−))"
)
# columns that say who or what a row is about, each with the words put before it
PLACES = {
    "model": "",
    "instrument": "",
    "step": "step ",
    "score": "correlations of ",
    "construct": "",
    "title": "",
    "criterion": "",
    "effect": "effect of ",
    "family": "",
    "measure": "",
    "behavior": "self-report with ",
}
P_OF = {
    "delta": ("p_holm", "p_equivalent"),
    "drift": ("p_holm",),
    "dispersion": ("dispersion_p", "dispersion_p_holm"),
}
P_NAMES = {
    "p_holm": "p (Holm)",
    "p_equivalent": "p of equivalence",
    "dispersion_p": "p",
    "dispersion_p_holm": "p (Holm)",
}


def apa(table: pd.DataFrame, confidence: float = 0.95) -> str:
    """The contents of a table as sentences, one line per row.

    Estimates are columns with bounds: value, estimate or r (named by the column statistic), or NAME with
    NAME_low and NAME_high. Tests carry t, df and p.

    Args:
      table: one of `Report.tables`.
      confidence: of its intervals.
    Returns: the lines; an undefined value comes with its reason.
    Reference: American Psychological Association 2020, Publication Manual, 7th edition, 6.36-6.44.

    Example:
      >>> row = {"title": "Order", "statistic": "alpha", "value": 0.82, "low": 0.7, "high": 0.91, "n": 32}
      >>> print(apa(pd.DataFrame([row])), end="")
      Order: α = .82, 95% CI [.70, .91], n = 32.
    """
    return "".join(f"{_sentence(row, confidence)}\n" for row in table.to_dict("records"))


def _sentence(row: Mapping, confidence: float) -> str:
    where, told = _where(row), _estimates(row, confidence)
    told = told or [
        f"{str(name).replace('_', ' ')} {_plain(value)}"
        for name, value in row.items()
        if name not in PLACES and not _missing(value)
    ]
    if not _missing(row.get("n")) and not any(part.startswith("r(") for part in told):
        told.append(f"n = {int(row['n'])}")
    told += [str(row[name]) for name in ("verdict",) if not _missing(row.get(name))]
    told += [str(row["claim"])] if row.get("claim", "none") not in ("none", "") else []
    return f"{', '.join(where)}: {', '.join(told)}." if where else f"{', '.join(told)}."


def _where(row: Mapping) -> list[str]:
    if "trait_1" in row:
        pair = " with ".join(f"{row[f'trait_{n}']} ({row[f'method_{n}']})" for n in (1, 2))
        return [*([str(row["model"])] if "model" in row else []), pair]
    found = [f"{said}{row[name]}" for name, said in PLACES.items() if not _missing(row.get(name))]
    if not {"title", "construct", "scale"}.isdisjoint(row) and _missing(
        row.get("title", row.get("construct"))
    ):
        found.append(str(row["scale"]))
    if not _missing(row.get("conditions")):
        found.append(f"{int(row['conditions'])} condition{'s' if row['conditions'] != 1 else ''}")
    return found


def _estimates(row: Mapping, confidence: float) -> list[str]:
    told, percent = [], f"{confidence * 100:g}% CI"
    if {"component", "share"} <= row.keys():
        between = _interval(row["low"], row["high"], False, percent)
        told.append(f"variance component = {_number(float(row['component']), False)}{between}")
        share = "undefined" if _missing(row["share"]) else f"{row['share']:.0%}"
        return [*told, f"{share} of the variance"]
    for key in ("value", "estimate", "r"):
        if {key, "low", "high"} <= row.keys():
            is_score = "sd" in row or row.get("metric") in ("T", "mean")
            name = row.get("statistic", "r" if key == "r" or "behavior" in row else "M" if is_score else "")
            if name == "" and "measure" in row:
                name = "mean difference" if "−" in str(row["measure"]) else "mean"
            told.append(_estimate(str(name) or key, key, row, ("low", "high"), percent))
            break
    if "sd" in row and not _missing(row["sd"]):
        told.append(f"SD = {_number(float(row['sd']), False)}")
    for key in row:
        # a first step has no change to report
        if {f"{key}_low", f"{key}_high"} <= row.keys() and not (
            _missing(row[key]) and _missing(row.get(f"{key}_reason"))
        ):
            told.append(_estimate(str(key), str(key), row, (f"{key}_low", f"{key}_high"), percent))
            if key in ("delta", "drift") and not _missing(row.get("t")):
                told.append(f"t({_degrees(row['df'])}) = {_number(float(row['t']), False)}")
                told += [] if _missing(row.get("p")) else [_p("p", float(row["p"]))]
            told += [
                _p(P_NAMES[name], float(row[name]))
                for name in P_OF.get(str(key), ())
                if not _missing(row.get(name))
            ]
    return told


def _degrees(df: float) -> str:
    return f"{df:.0f}" if abs(df - round(df)) < 1e-9 else f"{df:.2f}"


def _missing(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _plain(value: object) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return _number(value, False)
    return str(value)


def _estimate(name: str, key: str, row: Mapping, ends: tuple[str, str], percent: str) -> str:
    symbol, value = SYMBOLS.get(name, name), row[key]
    if _missing(value):
        why = row.get("reason" if key in ("value", "estimate", "r") else f"{key}_reason", "")
        return f"{symbol} undefined" + (f" ({why})" if not _missing(why) else "")
    bounded = BOUNDED.match(symbol) is not None
    if name == "r" and not _missing(row.get("n")):
        symbol = f"r({int(row['n']) - 2})"
    between = _interval(row[ends[0]], row[ends[1]], bounded, percent)
    unit = row.get("unit", "")
    of = f" ({unit})" if name == "delta" and unit else ""
    return f"{symbol} = {_number(float(value), bounded)}{of}{between}"


def _interval(low: float, high: float, bounded: bool, percent: str) -> str:
    if _missing(low) or _missing(high):
        return ""
    return f", {percent} [{_number(float(low), bounded)}, {_number(float(high), bounded)}]"


def _number(value: float, bounded: bool) -> str:
    # no minus before a zero
    text = f"{round(value, 2) + 0.0:.2f}"
    if bounded and abs(round(value, 2)) < 1:
        text = text.replace("0.", ".", 1)
    return text.replace("-", "−")


def _p(name: str, p: float) -> str:
    if p > 0.9995:
        return f"{name} > .999"
    return f"{name} < .001" if p < 0.001 else f"{name} = {f'{p:.3f}'.replace('0.', '.', 1)}"
