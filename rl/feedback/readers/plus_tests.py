"""EvalPlus's release files: inputs without outputs; the canonical solution gives those.

Reference: Liu et al. 2023, arXiv:2305.01210; evalplus/eval/__init__.py for how answers are compared.
"""

from rl.feedback.readers.row_format import Row

_TEST = """\
inf, nan = float("inf"), float("nan")

def is_close(expected, answer, tolerance):
    if isinstance(expected, (list, tuple)) and isinstance(answer, (list, tuple)):
        pairs = list(zip(expected, answer))
        return len(expected) == len(answer) and all(is_close(e, a, tolerance) for e, a in pairs)
    if isinstance(expected, float) and isinstance(answer, (int, float)):
        return expected == answer or abs(expected - answer) <= tolerance + 1e-07 * abs(expected)
    return expected == answer

def solved(arguments):
    names = {{}}
    exec({solution!r}, names)
    return names[{entry!r}](*arguments)

import copy
for arguments in {inputs!r}:
    expected, answer = solved(copy.deepcopy(arguments)), {entry}(*arguments)
    assert expected == answer or is_close(expected, answer, {tolerance!r}), f"{{arguments!r:.100}}"
"""


def compared_with_solution(row: Row, solution: str, entry_point: str) -> tuple[str, ...]:
    """One test each for the base inputs and the plus inputs of a row; none for rows without them.

    Args:
      row: with `base_input` and `plus_input`, each a list of argument lists; `atol` is the largest absolute
        error of floats, 1e-6 if it is missing or 0.
      solution: source of the whole canonical program.
      entry_point: name of the function under test.
    Returns: sources of at most two tests, each of which runs all inputs of its field.
    Raises: TypeError for inputs that are not a list of argument lists.
    """
    tests = []
    for field in ("base_input", "plus_input"):
        inputs = row.get(field)
        if not inputs:
            continue
        if not isinstance(inputs, list) or not all(isinstance(arguments, list) for arguments in inputs):
            raise TypeError(f"{field} must be a list of argument lists")
        tolerance = float(row.get("atol") or 1e-6)
        tests.append(_TEST.format(solution=solution, entry=entry_point, inputs=inputs, tolerance=tolerance))
    return tuple(tests)
