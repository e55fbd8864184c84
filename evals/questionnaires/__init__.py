"""Questionnaires given to a respondent: instruments, wordings and personas, crossed designs, answers, scores.

A questionnaire is data (`load_instrument`); a respondent is whoever answers questions (a local model, a model
behind a server, a simulated one: evals.questionnaires.respondents); a design crosses templates, option orders
and personas; `administer` asks everything once, `score` turns answers into scores.

    >>> from evals.questionnaires import Design, administer, composed_personas, load_instrument, score
    >>> from evals.questionnaires import simulated_respondent
    >>> mini = load_instrument("mini_ipip")
    >>> design = Design(personas=tuple(composed_personas(8)))
    >>> answers = administer(simulated_respondent("faithful"), mini, design)
    >>> scores = score(answers, mini, respondent="persona")
    >>> scores[scores["scale"] == "E"][["persona", "mean"]].head(2).round(2)
          persona  mean
    0  N+E+O+A+C+  3.75
    1  N+E+O-A+C-  4.50

Not covered: whether scores can be believed (evals.faithfulness), their statistics (evals.psychometrics).
"""

from evals.questionnaires.administration import administer
from evals.questionnaires.behavior_scores import conduct_scores
from evals.questionnaires.behaviors import battery as behavioral_battery
from evals.questionnaires.design import Battery, Design, battery
from evals.questionnaires.instrument import Instrument, Scale, load_instrument, shipped_instruments
from evals.questionnaires.reading import parse
from evals.questionnaires.respondent import Answer, Question, Respondent
from evals.questionnaires.respondents.api_respondent import ApiRespondent
from evals.questionnaires.respondents.simulated import simulated_respondent
from evals.questionnaires.response_table import read_responses
from evals.questionnaires.scoring import keyed_responses, score
from evals.questionnaires.wording import (
    Persona,
    Template,
    composed_personas,
    graded_personas,
    named_templates,
)

__all__ = [
    "Answer",
    "ApiRespondent",
    "Battery",
    "Design",
    "Instrument",
    "Persona",
    "Question",
    "Respondent",
    "Scale",
    "Template",
    "administer",
    "battery",
    "behavioral_battery",
    "composed_personas",
    "conduct_scores",
    "graded_personas",
    "keyed_responses",
    "load_instrument",
    "named_templates",
    "parse",
    "read_responses",
    "score",
    "shipped_instruments",
    "simulated_respondent",
]
