"""How a model of the LoRAMoE study is examined: which held-out facts it knows, which tasks it solves.

Two kinds of base are examined in two ways: `EmbeddedExams` for the small ones that the study pretrains on the
embedded facts, and `training.studies.loramoe.pretrained` for those that were pretrained elsewhere.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from evals.knowledge import greedy
from evals.knowledge.embedded_questions import closed_book_questions, task_questions
from evals.knowledge.questions import ClosedBookQuestion
from jaxmoe.datasets.corpora import STUDY_RELATIONS
from jaxmoe.datasets.downstream_questions import question_stem
from jaxmoe.json_values import JsonObject
from jaxmoe.language_model import LanguageModel
from training.studies.cells import Result
from training.studies.loramoe.config import ExamSizes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLITS = {"test": "", "dev": "dev_"}


class Exams(Protocol):
    """The examinations of all models that derive from one base."""

    def of_base(self, lm: LanguageModel) -> Result:
        """What is measured on the base before any training: its scores under `test`.

        Args:
          lm: the base.
        Returns: as plain JSON.
        """
        ...

    def of_snapshot(self, lm: LanguageModel, *, last: bool) -> Result:
        """Test scores of a model during training.

        Args:
          lm: the model.
          last: whether training has ended.
        Returns: as plain JSON.
        """
        ...

    def dev_accuracy(self, lm: LanguageModel) -> float:
        """Share of dev tasks answered correctly and then ended; learning rates are chosen by it."""
        ...


def exam_settings(sizes: ExamSizes) -> JsonObject:
    """The examination settings that a cell's result depends on, as plain JSON."""
    return {"tasks": sizes.tasks, "dev_tasks": sizes.dev_tasks, "facts": sizes.facts}


def by_family(questions: Sequence[ClosedBookQuestion], scores: np.ndarray) -> dict[str, float]:
    """Mean task scores.

    Args:
      questions: the tasks.
      scores: one per task.
    Returns: means by task family.
    """
    families: dict[str, list[float]] = {}
    for question, score in zip(questions, scores, strict=True):
        families.setdefault(question.category, []).append(float(score))
    return {name: sum(found) / len(found) for name, found in sorted(families.items())}


class EmbeddedExams:
    """Examinations of a base that was pretrained on the embedded facts; see `Exams`.

    Args:
      sizes: how much each examination asks.
      tokenizer: the base's tokenizer.
    """

    def __init__(self, sizes: ExamSizes, tokenizer: "PreTrainedTokenizerBase"):
        self._sizes = sizes
        self._tokenizer = tokenizer
        self._prepared: dict[str, greedy.Exam] = {}

    def of_base(self, lm: LanguageModel) -> Result:
        """See `Exams`; `skills` are held-out contents worded differently from the instructions."""
        reworded = greedy.take(lm, self._exam(lm, "reworded tasks")).right
        return {"test": self._examined(lm), "skills": by_family(self.questions["tasks"], reworded)}

    def of_snapshot(self, lm: LanguageModel, *, last: bool) -> Result:
        """See `Exams`.

        Args:
          lm: the model.
          last: makes no difference here.
        Returns: shares of facts and tasks.
        """
        return self._examined(lm)

    def dev_accuracy(self, lm: LanguageModel) -> float:
        """See `Exams`."""
        return float(greedy.take(lm, self._exam(lm, "dev tasks")).ended.mean())

    def _exam(self, lm: LanguageModel, what: str) -> greedy.Exam:
        if what not in self._prepared:
            form = "text" if what in ("completed", "reworded tasks") else "instruction"
            self._prepared[what] = greedy.prepare(lm, self._tokenizer, self.questions[what], form)
        return self._prepared[what]

    @cached_property
    def questions(self) -> dict[str, list[ClosedBookQuestion]]:
        """Held-out facts, for completion and as questions, and task samples."""
        return embedded_questions(self._sizes)

    def _examined(self, lm: LanguageModel) -> Result:
        """Test scores of a model: shares of facts and tasks, and of tasks by family."""
        marks = {what: greedy.take(lm, self._exam(lm, what)) for what in ("completed", "asked", "tasks")}
        return {
            "completed": float(marks["completed"].right.mean()),
            "asked": float(marks["asked"].right.mean()),
            "tasks": float(marks["tasks"].ended.mean()),
            "tasks_begun": float(marks["tasks"].right.mean()),
            "families": by_family(self.questions["tasks"], marks["tasks"].ended),
        }


def embedded_questions(sizes: ExamSizes) -> dict[str, list[ClosedBookQuestion]]:
    """Held-out facts, for completion and as questions, and task samples."""
    exam = exam_settings(sizes)
    facts = closed_book_questions("test", STUDY_RELATIONS, exam["facts"])
    tasks = {split: task_questions(exam[f"{name}tasks"], split) for split, name in SPLITS.items()}
    reworded = [
        replace(task, stem=question_stem(task.category, task.question.split("\n", 1)[1]))
        for task in tasks["test"]
    ]
    return {
        "completed": facts,
        "asked": facts,
        "tasks": tasks["test"],
        "dev tasks": tasks["dev"],
        "reworded tasks": reworded,
    }
