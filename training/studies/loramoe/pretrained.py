"""How models from a base pretrained elsewhere are examined: in its chat form, on what the base knew.

A fact is known if the base completes its statement by greedy decoding; the tuned models are asked only those
facts, and `completed` is the share of them that is kept. Divergence from the base is measured on held-out
tasks in chat form (`KL` of the config): at the tokens of the right answers, of the prompts, and of answers
that the base itself sampled; on request, also at those of statements as plain text. Facts are asked as plain
text, so this separates out a change that affects the chat form alone. An answer in the base's own words is
never exact, so `tasks_said` counts the greedy answers that contain the right one.

After the last snapshot, larger sets are asked as well, limited to what the base got right: multiple choice by
log-probability, the statements with five others of the same relation before them, and files that the user
names.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evals.knowledge import greedy
from evals.knowledge.answers import contains_answer
from evals.knowledge.embedded_questions import choice_questions, closed_book_questions, task_questions
from evals.knowledge.prompts import template
from evals.knowledge.questions import ChoiceQuestion, ClosedBookQuestion, load_questions
from evals.models.divergence import Reference, TextDivergence
from evals.models.local_model import LocalModel, ScoredIds
from jaxmoe.datasets import world_knowledge
from jaxmoe.json_values import JsonObject
from jaxmoe.language_model import LanguageModel
from jaxmoe.model.mesh import even_rows
from jaxmoe.tokenizer import pad_id
from training.runtime import config as configs
from training.studies.cells import Result
from training.studies.loramoe.config import ExamSizes, PretrainedConfig
from training.studies.loramoe.exams import SPLITS, by_family, exam_settings
from training.studies.loramoe.instruction_file import TaskFile

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TASKS = (64, 80, 96, 128, 192, 256)
SHOTS = 5


def pretrained_settings(
    sizes: ExamSizes, pretrained: PretrainedConfig, instructions: str | None = None
) -> JsonObject:
    """The examination settings that a cell's result depends on; files by their name and content.

    Args:
      sizes: how much each examination asks.
      pretrained: the part of the config about such bases.
      instructions: file used for training and tests in place of the embedded tasks.
    Returns: plain JSON.
    Raises: ValueError, with the key, if a file cannot be read.
    """
    own = configs.to_dict(pretrained) | {
        "files": [_content(path, "pretrained.files") for path in pretrained.files]
    }
    own.pop("rows")  # changes no result
    if not pretrained.plain_facts:
        del own["plain_facts"]  # as in settings from before this key existed
    learned = {} if instructions is None else {"instructions": _content(instructions, "instructions")}
    return exam_settings(sizes) | {"pretrained": own} | learned


def _content(path: str, key: str) -> str:
    try:
        found = Path(path).read_bytes()
    except OSError as error:
        where = "" if Path(path).is_absolute() else f" in {Path.cwd()}"
        raise ValueError(
            f"{key}: {path}{where} cannot be read ({error.strerror}); put it there or give another: {key}=..."
        ) from None
    return f"{Path(path).name} {hashlib.sha256(found).hexdigest()[:12]}"


class PretrainedExams:
    """See the module, and `training.studies.loramoe.exams.Exams`.

    Args:
      sizes: how much each examination asks.
      pretrained: the part of the config about such bases.
      tokenizer: the base's tokenizer.
      base: the base itself, from which divergence is measured.
      found: what `of_base` returned; None before it is called.
      instructions: tasks to ask in place of the embedded ones.
    """

    def __init__(
        self,
        sizes: ExamSizes,
        pretrained: PretrainedConfig,
        tokenizer: "PreTrainedTokenizerBase",
        base: LanguageModel,
        found: Result | None,
        instructions: TaskFile | None = None,
    ):
        self._sizes, self._pretrained = sizes, pretrained
        self._tokenizer, self._base, self._found = tokenizer, base, found
        self._instructions = instructions
        self._prepared: dict[str, greedy.Exam] = {}

    # examining the base

    def of_base(self, lm: LanguageModel) -> Result:
        """See `Exams`; adds the numbers of the questions that the base gets right, and the answers that it
        samples for the tasks on which divergence is measured."""
        files = self._files  # read first, so that an unreadable file does not end minutes of work
        facts = greedy.take(lm, self._exam("facts", self._facts, "text", greedy.STATEMENTS)).right
        if not facts.any():
            raise ValueError(
                f"the base completes none of the {len(facts)} facts that it was asked, so nothing can be "
                "forgotten; take a base that knows some, or ask more (facts in the config)"
            )
        known = {
            "facts": _numbers(facts),
            "choices": _numbers(self._chosen(lm, self._choices)),
            "few_shot": _numbers(self._few_shot(lm, self._stated)),
            "files": {name: _numbers(self._few_shot(lm, questions)) for name, questions in files.items()},
        }
        asked = {"facts": len(self._facts), "choices": len(self._choices), "few_shot": len(self._stated)}
        asked |= {"files": {name: len(questions) for name, questions in self._files.items()}}
        prompts = [self._wording.prompt(task) for task in self._divergence_tasks]
        answers = self._chat(lm).generate(prompts, self._pretrained.own_tokens, temperature=1.0)
        self._found = {"known": known, "answers": answers}
        test = {"completed": 1.0} | self._tasks(lm) | {"tasks_said": self._said(lm)}
        return {"test": test, "asked": asked, **self._found}

    # examining tuned models

    def of_snapshot(self, lm: LanguageModel, *, last: bool) -> Result:
        """See `Exams`; `kept` has a 1 for each known fact that is still completed, in the base's order.

        `kl` is in nats per token: on right answers, on prompts, and on the base's own answers.

        Args:
          lm: the model.
          last: whether the larger sets are asked too.
        Returns: as plain JSON.
        """
        known = self._of_base["known"]
        facts = [self._facts[number] for number in known["facts"]]
        kept = greedy.take(lm, self._exam("known facts", facts, "text", greedy.STATEMENTS)).right
        found: Result = {"completed": float(kept.mean()), "kept": "".join(str(int(mark)) for mark in kept)}
        found |= self._tasks(lm) | {"kl": self._divergence(lm)}
        return found | (self._larger_sets(lm, known) if last else {})

    def _larger_sets(self, lm: LanguageModel, known: Result) -> Result:
        sets = {
            "choices": self._chosen(lm, [self._choices[n] for n in known["choices"]]),
            "few_shot": self._few_shot(lm, [self._stated[n] for n in known["few_shot"]]),
        }
        files = {
            name: self._few_shot(lm, [self._files[name][n] for n in numbers])
            for name, numbers in known["files"].items()
        }
        found: Result = {name: _mean(marks) for name, marks in sets.items()}
        found["files"] = {name: _mean(marks) for name, marks in files.items()}
        return found | {"tasks_said": self._said(lm)}

    def dev_accuracy(self, lm: LanguageModel) -> float:
        """See `Exams`."""
        return float(self._task_marks(lm, "dev").ended.mean())

    @property
    def _of_base(self) -> Result:
        if self._found is None:
            raise ValueError("what the base knows must be found (of_base) before tuned models are asked")
        return self._found

    # questions

    @cached_property
    def _facts(self) -> list[ClosedBookQuestion]:
        return closed_book_questions("test", None, exam_settings(self._sizes)["facts"])

    @cached_property
    def _choices(self) -> list[ChoiceQuestion]:
        return choice_questions("test", None, self._sizes.scaled(self._pretrained.choices))

    @cached_property
    def _stated(self) -> list[ClosedBookQuestion]:
        """Facts, each preceded by the statements of `SHOTS` train facts of the same relation."""
        facts = closed_book_questions("test", None, self._sizes.scaled(self._pretrained.few_shot))
        return [replace(fact, stem="\n".join([*_others(fact.category), fact.stem or ""])) for fact in facts]

    @cached_property
    def _files(self) -> dict[str, list[ClosedBookQuestion]]:
        """By file name, the file's questions, each preceded by its first questions with answers."""
        wording = template("qa")
        found = {}
        for path in self._pretrained.files:
            limit = self._sizes.scaled(self._pretrained.file_questions) + SHOTS
            questions = load_questions(path, limit=limit).questions
            shots, asked = questions[:SHOTS], questions[SHOTS:]
            found[Path(path).name] = [replace(q, stem=wording.prompt(q, shots)) for q in asked]
        return found

    @cached_property
    def _divergence_tasks(self) -> list[ClosedBookQuestion]:
        if self._instructions is not None:
            return self._instructions.divergence
        return task_questions(self._sizes.scaled(self._pretrained.divergence_tasks), "test")

    # marks

    @property
    def _wording(self):
        return template("instruction")

    def _exam(self, what: str, questions: Sequence[ClosedBookQuestion], form, lengths) -> greedy.Exam:
        if what not in self._prepared:
            rows = self._rows
            self._prepared[what] = greedy.prepare(self._base, self._tokenizer, questions, form, lengths, rows)
        return self._prepared[what]

    @property
    def _rows(self) -> int:
        return even_rows(self._base.mesh, self._pretrained.rows)

    def _chat(self, lm: LanguageModel) -> LocalModel:
        return LocalModel(lm, self._tokenizer, "chat", self._rows)

    def _task_marks(self, lm: LanguageModel, split: str) -> greedy.Marks:
        questions = self._task_questions[split]
        return greedy.take(lm, self._exam(f"{split} tasks", questions, "chat", TASKS))

    @cached_property
    def _task_questions(self) -> dict[str, list[ClosedBookQuestion]]:
        if self._instructions is not None:
            return self._instructions.asked
        counts = exam_settings(self._sizes)
        return {split: task_questions(counts[f"{name}tasks"], split) for split, name in SPLITS.items()}

    def _tasks(self, lm: LanguageModel) -> Result:
        marks = self._task_marks(lm, "test")
        return {
            "tasks": float(marks.ended.mean()),
            "tasks_begun": float(marks.right.mean()),
            "families": by_family(self._task_questions["test"], marks.ended),
        }

    def _said(self, lm: LanguageModel) -> float:
        """Share of the test tasks where the beginning of the greedy answer contains the right one."""
        tasks = self._task_questions["test"]
        prompts = [self._wording.prompt(task) for task in tasks]
        given = self._chat(lm).generate(prompts, self._pretrained.said_tokens)
        right = [contains_answer(text, task.answers) for text, task in zip(given, tasks, strict=True)]
        return sum(right) / len(right)

    def _few_shot(self, lm: LanguageModel, questions: Sequence[ClosedBookQuestion]) -> np.ndarray:
        if not questions:
            return np.zeros(0)
        exam = greedy.prepare(lm, self._tokenizer, questions, "text", (64, 96, 128), self._rows)
        return greedy.take(lm, exam).right

    def _chosen(self, lm: LanguageModel, questions: Sequence[ChoiceQuestion]) -> np.ndarray:
        """1 where the right choice has the highest mean log-probability per token after the stem."""
        pairs = [(q.stem or "", f" {choice}") for q in questions for choice in q.choices]
        if not pairs:
            return np.zeros(0)
        scores = LocalModel(lm, self._tokenizer, "text", self._rows * 2).logprob(*zip(*pairs, strict=True))
        means = np.asarray(scores.logprobs) / np.asarray(scores.tokens)
        right, at = [], 0
        for question in questions:
            own = means[at : at + len(question.choices)]
            right.append(float(int(own.argmax()) == question.answer))
            at += len(question.choices)
        return np.asarray(right)

    # divergence

    @cached_property
    def _references(self) -> dict[str, Reference]:
        """Held-out tasks with their right answers, and with those that the base sampled."""
        tasks = self._divergence_tasks
        answers = {"answers": [task.answers[0] for task in tasks], "own": self._of_base["answers"]}
        found = {name: self._reference(tasks, given) for name, given in answers.items()}
        return found | ({"plain": self._plain()} if self._pretrained.plain_facts else {})

    def _plain(self) -> Reference:
        """Statements up to their answers, evenly spread over all facts, known or not."""
        count = min(self._sizes.scaled(self._pretrained.plain_facts), len(self._facts))
        facts = [self._facts[n * len(self._facts) // count] for n in range(count)]
        pairs = [(fact.stem or "", f" {fact.answers[0]}") for fact in facts]
        plain = LocalModel(self._base, self._tokenizer, "text", self._rows)
        texts = plain.scored_ids(*zip(*pairs, strict=True))
        return Reference(self._base, texts, pad_id(self._tokenizer), self._rows)

    def _reference(self, tasks: Sequence[ClosedBookQuestion], answers: Sequence[str]) -> Reference:
        given = [
            (self._wording.prompt(t), answer) for t, answer in zip(tasks, answers, strict=True) if answer
        ]
        texts = self._chat(self._base).scored_ids(*zip(*given, strict=True))
        return Reference(
            self._base, [self._ended(text) for text in texts], pad_id(self._tokenizer), self._rows
        )

    def _ended(self, text: ScoredIds) -> ScoredIds:
        """Appends the end token to an answer, unless it was cut off before it ended."""
        if len(text.ids) - text.start >= self._pretrained.own_tokens:
            return text
        end = self._tokenizer.eos_token_id
        return ScoredIds([*text.ids, int(str(end))], text.start)

    def _divergence(self, lm: LanguageModel) -> Result:
        found = {name: reference.divergence(lm) for name, reference in self._references.items()}
        answers: TextDivergence = found["answers"]
        told = {
            "answers": answers.continuations._asdict(),
            "prompts": answers.prompts._asdict(),
            "own": found["own"].continuations._asdict(),
        }
        if "plain" in found:
            told["plain"] = found["plain"].prompts._asdict()
        return told


def _others(relation: str) -> list[str]:
    """Statements of a relation's train facts, the same for every fact."""
    facts = world_knowledge.select_facts("train", [relation])
    drawn = random.Random(relation).sample(facts, min(SHOTS, len(facts)))
    return [world_knowledge.statements(fact)[0] for fact in drawn]


def _numbers(marks: np.ndarray) -> list[int]:
    return np.flatnonzero(marks > 0).tolist()


def _mean(marks: np.ndarray) -> float | None:
    """Mean of the marks; None if nothing was asked."""
    return float(marks.mean()) if len(marks) else None
