"""The contents of a report on behavior: tables by model and by instrument.

Not covered: computing them (study, report_tables), showing them (report_sections, report).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from evals.faithfulness.verdicts import Assessment


@dataclass
class Report:
    """What a report is made of; empty tables are left out.

    Tables of several models have a first column named model.

    Attributes:
      card: the run card, in the order shown.
      assessments: by model, in the order shown; profiles: by instrument; correlations: by model.
      style: one row per model, then one per simulated respondent.
      comparisons: each other model against the reference, by instrument.
      reference: name of the model that the others are compared with.
      confidence: of all intervals, two-sided.
    """

    title: str
    card: dict[str, object]
    assessments: dict[str, Assessment] = field(default_factory=dict)
    profiles: dict[str, pd.DataFrame] = field(default_factory=dict)
    reliability: pd.DataFrame = field(default_factory=pd.DataFrame)
    components: pd.DataFrame = field(default_factory=pd.DataFrame)
    d_study: pd.DataFrame = field(default_factory=pd.DataFrame)
    correlations: dict[str, pd.DataFrame] = field(default_factory=dict)
    mtmm: pd.DataFrame = field(default_factory=pd.DataFrame)
    style: pd.DataFrame = field(default_factory=pd.DataFrame)
    behavior: pd.DataFrame = field(default_factory=pd.DataFrame)
    conduct: pd.DataFrame = field(default_factory=pd.DataFrame)
    comparisons: dict[str, pd.DataFrame] = field(default_factory=dict)
    drift: pd.DataFrame = field(default_factory=pd.DataFrame)
    reference: str = "base"
    confidence: float = 0.95

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table that is not empty, by file name."""
        found: dict[str, pd.DataFrame] = {}
        if self.assessments:
            found |= {"verdicts": self.verdicts("verdicts"), "checks": self.verdicts("checks")}
            found["refusals"] = self.refusals()
        found |= {f"profile_{name}": table for name, table in self.profiles.items()}
        for name in (
            "reliability",
            "components",
            "d_study",
            "mtmm",
            "style",
            "behavior",
            "conduct",
            "drift",
        ):
            found[name] = getattr(self, name)
        found |= {
            f"correlations_{name}" if len(self.correlations) > 1 else "correlations": table.reset_index(
                names="score"
            )
            for name, table in self.correlations.items()
        }
        found |= {f"comparison_{name}": table for name, table in self.comparisons.items()}
        return {file_name(name): table for name, table in found.items() if not table.empty}

    def verdicts(self, which: Literal["verdicts", "checks"]) -> pd.DataFrame:
        """The verdicts or the checks of all models."""
        parts = {name: getattr(one, which) for name, one in self.assessments.items()}
        return combined(parts, "model") if len(parts) > 1 else next(iter(parts.values()))

    def refusals(self) -> pd.DataFrame:
        """Items that were refused more often than others, of all models."""
        parts = {name: one.refusals for name, one in self.assessments.items()}
        return combined(parts, "model")


def file_name(name: str) -> str:
    """The name with what a file name should not hold replaced."""
    return re.sub(r"[^\w.()-]+", "_", name)


def combined(parts: Mapping[str, pd.DataFrame], column: str = "instrument") -> pd.DataFrame:
    """Stacks the tables of several instruments (or models), whose names go into the first column.

    Args:
      parts: tables by name; empty ones are left out.
      column: name of the first column.
    Returns: one table; empty if all parts are.
    """
    rows = [table.assign(**{column: name}) for name, table in parts.items() if not table.empty]
    if not rows:
        return pd.DataFrame()
    joined = pd.concat(rows, ignore_index=True)
    first = [column, *[name for name in joined.columns if name != column]]
    return pd.DataFrame(joined, columns=pd.Index(first))
