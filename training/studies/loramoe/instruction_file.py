"""Instructions from a user's file in place of the embedded tasks: what is learned, and what is asked."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from evals.knowledge.questions import ClosedBookQuestion, load_questions
from jaxmoe.json_values import JsonObject
from jaxmoe.progress import say
from training.studies.loramoe.config import ExamSizes


class TaskFile(NamedTuple):
    """The rows of a file, each in exactly one part.

    Attributes:
      learned: training rows, in a fixed order.
      asked: held-out questions of the splits test and dev.
      divergence: held-out questions on whose texts the divergence from the base is measured.
    """

    learned: list[JsonObject]
    asked: dict[str, list[ClosedBookQuestion]]
    divergence: list[ClosedBookQuestion]


def read_instructions(
    path: str, sizes: ExamSizes, divergence: int, fits: Callable[[str, str], bool]
) -> TaskFile:
    """Splits a file: test, dev and divergence first; the rest is learned.

    Args:
      path: file of rows with instruction, input and output, or of any that `load_questions` reads.
      sizes: how many tasks are asked.
      divergence: number of tasks on which divergence is measured.
      fits: returns whether instruction and answer are short enough; a line says how many are not.
    Returns: the parts.
    Raises: ValueError if nothing is left to learn.
    """
    questions = load_questions(path).questions
    short = [question for question in questions if fits(question.question, question.answers[0])]
    if len(short) < len(questions):
        left = len(questions) - len(short)
        say(f"{Path(path).name}: {left} of {len(questions)} rows are longer than data.length and left out")
    # a file may contain a row twice: what is asked must not be learned
    short = list({question.question: question for question in short}.values())
    random.Random("instructions").shuffle(short)
    counts = {"test": sizes.tasks, "dev": sizes.dev_tasks, "divergence": divergence}
    if sum(counts.values()) >= len(short):
        raise ValueError(
            f"{Path(path).name} has {len(short)} different rows that fit, of which {sum(counts.values())} "
            "are held out (tasks, dev_tasks, pretrained.divergence_tasks): none is left to learn; ask fewer"
        )
    parts, at = {}, 0
    for name, count in counts.items():
        parts[name] = short[at : at + count]
        at += count
    learned: list[JsonObject] = [
        {"instruction": q.question, "input": "", "output": q.answers[0], "answers": list(q.answers)}
        for q in short[at:]
    ]
    return TaskFile(learned, {name: parts[name] for name in ("test", "dev")}, parts["divergence"])
