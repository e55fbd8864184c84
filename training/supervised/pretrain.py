"""Pretraining: every weight is trained to predict every token."""

from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.config import ExpertConfig
from training.runtime import distributed, run_folder
from training.runtime.model import LoraConfig, TrainableModel, load_model, new_model
from training.runtime.run_folder import Finished
from training.supervised import train
from training.supervised.config import RunConfig
from training.supervised.finish import finish


@dataclass(frozen=True)
class PretrainConfig(RunConfig):
    """Train all weights of a new model, or of a base, on text.

    Attributes:
      init_std: standard deviation of a new model's weights; narrow models learn sooner from larger ones.
    """

    init_std: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init_std <= 0:
            raise ValueError(f"init_std must be positive; got {self.init_std}")


def main(config: PretrainConfig) -> Finished:
    """Runs one pretraining config to its end, or until it is stopped."""
    distributed.start(config.distributed)
    mesh = config.mesh.make()
    folder = run_folder.open_folder(config)
    tokenizer = train.tokenizer(config, folder)
    model = make_model(config, tokenizer, mesh)
    done = train.train(config, folder, model, tokenizer, BalanceConfig(weight=0.0), "pretrain")
    finish(config, done, tokenizer, "hf")
    return done


def make_model(config: PretrainConfig, tokenizer: Any, mesh: Mesh) -> TrainableModel:
    """A new model, or the base; every weight trainable."""
    if config.base is not None:
        return load_model(config.base, "none", ExpertConfig(), LoraConfig(), mesh, expected=config.model)
    assert config.model is not None  # checked by RunConfig
    shape = train.shaped_for(tokenizer, config.model)
    return new_model(shape, None, mesh, seed=config.seed, std=config.init_std)
