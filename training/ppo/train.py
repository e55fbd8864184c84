"""PPO on a code model from compiler feedback: the paper's four rows, and GRPO and RLOO, from one code path.

curriculum=none mask=response is plain PPO; cccs and fgo add StepCoder's two parts, alone or together.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxmoe.model import params
from jaxmoe.tokenizer import load_tokenizer
from rl.policy.agent import Agent, Weights, make_score, samples_together
from rl.policy.critic import CriticParams, new_critic
from rl.policy.ppo import AgentState, Learner
from rl.stepcoder.rollouts import Sampler
from training.ppo.config import PpoConfig
from training.ppo.problems import ProblemSet, open_problems
from training.ppo.rounds import Rounds, RoundState
from training.runtime import distributed, run_folder
from training.runtime.checkpoint import Checkpoints
from training.runtime.metrics import Recorder
from training.runtime.model import TrainableModel, load_model, report
from training.runtime.optimizer import decayed, make_optimizer, optimizer_shardings
from training.runtime.run_folder import Finished, RunFolder
from training.supervised.finish import FORMATS, finish


def main(config: PpoConfig) -> Finished:
    """Runs one config to its end, or until it is stopped."""
    distributed.start(config.distributed)
    mesh = config.mesh.make()
    with run_folder.open_run("ppo", config) as run:
        tokenizer = load_tokenizer(config.base)
        with config.sandbox.pool(trace=config.mask == "fgo") as pool:
            problems = open_problems(
                config.problems, pool, config.curriculum, config.cccs, config.rollout, tokenizer
            )
            model = load_policy(config, mesh)
            done = train(config, run, model, tokenizer, problems, pool)
        if done.finished:
            format = FORMATS[config.adapter] if config.export else None
            finish(done, tokenizer, format, plots=config.watch.plots)
    return done


def load_policy(config: PpoConfig, mesh: Mesh) -> TrainableModel:
    """The base with a new adapter, as before the first round."""
    return load_model(
        config.base,
        config.adapter,
        config.experts,
        config.lora,
        mesh,
        seed=config.seed,
        base_dtype=config.base_dtype,
    )


def make_agent(config: PpoConfig, model: TrainableModel) -> tuple[Agent, Weights, CriticParams | None]:
    """Policy, reference and critic over the model's weights; only what is trained is ever copied."""
    weights, mesh = model.lm.weights, model.lm.mesh
    head, critic = None, None
    if config.algorithm == "ppo":
        head, critic = new_critic(model.lm.config.hidden_size, config.body, weights.trainable)
        critic = critic._replace(head=jax.device_put(critic.head, params.replicated(mesh)))
    bare_critic = head is not None and config.body == "frozen"
    needs_copy = config.adapter == "none" and (config.ppo.needs_reference or bare_critic)
    reference = jax.tree.map(jnp.copy, weights.trainable) if needs_copy else None
    agent = Agent(weights.definition, mesh, head, config.body, config.ppo.needs_reference, config.forward)
    return agent, Weights(weights.frozen, reference), critic


def make_state(
    config: PpoConfig, model: TrainableModel, critic: CriticParams | None
) -> tuple[Any, AgentState, AgentState]:
    """Optimizers of policy and critic, the state before the first round, and where each part lies."""
    mesh, policy = model.lm.mesh, model.lm.weights.trainable
    everywhere = params.replicated(mesh)
    steps = config.rounds * config.ppo.epochs * config.ppo.minibatches
    decay = decayed(model.abstract, config.optimizer, model.train)
    actor = make_optimizer(config.optimizer, steps, decay)
    places, _ = params.shardings(model.abstract, mesh, model.train)
    actor_places = optimizer_shardings(actor, policy, places, everywhere)
    moments = jax.jit(actor.init, out_shardings=actor_places)(policy)
    judge = make_optimizer(config.critic.optimizer, steps)
    critic_places = judge_places = judge_moments = None
    if critic is not None:
        head_places = jax.tree.map(lambda _: everywhere, critic.head)
        critic_places = CriticParams(head_places, None if critic.body is None else places)
        judge_places = optimizer_shardings(judge, critic, critic_places, everywhere)
        judge_moments = jax.jit(judge.init, out_shardings=judge_places)(critic)
    failed = jax.device_put(np.int32(0), everywhere)
    state = AgentState(policy, moments, critic, judge_moments, failed)
    return (actor, judge), state, AgentState(places, actor_places, critic_places, judge_places, everywhere)


def train(
    config: PpoConfig, run: RunFolder, model: TrainableModel, tokenizer: Any, problems: ProblemSet, pool: Any
) -> Finished:
    """All rounds, from the last checkpoint if the run folder has one."""
    lm = model.lm
    agent, weights, critic = make_agent(config, model)
    optimizers, state, places = make_state(config, model, critic)
    together = config.rollout.samples if config.forward.share_prompts else 1
    ways = lm.mesh.shape["data"] * lm.mesh.shape["fsdp"]
    rows = config.rollout.prompts * config.rollout.samples
    samples = samples_together(rows // together, together, config.ppo.pieces, ways)
    folder = run.path
    run.claim()
    checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint.keep)
    meta = {
        "seed": config.seed,
        "config": run.settings,
        "identity": {"base": model.fingerprint, "problems": problems.fingerprint},
    }
    rounds = Rounds(
        config=config,
        folder=folder,
        agent=agent,
        weights=weights,
        places=places,
        sampler=Sampler(agent.definition, lm.mesh, tokenizer, _ends(lm.config), _pad(lm.config), agent.dtype),
        score=make_score(agent, config.ppo.pieces, samples),
        learner=Learner(agent, config.algorithm, config.ppo, optimizers, samples, places),
        problems=problems,
        pool=pool,
        tokenizer=tokenizer,
        checkpoints=checkpoints,
        meta=meta,
    )
    start = RoundState(0, state, config.ppo.kl.coefficient)
    if checkpoints.latest() is not None:
        start = rounds.restore(start)
    title = f"{config.algorithm}, curriculum {config.curriculum}, mask {config.mask}"
    with Recorder(
        folder,
        config.watch,
        steps=config.rounds,
        resume_at=start.round,
        main=distributed.is_main(),
        title=title,
    ) as recorder:
        recorder.say(f"{title}: {report(model)}; {problems.summary}; {config.rounds} rounds; {folder}")
        if start.round:
            recorder.say(f"resumed from round {start.round}")
        end = rounds.run(start, recorder)
        checkpoints.close()
        finished = end.round >= config.rounds
        said = "finished" if finished else "stopped; the same command resumes it"
        recorder.say(f"{title}: {said} at round {end.round}")
    trained = lm.weights._replace(trainable=end.state.policy)
    return Finished(dataclasses.replace(lm, weights=trained), end.round, finished, folder)


def _ends(model: Any) -> tuple[int, ...]:
    eos = model.eos_token_id
    return () if eos is None else (eos,) if isinstance(eos, int) else tuple(eos)


def _pad(model: Any) -> int:
    if model.pad_token_id is not None:
        return model.pad_token_id
    ends = _ends(model)
    return ends[0] if ends else 0
