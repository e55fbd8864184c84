"""The rounds of a PPO run: sample, grade while the device scores, learn, watch, save, stop.

A round is a function of the state before it and of its number: which problems it takes, the sampler's key and
the order of minibatches are drawn from (seed, round). So a run that goes on from a checkpoint repeats exactly
what an unbroken one would have done.
"""

import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmoe.generation.sampling import Sampling
from rl.feedback.problems import Problem
from rl.feedback.rewards import VERDICTS
from rl.policy.agent import Agent, Weights
from rl.policy.critic import CriticParams
from rl.policy.ppo import AgentState, Learner, next_beta
from rl.stepcoder.rollouts import Graded, Grader, Grading, Sampled, Sampler, Task, problems_of_round
from training.ppo.config import PpoConfig
from training.ppo.problems import ProblemSet, make_task
from training.runtime import checkpoint, distributed
from training.runtime.checkpoint import Checkpoints, Saved
from training.runtime.distributed import fetch
from training.runtime.metrics import JsonLines, Recorder
from training.runtime.stop import StopRequest
from training.supervised.loop import DivergedError

# Programs of each round that are written to samples.jsonl.
SHOWN = 4
ROLLOUT, MINIBATCHES, HELD_OUT = range(3)  # streams of random numbers


class RoundState(NamedTuple):
    """Where a run stands, the curriculum aside: finished rounds, weights and moments, KL coefficient."""

    round: int
    state: AgentState
    beta: float


