"""PPO's update: exact first ratio, nothing moves at rate 0, devices, accumulation, shared buffers, masks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmoe.model import params
from jaxmoe.model.config import ExpertConfig, ModelConfig
from jaxmoe.model.cross_entropy import TokenScores
from rl.policy.agent import Agent, ForwardConfig, Weights, make_score, samples_together
from rl.policy.algorithms import ALGORITHMS, settled
from rl.policy.config import KLConfig, RLConfig
from rl.policy.critic import new_critic
from rl.policy.experience import prepare, value_after
from rl.policy.ppo import AgentState, Learner, next_beta, update
from rl.policy.trajectory import Outcomes, PolicyScores, Rollout, finer
from tests.tolerances import DOUBLE, assert_same, double_precision, rounding_bound

SMALL = ModelConfig(
    vocab_size=32, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8
)
PROMPTS, SAMPLES, SLOTS, LENGTH = 4, 4, 6, 5
ROWS = PROMPTS * SAMPLES


def bench(**settings):
    """Benches are cached: compiling takes longer than everything else here."""
    return _bench(jax.config.jax_enable_x64, **settings)


@functools.cache
def _bench(double, **settings):
    return Bench(**settings)


class Bench:
    """An agent with random experts, and everything a round needs."""

    def __init__(
        self, config=None, *, algorithm="ppo", body="frozen", experts=True, devices=1, lr=1e-2, **forward
    ):
        self.config = settled(algorithm, config or RLConfig())
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
    mask = (np.arange(LENGTH) < lengths).astype(jnp.float32)
    responses = (rng.integers(1, 32, (ROWS, LENGTH)) * mask).astype(np.int32)
    rollout = Rollout(prompts, prompt_mask, responses, mask)
    executed = mask * (rng.random((ROWS, LENGTH)) < 0.7)
    return rollout, Outcomes(rng.choice([1.0, -0.3], ROWS).astype(jnp.float32), executed.astype(jnp.float32))


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def close(a, b):
    """In double precision; counts, masks and their shares, which are not computed in it, are equal."""
    for x, y in zip(leaves(a), leaves(b), strict=True):
        if x.dtype == np.float64:
            assert_same(x, y)
        else:
            np.testing.assert_array_equal(x, y)


KINDS = [
    {"body": "frozen"},
    {"body": "experts"},
    {"body": "full", "experts": False},
    {"body": "frozen", "share_prompts": False},
    {"config": RLConfig(minibatches=2, accumulate=2)},
    {"algorithm": "grpo", "config": RLConfig(kl=KLConfig(place="loss"))},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@double_precision()
def test_the_first_ratio_is_exactly_1(kind):
    state, metrics = bench(**kind).learn(*a_round())
    assert float(metrics["first_ratio_error"]) == 0.0
    assert float(metrics["first_rescoring_error"]) < DOUBLE
    assert int(state.failed) == 0
    assert all(np.isfinite(v) for v in leaves(metrics))


@double_precision()
def test_with_rate_0_nothing_moves():
    used = bench(config=RLConfig(epochs=2, minibatches=2), body="experts", lr=0.0)
    state, metrics = used.learn(*a_round())
    for old, new in zip(leaves(used.state[:3:2]), leaves(state[:3:2]), strict=True):
        np.testing.assert_array_equal(old, new)
    assert float(metrics["policy_grad_norm"]) > 0
    assert float(metrics["ratio"]) == pytest.approx(1.0, abs=DOUBLE)


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


@pytest.mark.parametrize("algorithm", sorted(set(ALGORITHMS) - {"ppo", "reinforce++"}))
def test_equal_rewards_move_no_group_baseline(algorithm):
    used = bench(algorithm=algorithm, config=RLConfig(kl=KLConfig(coefficient=0.0)))
    rollout, outcomes = a_round()
    outcomes = outcomes._replace(limits_B=np.full(ROWS, 100.0, np.float32))
    equal = outcomes._replace(rewards_B=np.full(ROWS, 0.7, np.float32))
    state, _ = used.learn(rollout, equal, beta=0.0)
    for old, new in zip(leaves(used.state.policy), leaves(state.policy), strict=True):
        np.testing.assert_array_equal(old, new)
    moved, _ = used.learn(rollout, outcomes, beta=0.0)
    assert any((a != b).any() for a, b in zip(leaves(used.state.policy), leaves(moved.policy), strict=True))


@double_precision()
def test_one_device_equals_eight():
    config = RLConfig(epochs=2, minibatches=2)
    one = bench(config=config, body="experts", share_prompts=False)
    eight = bench(config=config, body="experts", devices=8)
    assert one.samples == eight.samples == 1  # 16 rows in 2 minibatches over 8 devices: a row each
    close(one.score(a_round()[0]), eight.score(a_round()[0]))
    (a, said_a), (b, said_b) = one.learn(*a_round()), eight.learn(*a_round())
    close((a.critic, a.policy, said_a), (b.critic, b.policy, said_b))


@pytest.mark.parametrize(
    "other",
    [{"config": RLConfig(accumulate=4)}, {"share_prompts": False}, {"remat": "full"}],
    ids=["accumulated", "row by row", "recomputed"],
)
@double_precision()
def test_how_it_is_computed_does_not_change_the_step(other):
    rollout, outcomes = a_round()
    (a, said_a), (b, said_b) = (bench(**{"body": "frozen"} | o).learn(rollout, outcomes) for o in ({}, other))
    close(a.critic, b.critic)
    # moments, not weights: Adam's first step is ± the rate even where a gradient is all rounding
    close(a.policy_optimizer, b.policy_optimizer)
    close(said_a["policy_loss"], said_b["policy_loss"])


def test_policy_gradient_of_masked_tokens_is_0():
    """Behind the policy mask even impossible old scores change no bit of the policy's step."""
    used = bench(config=RLConfig(kl=KLConfig(coefficient=0.0), normalize_advantages=False, minibatches=2))
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
    with pytest.raises(ValueError, match="must be divisible by minibatches"):
        samples_together(3, 2, 4, 1)
    with pytest.raises(ValueError, match="must divide the 4 samples"):
        finer(a_round()[0], 3)


