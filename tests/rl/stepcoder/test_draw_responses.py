"""What both ways to draw responses promise: limits, stop tokens, keys, log-probabilities of draws."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxmoe.generation.sampling import Sampling
from rl.stepcoder.engine_sampler import EngineSampler
from rl.stepcoder.program_end import answer_tokens
from rl.stepcoder.prompts import make_prompt
from rl.stepcoder.rollouts import RolloutConfig, RolloutTask
from rl.stepcoder.sampler import Sampler
from tests.rl.stepcoder.small_policy import TOKENIZER, a_problem, a_sampler

KINDS = (Sampler, EngineSampler)


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_respects_limits_stop_tokens_and_keys(kind):
    sampler, parts = a_sampler(kind)
    tasks = [
        RolloutTask(a_problem(i), make_prompt(TOKENIZER, a_problem(i)), limit)
        for i, limit in ((0, 5), (1, 30))
    ]
    rollout = RolloutConfig(smallest_bucket=32, form="completion")

    def sample(seed):
        return sampler.sample(
            parts.trainable,
            parts.frozen,
            tasks,
            rollout,
            samples=3,
            sampling=Sampling(1.0),
            key=jax.random.key(seed),
        )

    first, again, other = sample(0), sample(0), sample(1)
    np.testing.assert_array_equal(first.rollout.responses_BW, again.rollout.responses_BW)
    assert (first.rollout.responses_BW != other.rollout.responses_BW).any()
    sampled = np.asarray([len(row.response.offsets) for row in first.rows])
    assert (sampled[:3] <= 5).all()
    assert (sampled[3:] <= 30).all()
    lengths = first.rollout.response_mask_BW.sum(1)
    assert first.tail_tokens == sampled.sum() - lengths.sum()
    assert first.rollout.samples == 3
    for row, (task, response, extracted) in enumerate(first.rows):
        assert task is tasks[row // 3]
        assert extracted.program.startswith(task.prompt.given)
        assert lengths[row] == answer_tokens(response, first.rows[row].extracted.end)


@pytest.mark.parametrize("kind", KINDS)
def test_the_rollout_knows_with_which_probability_its_tokens_were_drawn(kind):
    """At temperature 1 without a nucleus that is the policy's; for an exam it is not asked for."""
    sampler, parts = a_sampler(kind)
    config = RolloutConfig(smallest_bucket=32, form="completion")
    tasks = [RolloutTask(a_problem(0), make_prompt(TOKENIZER, a_problem(0)), 12)]
    how: dict[str, Any] = {"samples": 2, "key": jax.random.key(0), "sampling": Sampling(1.0)}
    rollout = sampler.sample(parts.trainable, parts.frozen, tasks, config, **how).rollout
    assert rollout.sampler_logprobs_BW is not None
    mask = rollout.response_mask_BW > 0
    assert (rollout.sampler_logprobs_BW[mask] < 0).all()
    assert not rollout.sampler_logprobs_BW[~mask].any()
    exam = sampler.sample(parts.trainable, parts.frozen, tasks, config, **how, for_learning=False)
    assert exam.rollout.sampler_logprobs_BW is None
    np.testing.assert_array_equal(exam.rollout.responses_BW, rollout.responses_BW)
    spare = sampler.sample(parts.trainable, parts.frozen, tasks, config, **how, spare_slot=True)
    assert not spare.rollout.response_mask_BW[:, -1].any()
