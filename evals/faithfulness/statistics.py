"""The statistics of each scale that a report shows: a row of the reliability table each.

A new statistic is a file of evals.psychometrics, a line of its face, and a line of RELIABILITY here.
Not covered: laying out the table (report_tables), showing it (report_sections).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from evals.psychometrics.agreement import icc
from evals.psychometrics.estimate import Estimate, undefined
from evals.psychometrics.mcdonald_omega import omega
from evals.psychometrics.measurement_error import standard_error_of_measurement
from evals.psychometrics.reliability import cronbach_alpha, guttman_lambda6
from evals.psychometrics.split_halves import split_half


class ScaleAnswers(NamedTuple):
    """What statistics of one scale are computed from, both in the direction of the scale.

    Attributes:
      items: persons x items, in the first condition.
      scores: persons x conditions.
    """

    items: np.ndarray
    scores: np.ndarray


def _measurement_error(answers: ScaleAnswers) -> Estimate:
    known = answers.scores[:, 0][~np.isnan(answers.scores[:, 0])]
    if len(known) < 2:
        return undefined(f"fewer than 2 respondents with a score (got {len(known)})", len(known))
    return standard_error_of_measurement(float(known.std(ddof=1)), cronbach_alpha(answers.items))


# by the name that a table shows
RELIABILITY: Mapping[str, Callable[[ScaleAnswers], Estimate]] = {
    "alpha": lambda answers: cronbach_alpha(answers.items),
    "omega_total": lambda answers: omega(answers.items),
    "lambda6": lambda answers: guttman_lambda6(answers.items, n_bootstrap=200),
    "split_half": lambda answers: split_half(answers.items).spearman_brown,
    "ICC(A,1)": lambda answers: icc(answers.scores, "ICC(A,1)"),
    "ICC(A,k)": lambda answers: icc(answers.scores, "ICC(A,k)"),
    "SEM": _measurement_error,
}
