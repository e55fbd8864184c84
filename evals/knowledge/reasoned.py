"""Questions answered after reasoning (chain of thought): in words, by letter, or with a number.

Not covered: several chains and their majority; a model as judge.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from evals.knowledge import final_answers
from evals.knowledge.answers import Normalization, contains_answer, match
from evals.knowledge.prompts import LETTERS, KnowledgeQuestion, PromptTemplate
from evals.knowledge.questions import ChoiceQuestion, ClosedBookQuestion
from evals.knowledge.results import KnowledgeResult, summarize
from evals.models.text_model import TextModel


@dataclass(frozen=True)
class ReasonedRecord:
    """One question, reasoned about and answered.

    Attributes:
      response: all that the model wrote; prediction: its final answer, empty where it gave none.
      answers: those that count as right; for a choice, its letter and text.
      scores: for closed-book questions exact_match, f1 and contains of the final answer; for multiple choice
        acc; for both answered, 1 if there is a final answer. For GSM8K strict_match and flexible_extract.
    """

    id: str
    prompt: str
    response: str
    prediction: str
    answers: tuple[str, ...]
    scores: dict[str, float]
    cluster: str | None
    category: str


def reasoned_records(
    model: TextModel,
    questions: Sequence[KnowledgeQuestion],
    template: PromptTemplate,
    *,
    shots: Sequence[KnowledgeQuestion] = (),
    max_new_tokens: int = 256,
    normalization: Normalization = "squad",
) -> list[ReasonedRecord]:
    """Asks some questions in one call, greedily.

    Args:
      model: the model asked.
      questions: in the order of the records.
      template: usually from `evals.knowledge.prompts.reasoning_template`.
      shots: solved examples before each.
      max_new_tokens: limit for reasoning and answer together.
      normalization: of closed-book answers.
    Returns: a record for each question.
    Raises: ValueError where the template needs a stem or choices that a question lacks.
    """
    prompts = [template.prompt(question, shots) for question in questions]
    responses = model.generate(prompts, max_new_tokens, template.stop)
    return [
        _record(question, prompt, response, normalization)
        for question, prompt, response in zip(questions, prompts, responses, strict=True)
    ]


def reasoned_result(records: list[ReasonedRecord], confidence: float) -> KnowledgeResult[ReasonedRecord]:
    """Scores over all records, which are of one kind of question, and by category.

    Args:
      records: from `reasoned_records`.
      confidence: of the intervals, in (0, 1).
    Returns: the scores and the records.
    Raises: ValueError without a record.
    """
    if not records:
        raise ValueError("an evaluation needs at least one question; got none")
    metrics = {name: [record.scores[name] for record in records] for name in records[0].scores}
    return summarize(records, metrics, confidence)


def _record(
    question: KnowledgeQuestion, prompt: str, response: str, normalization: Normalization
) -> ReasonedRecord:
    if isinstance(question, ClosedBookQuestion) and question.suite == "gsm8k":
        found, scores = _number(response, question.answers[0])
        answers = question.answers
    elif isinstance(question, ClosedBookQuestion):
        found, answers = final_answers.final_answer(response), question.answers
        scores = _words(found or "", answers, normalization) | {"answered": float(found is not None)}
    else:
        found, answers = final_answers.final_answer(response), _right(question)
        index = None if found is None else final_answers.chosen(found, question.choices)
        scores = {"acc": float(index == question.answer), "answered": float(index is not None)}
    return ReasonedRecord(
        question.id, prompt, response, found or "", answers, scores, question.cluster, question.category
    )


def _number(response: str, gold: str) -> tuple[str | None, dict[str, float]]:
    strict, flexible = final_answers.strict_number(response), final_answers.flexible_number(response)
    return flexible if strict is None else strict, {
        "strict_match": float(final_answers.same_number(strict, gold)),
        "flexible_extract": float(final_answers.same_number(flexible, gold)),
    }


def _words(answer: str, gold: Sequence[str], normalization: Normalization) -> dict[str, float]:
    if not answer:
        return {"exact_match": 0.0, "f1": 0.0, "contains": 0.0}
    found = match(answer, gold, normalization=normalization)
    contains = float(contains_answer(answer, gold, normalization=normalization))
    return {"exact_match": found.exact, "f1": found.f1, "contains": contains}


def _right(question: ChoiceQuestion) -> tuple[str, ...]:
    return (LETTERS[question.answer], question.choices[question.answer])
