"""Fine-tuning on instructions: routed LoRA experts, plain LoRA or every weight, from one code path."""

from pathlib import Path

from training.runtime import distributed, run_folder
from training.runtime.pinned import pin
from training.runtime.run_folder import Finished
from training.supervised.config import SftConfig
from training.supervised.finish import FORMATS, finish
from training.supervised.train import train


def main(config: SftConfig) -> Finished:
    """Runs one fine-tuning config to its end, or until it is stopped."""
    distributed.start(config.distributed)
    config = pin(config, Path(config.output))
    with run_folder.open_run("sft", config) as run:
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
            title=f"sft, adapter {config.adapter}",
        )
        if done.finished:
            format = FORMATS[config.adapter] if config.export else None
            finish(done, tokenizer, format, plots=config.watch.plots)
    return done
