"""Rounds sampled ahead, and rollouts through the engine: what a run does with either."""

import jax
import numpy as np
import pytest

from tests.training.ppo.test_ppo import base, one_device, settings, timeless  # noqa: F401 - fixtures
from training.ppo import train as ppo
from training.ppo.ahead import Ahead
from training.ppo.rounds import Rounds


def weights_of(done):
    return jax.tree.leaves(done.lm.weights.trainable)


def test_a_round_ahead_is_sampled_with_the_weights_before(base, tmp_path, monkeypatch):  # noqa: F811
    """And a run that is stopped after two rounds repeats, resumed, an unbroken one bit by bit."""
    sampled: dict[int, tuple] = {}
    learned: list = []
    draw, learn = Rounds._sample, Rounds._round

    def seen(self, number, policy, *args, for_learning, **options):
        out = draw(self, number, policy, *args, for_learning=for_learning, **options)
        if for_learning:
            sampled[number] = (jax.tree.map(np.asarray, policy), out.rollout)
        return out

    def noted(self, at, *args):
        learned.append(jax.tree.map(np.asarray, at.agent.policy))
        return learn(self, at, *args)

    monkeypatch.setattr(Rounds, "_sample", seen)
    monkeypatch.setattr(Rounds, "_round", noted)
    rollout = {"ahead": 1, "decoding": "engine", "slots": 3}
    changes = {"rollout": rollout, "evaluation": {"every": 0}, "export": False}
    whole = ppo.main(settings(base, tmp_path / "whole", rounds=3, **changes))
    for number, (policy, _) in sampled.items():
        jax.tree.map(np.testing.assert_array_equal, policy, learned[max(number - 1, 0)])
    # the weights moved in between, so that the sampler is not the policy that learns
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, learned[:2]), strict=True))
    records = [r for r in timeless(tmp_path / "whole") if "sampler_gap" in r]
    assert abs(records[0]["sampler_gap"]) < 1e-4 < abs(records[1]["sampler_gap"])
    assert records[1]["importance_mean"] != 1

    monkeypatch.setattr("training.ppo.rounds.StopRequest", lambda agreed: Stopping(2))
    half = ppo.main(settings(base, tmp_path / "half", rounds=3, **changes))
    assert not half.finished
    monkeypatch.setattr("training.ppo.rounds.StopRequest", lambda agreed: Stopping(9))
    again = ppo.main(settings(base, tmp_path / "half", rounds=3, **changes))
    for a, b in zip(weights_of(whole), weights_of(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "half")


class Stopping:
    """Stands in for SIGTERM after so many rounds."""

    def __init__(self, rounds):
        self.rounds = rounds

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def granted(self, step):
        return step >= self.rounds


def test_what_goes_wrong_ahead_is_raised_where_the_round_is_taken():
    def fails():
        raise RuntimeError("no such program")

    with Ahead() as ahead:
        assert ahead.take(0) is None
        ahead.start(1, fails)
        ahead.wait()
        with pytest.raises(RuntimeError, match="no such program"):
            ahead.take(1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ppo": {"importance_cap": None}}, "importance_cap=null switches off"),
        ({"algorithm": "dapo", "ppo": {"dynamic_sampling": 2}}, "dynamic_sampling=2"),
    ],
)
def test_settings_that_do_not_go_with_rounds_ahead_are_named(base, tmp_path, changes, said):  # noqa: F811
    changes = {"rollout": {"ahead": 1}} | changes
    with pytest.raises(ValueError, match=said):
        settings(base, tmp_path / "run", **changes)
