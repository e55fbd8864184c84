"""Statistics of questionnaire responses: reliability, agreement, factors, validity, bias, comparisons.

Every function takes plain arrays or DataFrames, persons x items (or subjects x measurements) with NaN where
an answer is missing, and returns an `Estimate` (value, low, high, n, reason) or a small record. What is
undefined is NaN with the reason, never 1.0 for lack of variance. Items must point one way: reverse the
negatively keyed ones first (evals.questionnaires.keyed_responses).

    >>> import evals.psychometrics as pm
    >>> ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    >>> print(pm.icc(ratings, "ICC(A,1)"))
    0.290 [0.019, 0.761], n = 6
    >>> print(pm.cronbach_alpha(ratings))
    0.909 [0.676, 0.986], n = 6
"""

from evals.psychometrics.agreement import icc, icc_table, krippendorff_alpha
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
from evals.psychometrics.estimate import Estimate, pearson
from evals.psychometrics.factors.confirmatory import cfa
from evals.psychometrics.factors.factor_analysis import efa
from evals.psychometrics.factors.factor_number import bartlett, kmo, parallel_analysis, velicer_map
from evals.psychometrics.factors.rotation import congruence
from evals.psychometrics.factors.similarity import factor_similarity
from evals.psychometrics.generalizability import d_study, variance_components
from evals.psychometrics.item_analysis import item_statistics
from evals.psychometrics.item_functioning import item_bias
from evals.psychometrics.item_response import graded_response
from evals.psychometrics.mcdonald_omega import omega
from evals.psychometrics.measurement_error import (
    disattenuate,
    retest,
    spearman_brown,
    standard_error_of_measurement,
)
from evals.psychometrics.paired import paired_difference, paired_dispersion, pitman_morgan
from evals.psychometrics.polychoric_correlations import ordinal_alpha, polychoric
from evals.psychometrics.reliability import (
    cronbach_alpha,
    guttman_lambda6,
    guttman_lambdas,
    reliability_table,
)
from evals.psychometrics.response_style import (
    forward_reverse_r,
    position_bias,
    refusal_rate,
    social_desirability,
    style_indices,
)
from evals.psychometrics.sample_size import (
    alpha_width,
    correlation_width,
    persons_for_alpha,
    persons_for_correlation,
    persons_for_inverse,
)
from evals.psychometrics.simulation import simulate_responses
from evals.psychometrics.split_halves import guttman_lambda4, split_half
from evals.psychometrics.validity import criterion_correlation, mtmm

__all__ = [
    "Estimate",
    "alpha_width",
    "bartlett",
    "benjamini_hochberg",
    "cfa",
    "cohens_d",
    "congruence",
    "correlation_width",
    "criterion_correlation",
    "cronbach_alpha",
    "d_study",
    "disattenuate",
    "dispersion_ratio",
    "efa",
    "factor_similarity",
    "forward_reverse_r",
    "glass_delta",
    "graded_response",
    "guttman_lambda4",
    "guttman_lambda6",
    "guttman_lambdas",
    "hedges_g",
    "holm",
    "icc",
    "icc_table",
    "item_bias",
    "item_statistics",
    "kmo",
    "krippendorff_alpha",
    "mtmm",
    "omega",
    "ordinal_alpha",
    "paired_difference",
    "paired_dispersion",
    "parallel_analysis",
    "pearson",
    "persons_for_alpha",
    "persons_for_correlation",
    "persons_for_inverse",
    "pitman_morgan",
    "polychoric",
    "position_bias",
    "refusal_rate",
    "reliability_table",
    "retest",
    "simulate_responses",
    "social_desirability",
    "spearman_brown",
    "split_half",
    "standard_error_of_measurement",
    "student",
    "style_indices",
    "tost",
    "variance_components",
    "velicer_map",
    "welch",
]
