"""What a model knows by heart: closed-book questions, and multiple choice by log-probability.

Of an answer only its own tokens are scored: the first line of a response, or as many words as the gold
answer has, and never the end of the sequence, since fine-tuning changes how answers end long before it
changes what they say.

Not covered: open-book reading, judging long answers. Files and tables are the caller's (results are
dataclasses).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, Literal, TypeVar, get_args

import numpy as np

from evals.knowledge.answers import Normalization, first_line, match
from evals.knowledge.prompts import KnowledgeQuestion, PromptTemplate
from evals.knowledge.questions import ChoiceQuestion, ClosedBookQuestion
from evals.models.text_model import Progress, TextModel, cut_at
from evals.psychometrics.uncertainty import Comparison, Score, compare, mean_score

ChoiceRule = Literal["sum", "per_token", "per_character", "calibrated"]
# Choices closer than this in nats are tied: rounding is no preference.
TIE_NATS = 1e-6


@dataclass(frozen=True)
class AnswerRecord:
    """One closed-book question, answered.

    Attributes:
      response: what the model wrote; prediction: the part that was compared.
      answer_logprob: Σ log p of the canonical answer after the prompt, nats; None if it was not asked for.
    """

    id: str
    prompt: str
    response: str
    prediction: str
    answers: tuple[str, ...]
    exact_match: float
    f1: float
    answer_logprob: float | None
    answer_tokens: int | None
    cluster: str | None
    category: str


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


Record = TypeVar("Record", AnswerRecord, ChoiceRecord)


@dataclass(frozen=True)
class KnowledgeResult(Generic[Record]):
    """Scores by metric, the same by category where there is more than one, and every record in order.

    Metrics of closed-book questions: exact_match, f1, answer_nats (mean −log p of a token of the canonical
    answer); of multiple choice: one accuracy for each `ChoiceRule`.
    """

    scores: dict[str, Score]
    by_category: dict[str, dict[str, Score]]
    records: list[Record]

    def summary(self) -> dict[str, Any]:
        """Scores alone, as plain dictionaries."""
        return {
            "scores": {name: score._asdict() for name, score in self.scores.items()},
            "by_category": {
                category: {name: score._asdict() for name, score in scores.items()}
                for category, scores in self.by_category.items()
            },
        }

    def items(self) -> list[dict[str, Any]]:
        """Every record as a plain dictionary, one for a line of JSON."""
        return [asdict(record) for record in self.records]


def closed_book(
    model: TextModel,
    questions: Sequence[ClosedBookQuestion],
    template: PromptTemplate,
    *,
    shots: Sequence[ClosedBookQuestion] = (),
    max_new_tokens: int = 32,
    normalization: Normalization = "squad",
    score_answers: bool = True,
    confidence: float = 0.95,
    chunk: int = 256,
    progress: Progress | None = None,
) -> KnowledgeResult[AnswerRecord]:
    """Asks every question and compares greedy responses with the gold answers.

    Exact match has Wilson's interval, F1 and nats a bootstrap percentile one; all over clusters where the
    questions have any.

    Args:
      shots: solved examples before each question (`evals.knowledge.prompts.draw_shots`).
      normalization: TriviaQA's figures are published with "triviaqa", the others with "squad".
      score_answers: also score the canonical answer's tokens, at the price of a forward pass. It moves before
        exact match does.
      chunk: questions handed to the model at a time, between which progress is reported.
    Raises: ValueError without questions, or where the template needs a stem that a question lacks.
    """
    _require(questions)
    records = []
    for start in range(0, len(questions), chunk):
        part = questions[start : start + chunk]
        prompts = [template.prompt(question, shots) for question in part]
        responses = model.generate(prompts, max_new_tokens, template.stop)
        nats: Sequence[float | None] = [None] * len(part)
        tokens: Sequence[int | None] = [None] * len(part)
        if score_answers:
            gold = [template.continuation(question.answers[0]) for question in part]
            nats, tokens = model.logprob(prompts, gold)
        for row in zip(part, prompts, responses, nats, tokens, strict=True):
            records.append(_answer_record(*row, template=template, normalization=normalization))
        if progress is not None:
            progress(len(records), len(questions))
    metrics = {"exact_match": [r.exact_match for r in records], "f1": [r.f1 for r in records]}
    if score_answers:
        metrics["answer_nats"] = [-(r.answer_logprob or 0.0) / max(r.answer_tokens or 0, 1) for r in records]
    return _result(records, metrics, confidence)


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

    Raises: ValueError without questions, or where the template needs a stem that a question lacks.
    Reference: Brown et al. 2020, arXiv:2005.14165, section 2.4; Holtzman et al. 2021, arXiv:2104.08315.
    """
    _require(questions)
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
    return _result(records, metrics, confidence)


