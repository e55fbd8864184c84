"""Rounds put together from several batches: which groups, in which order, padded how."""

import numpy as np

from rl.feedback.language import CompilerFeedback
from rl.policy.trajectory import Outcomes, Rollout
from rl.stepcoder.dynamic_sampling import GradedBatch, assemble, contrast
from rl.stepcoder.grading import Graded
from rl.stepcoder.rollouts import Sampled

SAMPLES = 2


def batch(number, rewards, slots, width, *, scored=True):
    """Prompts and responses that carry the number of their batch and row in every token."""
    rows = len(rewards)
    prompts = (
        np.full((rows // SAMPLES, slots), 0, np.int32) + 10 * number + np.arange(rows // SAMPLES)[:, None]
    )
    tokens = np.zeros((rows, width), np.int32) + 100 * number + np.arange(rows)[:, None]
    mask = np.ones((rows, width), np.float32)
    rollout = Rollout(prompts, np.ones_like(prompts), tokens, mask, -mask * number if scored else None)
    feedback = {row: CompilerFeedback("fail", reward) for row, reward in enumerate(rewards)}
    rewards = np.asarray(rewards, np.float32)
    outcomes = Outcomes(rewards, mask * 0.5, np.zeros(rows, np.float32), np.full(rows, width, np.float32))
    names = [f"{number}-{row}" for row in range(rows)]
    graded = Graded(outcomes, np.arange(rows), feedback, (float(number), 1.0), 2.0)
    return GradedBatch(Sampled(rollout, np.zeros(rows, bool), names, 3, 1.0), graded)


def test_groups_without_contrast_are_those_of_equal_rewards():
    found = contrast(np.asarray([1.0, 1.0, -0.3, -0.6, -1.0, -1.0], np.float32), 2)
    np.testing.assert_array_equal(found, [False, True, False])
    assert not contrast(np.ones(3), 1).any()


def test_a_round_takes_groups_with_contrast_in_their_order_and_fills_up_with_others():
    first = batch(1, [1, 1, 1, -1, 0, 0], slots=2, width=3)
    second = batch(2, [0, 0, 1, 0.5, 0, 0], slots=4, width=2)
    sampled, graded = assemble([first, second], 3)
    # prompt 1 of the first, 1 of the second, then prompt 0 of the first
    assert sampled.rows == ["1-2", "1-3", "2-2", "2-3", "1-0", "1-1"]
    np.testing.assert_array_equal(sampled.rollout.prompts_PS[:, -1], [11, 21, 10])
    np.testing.assert_array_equal(sampled.rollout.prompt_mask_PS, [[0, 0, 1, 1], [1] * 4, [0, 0, 1, 1]])
    np.testing.assert_array_equal(sampled.rollout.response_mask_BW[2:4], [[1, 1, 0]] * 2)
    np.testing.assert_array_equal(sampled.rollout.responses_BW[:, 0], [102, 103, 202, 203, 100, 101])
    np.testing.assert_array_equal(sampled.rollout.sampler_logprobs_BW[:, 0], [-1, -1, -2, -2, -1, -1])
    np.testing.assert_array_equal(graded.outcomes.rewards_B, [1, -1, 1, 0.5, 1, 1])
    np.testing.assert_array_equal(graded.outcomes.limits_B, [3, 3, 2, 2, 3, 3])
    assert graded.outcomes.policy_mask_BW.shape == (6, 3)
    assert [graded.feedback[row].reward for row in range(6)] == [1, -1, 1, 0.5, 1, 1]
    assert (sampled.tail_tokens, sampled.seconds, graded.seconds) == (6, 2.0, 4.0)


def test_enough_groups_of_the_first_batch_leave_the_second_out():
    sampled, _ = assemble([batch(1, [1, 0, 1, 0], 2, 2), batch(2, [1, 0, 1, 0], 2, 2)], 2)
    assert sampled.rows == ["1-0", "1-1", "1-2", "1-3"]
    bare = assemble([batch(1, [1, 0], 2, 2, scored=False)], 1)
    assert bare.sampled.rollout.sampler_logprobs_BW is None
