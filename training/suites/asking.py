"""One set of questions put to a model under one template, in blocks, so that a killed evaluation can
resume."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby, islice
from typing import NamedTuple, TypeVar, cast

from evals.knowledge.answers import Normalization
from evals.knowledge.closed_book import AnswerRecord, answer_records, answer_result
from evals.knowledge.multiple_choice import ChoiceRecord, choice_records, choice_result
from evals.knowledge.prompts import KnowledgeQuestion, PromptTemplate
from evals.knowledge.questions import ChoiceQuestion, ClosedBookQuestion
from evals.knowledge.reasoned import ReasonedRecord, reasoned_records, reasoned_result
from evals.knowledge.results import KnowledgeResult
from evals.models.text_model import FormedTextModel, Progress
from jaxmoe.json_values import JsonObject
from training.runtime.journal import ItemJournal
from training.suites.evaluation import ItemSet, ScoredItem

# questions in a block: enough to batch by length, few enough to lose little in a kill
BLOCK = 64
# solved examples by category of the question; under "" those of all other categories
Shots = dict[str, list[KnowledgeQuestion]]
Record = TypeVar("Record", AnswerRecord, ChoiceRecord, ReasonedRecord)


class Put(NamedTuple):
    """How a block is posed: the model, with examples as turns in a chat, and the examples in the prompt
    itself."""

    model: FormedTextModel
    shots: list[KnowledgeQuestion]


@dataclass(frozen=True)
class Asking:
    """What all questions of a source have in common under one template.

    Attributes:
      model: in the form of the template.
      shots: solved examples.
      system: system prompt of a chat; None for none.
      max_new_tokens: of an answer; reasoning_tokens: of reasoning and answer, and for GSM8K.
      normalization: of closed-book answers.
      score_answers: also score the right answer's tokens.
      confidence: of intervals.
      journal: of earlier answers; None for none.
    """

    model: FormedTextModel
    shots: Shots
    system: str | None
    max_new_tokens: int
    reasoning_tokens: int
    normalization: Normalization
    score_answers: bool
    confidence: float
    journal: ItemJournal | None = None

    def ask(
        self,
        label: str,
        questions: Sequence[KnowledgeQuestion],
        template: PromptTemplate,
        reasoning: bool,
        progress: Progress,
    ) -> ItemSet:
        """Asks what is not answered yet, and scores everything.

        Args:
          label: name of the set.
          questions: all of one kind.
          template: how they are posed.
          reasoning: whether the model reasons before it answers; for GSM8K it always may.
          progress: called with (done, total) as answers come.
        Returns: scores, and each question with its answer.
        """

        def reasoned(
            put: Put, block: list[KnowledgeQuestion], _: list[ReasonedRecord]
        ) -> list[ReasonedRecord]:
            return reasoned_records(
                put.model,
                block,
                template,
                shots=put.shots,
                max_new_tokens=self.reasoning_tokens,
                normalization=self.normalization,
            )

        def answers(put: Put, block: list[KnowledgeQuestion], _: list[AnswerRecord]) -> list[AnswerRecord]:
            return answer_records(
                put.model,
                cast("list[ClosedBookQuestion]", block),
                template,
                shots=put.shots,
                max_new_tokens=self.max_new_tokens,
                normalization=self.normalization,
                score_answers=self.score_answers,
            )

        def choices(
            put: Put, block: list[KnowledgeQuestion], earlier: list[ChoiceRecord]
        ) -> list[ChoiceRecord]:
            asked = cast("list[ChoiceQuestion]", block)
            return choice_records(put.model, asked, template, shots=put.shots, earlier=earlier)

        if reasoning or questions[0].suite == "gsm8k":
            records = self._records(ReasonedRecord, reasoned, label, questions, template, progress)
            return self._set(label, reasoned_result(records, self.confidence))
        if isinstance(questions[0], ChoiceQuestion):
            records = self._records(ChoiceRecord, choices, label, questions, template, progress)
            return self._set(label, choice_result(records, self.confidence))
        records = self._records(AnswerRecord, answers, label, questions, template, progress)
        return self._set(label, answer_result(records, self.confidence))

    def _records(
        self,
        kind: type[Record],
        ask: Callable[[Put, list[KnowledgeQuestion], list[Record]], list[Record]],
        label: str,
        questions: Sequence[KnowledgeQuestion],
        template: PromptTemplate,
        progress: Progress,
    ) -> list[Record]:
        records: list[Record] = []
        for category, block in _blocks(questions, self.shots):
            rows = None if self.journal is None else self.journal.known(label, len(records), len(block))
            if rows is None:
                new = ask(self.put(category, template), block, records)
                if self.journal is not None:
                    self.journal.add(_item(record).line(label) for record in new)
            else:
                new = [_restored(kind, row) for row in rows]
            records += new
            progress(len(records), len(questions))
        return records

    def put(self, category: str, template: PromptTemplate) -> Put:
        """The model for questions of a category; in a chat, system prompt and examples are turns before each.

        Args:
          category: whose examples are taken; "" if all share theirs.
          template: how examples are posed.
        Returns: the model, and the examples in the prompt itself.
        """
        shots = self.shots.get(category, [])
        if self.model.form != "chat":
            return Put(self.model, shots)
        return Put(self.model.with_turns(template.turns(shots, self.system)), [])

    def _set(self, label: str, result: KnowledgeResult[Record]) -> ItemSet:
        items = [_item(record) for record in result.records]
        more: dict[str, object] = {"shots": [shot.id for shots in self.shots.values() for shot in shots]}
        if self.system is not None and self.model.form == "chat":
            more["system"] = self.system
        return ItemSet(label, result.scores, result.by_category, items, more)


def _blocks(
    questions: Sequence[KnowledgeQuestion], shots: Shots
) -> Iterator[tuple[str, list[KnowledgeQuestion]]]:
    """The questions in their order, at most BLOCK with the same examples at a time, and whose those are."""
    for category, same in groupby(questions, lambda one: one.category if one.category in shots else ""):
        while block := list(islice(same, BLOCK)):
            yield category, block


def _item(record: AnswerRecord | ChoiceRecord | ReasonedRecord) -> ScoredItem:
    return ScoredItem(record.id, record.cluster, dict(record.scores), asdict(record))


def _restored(kind: type[Record], row: JsonObject) -> Record:
    """A record from its line in the journal, whose lists were tuples."""
    values = {field.name: row[field.name] for field in fields(kind)}
    made = cast("Callable[..., Record]", kind)
    return made(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
