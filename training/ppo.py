"""PPO on a code model from compiler feedback: the paper's four rows, and GRPO and RLOO, from one code path.

curriculum=none mask=response is plain PPO; cccs and fgo add StepCoder's two parts, alone or together.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import jaxmoe
from jaxmoe import params
from jaxmoe.config import ExpertConfig
from jaxmoe.tokenizer import load_tokenizer
from rl.agent import Agent, ForwardConfig, Weights, make_score, samples_together
from rl.critic import Body, CriticParams, new_critic
from rl.ppo import AgentState, Algorithm, Learner, PPOConfig
from rl.rollouts import MaskKind, RolloutConfig, Sampler
from training import checkpoint, distributed, run
from training import config as configs
from training.checkpoint import CheckpointConfig, Checkpoints
from training.distributed import DistributedConfig, MeshConfig
from training.metrics import Recorder, WatchConfig
from training.model import Adapter, BaseDtype, LoraConfig, Model, load_model, report
from training.optimizer import OptimizerConfig, decayed, make_optimizer, optimizer_shardings
from training.ppo_problems import CurriculumConfig, ProblemsConfig, ProblemSet, SandboxConfig, open_problems
from training.ppo_rounds import EvaluationConfig, Rounds, RoundState
from training.run import Finished
from training.sft import FORMATS

# A policy moves slowly, and at one rate: what it learns from changes as it learns.
ACTOR = OptimizerConfig(lr=5e-7, schedule="constant")
CRITIC = OptimizerConfig(lr=1.5e-6, schedule="constant")
SAVING = CheckpointConfig(every=25)


@dataclass(frozen=True)
class CriticConfig:
    """The critic, for algorithm=ppo.

    Attributes:
      body: frozen reads the hidden states of the reference, experts has experts of its own on the frozen
        base, full is a whole model; null takes experts where adapters are trained, else full.
      optimizer: of its head and body.
    """

    body: Body | None = None
    optimizer: OptimizerConfig = CRITIC


@dataclass(frozen=True)
class PpoConfig:
    """Reinforcement learning from compiler feedback.

    Attributes:
      output: folder of the run; the same command goes on with what it finds there.
      base: checkpoint of the policy, a local folder or hub id.
      rounds: of rollouts; each is followed by ppo.epochs x ppo.minibatches steps.
      seed: of new experts, sampling and orders.
      resume: same goes on with a run of the same settings and refuses another; changed goes on with new
        settings; never wants a new folder.
      export: write the policy to OUTPUT/export when the run is finished.
      algorithm: ppo with a critic, or grpo or rloo, which compare the samples of a prompt.
      curriculum: cccs starts near the end of the canonical solutions, none always asks for whole programs.
      mask: fgo leaves tokens that no test executed out of the policy's loss, response keeps them.
      adapter: loramoe or lora trains an adapter on the frozen base, none every weight.
      base_dtype: of the frozen base; with adapter=none everything is float32.
    """

    __pydantic_config__ = configs.STRICT

    output: str
    base: str
    rounds: int
    seed: int = 0
    resume: Literal["same", "changed", "never"] = "same"
    export: bool = True
    algorithm: Algorithm = "ppo"
    curriculum: Literal["cccs", "none"] = "cccs"
    mask: MaskKind = "fgo"
    adapter: Adapter = "loramoe"
    base_dtype: BaseDtype = "float32"
    experts: ExpertConfig = field(default_factory=ExpertConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    problems: ProblemsConfig = field(default_factory=ProblemsConfig)
    cccs: CurriculumConfig = field(default_factory=CurriculumConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    optimizer: OptimizerConfig = ACTOR
    critic: CriticConfig = field(default_factory=CriticConfig)
    forward: ForwardConfig = field(default_factory=ForwardConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    checkpoint: CheckpointConfig = SAVING
    watch: WatchConfig = field(default_factory=WatchConfig)

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1; got {self.rounds}")
        if self.algorithm != "ppo" and self.rollout.samples < 2:
            raise ValueError(
                f"algorithm={self.algorithm} compares samples: rollout.samples must be at least 2"
            )
        if self.adapter == "none" and self.critic.body == "experts":
            raise ValueError("critic.body=experts needs an adapter; with adapter=none it is full or frozen")
        if self.adapter != "none" and self.critic.body == "full":
            raise ValueError("critic.body=full needs adapter=none; beside an adapter it is experts or frozen")

    @property
    def body(self) -> Body:
        """Where the critic's hidden states come from."""
        return self.critic.body or ("full" if self.adapter == "none" else "experts")


def main(config: PpoConfig) -> Finished:
    """Runs one config to its end, or until it is stopped."""
    distributed.start(config.distributed)
    mesh = config.mesh.make()
    folder = run.open_folder(config)
    tokenizer = load_tokenizer(config.base)
    with config.sandbox.pool(trace=config.mask == "fgo") as pool:
        problems = open_problems(
            config.problems, pool, config.curriculum, config.cccs, config.rollout, tokenizer
        )
        model = load_policy(config, mesh)
        done = train(config, folder, model, tokenizer, problems, pool)
    if done.finished:
        finish(config, done, tokenizer)
    return done


def load_policy(config: PpoConfig, mesh: Mesh) -> Model:
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


def make_agent(config: PpoConfig, model: Model) -> tuple[Agent, Weights, CriticParams | None]:
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
    config: PpoConfig, model: Model, critic: CriticParams | None
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
    config: PpoConfig, folder: Path, model: Model, tokenizer: Any, problems: ProblemSet, pool: Any
) -> Finished:
    """All rounds, from the last checkpoint if the run folder has one."""
    lm = model.lm
    agent, weights, critic = make_agent(config, model)
    optimizers, state, places = make_state(config, model, critic)
    together = config.rollout.samples if config.forward.share_prompts else 1
    ways = lm.mesh.shape["data"] * lm.mesh.shape["fsdp"]
    rows = config.rollout.prompts * config.rollout.samples
    samples = samples_together(rows // together, together, config.ppo.pieces, ways)
    run.claim(config, folder)
    checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint.keep)
    meta = {
        "seed": config.seed,
        "config": configs.to_dict(config),
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
            recorder.say(f"going on from round {start.round}")
        end = rounds.run(start, recorder)
        checkpoints.close()
        finished = end.round >= config.rounds
        said = "finished" if finished else "stopped; the same command goes on"
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


def finish(config: PpoConfig, done: Finished, tokenizer: Any) -> None:
    """Exports the policy and draws the plots."""
    if config.export:
        with checkpoint.disk_full_explained(done.folder):
            jaxmoe.save(done.lm, done.folder / "export", FORMATS[config.adapter], tokenizer=tokenizer)
    if distributed.is_main() and config.watch.plots:
        from training.plots import plot_run

        plot_run(done.folder)
