"""The rounds of a PPO run: sample, grade while the device scores, learn, watch, save, stop.

A round is a function of the state before it and of its number: which problems it takes, the sampler's key and
the order of minibatches are drawn from (seed, round). So a run that resumes from a checkpoint does exactly
what an uninterrupted one would have done.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from jaxmoe.generation.sampling import Sampling
from jaxmoe.model import params
from rl.feedback.grader import Grader
from rl.feedback.rewards import VERDICTS
from rl.policy.agent import Weights
from rl.policy.config import RLConfig
from rl.policy.losses import kl_estimate, overlong_penalty
from rl.policy.ppo import AgentState, Learner, next_beta
from rl.policy.trajectory import PolicyScores
from rl.stepcoder.dynamic_sampling import GradedBatch, assemble, contrast
from rl.stepcoder.grading import Graded, Grading, MaskKind
from rl.stepcoder.rollouts import (
    DrawResponses,
    OnRow,
    RolloutConfig,
    RolloutTask,
    Sampled,
    problems_of_round,
)
from rl.stepcoder.turns import DrawTurn, passed_by_turn, play
from training.ppo.ahead import Ahead
from training.ppo.evaluation import HeldOut
from training.ppo.problems import ProblemSet, make_task
from training.ppo.samples_page import Samples, episode_segments, token_segments
from training.ppo.saving import RoundState, RunCheckpoints
from training.runtime import distributed
from training.runtime.distributed import fetch
from training.runtime.metrics import Recorder
from training.runtime.stop import StopRequest
from training.supervised.loop import DivergedError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Programs of each round that are written to samples.jsonl.
SHOWN = 4
ROLLOUT, MINIBATCHES, HELD_OUT = range(3)  # streams of random numbers; exam parts count on from the last
FURTHER_BATCHES = 1 << 20  # likewise, of batches that a round samples besides its first


class Schedule(NamedTuple):
    """When what happens, in rounds.

    Attributes:
      rounds: of the whole run.
      evaluate_every: 0 never measures.
      save_every: besides the last round and a stopped run.
      seed: of problems, samples and orders.
    """

    rounds: int
    evaluate_every: int
    save_every: int
    seed: int


@dataclass
class Rounds:
    """Everything that stays the same from round to round, and the curriculum.

    Attributes:
      rollout: with its form resolved.
      mask: which tokens of a response the policy learns from.
      score: from rl.policy.agent.make_score.
      exam: the held-out problems.
    """

    schedule: Schedule
    rollout: RolloutConfig
    rl: RLConfig
    mask: MaskKind
    weights: Weights
    sampler: DrawResponses
    score: Callable[..., PolicyScores]
    learner: Learner
    problems: ProblemSet
    exam: HeldOut
    grader: Grader
    tokenizer: "PreTrainedTokenizerBase"
    saving: RunCheckpoints
    ahead: Ahead = field(default_factory=Ahead)

    def run(self, at: RoundState, recorder: Recorder) -> RoundState:
        """Runs to the last round, or until told to stop.

        Args:
          at: the state to start from; at round 0 the held-out problems are measured first.
          recorder: for metrics and lines to the person watching.
        Returns: the state after the last round done, which has been saved.
        Raises: DivergedError after saving the state before a round that was not finite.
        """
        plan, curriculum = self.schedule, self.problems.curriculum
        file = self.saving.run.path / "samples.jsonl"
        samples = Samples(file, at.round) if distributed.is_main() else None
        try:
            with self.ahead, StopRequest(self.saving.checkpoints.preempted) as stop:
                if at.round == 0:
                    self._evaluate(at, recorder)
                while at.round < plan.rounds:
                    at = self._round(at, recorder, samples)
                    due = plan.evaluate_every and at.round % plan.evaluate_every == 0
                    if due or at.round == plan.rounds:
                        self._evaluate(at, recorder)
                    if at.round % plan.save_every == 0:
                        self.saving.save(at, curriculum)
                    if stop.granted(at.round):
                        break
                self.saving.save(at, curriculum)
                self.saving.checkpoints.wait()
        finally:
            if samples is not None:
                samples.close()
        return at

    def _round(self, at: RoundState, recorder: Recorder, samples: Samples | None) -> RoundState:
        weights = self.weights if at.reference is None else self.weights._replace(reference=at.reference)
        (sampled, graded), scores, told_of_draws = self._experience(at, weights)
        next_sampler = self._begin_next(at)
        began = time.perf_counter()
        agent, told = self.learner.learn(
            at.agent,
            weights,
            sampled.rollout,
            graded.outcomes,
            scores,
            beta=at.beta,
            rng=np.random.default_rng([self.schedule.seed, at.round, MINIBATCHES]),
        )
        metrics = {name: float(value) for name, value in fetch(told).items()}
        metrics["learn_s"] = time.perf_counter() - began
        if int(fetch(agent.failed)):
            self._diverged(at._replace(agent=agent), metrics)
        metrics |= self._describe(sampled, graded) | {"beta": at.beta} | told_of_draws
        recorder.step(at.round + 1, metrics)
        self._show(at, GradedBatch(sampled, graded), scores, samples)
        beta = next_beta(self.rl, at.beta, metrics["kl"], len(sampled.rows))
        return RoundState(at.round + 1, agent, beta, self._reference(at, agent), next_sampler)

    def _begin_next(self, at: RoundState) -> params.Params | None:
        """Begins the next round where rounds are sampled ahead; the weights that sample it."""
        if at.sampler is None:
            return None
        policy = jax.tree.map(jnp.copy, at.agent.policy)  # its own buffers are donated to the next step
        number = at.round + 1
        if number < self.schedule.rounds:
            # the curriculum is read and changed only in this thread
            tasks = self._tasks(number, [])
            self.ahead.start(number, partial(self._graded, number, ROLLOUT, policy, tasks))
        return policy

    def _graded(
        self, number: int, stream: int, policy: params.Params, tasks: list[RolloutTask]
    ) -> GradedBatch:
        """A batch of a round's tasks, sampled with these weights, and graded."""
        draw = partial(self._draw, number, policy, stream)
        if self.rollout.turns > 1:
            return self._play(draw, tasks)
        grading = Grading(self.grader)
        sampled = draw(tasks, self.rollout.samples, 0, grading.add)
        grading.complete(sampled)
        return GradedBatch(sampled, grading.result(self.mask))

    def _reference(self, at: RoundState, agent: AgentState) -> params.Params | None:
        """The reference of the next round: the policy if it is renewed now, else the old one."""
        every = self.rl.kl.sync_every
        if not every or (at.round + 1) % every:
            return at.reference
        return jax.tree.map(jnp.copy, agent.policy)  # the policy's own buffers are donated to the next step

    def _experience(
        self, at: RoundState, weights: Weights
    ) -> tuple[GradedBatch, PolicyScores, dict[str, float]]:
        """A round's rollout, graded and scored; taken from several batches if groups must differ."""
        if at.sampler is not None:
            return self._experience_ahead(at, at.sampler, weights)
        most = self.rl.dynamic_sampling or 1
        batches: list[GradedBatch] = []
        scores, enough = None, False
        while not enough and len(batches) < most:
            tasks = self._tasks(at.round, batches)
            stream = ROLLOUT if not batches else FURTHER_BATCHES + len(batches)
            draw = partial(self._draw, at.round, at.agent.policy, stream)
            if self.rollout.turns > 1:
                batches.append(self._play(draw, tasks))
            else:
                grading = Grading(self.grader)
                sampled = draw(tasks, self.rollout.samples, 0, grading.add)
                grading.complete(sampled)
                if most == 1:
                    # the device scores while the host grades
                    scores = self.score(at.agent.policy, at.agent.critic, weights, sampled.rollout)
                batches.append(GradedBatch(sampled, grading.result(self.mask)))
            self._advance_curriculum(tasks, batches[-1].graded.passed)
            enough = self._contrasts(batches) >= self.rollout.prompts
        one = batches[0]
        if scores is None:
            one = assemble(batches, self.rollout.prompts)
            scores = self.score(at.agent.policy, at.agent.critic, weights, one.sampled.rollout)
        told = {}
        if self.rollout.samples > 1:
            told["groups_with_contrast"] = self._contrasts([one]) / self.rollout.prompts
        if most > 1:  # the round's own pass rate is that of groups with contrast
            told["batches"] = float(len(batches))
            told["pass_rate_sampled"] = float(np.mean([batch.graded.passed.mean() for batch in batches]))
        return one, scores, told

    def _experience_ahead(
        self, at: RoundState, sampler: params.Params, weights: Weights
    ) -> tuple[GradedBatch, PolicyScores, dict[str, float]]:
        """The rollout that was made during the round before, or is made now; scored by the newest policy."""
        began = time.perf_counter()
        batch = self.ahead.take(at.round)
        if batch is None:
            batch = self._graded(at.round, ROLLOUT, sampler, self._tasks(at.round, []))
        told = {"ahead_waited_s": time.perf_counter() - began}
        tasks = [row.task for row in batch.sampled.rows[:: self.rollout.samples]]
        self._advance_curriculum(tasks, batch.graded.passed)
        if self.rollout.samples > 1:
            told["groups_with_contrast"] = self._contrasts([batch]) / self.rollout.prompts
        scores = self.score(at.agent.policy, at.agent.critic, weights, batch.sampled.rollout)
        return batch, scores, told

    def _draw(
        self,
        number: int,
        policy: params.Params,
        stream: int,
        tasks: list[RolloutTask],
        samples: int,
        turn: int,
        on_row: OnRow,
    ) -> Sampled:
        """A turn's answers for learning, as rl.stepcoder.turns.DrawTurn has it."""
        how = (samples, self.rollout.sampling, stream)
        return self._sample(number, policy, tasks, *how, turn=turn, for_learning=True, on_row=on_row)

    def _play(self, draw: DrawTurn, tasks: list[RolloutTask]) -> GradedBatch:
        return play(
            draw,
            tasks,
            self.rollout.samples,
            self.grader,
            self.tokenizer,
            self.rollout,
            self.mask,
            spare_slot=self.rl.truncated == "bootstrap",
        )

    def _contrasts(self, batches: list[GradedBatch]) -> int:
        return sum(
            int(contrast(np.asarray(batch.graded.outcomes.rewards_B), self.rollout.samples).sum())
            for batch in batches
        )

    def _tasks(self, number: int, before: Sequence[GradedBatch]) -> list[RolloutTask]:
        """The problems of a round's next batch: those that the curriculum says are due, else a shuffled pass.

        Args:
          before: the batches that the round has already; a further one takes other problems, unless there are
            too few.
        """
        train, curriculum = self.problems.train, self.problems.curriculum
        size, seed = self.rollout.prompts, self.schedule.seed
        if curriculum is not None:
            by_id = {problem.id: problem for problem in train}
            chosen = [by_id[name] for name in curriculum.choose(size, round_number=number, seed=seed)]
        elif before:
            taken = {row.task.problem.id for batch in before for row in batch.sampled.rows}
            rest = [problem for problem in train if problem.id not in taken] or list(train)
            rng = np.random.default_rng([seed, number, FURTHER_BATCHES, len(before)])
            order = rng.permutation(len(rest))
            chosen = [rest[order[i % len(rest)]] for i in range(size)]
        else:
            chosen = [train[i] for i in problems_of_round(number, len(train), size, seed=seed)]
        return [make_task(problem, curriculum, self.rollout, self.tokenizer) for problem in chosen]

    def _sample(
        self,
        number: int,
        policy: params.Params,
        tasks: list[RolloutTask],
        samples: int,
        sampling: Sampling,
        stream: int,
        *,
        for_learning: bool,
        turn: int = 0,
        on_row: OnRow | None = None,
    ) -> Sampled:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.schedule.seed), number), stream)
        key = jax.random.fold_in(key, turn) if turn else key
        return self.sampler.sample(
            policy,
            self.weights.frozen,
            tasks,
            self.rollout,
            samples=samples,
            sampling=sampling,
            key=key,
            for_learning=for_learning,
            spare_slot=for_learning and self.rl.truncated == "bootstrap",
            any_number=turn > 0,
            on_row=on_row,
        )

    def _advance_curriculum(self, tasks: list[RolloutTask], passed: np.ndarray) -> None:
        if self.problems.curriculum is not None:
            for task, samples in zip(tasks, passed.reshape(len(tasks), -1), strict=True):
                self.problems.curriculum.update(task.problem.id, samples.tolist())

    def _describe(self, sampled: Sampled, graded: Graded) -> dict[str, float]:
        """What is reported about a round besides its losses."""
        count = len(sampled.rows)
        found = np.bincount(graded.verdict_B, minlength=len(VERDICTS)) / count
        told = {f"share_{name}": float(share) for name, share in zip(VERDICTS, found, strict=True)}
        tokens = float(np.asarray(sampled.rollout.response_mask_BW).sum())
        told |= {
            "pass_rate": float(graded.passed.mean()),
            "truncated": float(sampled.truncated_B.mean()),
            "tokens": tokens,
            "tail_share": sampled.tail_tokens / (tokens + sampled.tail_tokens),
            "sample_s": sampled.seconds,
            "sampled_tokens_per_s": (tokens + sampled.tail_tokens) / sampled.seconds,
            "slots_wasted": sampled.wasted,
            "grade_s": graded.seconds,
            "grade_waited_s": graded.waited_s,
            "grade_latency_mean_s": graded.latency_s[0],
            "grade_latency_max_s": graded.latency_s[1],
            "distinct_programs": len({row.extracted.program for row in sampled.rows}) / count,
        }
        if sampled.turns is not None:
            told["turns"] = float(np.mean([len(turns) for turns in sampled.turns]))
            rates = passed_by_turn(sampled, self.rollout.turns).mean(1)
            told |= {f"pass_rate_turn_{i + 1}": float(rate) for i, rate in enumerate(rates)}
        if self.problems.curriculum is not None:
            histogram = self.problems.curriculum.histogram()
            told |= {f"stage_{stage}": float(number) for stage, number in histogram.items()}
        return told

    def _show(
        self, at: RoundState, batch: GradedBatch, scores: PolicyScores, samples: Samples | None
    ) -> None:
        """A few programs with their verdicts: from different problems, with as many different verdicts as
        there are."""
        if samples is None:
            return
        number, each = at.round + 1, self.rollout.samples
        sampled, graded = batch
        by_verdict: dict[str, list[int]] = defaultdict(list)
        for row, feedback in graded.feedback.items():
            by_verdict[feedback.verdict].append(row)
        queue = [rows[(number * each) % len(rows)] for rows in by_verdict.values()]
        queue += [row for row in graded.feedback if row % each == 0 and row not in queue]
        records = []
        for row in queue[:SHOWN]:
            task, response, extracted = sampled.rows[row]
            turns = [] if sampled.turns is None else sampled.turns[row]
            feedback = graded.feedback[row]
            dropped = bool(sampled.truncated_B[row]) and self.rl.truncated == "drop"
            taken_W = np.asarray(sampled.rollout.response_mask_BW[row])
            learned_W = np.asarray(graded.outcomes.policy_mask_BW[row]) * (not dropped)
            records.append(
                {
                    "step": number,
                    "problem": task.problem.id,
                    "difficulty": task.problem.difficulty,
                    "stage": task.stage,
                    "statement": task.problem.prompt,
                    "given": task.prompt.given,
                    "response": response.text,
                    "program": extracted.program,
                    "verdict": feedback.verdict,
                    "reward": feedback.reward,
                    "message": feedback.message,
                    "truncated": bool(sampled.truncated_B[row]),
                    "rewards": self._reward_parts(batch, scores, row, at.beta),
                    "tokens": episode_segments(turns, taken_W, learned_W)
                    if turns
                    else token_segments(response, taken_W, learned_W),
                }
            )
        samples.write(number, records)

    def _reward_parts(
        self, batch: GradedBatch, scores: PolicyScores, row: int, beta: float
    ) -> dict[str, float]:
        """What a response's return is made of; the KL part only if this process has the row's scores."""
        rollout, outcomes = batch.sampled.rollout, batch.graded.outcomes
        clip = self.rl.reward_clip
        graded = float(np.asarray(outcomes.rewards_B)[row])
        parts = {"tests": graded if clip is None else float(np.clip(graded, -clip, clip))}
        if outcomes.earlier_BW is not None:
            earlier_W = np.asarray(outcomes.earlier_BW)[row]
            parts["earlier programs"] = float(
                (earlier_W if clip is None else np.clip(earlier_W, -clip, clip)).sum()
            )
        mask_W = np.asarray(rollout.response_mask_BW)[row]
        if self.rl.overlong_buffer:
            lengths, limits = jnp.asarray([mask_W.sum()]), jnp.asarray([batch.sampled.rows[row].task.limit])
            lost = overlong_penalty(
                lengths,
                limits.astype(jnp.float32),
                buffer=self.rl.overlong_buffer,
                penalty=self.rl.overlong_penalty,
            )
            parts["length"] = float(lost[0])
        at_hand = isinstance(scores.logprobs_BW, np.ndarray) or scores.logprobs_BW.is_fully_addressable
        if self.rl.kl.place == "reward" and self.rl.needs_reference and at_hand:
            kl_W = kl_estimate(
                scores.logprobs_BW[row], scores.reference_BW[row], jnp.asarray(mask_W), self.rl.kl.chosen
            )
            parts["KL to the reference"] = -beta * float(kl_W.sum())
        return parts

    def _evaluate(self, at: RoundState, recorder: Recorder) -> None:
        """Measures and reports pass@1 on the held-out problems."""
        if not self.schedule.evaluate_every or not len(self.exam):
            return
        self.ahead.wait()  # for the sampler
        told = self.exam.measure(partial(self._exam_sample, at))
        recorder.event(at.round, "held_out", told)
        shown = ", ".join(
            f"{k.removeprefix('pass_at_1_')} {v:.2f}" for k, v in told.items() if k.startswith("pass_at_1_")
        )
        mean, error = told["pass_at_1"], told["standard_error"]
        recorder.say(f"round {at.round}: held-out pass@1 {mean:.3f} ± {error:.3f} ({shown})")

    def _exam_sample(
        self,
        at: RoundState,
        tasks: list[RolloutTask],
        samples: int,
        sampling: Sampling,
        first: int,
        turn: int = 0,
        on_row: OnRow | None = None,
    ) -> Sampled:
        where = at.round, at.agent.policy, tasks
        how = samples, sampling, HELD_OUT + first
        return self._sample(*where, *how, turn=turn, for_learning=False, on_row=on_row)

    def _diverged(self, at: RoundState, metrics: dict[str, float]) -> NoReturn:
        bad = ", ".join(name for name, value in metrics.items() if not np.isfinite(value))
        self.saving.save_before_failure(at, self.problems.curriculum)
        raise DivergedError(
            f"round {at.round + 1}: {bad} not finite. Checkpoint {at.round} in {self.saving.run.path} holds "
            "the state before the step that failed; to resume there with other settings (lower optimizer.lr, "
            "another ppo.kl.coefficient), run again with resume=changed"
        )
