"""Programs -> rewards and masks, while the device does something else or other programs are still sampled.

Every process grades its own share of the rows; the verdicts are then shared with all of them.
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
      feedback: by row, for the rows that this process graded.
      latency_s: mean and largest time from submitting a program to its verdict, over this process's programs.
      seconds: from submitting the first to receiving the last.
      waited_s: the part of these seconds spent only waiting for verdicts.
    """

    outcomes: Outcomes
    verdict_B: np.ndarray
    feedback: dict[int, CompilerFeedback]
    latency_s: tuple[float, float]
    seconds: float
    waited_s: float = 0.0

    @property
    def passed(self) -> np.ndarray:
        """Which programs passed all tests."""
        return self.verdict_B == VERDICTS.index("pass")


class Grading:
    """Programs being graded; the caller samples or uses the device meanwhile.

    Equal programs for one problem are run once.

    Args:
      grader: of programs.
      sampled: the rollout, if it already exists; otherwise its rows are added as they come.
    """

    def __init__(self, grader: Grader, sampled: Sampled | None = None):
        self._grader, self._began = grader, time.perf_counter()
        self._sampled: Sampled | None = None
        self._futures: dict[int, Future[CompilerFeedback]] = {}
        self._known: dict[tuple[str, str], Future[CompilerFeedback]] = {}
        self._waits: list[float] = []
        if sampled is not None:
            self.complete(sampled)

    def add(self, number: int, row: SampledRow) -> None:
        """Submits a program, if it is one of this process's.

        Args:
          number: of the row in its rollout.
          row: with the program.
        """
        if number % jax.process_count() != jax.process_index():
            return
        now = time.perf_counter()
        if not self._futures:
            self._began = now
        name = (row.task.problem.id, row.extracted.program)
        if name not in self._known:
            self._known[name] = self._grader.submit(row.task.problem, row.extracted.program)
            self._known[name].add_done_callback(lambda _: self._waits.append(time.perf_counter() - now))
        self._futures[number] = self._known[name]

    def complete(self, sampled: Sampled) -> None:
        """Takes the rollout that these rows belong to, and submits those that were not added before.

        Args:
          sampled: the rollout.
        """
        self._sampled = sampled
        for number, row in enumerate(sampled.rows):
            if number not in self._futures:
                self.add(number, row)

    def result(self, kind: MaskKind) -> Graded:
        """Waits for the verdicts and turns them into rewards and policy masks.

        Nothing is learned from tokens after the program.

        Args:
          kind: fgo leaves tokens that no test executed out of the policy's loss, response keeps them.
        Returns: the same on every process.
        """
        assert self._sampled is not None
        called = time.perf_counter()
        mask = self._sampled.rollout.response_mask_BW
        # numpy arrays on the host, although the record of a step declares jax.Array
        rewards: Any = np.zeros(len(mask), np.float32)
        policy_mask: Any = np.zeros(mask.shape, np.float32)  # likewise
        verdicts = np.zeros(len(mask), np.int32)
        feedback = {row: self._futures[row].result() for row in sorted(self._futures)}
        ended = time.perf_counter()
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
        waits = self._waits or [0.0]
        truncated: Any = self._sampled.truncated_B.astype(np.float32)  # likewise
        limits: Any = np.asarray([row.task.limit for row in self._sampled.rows], np.float32)
        return Graded(
            Outcomes(rewards, policy_mask, truncated, limits),
            verdicts,
            feedback,
            (float(np.mean(waits)), max(waits)),
            ended - self._began,
            ended - called,
        )


def _executed(row: SampledRow, feedback: CompilerFeedback) -> np.ndarray:
    """1 for each token of the response that ran in a test, or lies outside the program."""
    _, response, found = row
    if found.shift is None:
        return np.ones(len(response.offsets), np.float32)
    ran = executed_mask(
        found.program, feedback.executed, response.offsets, shift=found.shift, keep_if_incomplete=True
    )
    before = [end <= found.start for _, end in response.offsets]  # words before the program
    return np.maximum(np.asarray(ran, np.float32), before)
