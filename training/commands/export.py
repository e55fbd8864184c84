"""A run folder's model again: to export it in any format, to generate from it, to evaluate it."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

import jaxmoe
from jaxmoe.language_model import Format, LanguageModel
from jaxmoe.model import params
from jaxmoe.tokenizer import load_tokenizer
from training.runtime import checkpoint, distributed
from training.runtime import config as configs
from training.runtime.checkpoint import Checkpoints
from training.runtime.distributed import DistributedConfig, MeshConfig
from training.runtime.model import TrainableModel
from training.runtime.run_folder import begun
from training.supervised import pretrain, sft
from training.supervised.pretrain import PretrainConfig
from training.supervised.sft import SftConfig


@dataclass(frozen=True)
class ExportConfig:
    """What to export, and how.

    Attributes:
      run: output folder of a pretraining or fine-tuning run; or base (and adapter) instead.
      step: checkpoint to take; null takes the newest.
      base: checkpoint, a folder or hub id.
      adapter: folder of a LoRAMoE, MoE-PEFT or PEFT adapter beside the base.
      output: folder to write; null is RUN/export-FORMAT.
      format: hf, a model that transformers loads (with experts by trust_remote_code); loramoe, peft or
        moe-peft, the adapter alone.
      merge: with format hf, add plain LoRA to the weights, so that any program loads the result.
      dtype: of exported base weights.
    """

    __pydantic_config__ = configs.STRICT

    run: str | None = None
    step: int | None = None
    base: str | None = None
    adapter: str | None = None
    output: str | None = None
    format: Format = "hf"
    merge: bool = False
    dtype: str = "float32"
    mesh: MeshConfig = field(default_factory=MeshConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    def __post_init__(self) -> None:
        if (self.run is None) == (self.base is None):
            raise ValueError("give either run (the folder of a training run) or base (a checkpoint)")
        if self.run is None and self.output is None:
            raise ValueError("give output, the folder to write")


def main(config: ExportConfig) -> Path:
    """Writes the export; returns its folder."""
    distributed.start(config.distributed)
    lm, tokenizer = open_model(
        config.run, config.step, config.base, config.adapter, config.mesh.make(), config.dtype
    )
    out = Path(config.output) if config.output else Path(str(config.run)) / f"export-{config.format}"
    with checkpoint.disk_full_explained(out):
        jaxmoe.save(lm, out, config.format, tokenizer=tokenizer, merge=config.merge)
    if distributed.is_main():
        print(f"wrote {out} ({config.format})")
    return out


def open_model(
    run: str | None,
    step: int | None,
    base: str | None,
    adapter: str | None,
    mesh: Mesh,
    dtype: str = "float32",
) -> tuple[LanguageModel, Any]:
    """A model and its tokenizer, from a run folder or from a base checkpoint with or without an adapter."""
    if run is not None:
        return load_run(Path(run), mesh, step)
    lm = jaxmoe.load(str(base), adapter, dtype, mesh)
    return lm, load_tokenizer(str(lm.source))


def load_run(folder: Path, mesh: Mesh, step: int | None = None) -> tuple[LanguageModel, Any]:
    """The model of a run at a checkpoint, and its tokenizer.

    Raises: ValueError if the folder holds no run, or not that checkpoint.
    """
    if not begun(folder) or not (folder / "config.yaml").exists():
        raise ValueError(f"{folder} is no run folder with a checkpoint (config.yaml and checkpoints/)")
    config, model, tokenizer = _model_of(folder, mesh)
    checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint.keep, read_only=True)
    steps = checkpoints.steps()
    chosen = steps[-1] if step is None else step
    if chosen not in steps:
        raise ValueError(f"{folder} has checkpoints {', '.join(map(str, steps))}; got step {step}")
    trainable, _ = params.shardings(model.abstract, mesh, model.train)
    restored = checkpoints.trainable(chosen, checkpoint.structure(model.lm.weights.trainable, trainable))
    checkpoints.close()
    balance = config.balance if isinstance(config, SftConfig) else model.lm.balance
    return replace(
        model.lm, weights=model.lm.weights._replace(trainable=restored), balance=balance
    ), tokenizer


def _model_of(folder: Path, mesh: Mesh) -> tuple[PretrainConfig | SftConfig, TrainableModel, Any]:
    """The model as the run started it."""
    values = configs.read(folder / "config.yaml")
    schema = SftConfig if "adapter" in values else PretrainConfig
    config = configs.parse(schema, values, str(folder / "config.yaml"))
    trained_here = folder / "tokenizer"
    place = trained_here if trained_here.is_dir() else config.data.tokenizer or config.base
    tokenizer = load_tokenizer(str(place))
    if isinstance(config, SftConfig):
        return config, sft.make_model(config, tokenizer, mesh), tokenizer
    return config, pretrain.make_model(config, tokenizer, mesh), tokenizer