def test_kl_coefficient_follows_its_target():
    adaptive = RLConfig(kl=KLConfig(target=1.0, horizon=100.0))
    assert next_beta(adaptive, 0.1, 5.0, 10) == pytest.approx(0.1 * 1.02)
    assert next_beta(RLConfig(), 0.1, 5.0, 10) == 0.1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"epochs": 0}, "epochs"),
        ({"clip_low": 1.5}, "clip_low"),
        ({"gae_lambda": 2.0}, "gae_lambda"),
        ({"dual_clip": 1.1}, "dual_clip"),
        ({"importance_cap": 0}, "cap"),
    ],
)
def test_settings_out_of_range_are_named(changes, named):
    with pytest.raises(ValueError, match=named):
        settled("ppo", RLConfig(**changes))


@double_precision()
def test_the_agents_temperature_divides_the_logits():
    used = bench(body="frozen")
    rollout, _ = a_round()
    agent = dataclasses.replace(used.agent, temperature=0.5)
    policy, frozen = used.state.policy, used.weights.frozen
    states = agent.states(policy, frozen, rollout)
    model = params.merge(params.ModelParams(agent.definition, policy, frozen))
    scores = jax.nn.log_softmax(states @ model.output_head(jnp.float32, used.mesh).kernel_DV / 0.5)
    expected = jnp.take_along_axis(scores, jnp.asarray(rollout.responses_BW)[..., None], -1)[..., 0]
    found = agent.token_scores(policy, frozen, states, rollout)
    assert_same(found.logprob_BT, expected)
    assert_same(found.entropy_BT, -(jnp.exp(scores) * scores).sum(-1))


