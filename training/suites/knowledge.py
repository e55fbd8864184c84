"""suite=knowledge: closed-book questions, multiple choice and GSM8K, from published files or the embedded
facts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from evals.knowledge.answers import Normalization
from evals.knowledge.embedded_questions import choice_questions, closed_book_questions
from evals.knowledge.prompts import (
    KnowledgeQuestion,
    PromptTemplate,
    ShotOrder,
    draw_shots,
    reasoning_template,
    template,
)
from evals.knowledge.published_rows import Suite
from evals.knowledge.questions import QuestionSet, load_questions
from evals.models.local_model import Form
from evals.models.text_model import FormedTextModel
from evals.questionnaires.respondents.api_server import ServerConfig
from jaxmoe.given_paths import given
from jaxmoe.progress import ProgressDisplay, say
from training.suites.asking import Asking, Shots
from training.suites.evaluation import ItemSet, Subject, SuiteRun

QuestionForm = Literal["qa", "completion", "instruction", "auto", "chat", "lm_eval"]
FORMS: dict[QuestionForm, Form] = {
    "qa": "text",
    "completion": "text",
    "instruction": "instruction",
    "auto": "auto",
    "chat": "chat",
    "lm_eval": "text",
}


@dataclass(frozen=True)
class QuestionSource:
    """One set of questions: a file, a folder prepared by TFDS, or the embedded facts.

    Attributes:
      name: what the set is called in results; null takes the file's name.
      path: TriviaQA, Natural Questions, HotpotQA, WebQuestions, MMLU, ARC, HellaSwag, GSM8K, plain or
        instruction rows as JSON, JSON lines (also .gz) or Parquet, MMLU's CSV or a folder of it, or a folder
        prepared by TFDS.
      embedded: facts of this split instead of a file.
      relations: kinds of embedded facts; empty takes all.
      choices: choices per embedded fact, as multiple choice; 0 asks for the answer.
      split: split of a TFDS folder; null takes its only one.
      limit: take only this many questions, from the first; null takes all.
      normalization: of answers; the published figures of TriviaQA use triviaqa, the others squad.
      shots: solved examples before each question; in a chat, turns of user and assistant.
      shots_from: file of those examples (such as its train part); null takes embedded facts of train. MMLU's
        come from the question's own subject.
      shots_order: random draws them, first takes the first ones in the file.
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
    shots_order: ShotOrder = "random"

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
    """Closed-book questions, multiple choice by log-probability, and GSM8K.

    Attributes:
      sources: sets of questions.
      server: OpenAI-compatible server of the model to ask, in place of base or run; null for none.
      templates: forms in which every set is asked. Base models complete (completion, qa), tuned ones answer
        (instruction, chat; auto puts the question alone into the chat template if there is one, else into the
        LoRAMoE form, as data.form=auto does in training). Fine-tuning moves the two apart: report both.
        lm_eval formats each data set as lm-evaluation-harness does.
      reasoning: let the model reason first (chain of thought); its final answer is what follows the last
        "####" or "answer is". Choices are listed and answered by letter.
      reasoning_tokens: most tokens of reasoning and answer together; GSM8K always gets this many.
      system: system prompt of the forms that are chats; null leaves what the chat template itself adds.
      max_new_tokens: most tokens of a response.
      score_answers: also score the tokens of the right answer (answer_nats); not in a chat behind a server.
    """

    sources: tuple[QuestionSource, ...] = (QuestionSource(embedded="test"),)
    server: ServerConfig | None = None
    templates: tuple[QuestionForm, ...] = ("completion", "qa")
    reasoning: bool = False
    reasoning_tokens: int = 256
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
        if self.server is not None and "instruction" in self.templates:
            raise ValueError(
                "the template instruction needs a local model; with knowledge.server take "
                f"{', '.join(name for name, form in FORMS.items() if form != 'instruction')}"
            )
        if self.max_new_tokens < 1 or self.reasoning_tokens < 1:
            raise ValueError(
                "knowledge.max_new_tokens and knowledge.reasoning_tokens must be at least 1; got "
                f"{self.max_new_tokens} and {self.reasoning_tokens}"
            )


