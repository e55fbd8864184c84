"""Programs -> rewards and masks, while the device does something else.

Every process grades its own share of the rows; what the graders found is then put together on all.
"""

import time
from concurrent.futures import Future
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from rl.feedback.grader import Grader
from rl.feedback.language import CompilerFeedback
from rl.feedback.rewards import VERDICTS
from rl.policy.trajectory import Outcomes
from rl.stepcoder.executed_tokens import mask as executed_mask
from rl.stepcoder.program_end import answer_tokens
from rl.stepcoder.rollouts import Sampled, SampledRow

MaskKind = Literal["fgo", "response"]


class Graded(NamedTuple):
    """The verdicts of a round, the same on every process.

    Attributes:
      verdict_B: index into rl.feedback.rewards.VERDICTS.
      feedback: by row, of the rows that this process graded.
      latency_s: mean and largest time from handing in a program to its verdict, over this process's.
      seconds: from handing in the first to having the last.
    """

    outcomes: Outcomes
    verdict_B: np.ndarray
    feedback: dict[int, CompilerFeedback]
    latency_s: tuple[float, float]
    seconds: float

    @property
    def passed(self) -> np.ndarray:
        """Which programs passed all tests."""
        return self.verdict_B == VERDICTS.index("pass")


class Grading:
    """Programs on their way through the graders; the caller uses the device meanwhile.

    Equal programs for one problem are run once.
    """

    def __init__(self, grader: Grader, sampled: Sampled):
        self._sampled, self._began = sampled, time.perf_counter()
        self._futures: dict[int, Future[CompilerFeedback]] = {}
        self._ended: list[float] = []
        known: dict[tuple[str, str], Future[CompilerFeedback]] = {}
        for number, row in enumerate(sampled.rows):
            if number % jax.process_count() != jax.process_index():
                continue
            name = (row.task.problem.id, row.extracted.program)
            if name not in known:
                known[name] = grader.submit(row.task.problem, row.extracted.program)
                known[name].add_done_callback(lambda _: self._ended.append(time.perf_counter()))
            self._futures[number] = known[name]

    def result(self, kind: MaskKind) -> Graded:
        """Waits for the verdicts and makes rewards and policy masks of them.

        Nothing is learned from tokens behind the program.

        Args:
          kind: fgo leaves tokens that no test executed out of the policy's loss, response keeps them.
        """
        mask = self._sampled.rollout.response_mask_BW
        # numpy on the host, where a record of a step says jax.Array
        rewards: Any = np.zeros(len(mask), np.float32)
        policy_mask: Any = np.zeros(mask.shape, np.float32)  # likewise
        verdicts = np.zeros(len(mask), np.int32)
        feedback = {row: future.result() for row, future in self._futures.items()}
        for row, told in feedback.items():
            rewards[row], verdicts[row] = told.reward, VERDICTS.index(told.verdict)
            policy_mask[row] = mask[row]
            _, response, found = self._sampled.rows[row]
            policy_mask[row, answer_tokens(response, found.end) :] = 0.0
            if kind == "fgo":
                ran = _executed(self._sampled.rows[row], told)[: mask.shape[1]]
                policy_mask[row, : len(ran)] *= ran
        if jax.process_count() > 1:  # each row was graded by one process and is 0 on the others
            shares = multihost_utils.process_allgather((rewards, verdicts, policy_mask))
            rewards, verdicts, policy_mask = (np.asarray(share).sum(0) for share in shares)
        waits = np.asarray(self._ended or [self._began]) - self._began
        truncated: Any = self._sampled.truncated_B.astype(np.float32)  # likewise
        limits: Any = np.asarray([row.task.limit for row in self._sampled.rows], np.float32)
        return Graded(
            Outcomes(rewards, policy_mask, truncated, limits),
            verdicts,
            feedback,
            (float(waits.mean()), float(waits.max())),
            time.perf_counter() - self._began,
        )


def _executed(row: SampledRow, feedback: CompilerFeedback) -> np.ndarray:
    """1 for each token of the response that ran in a test, or stands outside the program."""
    _, response, found = row
    if found.shift is None:
        return np.ones(len(response.offsets), np.float32)
    ran = executed_mask(
        found.program, feedback.executed, response.offsets, shift=found.shift, keep_if_incomplete=True
    )
    before = [end <= found.start for _, end in response.offsets]  # words in front of the program
    return np.maximum(np.asarray(ran, np.float32), before)