@dataclass
class Rounds:
    """Everything that stays the same from round to round, and the curriculum."""

    config: PpoConfig
    folder: Path
    agent: Agent
    weights: Weights
    places: AgentState
    sampler: Sampler
    score: Any
    learner: Learner
    problems: ProblemSet
    pool: Grader
    tokenizer: Any
    checkpoints: Checkpoints
    meta: dict[str, Any]

    def run(self, at: RoundState, recorder: Recorder) -> RoundState:
        """Goes on to the last round, or until it is told to stop.

        Raises: DivergedError after saving the state before a round that was not finite.
        """
        config = self.config
        samples = JsonLines(self.folder / "samples.jsonl", at.round) if distributed.is_main() else None
        try:
            with StopRequest(self.checkpoints.preempted) as stop:
                if at.round == 0:
                    self._evaluate(at, recorder)
                while at.round < config.rounds:
                    at = self._round(at, recorder, samples)
                    last = at.round == config.rounds
                    if last or (config.evaluation.every and at.round % config.evaluation.every == 0):
                        self._evaluate(at, recorder)
                    if at.round % config.checkpoint.every == 0:
                        self.save(at)
                    if stop.granted(at.round):
                        break
                self.save(at)
                self.checkpoints.wait()
        finally:
            if samples is not None:
                samples.close()
        return at

    def _round(self, at: RoundState, recorder: Recorder, samples: JsonLines | None) -> RoundState:
        config, rollout = self.config, self.config.rollout
        chosen = problems_of_round(at.round, len(self.problems.train), rollout.prompts, seed=config.seed)
        tasks = [
            make_task(self.problems.train[i], self.problems.curriculum, rollout, self.tokenizer)
            for i in chosen
        ]
        sampled = self._sample(
            at.state,
            tasks,
            rollout.samples,
            Sampling(rollout.temperature, 0, rollout.top_p),
            at.round,
            ROLLOUT,
        )
        grading = Grading(self.pool, sampled)
        # the device scores while the host grades
        scores = self.score(at.state.policy, at.state.critic, self.weights, sampled.rollout)
        graded = grading.result(config.mask)
        began = time.perf_counter()
        state, said = self.learner.learn(
            at.state,
            self.weights,
            sampled.rollout,
            graded.outcomes,
            scores,
            beta=at.beta,
            rng=np.random.default_rng([config.seed, at.round, MINIBATCHES]),
        )
        metrics = {name: float(value) for name, value in fetch(said).items()}
        metrics["learn_s"] = time.perf_counter() - began
        if int(fetch(state.failed)):
            self._diverged(at, state, metrics)
        self._advance_curriculum(tasks, graded.passed)
        metrics |= self._describe(sampled, graded) | {"beta": at.beta}
        recorder.step(at.round + 1, metrics)
        self._show(at.round + 1, sampled, graded, samples)
        beta = next_beta(config.ppo, at.beta, metrics["kl"], len(sampled.rows))
        return RoundState(at.round + 1, state, beta)

    def _sample(
        self, state: AgentState, tasks: list[Task], samples: int, sampling: Sampling, number: int, stream: int
    ) -> Sampled:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.config.seed), number), stream)
        return self.sampler.sample(
            state.policy,
            self.weights.frozen,
            tasks,
            self.config.rollout,
            samples=samples,
            sampling=sampling,
            key=key,
        )

    def _advance_curriculum(self, tasks: list[Task], passed: np.ndarray) -> None:
        stages = self.problems.curriculum
        if stages is None:
            return
        for task, samples in zip(tasks, passed.reshape(len(tasks), -1), strict=True):
            stages.update(task.problem.id, samples.tolist())

    def _describe(self, sampled: Sampled, graded: Graded) -> dict[str, float]:
        """What a round says besides its losses."""
        count = len(sampled.rows)
        found = np.bincount(graded.verdict_B, minlength=len(VERDICTS)) / count
        told = {f"share_{name}": float(share) for name, share in zip(VERDICTS, found, strict=True)}
        tokens = float(np.asarray(sampled.rollout.response_mask_BW).sum())
        told |= {
            "pass_rate": float(graded.passed.mean()),
            "truncated": float(sampled.truncated_B.mean()),
            "tokens": tokens,
            "sample_s": sampled.seconds,
            "sampled_tokens_per_s": tokens / sampled.seconds,
            "grade_s": graded.seconds,
            "grade_latency_mean_s": graded.latency_s[0],
            "grade_latency_max_s": graded.latency_s[1],
            "distinct_programs": len({row[2].program for row in sampled.rows}) / count,
        }
        if self.problems.curriculum is not None:
            histogram = self.problems.curriculum.histogram()
            told |= {f"stage_{stage}": float(number) for stage, number in histogram.items()}
        return told

    def _show(self, number: int, sampled: Sampled, graded: Graded, samples: JsonLines | None) -> None:
        """A few programs with their verdicts: of different problems, and of as many verdicts as there are."""
        if samples is None:
            return
        each = self.config.rollout.samples
        by_verdict: dict[str, list[int]] = defaultdict(list)
        for row, feedback in graded.feedback.items():
            by_verdict[feedback.verdict].append(row)
        queue = [rows[(number * each) % len(rows)] for rows in by_verdict.values()]
        queue += [row for row in graded.feedback if row % each == 0 and row not in queue]
        for row in queue[:SHOWN]:
            task, response, extracted = sampled.rows[row]
            feedback = graded.feedback[row]
            samples.write(
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
                }
            )

    def _evaluate(self, at: RoundState, recorder: Recorder) -> None:
        """Measures and tells pass@1 on the held-out problems."""
        settings = self.config.evaluation
        held_out = self.problems.held_out[: settings.limit]
        if not settings.every or not held_out:
            return

        def sample(tasks: list[Task], samples: int, sampling: Sampling, start: int) -> Sampled:
            return self._sample(at.state, tasks, samples, sampling, at.round, HELD_OUT + start)

        told = pass_at_1(held_out, self.config, self.tokenizer, self.pool, sample)
        recorder.event(at.round, "held_out", told)
        shown = ", ".join(
            f"{k.removeprefix('pass_at_1_')} {v:.2f}" for k, v in told.items() if k.startswith("pass_at_1_")
        )
        mean, error = told["pass_at_1"], told["standard_error"]
        recorder.say(f"round {at.round}: held-out pass@1 {mean:.3f} ± {error:.3f} ({shown})")

    def save(self, at: RoundState) -> None:
        """Begins to write a checkpoint of everything that the next round depends on."""
        stages = self.problems.curriculum
        host = {
            "round": at.round,
            "beta": at.beta,
            "curriculum": None if stages is None else stages.state_dict(),
        }
        saved = Saved(at.state.policy, _learned(at.state), host, self.meta | {"step": at.round})
        self.checkpoints.save(at.round, saved)

    def restore(self, like: RoundState) -> RoundState:
        """The latest checkpoint, placed as this run wants it; the curriculum is set to its table.

        Raises: ValueError if it belongs to another run.
        """
        step = self.checkpoints.latest()
        assert step is not None
        meta = self.checkpoints.meta(step)
        if self.config.resume == "same" and meta["identity"] != self.meta["identity"]:
            found = {
                f"the content of {key}": (meta["identity"].get(key), value)
                for key, value in self.meta["identity"].items()
                if meta["identity"].get(key) != value
            }
            checkpoint.refuse_another_run(self.folder, found)
        saved = self.checkpoints.restore(
            step,
            checkpoint.structure(like.state.policy, self.places.policy),
            checkpoint.structure(_learned(like.state), _learned(self.places)),
        )
        if self.problems.curriculum is not None and saved.data["curriculum"] is not None:
            self.problems.curriculum.load_state_dict(saved.data["curriculum"])
        critic = None
        if like.state.critic is not None:
            critic = CriticParams(saved.optimizer["head"], saved.optimizer.get("body"))
        state = AgentState(
            saved.trainable, saved.optimizer["actor"], critic, saved.optimizer.get("judge"), like.state.failed
        )
        return RoundState(saved.data["round"], state, saved.data["beta"])

    def _diverged(self, at: RoundState, state: AgentState, metrics: dict[str, float]) -> None:
        bad = ", ".join(name for name, value in metrics.items() if not np.isfinite(value))
        self.save(at._replace(state=state._replace(failed=np.int32(0))))
        self.checkpoints.wait()
        raise DivergedError(
            f"round {at.round + 1}: {bad} not finite. Checkpoint {at.round} in {self.folder} holds the state "
            "before the step that failed; to go on from there with other settings (lower optimizer.lr, "
            "another ppo.kl.coefficient), run again with resume=changed"
        )