def knowledge(config: KnowledgeConfig, seed: int, confidence: float) -> SuiteRun:
    """Reads all questions, so that mistakes show before a model is loaded.

    Args:
      seed: of solved examples, and of the wrong choices where they are drawn.
      confidence: of intervals, such as 0.95.
    Returns: a function that asks a model and gives its scores, a set for each source, template and kind of
      question.
    Raises: ValueError, naming source and template, for a question that the template cannot pose.
    """
    read = [_read(source, seed, f"knowledge.sources.{n}") for n, source in enumerate(config.sources)]
    for one in read:
        for name in config.templates:
            _check_asked(one, name, config.reasoning)
            if config.server is not None:
                _check_served(one, name, config.reasoning)

    def run(loaded: Subject) -> list[ItemSet]:
        models: dict[QuestionForm, FormedTextModel] = {
            name: loaded.text_model(FORMS[name]) for name in config.templates
        }
        if config.system is not None and all(model.form != "chat" for model in models.values()):
            raise ValueError("knowledge.system needs a chat template, and the tokenizer has none")
        if loaded.journal is not None:
            loaded.journal.begin(loaded.identity(), read)
        chats = {name for name, model in models.items() if model.form == "chat"}
        silent = set[QuestionForm]() if config.server is None else chats
        if silent and config.score_answers:
            say("answer_nats is left out where a server is asked in a chat: it scores no given answer there")
        sets: list[ItemSet] = []
        with ProgressDisplay(loaded.progress) as display:
            for one in read:
                for name, model in models.items():
                    asking = Asking(
                        model,
                        one.shots,
                        config.system,
                        config.max_new_tokens,
                        config.reasoning_tokens,
                        one.source.normalization,
                        config.score_answers and name not in silent,
                        confidence,
                        loaded.journal,
                    )
                    label = f"{one.source.label}, {name}" + (f" ({model.form})" if name == "auto" else "")
                    label += ", reasoning" if config.reasoning else ""
                    for kind, questions in one.kinds:
                        title = f"{label}, {kind}" if len(one.kinds) > 1 and kind == "choice" else label
                        how = _template(name, one.suite, config.reasoning, kind == "choice")
                        found = asking.ask(title, questions, how, config.reasoning, display.task(title))
                        sets.append(found.with_more(rows_without_answer=one.found.skipped))
        return sets

    return run


class _Source(NamedTuple):
    """The questions of a source, and its solved examples."""

    source: QuestionSource
    found: QuestionSet
    shots: Shots

    @property
    def suite(self) -> Suite:
        """The data set, if it has a form of its own; a file holds one."""
        return self.found.all[0].suite

    @property
    def kinds(self) -> list[tuple[str, Sequence[KnowledgeQuestion]]]:
        """The questions, by kind."""
        both: list[tuple[str, Sequence[KnowledgeQuestion]]] = [
            ("words", self.found.questions),
            ("choice", self.found.choice_questions),
        ]
        return [(kind, questions) for kind, questions in both if questions]


def _template(name: QuestionForm, suite: Suite, reasoning: bool, choices: bool) -> PromptTemplate:
    return reasoning_template(name, suite, choices=choices) if reasoning else template(name, suite)


def _check_asked(one: _Source, name: QuestionForm, reasoning: bool) -> None:
    """Reports whatever the template cannot pose before a model is loaded."""
    suites = {question.suite for question in one.found.all}
    if len(suites) > 1:
        raise ValueError(f"{one.source.label} holds rows of several data sets; give each a source of its own")
    for kind, questions in one.kinds:
        try:
            how = _template(name, one.suite, reasoning, kind == "choice")
            for asked in [*(shot for shots in one.shots.values() for shot in shots), questions[0]]:
                how.prompt(asked)
        except ValueError as error:
            raise ValueError(f"{one.source.label}, template {name}: {error}") from error


def _check_served(one: _Source, name: QuestionForm, reasoning: bool) -> None:
    """Choices in a chat need a local model: no server tells how probable a given answer is there."""
    if one.found.choice_questions and not reasoning and FORMS[name] in ("chat", "auto"):
        raise ValueError(
            f"{one.source.label}, template {name}: servers score choices in completions alone; take qa, "
            "completion or lm_eval, or knowledge.reasoning=true, where the model writes the letter"
        )


def _read(source: QuestionSource, seed: int, key: str) -> _Source:
    if source.path is not None:
        with given(f"{key}.path", source.path):
            found = load_questions(source.path, split=source.split, limit=source.limit)
    elif source.choices:
        drawn = choice_questions(
            source.embedded or "test", source.relations, source.limit, choices=source.choices, seed=seed
        )
        found = QuestionSet(choice_questions=drawn)
    else:
        found = QuestionSet(closed_book_questions(source.embedded or "test", source.relations, source.limit))
    if not source.shots:
        return _Source(source, found, {})
    if source.shots_from is None:
        pool = closed_book_questions("train")
    else:
        with given(f"{key}.shots_from", source.shots_from):
            pool = load_questions(source.shots_from).all

    def drawn_from(pool: Sequence[KnowledgeQuestion]) -> list[KnowledgeQuestion]:
        return draw_shots(pool, source.shots, against=found.all, seed=seed, order=source.shots_order)

    if found.all[0].suite != "mmlu":
        return _Source(source, found, {"": drawn_from(pool)})
    shots: Shots = {}
    for subject in dict.fromkeys(question.category for question in found.all):
        try:
            shots[subject] = drawn_from([question for question in pool if question.category == subject])
        except ValueError as error:
            raise ValueError(f"{source.shots_from}, subject {subject}: {error}") from error
    return _Source(source, found, shots)
