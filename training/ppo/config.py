"""The settings of a PPO run, section by section; training.ppo.train takes them apart."""

from dataclasses import dataclass, field
from typing import Literal

from jaxmoe.generation.sampling import Sampling
from jaxmoe.model.config import ExpertConfig
from rl.policy.agent import ForwardConfig
from rl.policy.algorithms import algorithm_named, settled
from rl.policy.config import RLConfig
from rl.policy.critic import Body
from rl.stepcoder.grading import MaskKind
from rl.stepcoder.rollouts import RolloutConfig
from training.ppo.problems import CurriculumConfig, ProblemsConfig, SandboxConfig
from training.runtime import config as configs
from training.runtime.checkpoint import CheckpointConfig
from training.runtime.distributed import DistributedConfig, MeshConfig
from training.runtime.metrics import WatchConfig
from training.runtime.model import AdapterKind, BaseDtype, LoraConfig, ModelSource, check_base_dtype
from training.runtime.optimizer import OptimizerConfig

# Low and constant, because what a policy learns from changes as it learns.
ACTOR = OptimizerConfig(lr=5e-7, schedule="constant")
CRITIC = OptimizerConfig(lr=1.5e-6, schedule="constant")
SAVING = CheckpointConfig(every=25)


@dataclass(frozen=True)
class CriticConfig:
    """The critic, for algorithm=ppo.

    Attributes:
      body: frozen reads the hidden states of the reference, experts has experts of its own on the frozen
        base, full is a whole model; null takes experts if an adapter is trained, else full.
      optimizer: of its head and body.

    Refused with an algorithm that trains no critic.
    """

    body: Body | None = None
    optimizer: OptimizerConfig = CRITIC


@dataclass(frozen=True)
class EvaluationConfig:
    """Measuring the policy on the held-out problems, posed as whole tasks.

    Attributes:
      every: rounds between two measurements, besides those before the first round and after the last; 0 for
        none.
      samples: programs per problem; pass@1 is the mean over them.
      temperature, top_p: of the sampler; temperature 0 is greedy.
      limit: measure only this many problems; null takes all held-out ones.
    """

    every: int = 25
    samples: int = 1
    temperature: float = 0.2
    top_p: float = 0.95
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ValueError(f"evaluation.every must not be negative; got {self.every}")
        if self.samples < 1:
            raise ValueError(f"evaluation.samples must be at least 1; got {self.samples}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"evaluation.limit must be at least 1, or null for all; got {self.limit}")
        try:
            _ = self.sampling
        except ValueError as error:
            raise ValueError(f"evaluation.{error}") from error

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn. Raises: ValueError for settings out of range."""
        return Sampling(self.temperature, 0, self.top_p)


@dataclass(frozen=True)
class PPORunConfig:
    """Reinforcement learning from compiler feedback.

    Attributes:
      output: folder of the run; the same command resumes what it finds there.
      base: checkpoint of the policy: a folder, .gguf file, named model or hub id.
      rounds: rounds of rollouts, each followed by ppo.epochs x ppo.minibatches steps.
      seed: of new experts, sampling and shuffling.
      resume: same resumes a run with the same settings and refuses any other; changed resumes with new
        settings; never requires a new folder.
      export: write the policy to OUTPUT/export when the run finishes.
      algorithm: ppo with a critic; reinforce++ without one; or grpo, rloo, reinforce++_baseline, dr_grpo,
        dapo, gspo or cispo, which compare the samples of a prompt. Each has its own settings in `ppo` and
        refuses those that it does not use.
      curriculum: cccs starts near the end of the canonical solutions, none always asks for whole programs.
      mask: fgo leaves tokens that no test executed out of the policy loss, response keeps them.
      adapter: loramoe or lora trains an adapter on the frozen base, none every weight.
      base_dtype: of the frozen base; int8 and nf4 quantize the kernels of attention and feed-forward and hold
        the rest in bfloat16. With adapter=none everything is float32.
    """

    __pydantic_config__ = configs.STRICT

    output: str
    base: str
    rounds: int
    seed: int = 0
    resume: Literal["same", "changed", "never"] = "same"
    export: bool = True
    algorithm: str = "ppo"
    curriculum: Literal["cccs", "none"] = "cccs"
    mask: MaskKind = "fgo"
    adapter: AdapterKind = "loramoe"
    base_dtype: BaseDtype = "float32"
    experts: ExpertConfig = field(default_factory=ExpertConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    problems: ProblemsConfig = field(default_factory=ProblemsConfig)
    cccs: CurriculumConfig = field(default_factory=CurriculumConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    ppo: RLConfig = field(default_factory=RLConfig)
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
        check_base_dtype(self.adapter, self.base_dtype)
        if self.optimizer.lr is None or self.critic.optimizer.lr is None:
            raise ValueError("optimizer.lr and critic.optimizer.lr must be numbers; got null")
        if self.lora.init != "kaiming":
            raise ValueError(
                "the reference policy is the base without its adapter, which "
                f"lora.init={self.lora.init} takes apart: take kaiming"
            )
        algorithm = algorithm_named(self.algorithm)
        # so the settings saved with a run are those used
        object.__setattr__(self, "ppo", settled(self.algorithm, self.ppo))
        if not algorithm.critic and self.critic != CriticConfig():
            raise ValueError(
                f"algorithm={self.algorithm} trains no critic and does not use the settings of `critic`: "
                "leave them out (ppo does)"
            )
        if self.body == "frozen" and self.ppo.kl.sync_every:
            raise ValueError(
                "critic.body=frozen reads the reference, which ppo.kl.sync_every would change under it; set "
                "critic.body=experts (with an adapter) or full"
            )
        if self.rollout.ahead and self.ppo.importance_cap is None:
            raise ValueError(
                "rollout.ahead=1 samples with weights that are a round old, and ppo.importance_cap=null "
                "switches off what corrects it; set a cap, such as 2"
            )
        if self.rollout.ahead and self.ppo.dynamic_sampling:
            raise ValueError(
                "rollout.ahead=1 makes one batch a round; got "
                f"ppo.dynamic_sampling={self.ppo.dynamic_sampling} (set one of them to 0)"
            )
        if algorithm.compares and self.rollout.samples < 2:
            raise ValueError(
                f"algorithm={self.algorithm} compares samples: rollout.samples must be at least 2"
            )
        if self.adapter == "none" and self.critic.body == "experts":
            raise ValueError("critic.body=experts needs an adapter; with adapter=none it is full or frozen")
        if self.adapter != "none" and self.critic.body == "full":
            raise ValueError("critic.body=full needs adapter=none; beside an adapter it is experts or frozen")

    @property
    def source(self) -> ModelSource:
        """The policy before the first round: the base with a new adapter."""
        return ModelSource(self.base, None, self.adapter, self.experts, self.lora, self.base_dtype, self.seed)

    @property
    def body(self) -> Body | None:
        """Where the critic's hidden states come from; None without a critic."""
        if not algorithm_named(self.algorithm).critic:
            return None
        return self.critic.body or ("full" if self.adapter == "none" else "experts")

    @property
    def stages(self) -> CurriculumConfig | None:
        """The curriculum's settings; None without one."""
        return self.cccs if self.curriculum == "cccs" else None
