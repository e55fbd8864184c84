"""Every algorithm beside verl's and TRL's numbers on random rollouts (tests/goldens/rl/make.py)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.policy import losses
from rl.policy.advantages import RoundSignals, whiten
from rl.policy.algorithms import ALGORITHMS, algorithm_named, settled
from rl.policy.config import RLConfig
from rl.policy.importance import importance_weights
from tests.tolerances import DOUBLE, double_precision

GOLDENS = np.load(Path(__file__).parents[2] / "goldens" / "rl" / "expected.npz")
GIVEN = {name.removeprefix("given."): GOLDENS[name] for name in GOLDENS.files if name.startswith("given.")}
ROWS, SLOTS = GIVEN["mask"].shape
SAMPLES = 4


# verl adds 1e-8 to the tokens of a response before it divides by them
VERL_SEQUENCE_MEAN = 1e-7


def close(found, expected, bound=DOUBLE):
    np.testing.assert_allclose(found, expected, rtol=DOUBLE, atol=bound)


def signals():
    zeros = jnp.zeros((ROWS, SLOTS))
    return RoundSignals(
        jnp.asarray(GIVEN["rewards"]), zeros, zeros, jnp.zeros(ROWS), jnp.asarray(GIVEN["mask"]), SAMPLES
    )


ADVANTAGES = {
    "grpo": "grpo",
    "dapo": "grpo",
    "gspo": "grpo",
    "cispo": "grpo",
    "dr_grpo": "dr_grpo",
    "rloo": "rloo",
    "reinforce++": "reinforce++",
    "reinforce++_baseline": "reinforce++_baseline",
}


def test_every_algorithm_has_a_peer():
    assert set(ADVANTAGES) == set(ALGORITHMS) - {"ppo"}  # GAE is held by its closed forms


@pytest.mark.parametrize("name", ADVANTAGES)
@double_precision()
def test_advantages_are_verls(name):
    changes = {"discount": 0.9} if name == "reinforce++" else {}
    config, algorithm = settled(name, RLConfig(**changes)), algorithm_named(name)
    found = algorithm.advantages(signals(), config).advantage_BW
    if algorithm.normalizes:
        found = whiten(found, GIVEN["mask"])
    close(found, GOLDENS[f"verl.advantage.{ADVANTAGES[name]}"])


def loss_and_gradient(name, config, importance=1.0):
    config = settled(name, config)
    weights = losses.token_weights(jnp.asarray(GIVEN["mask"]), config.aggregation, constant=config.constant)

    def total(logprob):
        out = algorithm_named(name).loss(
            logprob, GIVEN["old"], jnp.asarray(GIVEN["advantage"]), jnp.asarray(GIVEN["mask"]), config
        )
        return (weights * importance * out.loss).sum()

    return jax.value_and_grad(total)(jnp.asarray(GIVEN["logprob"]))


WIDE = {"clip_low": 0.1, "clip_high": 0.2}
VERL = [
    ("ppo", "ppo", {"dual_clip": 3.0}),
    ("grpo", "grpo", {"dual_clip": 3.0, "aggregation": "sequence_mean"}),
    ("rloo", "ppo", {"dual_clip": 3.0}),
    ("reinforce++", "ppo", {"dual_clip": 3.0}),
    ("reinforce++_baseline", "ppo", {"dual_clip": 3.0}),
    ("dr_grpo", "dr_grpo", {"dual_clip": 3.0}),
    ("dapo", "dapo", {"dual_clip": 10.0}),
    ("gspo", "gspo", {}),
    ("gspo", "gspo_wide", WIDE),
    ("cispo", "cispo", {"clip_low": 0.2, "clip_high": 0.28}),
]
TRL = [
    ("ppo", "bnpo", {}),
    ("grpo", "grpo", {"aggregation": "sequence_mean"}),
    ("dr_grpo", "dr_grpo", {}),
    ("dapo", "dapo", {}),
    ("gspo", "gspo", {}),
    ("gspo", "gspo_wide", WIDE),
    ("cispo", "cispo", {}),
]


@pytest.mark.parametrize(
    ("name", "peer"),
    [(n, ("verl", key, changes)) for n, key, changes in VERL]
    + [(n, ("trl", key, changes)) for n, key, changes in TRL],
    ids=str,
)
@double_precision()
def test_losses_and_their_gradients_are_the_peers(name, peer):
    library, key, changes = peer
    loss, gradient = loss_and_gradient(name, RLConfig(**changes))
    by_sequence = settled(name, RLConfig(**changes)).aggregation == "sequence_mean"
    bound = VERL_SEQUENCE_MEAN if library == "verl" and by_sequence else DOUBLE
    close(loss, GOLDENS[f"{library}.loss.{key}.loss"], bound)
    close(gradient, GOLDENS[f"{library}.loss.{key}.grad"], bound)
    assert np.abs(gradient).max() > 0


@double_precision()
def test_the_loss_with_importance_weights_is_verls():
    weights = importance_weights(GIVEN["old"], GIVEN["sampler"], GIVEN["mask"], cap=2.0).weight_BW
    loss, gradient = loss_and_gradient("ppo", RLConfig(dual_clip=3.0), weights)
    close(loss, GOLDENS["verl.loss.importance.loss"])
    close(gradient, GOLDENS["verl.loss.importance.grad"])


@pytest.mark.parametrize("mode", ["token_truncate", "sequence_truncate"])
@double_precision()
def test_truncated_importance_weights_are_verls(mode):
    found = importance_weights(GIVEN["old"], GIVEN["sampler"], GIVEN["mask"], mode=mode, cap=1.5)
    close(found.weight_BW * GIVEN["mask"], GOLDENS[f"verl.importance.{mode}"])
    assert 0 < float(found.bounded_BW.sum()) < GIVEN["mask"].sum()
