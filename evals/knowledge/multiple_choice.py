"""Multiple choice by log-probability: which of the choices a model gives most to after the question.

Nothing is written, so nothing has to be read. Not covered: letters as answers (put them into the choices).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from evals.knowledge.prompts import PromptTemplate
from evals.knowledge.questions import ChoiceQuestion, ClosedBookQuestion
from evals.knowledge.results import KnowledgeResult, summarize
from evals.models.text_model import Progress, TextModel

ChoiceRule = Literal["sum", "per_token", "per_character", "calibrated"]
# Choices closer than this in nats are tied: rounding is no preference.
TIE_NATS = 1e-6


@dataclass(frozen=True)
class ChoiceRecord:
    """One multiple-choice question: what the model gives each choice, and the score by each rule.

    Attributes:
      logprobs, tokens: of each choice after the prompt; unconditional: Σ log p without the question.
      correct: by rule, 1 if the right choice scores best; shared equally where choices tie.
    """

    id: str
    prompt: str
    choices: tuple[str, ...]
    answer: int
    logprobs: tuple[float, ...]
    tokens: tuple[int, ...]
    unconditional: tuple[float, ...]
    correct: dict[str, float]
    cluster: str | None
    category: str

    @property
    def scores(self) -> dict[str, float]:
        """What two models can be compared by: `correct`."""
        return self.correct


def multiple_choice(
    model: TextModel,
    questions: Sequence[ChoiceQuestion],
    template: PromptTemplate,
    *,
    shots: Sequence[ClosedBookQuestion] = (),
    confidence: float = 0.95,
    chunk: int = 256,
    progress: Progress | None = None,
) -> KnowledgeResult[ChoiceRecord]:
    """Takes the choice c that scores best after the prompt x, by four rules at once.

        sum            log p(c|x)
        per_token      log p(c|x) / tokens of c
        per_character  log p(c|x) / characters of c
        calibrated     log p(c|x) − log p(c|unconditional prompt)

    Longer choices lose by the first for being long; the second depends on the tokenizer, the third does not;
    the last takes out how common a choice is anyway. Right choices that tie with k − 1 others count 1/k, so
    a model without preference scores chance and not the share of right answers that stand first.

    Args:
      model: that scores the choices.
      questions: in the order of the records.
      template: how a question is put.
      shots: solved examples before each.
      confidence: of the intervals, in (0, 1).
      chunk: questions handed to the model at a time.
      progress: told how many questions of how many are done.
    Returns: scores by rule, by category, and a record for each question.

    Raises: ValueError without questions, or where the template needs a stem that a question lacks.
    Reference: Brown et al. 2020, arXiv:2005.14165, section 2.4; Holtzman et al. 2021, arXiv:2104.08315.
    """
    if not questions:
        raise ValueError("an evaluation needs at least one question; got none")
    blank: dict[str, float] = {}
    records = []
    for start in range(0, len(questions), chunk):
        part = questions[start : start + chunk]
        prompts = [template.prompt(question, shots) for question in part]
        pairs = [
            (prompt, template.continuation(choice))
            for question, prompt in zip(part, prompts, strict=True)
            for choice in question.choices
        ]
        scored = model.logprob([prompt for prompt, _ in pairs], [choice for _, choice in pairs])
        new = list(dict.fromkeys(choice for _, choice in pairs if choice not in blank))
        if new:
            blank |= zip(new, model.logprob([template.unconditional] * len(new), new).logprobs, strict=True)
        at = 0
        for question, prompt in zip(part, prompts, strict=True):
            here = slice(at, at := at + len(question.choices))
            unconditional = tuple(blank[choice] for _, choice in pairs[here])
            logprobs, tokens = tuple(scored.logprobs[here]), tuple(scored.tokens[here])
            records.append(_choice_record(question, prompt, logprobs, tokens, unconditional))
        if progress is not None:
            progress(len(records), len(questions))
    metrics = {rule: [record.correct[rule] for record in records] for rule in get_args(ChoiceRule)}
    return summarize(records, metrics, confidence)


def _choice_record(
    question: ChoiceQuestion,
    prompt: str,
    logprobs: tuple[float, ...],
    tokens: tuple[int, ...],
    unconditional: tuple[float, ...],
) -> ChoiceRecord:
    total = np.asarray(logprobs)
    ranked: dict[ChoiceRule, np.ndarray] = {
        "sum": total,
        "per_token": total / np.maximum(tokens, 1),
        "per_character": total / [max(len(choice), 1) for choice in question.choices],
        "calibrated": total - unconditional,
    }
    correct = {rule: _share_of_best(values, question.answer) for rule, values in ranked.items()}
    return ChoiceRecord(
        id=question.id,
        prompt=prompt,
        choices=question.choices,
        answer=question.answer,
        logprobs=logprobs,
        tokens=tokens,
        unconditional=unconditional,
        correct={**correct},
        cluster=question.cluster,
        category=question.category,
    )


def _share_of_best(values: np.ndarray, answer: int) -> float:
    best = values >= values.max() - TIE_NATS
    return float(best[answer]) / float(best.sum()) if best.any() else math.nan
