"""Codeforces problems as open-r1/codeforces publishes them: statement in parts, official tests, limits.

Compared as APPS is. Problems with a checker program, or whose programs talk to a judge, are refused by name.
"""

from rl.feedback.problems import Problem
from rl.feedback.readers.row_format import Row, RowFormat, tests_of

_PARTS = {"input_format": "Input", "output_format": "Output", "note": "Note"}


def _read(row: Row, name: str) -> Problem:
    if row.get("interaction_format"):
        raise ValueError("its programs talk to a judge, which is not there")
    if row.get("generated_checker"):
        raise ValueError("its answers need a checker program of the file, which is not run")
    if row.get("input_mode", "stdio") != "stdio":
        raise ValueError(f"its programs read {row['input_mode']!r}; only stdio is read")
    tests = row.get("official_tests") or row.get("examples") or []
    return Problem(
        id=f"Codeforces/{row.get('id', name)}",
        prompt=_statement(row),
        difficulty=str(row.get("rating") or "unknown"),
        source="Codeforces",
        time_s=float(row["time_limit"]) if row.get("time_limit") else None,
        **tests_of({"inputs": [t["input"] for t in tests], "outputs": [t["output"] for t in tests]}),
    )


def _statement(row: Row) -> str:
    parts = [row["description"]]
    parts += [f"{title}\n{row[field]}" for field, title in _PARTS.items() if row.get(field)]
    for example in row.get("examples") or []:
        parts.append(f"Example input\n{example['input']}\nExample output\n{example['output']}")
    return "\n\n".join(part.strip() for part in parts)


FORMAT = RowFormat("Codeforces", frozenset(("description", "official_tests")), _read)
