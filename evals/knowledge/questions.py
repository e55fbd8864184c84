"""Questions with known answers, read from data sets as they are published.

The format is recognized by a row's fields:

    TriviaQA           Question, Answer {Value, Aliases, ...}  (unfiltered, rc and web: {"Data": [...]})
    Natural Questions  question_text, annotations, document_tokens or document_text (its open form is plain)
    HotpotQA           _id, question, answer, type, level
    WebQuestions       utterance, targetValue "(list (description ...) ...)"; or qId, qText, answers
    instruction rows   instruction, input, output
    plain              question, and answers or answer: text, a list, or {value, aliases}; also id, stem (the
                       question as the start of a statement), cluster (what it shares with others), category
    multiple choice    question, choices and answer (index, letter or text); or {stem, choices} and answerKey
                       (ARC)
    MMLU, HellaSwag, GSM8K: as evals.knowledge.published_rows reads them

A plain row may also have a solution, the reasoning that leads to the answer, for solved examples. Any
passages in a row are left out: the book is closed.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evals.knowledge.published_rows import Suite, as_plain, suite_of
from evals.knowledge.question_files import QuestionRow, rows


@dataclass(frozen=True)
class ClosedBookQuestion:
    """A question and every answer that counts as right; the first is the canonical one.

    Attributes:
      stem: the question as the start of a statement that the answer completes, for base models; may be
        absent.
      cluster: name of what it shares with other questions (a fact, a passage); its own id if it shares
        nothing with any.
      category: a group to report by; may be empty.
      solution: the reasoning that leads to the answer, where the file has it.
      suite: the data set, where it has a form of its own.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    stem: str | None = None
    cluster: str | None = None
    category: str = ""
    solution: str | None = None
    suite: Suite = ""


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question with C choices; `answer` is the index of the right one. Otherwise as
    `ClosedBookQuestion`."""

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int
    stem: str | None = None
    cluster: str | None = None
    category: str = ""
    solution: str | None = None
    suite: Suite = ""


@dataclass(frozen=True)
class QuestionSet:
    """The questions of a file; `skipped` rows had no usable answer."""

    questions: list[ClosedBookQuestion] = field(default_factory=list)
    choice_questions: list[ChoiceQuestion] = field(default_factory=list)
    skipped: int = 0

    @property
    def all(self) -> list[ClosedBookQuestion | ChoiceQuestion]:
        """Questions of both kinds."""
        return [*self.questions, *self.choice_questions]


def load_questions(
    path: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    max_answer_tokens: int = 5,
) -> QuestionSet:
    """Reads questions from a file (JSON, JSON lines, gzipped or not) or a folder prepared by TFDS.

    Args:
      path: of the file or folder.
      split: of a TFDS folder.
      limit: stop after this many questions, counted in the file's order.
      max_answer_tokens: for the original Natural Questions: longer short answers are dropped, and questions
        left without any are skipped, as in its open form (Lee et al. 2019, arXiv:1906.00300).
    Returns: the questions, and how many rows had no usable answer.
    Raises: ValueError for a row of no known format, or without a single question; the message names the row.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1; got {limit} (leave it out for all questions)")
    found = QuestionSet()
    skipped = 0
    for index, (where, row) in enumerate(rows(path, split)):
        question = _read(row, where, index, max_answer_tokens)
        if isinstance(question, ChoiceQuestion):
            found.choice_questions.append(question)
        elif question:
            found.questions.append(question)
        else:
            skipped += 1
        if limit is not None and len(found.questions) + len(found.choice_questions) == limit:
            break
    if not found.questions and not found.choice_questions:
        raise ValueError(f"{path} holds no question with an answer ({skipped} rows were without)")
    return QuestionSet(found.questions, found.choice_questions, skipped)


def _read(
    row: QuestionRow, where: str, index: int, max_answer_tokens: int
) -> ClosedBookQuestion | ChoiceQuestion | None:
    """The row as a question; None if it is of a known format but no answer is left."""
    try:
        suite = suite_of(row)
        plain = _plain(row, suite, where)
        if _is_choice(plain):
            return _choice_question(plain, where, index, suite)
        return _question(plain, where, index, max_answer_tokens, suite)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise ValueError(
            f"{where}: a field of the question is missing or of the wrong type ({said})"
        ) from None


