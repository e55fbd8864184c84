"""Do the items of a scale agree, and not only because they are answered alike?"""

from collections.abc import Callable

import numpy as np

from evals.faithfulness.criteria import (
    FORWARD_REVERSE,
    Check,
    Setting,
    indistinct,
    judged,
    mean_over_conditions,
    undetermined,
)
from evals.psychometrics.estimate import Estimate
from evals.psychometrics.reliability import cronbach_alpha
from evals.psychometrics.response_style import forward_reverse_r
from evals.questionnaires.instrument import Scale
from evals.questionnaires.response_table import ResponseCube

KEYED_ONE_WAY = "all items are keyed one way: agreeing with everything would look the same"


def internal_consistency(one: ResponseCube, scale: Scale, setting: Setting) -> list[Check]:
    """α within conditions, and r of forward with reversed items.

    Items asked in both published and paraphrased words must agree in each wording: a model may have memorized
    published items.

    Args:
      one: the instrument's answers, completed.
    Returns: a check for each wording, and one for the keys.
    """
    limits, places = setting.thresholds, one.columns(scale.name)
    scores = one.scores(scale)
    if check := indistinct(scores, "alpha", limits.alpha, setting):
        return [check]
    wordings = one.wordings()
    checks = [
        judged(
            "alpha" if len(wordings) == 1 else f"alpha, {name} items",
            alpha_over_conditions(one.keyed[:, rows][:, :, places], setting.confidence),
            limits.alpha,
            setting,
        )
        for name, rows in wordings.items()
    ]
    keys = one.keys[places]
    if len(set(keys.tolist())) < 2:
        return [*checks, undetermined(FORWARD_REVERSE, KEYED_ONE_WAY, limits.forward_reverse, len(scores))]
    opposed = over_conditions(
        one.raw[:, :, places], lambda raw: forward_reverse_r(raw, keys, confidence=setting.confidence)
    )
    return [*checks, judged(FORWARD_REVERSE, opposed, limits.forward_reverse, setting)]


def alpha_over_conditions(keyed_PCJ: np.ndarray, confidence: float = 0.95) -> Estimate:
    """The mean of Cronbach's α over conditions, used both in verdicts and in the reliability table.

    Args:
      keyed_PCJ: answers in the direction of the scale, [persons, conditions, items].
      confidence: of the interval, two-sided.
    Returns: α, with the mean of the bounds as its interval (`mean_over_conditions`).
    """
    return over_conditions(keyed_PCJ, lambda keyed: cronbach_alpha(keyed, confidence=confidence))


def over_conditions(answers_PCJ: np.ndarray, statistic: Callable[[np.ndarray], Estimate]) -> Estimate:
    """A coefficient of persons x items, averaged over conditions.

    Args:
      answers_PCJ: [persons, conditions, items], keyed or as given, whichever the statistic needs.
      statistic: from the answers [persons, items] of one condition to an estimate.
    Returns: the mean of values and of bounds (`mean_over_conditions`).
    """
    return mean_over_conditions([statistic(answers_PCJ[:, c]) for c in range(answers_PCJ.shape[1])])
