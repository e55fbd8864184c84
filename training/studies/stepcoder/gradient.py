"""Is the gradient better without the tokens that no test executed? Measured at a base, before any practice.

The policy gradient of one round's batch is held against a reference: the mean gradient of many other batches
of the same policy, graded with many tests and without a mask, which is what more samples and more tests tend
to. The batch itself is graded with few tests, and its gradient taken with the mask (FGO) and without:

    cosine(batch, reference) = ⟨g, r⟩ / (|g| |r|)

Advantages compare the samples of a prompt (RLOO), with no critic and no KL penalty: a critic knows nothing
before the first round, and the policy is its own reference. The tests of a problem are drawn at random from
the many, the same for both gradients.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from jaxmoe.generation.sampling import Sampling
from jaxmoe.tokenizer import load_tokenizer
from rl.feedback.problems import Problem
from rl.policy.ppo import AgentState, prepare, update
from rl.policy.trajectory import Experience, Outcomes, Scores
from rl.stepcoder.rollouts import Graded, Grader, Grading, Sampled, Sampler, problems_of_round
from training.ppo import train as ppo
from training.ppo.config import PpoConfig
from training.ppo.problems import EmbeddedConfig, ProblemsConfig, make_task, open_problems
from training.studies.cells import Result, Stopped, StoppedError


@dataclass(frozen=True)
class GradientConfig:
    """How the gradients are measured.

    Attributes:
      tests: of each problem, when few; 0 in their place stands for all there are.
      batches: gradients that are compared with the reference.
      reference: batches of which the reference is the mean.
      problems: to sample on, with many tests.
    """

    tests: tuple[int, ...] = (1, 3, 8, 0)
    batches: int = 8
    reference: int = 24
    problems: ProblemsConfig = field(
        default_factory=lambda: ProblemsConfig(held_out=0.0, embedded=EmbeddedConfig(count=96, tests=24))
    )

    def __post_init__(self) -> None:
        if min(self.batches, self.reference) < 1 or not self.tests or min(self.tests) < 0:
            raise ValueError(
                "gradient.batches and gradient.reference must be at least 1, gradient.tests not negative"
            )


def measure(config: PpoConfig, gradient: GradientConfig, stopped: Stopped) -> Result:
    """Cosines of every batch, by number of tests.

    Args:
      config: of a run that would start here; its rollouts and sandbox are used, its seed draws the batches.
    Raises: StoppedError between two batches.
    """
    config = replace(
        config, algorithm="rloo", ppo=replace(config.ppo, kl=replace(config.ppo.kl, coefficient=0.0))
    )
    tokenizer = load_tokenizer(config.base)
    with config.sandbox.pool(trace=True) as pool:
        problems = open_problems(
            gradient.problems, pool, "none", config.cccs, config.rollout, tokenizer
        ).train
        batches = _Batches(config, tokenizer, problems)
        total, rows = np.zeros(0), []
        for number in range(gradient.reference + gradient.batches):
            if stopped():
                raise StoppedError
            sampled = batches.sample(number)
            full = Grading(pool, sampled).result("fgo")
            if number < gradient.reference:
                one = batches.gradient(sampled, full, masked=False)
                total = one if not number else total + one
            else:
                rows.append(_compare(batches, pool, sampled, full, gradient.tests, total, config.seed))
    return {
        "batches": {str(tests): [row[tests] for row in rows] for tests in gradient.tests},
        "problems": len(problems),
        "tests": float(np.mean([len(problem.inputs) for problem in problems])),
    }


def _compare(
    batches: "_Batches",
    pool: Grader,
    sampled: Sampled,
    full: Graded,
    tests: Sequence[int],
    reference,
    seed: int,
) -> dict[int, dict[str, float | None]]:
    """A batch by number of tests: cosines without and with the mask, tokens that it leaves out, and the share
    of the passing programs that fail with all tests."""
    found = {}
    for count in tests:
        graded = full
        if count:
            rows = [(t._replace(problem=fewer(t.problem, count, seed)), r, p) for t, r, p in sampled.rows]
            graded = Grading(pool, sampled._replace(rows=rows)).result("fgo")
        mask = np.asarray(sampled.rollout.response_mask_BW)
        found[count] = {
            "plain": cosine(batches.gradient(sampled, graded, masked=False), reference),
            "masked": cosine(batches.gradient(sampled, graded, masked=True), reference),
            "left_out": 1.0 - float(np.asarray(graded.outcomes.policy_mask_BW).sum() / mask.sum()),
            "false_passes": _share(graded.passed & ~full.passed, graded.passed),
        }
    return found


def fewer(problem: Problem, tests: int, seed: int) -> Problem:
    """The problem with so many of its tests, drawn at random; those for a larger number include them."""
    rng = np.random.default_rng([seed, *problem.id.encode()])
    kept = rng.permutation(len(problem.inputs))[:tests]
    inputs, outputs = ([values[i] for i in kept] for values in (problem.inputs, problem.outputs))
    return replace(problem, inputs=inputs, outputs=outputs)


def cosine(a: np.ndarray, b: np.ndarray) -> float | None:
    """Cosine of two vectors; None where one is 0."""
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths > 0 and math.isfinite(lengths) else None


def _share(part: np.ndarray, whole: np.ndarray) -> float | None:
    return float(part.sum() / whole.sum()) if whole.any() else None


class _Batches:
    """Rounds of one policy, and their gradients."""

    def __init__(self, config: PpoConfig, tokenizer: Any, problems: Sequence[Problem]):
        mesh = config.mesh.make()
        model = ppo.load_policy(config, mesh)
        agent, self._weights, _ = ppo.make_agent(config, model)
        self._config, self._tokenizer, self._problems = config, tokenizer, problems
        self._policy = model.lm.weights.trainable
        ends, pad = (tokenizer.eos_token_id,), tokenizer.pad_token_id
        self._sampler = Sampler(agent.definition, mesh, tokenizer, ends, pad, agent.dtype)
        # a step that changes nothing and leaves the gradient where an optimizer has its moments
        keep = optax.GradientTransformation(
            lambda params: jax.tree.map(jnp.zeros_like, params),
            lambda updates, state, params=None: (jax.tree.map(jnp.zeros_like, updates), updates),
        )
        settings = replace(config.ppo, accumulate=1)

        def gradient(policy, weights, rollout, outcomes: Outcomes):
            zero = jnp.zeros(())
            nothing = jnp.zeros_like(rollout.response_mask_BW)
            scores = Scores(nothing, nothing, nothing)
            experience: Experience
            experience, _ = prepare("rloo", settings, rollout, outcomes, scores, zero)
            state = AgentState(policy, keep.init(policy), None, None, jnp.zeros((), jnp.int32))
            after, _ = update(agent, settings, (keep, keep), state, weights, experience, zero, True)
            return ravel_pytree(after.policy_optimizer)[0]

        self._gradient: Callable[..., Any] = jax.jit(gradient)

    def sample(self, number: int) -> Sampled:
        """A round's programs, of problems asked as whole tasks."""
        config, rollout = self._config, self._config.rollout
        chosen = problems_of_round(number, len(self._problems), rollout.prompts, seed=config.seed)
        tasks = [make_task(self._problems[i], None, rollout, self._tokenizer) for i in chosen]
        return self._sampler.sample(
            self._policy,
            self._weights.frozen,
            tasks,
            rollout,
            samples=rollout.samples,
            sampling=Sampling(rollout.temperature, 0, rollout.top_p),
            key=jax.random.fold_in(jax.random.key(config.seed), number),
        )

    def gradient(self, sampled: Sampled, graded: Graded, *, masked: bool) -> np.ndarray:
        """The policy's gradient as one vector."""
        mask = graded.outcomes.policy_mask_BW if masked else sampled.rollout.response_mask_BW
        outcomes = graded.outcomes._replace(policy_mask_BW=mask)
        return np.asarray(self._gradient(self._policy, self._weights, sampled.rollout, outcomes), np.float64)