def compare_results(
    a: KnowledgeResult[Record], b: KnowledgeResult[Record], metric: str, *, confidence: float = 0.95
) -> Comparison:
    """Model b against model a on the same questions, paired; see `evals.psychometrics.uncertainty.compare`.

    Args:
      metric: exact_match or f1, or a choice rule.
    Raises: ValueError if the two did not answer the same questions in the same order, or lack the metric.
    """
    if [r.id for r in a.records] != [r.id for r in b.records]:
        raise ValueError("two results can be compared if both hold the same questions in the same order")
    return compare(_metric(a, metric), _metric(b, metric), _clusters(a.records), confidence=confidence)


def _metric(result: KnowledgeResult[Any], metric: str) -> list[float]:
    values = [
        record.correct.get(metric) if isinstance(record, ChoiceRecord) else getattr(record, metric, None)
        for record in result.records
    ]
    if metric == "answer_nats" or any(not isinstance(value, float) for value in values):
        known = [name for name in result.scores if name != "answer_nats"]
        raise ValueError(f"metric must be one of {', '.join(known)}; got {metric!r}")
    return [float(value) for value in values if value is not None]


def _require(questions: Sequence[KnowledgeQuestion]) -> None:
    if not questions:
        raise ValueError("an evaluation needs at least one question; got none")


def _answer_record(
    question: ClosedBookQuestion,
    prompt: str,
    response: str,
    logprob: float | None,
    tokens: int | None,
    *,
    template: PromptTemplate,
    normalization: Normalization,
) -> AnswerRecord:
    kept = cut_at(response, template.stop)
    prediction = first_line(kept) if template.extent == "line" else " ".join(kept.split())
    found = match(prediction, question.answers, normalization=normalization, extent=template.extent)
    return AnswerRecord(
        id=question.id,
        prompt=prompt,
        response=response,
        prediction=prediction,
        answers=question.answers,
        exact_match=found.exact,
        f1=found.f1,
        answer_logprob=logprob,
        answer_tokens=tokens,
        cluster=question.cluster,
        category=question.category,
    )


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


def _clusters(records: Sequence[AnswerRecord | ChoiceRecord]) -> list[str] | None:
    """The cluster of each record, its own where it shares none; None where no record shares one."""
    if all(record.cluster is None for record in records):
        return None
    return [
        f"item {n}" if record.cluster is None else f"cluster {record.cluster}"
        for n, record in enumerate(records)
    ]


def _result(
    records: list[Record], metrics: dict[str, list[float]], confidence: float
) -> KnowledgeResult[Record]:
    clusters = _clusters(records)

    def score(chosen: Sequence[int]) -> dict[str, Score]:
        named = None if clusters is None else [clusters[i] for i in chosen]
        return {
            metric: mean_score([values[i] for i in chosen], named, confidence=confidence)
            for metric, values in metrics.items()
        }

    names = list(dict.fromkeys(record.category for record in records))
    by_category = {}
    if len(names) > 1:
        for name in sorted(names):
            by_category[name] = score([i for i, record in enumerate(records) if record.category == name])
    return KnowledgeResult(score(range(len(records))), by_category, records)