def _plain(row: QuestionRow, suite: Suite, where: str) -> QuestionRow:
    try:
        return as_plain(row, suite)
    except ValueError as error:
        raise ValueError(f"{where}: a field of {suite} has a wrong value ({str(error)[:120]})") from None


def _question(
    row: QuestionRow, where: str, index: int, max_answer_tokens: int, suite: Suite
) -> ClosedBookQuestion | None:
    fields = row.keys()
    if {"Question", "Answer"} <= fields:
        return _made(row["Question"], _trivia_answers(row["Answer"]), row.get("QuestionId", index), where)
    if {"question_text", "annotations"} <= fields:
        answers = _natural_answers(row, where, max_answer_tokens)
        return _made(row["question_text"], answers, row.get("example_id", index), where)
    if {"utterance", "targetValue"} <= fields:
        return _made(row["utterance"], _web_answers(row["targetValue"]), index, where)
    if {"qText", "answers"} <= fields:
        return _made(row["qText"], _plain_answers(row["answers"], where), row.get("qId", index), where)
    if {"instruction", "output"} <= fields:
        asked = "\n".join(part for part in (row["instruction"], row.get("input", "")) if part)
        kind = str(row.get("task_type", ""))
        return _made(asked, [row["output"]], row.get("id", index), where, category=kind)
    if "question" in fields and fields & {"answers", "answer"}:
        given = row["answers"] if "answers" in fields else row["answer"]
        answers = _plain_answers(given, where) + _listed(row.get("aliases"))
        number = row.get("id", row.get("_id", row.get("question_id", index)))
        # HotpotQA's type is bridge or comparison
        category = row.get("category", row.get("type", "") if "_id" in fields else "")
        made = _made(
            row["question"],
            answers,
            number,
            where,
            _optional(row, "stem", where),
            row.get("cluster"),
            str(category),
        )
        if made is None:
            return None
        # a suite's question is asked with exactly the blanks that it has in its file
        asked = row["question"] if suite else made.question
        return replace(made, question=asked, solution=_optional(row, "solution", where), suite=suite)
    raise ValueError(
        f"{where}: no known question format; it needs question with answers (or those of TriviaQA, Natural "
        f"Questions, HotpotQA or WebQuestions) and has the fields {str(sorted(fields))[:300]}"
    )


def _text(value: object, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: {name} must be text; got {value!r:.60}")
    return value


def _optional(row: QuestionRow, name: str, where: str) -> str | None:
    return None if row.get(name) is None else _text(row[name], name, where)


def _answer(value: object, where: str) -> str:
    """An answer as text; numbers are written out."""
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"{where}: an answer must be text or a number; got {value!r:.60}")
    return "" if value is None else " ".join(str(value).split())


def _made(
    question: object,
    answers: Iterable[object],
    number: object,
    where: str,
    stem: str | None = None,
    cluster: object = None,
    category: str = "",
) -> ClosedBookQuestion | None:
    """A question with its answers in order, each once and none blank; None if none is left."""
    kept = tuple(dict.fromkeys(filter(None, (_answer(a, where) for a in answers))))
    asked = _text(question, "question", where).strip()
    if not kept:
        return None
    name = None if cluster is None else str(cluster)
    return ClosedBookQuestion(str(number), asked, kept, stem, name, category)


def _listed(value: object) -> list[Any]:  # what a row holds; texts are checked by the caller
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _plain_answers(given: object, where: str) -> list[str]:
    if isinstance(given, dict):  # TriviaQA as TFDS and the hub have it
        if "value" not in given:
            raise ValueError(f"{where}: an answer object needs a value; got the fields {sorted(given)}")
        return [given["value"], *_listed(given.get("aliases")), *_listed(given.get("normalized_aliases"))]
    return _listed(given)


