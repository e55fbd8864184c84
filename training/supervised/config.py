"""The settings of pretraining and fine-tuning: the config of a run, section by section.

Only a command's `main` sees a whole config; it hands each section to the room that needs it.
"""

from dataclasses import dataclass, field
from typing import Literal

from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.config import ExpertConfig, ModelConfig
from training.data.sources import DataConfig
from training.runtime import config as configs
from training.runtime.checkpoint import CheckpointConfig
from training.runtime.distributed import DistributedConfig, MeshConfig
from training.runtime.metrics import WatchConfig
from training.runtime.model import (
    AdapterKind,
    BaseDtype,
    LoraConfig,
    ModelSource,
    check_base_dtype,
    check_lora_start,
)
from training.runtime.optimizer import OptimizerConfig, settled
from training.supervised.step import StepConfig


@dataclass(frozen=True)
class RunConfig:
    """What every training run has.

    Attributes:
      output: folder of the run; the same command resumes what it finds there.
      steps: optimizer steps; null trains for data.epochs.
      seed: of new weights and dropout.
      resume: same resumes a run with the same settings and refuses any other; changed resumes with new
        settings; never requires a new folder.
      base: checkpoint to start from: a folder, .gguf file, named model or hub id; null makes a new model.
      resize_vocab: add rows to the base's embedding (each begins as the mean of the existing ones) if
        data.tokenizer has more tokens; false refuses such a tokenizer.
      model: shape of a new model; with a base, the shape it must have, so that `plan` need not read the base.
      valid_every: steps between two held-out losses on data.valid, the first before training; 0 for none.
      export: write what was trained to OUTPUT/export when the run finishes.
    """

    __pydantic_config__ = configs.STRICT

    output: str
    steps: int | None = None
    seed: int = 0
    resume: Literal["same", "changed", "never"] = "same"
    base: str | None = None
    resize_vocab: bool = False
    model: ModelConfig | None = None
    valid_every: int = 0
    export: bool = True
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    step: StepConfig = field(default_factory=StepConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)

    def __post_init__(self) -> None:
        if self.base is None and self.model is None:
            raise ValueError("give base (a checkpoint to start from) or model (the shape of a new one)")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1; got {self.steps}")
        if self.steps is None and self.data.epochs is None:
            raise ValueError("a run needs an end: give steps or data.epochs")
        if self.valid_every and not self.data.valid:
            raise ValueError(f"valid_every is {self.valid_every}, but data.valid names no data set")


@dataclass(frozen=True)
class PretrainConfig(RunConfig):
    """Train all weights of a new model, or of a base, on text.

    Attributes:
      init_std: standard deviation of a new model's weights; narrow models learn sooner from larger values.
    """

    init_std: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init_std <= 0:
            raise ValueError(f"init_std must be positive; got {self.init_std}")
        # so the settings saved with a run are those used
        object.__setattr__(self, "optimizer", settled(self.optimizer, self.base is not None))

    @property
    def source(self) -> ModelSource:
        """The model to train: every weight of it."""
        return ModelSource(
            self.base,
            self.model,
            "none",
            seed=self.seed,
            init_std=self.init_std,
            resize_vocab=self.resize_vocab,
        )

    @property
    def balance(self) -> BalanceConfig:
        """No losses on routers: there are none."""
        return BalanceConfig(weight=0.0)


@dataclass(frozen=True)
class SftConfig(RunConfig):
    """Fine-tune a base model on instructions.

    Attributes:
      adapter: loramoe trains the routed experts of `experts`, lora one pair without a router, none every
        weight.
      base_dtype: of the frozen base; int8 and nf4 quantize the kernels of attention and feed-forward and hold
        the rest in bfloat16. With adapter=none everything is float32.
    """

    adapter: AdapterKind = "loramoe"
    base_dtype: BaseDtype = "float32"
    experts: ExpertConfig = field(default_factory=ExpertConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    balance: BalanceConfig = field(default_factory=BalanceConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_base_dtype(self.adapter, self.base_dtype)
        check_lora_start(self.adapter, self.lora)
        whole_base = self.adapter == "none" and self.base is not None
        object.__setattr__(self, "optimizer", settled(self.optimizer, whole_base))  # as in pretraining

    @property
    def source(self) -> ModelSource:
        """The model to train: the base with its adapter."""
        return ModelSource(
            self.base,
            self.model,
            self.adapter,
            self.experts,
            self.lora,
            self.base_dtype,
            self.seed,
            resize_vocab=self.resize_vocab,
        )
