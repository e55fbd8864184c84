"""Tests that a data set lists one by one, {"input", "output", "testtype"}: LiveCodeBench, DeepCoder after it.

Reference: livecodebench, lcb_runner/benchmarks/code_generation.py and evaluation/testing_util.py.
"""

from typing import Any

from rl.feedback.readers.row_format import Row, read_json, tests_of, text_of


def loaded(value: object) -> Any:  # JSON, checked by the reader of its format
    """A field that holds JSON, as text or already read."""
    return read_json(value) if isinstance(value, str) else value


def tests_of_list(tests: object, function: str | None) -> Row:
    """Fields of a Problem from tests {"input", "output"[, "testtype" or "type"][, "fn_name" or "metadata"]}.

    A test of type `functional` calls a function: its input holds one argument per line, as JSON, its output
    the JSON of the returned value. All others give standard input and the printed text.

    Args:
      tests: the list.
      function: the function of functional tests that name none themselves.
    Returns: `inputs` and `outputs`, and `fn_name` if the tests call a function.
    Raises: TypeError, KeyError or ValueError for anything else, or a list that mixes both types.
    """
    if not isinstance(tests, list) or not all(isinstance(test, dict) for test in tests):
        raise TypeError("the tests must be a list of objects with input and output")
    kinds = {_is_call(test) for test in tests}
    if len(kinds) > 1:
        raise ValueError("some tests call a function and some read standard input; one problem may do one")
    if kinds != {True}:
        return tests_of({"inputs": [t["input"] for t in tests], "outputs": [t["output"] for t in tests]})
    names = {_function_of(test) or function for test in tests}
    if len(names) > 1 or None in names:
        raise ValueError(f"functional tests must name one function; got {sorted(map(str, names))}")
    return tests_of(
        {
            "fn_name": names.pop(),
            "inputs": [_arguments(test["input"]) for test in tests],
            "outputs": [loaded(test["output"]) for test in tests],
        }
    )


def _is_call(test: Row) -> bool:
    return test.get("testtype", test.get("type")) in ("functional", "function_call")


def _function_of(test: Row) -> str | None:
    metadata = loaded(test.get("metadata")) or {}
    return test.get("fn_name") or (metadata.get("func_name") if isinstance(metadata, dict) else None)


def _arguments(given: object) -> list[Any]:
    """One argument per line; a list if the file has already parsed the arguments."""
    if isinstance(given, list):
        return given
    return [read_json(line) for line in text_of(given).split("\n") if line.strip()]
