"""Multiple choice by log-probability: which choice a model finds most probable after the question.

The model writes nothing, so nothing has to be parsed. What is scored is the text of each choice or, where the
template lists the choices, its letter.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from evals.knowledge.prompts import KnowledgeQuestion, PromptTemplate
from evals.knowledge.questions import ChoiceQuestion
from evals.knowledge.results import KnowledgeResult, summarize
from evals.models.text_model import Progress, TextModel

ChoiceRule = Literal["acc", "acc_norm", "per_token", "calibrated"]
# Choices closer than this in nats are tied: a rounding difference is not a preference.
TIE_NATS = 1e-6


@dataclass(frozen=True)
class ChoiceRecord:
    """One multiple-choice question: the log-probability of each choice, and the score by each rule.

    Attributes:
      choices: what was scored: texts, or letters.
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
    shots: Sequence[KnowledgeQuestion] = (),
    confidence: float = 0.95,
    chunk: int = 64,
    progress: Progress | None = None,
) -> KnowledgeResult[ChoiceRecord]:
    """Picks the choice c that scores best after the prompt x, by four rules at once.

        acc         log p(c|x)
        acc_norm    log p(c|x) / characters of c
        per_token   log p(c|x) / tokens of c
        calibrated  log p(c|x) − log p(c|unconditional prompt)

    The first two are lm-evaluation-harness's. `acc` penalizes choices for being long; `per_token` depends on
    the tokenizer, `acc_norm` does not; `calibrated` removes how common a choice is anyway. A right choice
    that ties with k − 1 others counts 1/k, so a model without preference scores at chance, not at the share
    of right answers that come first (the harness takes the first of tied choices).

    Args:
      model: scores the choices.
      questions: in the order of the records.
      template: how a question is put.
      shots: solved examples before each.
      confidence: of the intervals, in (0, 1).
      chunk: questions handed to the model at a time.
      progress: called with how many questions of how many are done.
    Returns: scores by rule, by category, and a record for each question.

    Raises: ValueError without questions, or where the template needs a stem that a question lacks.
    Reference: Brown et al. 2020, arXiv:2005.14165, section 2.4; Holtzman et al. 2021, arXiv:2104.08315.
    """
    records: list[ChoiceRecord] = []
    for start in range(0, len(questions), chunk):
        part = questions[start : start + chunk]
        records += choice_records(model, part, template, shots=shots, earlier=records)
        if progress is not None:
            progress(len(records), len(questions))
    return choice_result(records, confidence)


def choice_records(
    model: TextModel,
    questions: Sequence[ChoiceQuestion],
    template: PromptTemplate,
    *,
    shots: Sequence[KnowledgeQuestion] = (),
    earlier: Sequence[ChoiceRecord] = (),
) -> list[ChoiceRecord]:
    """Scores the choices of some questions in one call; otherwise as `multiple_choice`.

    Args:
      model, questions, template, shots: as for `multiple_choice`.
      earlier: records with the same template; their scores of choices without a question are not computed
        again.
    Returns: a record for each question.
    """
    unconditional = _unconditional(earlier, template)
    prompts = [template.prompt(question, shots) for question in questions]
    pairs = [
        _pair(prompt, template.continuation(option))
        for question, prompt in zip(questions, prompts, strict=True)
        for option in template.options(question)
    ]
    scored = model.logprob([prompt for prompt, _ in pairs], [option for _, option in pairs])
    new = list(dict.fromkeys(option for _, option in pairs if option not in unconditional))
    if new:
        blank = model.logprob([template.unconditional] * len(new), new)
        unconditional.update(zip(new, blank.logprobs, strict=True))
    at, records = 0, []
    for question, prompt in zip(questions, prompts, strict=True):
        here = slice(at, at := at + len(question.choices))
        alone = tuple(unconditional[option] for _, option in pairs[here])
        logprobs, tokens = tuple(scored.logprobs[here]), tuple(scored.tokens[here])
        records.append(_choice_record(question, prompt, template.options(question), logprobs, tokens, alone))
    return records


def _unconditional(records: Sequence[ChoiceRecord], template: PromptTemplate) -> dict[str, float]:
    """Σ log p without a question, by continuation, from earlier records."""
    return {
        _pair(record.prompt, template.continuation(choice))[1]: alone
        for record in records
        for choice, alone in zip(record.choices, record.unconditional, strict=True)
    }


def choice_result(records: list[ChoiceRecord], confidence: float) -> KnowledgeResult[ChoiceRecord]:
    """Scores by rule over all records and by category.

    Args:
      records: from `choice_records`.
      confidence: of the intervals, in (0, 1).
    Returns: the scores and the records.
    Raises: ValueError without a record.
    """
    if not records:
        raise ValueError("an evaluation needs at least one question; got none")
    metrics = {rule: [record.correct[rule] for record in records] for rule in get_args(ChoiceRule)}
    return summarize(records, metrics, confidence)


def _pair(prompt: str, continuation: str) -> tuple[str, str]:
    """Moves blanks at the end of a prompt to the continuation, since tokens begin with blanks."""
    kept = prompt.rstrip()
    return kept, prompt[len(kept) :] + continuation


def _choice_record(
    question: ChoiceQuestion,
    prompt: str,
    options: tuple[str, ...],
    logprobs: tuple[float, ...],
    tokens: tuple[int, ...],
    unconditional: tuple[float, ...],
) -> ChoiceRecord:
    total = np.asarray(logprobs)
    ranked: dict[ChoiceRule, np.ndarray] = {
        "acc": total,
        "acc_norm": total / [max(len(option), 1) for option in options],
        "per_token": total / np.maximum(tokens, 1),
        "calibrated": total - unconditional,
    }
    correct = {rule: _share_of_best(values, question.answer) for rule, values in ranked.items()}
    return ChoiceRecord(
        id=question.id,
        prompt=prompt,
        choices=options,
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
