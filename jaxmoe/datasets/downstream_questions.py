"""Pretraining texts that give a small base what a large one has: questions of every kind, and copying.

The downstream tasks are asked in other words than their instructions, sometimes with the end token between
question and answer as in an instruction row; lists of words are said twice. Reading, deciding and copying are
then skills of the base, and fine-tuning is to call on them.
"""

import random
from collections.abc import Iterator, Sequence

from jaxmoe.datasets.downstream import tasks
from jaxmoe.datasets.downstream_families import FAMILIES, Task

# none of these words an instruction of the families
QUESTIONS: dict[str, tuple[str, ...]] = {
    "reading_comprehension": ("",),  # the question stands in the text
    "natural_language_inference": ("Is the last so?", "Can one conclude the last?"),
    "coreference": ("Which of the two is it about?", "Who of them?"),
    "summarisation": ("What is the point?", "And in brief?"),
    "translation": ("How does one say it in Spanish?", "And in Spanish?"),
    "sentiment": ("What kind of opinion is that?", "How was it found?"),
    "topic": ("What do they talk of?", "Which subject is that?"),
}
LEADS = (" Answer:", " The answer is", "</s>")
# what a small model learns last: to find something in the text and copy it
HARDER = ("reading_comprehension", "natural_language_inference", "coreference")


def question_texts(count: int, *, seed: int, families: Sequence[str] = (*FAMILIES, *HARDER)) -> Iterator[str]:
    """`count` texts of training contents, the families taking turns; those named twice have two.

    Args:
      count: texts wanted.
      seed: of contents and wordings.
      families: names from FAMILIES, in turn; a name that stands there twice has a double share.
    Returns: the texts, one after the other.
    Raises: ValueError, at the first text, on an unknown family.
    """
    rng = random.Random(f"asked {seed}")
    streams = {family: tasks(family, "train", seed=seed + 2) for family in families}
    for i in range(count):
        family = families[i % len(families)]
        yield asked(family, next(streams[family]), rng)


def asked(family: str, task: Task, rng: random.Random) -> str:
    """A sample as a text: its content, a question in a wording drawn at random, and the answer.

    Args:
      family: of the sample; chooses among the questions.
      task: the sample, of which `input` and `output` are used.
      rng: draws the wording, the lead to the answer and how lines are joined.
    Returns: the text, ending in a full stop.
    """
    content = task.input.replace("\n", rng.choice("\n "))
    question = " ".join(filter(None, (content, rng.choice(QUESTIONS[family]))))
    return f"{question}{rng.choice(LEADS)} {task.output}."


def question_stem(family: str, content: str) -> str:
    """Content and question of `asked`, in one wording of them, up to where the answer follows.

    Args:
      family: chooses the question.
      content: a sample's input.
    Returns: the text before the answer, with no blank at its end.
    """
    question = " ".join(filter(None, (content.replace("\n", " "), QUESTIONS[family][0])))
    return f"{question}{LEADS[0]}"


def repeated_texts(count: int, words: Sequence[str], *, seed: int) -> Iterator[str]:
    """`count` lists of words said twice, half of them with their pairs in another order the second time: only
    the text itself can tell its second half.

    Args:
      count: texts wanted.
      words: to draw from, at least nine; five to nine different ones make a text.
      seed: of words and orders.
    Returns: the texts, one after the other.
    """
    rng = random.Random(f"repeated {seed}")
    for _ in range(count):
        drawn = rng.sample(words, rng.randint(5, 9))
        pairs = [" ".join(drawn[i : i + 2]) for i in range(0, len(drawn) - 1, 2)]
        again = rng.sample(pairs, len(pairs)) if rng.random() < 0.5 else pairs
        yield f"{', '.join(pairs)}. {', '.join(again)}."
