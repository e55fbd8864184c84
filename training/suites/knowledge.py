"""suite=knowledge: closed-book questions and multiple choice, from published files or the embedded facts."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from evals.knowledge.answers import Normalization
from evals.knowledge.closed_book import closed_book
from evals.knowledge.embedded_questions import choice_questions, closed_book_questions
from evals.knowledge.multiple_choice import multiple_choice
from evals.knowledge.prompts import PromptTemplate, draw_shots, template
from evals.knowledge.questions import ClosedBookQuestion, QuestionSet, load_questions
from evals.knowledge.results import KnowledgeResult
from evals.models.local_model import Form, LocalModel
from training.suites.evaluation import ItemSet, Loaded, ScoredItem, SuiteRun, bar

QuestionForm = Literal["qa", "completion", "instruction", "auto", "chat"]
FORMS: dict[QuestionForm, Form] = {
    "qa": "text",
    "completion": "text",
    "instruction": "instruction",
    "auto": "auto",
    "chat": "chat",
}


@dataclass(frozen=True)
class QuestionSource:
    """One set of questions: a file, a folder prepared by TFDS, or the embedded facts.

    Attributes:
      name: what the set is called in results; null takes the file's name.
      path: TriviaQA, Natural Questions, HotpotQA, WebQuestions, ARC, plain or instruction rows as JSON or
        JSON lines (also .gz), or a folder prepared by TFDS.
      embedded: facts of this split instead of a file.
      relations: kinds of embedded facts; empty takes all.
      choices: of each embedded fact, as multiple choice; 0 asks for the answer.
      split: of a TFDS folder; null takes its only one.
      limit: first so many questions only; null takes all.
      normalization: of answers; the published figures of TriviaQA use triviaqa, the others squad.
      shots: solved examples before each question; in a chat, turns of user and assistant.
      shots_from: file of those examples (its train part, say); null takes embedded facts of train.
    """

    name: str | None = None
    path: str | None = None
    embedded: Literal["train", "dev", "test"] | None = None
    relations: tuple[str, ...] = ()
    choices: int = 0
    split: str | None = None
    limit: int | None = None
    normalization: Normalization = "squad"
    shots: int = 0
    shots_from: str | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.embedded is None):
            raise ValueError(
                f"a set of questions needs path or embedded, one of the two; got path {self.path}, "
                f"embedded {self.embedded} (knowledge.sources)"
            )
        if self.shots and self.shots_from is None and self.path is not None:
            raise ValueError(f"shots {self.shots} of {self.path} need shots_from, a file of solved examples")

    @property
    def label(self) -> str:
        """The set's name in results."""
        return self.name or (Path(self.path).name if self.path else f"embedded {self.embedded}")


@dataclass(frozen=True)
class KnowledgeConfig:
    """Closed-book questions and multiple choice by log-probability.

    Attributes:
      sources: sets of questions.
      templates: forms in which every set is asked; base models complete (completion, qa), tuned ones answer
        (instruction, chat; auto puts the question alone by the chat template where there is one, else in the
        LoRAMoE form, as data.form=auto does in training). Fine-tuning moves the two apart: report both.
      system: system prompt of the forms that are chats; null leaves what the chat template puts itself.
      max_new_tokens: of a response.
      score_answers: also score the tokens of the right answer (answer_nats).
    """

    sources: tuple[QuestionSource, ...] = (QuestionSource(embedded="test"),)
    templates: tuple[QuestionForm, ...] = ("completion", "qa")
    system: str | None = None
    max_new_tokens: int = 24
    score_answers: bool = True

    def __post_init__(self) -> None:
        if not self.sources or not self.templates:
            raise ValueError(
                "knowledge.sources and knowledge.templates must each name at least one; got none"
            )
        labels = [source.label for source in self.sources]
        if len(set(labels)) < len(labels):
            raise ValueError(f"knowledge.sources need different names; got {labels}")
        if self.system is not None and not {"auto", "chat"} & {*self.templates}:
            raise ValueError(
                f"knowledge.system needs the template chat or auto; got {', '.join(self.templates)}"
            )
        if self.max_new_tokens < 1:
            raise ValueError(f"knowledge.max_new_tokens must be at least 1; got {self.max_new_tokens}")


