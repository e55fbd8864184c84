"""From a verdict to a number: the paper's four-way reward, the share of tests passed, or 0/1."""

from typing import Literal

Verdict = Literal["pass", "fail", "runtime_error", "timeout", "compile_error", "output_limit"]
Scheme = Literal["four_way", "pass_ratio", "binary"]

VERDICTS: tuple[Verdict, ...] = ("pass", "fail", "runtime_error", "timeout", "compile_error", "output_limit")
FOUR_WAY: dict[Verdict, float] = {
    "pass": 1.0,
    "fail": -0.3,
    "runtime_error": -0.6,
    "timeout": -0.6,
    "output_limit": -0.6,
    "compile_error": -1.0,
}


def verdict_reward(verdict: Verdict, passed: int, total: int, scheme: Scheme = "four_way") -> float:
    """The reward of a whole program.

    four_way:   +1 all tests pass, −0.3 any fails, −0.6 runtime error (time and output limits
                included), −1 does not compile
    pass_ratio: passed / total
    binary:     1 if all tests pass, else 0

    Args:
      verdict: of the program as a whole.
      passed, total: number of tests that it passed, and of all tests.
      scheme: four_way, pass_ratio or binary.
    Returns: the reward, in [−1, 1].
    Raises: ValueError for an unknown scheme.
    Reference: Dou et al. 2024, arXiv:2402.01391, section 3 (four_way).

    >>> verdict_reward("fail", 3, 4), verdict_reward("fail", 3, 4, "pass_ratio")
    (-0.3, 0.75)
    """
    if scheme == "four_way":
        return FOUR_WAY[verdict]
    if scheme == "pass_ratio":
        return passed / total if total else 0.0
    if scheme == "binary":
        return float(verdict == "pass")
    raise ValueError(f"the reward scheme must be four_way, pass_ratio or binary; got {scheme!r}")
