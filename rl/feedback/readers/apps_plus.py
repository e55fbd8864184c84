"""APPS+ (Dou et al. 2024, arXiv:2402.01391): APPS, cleaned; and, as its plainest form, the format of own
problems.

Compared, and given imports, as APPS is, unless the fields compare, tolerance, checker and preamble say
otherwise.
"""

from rl.feedback.problems import Problem
from rl.feedback.readers.apps import PREAMBLE
from rl.feedback.readers.row_format import Row, RowFormat, tests_of


def _read(row: Row, name: str) -> Problem:
    return Problem(
        id=str(row.get("id", name)),
        prompt=row["prompt"],
        starter_code=row.get("starter_code") or "",
        canonical_solution=row.get("canonical_solution") or "",
        difficulty=row.get("difficulty") or "unknown",
        class_name=row.get("class_name"),
        language=row.get("language") or "python",
        source=row.get("source") or "",
        license=row.get("license") or "",
        time_s=row.get("time_s"),
        compare=row.get("compare") or "numeric",
        tolerance=row.get("tolerance"),
        checker=row.get("checker") or "",
        preamble=PREAMBLE if row.get("preamble") is None else row["preamble"],
        **tests_of(row),
    )


FORMAT = RowFormat("APPS+", frozenset(("prompt", "inputs", "outputs")), _read)
