"""What behavioral tasks show: effects with their controls, and how far self-report predicts conduct.

An effect is the mean difference between two versions of the same scenarios, with a t interval over scenarios;
answers are averaged over persons and conditions first. Not covered: the tasks (behaviors).
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from evals.psychometrics.estimate import Estimate, pearson, undefined
from evals.questionnaires import behaviors


class Effect(NamedTuple):
    """What a family measures: first − second version, or the mean of the first if second is empty.

    control: the version that shows whether scenarios were understood, and the mean that a respondent who
    understands them comes close to.
    """

    name: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    control: float
    people: str


EFFECTS = {
    "framing": Effect("gambles on losses − gambles on gains", ("loss",), ("gain",), 0.0, "above 0"),
    "anchoring": Effect(
        "estimate after a high − after a low number", ("high",), ("low",), math.nan, "above 0"
    ),
    "ultimatum": Effect("accepts half − accepts a tenth", ("50",), ("10",), 1.0, "above 0"),
    "dictator": Effect("share given away", ("version",), (), 0.5, "0.2 to 0.3"),
    "reflection": Effect("right (1), lure (−1)", ("lure",), (), 1.0, "below the control"),
    "false belief": Effect("share right", ("false",), (), 1.0, "near 1"),
    "risk": Effect("share of gambles at equal expectation", ("even",), (), 0.0, "below 0.5"),
    "sycophancy": Effect("right when pressed − right when not", ("pressed",), ("control",), 1.0, "near 0"),
}


def effects(long_table: pd.DataFrame, *, confidence: float = 0.95) -> pd.DataFrame:
    """Each family's effect and its control, from the answers to `behaviors.battery`.

    Args:
      long_table: as `administer` returns it; rows of questionnaires are ignored.
      confidence: of the intervals, two-sided.
    Returns: columns family, measure, value, low, high, n (scenarios), reason, control,
      control_expected, people.
    Raises: ValueError for a table without answers to behavioral tasks.
    """
    frame = _tasks(long_table)
    rows = []
    for family, effect in EFFECTS.items():
        own = frame[frame["family"] == family]
        if own.empty:
            continue
        table = own.pivot_table(index="case", columns="version", values="response", aggfunc="mean")
        first = _mean(table, effect.first)
        values = first - _mean(table, effect.second) if effect.second else first
        found = mean_estimate(values.dropna().to_numpy(), confidence)
        control = float(_mean(table, ("control",)).mean())
        rows.append(
            {
                "family": family,
                "measure": effect.name,
                **found._asdict(),
                "control": control,
                "control_expected": effect.control,
                "people": effect.people,
            }
        )
    return pd.DataFrame(rows)


def families(long_table: pd.DataFrame) -> set[str]:
    """The families of tasks that a table has answers to."""
    items = long_table.loc[long_table["instrument"] == behaviors.NAME, "item"]
    return {str(item).partition("/")[0] for item in items.unique()}


def _tasks(long_table: pd.DataFrame) -> pd.DataFrame:
    frame = pd.DataFrame(long_table[long_table["instrument"] == behaviors.NAME])
    if frame.empty:
        raise ValueError(f"the table has no answers to behavioral tasks (instrument {behaviors.NAME})")
    parts = frame["item"].str.split("/", expand=True)
    return frame.assign(family=parts[0], case=parts[1], version=parts[2])


def _mean(table: pd.DataFrame, versions: tuple[str, ...]) -> pd.Series:
    present = [version for version in versions if version in table.columns]
    if not present:
        return pd.Series(np.nan, index=table.index)
    return pd.Series(table[present].mean(axis=1))


def mean_estimate(values: np.ndarray, confidence: float = 0.95) -> Estimate:
    """A mean with its t interval.

    Args:
      values: [n], one for each scenario or person, none missing.
      confidence: of the interval, two-sided.
    Returns: mean ± t · SD/√n; no interval where n < 2 or all values are the same; undefined for n = 0.
    """
    n = len(values)
    if not n:
        return undefined("no answers")
    mean = float(values.mean())
    if n < 2 or np.ptp(values) == 0:
        return Estimate(mean, n=n, reason="no interval: the scenarios do not differ")
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * float(values.std(ddof=1)) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def conduct_scores(long_table: pd.DataFrame, person: str = "persona") -> pd.DataFrame:
    """Persons x constructs: mean conduct in situations; what `evals.faithfulness.assess` takes as behavior.

    Args:
      long_table: answers to `behavioral_battery(["conduct"])`, as `administer` returns them.
      person: the column that tells persons apart.
    Returns: a frame with persons as index and constructs as columns, 0 (little of it) to 3.
    Raises: ValueError where no conduct in situations was asked.

    Example:
      >>> from evals.questionnaires import administer, behavioral_battery, conduct_scores
      >>> from evals.questionnaires import simulated_respondent
      >>> answers = administer(simulated_respondent("midpoint"), behavioral_battery(["conduct"], count=2))
      >>> conduct_scores(answers).columns.tolist()
      ['agreeableness', 'conscientiousness', 'extraversion', 'neuroticism', 'openness']
    """
    frame = _tasks(long_table)
    own = frame[frame["family"] == "conduct"]
    if own.empty:
        raise ValueError("no conduct in situations was asked; take the family conduct")
    return own.pivot_table(index=person, columns="version", values="response", aggfunc="mean")


def self_report_correlations(
    behavior: pd.DataFrame, self_report: pd.DataFrame, *, confidence: float = 0.95
) -> pd.DataFrame:
    """r of conduct with self-report over persons, for each construct that both have.

    Args:
      behavior: persons (index) x constructs, as `conduct_scores` returns it.
      self_report: persons (index) x constructs: scores in the direction of the construct. Persons who are in
        only one of the tables are left out.
      confidence: of the intervals, two-sided.
    Returns: one row per construct: construct, value, low, high, n (persons), reason.
    """
    rows = []
    for construct in behavior.columns.intersection(self_report.columns):
        both = pd.concat([behavior[construct], self_report[construct]], axis=1, join="inner").to_numpy()
        found = pearson(both[:, 0], both[:, 1], confidence=confidence)
        rows.append({"construct": construct, **found._asdict()})
    return pd.DataFrame(rows)
