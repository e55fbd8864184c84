"""Pretraining: every weight is trained to predict every token."""

from pathlib import Path

from training.runtime import distributed, run_folder
from training.runtime.pinned import pin
from training.runtime.run_folder import Finished
from training.supervised.config import PretrainConfig
from training.supervised.finish import finish
from training.supervised.train import train


def main(config: PretrainConfig) -> Finished:
    """Runs one pretraining config to its end, or until it is stopped."""
    distributed.start(config.distributed)
    config = pin(config, Path(config.output))
    with run_folder.open_run("pretrain", config) as run:
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
            title="pretrain",
        )
        if done.finished:
            finish(done, tokenizer, "hf" if config.export else None, plots=config.watch.plots)
    return done
