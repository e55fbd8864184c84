"""The registry: what each algorithm fills in, what it refuses, and that settled settings stay as they are."""

import jax.numpy as jnp
import numpy as np
import pytest

from rl.policy.algorithms import ALGORITHMS, settled
from rl.policy.config import KLConfig, RLConfig
from rl.policy.experience import prepare
from rl.policy.trajectory import Outcomes, PolicyScores, Rollout
from tests.tolerances import DOUBLE, double_precision

# another value than the default of each setting that not every algorithm uses
OTHER = {
    "aggregation": "sequence_mean",
    "truncated": "drop",
    "overlong_buffer": 0.5,
    "clip_low": 0.3,
    "clip_high": 0.4,
    "dual_clip": 9.0,
    "normalize_advantages": False,
    "normalize_groups": False,
    "dynamic_sampling": 3,
    "discount": 0.9,
    "gae_lambda": 0.8,
    "value_clip": None,
}


def test_the_settings_that_not_all_use_are_known():
    assert {setting for algorithm in ALGORITHMS.values() for setting in algorithm.own} == set(OTHER)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_an_algorithm_does_not_use_is_refused_by_name_and_what_it_uses_is_kept(name):
    for setting, value in OTHER.items():
        asked = RLConfig(**{setting: value})
        if setting in ALGORITHMS[name].own:
            assert getattr(settled(name, asked), setting) == value
        else:
            with pytest.raises(
                ValueError, match=rf"does not use ppo\.{setting}; got {value}: leave it out, or give "
            ):
                settled(name, asked)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_nothing_is_left_open_and_settled_settings_stay(name):
    made = settled(name, RLConfig())
    for setting, value in ALGORITHMS[name].own.items():
        assert getattr(made, setting) == value
    assert made.kl.coefficient == ALGORITHMS[name].kl
    assert settled(name, made) == made


def test_dapo_is_its_papers():
    made = settled("dapo", RLConfig())
    assert (made.clip_low, made.clip_high, made.aggregation) == (0.2, 0.28, "token_mean")
    assert (made.truncated, made.overlong_buffer, made.dynamic_sampling) == ("drop", 4096 / 20480, 10)
    assert not made.needs_reference


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("grpo", {"truncated": "bootstrap"}, "truncated=bootstrap needs a critic, which algorithm=grpo"),
        (
            "grpo",
            {"constant": 10.0},
            r"ppo\.constant is for ppo\.aggregation=constant; got 10 with token_mean",
        ),
        ("grpo", {"overlong_penalty": 2.0}, r"ppo\.overlong_penalty needs ppo\.overlong_buffer"),
        ("dapo", {"kl": KLConfig(sync_every=5)}, r"ppo\.kl\.sync_every renews a reference that"),
        ("ppo", {"dual_clip": 1.1}, r"ppo\.dual_clip must lie above 1 \+ ppo\.clip_high = 1\.2"),
    ],
)
def test_settings_without_effect_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        settled(name, RLConfig(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"importance_floor": 2.0},
            r"importance_floor must lie below ppo\.importance_cap; got 2\.0 and 2\.0",
        ),
        ({"importance_cap": None, "importance": "token_mask"}, r"ppo\.importance bounds importance weights"),
        (
            {"importance_cap": None, "importance_floor": 0.1},
            r"ppo\.importance_floor bounds importance weights",
        ),
        ({"overlong_buffer": 1.5}, r"must lie in \[0, 1\]; got 1\.5"),
        ({"dynamic_sampling": 0}, "dynamic_sampling must be at least 1; got 0"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        RLConfig(**settings)


def test_an_open_setting_is_named_where_it_is_needed():
    with pytest.raises(ValueError, match=r"ppo\.kl\.coefficient is null"):
        _ = RLConfig().needs_reference


MASK = np.asarray([[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0.0]])


def a_round(limits):
    zeros = np.zeros((1, 1), np.int32)
    rollout = Rollout(zeros, zeros + 1, np.zeros((4, 4), np.int32), MASK)
    outcomes = Outcomes(np.asarray([1.0, 1.0, -1.0, -1.0]), MASK, limits_B=limits)
    return rollout, outcomes, PolicyScores(-jnp.asarray(MASK), -jnp.asarray(MASK), jnp.zeros((4, 4)))


@double_precision()
def test_the_overlong_penalty_is_part_of_the_reward_that_groups_compare():
    """Limits 4, buffer 2 of them: rewards 1, 1 − 1, −1 − ½, −1; their mean is −1/8 · 3."""
    config = RLConfig(overlong_buffer=0.5, normalize_groups=False, kl=KLConfig(coefficient=0.0))
    experience, metrics = prepare("grpo", config, *a_round(np.full(4, 4.0)), 0.0)
    rewards = np.asarray([1.0, 0.0, -1.5, -1.0])
    np.testing.assert_allclose(
        experience.advantages_BW, (rewards - rewards.mean())[:, None] * MASK, rtol=DOUBLE, atol=DOUBLE
    )
    assert float(metrics["overlong_penalty"]) == pytest.approx(-0.375, rel=DOUBLE)
    assert float(metrics["reward"]) == 0.0  # what the tests gave


def test_a_buffer_needs_the_limits():
    with pytest.raises(ValueError, match=r"Outcomes\.limits_B is missing"):
        prepare("grpo", RLConfig(overlong_buffer=0.5), *a_round(None), 0.0)