def knowledge(config: KnowledgeConfig, seed: int, confidence: float) -> SuiteRun:
    """Reads all questions, so that mistakes show before a model is loaded.

    Args:
      seed: of solved examples, and of the wrong choices where they are drawn.
      confidence: of intervals, such as 0.95.
    Returns: a function that asks a model and gives its scores, a set for each source, template and kind of
      question.
    Raises: ValueError, naming source and template, for a question that the template cannot put.
    """
    read = [(source, *_questions(source, seed)) for source in config.sources]
    for source, questions, shots in read:
        for name in config.templates:
            for asked in [*shots, *questions.questions[:1], *questions.choice_questions[:1]]:
                try:
                    template(name).prompt(asked)
                except ValueError as error:
                    raise ValueError(f"{source.label}, template {name}: {error}") from error

    def run(loaded: Loaded) -> list[ItemSet]:
        models = {name: loaded.text_model(FORMS[name]) for name in config.templates}
        if config.system is not None and all(model.form != "chat" for model in models.values()):
            raise ValueError("knowledge.system needs a chat template, and the tokenizer has none")
        sets: list[ItemSet] = []
        with bar(loaded.progress) as start:
            for source, questions, shots in read:
                for name, model in models.items():
                    asking = Asking(model, config, source, template(name), shots, confidence)
                    label = f"{source.label}, {name}" + (f" ({model.form})" if name == "auto" else "")
                    if questions.questions:
                        sets.append(asking.closed_book(questions, label, start(label)))
                    if questions.choice_questions:
                        kind = f"{label}, choice" if questions.questions else label
                        sets.append(asking.choices(questions, kind, start(kind)))
        return sets

    return run


def _questions(source: QuestionSource, seed: int) -> tuple[QuestionSet, list[ClosedBookQuestion]]:
    """The questions of a source, and its solved examples."""
    if source.path is not None:
        found = load_questions(source.path, split=source.split, limit=source.limit)
    elif source.choices:
        drawn = choice_questions(
            source.embedded or "test", source.relations, source.limit, choices=source.choices, seed=seed
        )
        found = QuestionSet(choice_questions=drawn)
    else:
        found = QuestionSet(closed_book_questions(source.embedded or "test", source.relations, source.limit))
    if not source.shots:
        return found, []
    pool = (
        closed_book_questions("train")
        if source.shots_from is None
        else load_questions(source.shots_from).questions
    )
    asked = [*found.questions, *found.choice_questions]
    return found, draw_shots(pool, source.shots, against=asked, seed=seed)


@dataclass(frozen=True)
class Asking:
    """One source put to a model under one template.

    Attributes:
      model: in the form of the template.
      config: gives the system prompt.
      shots: solved examples.
      confidence: of intervals.
    """

    model: LocalModel
    config: KnowledgeConfig
    source: QuestionSource
    template: PromptTemplate
    shots: list[ClosedBookQuestion]
    confidence: float

    @property
    def asked(self) -> LocalModel:
        """The model; in a chat, with system prompt and solved examples as turns before each question."""
        if self.model.form != "chat":
            return self.model
        return replace(self.model, before=self.template.turns(self.shots, self.config.system))

    @property
    def shots_in_prompt(self) -> list[ClosedBookQuestion]:
        """The solved examples, where they stand in the text of a prompt."""
        return [] if self.model.form == "chat" else self.shots

    def closed_book(self, questions: QuestionSet, label: str, progress) -> ItemSet:
        """Asks for answers in the model's own words, scored by exact match, F1 and containment.

        Args:
          questions: of which the closed-book ones are asked.
          label: name of the set.
          progress: called with (done, total) as answers come.
        Returns: scores, and each question with its answer.
        """
        result = closed_book(
            self.asked,
            questions.questions,
            self.template,
            shots=self.shots_in_prompt,
            max_new_tokens=self.config.max_new_tokens,
            normalization=self.source.normalization,
            score_answers=self.config.score_answers,
            confidence=self.confidence,
            progress=progress,
        )
        items = [ScoredItem(r.id, r.cluster, r.scores, asdict(r)) for r in result.records]
        return self._set(label, result, items, questions.skipped)

    def choices(self, questions: QuestionSet, label: str, progress) -> ItemSet:
        """Asks multiple-choice questions and scores how often the right choice ranks first, by each rule.

        Args:
          questions: of which the multiple-choice ones are asked.
          label: name of the set.
          progress: called with (done, total) as answers come.
        Returns: scores, and each question with its answer.
        """
        result = multiple_choice(
            self.asked,
            questions.choice_questions,
            self.template,
            shots=self.shots_in_prompt,
            confidence=self.confidence,
            progress=progress,
        )
        items = [ScoredItem(r.id, r.cluster, r.correct, asdict(r)) for r in result.records]
        return self._set(label, result, items, questions.skipped)

    def _set(self, label: str, result: KnowledgeResult, items: list[ScoredItem], skipped: int) -> ItemSet:
        more: dict[str, object] = {"rows_without_answer": skipped, "shots": [shot.id for shot in self.shots]}
        if before := self.asked.before:
            more["before"] = [*before]
        return ItemSet(label, result.scores, result.by_category, items, more)
