"""Closed-book questions: what a model knows by heart, asked and compared with the gold answers.

Only an answer's own tokens are scored: the first line of a response, or as many words as the gold answer has,
and never the end of the sequence, since fine-tuning changes how answers end long before it changes what they
say. Not covered: open-book reading, judging long answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from evals.knowledge.answers import Normalization, contains_answer, first_line, match
from evals.knowledge.prompts import KnowledgeQuestion, PromptTemplate
from evals.knowledge.questions import ClosedBookQuestion
from evals.knowledge.results import KnowledgeResult, summarize
from evals.models.text_model import Progress, TextModel, cut_at


@dataclass(frozen=True)
class AnswerRecord:
    """One closed-book question, answered.

    Attributes:
      response: what the model wrote; prediction: the part that was compared.
      contains: 1 if an answer occurs anywhere in the response, up to the first stop string.
      answer_logprob: Σ log p of the canonical answer after the prompt, nats; None if it was not requested.
    """

    id: str
    prompt: str
    response: str
    prediction: str
    answers: tuple[str, ...]
    exact_match: float
    f1: float
    contains: float
    answer_logprob: float | None
    answer_tokens: int | None
    cluster: str | None
    category: str

    @property
    def scores(self) -> dict[str, float]:
        """What two models can be compared by; answer_nats where the answer was scored."""
        words = {"exact_match": self.exact_match, "f1": self.f1, "contains": self.contains}
        if self.answer_logprob is None:
            return words
        return words | {"answer_nats": -self.answer_logprob / max(self.answer_tokens or 0, 1)}


def closed_book(
    model: TextModel,
    questions: Sequence[ClosedBookQuestion],
    template: PromptTemplate,
    *,
    shots: Sequence[KnowledgeQuestion] = (),
    max_new_tokens: int = 32,
    normalization: Normalization = "squad",
    score_answers: bool = True,
    confidence: float = 0.95,
    chunk: int = 64,
    progress: Progress | None = None,
) -> KnowledgeResult[AnswerRecord]:
    """Asks every question and compares greedy responses with the gold answers.

    Exact match and containment have Wilson's interval, F1 and nats a bootstrap percentile interval; all over
    clusters where the questions have any.

    Args:
      model: the model asked.
      questions: in the order of the records.
      template: how a question is put.
      max_new_tokens: limit for a response.
      confidence: of the intervals, in (0, 1).
      progress: called with how many questions of how many are done.
      shots: solved examples before each question (`evals.knowledge.prompts.draw_shots`).
      normalization: TriviaQA's figures are published with "triviaqa", the others with "squad".
      score_answers: also score the canonical answer's tokens, at the cost of a forward pass. This score moves
        before exact match does.
      chunk: questions handed to the model at a time; progress is reported between chunks.
    Returns: scores over all, by category, and a record for each question.
    Raises: ValueError without questions, or where the template needs a stem that a question lacks.
    """
    records = []
    for start in range(0, len(questions), chunk):
        records += answer_records(
            model,
            questions[start : start + chunk],
            template,
            shots=shots,
            max_new_tokens=max_new_tokens,
            normalization=normalization,
            score_answers=score_answers,
        )
        if progress is not None:
            progress(len(records), len(questions))
    return answer_result(records, confidence)


def answer_records(
    model: TextModel,
    questions: Sequence[ClosedBookQuestion],
    template: PromptTemplate,
    *,
    shots: Sequence[KnowledgeQuestion] = (),
    max_new_tokens: int = 32,
    normalization: Normalization = "squad",
    score_answers: bool = True,
) -> list[AnswerRecord]:
    """Asks some questions in one call.

    Args:
      model, questions, template, shots, max_new_tokens, normalization, score_answers: as for `closed_book`.
    Returns: a record for each question.
    """
    prompts = [template.prompt(question, shots) for question in questions]
    responses = model.generate(prompts, max_new_tokens, template.stop)
    nats: Sequence[float | None] = [None] * len(questions)
    tokens: Sequence[int | None] = [None] * len(questions)
    if score_answers:
        gold = [template.continuation(question.answers[0]) for question in questions]
        nats, tokens = model.logprob(prompts, gold)
    return [
        _answer_record(*row, template=template, normalization=normalization)
        for row in zip(questions, prompts, responses, nats, tokens, strict=True)
    ]


def answer_result(records: list[AnswerRecord], confidence: float) -> KnowledgeResult[AnswerRecord]:
    """Scores over all records and by category; answer_nats where every answer was scored.

    Args:
      records: from `answer_records`.
      confidence: of the intervals, in (0, 1).
    Returns: the scores and the records.
    Raises: ValueError without a record.
    """
    if not records:
        raise ValueError("an evaluation needs at least one question; got none")
    named = [name for name in records[0].scores if all(name in record.scores for record in records)]
    metrics = {name: [record.scores[name] for record in records] for name in named}
    return summarize(records, metrics, confidence)


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
        contains=float(contains_answer(kept, question.answers, normalization=normalization)),
        answer_logprob=logprob,
        answer_tokens=tokens,
        cluster=question.cluster,
        category=question.category,
    )
