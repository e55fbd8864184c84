"""Verdict to reward."""

import pytest

from rl.feedback.rewards import VERDICTS, verdict_reward


def test_the_papers_four_ways():
    rewards = {verdict: verdict_reward(verdict, 1, 3) for verdict in VERDICTS}
    assert rewards == {
        "pass": 1.0,
        "fail": -0.3,
        "runtime_error": -0.6,
        "timeout": -0.6,
        "output_limit": -0.6,
        "compile_error": -1.0,
    }


def test_other_schemes():
    assert verdict_reward("fail", 1, 4, "pass_ratio") == 0.25
    assert verdict_reward("compile_error", 0, 4, "pass_ratio") == 0.0
    assert [verdict_reward(v, 0, 1, "binary") for v in VERDICTS] == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="got 'best'"):
        verdict_reward("pass", 1, 1, "best")  # pyright: ignore[reportArgumentType]
