"""What rows of the study train on in the place of instructions: texts and answers that the base has drawn."""

import random
from collections.abc import Sequence

from evals.knowledge.answers import contains_answer
from evals.knowledge.prompts import template
from evals.knowledge.questions import ClosedBookQuestion
from evals.models.local_model import LocalModel
from jaxmoe.json_values import JsonMapping, JsonObject
from jaxmoe.tokenizer import plain_ids

# texts that a base draws to read some of them again, and their tokens
REPLAYED, REPLAYED_TOKENS = 32, 64
# answers that a base draws to each instruction, and their tokens
ANSWERS, ANSWER_TOKENS = 4, 32


def with_replay(
    rows: Sequence[JsonObject], texts: Sequence[str], share: float, seed: int
) -> list[JsonObject]:
    """Rows of which some give their places to texts that the base has drawn.

    Args:
      rows: instructions.
      texts: of the base; empty ones are left out, and all are used in turn.
      share: of the samples that are texts.
      seed: decides which rows.
    Returns: as many rows.
    Raises: ValueError if the base has drawn nothing.
    """
    full = [text for text in texts if text.strip()]
    if not full:
        raise ValueError(
            "the base has drawn only empty texts, so that nothing can be replayed; leave replay out"
        )
    places = random.Random(f"replay {seed}").sample(range(len(rows)), round(share * len(rows)))
    mixed = list(rows)
    for number, place in enumerate(sorted(places)):
        mixed[place] = {"text": full[number % len(full)]}
    return mixed


def draw_answers(model: LocalModel, rows: Sequence[JsonMapping]) -> list[list[str]]:
    """What a base answers to instructions at temperature 1.

    Args:
      model: the base, in its chat form.
      rows: instructions, with the `answers` that count as right.
    Returns: for each row the drawn answers that ended within their tokens and contain a right one.
    """
    wording = template("instruction")
    questions = [_question(row) for row in rows]
    prompts = [wording.prompt(question) for question in questions]
    drawn = model.generate(prompts, ANSWER_TOKENS, temperature=1.0, samples=ANSWERS)
    return [
        [
            text
            for text in drawn[ANSWERS * number : ANSWERS * (number + 1)]
            if contains_answer(text, question.answers)
            and len(plain_ids(model.tokenizer, text)) < ANSWER_TOKENS
        ]
        for number, question in enumerate(questions)
    ]


def _question(row: JsonMapping) -> ClosedBookQuestion:
    asked = "\n".join(filter(None, (row["instruction"], row["input"])))
    return ClosedBookQuestion(id="", question=asked, answers=tuple(row["answers"]))


def with_own_answers(rows: Sequence[JsonObject], accepted: Sequence[Sequence[str]]) -> list[JsonObject]:
    """Rows with answers that the base itself has given and that were right: on-policy data.

    Args:
      rows: instructions.
      accepted: of `draw_answers`; rows without any are left out.
    Returns: a row for each answer.
    Raises: ValueError if none was right.
    """
    own = [{**row, "output": text} for row, texts in zip(rows, accepted, strict=True) for text in texts]
    if not own:
        raise ValueError("no answer that the base has drawn was right; leave own_answers out")
    return own
