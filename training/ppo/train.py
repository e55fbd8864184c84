"""PPO on a code model from compiler feedback: the paper's four rows, and eight algorithms without a critic.

curriculum=none mask=response is plain PPO; cccs and fgo add StepCoder's two parts, alone or together. `main`
takes the config apart once; the functions it calls get sections.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp

from jaxmoe.language_model import LanguageModel
from jaxmoe.text.stop_tokens import stop_tokens
from jaxmoe.tokenizer import load_tokenizer
from rl.policy.config import RLConfig
from rl.policy.ppo import AgentState
from rl.stepcoder.engine_sampler import EngineSampler
from rl.stepcoder.expected_stages import describe
from rl.stepcoder.rollouts import DrawResponses, RolloutConfig, resolved
from rl.stepcoder.sampler import Sampler
from training.ppo.config import PPORunConfig
from training.ppo.evaluation import HeldOut
from training.ppo.policy import Learning, learner_temperature, make_learning
from training.ppo.problems import ProblemSet, check_places, known_limits, open_problems, save_limits
from training.ppo.rounds import Rounds, Schedule
from training.ppo.saving import RoundState, RunCheckpoints
from training.runtime import distributed, run_folder
from training.runtime.checkpoint import CheckpointConfig, Checkpoints
from training.runtime.metrics import Recorder, WatchConfig
from training.runtime.model import TrainableModel, make_model, report, say_idle
from training.runtime.pinned import pin
from training.runtime.run_folder import Finished, RunFolder
from training.supervised.finish import FORMATS, finish

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def main(config: PPORunConfig) -> Finished:
    """Runs one config to its end, or until it is stopped.

    Args:
      config: the whole run; what is called below gets sections of it.
    Returns: the policy as trained so far.
    Raises: ValueError for settings, problems or a run folder that do not go together; DivergedError if a
      round is not finite.
    """
    distributed.start(config.distributed)
    check_places(config.problems)
    say_idle(config.adapter, experts=config.experts, lora=config.lora)
    config = pin(config, Path(config.output))
    mesh = config.mesh.make()
    if config.rollout.ahead and mesh.size > 1:
        raise ValueError(
            "rollout.ahead=1 takes a mesh of one device, on which two programs at a time cannot wait for "
            f"each other; got {mesh.size} devices (set rollout.ahead=0, or the mesh's axes to 1)"
        )
    tokenizer = load_tokenizer(config.base)
    rollout = resolved(config.rollout, tokenizer)
    # the folder records the form that was chosen, not that it was left open
    with run_folder.open_run("ppo", dataclasses.replace(config, rollout=rollout)) as run:
        with config.sandbox.grader(trace=config.mask == "fgo") as pool:
            problems = open_problems(
                config.problems, pool, config.stages, rollout, tokenizer, known_limits(run.path)
            )
            model = make_model(config.source, tokenizer, mesh)
            learning = make_learning(
                model,
                config.algorithm,
                config.ppo,
                rollout,
                body=config.body,
                forward=config.forward,
                optimizer=config.optimizer,
                critic_optimizer=config.critic.optimizer,
                rounds=config.rounds,
            )
            saving = checkpoints_of(run, model, problems, learning.shardings, config.checkpoint, config.seed)
            rounds = Rounds(
                schedule=Schedule(
                    config.rounds, config.evaluation.every, config.checkpoint.every, config.seed
                ),
                rollout=rollout,
                rl=config.ppo,
                mask=config.mask,
                weights=learning.weights,
                sampler=make_sampler(learning, model.lm, tokenizer, rollout.decoding),
                score=learning.score,
                learner=learning.learner,
                problems=problems,
                exam=HeldOut(problems.held_out, config.evaluation, rollout, tokenizer, pool),
                grader=pool,
                tokenizer=tokenizer,
                saving=saving,
            )
            title = f"{config.algorithm}, curriculum {config.curriculum}, mask {config.mask}"
            told = [
                f"{title}: {report(model)}; {problems.summary}; "
                f"{config.rounds} round{'s' * (config.rounds != 1)}; {run.path}",
                *what_to_expect(problems, config.ppo, rollout, config.rounds),
            ]
            renewed = learning.weights.reference if config.ppo.kl.sync_every else None
            # the policy's own buffers are donated to the first step
            sampler = jax.tree.map(jnp.copy, learning.state.policy) if rollout.ahead else None
            start = RoundState(0, learning.state, config.ppo.kl.start, renewed, sampler)
            end = go(rounds, start, config.watch, title, told)
        weights = model.lm.weights._replace(trainable=end.agent.policy)
        lm = dataclasses.replace(model.lm, weights=weights)
        done = Finished(lm, end.round, end.round >= config.rounds, run.path)
        if done.finished:
            format = FORMATS[config.adapter] if config.export else None
            finish(done, tokenizer, format, plots=config.watch.plots)
    return done


def checkpoints_of(
    run: RunFolder,
    model: TrainableModel,
    problems: ProblemSet,
    shardings: AgentState,
    config: CheckpointConfig,
    seed: int,
) -> RunCheckpoints:
    """The checkpoints of a run, with the record of what it was made from.

    Args:
      shardings: of what is saved.
      seed: of the run, for the record.
    Returns: its checkpoints.
    """
    identity = {
        "base": model.fingerprint,
        "problems": problems.fingerprint,
        "time limits": problems.limits.digest,
    }
    meta = {"seed": seed, "config": run.settings, "identity": identity}
    checkpoints = Checkpoints(run.path / "checkpoints", config.keep)
    return RunCheckpoints(run, checkpoints, shardings, meta)


def make_sampler(
    learning: Learning,
    lm: LanguageModel,
    tokenizer: "PreTrainedTokenizerBase",
    decoding: Literal["batches", "engine"],
) -> DrawResponses:
    """The sampler of a policy; responses end with any token that ends an answer of the model.

    Args:
      learning: gives the model's structure and the dtype of its products.
      lm: gives the mesh, stop tokens and the token for padding.
      tokenizer: gives further stop tokens, such as the end of a turn.
      decoding: batches or engine, see RolloutConfig.
    Returns: a sampler, to which each call brings the weights.
    """
    ends, pad = stop_tokens(tokenizer, lm.stop_tokens), lm.config.pad_token_id
    if pad is None:
        pad = ends[0] if ends else 0
    kind = EngineSampler if decoding == "engine" else Sampler
    return kind(learning.agent.definition, lm.mesh, tokenizer, ends, pad, learning.agent.dtype)


def what_to_expect(problems: ProblemSet, rl: RLConfig, rollout: RolloutConfig, rounds: int) -> list[str]:
    """What was chosen by default or will happen unseen, one line each.

    Args:
      rollout: with its form resolved.
      rounds: of the run.
    Returns: lines for the person watching, in their order.
    """
    told = [f"prompts: {rollout.form}; temperature {rollout.temperature:g}, top-p {rollout.top_p:g}"]
    if rollout.turns > 1:
        right = "its right answer" if rollout.show_expected else "not its right answer"
        told.append(
            f"up to {rollout.turns} turns: a program that fails comes back with the compiler's message or "
            f"the first test that failed, {right}; learned from: the reward of "
            + ("the last program" if rollout.turn_reward == "last" else "each program")
        )
    learner = learner_temperature(rl, rollout)
    if rollout.top_p < 1.0 or learner != rollout.temperature:
        cap = rl.importance_cap
        level, _, bound = rl.importance.partition("_")
        of = "" if level == "token" else " of whole responses"
        beyond = "" if bound == "truncate" else " (beyond, a loss counts 0)"
        remedy = f"importance weights{of} up to {cap:g} correct it{beyond}" if cap else "nothing corrects it"
        told.append(
            f"the sampler is not the policy that is trained (temperature {learner:g}, whole vocabulary): "
            f"{remedy}; sampler_gap tells how far they are apart, in nats a response"
        )
    if rollout.ahead:
        told.append(
            "each round but the first is sampled while the policy learns from the one before, with weights "
            f"one round old: importance weights up to {rl.importance_cap:g} correct it; sampler_gap tells "
            "how far they are apart"
        )
    if problems.curriculum is not None:
        told.append(
            describe(problems.curriculum, rounds=rounds, prompts=rollout.prompts, samples=rollout.samples)
        )
    return told


def go(rounds: Rounds, start: RoundState, watch: WatchConfig, title: str, told: list[str]) -> RoundState:
    """All rounds, from the last checkpoint if the run folder has one.

    Args:
      start: before the first round.
      told: lines for the person watching, before the first round; a resumed run shows only the first.
    Returns: the state after the last round, or after the one at which the run was stopped.
    """
    run = rounds.saving.run
    at = rounds.saving.restore(start, rounds.problems.curriculum)
    run.claim()  # only now is it known that what is in the folder can be resumed with these settings
    if distributed.is_main():
        save_limits(rounds.problems.limits, run.path)
    count = rounds.schedule.rounds
    with Recorder(
        run.path,
        watch,
        steps=count,
        resume_at=at.round,
        main=distributed.is_main(),
        title=title,
        settings=run.settings,
    ) as recorder:
        for line in told[:1] if at.round else told:
            recorder.say(line)
        if at.round:
            recorder.say(f"resumed from round {at.round}")
        end = rounds.run(at, recorder)
        rounds.saving.checkpoints.close()
        finished = "finished" if end.round >= count else "stopped; the same command resumes it"
        recorder.say(f"{title}: {finished} at round {end.round}")
    return end
