"""A run of pretraining or fine-tuning, from its config to what it leaves: one code path for both."""

from pathlib import Path

from training.data.sources import check_places
from training.runtime import distributed, run_folder
from training.runtime.model import say_idle
from training.runtime.pinned import pin
from training.runtime.run_folder import Finished
from training.supervised.config import PretrainConfig, SftConfig
from training.supervised.finish import FORMATS, finish
from training.supervised.train import train


def main(config: PretrainConfig | SftConfig, command: str, title: str) -> Finished:
    """Runs one config to its end, or until it is stopped.

    Args:
      config: of the run.
      command: whose run it is; noted in the run's folder.
      title: of its plots and of what it prints.
    Returns: the model as trained, and whether all steps were done.
    """
    distributed.start(config.distributed)
    check_places(config.data)
    if isinstance(config, SftConfig):
        say_idle(config.adapter, experts=config.experts, lora=config.lora, balance=config.balance)
    config = pin(config, Path(config.output))
    with run_folder.open_run(command, config) as run:
        done, tokenizer = train(
            run,
            config.source,
            config.mesh.make(),
            data=config.data,
            optimizer=config.optimizer,
            step=config.step,
            balance=config.balance,
            checkpoint=config.checkpoint,
            watch=config.watch,
            steps=config.steps,
            valid_every=config.valid_every,
            title=title,
        )
        if done.finished:
            format = FORMATS[config.source.adapter] if config.export else None
            finish(done, tokenizer, format, plots=config.watch.plots)
    return done
