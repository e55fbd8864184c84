"""What a run leaves when it is over: an export that other programs load, and plots."""

from typing import Any

import jaxmoe
from jaxmoe.language_model import Format
from training.runtime import checkpoint, distributed
from training.runtime.run_folder import Finished
from training.supervised.config import RunConfig


def finish(config: RunConfig, done: Finished, tokenizer: Any, format: Format) -> None:
    """Exports a finished run to OUTPUT/export and draws its plots; a stopped run goes on later instead."""
    if not done.finished:
        return
    if config.export:
        with checkpoint.disk_full_explained(done.folder):
            jaxmoe.save(done.lm, done.folder / "export", format, tokenizer=tokenizer)
    if distributed.is_main() and config.watch.plots:
        from training.plots.plot_run import plot_run

        plot_run(done.folder)
