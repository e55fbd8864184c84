"""Write a trained model for other programs: Hugging Face folders, or LoRAMoE, MoE-PEFT and PEFT adapters."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jax.sharding import Mesh

import jaxmoe
from jaxmoe.averaging import averaged
from jaxmoe.export import Format, check_merge
from jaxmoe.given_paths import check_writable, given
from jaxmoe.json_values import JsonObject
from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params
from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.quantized import QuantizedDtype
from jaxmoe.progress import say
from jaxmoe.text.thinking import Thinking
from jaxmoe.text.vocabulary import check_vocabulary
from jaxmoe.tokenizer import load_tokenizer
from training.ppo.config import PPORunConfig
from training.runtime import checkpoint, distributed, run_folder
from training.runtime import config as configs
from training.runtime.checkpoint import Checkpoints
from training.runtime.distributed import DistributedConfig, MeshConfig
from training.runtime.given_models import check_base, check_named_adapter, check_run_or_base
from training.runtime.model import ModelSource, make_model
from training.supervised.config import PretrainConfig, SftConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ExportConfig:
    """What to export, and how.

    Attributes:
      run: output folder of a pretraining, fine-tuning or PPO run; or give base (and adapter) instead.
      step: checkpoint to take; null takes the newest.
      base: checkpoint: a folder, .gguf file, named model or hub id.
      adapter: folder of a LoRAMoE, MoE-PEFT or PEFT adapter for the base.
      output: folder to write; null means RUN/export-FORMAT.
      format: hf writes a model that transformers loads (with experts by trust_remote_code); loramoe, peft and
        moe-peft write the adapter alone.
      merge: with format hf, add plain LoRA to the weights, so that any program loads the result.
      average: share of the change made by training that is kept (WiSE-FT, jaxmoe.averaging); 1 is the model
        as it was trained. A smaller share keeps more of what the base knew.
      dtype: of exported base weights, with base; a run keeps its own.
    """

    __pydantic_config__ = configs.STRICT

    run: str | None = None
    step: int | None = None
    base: str | None = None
    adapter: str | None = None
    output: str | None = None
    format: Format = "hf"
    merge: bool = False
    average: float = 1.0
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    mesh: MeshConfig = field(default_factory=MeshConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    def __post_init__(self) -> None:
        check_run_or_base(self.run, self.step, self.base, adapter=self.adapter)
        if self.run is None and self.output is None:
            raise ValueError("give output, the folder to write")
        check_merge(self.format, self.merge)
        if not 0 <= self.average <= 1:
            raise ValueError(f"average must lie in [0, 1]; got {self.average}")
        if self.run is not None and self.dtype != "float32":
            raise ValueError("dtype goes with base; a run has its own")
        if self.average != 1 and self.run is None:
            raise ValueError("average is of what a run changed: give run, the folder of one")


def main(config: ExportConfig) -> Path:
    """Writes the export; returns its folder."""
    distributed.start(config.distributed)
    mesh = config.mesh.make()
    if config.output is not None:
        check_writable("output", config.output, "folder")
    if config.run is not None:
        check_run(config.run)
        lm, tokenizer = load_run(Path(config.run), mesh, config.step, average=config.average)
    else:
        lm, tokenizer = open_model(None, None, config.base, config.adapter, mesh, config.dtype)
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
    base_dtype: QuantizedDtype | None = None,
) -> tuple[LanguageModel, "PreTrainedTokenizerBase"]:
    """A model and its tokenizer, from a run folder or from a base checkpoint with or without an adapter.

    Args:
      run: a run's folder; None takes the base.
      step: of the run's checkpoint; None takes the newest.
      base: folder, .gguf file, named model or hub id, read if there is no run.
      adapter: local folder or hub id; None for the base alone.
      dtype: of a base's weights; a run's weights keep the dtype of the run.
      base_dtype: of a base's kernels, if they are to be quantized.
    Returns: the model on the mesh, and its tokenizer.
    Raises: ValueError if the run or the checkpoint is missing, the base is the folder of a run, or the model
      has no rows for some of the tokenizer's tokens.
    """
    if run is not None:
        check_run(run)
        lm, tokenizer = load_run(Path(run), mesh, step)
        if np.dtype(dtype) not in (np.dtype(np.float32), np.dtype(lm.dtype)):
            say(f"dtype={dtype} is of a base; a run keeps its own, {np.dtype(lm.dtype).name}")
        return lm, tokenizer
    check_base("base", str(base))
    if adapter is not None:
        check_named_adapter("adapter", adapter)
    lm = jaxmoe.load(str(base), adapter, dtype, mesh, base_dtype=base_dtype)
    tokenizer = load_tokenizer(str(lm.source))
    check_vocabulary(tokenizer, lm.config.vocab_size)
    return lm, tokenizer


class SavedRun(NamedTuple):
    """What a run folder says about the model that was trained there.

    Attributes:
      source: what the model was made from.
      balance: losses on its routers, which an adapter's file names.
      tokenizer: folder or hub id.
      form: of the prompts (jaxmoe.text.forms); text if the model learned plain text.
      plain_form: what auto stands for if the tokenizer has no chat template.
      thinking: what became of an assistant's thinking.
    """

    source: ModelSource
    balance: BalanceConfig
    tokenizer: str
    form: str
    plain_form: str
    thinking: Thinking


def read_run(folder: Path) -> SavedRun:
    """Reads a run folder according to the command that made it.

    Raises: ValueError if it is not a run folder, or its command trains nothing.
    """
    command = run_folder.command_of(folder)
    where = str(folder / "config.yaml")
    values = configs.read(folder / "config.yaml")
    trained_here = folder / "tokenizer"
    form, plain_form, thinking = "text", "text", "template"
    match command:
        case "pretrain" | "sft":
            schema = PretrainConfig if command == "pretrain" else SftConfig
            config = configs.parse(schema, values, where)
            balance = config.balance
            tokenizer = trained_here if trained_here.is_dir() else config.data.tokenizer or config.base
            thinking = config.data.thinking
            if command == "sft":
                form, plain_form = config.data.form, "instruction"
        case "ppo":
            config = configs.parse(PPORunConfig, values, where)
            balance, tokenizer = BalanceConfig(), config.base
            # a problem posed as code to continue is the beginning of a text
            form = "text" if config.rollout.form == "completion" else config.rollout.form
        case _:
            raise ValueError(f"{folder} must be the folder of pretrain, sft or ppo; got one of {command}")
    return SavedRun(config.source, balance, str(tokenizer), form, plain_form, thinking)


def check_run(run: str) -> None:
    """Checks that `run` of a config is the folder of a run with a checkpoint; no weights are read.

    Args:
      run: folder, as it was given.
    Raises: ValueError, in one line that names the key, if it is not.
    """
    folder = Path(run)
    with given("run", run, "folder"):
        read_run(folder)
        if not run_folder.begun(folder):
            raise ValueError(f"{run} has no checkpoint yet")


def load_run(
    folder: Path, mesh: Mesh, step: int | None = None, *, average: float = 1.0
) -> tuple[LanguageModel, "PreTrainedTokenizerBase"]:
    """The model of a run at a checkpoint, and its tokenizer.

    Args:
      step: of the checkpoint; None takes the newest.
      average: share of the change made by training that is kept.
    Returns: the model on the mesh, whatever mesh it was trained on, and the run's tokenizer.
    Raises: ValueError if the folder holds no run, or not that checkpoint; if weights that the run takes from
      its base have changed since; for an average without a base.
    """
    saved = read_run(folder)
    if not run_folder.begun(folder):
        raise ValueError(f"{folder} has no checkpoint yet")
    tokenizer = load_tokenizer(saved.tokenizer)
    model = make_model(saved.source, tokenizer, mesh)
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    steps = checkpoints.steps()
    chosen = steps[-1] if step is None else step
    if chosen not in steps:  # also if it is damaged, which has been reported
        raise ValueError(f"{folder} has checkpoints {', '.join(map(str, steps))}; got step {step}")
    if model.train == "experts" or average != 1:
        _check_same_base(folder, saved.source.base, checkpoints.meta(chosen), model.fingerprint)
    trainable, _ = params.shardings(model.abstract, mesh, model.train)
    restored = checkpoints.trainable(chosen, checkpoint.structure(model.lm.weights.trainable, trainable))
    checkpoints.close()
    weights = model.lm.weights._replace(trainable=restored)
    lm = replace(model.lm, weights=weights, balance=saved.balance)
    if average == 1:
        return lm, tokenizer
    if saved.source.base is None:
        raise ValueError(f"average needs a base to begin at; {folder} trained a new model")
    if saved.source.adapter == "lora" and saved.source.lora.init != "kaiming":
        raise ValueError(
            f"no share can be taken of an update that started at lora.init={saved.source.lora.init}"
        )
    return averaged(lm, average, model.lm), tokenizer


def _check_same_base(folder: Path, base: str | None, meta: JsonObject, now: str | None) -> None:
    """Raises ValueError if the frozen base of a run is no longer the one that its adapter was trained on."""
    then = meta.get("identity", {}).get("base")  # early checkpoints do not say
    if then is not None and not checkpoint.is_same_base(then, now):
        raise ValueError(
            f"{folder} was trained on other weights than {base} holds now (fingerprint {then:.12} then, "
            f"{now or 'none':.12} now); restore the base, or train the run anew with another output=..."
        )
