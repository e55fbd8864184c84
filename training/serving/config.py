"""The settings of a server: the model, where it listens, and how much it does at a time."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from jaxmoe.generation.engine import EngineConfig
from jaxmoe.model.config import ModelConfig
from jaxmoe.model.quantized import QuantizedDtype
from jaxmoe.progress import say
from training.runtime import config as configs
from training.runtime import distributed
from training.runtime.distributed import DistributedConfig, MeshConfig
from training.runtime.given_models import check_run_or_base
from training.serving.served_model import ServingLimits


@dataclass(frozen=True)
class ServeConfig:
    """What to serve, where, and how much of it at a time.

    Attributes:
      run: output folder of a training run; or give base (and adapter) instead.
      step: checkpoint of the run; null takes the newest.
      base: checkpoint: a folder, GGUF file, named model or hub id.
      adapter: folder of an adapter for the base.
      adapters: several adapters for the base: their folders by the names that clients use; the base alone is
        NAME-base.
      name: what clients call the model; null takes the last part of its path. With experts, NAME uses them
        and NAME-base does not.
      host: address to listen on; any but this machine's own needs a key in JAXMOE_API_KEY.
      port: to listen on.
      dtype: of weights and products, with base.
      base_dtype: int8 and nf4 quantize the kernels of a base's attention and feed-forward; null holds them in
        dtype. A run keeps its own.
      most_waiting: requests that may wait for a slot before others are turned away.
      drain_s: seconds that requests in progress have left when the server is told to end.
    """

    __pydantic_config__ = configs.STRICT

    run: str | None = None
    step: int | None = None
    base: str | None = None
    adapter: str | None = None
    adapters: dict[str, str] = field(default_factory=dict[str, str])
    name: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    dtype: str = "float32"
    base_dtype: QuantizedDtype | None = None
    most_waiting: int = 256
    drain_s: int = 30
    engine: EngineConfig = field(default_factory=EngineConfig)
    limits: ServingLimits = field(default_factory=ServingLimits)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    @property
    def model_name(self) -> str:
        """What clients call the model."""
        return self.name or Path(str(self.run or self.adapter or self.base)).name

    @property
    def base_name(self) -> str:
        """What clients call the model without its experts."""
        return f"{self.model_name}-base"

    def __post_init__(self) -> None:
        check_run_or_base(self.run, self.step, self.base, adapter=self.adapter, base_dtype=self.base_dtype)
        if self.adapters and (self.base is None or self.adapter is not None):
            raise ValueError("adapters stand beside a base: give base, and neither run nor adapter")
        if self.base_name in self.adapters:
            raise ValueError(
                f"adapters.{self.base_name} has the name of the base alone (NAME-base); give the adapter "
                "another name, or set name"
            )
        if not 0 <= self.port < 65536:
            raise ValueError(f"port must lie in 0..65535; got {self.port}")
        if self.most_waiting < 0:
            raise ValueError(f"most_waiting must not be negative; got {self.most_waiting}")


def fitted(engine: EngineConfig, model: ModelConfig) -> EngineConfig:
    """The engine's settings for a model, which has no positions beyond its longest text; a change is said.

    Args:
      engine: as in the config.
      model: shape of the model to serve.
    Returns: the settings; a max_length that was left at its default is at most the model's longest text.
    Raises: ValueError for another max_length beyond it.
    """
    most = model.longest_text
    if most is None or engine.max_length <= most:
        return engine
    if engine.max_length != EngineConfig().max_length:
        raise ValueError(
            f"engine.max_length must be at most {most}, the positions of the model; got {engine.max_length}"
        )
    if distributed.is_main():
        say(f"engine.max_length={most}: the model has no more positions")
    return replace(engine, max_length=most)
