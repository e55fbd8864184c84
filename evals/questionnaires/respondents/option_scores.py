"""Which part of an option is scored, and how scores become probabilities: for local and served models."""

from typing import Literal

import numpy as np

from evals.questionnaires.respondent import Question

Scored = Literal["label", "words"]


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    shifted = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def continuation(question: Question, place: int, scored: Scored) -> str:
    """What follows the prompt where an option is taken.

    Args:
      question: as asked.
      place: of the option, as shown.
      scored: its label, or its words.
    Returns: the text, with a blank before it where one belongs.
    """
    choice = question.choices[place]
    text = choice.label if scored == "label" else choice.words
    # a blank belongs to the answer, as in tokenizers; none after a bracket or a blank
    return text if question.prompt[-1:] in "[( \n" else f" {text}"
