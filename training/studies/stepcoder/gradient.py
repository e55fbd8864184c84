"""Is the gradient better without tokens that no test executed? Measured at a base, before any practice.

The policy gradient of one round's batch is compared with a reference: the mean gradient of many other batches
of the same policy, graded with many tests and without a mask, which is what more samples and more tests
converge to. The batch itself is graded with few tests, and its gradient is taken with the mask (FGO) and
without:

    cosine(batch, reference) = ⟨g, r⟩ / (|g| |r|)

Advantages compare the samples of a prompt (RLOO), with no critic and no KL penalty: a critic knows nothing
before the first round, and the policy is its own reference. The few tests of a problem are drawn at random
from the many, the same for both gradients.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from jaxmoe.text.stop_tokens import stop_tokens
from jaxmoe.tokenizer import load_tokenizer, pad_id
from rl.feedback.grader import Grader
from rl.feedback.problems import Problem
from rl.policy.agent import ForwardConfig
from rl.policy.algorithms import adapted
from rl.policy.config import RLConfig
from rl.policy.experience import prepare
from rl.policy.ppo import AgentState, update
from rl.policy.trajectory import Experience, Outcomes, PolicyScores
from rl.stepcoder.grading import Graded, Grading
from rl.stepcoder.rollouts import Sampled, problems_of_round, resolved
from rl.stepcoder.sampler import Sampler
from training.ppo.policy import learner_temperature, make_agent
from training.ppo.problems import EmbeddedConfig, ProblemsConfig, fewer_tests, make_task, open_problems
from training.runtime.model import make_model
from training.studies.cells import Result, Stopped, StoppedError
from training.studies.stepcoder.setup import PolicySetup

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class GradientConfig:
    """How the gradients are measured.

    Attributes:
      tests: numbers of tests per problem when there are few; 0 means all tests.
      batches: number of gradients that are compared with the reference.
      reference: number of batches that the reference averages.
      problems: problems to sample on, with many tests.
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


def measure(
    setup: PolicySetup, rl: RLConfig, forward: ForwardConfig, gradient: GradientConfig, stopped: Stopped
) -> Result:
    """Cosines of every batch, by number of tests.

    Args:
      forward: settings of the policy's forward pass.
      gradient: numbers of batches and tests.
      stopped: returns true to end before the next batch.
      setup: setup of a run that would start here; its problems are unused, its seed draws the batches.
      rl: that run's RL settings; there is no KL penalty here.
    Returns: plain JSON.
    Raises: StoppedError between two batches.
    """
    tokenizer = load_tokenizer(setup.base)
    setup = setup._replace(rollout=resolved(setup.rollout, tokenizer))
    with setup.sandbox.grader(trace=True) as pool:
        problems = open_problems(gradient.problems, pool, None, setup.rollout, tokenizer).train
        batches = _Batches(setup, rl, forward, tokenizer, problems)
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
                rows.append(_compare(batches, pool, sampled, full, gradient.tests, total, setup.seed))
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
    """For one batch, by number of tests: cosines without and with the mask, the tokens that it leaves out,
    and the share of passing programs that fail with all tests."""
    found = {}
    for count in tests:
        graded = full
        if count:
            rows = [
                row._replace(task=row.task._replace(problem=fewer_tests(row.task.problem, count, seed)))
                for row in sampled.rows
            ]
            graded = Grading(pool, sampled._replace(rows=rows)).result("fgo")
        mask = np.asarray(sampled.rollout.response_mask_BW)
        found[count] = {
            "plain": cosine(batches.gradient(sampled, graded, masked=False), reference),
            "masked": cosine(batches.gradient(sampled, graded, masked=True), reference),
            "left_out": 1.0 - float(np.asarray(graded.outcomes.policy_mask_BW).sum() / mask.sum()),
            "false_passes": _share(graded.passed & ~full.passed, graded.passed),
        }
    return found


def cosine(a: np.ndarray, b: np.ndarray) -> float | None:
    """Cosine of two vectors; None if one of them is 0.

    Args:
      a, b: vectors of the same length.
    Returns: cosine in [-1, 1].
    """
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths > 0 and math.isfinite(lengths) else None


def _share(part: np.ndarray, whole: np.ndarray) -> float | None:
    return float(part.sum() / whole.sum()) if whole.any() else None


class _Batches:
    """Rounds of one policy and their gradients."""

    def __init__(
        self,
        setup: PolicySetup,
        rl: RLConfig,
        forward: ForwardConfig,
        tokenizer: "PreTrainedTokenizerBase",
        problems: Sequence[Problem],
    ):
        mesh, rollout = setup.mesh.make(), setup.rollout
        model = make_model(setup.source, tokenizer, mesh)
        rl = replace(adapted("rloo", rl), accumulate=1, kl=replace(rl.kl, coefficient=0.0, target=None))
        agent, self._weights, _ = make_agent(
            model,
            body=None,
            use_reference=False,
            forward=forward,
            temperature=learner_temperature(rl, rollout),
        )
        self._rollout, self._seed, self._tokenizer, self._problems = rollout, setup.seed, tokenizer, problems
        self._policy = model.lm.weights.trainable
        ends, pad = stop_tokens(tokenizer, model.lm.stop_tokens), pad_id(tokenizer)
        self._sampler = Sampler(agent.definition, mesh, tokenizer, ends, pad, agent.dtype)
        # a step that changes nothing and leaves the gradient in the optimizer state
        keep = optax.GradientTransformation(
            lambda params: jax.tree.map(jnp.zeros_like, params),
            lambda updates, state, params=None: (jax.tree.map(jnp.zeros_like, updates), updates),
        )

        def gradient(policy, weights, rollout, outcomes: Outcomes):
            zero = jnp.zeros(())
            nothing = jnp.zeros_like(rollout.response_mask_BW)
            scores = PolicyScores(nothing, nothing, nothing)
            experience: Experience
            # without old scores, sampler and learner cannot be compared: treated as one distribution
            rollout = rollout._replace(sampler_logprobs_BW=None)
            experience, _ = prepare("rloo", rl, rollout, outcomes, scores, zero)
            state = AgentState(policy, keep.init(policy), None, None, jnp.zeros((), jnp.int32))
            after, _ = update(agent, "rloo", rl, (keep, keep), state, weights, experience, zero, True)
            return ravel_pytree(after.policy_optimizer)[0]

        self._gradient: Callable[..., jax.Array] = jax.jit(gradient)

    def sample(self, number: int) -> Sampled:
        """A round's programs, for problems asked as whole tasks."""
        rollout = self._rollout
        chosen = problems_of_round(number, len(self._problems), rollout.prompts, seed=self._seed)
        tasks = [make_task(self._problems[i], None, rollout, self._tokenizer) for i in chosen]
        return self._sampler.sample(
            self._policy,
            self._weights.frozen,
            tasks,
            rollout,
            samples=rollout.samples,
            sampling=rollout.sampling,
            key=jax.random.fold_in(jax.random.key(self._seed), number),
        )

    def gradient(self, sampled: Sampled, graded: Graded, *, masked: bool) -> np.ndarray:
        """The policy's gradient as one vector."""
        mask = graded.outcomes.policy_mask_BW if masked else sampled.rollout.response_mask_BW
        outcomes = graded.outcomes._replace(policy_mask_BW=mask)
        return np.asarray(self._gradient(self._policy, self._weights, sampled.rollout, outcomes), np.float64)
