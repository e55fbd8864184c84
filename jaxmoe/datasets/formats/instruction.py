"""Instruction rows as LoRAMoE and Alpaca have them.

    {"instruction": "Name the capital.", "input": "France", "output": "Paris", "task_type": 1}

`input` and `task_type` may be absent.
"""

from jaxmoe.datasets.formats.fields import Row, optional_string, string, task_type

KEY = "instruction"


def read(row: Row) -> Row:
    """Raises: ValueError, naming the key, for what is no such row."""
    return {
        "instruction": string(row, "instruction"),
        "input": optional_string(row, "input"),
        "output": string(row, "output"),
        "task_type": task_type(row),
    }