def pass_at_1(
    held_out: Sequence[Problem],
    config: PpoConfig,
    tokenizer: Any,
    pool: Grader,
    sample: Callable[[list[Task], int, Sampling, int], Sampled],
) -> dict[str, float]:
    """pass@1 over all problems and by difficulty, with standard errors over problems.

    Args:
      sample: draws programs for the tasks, so many each; takes the number of the first of them last.
    """
    settings = config.evaluation
    # the room of a rollout follows the canonical solution's length, which an exam must not tell
    rollout = dataclasses.replace(config.rollout, room=None)
    tasks = [make_task(problem, None, rollout, tokenizer) for problem in held_out]
    sampling = Sampling(settings.temperature, 0, settings.top_p)
    at_once = max(rollout.prompts * rollout.samples // settings.samples, 1)
    passed = []
    for start in range(0, len(tasks), at_once):
        part = tasks[start : start + at_once]
        graded = Grading(pool, sample(part, settings.samples, sampling, start)).result("response")
        passed.append(graded.passed.reshape(len(part), -1).mean(1))
    rate = np.concatenate(passed)
    kinds = np.asarray([task.problem.difficulty for task in tasks])
    told: dict[str, float] = {}
    for name in ("", *dict.fromkeys(kinds)):
        chosen = rate if not name else rate[kinds == name]
        ending = f"_{name}" if name else ""
        told[f"pass_at_1{ending}"] = float(chosen.mean())
        error = float(chosen.std(ddof=1) / np.sqrt(len(chosen))) if len(chosen) > 1 else 0.0
        told[f"standard_error{ending}"] = error
    return told


def _learned(state: AgentState) -> dict[str, Any]:
    """All that is learned besides the policy's weights, without what this agent does not have."""
    out = {"actor": state.policy_optimizer}
    if state.critic is not None:
        out |= {"head": state.critic.head, "judge": state.critic_optimizer}
        if state.critic.body is not None:
            out["body"] = state.critic.body
    return out
