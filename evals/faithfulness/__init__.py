"""Whether a questionnaire's outcome can be believed: criteria, verdicts, null study, report.

    >>> from evals.faithfulness import assess
    >>> from evals.questionnaires import Design, administer, composed_personas, load_instrument
    >>> from evals.questionnaires import simulated_respondent
    >>> mini, design = load_instrument("mini_ipip"), Design(personas=tuple(composed_personas(16)))
    >>> answers = administer(simulated_respondent("random"), mini, design)
    >>> assess(answers, mini).of("extraversion", "internal consistency")
    'not faithful'

Not covered: asking (evals.questionnaires).
"""

from evals.faithfulness.criteria import Thresholds
from evals.faithfulness.report import write_report
from evals.faithfulness.report_contents import Report
from evals.faithfulness.study import FaithfulnessStudy
from evals.faithfulness.verdicts import Assessment, assess, worst

__all__ = [
    "Assessment",
    "FaithfulnessStudy",
    "Report",
    "Thresholds",
    "assess",
    "worst",
    "write_report",
]
