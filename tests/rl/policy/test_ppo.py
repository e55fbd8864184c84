"""PPO's update: exact first ratio, nothing moves at rate 0, devices, accumulation, shared buffers, masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmoe.model import params
from jaxmoe.model.config import ExpertConfig, ModelConfig
from rl.policy.agent import Agent, ForwardConfig, Weights, make_score, samples_together
from rl.policy.critic import new_critic
from rl.policy.ppo import AgentState, KLConfig, Learner, PPOConfig, next_beta
from rl.policy.trajectory import Outcomes, Rollout, finer

TOLERANCE = 3e-5
SMALL = ModelConfig(
    vocab_size=32, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8
)
PROMPTS, SAMPLES, SLOTS, LENGTH = 4, 4, 6, 5
ROWS = PROMPTS * SAMPLES


@functools.cache
def bench(**settings):
    """Benches are cached: compiling takes longer than everything else here."""
    return Bench(**settings)


class Bench:
    """An agent with random experts, and everything a round needs."""

    def __init__(
        self, config=None, *, algorithm="ppo", body="frozen", experts=True, devices=1, lr=1e-2, **forward
    ):
        self.config = config or PPOConfig()
        ways = devices
        self.mesh = params.make_mesh(data=devices, devices=jax.devices()[:devices])
        expert_config = ExpertConfig(num_experts=2, rank=2) if experts else None
        model = params.build(SMALL, expert_config, std=0.3)
        parts = params.split(model, "experts" if experts else "all")
        trainable = jax.tree.map(
            lambda a: a + 0.1 * jax.random.normal(jax.random.key(a.size), a.shape), parts.trainable
        )
        everywhere = params.replicated(self.mesh)
        put = lambda tree: jax.device_put(jax.tree.map(np.array, tree), everywhere)  # noqa: E731
        policy, frozen = put(trainable), put(parts.frozen)
        head, critic = (None, None)
        if algorithm == "ppo":
            head, critic = new_critic(SMALL.hidden_size, body, policy)
            critic = put(critic)
        reference = None if experts else put(parts.trainable)
        self.weights = Weights(frozen, reference)
        self.agent = Agent(
            parts.definition, self.mesh, head, body, self.config.needs_reference, ForwardConfig(**forward)
        )
        together = SAMPLES if self.agent.forward.share_prompts else 1
        self.samples = samples_together(ROWS // together, together, self.config.pieces, ways)
        optimizers = (optax.adam(lr), optax.adam(lr))
        state = AgentState(
            policy,
            optimizers[0].init(policy),
            critic,
            None if critic is None else optimizers[1].init(critic),
            jnp.zeros((), jnp.int32),
        )
        self.state = put(state)
        shardings = jax.tree.map(lambda _: everywhere, self.state)
        self.learner = Learner(self.agent, algorithm, self.config, optimizers, self.samples, shardings)
        self.score_fn = make_score(self.agent, self.config.pieces, self.samples)

    def score(self, rollout, state=None):
        state = self.state if state is None else state
        return self.score_fn(state.policy, state.critic, self.weights, rollout)

    def learn(self, rollout, outcomes, beta=0.1, *, state=None, scores=None):
        state = self.state if state is None else state
        scores = self.score(rollout, state) if scores is None else scores
        rng = np.random.default_rng(0)
        kept = jax.tree.map(jnp.copy, state)  # the learner donates what it is given
        return self.learner.learn(kept, self.weights, rollout, outcomes, scores, beta=beta, rng=rng)


def a_round(seed=0):
    rng = np.random.default_rng(seed)
    prompts = rng.integers(1, 32, (PROMPTS, SLOTS)).astype(np.int32)
    prompt_mask = (np.arange(SLOTS) >= rng.integers(0, 4, (PROMPTS, 1))).astype(np.int32)
    lengths = rng.integers(1, LENGTH + 1, (ROWS, 1))
    mask = (np.arange(LENGTH) < lengths).astype(np.float32)
    responses = (rng.integers(1, 32, (ROWS, LENGTH)) * mask).astype(np.int32)
    rollout = Rollout(prompts, prompt_mask, responses, mask)
    executed = mask * (rng.random((ROWS, LENGTH)) < 0.7)
    return rollout, Outcomes(rng.choice([1.0, -0.3], ROWS).astype(np.float32), executed.astype(np.float32))


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def close(a, b, tolerance=TOLERANCE):
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=tolerance * max(float(np.abs(y).max(initial=0)), 1.0))


KINDS = [
    {"body": "frozen"},
    {"body": "experts"},
    {"body": "full", "experts": False},
    {"body": "frozen", "share_prompts": False},
    {"config": PPOConfig(minibatches=2, accumulate=2)},
    {"algorithm": "grpo", "config": PPOConfig(kl=KLConfig(place="loss"))},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_first_ratio_is_exactly_1(kind):
    state, metrics = bench(**kind).learn(*a_round())
    assert float(metrics["first_ratio_error"]) == 0.0
    assert float(metrics["first_rescoring_error"]) < TOLERANCE
    assert int(state.failed) == 0
    assert all(np.isfinite(v) for v in leaves(metrics))


def test_with_rate_0_nothing_moves():
    used = bench(config=PPOConfig(epochs=2, minibatches=2), body="experts", lr=0.0)
    state, metrics = used.learn(*a_round())
    for old, new in zip(leaves(used.state[:3:2]), leaves(state[:3:2]), strict=True):
        np.testing.assert_array_equal(old, new)
    assert float(metrics["policy_grad_norm"]) > 0
    assert float(metrics["ratio"]) == pytest.approx(1.0, abs=TOLERANCE)


def test_both_policy_and_critic_learn():
    used = bench(body="frozen")
    rollout, outcomes = a_round()
    state, first = used.learn(rollout, outcomes)
    for old, new in zip(leaves(used.state[:3:2]), leaves(state[:3:2]), strict=True):
        assert (old != new).any()
    assert float(first["explained_variance"]) == 0.0  # a new head says 0 everywhere
    for _ in range(8):
        state, metrics = used.learn(rollout, outcomes, state=state)
    assert float(metrics["explained_variance"]) > 0.1
    assert float(metrics["value_loss"]) < float(first["value_loss"])


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_equal_rewards_move_no_group_baseline(algorithm):
    used = bench(algorithm=algorithm, config=PPOConfig(kl=KLConfig(coefficient=0.0)))
    rollout, outcomes = a_round()
    equal = outcomes._replace(rewards_B=np.full(ROWS, 0.7, np.float32))
    state, _ = used.learn(rollout, equal, beta=0.0)
    for old, new in zip(leaves(used.state.policy), leaves(state.policy), strict=True):
        np.testing.assert_array_equal(old, new)
    moved, _ = used.learn(rollout, outcomes, beta=0.0)
    assert any((a != b).any() for a, b in zip(leaves(used.state.policy), leaves(moved.policy), strict=True))


def test_one_device_equals_eight():
    config = PPOConfig(epochs=2, minibatches=2)
    one = bench(config=config, body="experts", share_prompts=False)
    eight = bench(config=config, body="experts", devices=8)
    assert one.samples == eight.samples == 1  # 16 rows in 2 minibatches over 8 devices: a row each
    close(one.score(a_round()[0]), eight.score(a_round()[0]))
    (a, said_a), (b, said_b) = one.learn(*a_round()), eight.learn(*a_round())
    close(a.critic, b.critic, 1e-3)
    close(a.policy, b.policy, 1e-3)
    close(said_a, said_b, 1e-3)


@pytest.mark.parametrize(
    "other",
    [{"config": PPOConfig(accumulate=4)}, {"share_prompts": False}, {"remat": "full"}],
    ids=["accumulated", "row by row", "rematerialised"],
)
def test_how_it_is_computed_does_not_change_the_step(other):
    rollout, outcomes = a_round()
    (a, said_a), (b, said_b) = (bench(**{"body": "frozen"} | o).learn(rollout, outcomes) for o in ({}, other))
    close(a.critic, b.critic, 1e-3)
    # moments, not weights: Adam's first step is ± the rate even where a gradient is all rounding
    close(a.policy_optimizer, b.policy_optimizer, 1e-4)
    close(said_a["policy_loss"], said_b["policy_loss"], 1e-4)


def test_policy_gradient_of_masked_tokens_is_0():
    """Behind the policy mask even impossible old scores change no bit of the policy's step."""
    used = bench(config=PPOConfig(kl=KLConfig(coefficient=0.0), whiten=False, minibatches=2))
    rollout, outcomes = a_round()
    scores = used.score(rollout)
    plain = scores._replace(reference_BW=scores.logprobs_BW)
    dead_BW = jnp.asarray(outcomes.policy_mask_BW == 0)
    poisoned = plain._replace(logprobs_BW=jnp.where(dead_BW, -50.0, plain.logprobs_BW))
    poisoned = poisoned._replace(reference_BW=poisoned.logprobs_BW)
    (a, _), (b, _) = (used.learn(rollout, outcomes, beta=0.0, scores=s) for s in (plain, poisoned))
    for x, y in zip(leaves(a.policy), leaves(b.policy), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_round_without_any_token_to_learn_from_is_harmless():
    used = bench(body="frozen")
    rollout, outcomes = a_round()
    nothing = outcomes._replace(policy_mask_BW=np.zeros((ROWS, LENGTH), np.float32))
    state, metrics = used.learn(rollout, nothing)
    assert int(state.failed) == 0
    assert float(metrics["masked_share"]) == 1.0
    assert float(metrics["policy_grad_norm"]) == 0.0


def test_what_is_not_finite_stops_everything_before_it_spreads():
    used = bench(body="frozen")
    rollout, outcomes = a_round()
    state, _ = used.learn(rollout, outcomes._replace(rewards_B=np.full(ROWS, np.nan, np.float32)))
    assert int(state.failed) == 1
    for old, new in zip(leaves(used.state[:4]), leaves(state[:4]), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("body", ["frozen", "experts"])
def test_one_backbone_for_three_models_is_never_copied(body):
    used = bench(body=body)
    assert used.weights.reference is None
    base = jax.tree.leaves(used.weights.frozen)
    pointers, values = [leaf.unsafe_buffer_pointer() for leaf in base], leaves(base)
    held = sum(leaf.nbytes for leaf in jax.live_arrays())
    state, _ = used.learn(*a_round())
    assert [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(used.weights.frozen)] == pointers
    for old, new in zip(values, leaves(base), strict=True):
        np.testing.assert_array_equal(old, new)
    # what a round leaves behind is the new state, and not another base
    more = sum(leaf.nbytes for leaf in jax.live_arrays()) - held
    assert more < sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + sum(v.nbytes for v in values) / 2


def test_frozen_critic_reads_the_reference_and_starts_at_0():
    scores = bench(body="frozen").score(a_round()[0])
    assert not np.asarray(scores.values_BW).any()
    assert scores.features_BWD.shape == (ROWS, LENGTH, SMALL.hidden_size)
    assert np.abs(np.asarray(scores.logprobs_BW - scores.reference_BW)).max() > 1e-3


def test_rows_are_cut_evenly_or_refused():
    assert samples_together(4, 16, 4, 1) == 16
    assert samples_together(1, 16, 4, 1) == 4
    assert samples_together(2, 4, 1, 8) == 1
    with pytest.raises(ValueError, match="must divide by minibatches"):
        samples_together(3, 2, 4, 1)
    with pytest.raises(ValueError, match="must divide the 4 samples"):
        finer(a_round()[0], 3)


def test_kl_coefficient_follows_its_target():
    adaptive = PPOConfig(kl=KLConfig(target=1.0, horizon=100.0))
    assert next_beta(adaptive, 0.1, 5.0, 10) == pytest.approx(0.1 * 1.02)
    assert next_beta(PPOConfig(), 0.1, 5.0, 10) == 0.1


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"epochs": 0}, "epochs"), ({"clip_low": 1.5}, "clip_low"), ({"decay": 2.0}, "decay")],
)
def test_settings_out_of_range_are_named(changes, named):
    with pytest.raises(ValueError, match=named):
        PPOConfig(**changes)
