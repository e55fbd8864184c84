"""Rows of MMLU, HellaSwag and GSM8K as they are published, converted to the plain form of questions.py.

Rows are prepared as in lm-evaluation-harness, so that both ask the same:

    MMLU       question, choices, answer, subject; or CSV without a header: question, four choices, letter
    HellaSwag  activity_label, ctx_a, ctx_b, endings, label: the activity comes before the context, WikiHow's
               marks are removed ("[title]" becomes a full stop)
    GSM8K      question, answer: a solution that ends in "#### " and a number

Reference: https://github.com/EleutherAI/lm-evaluation-harness, lm_eval/tasks/{mmlu,hellaswag,gsm8k}.
"""

import re
from pathlib import PurePath
from typing import Literal

from jaxmoe.json_values import JsonObject

# data sets whose questions are asked in a form of their own
Suite = Literal["", "mmlu", "hellaswag", "gsm8k"]

_MARK = re.compile(r"\[.*?\]")
_NUMBER = "####"
# of its CSV files, such as abstract_algebra_test.csv
_PARTS = re.compile(r"_(test|val|dev|train)$")


def suite_of(row: JsonObject) -> Suite:
    """The suite that the row belongs to; empty for every other format."""
    if {"ctx_a", "ctx_b", "endings", "activity_label"} <= row.keys():
        return "hellaswag"
    if {"question", "choices", "answer", "subject"} <= row.keys():
        return "mmlu"
    answer = row.get("answer")
    return "gsm8k" if "question" in row and isinstance(answer, str) and _NUMBER in answer else ""


def as_plain(row: JsonObject, suite: Suite) -> JsonObject:
    """The row in the plain form; a row of no suite is left as it is.

    Args:
      row: as published.
      suite: the one it belongs to, as `suite_of` gives it.
    Returns: a row with question and choices or answers; with neither where the row has no label (HellaSwag's
      test part).
    Raises: KeyError, TypeError, AttributeError or ValueError for a field that is missing or wrong.
    """
    if suite == "mmlu":
        # a letter first of all: choices may be letters too
        letters = dict(zip("ABCDEFGHIJ", range(len(row["choices"])), strict=False))
        answer = letters.get(str(row["answer"]).strip(), row["answer"])
        return row | {"question": row["question"].strip(), "category": row["subject"], "answer": answer}
    if suite == "gsm8k":
        return row | {"answer": row["answer"].split(_NUMBER)[-1].strip(), "solution": row["answer"]}
    if suite == "hellaswag":
        text = without_marks(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")
        plain = {
            "question": text,
            "stem": text,
            "choices": [without_marks(ending) for ending in row["endings"]],
            # a digit as text on the hub, "" where it is withheld
            "answer": None if row["label"] in ("", None) else int(row["label"]),
            "category": row.get("split_type", ""),
            "cluster": row.get("source_id"),
        }
        return plain | ({"id": row["ind"]} if "ind" in row else {})
    return row


def without_marks(text: str) -> str:
    """A HellaSwag text without the marks left over from WikiHow's pages.

    >>> without_marks("Fry eggs: [header] How to fry [title] Heat the oil. [step] Wait.")
    'Fry eggs: How to fry. Heat the oil. Wait.'
    """
    return _MARK.sub("", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def from_csv(cells: list[str], file: PurePath) -> JsonObject:
    """A line of one of MMLU's CSV files; the subject is in the file's name.

    Args:
      cells: question, choices, letter of the right one.
      file: such as abstract_algebra_test.csv.
    Returns: the row with named fields.
    Raises: ValueError for another number of cells.
    """
    if len(cells) != 6:
        raise ValueError(
            f"a line of MMLU's CSV has 6 cells (question, four choices, letter); this one has {len(cells)}"
        )
    question, *choices, answer = cells
    return {
        "question": question,
        "choices": choices,
        "answer": answer.strip(),
        "subject": _PARTS.sub("", file.name.removesuffix(".gz").removesuffix(".csv")),
    }
