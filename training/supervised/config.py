"""What every supervised run is told."""

from dataclasses import dataclass, field
from typing import Literal

from jaxmoe.model.config import ModelConfig
from training.data.sources import DataConfig
from training.runtime import config as configs
from training.runtime.checkpoint import CheckpointConfig
from training.runtime.distributed import DistributedConfig, MeshConfig
from training.runtime.metrics import WatchConfig
from training.runtime.optimizer import OptimizerConfig
from training.supervised.step import StepConfig


@dataclass(frozen=True)
class RunConfig:
    """What every training run has.

    Attributes:
      output: folder of the run; the same command goes on with what it finds there.
      steps: optimizer steps; null trains for data.epochs.
      seed: of new weights and dropout.
      resume: same goes on with a run of the same settings and refuses another; changed goes on with new
        settings; never wants a new folder.
      base: checkpoint to start from, a local folder or hub id; null makes a new model.
      model: shape of a new model; beside a base, the shape it must have, so that `plan` need not read it.
      valid_every: steps between two held-out losses on data.valid; 0 for none.
      export: write what was trained to OUTPUT/export when the run is finished.
    """

    __pydantic_config__ = configs.STRICT

    output: str
    steps: int | None = None
    seed: int = 0
    resume: Literal["same", "changed", "never"] = "same"
    base: str | None = None
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
