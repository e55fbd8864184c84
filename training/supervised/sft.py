"""Fine-tuning on instructions: routed LoRA experts, plain LoRA or every weight, from one code path."""

from dataclasses import dataclass, field
from typing import Any

from jax.sharding import Mesh

from jaxmoe.language_model import Format
from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.config import ExpertConfig
from training.runtime import distributed, run_folder
from training.runtime.model import (
    AdapterKind,
    BaseDtype,
    LoraConfig,
    TrainableModel,
    adapter_experts,
    load_model,
    new_model,
)
from training.runtime.run_folder import Finished
from training.supervised import train
from training.supervised.config import RunConfig
from training.supervised.finish import finish


@dataclass(frozen=True)
class SftConfig(RunConfig):
    """Fine-tune a base model on instructions.

    Attributes:
      adapter: loramoe trains the routed experts of `experts`, lora one pair without a router, none every
        weight.
      base_dtype: of the frozen base; with adapter=none everything is float32.
    """

    adapter: AdapterKind = "loramoe"
    base_dtype: BaseDtype = "float32"
    experts: ExpertConfig = field(default_factory=ExpertConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    balance: BalanceConfig = field(default_factory=BalanceConfig)


FORMATS: dict[AdapterKind, Format] = {"loramoe": "loramoe", "lora": "peft", "none": "hf"}


def main(config: SftConfig) -> Finished:
    """Runs one fine-tuning config to its end, or until it is stopped."""
    distributed.start(config.distributed)
    mesh = config.mesh.make()
    folder = run_folder.open_folder(config)
    tokenizer = train.tokenizer(config, folder)
    model = make_model(config, tokenizer, mesh)
    done = train.train(config, folder, model, tokenizer, config.balance, f"sft, adapter {config.adapter}")
    finish(config, done, tokenizer, FORMATS[config.adapter])
    return done


def make_model(config: SftConfig, tokenizer: Any, mesh: Mesh) -> TrainableModel:
    """The base with the adapter of the config beside it."""
    if config.base is not None:
        return load_model(
            config.base,
            config.adapter,
            config.experts,
            config.lora,
            mesh,
            seed=config.seed,
            base_dtype=config.base_dtype,
            expected=config.model,
        )
    assert config.model is not None  # checked by RunConfig
    shape = train.shaped_for(tokenizer, config.model)
    experts = adapter_experts(config.adapter, config.experts, config.lora, shape)
    return new_model(shape, experts, mesh, seed=config.seed, base_dtype=config.base_dtype)
