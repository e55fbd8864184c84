"""The statistics that a report shows for each scale, one row of the reliability table each.

A new statistic takes a file in evals.psychometrics, a line in its __init__, and a line in RELIABILITY here.
Not covered: laying out the table (report_tables), showing it (report_sections).
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from evals.faithfulness.internal_consistency import alpha_over_conditions, over_conditions
from evals.psychometrics.agreement import icc
from evals.psychometrics.estimate import Estimate, undefined
from evals.psychometrics.mcdonald_omega import omega
from evals.psychometrics.measurement_error import standard_error_of_measurement
from evals.psychometrics.reliability import guttman_lambda6
from evals.psychometrics.split_halves import split_half


class ScaleAnswers(NamedTuple):
    """What the statistics of one scale are computed from, both in the direction of the scale.

    Attributes:
      items: persons x conditions x items.
      scores: persons x conditions.
    """

    items: np.ndarray
    scores: np.ndarray


def _of_items(statistic: Callable[[np.ndarray], Estimate]) -> Callable[[ScaleAnswers], Estimate]:
    """A coefficient of persons x items, averaged over conditions."""
    return lambda answers: over_conditions(answers.items, statistic)


def _measurement_error(answers: ScaleAnswers) -> Estimate:
    known = answers.scores[~np.isnan(answers.scores).any(axis=1)]
    if len(known) < 2:
        return undefined(f"fewer than 2 respondents with a score (got {len(known)})", len(known))
    sd = math.sqrt(float(known.var(axis=0, ddof=1).mean()))
    return standard_error_of_measurement(sd, alpha_over_conditions(answers.items))


# by the name that a table shows
RELIABILITY: Mapping[str, Callable[[ScaleAnswers], Estimate]] = {
    "alpha": lambda answers: alpha_over_conditions(answers.items),
    "omega_total": _of_items(omega),
    "lambda6": _of_items(lambda items: guttman_lambda6(items, n_bootstrap=100)),
    "split_half": _of_items(lambda items: split_half(items, n_bootstrap=1).spearman_brown),
    "ICC(A,1)": lambda answers: icc(answers.scores, "ICC(A,1)"),
    "ICC(A,k)": lambda answers: icc(answers.scores, "ICC(A,k)"),
    "SEM": _measurement_error,
}
