"""The embedded facts as questions, in completion form and question form, for closed-book and multiple-choice
tests.

Unless the split is train, its facts were only ever stated in pretraining; see
jaxmoe.datasets.world_knowledge.
"""

from collections.abc import Sequence

from evals.knowledge.questions import ChoiceQuestion, ClosedBookQuestion
from jaxmoe.datasets import world_knowledge
from jaxmoe.datasets.corpora import task_test_rows
from jaxmoe.datasets.world_knowledge import Fact


def closed_book_questions(
    split: str = "test", relations: Sequence[str] | None = None, limit: int | None = None
) -> list[ClosedBookQuestion]:
    """One question per fact, with the beginning of its statement as stem; the category is the relation.

    Args:
      split: train, dev or test.
      relations: all of them if not given.
      limit: number of facts of the whole world that are known; None means all.
    Returns: the questions, in the facts' order.

    Raises: ValueError for an unknown split or relation, or where no fact is left.
    """
    return [
        ClosedBookQuestion(
            id=f"{fact.relation}/{fact.subject}",
            question=world_knowledge.question(fact),
            answers=fact.answers,
            stem=world_knowledge.completion(fact),
            category=fact.relation,
        )
        for fact in _facts(split, relations, limit)
    ]


def task_questions(count: int, split: str = "test") -> list[ClosedBookQuestion]:
    """Held-out downstream samples as questions with a short right answer; the category is the task family.

    Args:
      count: number of questions, the families in equal parts.
      split: dev or test.
    Returns: the questions, in a fixed order.
    """
    return [
        ClosedBookQuestion(
            id=f"{row['family']}/{number}",
            question="\n".join(filter(None, (row["instruction"], row["input"]))),
            answers=tuple(row["answers"]),
            category=row["family"],
        )
        for number, row in enumerate(task_test_rows(split, count))
    ]


def choice_questions(
    split: str = "test",
    relations: Sequence[str] | None = None,
    limit: int | None = None,
    *,
    choices: int = 4,
    seed: int = 0,
) -> list[ChoiceQuestion]:
    """The same facts with choices; the wrong ones are other answers of the same relation.

    A relation with fewer distinct answers (solid, liquid, gas) has as many choices as it has answers.

    Args:
      split, relations, limit: as for `closed_book_questions`.
      choices: number of choices per question.
      seed: of the wrong choices and the order.
    Returns: the questions, in the facts' order.

    Raises: ValueError as `closed_book_questions`, or for fewer than 2 choices.
    """
    answers: dict[str, set[str]] = {}
    for fact in world_knowledge.load_facts():
        answers.setdefault(fact.relation, set()).add(fact.answer)
    questions = []
    for fact in _facts(split, relations, limit):
        others = answers[fact.relation] - set(fact.answers)
        drawn = world_knowledge.multiple_choice(fact, options=min(choices, len(others) + 1), seed=seed)
        questions.append(
            ChoiceQuestion(
                id=f"{fact.relation}/{fact.subject}",
                question=world_knowledge.question(fact),
                choices=drawn.options,
                answer=drawn.correct,
                stem=drawn.prompt,
                category=fact.relation,
            )
        )
    return questions


def _facts(split: str, relations: Sequence[str] | None, limit: int | None) -> list[Fact]:
    facts = world_knowledge.select_facts(split, relations or None, limit)
    if not facts:
        raise ValueError(
            f"no embedded fact of split {split} has one of the relations {list(relations or ())}"
        )
    return facts
