"""A table of a report as CSV, as LaTeX, and as the sentences that APA style asks for.

Not covered: the tables (report_tables), how they look on the page (report_sections).
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

# statistics that cannot pass 1 are printed without the zero before the point
BOUNDED = ("α", "ω", "λ6", "split half", "ICC", "r", "G", "Φ", "share")
SYMBOLS = {
    "alpha": "α",
    "omega_total": "ω",
    "lambda6": "λ6",
    "split_half": "split half",
    "g": "G",
    "delta": "Δ",
    "dispersion": "SD ratio",
    "drift": "Δ",
    "disattenuated": "r corrected",
}
# letters that LaTeX's usual fonts do not have, after escaping
LATEX = {
    "α": r"$\alpha$",
    "λ": r"$\lambda$",
    "ω": r"$\omega$",
    "Δ": r"$\Delta$",
    "Φ": r"$\Phi$",
    "σ": r"$\sigma$",
    "²": r"$^2$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "–": "--",
    "✓": "",
    "✗": "",
}
PLACES = ("model", "instrument", "construct", "title", "scale", "criterion", "step", "conditions", "effect")


class Exports(NamedTuple):
    """One table in three forms of text."""

    csv: str
    tex: str
    apa: str


def exports(name: str, table: pd.DataFrame, confidence: float = 0.95) -> Exports:
    """The table in all forms.

    Args:
      name: of the table, its file's name.
      table: as it stands in `Report.tables`.
      confidence: of its intervals, named in the sentences.
    Returns: CSV with all digits; LaTeX for booktabs with three; sentences, a line each.
    """
    return Exports(table.to_csv(index=False), latex(name, table), apa(table, confidence))


def latex(name: str, table: pd.DataFrame) -> str:
    """A table for LaTeX's booktabs; numbers with three decimals, NaN as a dash.

    Args:
      name: of the table, its label and caption.
      table: as it stands in `Report.tables`.
    Returns: a table environment; Greek letters and signs as mathematics.
    """
    shown = table.rename(columns=lambda column: str(column).replace("_", " "))
    numeric = ["r" if pd.api.types.is_numeric_dtype(kind) else "l" for kind in shown.dtypes]
    text = str(
        shown.to_latex(
            index=False,
            escape=True,
            na_rep="--",
            float_format=lambda value: f"{value:.3f}",
            column_format="".join(numeric),
            caption=name.replace("_", r"\_"),
            label=f"tab:{name}",
        )
    )
    for letter, written in LATEX.items():
        text = text.replace(letter, written)
    return f"% needs \\usepackage{{booktabs}}\n{text}"


def apa(table: pd.DataFrame, confidence: float = 0.95) -> str:
    """What stands in a table as sentences in the style of the American Psychological Association.

    "Extraversion, mini_ipip: α = .82, 95% CI [.74, .89], n = 32." Estimates are columns with bounds:
    value or estimate (named by the column statistic), or NAME with NAME_low and NAME_high.

    Args:
      table: as it stands in `Report.tables`.
      confidence: of its intervals.
    Returns: a line for each row; a row without estimates tells its columns.
    Reference: American Psychological Association 2020, Publication Manual, 7th edition, 6.36-6.44.
    """
    return "".join(f"{_sentence(row, confidence)}\n" for row in table.to_dict("records"))


def _sentence(row: Mapping, confidence: float) -> str:
    where = [str(row[name]) for name in PLACES if name in row and not _missing(row[name])]
    told = []
    for key in ("value", "estimate", "r"):
        if key in row and {"low", "high"} <= row.keys():
            symbol = str(row.get("statistic", "r" if key == "r" else "M" if "sd" in row else "estimate"))
            told.append(_estimate(symbol, row[key], row["low"], row["high"], confidence))
            break
    for key in row:
        if {f"{key}_low", f"{key}_high"} <= row.keys():
            told.append(_estimate(str(key), row[key], row[f"{key}_low"], row[f"{key}_high"], confidence))
    if not told:
        rest = [
            f"{name} {_plain(value)}" for name, value in row.items() if name not in PLACES and value != ""
        ]
        told = [part.replace("_", " ") for part in rest]
    told += [f"n = {int(row['n'])}"] if "n" in row and not _missing(row["n"]) else []
    for key, name in (("p", "p"), ("p_holm", "p (Holm)"), ("p_equivalent", "p of equivalence")):
        if key in row and not _missing(row[key]):
            told.append(_p(name, float(row[key])))
    if "verdict" in row:
        told.append(str(row["verdict"]))
    if row.get("claim") and row["claim"] != "none":
        told.append(str(row["claim"]))
    return f"{', '.join(where)}: {', '.join(told)}." if where else f"{', '.join(told)}."


def _missing(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _plain(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) and math.isfinite(value) else str(value)


def _estimate(statistic: str, value: float, low: float, high: float, confidence: float) -> str:
    symbol = SYMBOLS.get(statistic, statistic)
    if _missing(value):
        return f"{symbol} undefined"
    bounded = any(symbol == name or symbol.startswith(f"{name}(") for name in BOUNDED)
    bounded = bounded or " r" in f" {symbol}" or symbol.startswith(("alpha", "ICC", "G ", "share"))
    point = _number(float(value), bounded)
    if _missing(low) or _missing(high):
        return f"{symbol} = {point}"
    between = ", ".join(_number(float(bound), bounded) for bound in (low, high))
    return f"{symbol} = {point}, {confidence * 100:g}% CI [{between}]"


def _number(value: float, bounded: bool) -> str:
    # no minus before a zero
    text = f"{round(value, 2) + 0.0:.2f}"
    if bounded and abs(value) <= 1:
        text = text.replace("0.", ".", 1) if abs(round(value, 2)) < 1 else text
    return text.replace("-", "−")


def _p(name: str, p: float) -> str:
    return f"{name} < .001" if p < 0.001 else f"{name} = {f'{p:.3f}'.replace('0.', '.', 1)}"
