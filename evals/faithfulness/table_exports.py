"""A report's table as CSV, as LaTeX, and as the sentences that APA style asks for.

Not covered: the sentences (apa_sentences), the tables (report_tables), how they look on the page
(report_sections).
"""

from typing import NamedTuple

import pandas as pd

from evals.faithfulness.apa_sentences import apa

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


class Exports(NamedTuple):
    """One table in three forms of text."""

    csv: str
    tex: str
    apa: str


def exports(name: str, table: pd.DataFrame, confidence: float = 0.95) -> Exports:
    """The table in all forms.

    Args:
      name: of the table and its file.
      table: one of `Report.tables`.
      confidence: of its intervals, named in the sentences.
    Returns: CSV with all digits; LaTeX for booktabs with three decimals; sentences, one per line.
    """
    return Exports(table.to_csv(index=False), latex(name, table), apa(table, confidence))


def latex(name: str, table: pd.DataFrame) -> str:
    """A table for LaTeX's booktabs; numbers with three decimals, NaN as a dash.

    Args:
      name: of the table; also its label and caption.
      table: one of `Report.tables`.
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
