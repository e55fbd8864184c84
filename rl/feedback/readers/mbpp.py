"""MBPP (Austin et al. 2021, arXiv:2108.07732), sanitized MBPP, and MBPP+ (Liu et al. 2023, arXiv:2305.01210),
whose rows bring a longer test program. Python's own comparison, as the tests write it.
"""

from rl.feedback.assert_tests import called_function
from rl.feedback.problems import Problem
from rl.feedback.readers.row_format import Row, RowFormat


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n")


def _read(row: Row, name: str) -> Problem:
    tests = tuple(_unix(test).strip() for test in row["test_list"])
    code = _unix(row["code"])
    text = row.get("text") or row["prompt"]
    setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or [])
    more = (_unix(row["test"]).strip(),) if row.get("test") else ()
    return Problem(
        id=f"MBPP/{row.get('task_id', name)}",
        prompt="\n".join([text, "Your code should pass these tests:", *tests]),
        canonical_solution=code,
        fn_name=called_function(tests, code),
        asserts=(*tests, *more),
        setup=_unix(setup),
        source="MBPP+" if more else "MBPP",
        compare="python",
    )


FORMAT = RowFormat("MBPP", frozenset(("test_list", "code")), _read)