# two prompts with two samples each, three slots; the numbers are the policy's log-probabilities themselves
MASK = np.asarray([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 1.0]])
LOGPROBS = -np.asarray([[0.5, 1.0, 9], [0.2, 0.4, 0.6], [1.5, 9, 9], [0.1, 0.2, 0.3]])
VALUES = np.asarray([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9], [1.0, 1.1, 1.2]])


def given(truncated=None, *, sampler=None, values=VALUES):
    zeros = np.zeros((2, 1), np.int32)
    rollout = Rollout(zeros, zeros + 1, np.zeros((4, 3), np.int32), MASK, sampler)
    marks = None if truncated is None else np.asarray(truncated, np.float32)
    outcomes = Outcomes(np.asarray([1.0, -0.3, -1.0, -0.6]), MASK, marks)
    return rollout, outcomes, PolicyScores(LOGPROBS, LOGPROBS - 0.25, values)


def test_truncated_responses_are_left_out_of_everything():
    config = RLConfig(truncated="drop", kl=KLConfig(coefficient=0.0))
    experience, metrics = prepare("ppo", config, *given([0, 0, 1, 0]), 0.0)
    kept = np.asarray([1, 1, 0, 1.0], np.float32)[:, None]
    np.testing.assert_array_equal(experience.rollout.response_mask_BW, MASK * kept)
    np.testing.assert_array_equal(experience.policy_mask_BW, MASK * kept)
    counted = np.asarray(experience.advantages_BW)[(MASK * kept) > 0]
    bound = rounding_bound(10 * len(counted), np.abs(counted).max())
    np.testing.assert_allclose([counted.mean(), counted.std(ddof=1)], [0.0, 1.0], atol=bound)
    assert float(metrics["masked_share"]) == pytest.approx(1 / 9)
    # its sibling is alone: nothing to compare with
    group, _ = prepare("grpo", config, *given([0, 0, 1, 0]), 0.0)
    assert not np.asarray(group.advantages_BW)[2:].any()
    assert np.asarray(group.advantages_BW)[:2].any()


@double_precision()
def test_the_return_of_a_truncated_response_goes_on_with_the_value_behind_it():
    """γ = 1, λ = 1: its verdict does not count, the value in slot 1 (.8) does."""
    config = RLConfig(truncated="bootstrap", gae_lambda=1.0, kl=KLConfig(coefficient=0.0))
    experience, _ = prepare("ppo", config, *given([0, 0, 1, 0]), 0.0)
    np.testing.assert_allclose(
        experience.targets_BW, [[1, 1, 0], [-0.3] * 3, [0.8, 0, 0], [-0.6] * 3], rtol=DOUBLE
    )
    np.testing.assert_allclose(value_after(VALUES, MASK), [0.3, 0.6, 0.8, 1.2])
    graded, _ = prepare("ppo", RLConfig(gae_lambda=1.0), *given([0, 0, 1, 0]), 0.0)
    np.testing.assert_allclose(graded.targets_BW[2], [-1.0, 0, 0], rtol=DOUBLE)


def test_bootstrapping_needs_a_critic_and_a_slot_behind():
    config = RLConfig(truncated="bootstrap")
    with pytest.raises(ValueError, match=r"truncated=bootstrap needs a critic, which algorithm=grpo"):
        prepare("grpo", config, *given([0, 0, 1, 0]), 0.0)
    used = bench(config=config)
    rollout, outcomes = a_round()
    marks = rollout.response_mask_BW[:, -1]
    with pytest.raises(ValueError, match=f"got {int(marks.sum())} rows without one"):
        used.learn(rollout, outcomes._replace(truncated_B=marks))


def test_an_unknown_algorithm_is_named():
    with pytest.raises(ValueError, match=r"one of ppo, grpo, rloo, .*; got 'grpoo'; did you mean grpo\?"):
        prepare("grpoo", RLConfig(), *given(), 0.0)