def _trivia_answers(answer: QuestionRow) -> list[str]:
    """Canonical value, aliases, and those as TriviaQA normalized them; human answers where there are any."""
    value = _listed(answer.get("Value"))
    keys = ("Aliases", "HumanAnswers", "NormalizedAliases")
    return value + [text for key in keys for text in _listed(answer.get(key))]


def _natural_answers(row: QuestionRow, where: str, max_tokens: int) -> list[str]:
    """Every annotator's short spans of at most `max_tokens`, without HTML tokens; blanks mark the tokens."""
    if "document_tokens" in row:
        tokens = ["" if t["html_token"] else t["token"] for t in row["document_tokens"]]
    elif "document_text" in row:
        # exactly one blank: other blanks may be part of a token
        tokens = row["document_text"].split(" ")
    else:
        raise ValueError(f"{where}: Natural Questions rows need document_tokens or document_text")
    spans = [
        (span["start_token"], span["end_token"])
        for annotation in row["annotations"]
        for span in annotation["short_answers"]
    ]
    if any(not 0 <= start < end <= len(tokens) for start, end in spans):
        raise ValueError(f"{where}: a short answer lies outside the document's {len(tokens)} tokens")
    return [" ".join(filter(None, tokens[s:e])) for s, e in spans if e - s <= max_tokens]


# a description is a bare word or quoted, with \" for a quote
_DESCRIPTION = re.compile(r'\(description\s+(?:"((?:[^"\\]|\\.)*)"|([^()\s"]+))\s*\)')


def _web_answers(target: str) -> list[str]:
    """The descriptions of WebQuestions' `(list (description "Jazmyn Bieber") (description Jaxon))`."""
    pairs = _DESCRIPTION.findall(target)
    return [re.sub(r"\\(.)", r"\1", quoted) if quoted else bare for quoted, bare in pairs]


def _is_choice(row: QuestionRow) -> bool:
    return "choices" in row or (isinstance(row.get("question"), dict) and "choices" in row["question"])


def _choice_question(row: QuestionRow, where: str, index: int, suite: Suite) -> ChoiceQuestion | None:
    nested = row["question"] if isinstance(row["question"], dict) else {}
    question = _text(nested.get("stem", row["question"]), "question", where)
    listed: Any = nested.get("choices", row.get("choices"))  # each file's own form, told apart below
    if isinstance(listed, dict):  # as TFDS and the hub have ARC
        listed = [{"text": t, "label": x} for t, x in zip(listed["text"], listed["label"], strict=True)]
    labels: Sequence[object] = [c["label"] if isinstance(c, dict) else None for c in listed]
    choices = tuple(str(c["text"] if isinstance(c, dict) else c) for c in listed)
    published = suite != "" or "answerKey" in row
    if not published:  # these are asked with exactly the blanks that they have in the file
        question, choices = question.strip(), tuple(choice.strip() for choice in choices)
    if len(choices) < 2:
        raise ValueError(f"{where}: a multiple-choice question needs at least 2 choices; got {len(choices)}")
    given = row.get("answerKey", row.get("answer"))
    if published and given in (None, ""):  # withheld in some test parts
        return None
    return ChoiceQuestion(
        str(row.get("id", index)),
        question,
        choices,
        _right_choice(given, choices, labels, where),
        _optional(row, "stem", where),
        None if row.get("cluster") is None else str(row["cluster"]),
        str(row.get("category", row.get("subject", ""))),
        _optional(row, "solution", where),
        suite,
    )


def _right_choice(given: object, choices: Sequence[str], labels: Sequence[object], where: str) -> int:
    """Index of the right choice, given by label, index, text or letter, tried in that order."""
    if given is not None and given in labels:
        return labels.index(given)
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < len(choices):
        return given
    if isinstance(given, str) and given.strip() in choices:
        return choices.index(given.strip())
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(choices)]
    if isinstance(given, str) and len(given.strip()) == 1 and given.strip().upper() in letters:
        return letters.index(given.strip().upper())
    raise ValueError(
        f"{where}: answer must be an index from 0 to {len(choices) - 1}, a letter or one of the choices; "
        f"got {given!r:.60}"
    )
