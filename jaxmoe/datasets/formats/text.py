"""Plain text, as for pretraining.

{"text": "The capital of France is Paris."}
"""

from jaxmoe.datasets.formats.fields import Row, string, task_type

KEY = "text"


def read(row: Row) -> Row:
    """Raises: ValueError, naming the key, for what is no such row."""
    return {"text": string(row, "text"), "task_type": task_type(row)}
