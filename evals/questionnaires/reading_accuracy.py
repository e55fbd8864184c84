"""python -m evals.questionnaires.reading_accuracy ANSWERS.jsonl: how often written answers are read right.

One answer per line: {"part", "labels", "words", "answer", "reads"}. `labels` and `words` are those of the
options as shown; `reads` is the label that a person gives the answer, null where it names no option; "item",
where the answer repeats a statement, is the one that was asked. Prints, for each part and for all, precision
(of what is read, how much is right) and recall (of what a person reads, how much is read right).
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console

from evals.questionnaires.reading import parse
from evals.questionnaires.respondent import Question
from evals.questionnaires.wording import Choice, named_templates
from jaxmoe.given_paths import given


class LabeledAnswer(NamedTuple):
    """An answer and the label that a person gave it, None where it names no option."""

    part: str
    labels: Sequence[str]
    words: Sequence[str]
    answer: str
    reads: str | None
    item: str = ""


class Accuracy(NamedTuple):
    """Counts of answers: all, those that a person labeled, those read, and those read right."""

    answers: int
    readable: int
    read: int
    right: int

    @property
    def precision(self) -> float:
        """Right of read; 1 where nothing was read."""
        return self.right / self.read if self.read else 1.0

    @property
    def recall(self) -> float:
        """Right of readable; 1 where nothing is readable."""
        return self.right / self.readable if self.readable else 1.0


def labeled_answers(path: Path) -> list[LabeledAnswer]:
    """The lines of a file of labeled answers.

    Raises: ValueError with the number of a line that is not as described above; OSError.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line:
            continue
        try:
            one = LabeledAnswer(**json.loads(line))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{path}:{number} is no labeled answer: {error}") from None
        if len(one.labels) != len(one.words) or (one.reads is not None and one.reads not in one.labels):
            raise ValueError(
                f"{path}:{number}: as many labels as words, and reads among the labels; got {one.reads!r}"
            )
        found.append(one)
    return found


def read_label(one: LabeledAnswer) -> str | None:
    """The label that the rules read."""
    options = zip(one.words, one.labels, strict=True)
    choices = tuple(Choice(float(n), words, label) for n, (words, label) in enumerate(options))
    answer = parse(Question("item", one.item, "", choices, named_templates(["form"])[0]), one.answer)
    return one.labels[answer.position] if answer.position >= 0 else None


def accuracy(answers: Iterable[LabeledAnswer]) -> Accuracy:
    """How accurately the rules read some answers."""
    pairs = [(one.reads, read_label(one)) for one in answers]
    return Accuracy(
        len(pairs),
        sum(label is not None for label, _ in pairs),
        sum(read is not None for _, read in pairs),
        sum(read is not None and label == read for label, read in pairs),
    )


def main(answers: Annotated[Path, typer.Argument(help="JSON Lines, one answer per line")]) -> None:
    """Prints one JSON line for each part, and one for all.
    \f
    Raises: typer.Exit with status 2, after a line on stderr, for what is refused.
    """
    try:
        with given("ANSWERS", answers, "file"):
            rows = labeled_answers(answers)
    except (ValueError, OSError) as error:
        Console(markup=False, emoji=False, stderr=True).print(
            f"error: {error}", style="red", markup=False, soft_wrap=True
        )
        raise typer.Exit(2) from None
    for part in [*dict.fromkeys(row.part for row in rows), "all"]:
        found = accuracy(row for row in rows if part in (row.part, "all"))
        typer.echo(
            json.dumps(
                {
                    "part": part,
                    **found._asdict(),
                    "precision": round(found.precision, 4),
                    "recall": round(found.recall, 4),
                }
            )
        )


if __name__ == "__main__":
    typer.run(main)
