"""verl's rows, as PRIME's Eurus-2-RL-Data has them (Cui et al. 2025, arXiv:2502.01456): a chat prompt, and
tests as JSON in reward_model.ground_truth. Compared, and given imports, as APPS is: verl grades by its code.
"""

from rl.feedback.problems import Problem
from rl.feedback.readers.apps import PREAMBLE
from rl.feedback.readers.listed_tests import loaded, tests_of_list
from rl.feedback.readers.row_format import Row, RowFormat, tests_of


def _read(row: Row, name: str) -> Problem:
    ability = row.get("ability", "code")
    if ability not in ("code", "coding"):
        raise ValueError(f"its ability is {ability!r}; only code can be graded by tests")
    tests = loaded(row["reward_model"]["ground_truth"])
    index = (row.get("extra_info") or {}).get("index")
    return Problem(
        id=name if index is None else f"{row.get('data_source', 'verl')}/{index}",
        prompt=_asked(row["prompt"]),
        source=str(row.get("data_source", "")),
        preamble=PREAMBLE,
        **(tests_of(tests) if isinstance(tests, dict) else tests_of_list(tests, None)),
    )


def _asked(messages: object) -> str:
    """The last turn of the user. A system turn says how to answer, which a run's own prompt does."""
    if isinstance(messages, str):
        return messages
    if not isinstance(messages, list):
        raise TypeError(f"prompt must be a list of messages; got a {type(messages).__name__}")
    asked = [message["content"] for message in messages if message["role"] == "user"]
    if not asked:
        raise ValueError("no message of prompt is the user's")
    return asked[-1]


FORMAT = RowFormat("verl", frozenset(("prompt", "reward_model")), _read)