@double_precision()
def test_the_gap_between_sampler_and_learner_is_reported_and_weighed():
    """Sampler at a third and at four times the policy's probability, here and there: weights 2 and 1/4."""
    apart = np.asarray([[-np.log(3), 0, 0], [0] * 3, [np.log(4), 0, 0], [0] * 3])
    experience, metrics = prepare("ppo", RLConfig(), *given(sampler=LOGPROBS + apart), 0.0)
    weights = np.ones((4, 3))
    weights[0, 0], weights[2, 0] = 2.0, 0.25
    np.testing.assert_allclose(experience.importance_BW, weights, rtol=DOUBLE)
    assert float(metrics["sampler_gap"]) == pytest.approx((np.log(3) - np.log(4)) / 4, rel=DOUBLE)
    assert float(metrics["sampler_gap_largest"]) == pytest.approx(np.log(4), rel=DOUBLE)
    assert float(metrics["importance_bounded"]) == pytest.approx(1 / 9)
    plain, told = prepare("ppo", RLConfig(importance_cap=None), *given(sampler=LOGPROBS + apart), 0.0)
    assert (np.asarray(plain.importance_BW) == 1).all()
    assert float(told["sampler_gap_largest"]) == pytest.approx(np.log(4), rel=DOUBLE)


class Table:
    """An agent whose policy is a table of log-probabilities: gradients can be written down."""

    mesh = None

    def states(self, policy, frozen, rollout):
        return None

    def token_scores(self, policy, frozen, states, rollout):
        return TokenScores(policy, jnp.zeros_like(policy))


KEEP = optax.GradientTransformation(
    jnp.zeros_like, lambda grads, state, params=None: (jnp.zeros_like(grads), grads)
)


def gradient(config, experience, beta=0.0):
    """Of the policy's whole loss, by each log-probability."""
    table = jnp.asarray(LOGPROBS)
    state = AgentState(table, jnp.zeros_like(table), None, None, jnp.zeros((), jnp.int32))
    after, metrics = update(
        Table(), "grpo", config, (KEEP, KEEP), state, Weights({}, None), experience, jnp.float32(beta), True
    )  # type: ignore[arg-type]
    return np.asarray(after.policy_optimizer), metrics


@double_precision()
def test_the_loss_of_a_token_is_multiplied_by_its_importance():
    apart = np.zeros((4, 3))
    apart[0, 0] = np.log(4)  # the sampler was four times as sure
    config = RLConfig(kl=KLConfig(coefficient=0.0))
    experience, _ = prepare("grpo", config, *given(sampler=LOGPROBS + apart), 0.0)
    grads, _ = gradient(config, experience)
    expected = -np.asarray(experience.advantages_BW) * MASK / 9
    expected[0, 0] /= 4
    np.testing.assert_allclose(grads, expected, rtol=DOUBLE, atol=DOUBLE)


@double_precision()
@pytest.mark.parametrize(
    ("aggregation", "weights"),
    [
        ("token_mean", MASK / 9),
        ("sequence_mean", MASK / MASK.sum(1, keepdims=True) / 4),
        ("constant", MASK / (4 * 50)),
    ],
)
def test_the_kl_in_the_loss_is_aggregated_as_the_loss_is(aggregation, weights):
    """k2 = l² / 2 with l = .25 everywhere: its gradient is β w .25, whatever the policy mask leaves."""
    constant = 50.0 if aggregation == "constant" else None
    config = RLConfig(aggregation=aggregation, constant=constant, kl=KLConfig(coefficient=0.1, place="loss"))
    rollout, outcomes, scores = given()
    few = outcomes._replace(policy_mask_BW=MASK * np.asarray([1, 0, 0.0]))
    experience, _ = prepare("grpo", config, rollout, few, scores, 0.0)
    experience = experience._replace(advantages_BW=jnp.zeros((4, 3)))
    grads, metrics = gradient(config, experience, beta=0.1)
    np.testing.assert_allclose(grads, 0.1 * weights * 0.25, rtol=DOUBLE, atol=DOUBLE)
    assert float(metrics["kl_loss"]) == pytest.approx((weights * 0.25**2 / 2).sum(), rel=DOUBLE)
