"""Rounds sampled ahead, and rollouts through the engine: what a run does with either."""

import jax
import numpy as np
import pytest

import jaxmoe
from tests.tiny_checkpoints import float32_logits, logits_of
from tests.tolerances import rounding_bound
from tests.training.ppo.test_ppo import base, one_device, settings, timeless  # noqa: F401 - fixtures
from training.ppo import train as ppo
from training.ppo.ahead import Ahead
from training.ppo.rounds import Rounds


def weights_of(done):
    return jax.tree.leaves(done.lm.weights.trainable)


def rounding_of_gap(lm, rollout, temperature: float) -> float:
    """How far a response's log-probability under one model may lie apart in two float32 programs."""
    answers = np.asarray(rollout.responses_BW), np.asarray(rollout.response_mask_BW, np.int32)
    prompts = (
        np.repeat(part, rollout.samples, axis=0) for part in (rollout.prompts_PS, rollout.prompt_mask_PS)
    )
    ids, mask = (np.concatenate(parts, axis=1) for parts in zip(prompts, answers, strict=True))
    largest = np.abs(logits_of(lm, ids, mask)[mask > 0]).max() / temperature
    # a token's logit and its normalizer, each as far off as a logit, and the sum over the vocabulary
    token = 2 * float32_logits(lm.config, mask.sum(1).max(), largest)
    return answers[1].sum(1).max() * (token + rounding_bound(lm.config.vocab_size, 1.0))


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
    config = settings(base, tmp_path / "whole", rounds=3, **changes)
    whole = ppo.main(config)
    for number, (policy, _) in sampled.items():
        jax.tree.map(np.testing.assert_array_equal, policy, learned[max(number - 1, 0)])
    # the weights moved in between, so that the sampler is not the policy that learns
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, learned[:2]), strict=True))
    records = [r for r in timeless(tmp_path / "whole") if "sampler_gap" in r]
    first = sampled[min(sampled)][1]
    rounding = rounding_of_gap(jaxmoe.load(base / "model"), first, config.rollout.temperature)
    assert abs(records[0]["sampler_gap"]) < rounding < abs(records[1]["sampler_gap"])
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
